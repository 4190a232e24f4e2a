//! Changes of the plugin's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// Editors and version control change several files at once, or one several times.
const SETTLE: Duration = Duration::from_millis(200);
/// Folders that change without anybody having written code.
const IGNORED: [&str; 7] = [
    ".git",
    ".venv",
    "__pycache__",
    "node_modules",
    "target",
    ".mypy_cache",
    ".pytest_cache",
];

/// Changes, for whoever follows them at the moment.
pub(super) type Changes = Arc<Mutex<mpsc::Receiver<PathBuf>>>;

/// Watches folders and files, for as long as the first of what it returns is kept.
///
/// # Errors
/// One of them is not there, or the system has no more watches.
pub(super) fn begin(
    paths: &[PathBuf],
    data_dir: &Path,
) -> Result<(RecommendedWatcher, Changes), String> {
    let (sender, changes) = mpsc::channel(64);
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let paths: Vec<PathBuf> = paths.iter().map(absolute).collect();
    let watched = paths.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        let is_change = is_change(event.kind);
        let changed = event.paths.into_iter();
        if let Some(path) = changed
            .filter(|_| is_change)
            .find(|path| counts(path, &watched, &data_dir))
        {
            // When many wait, one more says nothing new.
            let _ = sender.try_send(path);
        }
    })
    .map_err(|error| error.to_string())?;
    for path in &paths {
        watcher
            .watch(path, RecursiveMode::Recursive)
            .map_err(|error| format!("{} cannot be watched: {error}", path.display()))?;
    }
    Ok((watcher, Arc::new(Mutex::new(changes))))
}

/// Waits for a change, and until nothing has changed for a moment; `None` when nobody watches any
/// more.
pub(super) async fn settled(changes: &mut mpsc::Receiver<PathBuf>) -> Option<PathBuf> {
    let first = changes.recv().await?;
    while let Ok(Some(_)) = timeout(SETTLE, changes.recv()).await {}
    Some(first)
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) => true,
        EventKind::Modify(what) => !matches!(what, ModifyKind::Metadata(_)),
        _ => false,
    }
}

/// Whether a file is one that somebody writes. What the folders above the watched ones are called
/// says nothing about it.
fn counts(path: &Path, watched: &[PathBuf], data_dir: &Path) -> bool {
    let below = watched
        .iter()
        .filter_map(|folder| path.strip_prefix(folder).ok())
        .min_by_key(|below| below.components().count());
    let mut parts = below
        .unwrap_or(path)
        .components()
        .filter_map(|part| part.as_os_str().to_str());
    !path.starts_with(data_dir) && !parts.any(|part| IGNORED.contains(&part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_writes_is_ignored() {
        let data = Path::new("/app/data");
        let watched = [PathBuf::from("/app"), PathBuf::from("/target/x/.venv/app")];
        let counts = |path: &str| counts(Path::new(path), &watched, data);
        assert!(counts("/app/plugin.py"));
        assert!(counts("/app/lib/data/x.py"));
        assert!(counts("/target/x/.venv/app/plugin.py"));
        assert!(!counts("/target/x/.venv/app/target/x"));
        for ignored in [
            "/app/data/lock",
            "/app/.git/index",
            "/app/a/__pycache__/x.pyc",
        ] {
            assert!(!counts(ignored), "{ignored}");
        }
    }
}
