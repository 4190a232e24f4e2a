//! Searches files for bytes.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use memchr::memmem::{self, Finder};

/// The first bytes of compressed data.
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

/// Returns the files below a folder that contain a text, plain or compressed: sled's files hold
/// chunks of the log, including chunks that sled has freed.
pub fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let finder = Finder::new(text);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // A file that has been deleted meanwhile contains nothing.
            let bytes = std::fs::read(&path).unwrap_or_default();
            if finder.find(&bytes).is_some() || has_compressed(&bytes, &finder) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Returns whether some compressed data contains a text, wherever that data begins and even if its
/// end is missing.
fn has_compressed(bytes: &[u8], finder: &Finder<'_>) -> bool {
    memmem::find_iter(bytes, &ZSTD).any(|at| {
        let mut plain = Vec::new();
        if let Ok(decoder) = zstd::Decoder::with_buffer(&bytes[at..]) {
            let _ = decoder
                .single_frame()
                .take(32 << 20)
                .read_to_end(&mut plain);
        }
        finder.find(&plain).is_some()
    })
}
