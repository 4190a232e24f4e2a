//! The place of backups: objects by name, and what all kinds of places have in common.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::catalog::Catalog;
use super::manifest::{FIRST_FORMAT, FORMAT, Manifest};
use super::object::{ABOUT, BACKUPS, DAMAGED, FILES, KEYS, SEGMENTS, SegmentName};
use super::{BackupError, folder, s3};
use crate::config::{AssetStore, BackupPlace, Backups};

/// An object in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) modified: Timestamp,
}

/// A store of objects. All methods block; they are called on separate threads.
pub(super) trait Objects: Send {
    /// Lists the objects whose names begin with a prefix, which ends in a slash.
    fn list(&self, prefix: &str) -> io::Result<Vec<Object>>;

    /// Opens an object.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send + '_>>;

    /// Stores an object durably; if this fails, the previous state remains.
    fn put(&self, name: &str, content: &mut dyn Read) -> io::Result<()>;

    /// Removes an object, if it exists.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// How often something is looked for while backups that are made meanwhile replace it.
pub(super) const TRIES: u32 = 4;

/// The name of a backup, and its manifest or why it is unreadable.
pub type NamedManifest = (String, Result<Manifest, BackupError>);

/// Backups of one store.
pub struct Repository {
    place: String,
    objects: Box<dyn Objects>,
}

/// The content of `repository.json`.
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

    /// Returns the place.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Returns the id of the store that it has backups of; `None` for a new repository.
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

    /// Checks that this program knows the repository's format. For reading, the rest of
    /// `repository.json` does not matter, even if it is damaged.
    ///
    /// # Errors
    /// A newer program uses the repository, or it cannot be reached.
    pub fn check_format(&self) -> Result<(), BackupError> {
        match self.store_id() {
            Ok(_) | Err(BackupError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes this the repository of a store, unless it is already.
    pub(super) fn claim(&self, store_id: Uuid) -> Result<(), BackupError> {
        match self.store_id()? {
            Some(existing) if existing == store_id => Ok(()),
            Some(existing) => Err(BackupError::Refused(format!(
                "{} has backups of another store ({existing}; this one is {store_id}): each store \
                 needs its own place",
                self.place
            ))),
            None => {
                let about = About {
                    format: FIRST_FORMAT,
                    store_id,
                };
                let bytes = serde_json::to_vec(&about)
                    .map_err(|error| BackupError::Refused(error.to_string()))?;
                self.put(ABOUT, &mut &*bytes)
            }
        }
    }

    /// Lists the names of all backups, the oldest first.
    pub(super) fn names(&self) -> Result<Vec<String>, BackupError> {
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
    /// There is none with that name, or it is damaged.
    pub fn manifest(&self, name: &str) -> Result<Manifest, BackupError> {
        let manifest = self.load(name)?;
        manifest.ok_or_else(|| BackupError::Refused(format!("{} has no backup {name}", self.place)))
    }

    fn load(&self, name: &str) -> Result<Option<Manifest>, BackupError> {
        let object = manifest_object(name);
        match self.read_all(&object) {
            Ok(bytes) => Manifest::decode(&object, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Loads the manifests of all backups. One that is removed meanwhile is none any more.
    ///
    /// # Errors
    /// The repository cannot be read.
    pub(super) fn catalog(&self) -> Result<Catalog, BackupError> {
        let mut catalog = Catalog::default();
        self.refresh(&mut catalog)?;
        Ok(catalog)
    }

    /// Loads the manifests of backups that were made since, and drops those that were removed.
    ///
    /// # Errors
    /// As [`Repository::catalog`].
    pub(super) fn refresh(&self, catalog: &mut Catalog) -> Result<(), BackupError> {
        for _ in 0..TRIES {
            let names = self.names()?;
            catalog.retain(|name| names.iter().any(|it| it == name));
            let mut is_complete = true;
            for name in names {
                if catalog.has(&name) {
                    continue;
                }
                match self.load(&name) {
                    Ok(Some(manifest)) => catalog.add(name, Ok(manifest)),
                    // The one that replaces it may have been made after the listing.
                    Ok(None) => is_complete = false,
                    Err(error @ BackupError::Damaged { .. }) => catalog.add(name, Err(error)),
                    Err(error) => return Err(error),
                }
            }
            if is_complete {
                break;
            }
        }
        Ok(())
    }

    /// Loads the manifests of all backups, the oldest first; for those with a damaged one, the
    /// reason.
    ///
    /// # Errors
    /// The repository cannot be read.
    pub fn backups(&self) -> Result<Vec<NamedManifest>, BackupError> {
        Ok(self.catalog()?.backups)
    }

    /// Lists all objects that are part of backups.
    pub(super) fn objects(&self) -> Result<Vec<Object>, BackupError> {
        let mut objects = Vec::new();
        for prefix in [SEGMENTS, FILES, KEYS, DAMAGED, BACKUPS] {
            objects.extend(self.list(prefix)?);
        }
        Ok(objects)
    }

    /// Lists the segments, sorted by their first positions.
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

/// Returns the error for a missing object.
pub(super) fn missing(name: &str) -> BackupError {
    BackupError::Missing {
        object: name.to_owned(),
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
    /// Parses a place; `None` if it begins like a bucket but names none, or is an address of
    /// another kind. `./s3:/x` is the folder of that name.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(rest) = text.strip_prefix("s3://") else {
            return (!text.is_empty() && !has_scheme(text)).then(|| Self::Folder(text.into()));
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        (!bucket.is_empty()).then(|| Self::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.trim_matches('/').to_owned(),
        })
    }

    /// Checks that backups can be stored here: a place among users' files is refused.
    ///
    /// Anyone who can download those files could otherwise download the master key. Existing
    /// backups in such a place can still be read and restored.
    ///
    /// # Errors
    /// The place is in the folder of files, or in their bucket, where a file can have any name.
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
                "{self} is among users' files (ASSET_STORE), and a backup holds the master key: \
                 use another folder or bucket"
            )));
        }
        Ok(())
    }
}

/// Returns whether a text begins like an address, `scheme:/`. A backup that is meant for another
/// service must not end up in a folder of this machine.
fn has_scheme(text: &str) -> bool {
    text.split_once(":/").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || "+-.".contains(it))
    })
}

/// Resolves a path, as far as it exists.
fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let existing = path.ancestors().find_map(|above| {
        let rest = path.strip_prefix(above).ok()?;
        Some(above.canonicalize().ok()?.join(rest))
    });
    existing.unwrap_or(path)
}
