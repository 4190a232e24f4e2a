//! How the program is linked.

use std::env;
use std::process::Command;

/// The first version of the C library that starts programs with packed relocations.
const PACKED: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The program moves to another address with each start, and all that it notes for that is read then.
    // Packed it is a fiftieth: 1.5 MiB less in the file and in memory. Only for a machine like this one:
    // an older C library refuses such a program.
    #[expect(
        clippy::disallowed_methods,
        reason = "how a build script is told for what it builds"
    )]
    let is_for_here = env::var("HOST") == env::var("TARGET");
    if is_for_here && glibc().is_some_and(|version| version >= PACKED) {
        println!("cargo::rustc-link-arg-bin=skytrail=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's C library, if that is glibc.
fn glibc() -> Option<(u32, u32)> {
    let asked = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let answer = String::from_utf8(asked.ok()?.stdout).ok()?;
    let (major, minor) = answer.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
