//! Looking for bytes in files.

use std::path::{Path, PathBuf};

/// Returns the files below a folder that have some text in them. Nothing that the server writes is
/// compressed: data folders and backups are looked at as they are.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let finder = memchr::memmem::Finder::new(text);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // One that has gone meanwhile has nothing any more.
            let bytes = std::fs::read(&path).unwrap_or_default();
            if finder.find(&bytes).is_some() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
