//! The keys of subjects in a repository: what is about people is sealed in the log with them.
//!
//! Keys are only ever added or destroyed, so those of a later backup serve every earlier one of the
//! same history. Therefore only the newest are kept, whatever `keep` says: with the first backup after
//! an erasure the key that it destroyed is nowhere in the repository any more. They have a folder of
//! their own, so that copies of the repository can do without it, or keep it for a shorter time.

use std::collections::BTreeSet;

use skytrail_actors::log::KeyringCopy;

use super::BackupError;
use super::local::Local;
use super::manifest::{Manifest, SavedFile};
use super::object::KEYS;
use super::repository::{Repository, missing};

/// How often the keys are read again when one is written meanwhile.
const TRIES: u32 = 5;

/// Returns the name of the object that has a state of the keys.
pub(super) fn object(saved: &SavedFile) -> String {
    format!("{KEYS}{}", saved.blake3)
}

/// Saves the keys as they are now; `None` when there are none.
pub(super) fn save(
    local: &Local,
    repository: &Repository,
) -> Result<Option<SavedFile>, BackupError> {
    let place = local.keyring();
    if !place.exists() {
        return Ok(None);
    }
    let bytes = read(local)?;
    let saved = SavedFile {
        path: skytrail_actors::log::KEYRING_FILE.to_owned(),
        size: bytes.len() as u64,
        blake3: blake3::hash(&bytes).to_hex().to_string(),
        modified: None,
    };
    let name = object(&saved);
    let there = repository.list(KEYS)?;
    if !there.iter().any(|object| object.name == name) {
        repository.put(&name, &mut &*bytes)?;
    }
    Ok(Some(saved))
}

/// Reads the keys while they may be written.
fn read(local: &Local) -> Result<Vec<u8>, BackupError> {
    let place = local.keyring();
    let mut tries = 0;
    loop {
        let bytes = std::fs::read(&place);
        let bytes = bytes.map_err(BackupError::io(place.display().to_string()))?;
        tries += 1;
        match KeyringCopy::parse(&bytes) {
            Ok(_) => return Ok(bytes),
            Err(error) if tries == TRIES => return Err(BackupError::Refused(error.to_string())),
            Err(_) => {}
        }
    }
}

/// Finds the keys for a backup: those of the newest one that comes after it in its history.
///
/// # Errors
/// There were keys, and there are none any more.
pub(super) fn find(
    repository: &Repository,
    wanted: &Manifest,
) -> Result<Option<SavedFile>, BackupError> {
    let Some(own) = &wanted.keys else {
        return Ok(None);
    };
    let objects = repository.list(KEYS)?;
    let there: BTreeSet<String> = objects.iter().map(|it| it.name.clone()).collect();
    let mut line = BTreeSet::from([wanted.name.clone()]);
    let mut found = Some(own.clone()).filter(|own| there.contains(&object(own)));
    // Names are in the order in which backups were made.
    for name in repository.names()? {
        let manifest = match repository.manifest(&name) {
            Ok(manifest) => manifest,
            Err(BackupError::Damaged { .. }) => continue,
            Err(error) => return Err(error),
        };
        if manifest
            .follows
            .is_some_and(|before| line.contains(&before))
        {
            line.insert(name);
            found = manifest
                .keys
                .filter(|keys| there.contains(&object(keys)))
                .or(found);
        }
    }
    // A copy of the repository that was made without its keys was given some: they are later ones.
    let given = match objects.as_slice() {
        [only] if only.size >= own.size => only.name.strip_prefix(KEYS).map(|blake3| SavedFile {
            size: only.size,
            blake3: blake3.to_owned(),
            ..own.clone()
        }),
        _ => None,
    };
    let found = found.or(given);
    found.map(Some).ok_or_else(|| missing(&object(own)))
}

/// Removes the keys that earlier backups of this history had.
pub(super) fn remove_earlier(
    repository: &Repository,
    made: &Manifest,
    own: &[&Manifest],
    foreign: &[&Manifest],
) -> Result<(), BackupError> {
    let objects = |backups: &[&Manifest]| -> BTreeSet<String> {
        let keys = backups.iter().filter_map(|backup| backup.keys.as_ref());
        keys.map(object).collect()
    };
    let mut kept = objects(foreign);
    kept.extend(made.keys.as_ref().map(object));
    for earlier in objects(own).difference(&kept) {
        repository.remove(earlier)?;
    }
    Ok(())
}
