//! Files in a folder, each under its name, as v1 has them.
//!
//! An upload is written to a file in `.uploads`, which no name leads into, flushed, and renamed
//! into its place; the folders on the way are flushed, too. What a crash leaves in `.uploads` is
//! thrown away at the next start. Of a file that is erased an empty one stays in `.erased`, for the
//! backups that still have it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix_web::web::Bytes;
use async_trait::async_trait;
use futures_util::stream;
use skytrail_schema::id::AssetName;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::store::{ByteRange, Content, FileError, FileStore, Upload};

/// Where uploads are until they are finished; no name of a file leads there.
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
    /// Opens a folder, making it if there is none.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub async fn open(root: PathBuf) -> Result<Self, FileError> {
        let root: Arc<Path> = root.into();
        let folder = Arc::clone(&root);
        blocking(move || {
            let uploads = folder.join(UPLOADS);
            match std::fs::remove_dir_all(&uploads) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            make_folders(&uploads)?;
            remove_erased(&folder.join(ERASED), &folder)
        })
        .await?;
        Ok(Self { root })
    }

    /// Reads a folder that is somebody else's: nothing is made there.
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
        let (mut file, size) = blocking(move || {
            let file = File::open(path)?;
            let about = file.metadata()?;
            if !about.is_file() {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok((file, about.len()))
        })
        .await?;
        let range = match range {
            None => 0..size,
            Some(range) => range.within(size).ok_or(FileError::OutOfRange)?,
        };
        let start = range.start;
        let file = blocking(move || {
            file.seek(SeekFrom::Start(start))?;
            Ok(file)
        })
        .await?;
        let left = range.end - range.start;
        let bytes = stream::try_unfold((file, left), |(file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let (bytes, file) = blocking(move || read(file, left)).await?;
            let left = left - bytes.len() as u64;
            Ok(Some((bytes, (file, left))))
        });
        Ok(Content {
            size,
            range,
            bytes: Box::pin(bytes),
        })
    }

    async fn remove(&self, name: &AssetName) -> Result<(), FileError> {
        let place = self.root.join(name.as_str());
        let mark = self.root.join(ERASED).join(name.as_str());
        let done = blocking(move || {
            let folder_of = |path: &Path| path.parent().unwrap_or(Path::new(".")).to_owned();
            make_folders(&folder_of(&mark))?;
            File::create(&mark)?.sync_all()?;
            flush_folder(&folder_of(&mark))?;
            std::fs::remove_file(&place)?;
            flush_folder(&folder_of(&place))
        });
        done.await
    }
}

fn read(mut file: File, left: u64) -> io::Result<(Bytes, File)> {
    let wanted = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
    let mut chunk = vec![0; wanted];
    let got = file.read(&mut chunk)?;
    if got == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    chunk.truncate(got);
    Ok((chunk.into(), file))
}

/// A file that goes away unless it is moved.
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
    /// Away while a thread writes to it.
    file: Option<File>,
    pending: Vec<u8>,
    place: PathBuf,
}

impl FolderUpload {
    async fn flush(&mut self) -> Result<(), FileError> {
        let pending = std::mem::take(&mut self.pending);
        let broken = || FileError::Failed("the upload was given up".to_owned());
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
            let parent = self.place.parent().unwrap_or(Path::new("."));
            make_folders(parent)?;
            if let Some(path) = &self.temporary.0 {
                std::fs::rename(path, &self.place)?;
            }
            self.temporary.0 = None;
            flush_folder(parent)
        })
        .await
    }
}

/// Removes what an upload has put in the place of a file that was erased meanwhile, if the process
/// ended in between.
fn remove_erased(marks: &Path, places: &Path) -> io::Result<()> {
    let listed = match std::fs::read_dir(marks) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for mark in listed {
        let mark = mark?;
        let place = places.join(mark.file_name());
        if mark.file_type()?.is_dir() {
            remove_erased(&mark.path(), &place)?;
        } else if place.is_file() {
            std::fs::remove_file(&place)?;
            flush_folder(places)?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it that are missing, and flushes what names the new ones.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().unwrap_or(Path::new("."));
    make_folders(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => flush_folder(parent),
    }
}

fn flush_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)?.sync_all()
}

/// Runs what may block on a thread for it.
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
}
