//! Which records exist, roughly: a set of hashes that can tell for certain that a record does not
//! exist.
//!
//! Most saves create records under fresh random ids. Asking the store whether each exists would
//! cost more than all the rest of such a save. The set learns every key from the log as it is
//! created. Keys from before the start come from the store, in the background. Until it has them
//! all, and above its bound, the set knows nothing. Two keys with one hash (one in seventy at the
//! bound), and keys of deleted records, only cost a query to the store.

use std::hash::{BuildHasher, RandomState};

use parking_lot::Mutex;
use skytrail_schema::id::RecordId;

/// Above this many keys (about 40 MiB) the set is given up.
const MAX_KEYS: usize = 16_000_000;

/// See the module's overview.
#[derive(Debug)]
pub struct KnownKeys {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hashes: Hashes,
    is_complete: bool,
    is_given_up: bool,
}

/// Hashes of 30 bits. A hash table would take two to four times as much memory for each.
#[derive(Debug, Default)]
struct Hashes {
    /// One part of a hash is the index of its bucket, the bucket has the other part. Created with
    /// the first hash.
    buckets: Vec<Vec<u16>>,
    len: usize,
}

impl Hashes {
    const NUM_BUCKETS: usize = 1 << 14;

    fn insert(&mut self, hash: u32) {
        if self.buckets.is_empty() {
            self.buckets.resize(Self::NUM_BUCKETS, Vec::new());
        }
        let (place, rest) = Self::halves(hash);
        if let Some(bucket) = self.buckets.get_mut(place)
            && !bucket.contains(&rest)
        {
            bucket.push(rest);
            self.len += 1;
        }
    }

    fn contains(&self, hash: u32) -> bool {
        let (place, rest) = Self::halves(hash);
        let bucket = self.buckets.get(place);
        bucket.is_some_and(|bucket| bucket.contains(&rest))
    }

    fn halves(hash: u32) -> (usize, u16) {
        let [low @ .., third, fourth] = hash.to_le_bytes();
        let place = usize::from(u16::from_le_bytes([third, fourth]));
        (place % Self::NUM_BUCKETS, u16::from_le_bytes(low))
    }
}

impl Default for KnownKeys {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            state: Mutex::default(),
        }
    }
}

impl KnownKeys {
    /// Learns that records exist, or once did.
    pub fn learn<'a>(&self, ids: impl Iterator<Item = &'a RecordId>) {
        let mut state = self.state.lock();
        if state.is_given_up {
            return;
        }
        for id in ids {
            state.hashes.insert(self.hash(id));
        }
        if state.hashes.len > MAX_KEYS {
            *state = State {
                is_given_up: true,
                ..State::default()
            };
        }
    }

    /// Learns that every record from before the start has been learnt.
    pub fn complete(&self) {
        let mut state = self.state.lock();
        state.is_complete = !state.is_given_up;
    }

    /// Whether a record is known not to exist.
    pub fn is_absent(&self, id: &RecordId) -> bool {
        let state = self.state.lock();
        state.is_complete && !state.hashes.contains(self.hash(id))
    }

    /// Returns the number of known keys.
    pub(super) fn len(&self) -> usize {
        self.state.lock().hashes.len
    }

    fn hash(&self, id: &RecordId) -> u32 {
        let [_, _, _, _, high @ ..] = self.hasher.hash_one(id).to_le_bytes();
        u32::from_le_bytes(high)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hashes_are_as_in_a_set(
            learnt in prop::collection::vec(any::<u32>(), 0..60),
            queried in prop::collection::vec(any::<u32>(), 0..60),
        ) {
            // Few buckets, so that several hashes share one.
            let near = |hash: u32| hash & 0x0003_0007;
            let mut hashes = Hashes::default();
            let mut truth = BTreeSet::new();
            for hash in learnt.into_iter().map(near) {
                hashes.insert(hash);
                truth.insert(hash);
            }
            prop_assert_eq!(hashes.len, truth.len());
            for hash in queried.into_iter().map(near) {
                prop_assert_eq!(hashes.contains(hash), truth.contains(&hash));
            }
        }
    }

    #[test]
    fn nothing_is_known_before_everything_is_learnt() {
        let (keys, id) = (KnownKeys::default(), RecordId::new("t", "1"));
        assert!(!keys.is_absent(&id));
        keys.complete();
        assert!(keys.is_absent(&id));
        keys.learn([id.clone()].iter());
        assert!(!keys.is_absent(&id));
        assert!(keys.is_absent(&RecordId::new("u", "1")), "per type");
    }
}
