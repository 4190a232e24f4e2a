//! The keys of subjects: events about a person are sealed in the log with that person's own key,
//! and destroying the key erases the person.
//!
//! ```text
//! file   = header(64)  slot(64)*
//! ```
//!
//! A key's number is the place of its slot, from 1, and is never used again. A key is durable
//! before anything is sealed with it: a writer that needs one waits for a flush, and those that
//! arrive during another's flush share the next one. A key is destroyed in place: one small write
//! into one sector, then a flush, which needs no space and leaves no copy. The subject is
//! identified by a hash, which is overwritten as well.
//!
//! No part of this file is in the log, and a backup keeps only its newest state. So whatever copy
//! of the log turns up later, it does not bring a destroyed key back.

mod copy;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::codec::{KeyState, Sealing, SubjectKey, SubjectKeys};
use skytrail_schema::id::UserId;
use uuid::Uuid;

pub use copy::KeyringCopy;
use slot::{SLOT_BYTES, Slot, Subject, offset};

use super::disk::DiskFile;
use super::folder::sync_folder;

/// The file's name in the data folder.
pub const KEYRING_FILE: &str = "subjects.keys";

/// At most this many keys are made durable together.
const MAX_BATCH: u16 = 4096;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The device failed.
    #[error("the keys of subjects are not accessible: {0}")]
    Io(#[from] io::Error),
    /// They belong to another log.
    #[error("{KEYRING_FILE} has the keys of another store")]
    Foreign,
    /// Bytes that were durable differ from what was written.
    #[error("{KEYRING_FILE} is damaged at key {0}: restore it from a backup")]
    Damaged(u64),
    /// The file is missing, or older than the log. Its next keys would get numbers that are in use.
    #[error(
        "{KEYRING_FILE} has {has} keys, but the log is sealed with key {used}: \
         restore its newest state from a backup"
    )]
    Lost {
        /// How many keys the file has.
        has: u64,
        /// The number of a key that the file does not have.
        used: u64,
    },
}

/// Which events are searched for the keys that they are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeySearch {
    /// All events of the log.
    All,
    /// The last events of the log.
    Newest,
}

/// The keys of a log that this process writes.
pub struct Keyring {
    file: Arc<dyn DiskFile>,
    table: Mutex<KeyTable>,
    /// Held while keys are added to the file; lookups do not wait for it.
    adding: Mutex<()>,
}

#[derive(Debug, Default)]
struct KeyTable {
    /// The keys that new events are sealed with.
    current: HashMap<Subject, u64>,
    /// Keys that nothing may be sealed with any more.
    retired: BTreeSet<u64>,
    /// Subjects that wait for a key.
    pending: BTreeSet<Subject>,
    /// The last number that is durable.
    last: u64,
}

impl Keyring {
    /// Opens the keys of a store, or starts with none. `last_used` finds the highest number of a
    /// key that the log is sealed with.
    ///
    /// # Errors
    /// See [`KeyringError`]; the file is unchanged.
    pub(super) fn open(
        folder: &Path,
        store_id: Uuid,
        last_used: impl FnOnce(KeySearch) -> u64,
    ) -> Result<Self, KeyringError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let file = options.truncate(false).open(folder.join(KEYRING_FILE))?;
        let ring = Self::of(Arc::new(file), store_id, last_used)?;
        if ring.table.lock().last == 0 {
            // The file may have just been created.
            sync_folder(folder)?;
        }
        Ok(ring)
    }

    fn of(
        file: Arc<dyn DiskFile>,
        store_id: Uuid,
        last_used: impl FnOnce(KeySearch) -> u64,
    ) -> Result<Self, KeyringError> {
        let length = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        let mut table = KeyTable::default();
        let mut look = KeySearch::Newest;
        if bytes.iter().all(|byte| *byte == 0) {
            bytes = slot::header(store_id).to_vec();
            look = KeySearch::All;
        }
        let slots = match slot::parse(&bytes, Some(store_id)) {
            // A first start ended before the log was created: the file belongs to no log yet.
            Err(KeyringError::Foreign) if bytes.iter().skip(SLOT_BYTES).all(|byte| *byte == 0) => {
                bytes = slot::header(store_id).to_vec();
                look = KeySearch::All;
                Vec::new()
            }
            parsed => parsed?,
        };
        for (number, slot) in (1..).zip(&slots) {
            if let Slot::Live(subject, _) = slot {
                table.current.insert(*subject, number);
            }
            table.last = number;
        }
        let (has, used) = (table.last, last_used(look));
        if used > has {
            return Err(KeyringError::Lost { has, used });
        }
        // Anything after that was being added when the process ended.
        let end = offset(table.last + 1);
        file.set_len(end)?;
        // The last batch may only be in the page cache, because the process may have ended before
        // the flush. Its keys must not be used before they are durable, so it is written again.
        let start = offset(table.last.saturating_sub(MAX_BATCH.into()));
        let range = usize::try_from(start).map_err(io::Error::other)?
            ..usize::try_from(end).map_err(io::Error::other)?;
        file.write_at(bytes.get(range).unwrap_or_default(), start)?;
        file.sync_data()?;
        Ok(Self {
            file,
            table: Mutex::new(table),
            adding: Mutex::default(),
        })
    }

    /// Returns the keys to seal events about these subjects with, if all of them have one.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn find(&self, subjects: &BTreeSet<UserId>) -> io::Result<Option<Sealing>> {
        let table = self.table.lock();
        let mut found = Sealing::new();
        for subject in subjects {
            let Some(number) = table.current.get(&slot::digest(subject)) else {
                return Ok(None);
            };
            match self.slot(*number)? {
                Slot::Live(_, key) => found.insert(subject.clone(), (*number, key)),
                Slot::Destroyed => return Ok(None),
            };
        }
        Ok(Some(found))
    }

    /// Creates keys for those of the subjects that have none, durably, together with the keys that
    /// others wait for. Blocks.
    ///
    /// # Errors
    /// The device failed; these subjects have no keys in that case.
    pub(super) fn make(&self, subjects: &BTreeSet<UserId>) -> io::Result<()> {
        let subjects: Vec<Subject> = subjects.iter().map(slot::digest).collect();
        self.table.lock().add_pending(&subjects);
        let _adding = self.adding.lock();
        // Most of those that waited here were served by the one before.
        while self.table.lock().add_pending(&subjects) {
            self.make_pending()?;
        }
        Ok(())
    }

    /// Creates keys for all waiting subjects, with one flush. Only for the holder of `adding`.
    fn make_pending(&self) -> io::Result<()> {
        let (batch, last) = {
            let mut table = self.table.lock();
            let mut batch = std::mem::take(&mut table.pending);
            if let Some(rest) = batch.iter().nth(MAX_BATCH.into()).copied() {
                table.pending = batch.split_off(&rest);
            }
            (batch, table.last)
        };
        let mut bytes = Vec::with_capacity(batch.len() * SLOT_BYTES);
        for ((number, back), subject) in (last + 1..).zip(0..MAX_BATCH).zip(&batch) {
            let key = SubjectKey(rand::random());
            bytes.extend(Slot::Live(*subject, key).encode(number, back));
        }
        let end = offset(last + 1);
        let written = self.file.write_at(&bytes, end);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            let _ = self.file.set_len(end);
            return Err(error);
        }
        let mut table = self.table.lock();
        for (number, subject) in (last + 1..).zip(batch) {
            table.last = number;
            table.current.insert(subject, number);
        }
        Ok(())
    }

    /// Returns the number of a subject's key, if it has one.
    pub(crate) fn number_of(&self, subject: &UserId) -> Option<u64> {
        self.table
            .lock()
            .current
            .get(&slot::digest(subject))
            .copied()
    }

    /// Retires keys: nothing is sealed with them any more, and their subjects get new ones when
    /// needed.
    pub(super) fn retire(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let mut table = self.table.lock();
        let KeyTable {
            current, retired, ..
        } = &mut *table;
        retired.extend(numbers);
        current.retain(|_, number| !retired.contains(number));
    }

    /// Returns whether a key is retired, so that nothing may be sealed with it any more.
    pub(super) fn is_retired(&self, number: u64) -> bool {
        self.table.lock().retired.contains(&number)
    }

    /// Destroys keys: when this returns, what is sealed with them is lost for good. Blocks. Unknown
    /// numbers are skipped.
    ///
    /// # Errors
    /// The device failed; this can be repeated.
    pub(super) fn destroy(&self, numbers: &[u64]) -> io::Result<()> {
        self.retire(numbers);
        let table = self.table.lock();
        let mut has_written = false;
        for number in numbers.iter().filter(|number| **number <= table.last) {
            // Even one that looks destroyed: if its flush failed, that is only in the page cache.
            let bytes = Slot::Destroyed.encode(*number, 0);
            self.file.write_at(&bytes, offset(*number))?;
            has_written = true;
        }
        if has_written {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn slot(&self, number: u64) -> io::Result<Slot> {
        let mut bytes = [0; SLOT_BYTES];
        self.file.read_at(&mut bytes, offset(number))?;
        let slot = Slot::decode(&bytes, number).map(|(slot, _)| slot);
        slot.ok_or_else(|| io::Error::other(KeyringError::Damaged(number)))
    }
}

impl KeyTable {
    /// Adds those of the subjects that have no key yet to those that wait; returns whether there
    /// are any.
    fn add_pending(&mut self, subjects: &[Subject]) -> bool {
        let subjects = subjects.iter().copied();
        let new: Vec<_> = subjects
            .filter(|subject| !self.current.contains_key(subject))
            .collect();
        self.pending.extend(&new);
        !new.is_empty()
    }
}

impl SubjectKeys for Keyring {
    fn state(&self, number: u64) -> KeyState {
        if number == 0 {
            return KeyState::Missing;
        }
        self.slot(number)
            .map_or(KeyState::Missing, Slot::into_state)
    }
}
