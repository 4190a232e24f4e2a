//! What decisions depend on, as keys that the resolver compares.

use std::fmt;
use std::hash::{Hash, Hasher};

use skytrail_schema::event::{Service, Stream};
use skytrail_schema::id::{AssetName, RecordId, TypeName, UserId};

/// Something that a decision read or wrote, hashed to 64 bits.
///
/// A collision of two hashes does no harm: a decision is made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConflictKey(u64);

impl ConflictKey {
    /// The state of a stream: read by every decision that depends on it, written by each of its
    /// events.
    pub fn stream(stream: &Stream) -> Self {
        match stream {
            Stream::Record(id) => Self::record(id),
            Stream::Type(name) => Self::record_type(name),
            other => Self::of("stream", &[&other.to_string()]),
        }
    }

    /// The state of a record.
    pub fn record(id: &RecordId) -> Self {
        Self::of("record", &[id.record_type.as_str(), id.key.as_str()])
    }

    /// Whether a record exists: read by a decision that refers to it, written when it is created or
    /// deleted.
    pub fn existence(id: &RecordId) -> Self {
        Self::of("existence", &[id.record_type.as_str(), id.key.as_str()])
    }

    /// Which records of a type exist: written when one is created or deleted, read by a decision
    /// that numbers them all.
    pub fn population(name: &TypeName) -> Self {
        Self::of("population", &[name.as_str()])
    }

    /// Which records refer to a record: read when it is deleted, written by a decision that refers
    /// to it.
    pub fn references(id: &RecordId) -> Self {
        Self::of("references", &[id.record_type.as_str(), id.key.as_str()])
    }

    /// What names a file: written by a decision that names it, read by an erasure that removes it.
    pub fn uses_of_file(name: &AssetName) -> Self {
        Self::of("uses of file", &[name.as_str()])
    }

    /// The definition of a record type.
    pub fn record_type(name: &TypeName) -> Self {
        Self::of("type", &[name.as_str()])
    }

    /// Which devices have an address at a push service: read and written by a decision that takes
    /// the address.
    pub fn device_token(token: &str) -> Self {
        Self::of("device token", &[token])
    }

    /// Which devices a user has: read and written by a decision that gives them one.
    pub fn devices_of(user: &UserId) -> Self {
        Self::of("devices of", &[user.as_str()])
    }

    /// A value of a unique set of fields: read when it is found free, written when it is taken or
    /// given up. `parts` are the fields' names and values, normalised as the set compares them.
    pub fn unique(name: &TypeName, parts: &[&str]) -> Self {
        let mut all = vec![name.as_str()];
        all.extend_from_slice(parts);
        Self::of("unique", &all)
    }

    /// The number of a sequence field, which is unique in its type.
    pub fn number(name: &TypeName, field: &str, number: i64) -> Self {
        Self::unique(name, &[field, &number.to_string()])
    }

    /// An account at another service: read when it is found linked to no user, written when that
    /// changes.
    pub fn principal(service: &Service, principal: &str) -> Self {
        Self::of("principal", &[&service.to_string(), principal])
    }

    /// What the log has about a user under their own key: written with each event that is sealed
    /// with it, read by a decision that names all of these events.
    pub fn subject(user: &UserId) -> Self {
        Self::of("subject", &[user.as_str()])
    }

    fn of(kind: &str, parts: &[&str]) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        kind.hash(&mut hasher);
        parts.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl fmt::Debug for ConflictKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
