//! Copies files from v1's store.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use skytrail_schema::event::AssetState;
use skytrail_schema::id::AssetName;

use crate::asset::{FileError, FileStore, Files, Folder, S3};
use crate::config::S3Settings;

/// The place of v1's files.
#[derive(Clone, Debug)]
pub enum AssetSource {
    /// A folder (`ASSET_STORE=fs`).
    Folder(PathBuf),
    /// A bucket (`ASSET_STORE=s3`).
    Bucket(S3Settings),
}

/// Copies files from v1's store.
pub(super) struct Copier {
    from: Arc<dyn FileStore>,
}

/// The outcome for a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Copied {
    /// It was copied.
    Now,
    /// It exists here already.
    Before,
    /// It was copied, but its size differs from the one in v1's database.
    Resized(u64),
}

impl Copier {
    /// Opens v1's store.
    pub(super) async fn open(source: &AssetSource) -> Result<Self, String> {
        let from: Arc<dyn FileStore> = match source {
            AssetSource::Folder(path) if !path.is_dir() => {
                return Err(format!("{} is not a folder", path.display()));
            }
            AssetSource::Folder(path) => Arc::new(Folder::of_others(path.clone())),
            AssetSource::Bucket(settings) => {
                let bucket = S3::open(settings).await;
                Arc::new(bucket.map_err(|error| format!("bucket {}: {error}", settings.bucket))?)
            }
        };
        Ok(Self { from })
    }

    /// Copies a file unless it exists here already.
    pub(super) async fn copy(
        &self,
        to: &Files,
        name: &AssetName,
        state: &AssetState,
    ) -> Result<Copied, FileError> {
        let content = self.from.open(name, None).await?;
        if let Ok(here) = to.store.open(name, None).await
            && here.size == content.size
        {
            return Ok(Copied::Before);
        }
        let mut upload = to.store.begin(name, &state.content_type).await?;
        let mut bytes = content.bytes;
        while let Some(part) = bytes.try_next().await? {
            upload.write(part).await?;
        }
        upload.finish().await?;
        Ok(if content.size == state.size {
            Copied::Now
        } else {
            Copied::Resized(content.size)
        })
    }
}
