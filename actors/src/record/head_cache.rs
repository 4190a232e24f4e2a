//! The heads of records that are kept in memory.
//!
//! Heads that were used lately are kept as they are. Those used before that are kept packed, in few
//! bytes, and unpacked on demand: several times as many records fit into the same memory, and a
//! lookup in the store takes ten times as long as unpacking.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::packed::PackedHead;

use super::weighed::WeighedCache;
use super::write_model::KnownHead;

/// See the module's overview.
pub(super) struct HeadCache {
    whole: WeighedCache<RecordId, KnownHead>,
    /// By the hash of their ids. No two hashes are the same: they have 128 bits, under keys that
    /// nobody knows.
    packed: WeighedCache<u128, PackedHead>,
    hashers: [RandomState; 2],
    /// The maximum bytes of whole and of packed heads.
    max_bytes: (usize, usize),
}

impl HeadCache {
    /// Creates an empty cache that [`trim`](HeadCache::trim) reduces to `max_bytes`. A quarter is
    /// for whole heads.
    pub(super) fn new(max_bytes: usize) -> Self {
        let of_whole = max_bytes / 4;
        Self {
            whole: WeighedCache::new(),
            packed: WeighedCache::new(),
            hashers: [RandomState::new(), RandomState::new()],
            max_bytes: (of_whole, max_bytes - of_whole),
        }
    }

    /// Returns the number of records about which something is known.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.packed.len()
    }

    /// Returns roughly how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.whole.bytes() + self.packed.bytes()
    }

    /// Returns what is known of a record, and makes it the most recently used.
    pub(super) fn get(&mut self, id: &RecordId) -> Option<KnownHead> {
        if let Some(cached) = self.whole.get(id) {
            return Some(cached.clone());
        }
        let head = self.packed.pop(&self.hash(id))?.unpack(id).ok()?;
        let head = Some(Arc::new(head));
        self.whole.put(id.clone(), head.clone());
        Some(head)
    }

    /// Like [`get`](HeadCache::get), but only if the head was written at that position.
    pub(super) fn get_written(&mut self, id: &RecordId, position: u64) -> KnownHead {
        let head = if let Some(cached) = self.whole.get(id) {
            cached.clone()
        } else {
            let packed = self.packed.peek(&self.hash(id))?;
            packed.position().filter(|written| *written == position)?;
            self.get(id).flatten()
        };
        head.filter(|head| head.position == position)
    }

    /// Returns what is known of a record, without marking it as used.
    pub(super) fn peek(&self, id: &RecordId) -> Option<KnownHead> {
        if let Some(cached) = self.whole.peek(id) {
            return Some(cached.clone());
        }
        let head = self.packed.peek(&self.hash(id))?.unpack(id).ok()?;
        Some(Some(Arc::new(head)))
    }

    /// Whether something is known of a record.
    pub(super) fn contains(&self, id: &RecordId) -> bool {
        self.whole.contains(id) || self.packed.contains(&self.hash(id))
    }

    /// Learns a record's head.
    pub(super) fn put(&mut self, id: RecordId, head: KnownHead) {
        self.packed.pop(&self.hash(&id));
        self.whole.put(id, head);
    }

    /// Forgets a record.
    pub(super) fn pop(&mut self, id: &RecordId) {
        self.whole.pop(id);
        self.packed.pop(&self.hash(id));
    }

    /// Forgets all records of a type that exist.
    pub(super) fn pop_type(&mut self, name: &TypeName) {
        let is_of =
            |(id, head): &(&RecordId, &KnownHead)| id.record_type == *name && head.is_some();
        let ids = self.whole.iter().filter(is_of);
        let ids: Vec<RecordId> = ids.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.whole.pop(&id);
        }
        // The hashes do not tell the type, and this is rare.
        self.packed.clear();
    }

    /// Packs what was not used lately, and drops what was used longest ago. Pinned heads stay
    /// whole: the first pinned one that is met goes back to the front, and the walk over whole
    /// heads ends.
    pub(super) fn trim(&mut self, is_pinned: impl Fn(&RecordId) -> bool) {
        let (of_whole, of_packed) = self.max_bytes;
        while self.whole.bytes() > of_whole {
            let Some((id, cached)) = self.whole.pop_lru() else {
                break;
            };
            if is_pinned(&id) {
                self.whole.put(id, cached);
                break;
            }
            let head = cached.filter(|_| of_packed > 0);
            if let Some(packed) = head.and_then(|head| PackedHead::pack(&head).ok()) {
                self.packed.put(self.hash(&id), packed);
            }
        }
        while self.packed.bytes() > of_packed {
            self.packed.pop_lru();
        }
    }

    fn hash(&self, id: &RecordId) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| hasher.hash_one(id));
        u128::from(high) << 64 | u128::from(low)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;
    use skytrail_schema::id::Database;
    use skytrail_schema::record::{Head, Record};
    use skytrail_schema::time::Timestamp;
    use skytrail_schema::value::Value;

    use super::*;

    /// What is done with one of a few records, and its size.
    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, usize),
        PutAbsent(u8),
        Get(u8),
        GetWritten(u8, u64),
        Pop(u8),
        PopType(u8),
        Trim(HashSet<u8>),
    }

    /// Two types.
    fn id(number: u8) -> RecordId {
        RecordId::new(format!("t{}", number % 2), number.to_string())
    }

    fn head(number: u8, position: u64, size: usize) -> KnownHead {
        let text = Value::String("x".repeat(size));
        Some(Arc::new(Head {
            version: 1,
            position,
            record: Record {
                id: id(number),
                database: Database::Public,
                owner: None,
                access: None,
                created_at: Timestamp::default(),
                created_by: None,
                updated_at: Timestamp::default(),
                updated_by: None,
                fields: [("text".to_owned(), text)].into_iter().collect(),
            },
        }))
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let number = || 0_u8..8;
        let step = prop_oneof![
            4 => (number(), 0_usize..400).prop_map(|(number, size)| Step::Put(number, size)),
            1 => number().prop_map(Step::PutAbsent),
            3 => number().prop_map(Step::Get),
            3 => (number(), 0_u64..40).prop_map(|(number, at)| Step::GetWritten(number, at)),
            1 => number().prop_map(Step::Pop),
            1 => (0_u8..2).prop_map(Step::PopType),
            4 => prop::collection::hash_set(number(), 0..4).prop_map(Step::Trim),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever is forgotten: what is kept is what was learnt last, what is pinned is kept, and
        /// the rest stays within its bounds.
        #[test]
        fn what_is_known_is_the_newest(steps in steps(), max_bytes in 0_usize..4_000) {
            let mut cache = HeadCache::new(max_bytes);
            let mut truth: HashMap<u8, KnownHead> = HashMap::new();
            for (position, step) in steps.into_iter().enumerate() {
                let position = position as u64;
                match step {
                    Step::Put(number, size) => {
                        cache.put(id(number), head(number, position, size));
                        truth.insert(number, head(number, position, size));
                    }
                    Step::PutAbsent(number) => {
                        cache.put(id(number), None);
                        truth.insert(number, None);
                    }
                    Step::Get(number) => {
                        let is_kept = cache.contains(&id(number));
                        let cached = cache.get(&id(number));
                        prop_assert_eq!(cached.is_some(), is_kept);
                        if cached.is_some() {
                            prop_assert_eq!(cached, truth.get(&number).cloned());
                        }
                    }
                    Step::GetWritten(number, at) => {
                        let cached = cache.peek(&id(number)).flatten();
                        let expected = cached.filter(|head| head.position == at);
                        prop_assert_eq!(cache.get_written(&id(number), at), expected);
                    }
                    Step::Pop(number) => {
                        cache.pop(&id(number));
                        truth.remove(&number);
                    }
                    Step::PopType(parity) => {
                        let name = TypeName::from(format!("t{parity}"));
                        cache.pop_type(&name);
                        truth.retain(|number, cached| number % 2 != parity || cached.is_none());
                    }
                    Step::Trim(pinned) => {
                        let is_pinned = |id: &RecordId| {
                            pinned.iter().any(|number| id.key.as_str() == number.to_string())
                        };
                        let whole = |cache: &HeadCache| {
                            let ids = cache.whole.iter().map(|(id, _)| id.clone());
                            ids.filter(is_pinned).collect::<HashSet<_>>()
                        };
                        let before = whole(&cache);
                        cache.trim(is_pinned);
                        prop_assert_eq!(whole(&cache), before);
                        let (of_whole, of_packed) = cache.max_bytes;
                        prop_assert!(cache.packed.bytes() <= of_packed);
                        let is_over = cache.whole.bytes() > of_whole;
                        prop_assert!(!is_over || !whole(&cache).is_empty());
                    }
                }
                for number in 0..8 {
                    let cached = cache.peek(&id(number));
                    if cached.is_some() {
                        prop_assert_eq!(cached, truth.get(&number).cloned());
                    }
                }
            }
        }
    }
}
