//! A slot of the file: a key, or the place of a destroyed one.
//!
//! ```text
//! header = magic(8)  store id(16)  zeros
//! slot   = state u8  zero u8  back u16  crc32 u32  subject(24)  key(32)
//! ```
//!
//! Keys that were made durable together are a batch, and `back` is how many slots of the batch come
//! before this one. If the process ends while it writes a batch, any part of it may be on disk,
//! with zeros in place of the rest. None of it was used, so a gap is not damage if everything after
//! it belongs to the same batch.

use skytrail_schema::codec::{KeyState, SubjectKey};
use skytrail_schema::id::UserId;
use uuid::Uuid;

use super::KeyringError;

pub(super) const SLOT_BYTES: usize = 64;

const MAGIC: &[u8; 8] = b"SKYKEYS1";
const LIVE: u8 = 1;
const DESTROYED: u8 = 2;

/// The hash that identifies a subject.
pub(super) type Subject = [u8; 24];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Live(Subject, SubjectKey),
    Destroyed,
}

impl Slot {
    pub(super) fn encode(&self, number: u64, back: u16) -> [u8; SLOT_BYTES] {
        let (state, subject, key) = match self {
            Self::Live(subject, key) => (LIVE, *subject, key.0),
            Self::Destroyed => (DESTROYED, [0; 24], [0; 32]),
        };
        let crc = checksum(number, back, state, &subject, &key).to_le_bytes();
        let parts: [&[u8]; 5] = [&[state, 0], &back.to_le_bytes(), &crc, &subject, &key];
        let mut bytes = [0; SLOT_BYTES];
        for (byte, part) in bytes.iter_mut().zip(parts.concat()) {
            *byte = part;
        }
        bytes
    }

    /// Returns the slot, and how many slots of its batch come before it.
    pub(super) fn decode(bytes: &[u8], number: u64) -> Option<(Self, u16)> {
        let ([state, zero], rest) = bytes.split_first_chunk()?;
        let (back, rest) = rest.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let (subject, key) = rest.split_first_chunk::<24>()?;
        let key: [u8; 32] = key.try_into().ok()?;
        let back = u16::from_le_bytes(*back);
        let is_whole =
            *zero == 0 && u32::from_le_bytes(*crc) == checksum(number, back, *state, subject, &key);
        match *state {
            LIVE if is_whole => Some((Self::Live(*subject, SubjectKey(key)), back)),
            DESTROYED if is_whole => Some((Self::Destroyed, back)),
            _ => None,
        }
    }

    pub(super) fn into_state(self) -> KeyState {
        match self {
            Self::Live(_, key) => KeyState::Live(key),
            Self::Destroyed => KeyState::Destroyed,
        }
    }
}

/// Reads all slots. A broken slot at the end was never used; anywhere else it is damage.
pub(super) fn parse(bytes: &[u8], store_id: Option<Uuid>) -> Result<Vec<Slot>, KeyringError> {
    let (head, rest) = bytes.split_at_checked(SLOT_BYTES).unwrap_or((bytes, &[]));
    let id = head.get(MAGIC.len()..MAGIC.len() + 16).unwrap_or_default();
    if !head.starts_with(MAGIC) || id.len() != 16 {
        return Err(KeyringError::Damaged(0));
    }
    if store_id.is_some_and(|store_id| store_id.as_bytes() != id) {
        return Err(KeyringError::Foreign);
    }
    let mut slots = Vec::with_capacity(rest.len() / SLOT_BYTES);
    let mut bad: Option<(u64, bool)> = None;
    for (number, bytes) in (1..).zip(rest.chunks(SLOT_BYTES)) {
        match (Slot::decode(bytes, number), bad) {
            (Some((slot, _)), None) => slots.push(slot),
            (Some((_, back)), Some((bad, was_written))) => {
                let was_durable = number - u64::from(back).min(number) > bad;
                if was_written || was_durable {
                    return Err(KeyringError::Damaged(bad));
                }
            }
            (None, None) => bad = Some((number, bytes.iter().any(|byte| *byte != 0))),
            (None, Some(_)) => {}
        }
    }
    Ok(slots)
}

pub(super) fn header(store_id: Uuid) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    let parts = MAGIC.iter().chain(store_id.as_bytes());
    for (byte, part) in bytes.iter_mut().zip(parts) {
        *byte = *part;
    }
    bytes
}

pub(super) fn offset(number: u64) -> u64 {
    number * SLOT_BYTES as u64
}

pub(super) fn digest(subject: &UserId) -> Subject {
    let hash = blake3::hash(subject.as_str().as_bytes());
    let (digest, _) = hash
        .as_bytes()
        .split_first_chunk()
        .unwrap_or((&[0; 24], &[]));
    *digest
}

/// `back` is covered only if it is not 0: slots from before it existed keep their checksums.
fn checksum(number: u64, back: u16, state: u8, subject: &Subject, key: &[u8; 32]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    if back > 0 {
        hasher.update(&back.to_le_bytes());
    }
    hasher.update(&[state]);
    hasher.update(subject);
    hasher.update(key);
    hasher.finalize()
}
