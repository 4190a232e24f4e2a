//! Durable folders and small files.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Creates a data folder if it does not exist, for its owner only. An existing folder keeps its
/// mode.
///
/// # Errors
/// The folder cannot be created.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(_) if folder.is_dir() => Ok(()),
        made => made,
    }
}

/// Writes a file atomically, readable by its owner only; it is durable when this returns.
///
/// # Errors
/// The file cannot be written; its previous content is kept.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(folder_of(path))
}

/// Returns the folder that a file is in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes the names in a folder durable: those of files that were created, renamed or removed.
///
/// # Errors
/// The device failed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates a folder and its missing parents, each as the builder says, durably.
///
/// # Errors
/// The folder cannot be created, for example because a file has its name.
pub fn make_folders(builder: &DirBuilder, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder);
    make_folders(builder, above)?;
    match builder.create(folder) {
        // Another process may have created the folder; a file does not count.
        Err(error) if !folder.is_dir() => Err(error),
        _ => sync_folder(above),
    }
}
