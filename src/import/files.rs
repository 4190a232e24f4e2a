//! Copies the app's files from another store: one of v1's, or one that the app used so far.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use skytrail_actors::import::Outcome;
use skytrail_schema::event::AssetState;
use skytrail_schema::id::AssetName;

use super::Report;
use crate::asset::{FileError, FileStore, Files, Folder, S3};
use crate::config::{Config, S3Settings};
use crate::record_store::offline::Offline;

/// How many files are looked up at once.
const PAGE: u32 = 500;
/// The version of a file that was announced or imported, and has not been uploaded since.
const ANNOUNCED: u32 = 1;
/// The line of the report.
const TABLE: &str = "files";

/// The place of files.
#[derive(Clone, Debug)]
pub enum AssetSource {
    /// A folder (`ASSET_STORE=fs`).
    Folder(PathBuf),
    /// A bucket (`ASSET_STORE=s3`).
    Bucket(S3Settings),
}

/// Copies files from a store.
pub(super) struct Copier {
    from: Arc<dyn FileStore>,
}

/// A file of the app.
pub(super) struct KnownFile<'a> {
    pub(super) name: &'a AssetName,
    pub(super) state: &'a AssetState,
    /// Whether its bytes have arrived for certain; otherwise it need not exist.
    pub(super) has_arrived: bool,
}

/// The outcome for a file.
#[derive(Debug, PartialEq, Eq)]
enum Copied {
    /// It was copied.
    Now,
    /// It exists here already.
    Before,
    /// It was copied, but its size differs from the one that is known.
    Resized(u64),
}

impl Copier {
    /// Opens the store to copy from.
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

    /// Copies a file unless it exists here already, and reports the outcome.
    ///
    /// # Errors
    /// Returns a sentence: the report cannot be written.
    pub(super) async fn copy(
        &self,
        to: &Files,
        file: KnownFile<'_>,
        report: &mut Report,
    ) -> Result<(), String> {
        let KnownFile { name, state, .. } = file;
        let copied = self.try_copy(to, name, state).await;
        let name = name.as_str();
        let noted = match copied {
            Ok(Copied::Now) => report.note(TABLE, name, &Outcome::Added),
            Ok(Copied::Before) => report.note(TABLE, name, &Outcome::Present),
            Ok(Copied::Resized(real)) => {
                let known = state.size;
                let why = format!("it has {real} bytes, but {known} according to the database");
                let noted = report.note(TABLE, name, &Outcome::Added);
                noted.and_then(|()| report.remark(TABLE, name, &why))
            }
            Err(FileError::Missing) if !file.has_arrived => {
                let why = "there is no such file; perhaps its bytes never arrived";
                report.note(TABLE, name, &Outcome::Kept(why.to_owned()))
            }
            Err(error) => report.note(TABLE, name, &Outcome::Refused(error.to_string())),
        };
        noted.map_err(|error| format!("the report cannot be written: {error}"))
    }

    async fn try_copy(
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

/// Copies all files of the app that it does not have yet into the store that the settings name.
/// Needs an actor system.
///
/// # Errors
/// Returns a sentence: a server runs here, or something cannot be used.
pub async fn run(config: &Config, from: &AssetSource, report: &mut Report) -> Result<(), String> {
    let copier = Copier::open(from).await?;
    let offline = Offline::open(config).await?;
    let done = copy_all(&copier, &offline, report).await;
    let closed = offline.close().await;
    done.and(closed)
}

async fn copy_all(copier: &Copier, offline: &Offline, report: &mut Report) -> Result<(), String> {
    report.look_at(TABLE);
    let bar = super::spinner(TABLE)?;
    let (assets, mut after) = (&offline.env.assets, None);
    loop {
        let names = assets.store.list_assets(after.as_ref(), PAGE).await;
        let names = names.map_err(|error| error.to_string())?;
        let Some(last) = names.last() else {
            bar.finish_and_clear();
            return Ok(());
        };
        let known = assets.load(&names).await;
        let known = known.map_err(|error| error.message.to_string())?;
        for name in &names {
            if let Some((version, state)) = known.get(name) {
                let file = KnownFile {
                    name,
                    state,
                    has_arrived: *version > ANNOUNCED,
                };
                copier.copy(&offline.files, file, report).await?;
                bar.inc(1);
            }
        }
        after = Some(last.clone());
    }
}
