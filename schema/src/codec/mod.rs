//! The bytes of a commit.
//!
//! ```text
//! commit  = header  event*  chain(32)
//! header  = format u8 | flags u8 | id(16) | first position u64 | time i64 | epoch u32 | count u16
//!           | [request id(16)] | [causation(16)] | actor: text (JSON, empty for the default)
//! event   = head  payload
//! head    = stream name: text | version u32 | event kind u8 | schema version u16
//!           | provenance: text (JSON, empty for none) | salt(16) | payload hash(32) | payload length u32
//! text    = length u16 | UTF-8
//! ```
//!
//! Numbers are little endian. Encoding has two steps, so that the expensive one
//! runs on the caller's thread: [`encode_events`] makes the events, [`seal`]
//! puts header and chain around them once the position is known.

mod kind;
mod reader;

use std::sync::Arc;

use uuid::Uuid;

use crate::chain::{self, ChainHash};
use crate::event::{Actor, Commit, Event, EventBody, NewCommit, NewEvent, Stream};
use crate::time::Timestamp;
use reader::Reader;

pub use kind::{decode_body, kind_name};

/// The format of the commit frame written by this version.
const FORMAT: u8 = 1;
const HAS_REQUEST: u8 = 1;
const HAS_CAUSATION: u8 = 2;
/// The number of bytes up to and including the event count.
const FIXED_HEADER_BYTES: usize = 40;
const CHAIN_BYTES: usize = 32;

/// Why bytes are not a commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end too early.
    #[error("truncated at byte {0}")]
    Truncated(usize),
    /// A newer program wrote it.
    #[error("format {0} is newer than this program")]
    UnknownFormat(u8),
    /// An event kind or a version of one that this program does not know.
    #[error("event kind {kind} version {version} is newer than this program")]
    UnknownEvent {
        /// The stored kind.
        kind: u8,
        /// The stored schema version.
        version: u16,
    },
    /// A part does not parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A payload is not what its hash says.
    #[error("payload of event {0} does not match its hash")]
    PayloadMismatch(usize),
    /// The chain hash is not that of this content after the given previous one.
    #[error("chain hash does not match")]
    ChainMismatch,
    /// Something too long to be written.
    #[error("{0} is too long")]
    TooLong(&'static str),
}

/// Events, encoded but for their place in the log.
#[derive(Clone, Debug)]
pub struct EncodedEvents {
    commit: Arc<NewCommit>,
    events: Vec<EncodedEvent>,
}

#[derive(Clone, Debug)]
struct EncodedEvent {
    head: Vec<u8>,
    payload: Vec<u8>,
    hash: [u8; 32],
}

/// What the log adds to a commit.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    /// The position of the first event.
    pub first_position: u64,
    /// When it is committed.
    pub time: Timestamp,
    /// Which writer writes it.
    pub epoch: u32,
}

/// What can be read from a commit without reading its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The position of the first event.
    pub first_position: u64,
    /// How many events there are.
    pub num_events: u16,
    /// When it was committed.
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

/// Encodes the events of a commit; `salt` gives 16 fresh random bytes each time.
///
/// # Errors
/// A name longer than 64 KiB, or more than 65,535 events.
pub fn encode_events(
    commit: Arc<NewCommit>,
    mut salt: impl FnMut() -> [u8; 16],
) -> Result<EncodedEvents, CodecError> {
    if commit.events.is_empty() || commit.events.len() > usize::from(u16::MAX) {
        return Err(CodecError::TooLong("list of events"));
    }
    let events = commit
        .events
        .iter()
        .map(|event| encode_event(event, salt()))
        .collect::<Result<_, _>>()?;
    Ok(EncodedEvents { commit, events })
}

impl EncodedEvents {
    /// Returns the size of the frame's variable part, close enough for limits.
    pub fn size_bytes(&self) -> usize {
        self.events
            .iter()
            .map(|event| event.head.len() + event.payload.len())
            .sum::<usize>()
            + FIXED_HEADER_BYTES
            + CHAIN_BYTES
    }

    /// Returns the commit as it was decided.
    pub fn commit(&self) -> &Arc<NewCommit> {
        &self.commit
    }

    /// Replaces the body of one event, for numbers that only the log can give.
    ///
    /// # Errors
    /// As [`encode_events`]; or no such event.
    pub fn replace_body(
        &mut self,
        index: usize,
        body: EventBody,
        salt: [u8; 16],
    ) -> Result<(), CodecError> {
        let commit = Arc::make_mut(&mut self.commit);
        let event = commit
            .events
            .get_mut(index)
            .ok_or(CodecError::Malformed("event index"))?;
        event.body = body;
        let encoded = encode_event(event, salt)?;
        if let Some(slot) = self.events.get_mut(index) {
            *slot = encoded;
        }
        Ok(())
    }
}

/// Finishes a commit: its bytes, and the commit as readers will see it.
///
/// # Errors
/// An actor longer than 64 KiB.
pub fn seal(
    encoded: EncodedEvents,
    seal: Seal,
    previous: &ChainHash,
) -> Result<(Vec<u8>, Commit), CodecError> {
    let size = encoded.size_bytes() + 64;
    let EncodedEvents { commit, events } = encoded;
    let mut bytes = Vec::with_capacity(size);
    encode_header(&mut bytes, &commit, seal)?;
    let chain = chain::link(
        previous,
        &bytes,
        events.iter().map(|event| event.head.as_slice()),
    );
    for event in &events {
        bytes.extend_from_slice(&event.head);
        bytes.extend_from_slice(&event.payload);
    }
    bytes.extend_from_slice(&chain);
    let commit = Arc::unwrap_or_clone(commit);
    let positions = seal.first_position..;
    let events = commit.events.into_iter().zip(events).zip(positions);
    let events = events
        .map(|((event, encoded), position)| Event {
            position,
            stream: event.stream,
            version: event.version,
            body: event.body,
            provenance: event.provenance,
            payload_hash: encoded.hash,
        })
        .collect();
    let commit = Commit {
        id: commit.id,
        time: seal.time,
        epoch: seal.epoch,
        actor: commit.actor,
        request_id: commit.request_id,
        causation: commit.causation,
        events,
        chain,
    };
    Ok((bytes, commit))
}

/// Decodes a commit and checks its payloads against their hashes.
///
/// # Errors
/// See [`CodecError`]; never panics, whatever the bytes.
pub fn decode_commit(bytes: &[u8]) -> Result<Commit, CodecError> {
    let mut reader = Reader::new(bytes);
    let header = read_header(&mut reader)?;
    let mut events = Vec::with_capacity(usize::from(header.peek.num_events));
    for index in 0..header.peek.num_events {
        let position = header.peek.first_position + u64::from(index);
        let (event, _) = read_event(&mut reader, position, usize::from(index))?;
        events.push(event);
    }
    let chain = reader.array()?;
    reader.finish()?;
    Ok(Commit {
        id: header.id,
        time: header.peek.time,
        epoch: header.epoch,
        actor: header.actor,
        request_id: header.request_id,
        causation: header.causation,
        events,
        chain,
    })
}

/// Checks that a commit's chain hash follows `previous`.
///
/// # Errors
/// [`CodecError::ChainMismatch`], or what [`decode_commit`] finds.
pub fn verify_chain(bytes: &[u8], previous: &ChainHash) -> Result<Commit, CodecError> {
    let mut reader = Reader::new(bytes);
    let header = read_header(&mut reader)?;
    let header_bytes = reader.since(0);
    let mut heads = Vec::with_capacity(usize::from(header.peek.num_events));
    for index in 0..usize::from(header.peek.num_events) {
        heads.push(read_event(&mut reader, 0, index)?.1);
    }
    let commit = decode_commit(bytes)?;
    if chain::link(previous, header_bytes, heads.into_iter()) == commit.chain {
        Ok(commit)
    } else {
        Err(CodecError::ChainMismatch)
    }
}

/// Reads what a recovery needs to know of a commit, without looking at its events.
///
/// # Errors
/// Too short, an unknown format, or no events.
pub fn peek(bytes: &[u8]) -> Result<Peek, CodecError> {
    let mut reader = Reader::new(bytes);
    let (_, _, peek, _) = read_fixed(&mut reader)?;
    let start = bytes
        .len()
        .checked_sub(CHAIN_BYTES)
        .ok_or(CodecError::Truncated(bytes.len()))?;
    let tail = bytes.get(start..).unwrap_or_default();
    let chain = tail
        .try_into()
        .map_err(|_| CodecError::Truncated(bytes.len()))?;
    Ok(Peek { chain, ..peek })
}

fn encode_header(out: &mut Vec<u8>, commit: &NewCommit, seal: Seal) -> Result<(), CodecError> {
    let count =
        u16::try_from(commit.events.len()).map_err(|_| CodecError::TooLong("list of events"))?;
    let mut flags = 0;
    flags |= if commit.request_id.is_some() {
        HAS_REQUEST
    } else {
        0
    };
    flags |= if commit.causation.is_some() {
        HAS_CAUSATION
    } else {
        0
    };
    out.extend_from_slice(&[FORMAT, flags]);
    out.extend_from_slice(commit.id.as_bytes());
    out.extend_from_slice(&seal.first_position.to_le_bytes());
    out.extend_from_slice(&seal.time.micros().to_le_bytes());
    out.extend_from_slice(&seal.epoch.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    for id in [commit.request_id, commit.causation].into_iter().flatten() {
        out.extend_from_slice(id.as_bytes());
    }
    let actor = if commit.actor == Actor::default() {
        Vec::new()
    } else {
        to_json(&commit.actor, "actor")?
    };
    put_text(out, &actor, "actor")
}

fn encode_event(event: &NewEvent, salt: [u8; 16]) -> Result<EncodedEvent, CodecError> {
    let (kind, schema_version, payload) = kind::encode_body(&event.body)?;
    let length = u32::try_from(payload.len()).map_err(|_| CodecError::TooLong("payload"))?;
    let hash = chain::payload_hash(&salt, &payload);
    let mut head = Vec::with_capacity(128);
    put_text(
        &mut head,
        event.stream.to_string().as_bytes(),
        "stream name",
    )?;
    head.extend_from_slice(&event.version.to_le_bytes());
    head.push(kind);
    head.extend_from_slice(&schema_version.to_le_bytes());
    let provenance = if event.provenance.is_empty() {
        Vec::new()
    } else {
        to_json(&event.provenance, "provenance")?
    };
    put_text(&mut head, &provenance, "provenance")?;
    head.extend_from_slice(&salt);
    head.extend_from_slice(&hash);
    head.extend_from_slice(&length.to_le_bytes());
    Ok(EncodedEvent {
        head,
        payload,
        hash,
    })
}

fn to_json<T: serde::Serialize>(value: &T, what: &'static str) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(value).map_err(|_| CodecError::Malformed(what))
}

fn put_text(out: &mut Vec<u8>, text: &[u8], what: &'static str) -> Result<(), CodecError> {
    let length = u16::try_from(text.len()).map_err(|_| CodecError::TooLong(what))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text);
    Ok(())
}

struct Header {
    id: Uuid,
    peek: Peek,
    epoch: u32,
    request_id: Option<Uuid>,
    causation: Option<Uuid>,
    actor: Actor,
}

fn read_fixed(reader: &mut Reader<'_>) -> Result<(u8, Uuid, Peek, u32), CodecError> {
    let format = reader.u8()?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat(format));
    }
    let flags = reader.u8()?;
    let id = Uuid::from_bytes(reader.array()?);
    let first_position = u64::from_le_bytes(reader.array()?);
    let time = Timestamp::from_micros(i64::from_le_bytes(reader.array()?));
    let epoch = u32::from_le_bytes(reader.array()?);
    let num_events = u16::from_le_bytes(reader.array()?);
    let last = first_position.checked_add(u64::from(num_events));
    if num_events == 0 || first_position == 0 || last.is_none() {
        return Err(CodecError::Malformed("positions"));
    }
    Ok((
        flags,
        id,
        Peek {
            first_position,
            num_events,
            time,
            chain: chain::GENESIS,
        },
        epoch,
    ))
}

fn read_header(reader: &mut Reader<'_>) -> Result<Header, CodecError> {
    let (flags, id, peek, epoch) = read_fixed(reader)?;
    let mut optional_id = |flag| -> Result<Option<Uuid>, CodecError> {
        if flags & flag == 0 {
            Ok(None)
        } else {
            Ok(Some(Uuid::from_bytes(reader.array()?)))
        }
    };
    let request_id = optional_id(HAS_REQUEST)?;
    let causation = optional_id(HAS_CAUSATION)?;
    let actor = match reader.text()? {
        [] => Actor::default(),
        json => serde_json::from_slice(json).map_err(|_| CodecError::Malformed("actor"))?,
    };
    Ok(Header {
        id,
        peek,
        epoch,
        request_id,
        causation,
        actor,
    })
}

/// Reads one event; also returns its head's bytes, which the chain covers.
fn read_event<'a>(
    reader: &mut Reader<'a>,
    position: u64,
    index: usize,
) -> Result<(Event, &'a [u8]), CodecError> {
    let start = reader.offset();
    let stream = std::str::from_utf8(reader.text()?)
        .ok()
        .and_then(Stream::parse);
    let stream = stream.ok_or(CodecError::Malformed("stream name"))?;
    let version = u32::from_le_bytes(reader.array()?);
    let kind = reader.u8()?;
    let schema_version = u16::from_le_bytes(reader.array()?);
    let provenance = match reader.text()? {
        [] => Vec::new(),
        json => serde_json::from_slice(json).map_err(|_| CodecError::Malformed("provenance"))?,
    };
    let salt: [u8; 16] = reader.array()?;
    let payload_hash: [u8; 32] = reader.array()?;
    let length = u32::from_le_bytes(reader.array()?);
    let head = reader.since(start);
    let length = usize::try_from(length).map_err(|_| CodecError::TooLong("payload"))?;
    let payload = reader.bytes(length)?;
    if chain::payload_hash(&salt, payload) != payload_hash {
        return Err(CodecError::PayloadMismatch(index));
    }
    let body = decode_body(kind, schema_version, payload)?;
    Ok((
        Event {
            position,
            stream,
            version,
            body,
            provenance,
            payload_hash,
        },
        head,
    ))
}

#[cfg(test)]
mod tests;
