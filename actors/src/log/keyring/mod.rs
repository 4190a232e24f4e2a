//! The keys of subjects: what is about a person is sealed in the log with a key of his own, and he is
//! erased by destroying it.
//!
//! ```text
//! file   = header(64)  slot(64)*
//! ```
//!
//! A key's number is the place of its slot, from 1, and is never given twice. A key is durable before
//! anything is sealed with it: who needs one waits for a flush, and those who come while another's runs
//! share the next. It is destroyed where it stands: one small write into one sector, then a flush, which
//! needs no space and leaves no copy. The subject is known by a hash, which goes as well.
//!
//! No page of this file is in the log, and a backup keeps the newest state of it only; so whatever copy
//! of the log turns up later, a destroyed key does not come with it.

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

/// So many keys at most are made durable together.
const MAX_BATCH: u16 = 4096;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The device.
    #[error("the keys of subjects are not accessible: {0}")]
    Io(#[from] io::Error),
    /// They belong to another log.
    #[error("{KEYRING_FILE} has the keys of another store")]
    Foreign,
    /// Bytes that were durable are not what was written.
    #[error("{KEYRING_FILE} is damaged at key {0}: put it back from a backup")]
    Damaged(u64),
    /// It is missing, or older than the log. Its next keys would have numbers that are in use.
    #[error(
        "{KEYRING_FILE} has {has} keys, and the log is sealed with key {used}: \
         put its newest state back from a backup"
    )]
    Lost {
        /// How many keys the file has.
        has: u64,
        /// A key that it does not have.
        used: u64,
    },
}

/// Which events are looked at for the keys that they are sealed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All of the log.
    All,
    /// Its last events.
    Newest,
}

/// The keys of a log that is being written.
pub struct Keyring {
    file: Arc<dyn DiskFile>,
    known: Mutex<Known>,
    /// Held by who adds keys to the file; whoever looks at what is known meanwhile does not wait.
    adding: Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// The keys that new events are sealed with.
    current: HashMap<Subject, u64>,
    /// Those that nothing may be sealed with any more.
    retired: BTreeSet<u64>,
    /// Who waits for a key.
    wanted: BTreeSet<Subject>,
    /// The last number that is durable.
    last: u64,
}

impl Keyring {
    /// Opens the keys of a store, or begins with none. `last_used` finds the highest number of a key
    /// that the log is sealed with.
    ///
    /// # Errors
    /// See [`KeyringError`]; the file is as it was.
    pub(super) fn open(
        folder: &Path,
        store_id: Uuid,
        last_used: impl FnOnce(Look) -> u64,
    ) -> Result<Self, KeyringError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let file = options.truncate(false).open(folder.join(KEYRING_FILE))?;
        let ring = Self::of(Arc::new(file), store_id, last_used)?;
        if ring.known.lock().last == 0 {
            // The file may be new.
            sync_folder(folder)?;
        }
        Ok(ring)
    }

    fn of(
        file: Arc<dyn DiskFile>,
        store_id: Uuid,
        last_used: impl FnOnce(Look) -> u64,
    ) -> Result<Self, KeyringError> {
        let length = usize::try_from(file.size()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_at(&mut bytes, 0)?;
        let mut known = Known::default();
        let mut look = Look::Newest;
        if bytes.iter().all(|byte| *byte == 0) {
            bytes = slot::header(store_id).to_vec();
            look = Look::All;
        }
        let slots = match slot::parse(&bytes, Some(store_id)) {
            // A first start ended before the log was made: the file is nobody's yet.
            Err(KeyringError::Foreign) if bytes.iter().skip(SLOT_BYTES).all(|byte| *byte == 0) => {
                bytes = slot::header(store_id).to_vec();
                look = Look::All;
                Vec::new()
            }
            parsed => parsed?,
        };
        for (number, slot) in (1..).zip(&slots) {
            if let Slot::Live(subject, _) = slot {
                known.current.insert(*subject, number);
            }
            known.last = number;
        }
        let (has, used) = (known.last, last_used(look));
        if used > has {
            return Err(KeyringError::Lost { has, used });
        }
        // What is behind that was being added when everything ended.
        let end = offset(known.last + 1);
        file.set_len(end)?;
        // The last batch may be in the page cache alone: the process may have ended before the flush.
        // Nobody may use its keys before they are durable, so it is written again.
        let start = offset(known.last.saturating_sub(MAX_BATCH.into()));
        let range = usize::try_from(start).map_err(io::Error::other)?
            ..usize::try_from(end).map_err(io::Error::other)?;
        file.write_at(bytes.get(range).unwrap_or_default(), start)?;
        file.sync_data()?;
        Ok(Self {
            file,
            known: Mutex::new(known),
            adding: Mutex::default(),
        })
    }

    /// Returns the keys to seal something about these subjects with, if all of them have one.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn find(&self, subjects: &BTreeSet<UserId>) -> io::Result<Option<Sealing>> {
        let known = self.known.lock();
        let mut found = Sealing::new();
        for subject in subjects {
            let Some(number) = known.current.get(&slot::digest(subject)) else {
                return Ok(None);
            };
            match self.slot(*number)? {
                Slot::Live(_, key) => found.insert(subject.clone(), (*number, key)),
                Slot::Destroyed => return Ok(None),
            };
        }
        Ok(Some(found))
    }

    /// Makes keys for those of the subjects that have none, durably, together with those that others
    /// wait for. Blocks.
    ///
    /// # Errors
    /// The device's; these subjects have none then.
    pub(super) fn make(&self, subjects: &BTreeSet<UserId>) -> io::Result<()> {
        let subjects: Vec<Subject> = subjects.iter().map(slot::digest).collect();
        self.known.lock().want(&subjects);
        let _adding = self.adding.lock();
        // Most of those who have waited were served by the one before.
        while self.known.lock().want(&subjects) {
            self.make_wanted()?;
        }
        Ok(())
    }

    /// Makes keys for those who wait, with one flush. Only for who holds `adding`.
    fn make_wanted(&self) -> io::Result<()> {
        let (batch, last) = {
            let mut known = self.known.lock();
            let mut batch = std::mem::take(&mut known.wanted);
            if let Some(rest) = batch.iter().nth(MAX_BATCH.into()).copied() {
                known.wanted = batch.split_off(&rest);
            }
            (batch, known.last)
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
        let mut known = self.known.lock();
        for (number, subject) in (last + 1..).zip(batch) {
            known.last = number;
            known.current.insert(subject, number);
        }
        Ok(())
    }

    /// Returns the number of a subject's key, if he has one.
    pub(crate) fn number_of(&self, subject: &UserId) -> Option<u64> {
        self.known
            .lock()
            .current
            .get(&slot::digest(subject))
            .copied()
    }

    /// Nothing is sealed with these keys any more: who needs one for a subject of theirs gets another.
    pub(super) fn retire(&self, numbers: &[u64]) {
        if numbers.is_empty() {
            return;
        }
        let mut known = self.known.lock();
        let Known {
            current, retired, ..
        } = &mut *known;
        retired.extend(numbers);
        current.retain(|_, number| !retired.contains(number));
    }

    /// Says whether nothing may be sealed with a key any more.
    pub(super) fn is_retired(&self, number: u64) -> bool {
        self.known.lock().retired.contains(&number)
    }

    /// Destroys keys: what is sealed with them is gone for good when this returns. Blocks. Numbers that
    /// there are none of are passed over.
    ///
    /// # Errors
    /// The device's; may be tried again.
    pub(super) fn destroy(&self, numbers: &[u64]) -> io::Result<()> {
        self.retire(numbers);
        let known = self.known.lock();
        let mut has_written = false;
        for number in numbers.iter().filter(|number| **number <= known.last) {
            // Also one that looks destroyed: if its flush failed, that is in the page cache alone.
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

impl Known {
    /// Puts those of the subjects that have no key yet to those who wait; says whether there are any.
    fn want(&mut self, subjects: &[Subject]) -> bool {
        let subjects = subjects.iter().copied();
        let new: Vec<_> = subjects
            .filter(|subject| !self.current.contains_key(subject))
            .collect();
        self.wanted.extend(&new);
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
