//! The keys of subjects: what is about a person is sealed in the log with a key of his own, and he is
//! erased by destroying it.
//!
//! ```text
//! file   = header(64)  slot(64)*
//! header = magic(8)  store id(16)  zeros
//! slot   = state u8  zeros(3)  crc32 u32  subject(24)  key(32)
//! ```
//!
//! A key's number is the place of its slot, from 1, and is never given twice. A key is durable before
//! anything is sealed with it. It is destroyed where it stands: one small write into one sector, then a
//! flush, which needs no space and leaves no copy. The subject is known by a hash, which goes as well.
//!
//! No page of this file is in the log, and a backup keeps the newest state of it only; so whatever copy
//! of the log turns up later, a destroyed key does not come with it.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use parking_lot::Mutex;
use skytrail_schema::codec::{KeyState, Sealing, SubjectKey, SubjectKeys};
use skytrail_schema::id::UserId;
use uuid::Uuid;

/// The file's name in the data folder.
pub const KEYRING_FILE: &str = "subjects.keys";

const MAGIC: &[u8; 8] = b"SKYKEYS1";
const SLOT: usize = 64;
const LIVE: u8 = 1;
const DESTROYED: u8 = 2;

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
}

/// The keys of a log that is being written.
#[derive(Debug)]
pub struct Keyring {
    file: File,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The keys that new events are sealed with.
    current: HashMap<[u8; 24], u64>,
    /// Those that nothing may be sealed with any more.
    retired: BTreeSet<u64>,
    /// The last number.
    last: u64,
}

impl Keyring {
    /// Opens the keys of a store, or begins with none.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn open(folder: &Path, store_id: Uuid) -> Result<Self, KeyringError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600);
        let file = options.truncate(false).open(folder.join(KEYRING_FILE))?;
        let bytes = read_all(&file)?;
        if bytes.iter().all(|byte| *byte == 0) {
            file.set_len(0)?;
            file.write_all_at(&header(store_id), 0)?;
            file.sync_all()?;
            File::open(folder)?.sync_all()?;
            return Ok(Self::of(file, Known::default()));
        }
        let slots = parse(&bytes, Some(store_id))?;
        let mut known = Known::default();
        for (number, slot) in (1..).zip(&slots) {
            if let Slot::Live(subject, _) = slot {
                known.current.insert(*subject, number);
            }
            known.last = number;
        }
        // What was being added when everything ended.
        file.set_len(offset(known.last + 1))?;
        Ok(Self::of(file, known))
    }

    fn of(file: File, known: Known) -> Self {
        Self {
            file,
            known: Mutex::new(known),
        }
    }

    /// Returns the keys to seal something about these subjects with, if all of them have one.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn find(&self, subjects: &BTreeSet<UserId>) -> io::Result<Option<Sealing>> {
        let known = self.known.lock();
        let mut found = Sealing::new();
        for subject in subjects {
            let Some(number) = known.current.get(&digest(subject)) else {
                return Ok(None);
            };
            match self.slot(*number)? {
                Slot::Live(_, key) => found.insert(subject.clone(), (*number, key)),
                Slot::Destroyed => return Ok(None),
            };
        }
        Ok(Some(found))
    }

    /// Makes keys for those of the subjects that have none, durably. Blocks.
    ///
    /// # Errors
    /// The device's; nothing was made then.
    pub(super) fn make(&self, subjects: &BTreeSet<UserId>) -> io::Result<()> {
        let mut known = self.known.lock();
        let digests = subjects.iter().map(digest);
        let new: Vec<_> = digests
            .filter(|digest| !known.current.contains_key(digest))
            .collect();
        let end = offset(known.last + 1);
        let mut bytes = Vec::with_capacity(new.len() * SLOT);
        for (number, subject) in (known.last + 1..).zip(&new) {
            let key = SubjectKey(rand::random());
            bytes.extend(Slot::Live(*subject, key).encode(number));
        }
        let written = self.file.write_all_at(&bytes, end);
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            let _ = self.file.set_len(end);
            return Err(error);
        }
        for subject in new {
            known.last += 1;
            let number = known.last;
            known.current.insert(subject, number);
        }
        Ok(())
    }

    /// Returns the number of a subject's key, if he has one.
    pub(crate) fn number_of(&self, subject: &UserId) -> Option<u64> {
        self.known.lock().current.get(&digest(subject)).copied()
    }

    /// Nothing is sealed with these keys any more: who needs one for a subject of theirs gets another.
    pub(super) fn retire(&self, numbers: &[u64]) {
        let mut known = self.known.lock();
        known.current.retain(|_, number| !numbers.contains(number));
        known.retired.extend(numbers);
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
            if self.slot(*number)? != Slot::Destroyed {
                let bytes = Slot::Destroyed.encode(*number);
                self.file.write_all_at(&bytes, offset(*number))?;
                has_written = true;
            }
        }
        if has_written {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn slot(&self, number: u64) -> io::Result<Slot> {
        let mut bytes = [0; SLOT];
        self.file.read_exact_at(&mut bytes, offset(number))?;
        let slot = Slot::decode(&bytes, number);
        slot.ok_or_else(|| io::Error::other(KeyringError::Damaged(number)))
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

/// The keys as they are while somebody reads the log beside its server: those that are destroyed
/// meanwhile are known still, since the log that was read before does not say so yet.
#[derive(Debug, Default)]
pub struct KeyringCopy {
    slots: Vec<Slot>,
}

impl KeyringCopy {
    /// Reads the keys in a data folder; none when there is no file.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn read(folder: &Path) -> Result<Self, KeyringError> {
        let bytes = match std::fs::read(folder.join(KEYRING_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::parse(&bytes)
    }

    /// Reads the bytes of such a file.
    ///
    /// # Errors
    /// Damaged, or none.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyringError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Self::default());
        }
        let slots = parse(bytes, None)?;
        Ok(Self { slots })
    }

    /// Adds what an earlier copy has, and this one has no more.
    #[must_use]
    pub fn with(mut self, earlier: Self) -> Self {
        for (slot, before) in self.slots.iter_mut().zip(earlier.slots) {
            if *slot == Slot::Destroyed {
                *slot = before;
            }
        }
        self
    }
}

impl SubjectKeys for KeyringCopy {
    fn state(&self, number: u64) -> KeyState {
        let place = number.checked_sub(1).map(usize::try_from);
        let slot = place.and_then(|place| self.slots.get(place.ok()?));
        slot.cloned().map_or(KeyState::Missing, Slot::into_state)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Slot {
    Live([u8; 24], SubjectKey),
    Destroyed,
}

impl Slot {
    fn encode(&self, number: u64) -> [u8; SLOT] {
        let (state, subject, key) = match self {
            Self::Live(subject, key) => (LIVE, *subject, key.0),
            Self::Destroyed => (DESTROYED, [0; 24], [0; 32]),
        };
        let crc = checksum(number, state, &subject, &key);
        let parts: [&[u8]; 5] = [&[state], &[0; 3], &crc.to_le_bytes(), &subject, &key];
        let mut bytes = [0; SLOT];
        for (byte, part) in bytes.iter_mut().zip(parts.concat()) {
            *byte = part;
        }
        bytes
    }

    fn decode(bytes: &[u8], number: u64) -> Option<Self> {
        let (state, rest) = bytes.split_first()?;
        let (zeros, rest) = rest.split_first_chunk::<3>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let (subject, key) = rest.split_first_chunk::<24>()?;
        let key: [u8; 32] = key.try_into().ok()?;
        let is_whole =
            *zeros == [0; 3] && u32::from_le_bytes(*crc) == checksum(number, *state, subject, &key);
        match *state {
            LIVE if is_whole => Some(Self::Live(*subject, SubjectKey(key))),
            DESTROYED if is_whole => Some(Self::Destroyed),
            _ => None,
        }
    }

    fn into_state(self) -> KeyState {
        match self {
            Self::Live(_, key) => KeyState::Live(key),
            Self::Destroyed => KeyState::Destroyed,
        }
    }
}

/// Reads all slots. What does not hold together at the end was never used; anywhere else it is damage.
fn parse(bytes: &[u8], store_id: Option<Uuid>) -> Result<Vec<Slot>, KeyringError> {
    let (head, rest) = bytes.split_at_checked(SLOT).unwrap_or((bytes, &[]));
    let id = head.get(MAGIC.len()..MAGIC.len() + 16).unwrap_or_default();
    if !head.starts_with(MAGIC) || id.len() != 16 {
        return Err(KeyringError::Damaged(0));
    }
    if store_id.is_some_and(|store_id| store_id.as_bytes() != id) {
        return Err(KeyringError::Foreign);
    }
    let mut slots = Vec::with_capacity(rest.len() / SLOT);
    let mut bad = None;
    for (number, bytes) in (1..).zip(rest.chunks(SLOT)) {
        match (Slot::decode(bytes, number), bad) {
            (Some(slot), None) => slots.push(slot),
            (Some(_), Some(bad)) => return Err(KeyringError::Damaged(bad)),
            (None, None) => bad = Some(number),
            (None, Some(_)) => {}
        }
    }
    Ok(slots)
}

fn header(store_id: Uuid) -> [u8; SLOT] {
    let mut bytes = [0; SLOT];
    let parts = MAGIC.iter().chain(store_id.as_bytes());
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = *part;
    }
    bytes
}

fn offset(number: u64) -> u64 {
    number * SLOT as u64
}

fn digest(subject: &UserId) -> [u8; 24] {
    let hash = blake3::hash(subject.as_str().as_bytes());
    let (digest, _) = hash
        .as_bytes()
        .split_first_chunk()
        .unwrap_or((&[0; 24], &[]));
    *digest
}

fn checksum(number: u64, state: u8, subject: &[u8; 24], key: &[u8; 32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&[state]);
    hasher.update(subject);
    hasher.update(key);
    hasher.finalize()
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let ring = Keyring::open(folder.path(), store).unwrap();
        assert_eq!(ring.find(&subjects(&["ada"])).unwrap(), None);
        let (ada, bob) = (key_of(&ring, "ada"), key_of(&ring, "bob"));
        assert_eq!((ada.0, bob.0), (1, 2));
        assert_ne!(ada.1, bob.1);
        let before = KeyringCopy::read(folder.path()).unwrap();
        drop(ring);
        let ring = Keyring::open(folder.path(), store).unwrap();
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
        let ring = Keyring::open(folder.path(), store).unwrap();
        assert_eq!(ring.state(ada.0), KeyState::Destroyed);
        assert_eq!(ring.number_of(&"ada".into()), Some(3));

        let after = KeyringCopy::read(folder.path()).unwrap();
        assert_eq!(after.state(ada.0), KeyState::Destroyed);
        assert_eq!(after.with(before).state(ada.0), KeyState::Live(ada.1));
    }

    #[test]
    fn what_was_being_added_is_cut_and_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::new_v4();
        let path = folder.path().join(KEYRING_FILE);
        let ring = Keyring::open(folder.path(), store).unwrap();
        ring.make(&subjects(&["a", "b", "c"])).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for torn in 1..SLOT {
            std::fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let ring = Keyring::open(folder.path(), store).unwrap();
            assert_eq!(ring.state(3), KeyState::Missing, "{torn}");
            assert_eq!(key_of(&ring, "d").0, 3);
        }
        for bit in (SLOT * 8)..(SLOT * 3 * 8) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &flipped).unwrap();
            let refused = Keyring::open(folder.path(), store).unwrap_err();
            assert!(matches!(refused, KeyringError::Damaged(1 | 2)), "{bit}");
            assert!(KeyringCopy::read(folder.path()).is_err());
        }
        std::fs::write(&path, &whole).unwrap();
        let other = Keyring::open(folder.path(), Uuid::new_v4());
        assert!(matches!(other, Err(KeyringError::Foreign)));
    }
}
