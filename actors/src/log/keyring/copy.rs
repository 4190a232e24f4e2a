//! The keys of a log that another process may be writing.

use std::io;
use std::path::Path;

use skytrail_schema::codec::{KeyState, SubjectKeys};
use uuid::Uuid;

use super::slot::{self, Slot};
use super::{KEYRING_FILE, KeyringError};

/// The keys for reading a log next to its server. Keys that are destroyed meanwhile are still
/// known, because the part of the log that was read before does not say so yet.
#[derive(Debug, Default)]
pub struct KeyringCopy {
    slots: Vec<Slot>,
}

impl KeyringCopy {
    /// Reads the keys in a data folder; none when the file does not exist.
    ///
    /// # Errors
    /// See [`KeyringError`].
    pub fn read(folder: &Path) -> Result<Self, KeyringError> {
        let bytes = match std::fs::read(folder.join(KEYRING_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        Self::parse(&bytes, None)
    }

    /// Reads the bytes of such a file; `store_id` is the store that it has to belong to, if known.
    ///
    /// # Errors
    /// The file is damaged, or belongs to another store.
    pub fn parse(bytes: &[u8], store_id: Option<Uuid>) -> Result<Self, KeyringError> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Self::default());
        }
        let slots = slot::parse(bytes, store_id)?;
        Ok(Self { slots })
    }

    /// Returns the highest number of a key, including destroyed ones.
    pub fn last(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Checks that there are at least as many keys as the highest number in use.
    ///
    /// # Errors
    /// There are fewer keys.
    pub fn check_used(&self, used: u64) -> Result<(), KeyringError> {
        let has = self.last();
        if used > has {
            return Err(KeyringError::Lost { has, used });
        }
        Ok(())
    }

    /// Adds the keys that an earlier copy has and this one has destroyed.
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
