//! The published v1 packages as clients, unmodified: the JavaScript SDK in node and in a browser,
//! the container API of the Python SDK.

mod browser;
mod container;
mod javascript;
mod plugin;
mod report;

use std::path::{Path, PathBuf};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns something that the set-up makes, or says how to make it.
fn set_up(path: &str) -> PathBuf {
    let path = repository(path);
    assert!(path.exists(), "no {path:?}: run tests/run.sh --setup once");
    path
}
