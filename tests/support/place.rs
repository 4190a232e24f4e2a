//! A folder of a test's own, in which the program is started without the test's environment.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which the program is started.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn with(name: &str, text: impl AsRef<[u8]>) -> Self {
        let place = Self::new();
        place.write(name, text);
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns the result of `skytrail config` here: its exit code, the settings, and the
    /// complaints.
    pub fn config(
        &self,
        environment: &[(&str, &OsStr)],
        flags: &[&str],
    ) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().current_dir(self.path());
        command.envs(environment.iter().copied());
        let output = command.arg("config").args(flags).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (code, shown, said) = (output.status.code(), &output.stdout, &output.stderr);
        (code, text(shown), text(said))
    }

    /// Returns the complaint of a command that fails here; the words in `before` start the program.
    pub fn failing(&self, before: &[&str], arguments: &[&str]) -> String {
        let mut words = before.to_vec();
        words.push(env!("CARGO_BIN_EXE_skytrail"));
        words.extend(arguments);
        let mut command = Command::new(words[0]);
        command.env_clear().current_dir(self.path());
        let output = command.args(&words[1..]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}
