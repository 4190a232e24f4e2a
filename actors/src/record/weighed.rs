//! A cache that knows how many bytes it holds.
//!
//! Records differ in size by orders of magnitude: a bound on their number would bound nothing.
//! Weights are estimates of what the allocator gives out, accurate to about ten percent.

use std::hash::Hash;
use std::sync::Arc;

use lru::LruCache;
use serde_json::Value as Json;
use skytrail_schema::acl::AccessEntry;
use skytrail_schema::event::UserState;
use skytrail_schema::id::{RecordId, RoleName, UserId};
use skytrail_schema::packed::PackedHead;
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::value::{Asset, Value};

/// What an entry takes in addition to key and value: its place in the map, the links of its node.
const ENTRY_BYTES: usize = 64;
/// What a shared value takes in addition to itself: the counts, and what the allocator rounds up.
const SHARED_BYTES: usize = 56;
/// What a string takes in addition to its characters.
const TEXT_BYTES: usize = 16;
/// A field's place in a record.
const FIELD_BYTES: usize = size_of::<String>() + size_of::<Value>();
/// A node of an ordered map of JSON members.
const JSON_NODE_BYTES: usize = 11 * (size_of::<String>() + size_of::<Json>()) + 16;

/// Something that can estimate how many bytes it takes.
pub(crate) trait Weigh {
    /// Estimates the bytes.
    fn weight(&self) -> usize;
}

/// Entries, the least recently used first, with the bytes of all of them.
pub(crate) struct WeighedCache<K: Hash + Eq, V> {
    entries: LruCache<K, V>,
    bytes: usize,
}

impl<K: Hash + Eq + Weigh, V: Weigh> WeighedCache<K, V> {
    /// Creates an empty cache. It evicts nothing by itself.
    pub(crate) fn new() -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
        }
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns roughly how many bytes the entries take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns an entry, and makes it the most recently used.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    /// Returns an entry, without marking it as used.
    pub(crate) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.peek(key)
    }

    /// Whether there is an entry.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains(key)
    }

    /// Inserts an entry, or replaces it.
    pub(crate) fn put(&mut self, key: K, value: V) {
        self.bytes += entry_weight(&key, &value);
        if let Some((key, value)) = self.entries.push(key, value) {
            self.bytes -= entry_weight(&key, &value);
        }
    }

    /// Removes an entry.
    pub(crate) fn pop(&mut self, key: &K) -> Option<V> {
        let (key, value) = self.entries.pop_entry(key)?;
        self.bytes -= entry_weight(&key, &value);
        Some(value)
    }

    /// Removes all entries.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    /// Removes the least recently used entry.
    pub(crate) fn pop_lru(&mut self) -> Option<(K, V)> {
        let (key, value) = self.entries.pop_lru()?;
        self.bytes -= entry_weight(&key, &value);
        Some((key, value))
    }

    /// Iterates over the entries.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter()
    }
}

fn entry_weight<K: Weigh, V: Weigh>(key: &K, value: &V) -> usize {
    ENTRY_BYTES + size_of::<(K, V)>() + key.weight() + value.weight()
}

fn text_weight(text: &str) -> usize {
    TEXT_BYTES + text.len()
}

impl Weigh for RecordId {
    fn weight(&self) -> usize {
        text_weight(self.key.as_str())
    }
}

impl Weigh for UserId {
    fn weight(&self) -> usize {
        text_weight(self.as_str())
    }
}

/// A hash is part of the entry itself.
impl Weigh for u128 {
    fn weight(&self) -> usize {
        0
    }
}

impl Weigh for PackedHead {
    fn weight(&self) -> usize {
        self.size_bytes()
    }
}

impl<T: Weigh> Weigh for Option<Arc<T>> {
    fn weight(&self) -> usize {
        self.as_ref().map_or(0, |held| SHARED_BYTES + held.weight())
    }
}

impl Weigh for Head {
    fn weight(&self) -> usize {
        size_of::<Self>() - size_of::<Record>() + self.record.weight()
    }
}

impl Weigh for Record {
    fn weight(&self) -> usize {
        let users = [&self.owner, &self.created_by, &self.updated_by];
        let users = users.into_iter().flatten().map(Weigh::weight);
        let access = self.access.iter().flat_map(|acl| &acl.0);
        size_of::<Self>()
            + self.id.weight()
            + users.sum::<usize>()
            + access.map(Weigh::weight).sum::<usize>()
            + self.fields.weight()
    }
}

impl Weigh for AccessEntry {
    fn weight(&self) -> usize {
        let role = self.role.as_ref().map(RoleName::as_str);
        let user = self.user_id.as_ref().map(UserId::as_str);
        let texts = [self.relation.as_deref(), role, user];
        let texts = texts.into_iter().flatten().map(text_weight);
        size_of::<Self>() + texts.sum::<usize>()
    }
}

impl Weigh for Fields {
    fn weight(&self) -> usize {
        // The map allocates space for four, and then doubles it.
        let places = match self.len() {
            0 => 0,
            len => len.next_power_of_two().max(4),
        };
        let texts = self
            .iter()
            .map(|(name, value)| text_weight(name) + value.weight());
        places * FIELD_BYTES + texts.sum::<usize>()
    }
}

impl Weigh for Value {
    fn weight(&self) -> usize {
        match self {
            Self::String(text) | Self::Unknown(Some(text)) => text_weight(text),
            Self::Json(json) | Self::Geometry(json) => json.weight(),
            Self::Asset(asset) => {
                size_of::<Asset>()
                    + text_weight(&asset.name)
                    + asset.content_type.as_deref().map_or(0, text_weight)
            }
            Self::Reference(id) => id.weight(),
            Self::Null
            | Self::Bool(_)
            | Self::Number(_)
            | Self::Date(_)
            | Self::Location(_)
            | Self::Sequence
            | Self::Unknown(None) => 0,
        }
    }
}

impl Weigh for Json {
    fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) | Self::Number(_) => 0,
            Self::String(text) => text_weight(text),
            Self::Array(items) => items
                .iter()
                .map(|item| size_of::<Self>() + item.weight())
                .sum(),
            Self::Object(members) => {
                let texts = members
                    .iter()
                    .map(|(name, member)| text_weight(name) + member.weight());
                members.len().div_ceil(8) * JSON_NODE_BYTES + texts.sum::<usize>()
            }
        }
    }
}

impl Weigh for (u32, UserState) {
    fn weight(&self) -> usize {
        let state = &self.1;
        let roles = state.roles.iter().map(|role| text_weight(role.as_str()));
        let providers = state
            .provider_info
            .iter()
            .map(|(name, data)| text_weight(name) + data.weight());
        let links = state.links.values();
        let links = links
            .map(|link| JSON_NODE_BYTES + text_weight(&link.principal) + link.profile.weight());
        size_of::<Self>()
            + state.password_hash.as_deref().map_or(0, text_weight)
            + roles.sum::<usize>()
            + providers.sum::<usize>()
            + links.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Weigh for String {
        fn weight(&self) -> usize {
            text_weight(self)
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, String),
        Pop(u8),
        PopLru,
    }

    impl Weigh for u8 {
        fn weight(&self) -> usize {
            1
        }
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u8..8, "[a-z]{0,20}").prop_map(|(key, text)| Step::Put(key, text)),
            (0_u8..8).prop_map(Step::Pop),
            Just(Step::PopLru),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever is put, replaced and removed: the sum is that of the present entries.
        #[test]
        fn bytes_are_those_of_the_entries(steps in steps()) {
            let mut cache = WeighedCache::new();
            for step in steps {
                match step {
                    Step::Put(key, text) => cache.put(key, text),
                    Step::Pop(key) => {
                        cache.pop(&key);
                    }
                    Step::PopLru => {
                        cache.pop_lru();
                    }
                }
                let sum: usize = cache.iter().map(|(key, text)| entry_weight(key, text)).sum();
                prop_assert_eq!(cache.bytes(), sum);
            }
        }
    }
}
