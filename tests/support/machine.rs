//! What some tests need of the machine: mounts, strace. Tests report when it is not available.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Reports that a test was not run, bypassing the test harness's capture; `tests/run.sh` counts
/// these.
pub fn skipped(what: &str, why: &str) {
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "skipped: {what}: {why}");
}

/// Runs a command; fails with its output.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {said}", arguments.join(" ")))
}

/// Returns the library that shows a process another time, if this machine has it.
pub fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut libraries = folders.map(|it| it.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.find(|library| library.exists())?;
    Some(found.to_string_lossy().into_owned())
}

/// Returns the path of strace if it is installed and permitted to trace.
pub fn strace() -> Result<String, String> {
    let path = run("sh", &["-c", "command -v strace"]).map_err(|_| "strace is not installed")?;
    let path = path.trim().to_owned();
    run(&path, &["-e", "trace=none", "true"])?;
    Ok(path)
}

/// A file system that is unmounted when dropped.
pub struct Mount {
    folder: PathBuf,
}

impl Mount {
    /// A file system in memory, with a fixed size.
    pub fn memory(folder: &Path, size: &str) -> Result<Self, String> {
        let options = format!("size={size}");
        Self::attach(folder, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// The file system in an image file. For minutes only a flush writes to the image: the file
    /// system's own commit interval is set that long.
    pub fn image(folder: &Path, image: &Path) -> Result<Self, String> {
        let image = image.to_string_lossy();
        Self::attach(folder, &["-o", "loop,commit=300", &image])
    }

    fn attach(folder: &Path, arguments: &[&str]) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let path = folder.to_string_lossy().into_owned();
        run("mount", &[arguments, &[&path]].concat())?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Uses up all space except `left_bytes`.
    pub fn fill_but(&self, left_bytes: usize) {
        let spared = self.folder.join("spared");
        std::fs::write(&spared, vec![1; left_bytes]).unwrap();
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        for size in [1 << 20, 1 << 12] {
            while ballast.write_all(&vec![1; size]).is_ok() {}
        }
        std::fs::remove_file(spared).unwrap();
    }

    /// Frees the space again.
    pub fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let path = self.folder.to_string_lossy().into_owned();
        if let Err(error) = run("umount", &[&path]) {
            eprintln!("{error}");
        }
    }
}

/// Creates an image file with an empty ext4 file system.
pub fn make_image(path: &Path, megabytes: u64) -> Result<(), String> {
    let file = std::fs::File::create(path).map_err(|error| error.to_string())?;
    file.set_len(megabytes << 20)
        .map_err(|error| error.to_string())?;
    run("mkfs.ext4", &["-q", "-F", &path.to_string_lossy()]).map(drop)
}

/// Returns the resident memory of a process, in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() << 10
}

/// Reads a number from the test's environment.
#[expect(
    clippy::disallowed_methods,
    reason = "how long to run is the caller's choice"
)]
pub fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}
