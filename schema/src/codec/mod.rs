//! The bytes of a commit.
//!
//! ```text
//! commit  = header  section*  chain(32)
//! header  = format u8 | flags u8 | actor u8 | id(16) | first position: varint | count: varint
//!           | epoch: varint | time i64 | [user: text] | [plugin: text] | [on behalf]
//!           | [request id(16)] | [causation(16)] | [sql]
//! on behalf = user: text, empty if there is none  point: text
//! sql     = role: text  transaction: varint  time i64  outbox(16)  until: varint
//! section = head  0 u8  salt(16)  length: varint  payload
//!         | head  1 u8  payload hash(32)
//!         | head  4 u8  salt(16)  length: varint  payload sealed with its subject's key
//! head    = stream | version: varint | kind: varint | schema version: varint | provenance
//! stream  = 1 type: text key: text | 2 type: text | 3 user: text | 4 role: text
//!           | 5 friend of: text | 6 follower: text | 7 (field access) | 10 device: text
//!           | 11 subscriptions of: text | 12 file: text | 14 plugin: text task: text
//!           | 16 erasure(16) | 17 plugin: text | 18 restore(16)
//! provenance = count: varint (plugin: text  hook: text  count: varint  field: text*)*
//! text    = 0 uuid(16), for a lower-case hyphenated UUID | length + 1: varint  UTF-8
//! ```
//!
//! Numbers are little endian. A varint has seven bits per byte, lowest bits first. If a commit has
//! the same id as its request, a flag says so and the id is not repeated. `actor` holds the kind of
//! key (lowest two bits) and the origin.
//!
//! The chain hash covers the previous chain hash, the header, and for every section the head and
//! the hash over salt and payload. So salt and payload can be erased and replaced by their hash
//! (section flag 1), and the chain still verifies. Without the salt nobody can guess what was
//! erased. A hash that can be computed is not stored, and neither is the previous chain hash: the
//! previous frame has it. Where commits are stored next to each other, the chain hash of all but
//! the first can be left out as well: [`without_chain`] and [`next_chain_hash`].
//!
//! Encoding has two steps, so that the expensive one runs on the caller's thread: [`encode_events`]
//! creates the sections, and [`seal`] adds header and chain hash once the position is known.

pub(crate) mod bytes;
mod decode;
mod encode;
mod parts;
mod payload;
mod sealed;

use crate::chain::ChainHash;
use crate::time::Timestamp;

pub use decode::{
    Contents, Outline, SealedEvent, blank_payloads, check_commit, decode_commit, has_wanted,
    next_chain_hash, outlines, peek, sealed_events, split_commit, verify_chain, without_chain,
};
pub use encode::{EncodedEvents, encode_events, seal};
pub use payload::payload_json;
pub(crate) use payload::{Payload, Stored};
pub use sealed::{KeyState, NoKeys, Sealing, SubjectKey, SubjectKeys, subject};

/// The format of the commit frame written by this version.
const FORMAT: u8 = 1;

/// Flags of the header.
mod flag {
    pub(super) const USER: u8 = 1;
    pub(super) const PLUGIN: u8 = 2;
    pub(super) const REQUEST: u8 = 4;
    pub(super) const CAUSATION: u8 = 8;
    pub(super) const SQL: u8 = 16;
    /// The request has the same id as the commit.
    pub(super) const OF_REQUEST: u8 = 32;
    pub(super) const ON_BEHALF: u8 = 64;
    pub(super) const KNOWN: u8 = USER | PLUGIN | REQUEST | CAUSATION | SQL | OF_REQUEST | ON_BEHALF;
}

/// Flags of a section.
mod section_flag {
    /// Salt and payload were erased.
    pub(super) const ERASED: u8 = 1;
    /// The payload is compressed with zstd. Reserved: this version neither writes nor reads it.
    pub(super) const COMPRESSED: u8 = 2;
    /// The payload is sealed with its subject's key.
    pub(super) const SEALED: u8 = 4;
}

/// Why bytes are not a valid commit, or a commit cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// A newer program wrote the commit.
    #[error("format {0} is newer than this program")]
    UnknownFormat(u8),
    /// A newer program wrote the commit.
    #[error("flags {0:#04x} are newer than this program")]
    UnknownFlags(u8),
    /// An event kind, or a version of one, that this program does not know.
    #[error("event kind {kind} version {version} is newer than this program")]
    UnknownEvent {
        /// The stored kind.
        kind: u16,
        /// The stored schema version.
        version: u16,
    },
    /// An old version of an event that this program cannot upgrade.
    #[error("event kind {kind}: this program cannot upgrade version {version}")]
    NoStep {
        /// The stored kind.
        kind: u16,
        /// The version that has no upgrade step.
        version: u16,
    },
    /// A part does not parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// The chain hash does not match this content and the given previous hash.
    #[error("chain hash does not match")]
    ChainMismatch,
    /// The key of an event's subject should exist, but is missing.
    #[error("the key {0} of an event's subject is missing")]
    KeyMissing(u64),
    /// Something is too long to be written.
    #[error("{0} is too long")]
    TooLong(&'static str),
}

impl CodecError {
    /// Returns whether the bytes are intact, but were written by a newer program.
    pub const fn is_newer(&self) -> bool {
        matches!(
            self,
            Self::UnknownFormat(_) | Self::UnknownFlags(_) | Self::UnknownEvent { .. }
        )
    }
}

/// What the log adds to a commit.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// The position of the first event.
    pub first_position: u64,
    /// The time of the commit.
    pub time: Timestamp,
    /// The epoch of the writer that writes it.
    pub epoch: u32,
}

/// A commit split into the parts that are stored. Its chain hash is BLAKE3 over the previous one,
/// the header, and then the head and the hash of each event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitParts<'a> {
    /// The encoded header.
    pub header: &'a [u8],
    /// The events in order.
    pub events: Vec<EventParts<'a>>,
    /// The chain hash.
    pub chain: ChainHash,
}

/// An event split into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventParts<'a> {
    /// The encoded head.
    pub head: &'a [u8],
    /// BLAKE3 over salt and payload.
    pub hash: [u8; 32],
    /// Salt and payload; `None` if they were erased.
    pub content: Option<([u8; 16], &'a [u8])>,
}

/// What can be read from a commit without reading its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The position of the first event.
    pub first_position: u64,
    /// How many events there are.
    pub num_events: u16,
    /// The time of the commit.
    pub time: Timestamp,
    /// Its chain hash.
    pub chain: ChainHash,
}

impl Peek {
    /// Returns the position of the last event.
    pub fn last_position(&self) -> u64 {
        self.first_position + u64::from(self.num_events) - 1
    }
}

#[cfg(test)]
mod tests;
