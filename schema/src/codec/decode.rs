//! Bytes to commits. Whatever the bytes, nothing here panics.

use std::borrow::Cow;
use std::collections::BTreeSet;

use uuid::Uuid;

use super::bytes::Reader;
use super::sealed::{self, SubjectKeys, Withheld};
use super::{CodecError, CommitParts, EventParts, FORMAT, Peek, flag, payload, section_flag};
use crate::caller::KeyKind;
use crate::chain::{self, ChainHash};
use crate::event::{
    Actor, Blank, Commit, Event, EventBody, EventFilter, EventKind, Origin, Provenance, SqlSource,
    Stream,
};
use crate::id::{RecordId, TaskId, UserId};
use crate::predicate::Relation;
use crate::time::Timestamp;

/// Decodes a commit; what is sealed with a key that was destroyed is [erased](EventBody::Erased).
/// Whether it is what was written, [`verify_chain`] and the frame's checksum know.
///
/// # Errors
/// See [`CodecError`]; never panics, whatever the bytes.
pub fn decode_commit(bytes: &[u8], keys: &dyn SubjectKeys) -> Result<Commit, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    frame.decode(chain, keys)
}

/// Decodes a commit as [`decode_commit`] does, and checks that its chain hash follows `previous`.
///
/// # Errors
/// [`CodecError::ChainMismatch`], or what [`decode_commit`] finds.
pub fn verify_chain(
    bytes: &[u8],
    previous: &ChainHash,
    keys: &dyn SubjectKeys,
) -> Result<Commit, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    frame.verify(previous, &chain)?;
    frame.decode(chain, keys)
}

/// What is not in the open in a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Events without payload.
    pub num_erased: u64,
    /// Events that are sealed.
    pub num_sealed: u64,
}

/// Checks a commit as [`verify_chain`] does, or as [`decode_commit`] does without a `previous`, but
/// for what is sealed in it: no key is needed.
///
/// # Errors
/// As theirs.
pub fn check_commit(bytes: &[u8], previous: Option<&ChainHash>) -> Result<Contents, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    if let Some(previous) = previous {
        frame.verify(previous, &chain)?;
    }
    let erased = frame.sections.iter().filter(|it| it.payload.is_none());
    let sealed = frame.sections.iter().filter(|it| it.is_sealed);
    let contents = Contents {
        num_erased: erased.count() as u64,
        num_sealed: sealed.count() as u64,
    };
    frame.decode(chain, &Withheld)?;
    Ok(contents)
}

/// An event that is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEvent {
    /// Where it stands in the log.
    pub position: u64,
    /// What it is about.
    pub stream: Stream,
    /// The number of the key that opens it.
    pub key: u64,
}

/// Finds what is sealed in a commit, without opening it.
///
/// # Errors
/// As [`decode_commit`].
pub fn sealed_events(bytes: &[u8]) -> Result<Vec<SealedEvent>, CodecError> {
    let (frame, _) = Frame::read_chained(bytes)?;
    let places = frame.sections.into_iter();
    let places = places.zip(frame.header.fixed.first_position..);
    let sealed = places.filter(|(section, _)| section.is_sealed);
    let event = |(section, position): (Section<'_>, u64)| {
        Ok(SealedEvent {
            position,
            key: sealed::key_of(section.payload.unwrap_or_default())?,
            stream: section.parsed.stream,
        })
    };
    sealed.map(event).collect()
}

/// Writes a commit again without the payloads and salts of some of its events: their hashes take
/// their place, so the chain hash stays what it was. `None` when there was nothing to take.
///
/// # Errors
/// As [`decode_commit`]; what is written was read before.
pub fn blank_payloads(
    bytes: &[u8],
    is_wanted: impl Fn(u64) -> bool,
) -> Result<Option<Vec<u8>>, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    let mut out = frame.header_bytes.to_vec();
    let mut has_taken = false;
    for (section, position) in frame
        .sections
        .iter()
        .zip(frame.header.fixed.first_position..)
    {
        if section.payload.is_none() || !is_wanted(position) {
            out.extend_from_slice(section.bytes);
            continue;
        }
        has_taken = true;
        out.extend_from_slice(section.head);
        out.push(section_flag::ERASED);
        out.extend_from_slice(&section.hash);
    }
    out.extend_from_slice(&chain);
    Ok(has_taken.then_some(out))
}

/// Takes a commit apart into what the chain covers and what its hashes are made of, for those who
/// want to check them without this program.
///
/// # Errors
/// As [`decode_commit`].
pub fn take_apart(bytes: &[u8]) -> Result<CommitParts<'_>, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    let events = frame.sections.iter().map(|section| EventParts {
        head: section.head,
        hash: section.hash,
        content: section.salt.zip(section.payload),
    });
    Ok(CommitParts {
        header: frame.header_bytes,
        events: events.collect(),
        chain,
    })
}

/// Reads what a recovery needs to know of a commit, without looking at its events.
///
/// # Errors
/// Too short, an unknown format, or no events.
pub fn peek(bytes: &[u8]) -> Result<Peek, CodecError> {
    let fixed = Fixed::read(&mut Reader::new(bytes))?;
    let (_, chain) = without_chain(bytes)?;
    Ok(Peek {
        first_position: fixed.first_position,
        num_events: fixed.num_events,
        time: fixed.time,
        chain,
    })
}

/// Takes a commit's chain hash off its bytes.
///
/// # Errors
/// Too short.
pub fn without_chain(bytes: &[u8]) -> Result<(&[u8], ChainHash), CodecError> {
    let (bytes, chain) = bytes
        .split_last_chunk()
        .ok_or(CodecError::Truncated(bytes.len()))?;
    Ok((bytes, *chain))
}

/// Computes the chain hash that was taken off a commit, which follows `previous`.
///
/// # Errors
/// As [`decode_commit`].
pub fn chain_behind(previous: &ChainHash, bytes: &[u8]) -> Result<ChainHash, CodecError> {
    Ok(Frame::read(bytes)?.link(previous))
}

/// Whether a filter wants one of a commit's events, which is known without their payloads: these are
/// neither hashed nor opened nor parsed.
///
/// # Errors
/// See [`CodecError`]; never panics, whatever the bytes.
pub fn has_wanted(bytes: &[u8], filter: &EventFilter) -> Result<bool, CodecError> {
    let mut reader = Reader::new(bytes);
    let header = Header::read(&mut reader)?;
    if !filter.may_be_in(&header.actor, header.request_id) {
        return Ok(false);
    }
    for _ in 0..header.fixed.num_events {
        let head = Head::read(&mut reader)?;
        let actor = &header.actor;
        if filter.wants(actor, &head.stream, head.kind()?, &head.provenance) {
            return Ok(true);
        }
        Content::read(&mut reader)?;
    }
    Ok(false)
}

/// The part of the header that is always there.
struct Fixed {
    flags: u8,
    key: KeyKind,
    origin: Origin,
    id: Uuid,
    first_position: u64,
    num_events: u16,
    time: Timestamp,
    epoch: u32,
}

impl Fixed {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(CodecError::UnknownFormat(format));
        }
        let flags = reader.u8()?;
        if flags & !flag::KNOWN != 0 {
            return Err(CodecError::UnknownFlags(flags));
        }
        let actor = reader.u8()?;
        let fixed = Self {
            flags,
            key: key(actor & 3)?,
            origin: origin(actor >> 2)?,
            id: reader.uuid()?,
            first_position: reader.varint()?,
            num_events: reader.number()?,
            epoch: reader.number()?,
            time: Timestamp::from_micros(i64::from_le_bytes(reader.array()?)),
        };
        let end = fixed.first_position.checked_add(fixed.num_events.into());
        if fixed.num_events == 0 || fixed.first_position == 0 || end.is_none() {
            return Err(CodecError::Malformed("positions"));
        }
        Ok(fixed)
    }
}

/// The header.
struct Header {
    fixed: Fixed,
    actor: Actor,
    request_id: Option<Uuid>,
    causation: Option<Uuid>,
    sql: Option<Box<SqlSource>>,
}

impl Header {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let fixed = Fixed::read(reader)?;
        let has = |flag| fixed.flags & flag != 0;
        let user = has(flag::USER).then(|| reader.text()).transpose()?;
        let plugin = has(flag::PLUGIN).then(|| reader.text()).transpose()?;
        let request_id = match (has(flag::OF_REQUEST), has(flag::REQUEST)) {
            (true, true) => return Err(CodecError::Malformed("flags")),
            (true, false) => Some(fixed.id),
            (false, true) => Some(reader.uuid()?),
            (false, false) => None,
        };
        let causation = has(flag::CAUSATION).then(|| reader.uuid()).transpose()?;
        let sql = has(flag::SQL).then(|| read_sql(reader)).transpose()?;
        Ok(Self {
            actor: Actor {
                user: user.map(UserId::from),
                key: fixed.key,
                origin: fixed.origin,
                plugin,
            },
            fixed,
            request_id,
            causation,
            sql: sql.map(Box::new),
        })
    }
}

/// A commit in its parts without its chain hash, payloads still as stored.
struct Frame<'a> {
    header_bytes: &'a [u8],
    header: Header,
    sections: Vec<Section<'a>>,
}

impl<'a> Frame<'a> {
    fn read_chained(bytes: &'a [u8]) -> Result<(Self, ChainHash), CodecError> {
        let (bytes, chain) = without_chain(bytes)?;
        Ok((Self::read(bytes)?, chain))
    }

    fn read(bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let header = Header::read(&mut reader)?;
        let header_bytes = reader.since(0);
        let sections = (0..header.fixed.num_events).map(|_| Section::read(&mut reader));
        let sections = sections.collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self {
            header_bytes,
            header,
            sections,
        })
    }

    /// Returns the chain hash behind `previous`.
    fn link(&self, previous: &ChainHash) -> ChainHash {
        let covered = self.sections.iter().flat_map(Section::covered);
        chain::link(previous, self.header_bytes, covered)
    }

    fn verify(&self, previous: &ChainHash, chain: &ChainHash) -> Result<(), CodecError> {
        if self.link(previous) == *chain {
            Ok(())
        } else {
            Err(CodecError::ChainMismatch)
        }
    }

    fn decode(self, chain: ChainHash, keys: &dyn SubjectKeys) -> Result<Commit, CodecError> {
        let header = self.header;
        let user = header.actor.user.as_ref();
        let first_position = header.fixed.first_position;
        let events = self.sections.into_iter().zip(first_position..);
        let events = events
            .map(|(section, position)| section.decode(position, user, keys))
            .collect::<Result<_, _>>()?;
        Ok(Commit {
            id: header.fixed.id,
            time: header.fixed.time,
            epoch: header.fixed.epoch,
            actor: header.actor,
            request_id: header.request_id,
            causation: header.causation,
            sql: header.sql,
            events,
            chain,
        })
    }
}

/// What an event says besides its payload.
struct Head {
    stream: Stream,
    version: u32,
    kind: u16,
    schema_version: u16,
    provenance: Vec<Provenance>,
}

impl Head {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            stream: read_stream(reader)?,
            version: reader.number()?,
            kind: reader.number()?,
            schema_version: reader.number()?,
            provenance: read_provenance(reader)?,
        })
    }

    fn kind(&self) -> Result<EventKind, CodecError> {
        EventKind::from_number(self.kind).ok_or(CodecError::UnknownEvent {
            kind: self.kind,
            version: self.schema_version,
        })
    }
}

/// Salt and payload of an event as stored, or the hash that has taken their place.
enum Content<'a> {
    Stored {
        salt: [u8; 16],
        payload: &'a [u8],
        is_sealed: bool,
    },
    Erased([u8; 32]),
}

impl<'a> Content<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        let flag = reader.u8()?;
        match flag {
            0 | section_flag::SEALED => {
                let salt = reader.array()?;
                let length = reader.number()?;
                Ok(Self::Stored {
                    salt,
                    payload: reader.bytes(length)?,
                    is_sealed: flag == section_flag::SEALED,
                })
            }
            section_flag::ERASED => Ok(Self::Erased(reader.array()?)),
            section_flag::COMPRESSED => Err(CodecError::Malformed("compressed payload")),
            _ => Err(CodecError::Malformed("section flags")),
        }
    }
}

/// One event, its payload still as stored.
struct Section<'a> {
    bytes: &'a [u8],
    head: &'a [u8],
    parsed: Head,
    hash: [u8; 32],
    salt: Option<[u8; 16]>,
    /// `None` when it is erased.
    payload: Option<&'a [u8]>,
    is_sealed: bool,
}

impl<'a> Section<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
        let start = reader.offset();
        let parsed = Head::read(reader)?;
        let head = reader.since(start);
        let content = Content::read(reader)?;
        let (hash, salt, payload, is_sealed) = match content {
            Content::Stored {
                salt,
                payload,
                is_sealed,
            } => {
                let hash = chain::payload_hash(&salt, payload);
                (hash, Some(salt), Some(payload), is_sealed)
            }
            Content::Erased(hash) => (hash, None, None, false),
        };
        Ok(Self {
            bytes: reader.since(start),
            head,
            parsed,
            hash,
            salt,
            payload,
            is_sealed,
        })
    }

    /// Returns what the chain covers.
    fn covered(&self) -> [&[u8]; 2] {
        [self.head, &self.hash]
    }

    fn decode(
        self,
        position: u64,
        user: Option<&UserId>,
        keys: &dyn SubjectKeys,
    ) -> Result<Event, CodecError> {
        let kind = self.parsed.kind()?;
        let version = self.parsed.schema_version;
        let opened = match (self.payload, self.salt) {
            (Some(bytes), Some(salt)) if self.is_sealed => {
                sealed::open(bytes, keys, (self.head, &salt))?.map(Cow::Owned)
            }
            (payload, _) => payload.map(Cow::Borrowed),
        };
        let body = match opened {
            None => EventBody::Erased(Blank { kind, by: None }),
            Some(bytes) => payload::decode(kind, version, &bytes, user)?,
        };
        Ok(Event {
            position,
            stream: self.parsed.stream,
            version: self.parsed.version,
            body,
            provenance: self.parsed.provenance,
            payload_hash: self.hash,
        })
    }
}

fn key(number: u8) -> Result<KeyKind, CodecError> {
    Ok(match number {
        0 => KeyKind::None,
        1 => KeyKind::Client,
        2 => KeyKind::Master,
        _ => return Err(CodecError::Malformed("key kind")),
    })
}

fn origin(number: u8) -> Result<Origin, CodecError> {
    Ok(match number {
        0 => Origin::Api,
        1 => Origin::Plugin,
        2 => Origin::System,
        3 => Origin::Cli,
        4 => Origin::Import,
        5 => Origin::Sql,
        _ => return Err(CodecError::Malformed("origin")),
    })
}

fn read_sql(reader: &mut Reader<'_>) -> Result<SqlSource, CodecError> {
    Ok(SqlSource {
        role: reader.text()?,
        transaction: reader.number()?,
        at: Timestamp::from_micros(i64::from_le_bytes(reader.array()?)),
        outbox: reader.uuid()?,
        until: reader.number()?,
    })
}

fn read_stream(reader: &mut Reader<'_>) -> Result<Stream, CodecError> {
    Ok(match reader.u8()? {
        1 => Stream::Record(RecordId::new(reader.text()?, reader.text()?)),
        2 => Stream::Type(reader.text()?.into()),
        3 => Stream::User(reader.text()?.into()),
        4 => Stream::Role(reader.text()?.into()),
        5 => Stream::Relation(Relation::Friend, reader.text()?.into()),
        6 => Stream::Relation(Relation::Follow, reader.text()?.into()),
        7 => Stream::FieldAccess,
        12 => Stream::Asset(reader.text()?.into()),
        10 => Stream::Device(reader.text()?.into()),
        11 => Stream::Subscriptions(reader.text()?.into()),
        14 => Stream::Task(TaskId::new(reader.text()?, reader.text()?)),
        16 => Stream::Erasure(reader.uuid()?),
        17 => Stream::Plugin(reader.text()?.into()),
        _ => return Err(CodecError::Malformed("stream")),
    })
}

fn read_provenance(reader: &mut Reader<'_>) -> Result<Vec<Provenance>, CodecError> {
    let count: u32 = reader.number()?;
    (0..count).map(|_| read_hook(reader)).collect()
}

fn read_hook(reader: &mut Reader<'_>) -> Result<Provenance, CodecError> {
    let plugin = reader.text()?;
    let hook = reader.text()?;
    let count: u32 = reader.number()?;
    let changed = (0..count)
        .map(|_| reader.text())
        .collect::<Result<BTreeSet<_>, _>>()?;
    Ok(Provenance {
        plugin,
        hook,
        changed,
    })
}
