//! Finding what is sealed with a key, from the bytes alone: it does not matter who owns the records
//! now, or whether they still exist.

use skytrail_schema::codec::{self, SealedEvent};

use super::Segments;
use crate::log::ReadError;
use crate::log::keyring::KeySearch;

/// How many events are read at once.
const READ_EVENTS: usize = 4096;

impl Segments {
    /// Finds the events from a position on that are sealed with a key.
    ///
    /// # Errors
    /// The device failed, or the log is damaged.
    pub fn sealed_with(&self, key: u64, from: u64) -> Result<Vec<SealedEvent>, ReadError> {
        let (mut found, mut next) = (Vec::new(), from);
        loop {
            let commits = self.read_raw(next, READ_EVENTS)?;
            if commits.is_empty() {
                return Ok(found);
            }
            for (position, bytes) in commits {
                let damaged = |error: codec::CodecError| ReadError::Damaged {
                    position,
                    reason: error.to_string(),
                };
                next = codec::peek(&bytes).map_err(damaged)?.last_position() + 1;
                let sealed = codec::sealed_events(&bytes).map_err(damaged)?;
                found.extend(sealed.into_iter().filter(|event| event.key == key));
            }
        }
    }

    /// Finds the highest number of a key that an event is sealed with; 0 when there is none. Damage
    /// is not reported here but to whoever reads it.
    pub(in crate::log) fn last_key(&self, look: KeySearch) -> u64 {
        let mut next = match look {
            KeySearch::All => 1,
            KeySearch::Newest => self.head().saturating_sub(READ_EVENTS as u64) + 1,
        };
        let mut last = 0;
        while let Ok(commits) = self.read_raw(next, READ_EVENTS) {
            let Some((_, newest)) = commits.last() else {
                break;
            };
            let Ok(peek) = codec::peek(newest) else { break };
            next = peek.last_position() + 1;
            let sealed = commits.iter().map(|(_, it)| codec::sealed_events(it));
            let keys = sealed.flat_map(Result::unwrap_or_default);
            last = keys.map(|event| event.key).fold(last, u64::max);
        }
        last
    }
}
