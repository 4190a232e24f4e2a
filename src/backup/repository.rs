//! Where backups are kept: objects by name, and what all of them have in common.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::manifest::{FORMAT, Manifest};
use super::object::{ABOUT, BACKUPS, SEGMENTS, SegmentName};
use super::{BackupError, folder, s3};
use crate::config::{AssetStore, BackupPlace, Backups};

/// An object in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) modified: Timestamp,
}

/// A store of objects. All of it blocks; it is used by threads of its own.
pub(super) trait Objects: Send {
    /// Lists what begins with a prefix that ends in a slash.
    fn list(&self, prefix: &str) -> io::Result<Vec<Object>>;

    /// Opens an object.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Stores an object; it is there whole and durably, or as it was before.
    fn put(&self, name: &str, content: &mut dyn Read) -> io::Result<()>;

    /// Removes an object, if it is there.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// Backups of one store.
pub struct Repository {
    place: String,
    objects: Box<dyn Objects>,
}

/// What a repository says of itself.
#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    store_id: Uuid,
}

impl Repository {
    /// Opens the repository at a place: a folder, or `s3://bucket/prefix`.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn open(place: &BackupPlace, settings: &Backups) -> Result<Self, BackupError> {
        let objects: Result<Box<dyn Objects>, String> = match place {
            BackupPlace::Folder(path) => Ok(Box::new(folder::Folder::new(path.clone()))),
            BackupPlace::S3 { bucket, prefix } => {
                s3::S3::open(bucket, prefix, &settings.s3).map(|s3| Box::new(s3) as _)
            }
        };
        let place = place.to_string();
        let objects = objects.map_err(|reason| BackupError::Repository {
            place: place.clone(),
            reason,
        })?;
        Ok(Self { place, objects })
    }

    /// Returns where it is.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns which store it has backups of; `None` for one that is new.
    pub(super) fn store_id(&self) -> Result<Option<Uuid>, BackupError> {
        let bytes = match self.read_all(ABOUT) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(&error)),
        };
        let about: About =
            serde_json::from_slice(&bytes).map_err(|error| BackupError::Damaged {
                object: ABOUT.to_owned(),
                offset: error.column() as u64,
                reason: error.to_string(),
            })?;
        if about.format > FORMAT {
            return Err(BackupError::Refused(format!(
                "{ABOUT} has format={}, this program knows up to {FORMAT}",
                about.format
            )));
        }
        Ok(Some(about.store_id))
    }

    /// Looks whether this program knows the repository's format. What else it says of itself, and
    /// whether that is damaged, is no matter to who only reads.
    ///
    /// # Errors
    /// A newer program uses it; or it cannot be reached.
    pub fn check_format(&self) -> Result<(), BackupError> {
        match self.store_id() {
            Ok(_) | Err(BackupError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes it the repository of a store, which it may be already.
    pub(super) fn claim(&self, store_id: Uuid) -> Result<(), BackupError> {
        match self.store_id()? {
            Some(known) if known == store_id => Ok(()),
            Some(known) => Err(BackupError::Refused(format!(
                "{} has backups of another store ({known}; this one is {store_id}): each store \
                 needs a place of its own",
                self.place
            ))),
            None => {
                let about = About {
                    format: FORMAT,
                    store_id,
                };
                let bytes = serde_json::to_vec(&about)
                    .map_err(|error| BackupError::Refused(error.to_string()))?;
                self.put(ABOUT, &mut &*bytes)
            }
        }
    }

    /// Lists the names of all backups, the oldest first.
    ///
    /// # Errors
    /// The repository cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BackupError> {
        let name = |object: Object| {
            let name = object.name.strip_prefix(BACKUPS)?.strip_suffix(".json")?;
            Some(name.to_owned())
        };
        let objects = self.list(BACKUPS)?.into_iter();
        let mut names: Vec<String> = objects.filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Loads a backup's manifest.
    ///
    /// # Errors
    /// There is none of that name; or it is damaged.
    pub fn manifest(&self, name: &str) -> Result<Manifest, BackupError> {
        let object = manifest_object(name);
        let bytes = self.read_all(&object).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                BackupError::Refused(format!("{} has no backup {name}", self.place))
            } else {
                self.failed(&error)
            }
        })?;
        Manifest::decode(&object, &bytes)
    }

    /// Lists the segments, by where they begin.
    pub(super) fn segments(&self) -> Result<Vec<SegmentName>, BackupError> {
        let objects = self.list(SEGMENTS)?;
        let names = objects.iter();
        let mut found: Vec<_> = names
            .filter_map(|object| SegmentName::parse(&object.name))
            .collect();
        found.sort();
        Ok(found)
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Object>, BackupError> {
        let listed = self.objects.list(prefix);
        listed.map_err(|error| self.failed(&error))
    }

    pub(super) fn open_object(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, BackupError> {
        self.objects.open(name).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                missing(name)
            } else {
                self.failed(&error)
            }
        })
    }

    pub(super) fn put(&self, name: &str, content: &mut dyn Read) -> Result<(), BackupError> {
        let put = self.objects.put(name, content);
        put.map_err(|error| self.failed(&error))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), BackupError> {
        let removed = self.objects.remove(name);
        removed.map_err(|error| self.failed(&error))
    }

    fn read_all(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.objects.open(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn failed(&self, error: &io::Error) -> BackupError {
        BackupError::Repository {
            place: self.place.clone(),
            reason: error.to_string(),
        }
    }
}

/// Returns the error for an object that is not there.
pub(super) fn missing(name: &str) -> BackupError {
    BackupError::Damaged {
        object: name.to_owned(),
        offset: 0,
        reason: "it is not there".to_owned(),
    }
}

pub(super) fn manifest_object(name: &str) -> String {
    format!("{BACKUPS}{name}.json")
}

impl std::fmt::Display for BackupPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl BackupPlace {
    /// Reads a place; `None` when it begins like a bucket and names none.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return (!text.is_empty()).then(|| Self::Folder(PathBuf::from(text)));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        (!bucket.is_empty()).then(|| Self::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
        })
    }

    /// Looks whether backups can be made here: not where files of users are, since whoever fetches
    /// those could fetch the master key. What was put there before can be read and restored.
    ///
    /// # Errors
    /// It is in the files' folder, or in their bucket, where any name may be a file's.
    pub fn check_apart(&self, settings: &Backups, files: &AssetStore) -> Result<(), BackupError> {
        let is_among = match (self, files) {
            (Self::Folder(place), AssetStore::Folder { path, .. }) => {
                resolve(place).starts_with(resolve(path))
            }
            (Self::S3 { bucket, .. }, AssetStore::S3(files)) => {
                *bucket == files.bucket && settings.s3.endpoint == files.endpoint
            }
            _ => false,
        };
        if is_among {
            return Err(BackupError::Refused(format!(
                "{self} is among the files of users (ASSET_STORE), and a backup holds the master \
                 key: it needs another folder or bucket"
            )));
        }
        Ok(())
    }
}

/// Returns where a path leads, as far as it is there.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let known = path.ancestors().find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    known.unwrap_or(path)
}
