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

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
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
            File::open(folder)?.sync_all()?;
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
        for (number, slot) in (1..).zip(&slot::parse(&bytes, Some(store_id))?) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::disk::Disk as _;
    use crate::testkit::disk::{Faults, MemoryDisk};

    /// Of a log in which nothing is sealed.
    fn unused(_: Look) -> u64 {
        0
    }

    fn subjects(names: &[&str]) -> BTreeSet<UserId> {
        names.iter().map(|name| UserId::from(*name)).collect()
    }

    fn key_of(ring: &Keyring, name: &str) -> (u64, SubjectKey) {
        let wanted = subjects(&[name]);
        ring.make(&wanted).unwrap();
        let found = ring.find(&wanted).unwrap().unwrap();
        found.into_values().next().unwrap()
    }

    #[test]
    fn a_key_is_the_same_until_it_is_destroyed_and_never_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::new_v4();
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        assert_eq!(ring.find(&subjects(&["ada"])).unwrap(), None);
        let (ada, bob) = (key_of(&ring, "ada"), key_of(&ring, "bob"));
        assert_eq!((ada.0, bob.0), (1, 2));
        assert_ne!(ada.1, bob.1);
        let before = KeyringCopy::read(folder.path()).unwrap();
        drop(ring);
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        assert_eq!(key_of(&ring, "ada"), ada);

        ring.destroy(&[ada.0, 99]).unwrap();
        assert_eq!(ring.state(ada.0), KeyState::Destroyed);
        assert_eq!(ring.state(bob.0), KeyState::Live(bob.1.clone()));
        assert_eq!(ring.state(3), KeyState::Missing);
        let bytes = std::fs::read(folder.path().join(KEYRING_FILE)).unwrap();
        assert!(!bytes.windows(32).any(|part| part == ada.1.0));
        // Who is told of him again gets another one.
        assert_eq!(key_of(&ring, "ada").0, 3);
        drop(ring);
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        assert_eq!(ring.state(ada.0), KeyState::Destroyed);
        assert_eq!(ring.number_of(&"ada".into()), Some(3));

        let after = KeyringCopy::read(folder.path()).unwrap();
        assert_eq!(after.state(ada.0), KeyState::Destroyed);
        assert_eq!(after.with(before).state(ada.0), KeyState::Live(ada.1));
    }

    fn file_on(disk: &MemoryDisk) -> Arc<dyn DiskFile> {
        let file = disk.create(KEYRING_FILE);
        let file = file.or_else(|_| disk.open(KEYRING_FILE)).unwrap();
        disk.sync_folder().unwrap();
        file
    }

    #[test]
    fn keys_that_a_start_has_outlive_a_power_cut() {
        let (disk, store) = (MemoryDisk::default(), Uuid::new_v4());
        let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
        let ada = key_of(&ring, "ada");
        drop(ring);
        // A process that ended between the write and the flush of two more.
        for (number, subject) in (2..).zip([[1; 24], [2; 24]]) {
            let back = u16::try_from(number - 2).unwrap();
            let slot = Slot::Live(subject, SubjectKey([3; 32])).encode(number, back);
            file_on(&disk).write_at(&slot, offset(number)).unwrap();
        }
        let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
        let after = disk.lose_power(|_| false);
        let after = Keyring::of(file_on(&after), store, unused).unwrap();
        assert_eq!(after.state(1), KeyState::Live(ada.1));
        for number in [2, 3] {
            assert_ne!(ring.state(number), KeyState::Missing);
            assert_eq!(after.state(number), ring.state(number));
        }
    }

    #[test]
    fn a_key_whose_destruction_was_not_flushed_is_destroyed_again() {
        let (disk, store) = (MemoryDisk::default(), Uuid::new_v4());
        let ring = Keyring::of(file_on(&disk), store, unused).unwrap();
        let (number, _) = key_of(&ring, "ada");
        disk.set_faults(Faults {
            sync_fails: true,
            ..Faults::default()
        });
        assert!(ring.destroy(&[number]).is_err());
        disk.set_faults(Faults::default());
        ring.destroy(&[number]).unwrap();
        let after = disk.lose_power(|_| false);
        let after = Keyring::of(file_on(&after), store, unused).unwrap();
        assert_eq!(after.state(number), KeyState::Destroyed);
    }

    #[test]
    fn those_who_come_while_keys_are_made_share_the_next_flush() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap();
        ring.make(&subjects(&["first"])).unwrap();
        let names: Vec<String> = (0..16).map(|number| format!("user-{number}")).collect();
        std::thread::scope(|scope| {
            let running = ring.adding.lock();
            for pair in names.windows(2) {
                let ring = &ring;
                scope.spawn(move || ring.make(&subjects(&[&pair[0], &pair[1]])).unwrap());
            }
            while ring.known.lock().wanted.len() < names.len() {
                std::thread::yield_now();
            }
            // Nobody is kept from keys that are there.
            assert!(ring.find(&subjects(&["first"])).unwrap().is_some());
            assert_eq!(ring.find(&subjects(&["user-7"])).unwrap(), None);
            drop(running);
        });
        let bytes = std::fs::read(folder.path().join(KEYRING_FILE)).unwrap();
        let slots = bytes.chunks(SLOT_BYTES).zip(0..).skip(1);
        let backs: Vec<u16> = slots
            .map(|(slot, number)| Slot::decode(slot, number).unwrap().1)
            .collect();
        let expected: Vec<u16> = [0].into_iter().chain(0..16).collect();
        assert_eq!(backs, expected);
        for name in &names {
            assert!(ring.find(&subjects(&[name])).unwrap().is_some());
        }
    }

    #[test]
    fn more_than_a_batch_is_made_in_batches() {
        let folder = tempfile::tempdir().unwrap();
        let ring = Keyring::open(folder.path(), Uuid::new_v4(), unused).unwrap();
        let names: Vec<String> = (0..=MAX_BATCH).map(|number| number.to_string()).collect();
        let names: BTreeSet<UserId> = names.iter().map(|name| name.as_str().into()).collect();
        ring.make(&names).unwrap();
        assert_eq!(ring.find(&names).unwrap().unwrap().len(), names.len());
    }

    #[test]
    fn any_part_of_a_batch_that_was_being_added_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::new_v4();
        let path = folder.path().join(KEYRING_FILE);
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        let durable = key_of(&ring, "durable");
        ring.make(&subjects(&["a", "b", "c", "d"])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for kept in 0..15_u8 {
            let mut torn = whole.clone();
            for number in (0..4).filter(|number| kept >> number & 1 == 0) {
                torn[(number + 2) * SLOT_BYTES..][..SLOT_BYTES].fill(0);
            }
            std::fs::write(&path, &torn).unwrap();
            let num_whole = 1 + u64::from(kept.trailing_ones());
            let ring = Keyring::open(folder.path(), store, unused).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().len(),
                offset(num_whole + 1)
            );
            assert_eq!(key_of(&ring, "durable"), durable);
            assert_eq!(key_of(&ring, "e").0, num_whole + 1);
        }
        // What was durable before its batch is damage when it is not there.
        let mut lost = whole;
        lost[SLOT_BYTES..2 * SLOT_BYTES].fill(0);
        std::fs::write(&path, &lost).unwrap();
        let refused = Keyring::open(folder.path(), store, unused).err().unwrap();
        assert!(matches!(refused, KeyringError::Damaged(1)));
    }

    #[test]
    fn what_was_being_added_is_cut_and_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::new_v4();
        let path = folder.path().join(KEYRING_FILE);
        let ring = Keyring::open(folder.path(), store, unused).unwrap();
        ring.make(&subjects(&["a", "b", "c"])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for torn in 1..SLOT_BYTES {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let ring = Keyring::open(folder.path(), store, unused).unwrap();
            assert_eq!(ring.state(3), KeyState::Missing, "{torn}");
            assert_eq!(key_of(&ring, "d").0, 3);
        }
        for bit in (SLOT_BYTES * 8)..(SLOT_BYTES * 3 * 8) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let refused = Keyring::open(folder.path(), store, unused).err().unwrap();
            assert!(matches!(refused, KeyringError::Damaged(1 | 2)), "{bit}");
            assert!(KeyringCopy::read(folder.path()).is_err());
        }
        std::fs::write(&path, &whole).unwrap();
        let other = Keyring::open(folder.path(), Uuid::new_v4(), unused);
        assert!(matches!(other, Err(KeyringError::Foreign)));
    }
}
