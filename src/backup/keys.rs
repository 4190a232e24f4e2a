//! The subjects' keys in a repository: the log's data about people is sealed with them.
//!
//! Keys are only ever added or destroyed, so the keys of a later backup serve every earlier one of
//! the same history. Therefore only the newest are kept, whatever `keep` says: after the first
//! backup that follows an erasure, the key that it destroyed is nowhere in the repository any more.
//! The keys have a folder of their own, so that copies of the repository can leave it out, or keep
//! it for a shorter time.
//!
//! If the keys cannot be saved, the log still is: such a backup refers to the keys of the one
//! before it, and says so. A subject that was erased according to the log stays erased: the next
//! start destroys the key again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use skytrail_actors::log::{KEYRING_FILE, KeyringCopy, KeyringError};
use uuid::Uuid;

use super::BackupError;
use super::catalog::Catalog;
use super::local::{Digesting, Local};
use super::manifest::{Manifest, SavedFile};
use super::object::KEYS;
use super::repository::{Repository, missing};

/// How often the keys are read again if one is written meanwhile.
const TRIES: u32 = 5;

/// The keys as saved, `None` if there are none; or the reason why they could not be saved.
pub(super) type Saved = Result<Option<SavedFile>, KeyringError>;

/// Returns the name of the object that holds a state of the keys.
pub(super) fn object(saved: &SavedFile) -> String {
    format!("{KEYS}{}", saved.blake3)
}

/// Saves the current keys. They must include every key that `last_used` or the log of one of this
/// history's earlier backups is sealed with: these backups use them from now on.
///
/// # Errors
/// Those of the repository. Keys that are damaged, from another store, or fewer than before are not
/// one; the repository's keys then stay as they are.
pub(super) fn save(
    local: &Local,
    repository: &Repository,
    own: &[&Manifest],
    (store_id, last_used): (Uuid, u64),
) -> Result<Saved, BackupError> {
    let last_used = last_used.max(last_saved(repository, own)?);
    let bytes = match read(&local.keyring(), store_id, last_used) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Ok(None)),
        Err(error) => return Ok(Err(error)),
    };
    let saved = saved(
        bytes.len() as u64,
        blake3::hash(&bytes).to_hex().to_string(),
    );
    let name = object(&saved);
    let there = repository.list(KEYS)?;
    if !there
        .iter()
        .any(|object| object.name == name && object.size == saved.size)
    {
        repository.put(&name, &mut &*bytes)?;
    }
    Ok(Ok(Some(saved)))
}

fn saved(size: u64, blake3: String) -> SavedFile {
    SavedFile {
        path: KEYRING_FILE.to_owned(),
        size,
        blake3,
        modified: None,
    }
}

/// Reads the keys while they may be written. The result is durable: a later start has no fewer
/// keys.
fn read(place: &Path, store_id: Uuid, last_used: u64) -> Result<Option<Vec<u8>>, KeyringError> {
    if !place.exists() {
        KeyringCopy::default().check_used(last_used)?;
        return Ok(None);
    }
    let mut tries = 0;
    loop {
        let bytes = std::fs::read(place)?;
        File::open(place)?.sync_data()?;
        tries += 1;
        match KeyringCopy::parse(&bytes, Some(store_id)) {
            Ok(keys) => {
                keys.check_used(last_used)?;
                return Ok(Some(bytes));
            }
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
    }
}

/// Finds the highest key number in the earlier backups of this history.
fn last_saved(repository: &Repository, own: &[&Manifest]) -> Result<u64, BackupError> {
    let there: BTreeSet<String> = repository
        .list(KEYS)?
        .into_iter()
        .map(|it| it.name)
        .collect();
    let objects = own.iter().filter_map(|backup| backup.keys.as_ref());
    let objects: BTreeSet<String> = objects.map(object).collect();
    let mut last = 0;
    for object in objects.intersection(&there) {
        // Nothing is known about damaged keys: those that are saved now replace them.
        if let Ok(keys) = KeyringCopy::parse(&load(repository, object)?, None) {
            last = last.max(keys.last());
        }
    }
    Ok(last)
}

fn load(repository: &Repository, object: &str) -> Result<Vec<u8>, BackupError> {
    let mut bytes = Vec::new();
    let read = repository.open_object(object)?.read_to_end(&mut bytes);
    read.map_err(BackupError::io(object))?;
    Ok(bytes)
}

/// Opens the keys that a backup is restored with.
///
/// # Errors
/// They are damaged, or from another store.
pub(super) fn open(
    repository: &Repository,
    manifest: &Manifest,
    saved: Option<&SavedFile>,
) -> Result<KeyringCopy, BackupError> {
    let Some(saved) = saved else {
        return Ok(KeyringCopy::default());
    };
    let object = object(saved);
    let mut reading = Digesting::new(repository.open_object(&object)?);
    let mut bytes = Vec::new();
    let read = reading.read_to_end(&mut bytes);
    read.map_err(BackupError::io(&object))?;
    reading.compare(&object, saved)?;
    let keys = KeyringCopy::parse(&bytes, Some(manifest.store_id));
    keys.map_err(|error| refused(manifest, &error))
}

/// Checks the keys that a backup is restored with against the restored part of its log.
///
/// # Errors
/// They are too few.
pub(super) fn check(
    keys: &KeyringCopy,
    manifest: &Manifest,
    last_used: u64,
) -> Result<(), BackupError> {
    let checked = keys.check_used(last_used);
    checked.map_err(|error| refused(manifest, &error))
}

fn refused(manifest: &Manifest, error: &KeyringError) -> BackupError {
    BackupError::Refused(match &manifest.missing_keys {
        None => error.to_string(),
        Some(reason) => format!(
            "{error}. Backup {} was made without them ({reason}): restore an earlier one, or this \
             one only as far as they suffice (--until)",
            manifest.name
        ),
    })
}

/// Finds the keys for a backup: those of the newest backup that follows it in its history.
///
/// # Errors
/// The backup had keys, and none are left.
pub(super) fn find(
    repository: &Repository,
    (manifest, catalog): (&Manifest, &Catalog),
) -> Result<Option<SavedFile>, BackupError> {
    if manifest.keys.is_none() && manifest.missing_keys.is_none() {
        return Ok(None);
    }
    let own = manifest.keys.as_ref();
    let objects = repository.list(KEYS)?;
    let there: BTreeSet<String> = objects.iter().map(|it| it.name.clone()).collect();
    let line = catalog.line(manifest);
    let saved_later = line.iter().filter_map(|backup| backup.keys.as_ref()).rev();
    let mut candidates = saved_later.chain(own);
    let found = candidates.find(|keys| there.contains(&object(keys)));
    let found = found.cloned();
    // Keys may have been added by hand to a copy of the repository that was made without them. They
    // are later ones, so no manifest there names them.
    let is_named = |name: &str| {
        let mut named = catalog.readable().filter_map(|backup| backup.keys.as_ref());
        named.any(|keys| object(keys) == name)
    };
    let given = match objects.as_slice() {
        [only] if own.is_none_or(|own| only.size >= own.size) && !is_named(&only.name) => {
            let blake3 = only.name.strip_prefix(KEYS);
            blake3.map(|blake3| saved(only.size, blake3.to_owned()))
        }
        _ => None,
    };
    match (found.or(given), own) {
        (None, Some(own)) => Err(missing(&object(own))),
        (found, _) => Ok(found),
    }
}
