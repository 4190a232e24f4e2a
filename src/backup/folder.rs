//! Backups in a folder. They contain keys, so everything is readable by the owner alone.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use skytrail_actors::log::{folder_of, make_folders, sync_folder};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::repository::{Object, Objects};

/// The suffix of a file that is being written; the next sweep removes what a crash leaves of it.
pub(super) const PART: &str = ".part";

/// See the module's overview.
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Objects for Folder {
    fn list(&self, prefix: &str) -> io::Result<Vec<Object>> {
        let entries = match std::fs::read_dir(self.root.join(prefix)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let about = match entry.metadata() {
                // Removed meanwhile, by a backup that is being taken.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about?,
            };
            if let (true, Ok(name)) = (about.is_file(), entry.file_name().into_string()) {
                found.push(Object {
                    name: format!("{prefix}{name}"),
                    size: about.len(),
                    modified: modified(&about)?,
                });
            }
        }
        Ok(found)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>> {
        let file = File::open(self.root.join(name)).map_err(named(name))?;
        Ok(Box::new(file))
    }

    fn put(&self, name: &str, content: &mut dyn Read) -> io::Result<()> {
        let path = self.root.join(name);
        let folder = folder_of(&path);
        make_folders(DirBuilder::new().mode(0o700), folder).map_err(named(name))?;
        let part = path.with_file_name(format!("{}{PART}", Uuid::new_v4()));
        let written = write(&part, content).and_then(|()| std::fs::rename(&part, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        written.map_err(named(name))?;
        sync_folder(folder)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Adds the object's name to an error.
fn named(name: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Writes a file that nobody else can read, durably.
pub(super) fn write(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    copy(content, options.open(path)?)
}

/// Appends to a file, durably.
pub(super) fn append(path: &Path, content: &mut dyn Read) -> io::Result<()> {
    copy(content, OpenOptions::new().append(true).open(path)?)
}

fn copy(content: &mut dyn Read, mut file: File) -> io::Result<()> {
    io::copy(content, &mut file)?;
    file.sync_all()
}

/// Returns when a file was last modified.
pub(super) fn modified(about: &std::fs::Metadata) -> io::Result<Timestamp> {
    let since = about.modified()?.duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    Ok(Timestamp::from_micros(
        i64::try_from(micros).unwrap_or(i64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_object() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("file"), "").unwrap();
        let folder = Folder::new(root.path().to_owned());
        let opened = folder.open("missing").map(drop).unwrap_err();
        assert_eq!(opened.kind(), io::ErrorKind::NotFound);
        assert!(opened.to_string().starts_with("missing: "), "{opened}");
        let written = folder.put("file/part", &mut io::empty()).unwrap_err();
        assert!(written.to_string().starts_with("file/part: "), "{written}");
    }
}
