//! Encodes commits into bytes.

use std::sync::Arc;

use super::bytes::{put_length, put_text, put_varint};
use super::sealed::{self, Sealing, SubjectKey};
use super::{CodecError, FORMAT, Seal, flag, section_flag};
use crate::caller::{KeyKind, Rights};
use crate::chain::{self, ChainHash};
use crate::event::{
    Actor, Commit, Event, EventBody, NewCommit, NewEvent, Origin, Provenance, Stream,
};
use crate::id::UserId;
use crate::predicate::Relation;

/// Room for header and chain hash in size estimates: the longest header without long names.
const FRAME_BYTES: usize = 160;

/// Events that are encoded except for their position in the log.
#[derive(Clone, Debug)]
pub struct EncodedEvents {
    commit: Arc<NewCommit>,
    sections: Vec<Section>,
}

/// The bytes of one event.
#[derive(Clone, Debug)]
struct Section {
    bytes: Vec<u8>,
    /// How many of the bytes are the head.
    head_length: usize,
    hash: [u8; 32],
    /// The key that it is sealed with, and the key's number.
    key: Option<(u64, SubjectKey)>,
}

impl Section {
    /// Returns what the chain covers.
    fn covered(&self) -> [&[u8]; 2] {
        let head = self.bytes.get(..self.head_length).unwrap_or_default();
        [head, &self.hash]
    }
}

/// Encodes the events of a commit. Events about a subject in `keys` are sealed with that subject's
/// key. `salt` returns 16 fresh random bytes at each call.
///
/// # Errors
/// No events or more than 65,535; or an [`EventBody::Erased`], which only reading produces.
pub fn encode_events(
    commit: Arc<NewCommit>,
    keys: &Sealing,
    mut salt: impl FnMut() -> [u8; 16],
) -> Result<EncodedEvents, CodecError> {
    if commit.events.is_empty() || commit.events.len() > usize::from(u16::MAX) {
        return Err(CodecError::TooLong("list of events"));
    }
    let user = commit.actor.user.as_ref();
    let sections = commit
        .events
        .iter()
        .map(|event| {
            let subject = sealed::subject(event, &commit.actor);
            let key = subject.and_then(|subject| keys.get(&subject).cloned());
            encode_event(event, user, key, salt())
        })
        .collect::<Result<_, _>>()?;
    Ok(EncodedEvents { commit, sections })
}

impl EncodedEvents {
    /// Returns the approximate size of the commit's bytes, close enough for limits.
    pub fn size_bytes(&self) -> usize {
        let sections = self.sections.iter().map(|section| section.bytes.len());
        sections.sum::<usize>() + FRAME_BYTES
    }

    /// Returns the commit as it was decided.
    pub fn commit(&self) -> &Arc<NewCommit> {
        &self.commit
    }

    /// Returns the numbers of the keys that events are sealed with.
    pub fn keys(&self) -> impl Iterator<Item = u64> {
        let keys = self.sections.iter().filter_map(|it| it.key.as_ref());
        keys.map(|(number, _)| *number)
    }

    /// Replaces the body of one event. This is for numbers that only the log can assign.
    ///
    /// # Errors
    /// As [`encode_events`], or when there is no such event.
    pub fn replace_body(
        &mut self,
        index: usize,
        body: EventBody,
        salt: [u8; 16],
    ) -> Result<(), CodecError> {
        let commit = Arc::make_mut(&mut self.commit);
        let missing = CodecError::Malformed("event index");
        let event = commit.events.get_mut(index).ok_or(missing.clone())?;
        let section = self.sections.get_mut(index).ok_or(missing)?;
        event.body = body;
        let key = section.key.take();
        *section = encode_event(event, commit.actor.user.as_ref(), key, salt)?;
        Ok(())
    }
}

/// Finishes a commit: returns its bytes, and the commit as readers will see it.
///
/// # Errors
/// A name in the actor that is too long to be written.
pub fn seal(
    encoded: EncodedEvents,
    seal: Seal,
    previous: &ChainHash,
) -> Result<(Vec<u8>, Commit), CodecError> {
    let mut bytes = Vec::with_capacity(encoded.size_bytes());
    let EncodedEvents { commit, sections } = encoded;
    put_header(&mut bytes, &commit, seal)?;
    let chain = chain::link(previous, &bytes, sections.iter().flat_map(Section::covered));
    for section in &sections {
        bytes.extend_from_slice(&section.bytes);
    }
    bytes.extend_from_slice(&chain);
    Ok((bytes, committed(commit, &sections, seal, chain)))
}

fn committed(commit: Arc<NewCommit>, sections: &[Section], seal: Seal, chain: ChainHash) -> Commit {
    let commit = Arc::unwrap_or_clone(commit);
    let places = sections.iter().zip(seal.first_position..);
    let events = commit.events.into_iter().zip(places);
    Commit {
        id: commit.id,
        time: seal.time,
        epoch: seal.epoch,
        actor: commit.actor,
        request_id: commit.request_id,
        causation: commit.causation,
        sql: commit.sql,
        events: events
            .map(|(event, (section, position))| Event {
                position,
                stream: event.stream,
                version: event.version,
                body: event.body,
                provenance: event.provenance,
                payload_hash: section.hash,
            })
            .collect(),
        chain,
    }
}

fn put_header(out: &mut Vec<u8>, commit: &NewCommit, seal: Seal) -> Result<(), CodecError> {
    let count =
        u16::try_from(commit.events.len()).map_err(|_| CodecError::TooLong("list of events"))?;
    let Actor {
        user,
        key,
        rights,
        origin,
        plugin,
        on_behalf,
    } = &commit.actor;
    let is_of_request = commit.request_id == Some(commit.id);
    let other_request = commit.request_id.filter(|_| !is_of_request);
    let flags = [
        (user.is_some(), flag::USER),
        (plugin.is_some(), flag::PLUGIN),
        (on_behalf.is_some(), flag::ON_BEHALF),
        (other_request.is_some(), flag::REQUEST),
        (is_of_request, flag::OF_REQUEST),
        (commit.causation.is_some(), flag::CAUSATION),
        (commit.sql.is_some(), flag::SQL),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set);
    let flags = flags.fold(0, |all, (_, flag)| all | flag);
    out.extend_from_slice(&[
        FORMAT,
        flags,
        key_number(*key, *rights) | origin_number(*origin) << 2,
    ]);
    out.extend_from_slice(commit.id.as_bytes());
    put_varint(out, seal.first_position);
    put_varint(out, count.into());
    put_varint(out, seal.epoch.into());
    out.extend_from_slice(&seal.time.micros().to_le_bytes());
    let names = [user.as_ref().map(UserId::as_str), plugin.as_deref()];
    for name in names.into_iter().flatten() {
        put_text(out, name)?;
    }
    if let Some(on_behalf) = on_behalf {
        put_text(out, on_behalf.user.as_ref().map_or("", UserId::as_str))?;
        put_text(out, &on_behalf.point)?;
    }
    for id in [other_request, commit.causation].into_iter().flatten() {
        out.extend_from_slice(id.as_bytes());
    }
    if let Some(source) = &commit.sql {
        put_text(out, &source.role)?;
        put_varint(out, source.transaction);
        out.extend_from_slice(&source.at.micros().to_le_bytes());
        out.extend_from_slice(source.outbox.as_bytes());
        put_varint(out, source.until);
    }
    Ok(())
}

fn key_number(key: KeyKind, rights: Rights) -> u8 {
    match (key, rights) {
        (KeyKind::None, _) => 0,
        (KeyKind::Client, _) => 1,
        (KeyKind::Master, Rights::Key) => 2,
        (KeyKind::Master, Rights::User) => 3,
    }
}

fn origin_number(origin: Origin) -> u8 {
    match origin {
        Origin::Api => 0,
        Origin::Plugin => 1,
        Origin::System => 2,
        Origin::Cli => 3,
        Origin::Import => 4,
        Origin::Sql => 5,
    }
}

fn encode_event(
    event: &NewEvent,
    user: Option<&UserId>,
    key: Option<(u64, SubjectKey)>,
    salt: [u8; 16],
) -> Result<Section, CodecError> {
    let mut payload = event.body.encode(user)?;
    let kind = event.body.kind();
    let mut bytes = Vec::with_capacity(payload.len() + 128);
    put_stream(&mut bytes, &event.stream)?;
    put_varint(&mut bytes, event.version.into());
    put_varint(&mut bytes, kind.number().into());
    put_varint(&mut bytes, kind.schema_version().into());
    put_provenance(&mut bytes, &event.provenance)?;
    let head_length = bytes.len();
    if let Some(key) = &key {
        payload = sealed::seal(&payload, key, (&bytes, &salt))?;
    }
    let hash = chain::payload_hash(&salt, &payload);
    bytes.push(if key.is_some() {
        section_flag::SEALED
    } else {
        0
    });
    bytes.extend_from_slice(&salt);
    put_length(&mut bytes, payload.len())?;
    bytes.extend_from_slice(&payload);
    Ok(Section {
        bytes,
        head_length,
        hash,
        key,
    })
}

fn put_stream(out: &mut Vec<u8>, stream: &Stream) -> Result<(), CodecError> {
    let (number, names) = match stream {
        Stream::Record(id) => (1, vec![id.record_type.as_str(), id.key.as_str()]),
        Stream::Type(name) => (2, vec![name.as_str()]),
        Stream::User(id) => (3, vec![id.as_str()]),
        Stream::Role(name) => (4, vec![name.as_str()]),
        Stream::Relation(Relation::Friend, user) => (5, vec![user.as_str()]),
        Stream::Relation(Relation::Follow, user) => (6, vec![user.as_str()]),
        Stream::FieldAccess => (7, Vec::new()),
        Stream::Asset(name) => (12, vec![name.as_str()]),
        Stream::Device(id) => (10, vec![id.as_str()]),
        Stream::Subscriptions(id) => (11, vec![id.as_str()]),
        Stream::Task(id) => (14, vec![&*id.plugin, &*id.name]),
        Stream::Erasure(id) => {
            out.push(16);
            out.extend_from_slice(id.as_bytes());
            return Ok(());
        }
        Stream::Plugin(name) => (17, vec![name.as_str()]),
        Stream::Restore(id) => {
            out.push(18);
            out.extend_from_slice(id.as_bytes());
            return Ok(());
        }
    };
    out.push(number);
    names.into_iter().try_for_each(|name| put_text(out, name))
}

fn put_provenance(out: &mut Vec<u8>, provenance: &[Provenance]) -> Result<(), CodecError> {
    put_length(out, provenance.len())?;
    for hook in provenance {
        put_text(out, &hook.plugin)?;
        put_text(out, &hook.hook)?;
        put_length(out, hook.changed.len())?;
        for field in &hook.changed {
            put_text(out, field)?;
        }
    }
    Ok(())
}
