//! What decisions depend on, as keys that the resolver can compare.

use std::fmt;
use std::hash::{Hash, Hasher};

use skytrail_schema::event::{Service, Stream};
use skytrail_schema::id::{RecordId, TypeName, UserId};

/// Something a decision read or wrote, hashed to 64 bits.
///
/// Two different things with one hash only make a decision be taken again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConflictKey(u64);

impl ConflictKey {
    /// The state of a stream: read by whoever depends on it, written by each of its events.
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

    /// Whether a record exists: read by whoever refers to it, written when it comes or goes.
    pub fn existence(id: &RecordId) -> Self {
        Self::of("existence", &[id.record_type.as_str(), id.key.as_str()])
    }

    /// Which records of a type there are: written when one comes or goes, read by whoever numbers
    /// them all.
    pub fn population(name: &TypeName) -> Self {
        Self::of("population", &[name.as_str()])
    }

    /// Who refers to a record: read by its deletion, written by whoever points at it.
    pub fn references(id: &RecordId) -> Self {
        Self::of("references", &[id.record_type.as_str(), id.key.as_str()])
    }

    /// The definition of a record type.
    pub fn record_type(name: &TypeName) -> Self {
        Self::of("type", &[name.as_str()])
    }

    /// Which devices have an address at a push service: read and written by whoever takes it.
    pub fn device_token(token: &str) -> Self {
        Self::of("device token", &[token])
    }

    /// Which devices a user has: read and written by whoever gives him one.
    pub fn devices_of(user: &UserId) -> Self {
        Self::of("devices of", &[user.as_str()])
    }

    /// A value of a unique set of fields: read when it is found free, written when taken or given up.
    /// `parts` are the fields' names and values, normalised as the set compares them.
    pub fn unique(name: &TypeName, parts: &[&str]) -> Self {
        let mut all = vec![name.as_str()];
        all.extend_from_slice(parts);
        Self::of("unique", &all)
    }

    /// The number of a sequence field, which is unique in its type.
    pub fn number(name: &TypeName, field: &str, number: i64) -> Self {
        Self::unique(name, &[field, &number.to_string()])
    }

    /// An account elsewhere: read when it is found linked to nobody, written when that changes.
    pub fn principal(service: &Service, principal: &str) -> Self {
        Self::of("principal", &[&service.to_string(), principal])
    }

    /// What there is of a user under a key of his own: written with each event that is sealed with it,
    /// read by whoever names them all.
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
