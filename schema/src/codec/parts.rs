//! The parts of a commit's bytes. Each is read and checked on its own.

use std::borrow::Cow;
use std::collections::BTreeSet;

use uuid::Uuid;

use super::bytes::Reader;
use super::decode::without_chain;
use super::sealed::{self, SubjectKeys};
use super::{CodecError, FORMAT, Stored, flag, section_flag};
use crate::caller::{KeyKind, Rights};
use crate::chain::{self, ChainHash};
use crate::event::{
    Actor, Blank, Commit, Event, EventBody, EventKind, OnBehalf, Origin, Provenance, SqlSource,
    Stream,
};
use crate::id::{RecordId, TaskId, UserId};
use crate::predicate::Relation;
use crate::time::Timestamp;

/// The part of the header that is always present.
pub(super) struct Fixed {
    flags: u8,
    key: KeyKind,
    rights: Rights,
    origin: Origin,
    id: Uuid,
    pub(super) first_position: u64,
    pub(super) num_events: u16,
    pub(super) time: Timestamp,
    epoch: u32,
}

impl Fixed {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(CodecError::UnknownFormat(format));
        }
        let flags = reader.u8()?;
        if flags & !flag::KNOWN != 0 {
            return Err(CodecError::UnknownFlags(flags));
        }
        let actor = reader.u8()?;
        let (key, rights) = key(actor);
        let fixed = Self {
            flags,
            key,
            rights,
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
pub(super) struct Header {
    pub(super) fixed: Fixed,
    pub(super) actor: Actor,
    pub(super) request_id: Option<Uuid>,
    causation: Option<Uuid>,
    sql: Option<Box<SqlSource>>,
}

impl Header {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let fixed = Fixed::read(reader)?;
        let has = |flag| fixed.flags & flag != 0;
        let user = has(flag::USER).then(|| reader.text()).transpose()?;
        let plugin = has(flag::PLUGIN).then(|| reader.text()).transpose()?;
        let on_behalf = has(flag::ON_BEHALF).then(|| read_on_behalf(reader));
        let on_behalf = on_behalf.transpose()?;
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
                rights: fixed.rights,
                origin: fixed.origin,
                plugin,
                on_behalf: on_behalf.map(Box::new),
            },
            fixed,
            request_id,
            causation,
            sql: sql.map(Box::new),
        })
    }
}

fn read_on_behalf(reader: &mut Reader<'_>) -> Result<OnBehalf, CodecError> {
    let user = reader.text()?;
    Ok(OnBehalf {
        user: (!user.is_empty()).then(|| user.into()),
        point: reader.text()?,
    })
}

/// A commit split into its parts, without its chain hash; payloads are still as stored.
pub(super) struct Frame<'a> {
    pub(super) header_bytes: &'a [u8],
    pub(super) header: Header,
    pub(super) sections: Vec<Section<'a>>,
}

impl<'a> Frame<'a> {
    pub(super) fn read_chained(bytes: &'a [u8]) -> Result<(Self, ChainHash), CodecError> {
        let (bytes, chain) = without_chain(bytes)?;
        Ok((Self::read(bytes)?, chain))
    }

    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, CodecError> {
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

    /// Returns the chain hash that follows `previous`.
    pub(super) fn link(&self, previous: &ChainHash) -> ChainHash {
        let covered = self.sections.iter().flat_map(Section::covered);
        chain::link(previous, self.header_bytes, covered)
    }

    pub(super) fn verify(&self, previous: &ChainHash, chain: &ChainHash) -> Result<(), CodecError> {
        if self.link(previous) == *chain {
            Ok(())
        } else {
            Err(CodecError::ChainMismatch)
        }
    }

    pub(super) fn decode(
        self,
        chain: ChainHash,
        keys: &dyn SubjectKeys,
    ) -> Result<Commit, CodecError> {
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

/// What an event says in addition to its payload.
pub(super) struct Head {
    pub(super) stream: Stream,
    version: u32,
    kind: u16,
    schema_version: u16,
    pub(super) provenance: Vec<Provenance>,
}

impl Head {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            stream: read_stream(reader)?,
            version: reader.number()?,
            kind: reader.number()?,
            schema_version: reader.number()?,
            provenance: read_provenance(reader)?,
        })
    }

    pub(super) fn kind(&self) -> Result<EventKind, CodecError> {
        EventKind::from_number(self.kind).ok_or(CodecError::UnknownEvent {
            kind: self.kind,
            version: self.schema_version,
        })
    }
}

/// Salt and payload of an event as stored, or the hash that replaced them.
pub(super) enum Content<'a> {
    Stored {
        salt: [u8; 16],
        payload: &'a [u8],
        is_sealed: bool,
    },
    Erased([u8; 32]),
}

impl<'a> Content<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, CodecError> {
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

/// One event; its payload is still as stored.
pub(super) struct Section<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) head: &'a [u8],
    pub(super) parsed: Head,
    pub(super) hash: [u8; 32],
    pub(super) salt: Option<[u8; 16]>,
    /// `None` if it was erased.
    pub(super) payload: Option<&'a [u8]>,
    pub(super) is_sealed: bool,
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
            Some(bytes) => {
                let bytes = &bytes;
                let stored = Stored {
                    kind,
                    version,
                    bytes,
                };
                EventBody::decode(&stored, user)?
            }
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

/// Reads the two bits of the key and the rights.
fn key(number: u8) -> (KeyKind, Rights) {
    match number & 3 {
        0 => (KeyKind::None, Rights::Key),
        1 => (KeyKind::Client, Rights::Key),
        2 => (KeyKind::Master, Rights::Key),
        _ => (KeyKind::Master, Rights::User),
    }
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
        18 => Stream::Restore(reader.uuid()?),
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
