//! Files in a folder, each under its name, as in v1.
//!
//! An upload is written to a file in `.uploads`, which no file name can reach, flushed, and renamed
//! into place; the folders on the way are flushed, too. Files that a crash leaves in `.uploads` are
//! deleted at the next start. An erased file leaves a mark in `.erased`, for the backups that still
//! contain the file: the mark is named by a hash of the file's name, and contains that name. Marks
//! with the files' own names would need subfolders, which other marks could block.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::web::Bytes;
use async_trait::async_trait;
use futures_util::stream;
use skytrail_actors::log::{folder_of, make_folders, sync_folder};
use skytrail_schema::id::AssetName;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::store::{ByteRange, Content, FileError, FileStore, Upload};

/// Where uploads are until they are finished; no file name can reach it.
pub(crate) const UPLOADS: &str = ".uploads";
/// Where the names of erased files are kept.
pub(crate) const ERASED: &str = ".erased";
/// How much is read or written at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// See the module's overview.
pub struct Folder {
    root: Arc<Path>,
}

impl Folder {
    /// Opens a folder, and creates it if it does not exist.
    ///
    /// # Errors
    /// It cannot be created or written.
    pub async fn open(root: PathBuf) -> Result<Self, FileError> {
        let root: Arc<Path> = root.into();
        let folder = Arc::clone(&root);
        blocking(move || {
            let uploads = folder.join(UPLOADS);
            match std::fs::remove_dir_all(&uploads) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            make_folders(&DirBuilder::new(), &uploads)?;
            remove_erased(&folder.join(ERASED), &folder, &folder)
        })
        .await?;
        Ok(Self { root })
    }

    /// Opens for reading a folder that belongs to another process: nothing is created in it.
    pub fn of_others(root: PathBuf) -> Self {
        Self { root: root.into() }
    }
}

#[async_trait]
impl FileStore for Folder {
    async fn begin(&self, name: &AssetName, _: &str) -> Result<Box<dyn Upload>, FileError> {
        let place = self.root.join(name.as_str());
        let path = self.root.join(UPLOADS).join(Uuid::new_v4().to_string());
        let upload = blocking(move || {
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).open(&path)?;
            Ok(FolderUpload {
                temporary: Temporary(Some(path)),
                file: Some(file),
                pending: Vec::new(),
                place,
            })
        })
        .await?;
        Ok(Box::new(upload))
    }

    async fn open(&self, name: &AssetName, range: Option<ByteRange>) -> Result<Content, FileError> {
        let path = self.root.join(name.as_str());
        let opened = blocking(move || match File::open(path) {
            Ok(file) => {
                let about = file.metadata()?;
                Ok(about.is_file().then_some((file, about.len())))
            }
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        });
        let (mut file, size) = opened.await?.ok_or(FileError::Missing)?;
        let range = match range {
            None => 0..size,
            Some(range) => range.within(size)?,
        };
        let start = range.start;
        let file = blocking(move || {
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        })
        .await?;
        let remaining = range.end - range.start;
        let bytes = stream::try_unfold((file, remaining), |(file, remaining)| async move {
            if remaining == 0 {
                return Ok(None);
            }
            let (bytes, file) = blocking(move || read(file, remaining)).await?;
            let remaining = remaining - bytes.len() as u64;
            Ok(Some((bytes, (file, remaining))))
        });
        Ok(Content {
            size,
            range,
            bytes: Box::pin(bytes),
        })
    }

    async fn remove(&self, name: &AssetName) -> Result<(), FileError> {
        let place = self.root.join(name.as_str());
        let marks = self.root.join(ERASED);
        let name = name.clone();
        let removed = blocking(move || {
            make_folders(&DirBuilder::new(), &marks)?;
            let mut mark = File::create(marks.join(mark_of(name.as_str())))?;
            mark.write_all(name.as_str().as_bytes())?;
            mark.sync_all()?;
            sync_folder(&marks)?;
            match std::fs::remove_file(&place) {
                Ok(()) => sync_folder(folder_of(&place)).map(|()| true),
                // No other error may count as a missing file: the caller takes that as erased.
                Err(error) if is_missing(&error) => Ok(false),
                Err(error) => Err(error),
            }
        });
        removed.await?.then_some(()).ok_or(FileError::Missing)
    }
}

/// Returns the name of an erased file's mark. File names never begin with a dot, so it cannot be a
/// mark of the earlier format, which had the file's own name.
pub(crate) fn mark_of(name: &str) -> String {
    format!(".{}", blake3::hash(name.as_bytes()).to_hex())
}

/// Returns whether there is no file at a path: nothing exists there, it is a folder, or the path
/// leads through a file.
fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

fn read(mut file: File, remaining: u64) -> io::Result<(Bytes, File)> {
    let chunk_len =
        usize::try_from(remaining).map_or(CHUNK_BYTES, |remaining| remaining.min(CHUNK_BYTES));
    let mut chunk = vec![0; chunk_len];
    let got = file.read(&mut chunk)?;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    chunk.truncate(got);
    Ok((chunk.into(), file))
}

/// A file that is deleted on drop unless it has been moved.
struct Temporary(Option<PathBuf>);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "a broken upload could not be removed");
        }
    }
}

struct FolderUpload {
    temporary: Temporary,
    /// `None` while a thread writes to it.
    file: Option<File>,
    pending: Vec<u8>,
    place: PathBuf,
}

impl FolderUpload {
    async fn flush(&mut self) -> Result<(), FileError> {
        let pending = std::mem::take(&mut self.pending);
        let broken = || FileError::Failed("the upload was abandoned".to_owned());
        let mut file = self.file.take().ok_or_else(broken)?;
        let (file, pending) = blocking(move || {
            file.write_all(&pending)?;
            Ok((file, pending))
        })
        .await?;
        self.file = Some(file);
        self.pending = pending;
        self.pending.clear();
        Ok(())
    }
}

#[async_trait]
impl Upload for FolderUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FileError> {
        self.pending.extend_from_slice(&bytes);
        if self.pending.len() >= CHUNK_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), FileError> {
        self.flush().await?;
        blocking(move || {
            if let Some(file) = self.file.take() {
                file.sync_all()?;
            }
            let parent = folder_of(&self.place);
            make_folders(&DirBuilder::new(), parent)?;
            if let Some(path) = &self.temporary.0 {
                std::fs::rename(path, &self.place)?;
            }
            self.temporary.0 = None;
            sync_folder(parent)
        })
        .await
    }
}

/// Removes files that an upload put in place after they had been erased, if the process ended
/// before removing them.
///
/// Also handles marks of the earlier format, which have their file's path below `.erased`: `folder`
/// is the folder of the files that belong to `marks`.
fn remove_erased(marks: &Path, root: &Path, folder: &Path) -> io::Result<()> {
    let listed = match std::fs::read_dir(marks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for mark in listed {
        let (path, name) = mark.map(|mark| (mark.path(), mark.file_name()))?;
        if path.is_dir() {
            remove_erased(&path, root, &folder.join(name))?;
            continue;
        }
        let is_flat = folder == root && name.as_encoded_bytes().starts_with(b".");
        let place = if is_flat {
            let Some(name) = name_in(&path)? else {
                continue;
            };
            root.join(name.as_str())
        } else {
            folder.join(name)
        };
        if place.is_file() {
            std::fs::remove_file(&place)?;
            sync_folder(folder_of(&place))?;
        }
    }
    Ok(())
}

/// Reads the name in a mark; `None` if a crash left the mark incomplete.
fn name_in(mark: &Path) -> io::Result<Option<AssetName>> {
    let name = String::from_utf8_lossy(&std::fs::read(mark)?).into_owned();
    let is_whole = mark.ends_with(mark_of(&name));
    Ok(AssetName::clean(&name).filter(|clean| is_whole && clean.as_str() == name))
}

/// Runs blocking work on a thread for such work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FileError> {
    let done = spawn_blocking(work).await;
    let done = done.map_err(|error| FileError::Failed(error.to_string()))?;
    Ok(done?)
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    async fn store(root: &Path) -> Folder {
        Folder::open(root.join("files")).await.unwrap()
    }

    async fn read_all(folder: &Folder, name: &AssetName) -> Option<Vec<u8>> {
        let content = folder.open(name, None).await.ok()?;
        let chunks: Vec<Bytes> = content.bytes.try_collect().await.unwrap();
        Some(chunks.concat())
    }

    fn names_in(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[tokio::test]
    async fn an_upload_shows_whole_or_not_at_all() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let name = AssetName::from("deep/folder/a.bin");
        let first = vec![1; CHUNK_BYTES + 7];
        let mut upload = folder.begin(&name, "").await.unwrap();
        upload.write(first.clone().into()).await.unwrap();
        assert_eq!(read_all(&folder, &name).await, None);
        upload.finish().await.unwrap();
        assert_eq!(read_all(&folder, &name).await, Some(first.clone()));

        let mut broken = folder.begin(&name, "").await.unwrap();
        broken.write(vec![2; 2 * CHUNK_BYTES].into()).await.unwrap();
        drop(broken);
        assert_eq!(read_all(&folder, &name).await, Some(first));
        assert_eq!(names_in(&place.path().join("files").join(UPLOADS)), 0);
    }

    #[tokio::test]
    async fn what_a_crash_left_goes_at_the_next_start() {
        let place = tempfile::tempdir().unwrap();
        let uploads = place.path().join("files").join(UPLOADS);
        std::fs::create_dir_all(&uploads).unwrap();
        std::fs::write(uploads.join("half"), "half").unwrap();
        drop(store(place.path()).await);
        assert_eq!(names_in(&uploads), 0);
    }

    #[tokio::test]
    async fn folders_and_names_below_files_are_no_files() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let name = AssetName::from("a/b");
        let mut upload = folder.begin(&name, "").await.unwrap();
        upload.write(Bytes::from_static(b"x")).await.unwrap();
        upload.finish().await.unwrap();
        for name in ["a", "a/b/c", "none"] {
            let found = folder.open(&name.into(), None).await;
            assert!(matches!(found, Err(FileError::Missing)), "{name}");
        }
        let below = folder.begin(&"a/b/c".into(), "").await.unwrap();
        assert!(below.finish().await.is_err());
        assert_eq!(read_all(&folder, &name).await, Some(b"x".to_vec()));
    }

    async fn put(folder: &Folder, name: &AssetName) {
        let mut upload = folder.begin(name, "").await.unwrap();
        upload.write(Bytes::from_static(b"x")).await.unwrap();
        upload.finish().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_erased_is_in_the_way_of_no_other() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let names = ["a", "a/b", "a/b/c"].map(AssetName::from);
        for name in &names {
            put(&folder, name).await;
            folder.remove(name).await.unwrap();
            let again = folder.remove(name).await;
            assert!(matches!(again, Err(FileError::Missing)), "{again:?}");
            assert_eq!(read_all(&folder, name).await, None);
        }
    }

    #[tokio::test]
    async fn a_folder_where_a_file_would_be_is_no_file_to_remove() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let below = AssetName::from("a/b");
        put(&folder, &below).await;
        for name in ["a", "a/b/c"] {
            let removed = folder.remove(&name.into()).await;
            assert!(matches!(removed, Err(FileError::Missing)), "{removed:?}");
        }
        assert!(read_all(&folder, &below).await.is_some());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_removed_is_not_taken_for_gone() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let name = AssetName::from("a");
        put(&folder, &name).await;
        // A file where the folder of marks would be.
        std::fs::write(place.path().join("files").join(ERASED), "").unwrap();
        let removed = folder.remove(&name).await;
        assert!(matches!(removed, Err(FileError::Failed(_))), "{removed:?}");
        assert!(read_all(&folder, &name).await.is_some());
    }

    #[tokio::test]
    async fn what_came_back_goes_at_the_next_start_by_marks_of_now_and_of_before() {
        let place = tempfile::tempdir().unwrap();
        let folder = store(place.path()).await;
        let names = ["now", "deep/now", "before", "deep/before", "half"].map(AssetName::from);
        for name in &names[..2] {
            put(&folder, name).await;
            folder.remove(name).await.unwrap();
        }
        let marks = place.path().join("files").join(ERASED);
        std::fs::create_dir_all(marks.join("deep")).unwrap();
        for name in ["before", "deep/before", &mark_of("half")] {
            std::fs::write(marks.join(name), "").unwrap();
        }
        for name in &names {
            put(&folder, name).await;
        }
        let folder = store(place.path()).await;
        for name in &names {
            let is_there = read_all(&folder, name).await.is_some();
            assert_eq!(is_there, name.as_str() == "half", "{name}");
        }
    }
}
