//! The resolver: refuses decisions whose reads were overwritten.
//!
//! It keeps the position of the last write of every key that was written lately. A decision
//! conflicts if it read at a position older than this window. Pure and single-threaded; the
//! committer owns it.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use super::ConflictKey;

/// See the module's overview.
#[derive(Debug)]
pub struct Resolver {
    last_writes: HashMap<ConflictKey, u64, BuildHasherDefault<KeyHasher>>,
    /// Writes in order; a key that was written again has a stale entry nearer the front.
    order: VecDeque<(ConflictKey, u64)>,
    /// Writes up to this position may have been forgotten.
    floor: u64,
    max_keys: usize,
}

impl Resolver {
    /// Builds a resolver for a log that ends at `head`, remembering `max_keys` writes.
    pub fn new(head: u64, max_keys: usize) -> Self {
        Self {
            last_writes: HashMap::default(),
            order: VecDeque::new(),
            floor: head,
            max_keys: max_keys.max(1),
        }
    }

    /// Returns whether a decision that read `reads` at `read_position` may be committed now.
    pub fn permits(&self, read_position: u64, reads: &[ConflictKey]) -> bool {
        let is_overwritten = |key| {
            self.last_writes
                .get(key)
                .is_some_and(|written| *written > read_position)
        };
        (reads.is_empty() || read_position >= self.floor) && !reads.iter().any(is_overwritten)
    }

    /// Notes that keys are written at `position`.
    pub fn record(&mut self, position: u64, writes: &[ConflictKey]) {
        for key in writes {
            self.last_writes.insert(*key, position);
            self.order.push_back((*key, position));
        }
        while self.order.len() > self.max_keys {
            let Some((key, position)) = self.order.pop_front() else {
                break;
            };
            if self.last_writes.get(&key) == Some(&position) {
                self.last_writes.remove(&key);
                self.floor = self.floor.max(position);
            }
        }
    }

    /// Forgets everything: positions above `head` were assigned and not committed.
    pub fn reset(&mut self, head: u64) {
        self.last_writes.clear();
        self.order.clear();
        self.floor = head;
    }
}

/// Keys are hashes already.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skytrail_schema::id::RecordId;

    use super::*;

    fn key(number: u8) -> ConflictKey {
        ConflictKey::record(&RecordId::new("t", number.to_string()))
    }

    proptest! {
        /// Compares it with the plain truth: the last write of every key.
        #[test]
        fn never_permits_what_was_overwritten(
            steps in prop::collection::vec((0_u8..12, 0_u8..12, 0_u64..20), 1..80),
            max_keys in 1_usize..10,
        ) {
            let mut resolver = Resolver::new(0, max_keys);
            let mut truth: HashMap<u8, u64> = HashMap::new();
            for (number, (read, write, age)) in steps.into_iter().enumerate() {
                let position = number as u64 + 1;
                let read_position = position.saturating_sub(1 + age);
                let is_stale = truth.get(&read).is_some_and(|at| *at > read_position);
                let permits = resolver.permits(read_position, &[key(read)]);
                prop_assert!(!(is_stale && permits));
                // A fresh decision is never refused, however small the window.
                prop_assert!(resolver.permits(position - 1, &[key(read)]));
                resolver.record(position, &[key(write)]);
                truth.insert(write, position);
            }
        }
    }

    #[test]
    fn blind_writes_are_always_permitted() {
        let mut resolver = Resolver::new(10, 1);
        resolver.record(11, &[key(1), key(2)]);
        assert!(resolver.permits(0, &[]));
        assert!(!resolver.permits(0, &[key(3)]));
    }
}
