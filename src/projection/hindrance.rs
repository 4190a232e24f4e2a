//! Why a SQLite file does not open: a look at the file system, because SQLite's own errors are only
//! numbers.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Result, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use skytrail_actors::log::folder_of;

use super::sqlite::part;

/// SQLite needs this much before it has written anything: the index of its write-ahead file.
const PROBE_BYTES: usize = 64 << 10;

/// Returns what hinders SQLite from opening a file, if anything does. To be called after it failed.
pub(crate) fn find_hindrance(path: &Path) -> Option<String> {
    // None of the files is opened: closing it would release SQLite's locks on it.
    let files = ["", "-wal", "-shm"].map(|ending| part(path, ending));
    let closed = files.iter().find_map(|file| closed_to_us(file));
    closed.or_else(|| write_probe(folder_of(path)))
}

fn closed_to_us(file: &Path) -> Option<String> {
    let about = file.metadata().ok()?;
    let error = access(file, Access::READ_OK | Access::WRITE_OK).err()?;
    let (mode, owner) = (about.mode() & 0o7777, about.uid());
    Some(format!(
        "{} cannot be written: {error}; its mode is {mode:04o}, its owner is the user {owner}, \
         and this process runs as the user {}",
        file.display(),
        rustix::process::geteuid().as_raw()
    ))
}

/// Writes a small file in the folder and removes it; returns why that failed.
fn write_probe(folder: &Path) -> Option<String> {
    let path = folder.join(format!(".probe-{}", std::process::id()));
    let write = || -> Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    };
    let error = write().err();
    if !matches!(&error, Some(error) if error.kind() == ErrorKind::AlreadyExists) {
        let _ = std::fs::remove_file(&path);
    }
    let error = error?;
    let folder = folder.display();
    if error.kind() != ErrorKind::StorageFull {
        return Some(format!("no file can be written in {folder}: {error}"));
    }
    let about = statvfs(path.parent()?).ok()?;
    if about.f_files > 0 && about.f_favail == 0 {
        return Some(format!(
            "the file system of {folder} has no inodes left (df -i)"
        ));
    }
    let free_bytes = about.f_bavail.saturating_mul(about.f_frsize);
    Some(format!(
        "the file system of {folder} is full: {free_bytes} bytes are free, and a start needs about \
         1 MiB"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usable_folder_hinders_nothing_and_keeps_no_probe() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find_hindrance(&folder.path().join("x.sqlite")), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = folder.path().join("missing/x.sqlite");
        let found = find_hindrance(&missing).unwrap();
        assert!(found.contains("No such file"), "{found}");
    }
}
