//! Watches the plugin's files for changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{Event, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// How long no file may change before changes count as settled. Editors and version control change
/// several files at once, or one file several times.
const SETTLE: Duration = Duration::from_millis(200);
/// Folders with generated or installed sources. Those whose name begins with a dot are ignored,
/// too.
const IGNORED: [&str; 3] = ["__pycache__", "node_modules", "target"];

/// The files whose changes restart the plugin.
///
/// A plugin can write anything next to its code, such as a log or a database. So only sources
/// count, which are recognized by their extensions, and files that were named on the command line.
struct Watched {
    folders: Vec<PathBuf>,
    files: Vec<PathBuf>,
    extensions: Vec<String>,
    data_dir: PathBuf,
}

/// The changed files; one reader at a time follows them.
pub(super) type Changes = Arc<Mutex<mpsc::Receiver<PathBuf>>>;

/// Watches folders and files, for as long as the returned watcher is kept.
///
/// # Errors
/// One of them does not exist, or the system has no more watches.
pub(super) fn begin(
    paths: &[PathBuf],
    extensions: &[String],
    data_dir: &Path,
) -> Result<(RecommendedWatcher, Changes), String> {
    let watched = Watched::new(paths, extensions, data_dir);
    let places = watched.places();
    let (sender, changes) = mpsc::channel(64);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        let is_change = is_change(event.kind);
        let changed = event.paths.into_iter();
        if let Some(path) = changed
            .filter(|_| is_change)
            .find(|path| watched.counts(path))
        {
            // If many changes wait, one more adds nothing.
            let _ = sender.try_send(path);
        }
    })
    .map_err(|error| error.to_string())?;
    for (path, mode) in places {
        watcher
            .watch(&path, mode)
            .map_err(|error| format!("{} cannot be watched: {error}", path.display()))?;
    }
    Ok((watcher, Arc::new(Mutex::new(changes))))
}

/// Waits for a change, then until nothing has changed for a short time. Returns `None` once the
/// watcher is gone.
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

impl Watched {
    fn new(paths: &[PathBuf], extensions: &[String], data_dir: &Path) -> Self {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let paths = paths.iter().map(|path| absolute(path));
        let (files, folders) = paths.partition(|path| path.is_file());
        let extensions = extensions.iter().map(|it| it.trim_start_matches('.'));
        Self {
            folders,
            files,
            extensions: extensions.map(str::to_owned).collect(),
            data_dir: absolute(data_dir),
        }
    }

    /// Returns the folders to watch, each with whether its subfolders are watched, too.
    fn places(&self) -> Vec<(PathBuf, RecursiveMode)> {
        let folders = self.folders.iter();
        let mut places: Vec<_> = folders
            .map(|folder| (folder.clone(), RecursiveMode::Recursive))
            .collect();
        let is_watched = |path: &Path| self.folders.iter().any(|folder| path.starts_with(folder));
        // Editors replace a file by a new one; a watch on the file itself would end with the old
        // one.
        let around = self.files.iter().filter_map(|file| file.parent());
        let around = around.filter(|folder| !is_watched(folder));
        places.extend(around.map(|folder| (folder.to_owned(), RecursiveMode::NonRecursive)));
        places
    }

    /// Returns whether a change of a file counts. The names of the folders above the watched ones
    /// do not matter.
    fn counts(&self, path: &Path) -> bool {
        if self.files.iter().any(|file| file == path) {
            return true;
        }
        let below = self
            .folders
            .iter()
            .filter_map(|folder| path.strip_prefix(folder).ok())
            .min_by_key(|below| below.components().count());
        let Some(below) = below else { return false };
        let mut parts = below
            .components()
            .filter_map(|part| part.as_os_str().to_str());
        let is_ignored = |part: &str| part.starts_with('.') || IGNORED.contains(&part);
        let ending = path.extension().and_then(|it| it.to_str());
        ending.is_some_and(|ending| self.extensions.iter().any(|it| it == ending))
            && !path.starts_with(&self.data_dir)
            && !parts.any(is_ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_writes_is_ignored() {
        let watched = Watched {
            folders: vec!["/app".into(), "/target/x/.venv/app".into()],
            files: vec!["/app/node_modules/words".into(), "/etc/words.txt".into()],
            extensions: vec!["py".to_owned(), "html".to_owned()],
            data_dir: "/app/data".into(),
        };
        for counted in [
            "/app/plugin.py",
            "/app/pages/index.html",
            "/app/lib/data/x.py",
            "/target/x/.venv/app/plugin.py",
            "/app/node_modules/words",
            "/etc/words.txt",
        ] {
            assert!(watched.counts(Path::new(counted)), "{counted}");
        }
        for ignored in [
            "/target/x/.venv/app/target/x.py",
            "/app/data/x.py",
            "/app/.git/x.py",
            "/app/.#plugin.py",
            "/app/a/__pycache__/x.py",
            "/app/cache.sqlite",
            "/app/plugin.js",
            "/app/py",
            "/etc/other.py",
        ] {
            assert!(!watched.counts(Path::new(ignored)), "{ignored}");
        }
    }
}
