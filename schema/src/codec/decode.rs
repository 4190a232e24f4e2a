//! Decodes bytes into commits. Nothing here panics, whatever the bytes are.

use super::bytes::Reader;
use super::parts::{Content, Fixed, Frame, Head, Header, Section};
use super::sealed::{self, SubjectKeys, Withheld};
use super::{CodecError, CommitParts, EventParts, Peek, section_flag};
use crate::chain::ChainHash;
use crate::event::{Commit, EventFilter, EventKind, Stream};

/// Decodes a commit. An event that is sealed with a destroyed key becomes
/// [erased](crate::event::EventBody::Erased).
///
/// This does not check that the bytes are what was written: [`verify_chain`] and the frame's
/// checksum do.
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
/// [`CodecError::ChainMismatch`], or the errors of [`decode_commit`].
pub fn verify_chain(
    bytes: &[u8],
    previous: &ChainHash,
    keys: &dyn SubjectKeys,
) -> Result<Commit, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    frame.verify(previous, &chain)?;
    frame.decode(chain, keys)
}

/// How much of a commit cannot be read without a key, or at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Events whose payload was erased.
    pub num_erased: u64,
    /// Events that are sealed.
    pub num_sealed: u64,
}

/// Checks a commit as [`verify_chain`] does, or as [`decode_commit`] does if there is no
/// `previous`.
///
/// Sealed payloads are not opened, so no key is needed.
///
/// # Errors
/// The same as theirs.
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

/// What is known of an event without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The stream it belongs to.
    pub stream: Stream,
    /// The kind of event.
    pub kind: EventKind,
    /// Whether its payload was erased.
    pub is_erased: bool,
}

/// Reads what is known of a commit's events without their payloads. No key is needed.
///
/// # Errors
/// As [`decode_commit`].
pub fn outlines(bytes: &[u8]) -> Result<Vec<Outline>, CodecError> {
    let (frame, _) = Frame::read_chained(bytes)?;
    let outline = |section: Section<'_>| {
        Ok(Outline {
            kind: section.parsed.kind()?,
            stream: section.parsed.stream,
            is_erased: section.payload.is_none(),
        })
    };
    frame.sections.into_iter().map(outline).collect()
}

/// An event whose payload is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedEvent {
    /// Its position in the log.
    pub position: u64,
    /// The stream it belongs to.
    pub stream: Stream,
    /// The number of the key that opens it.
    pub key: u64,
}

/// Finds the sealed events of a commit, without opening them.
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

/// Rewrites a commit without the payloads and salts of some of its events.
///
/// Their hashes take their place, so the chain hash does not change. Returns `None` when there was
/// nothing to erase.
///
/// # Errors
/// As [`decode_commit`], which reads the commit first.
pub fn blank_payloads(
    bytes: &[u8],
    is_requested: impl Fn(u64) -> bool,
) -> Result<Option<Vec<u8>>, CodecError> {
    let (frame, chain) = Frame::read_chained(bytes)?;
    let mut out = frame.header_bytes.to_vec();
    let mut has_taken = false;
    for (section, position) in frame
        .sections
        .iter()
        .zip(frame.header.fixed.first_position..)
    {
        if section.payload.is_none() || !is_requested(position) {
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

/// Splits a commit into what the chain covers and what its hashes are computed from.
///
/// It is for those who want to check the hashes without this program.
///
/// # Errors
/// As [`decode_commit`].
pub fn split_commit(bytes: &[u8]) -> Result<CommitParts<'_>, CodecError> {
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

/// Reads what recovery needs to know about a commit, without reading its events.
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

/// Splits the chain hash off a commit's bytes.
///
/// # Errors
/// Too short.
pub fn without_chain(bytes: &[u8]) -> Result<(&[u8], ChainHash), CodecError> {
    let (bytes, chain) = bytes
        .split_last_chunk()
        .ok_or(CodecError::Truncated(bytes.len()))?;
    Ok((bytes, *chain))
}

/// Computes the chain hash of a commit that was stored without it and follows `previous`.
///
/// # Errors
/// As [`decode_commit`].
pub fn next_chain_hash(previous: &ChainHash, bytes: &[u8]) -> Result<ChainHash, CodecError> {
    Ok(Frame::read(bytes)?.link(previous))
}

/// Returns whether a filter can want one of a commit's events.
///
/// That is decided without the payloads: they are not hashed, opened or parsed. The only events that
/// it can be wrong about are requests for erasures.
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
        if filter.may_want(actor, &head.stream, head.kind()?, &head.provenance) {
            return Ok(true);
        }
        Content::read(&mut reader)?;
    }
    Ok(false)
}
