//! A disk with slower flushes than the machine's, for both our server and the bare one: how much of
//! a rate depends on the disk, and what would it be with another?

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("slow_flush.c");

/// The library that is loaded before a server's C library.
pub(crate) struct Slow {
    library: PathBuf,
    micros: u64,
}

impl Slow {
    /// Compiles it into a directory, with the C compiler that building the server needs anyway.
    pub(crate) fn build(dir: &Path, micros: u64) -> Self {
        let (source, library) = (dir.join("slow_flush.c"), dir.join("slow_flush.so"));
        std::fs::write(&source, SOURCE).expect("the source can be written");
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-shared", "-fPIC", "-o"]);
        let compiled = compiler.arg(&library).arg(&source).arg("-ldl").status();
        assert!(compiled.expect("a C compiler").success());
        Self { library, micros }
    }

    /// Makes a server that is about to be started flush slowly.
    pub(crate) fn apply(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("FLUSH_US", self.micros.to_string());
    }
}
