//! Frames: the bytes of one commit in a segment, and what recovery needs.
//!
//! ```text
//! frame = length u32 | checksum u32 | group u32 | commit bytes
//! ```
//!
//! `checksum` is CRC-32 over group and commit bytes. `group` is the offset at which the frame's
//! group began: the frames that were written together and made durable by one flush. A group is
//! flushed before the next one is written. So a broken frame followed by a valid one of a *later*
//! group was durable once and has been damaged since, while one that is followed only by frames of
//! its own group may just be torn.

use std::io;
use std::ops::Range;

use skytrail_schema::codec::{self, CodecError, Peek};

use super::READ_BYTES;
use super::index::Index;
use crate::log::disk::DiskFile;

pub(super) const HEAD_BYTES: usize = 12;

/// An intact frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) group: u32,
    pub(super) commit: &'a [u8],
    pub(super) peek: Peek,
}

impl Frame<'_> {
    pub(super) fn total_bytes(&self) -> usize {
        HEAD_BYTES + self.commit.len()
    }
}

/// Appends a frame to `out`.
pub(super) fn put(out: &mut Vec<u8>, group: u32, commit: &[u8]) {
    // By now a commit is known to be far smaller than 4 GiB.
    let length = u32::try_from(commit.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(group, commit).to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(commit);
}

/// Reads the frame at the start of `bytes`; `None` when there is none that is intact.
pub(super) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let (group, commit) = parts(bytes)?;
    // Reading the commit's head first is cheap and avoids a checksum over random bytes.
    let peek = codec::peek(commit).ok()?;
    (checksum(group, commit) == u32_at(bytes, 4)?).then_some(Frame {
        group,
        commit,
        peek,
    })
}

/// Returns why the frame at the start of `bytes` cannot be read although its checksum is right: a
/// newer version of this program may have written it.
pub(super) fn unknown(bytes: &[u8]) -> Option<CodecError> {
    let (group, commit) = parts(bytes)?;
    let reason = codec::peek(commit).err()?;
    (checksum(group, commit) == u32_at(bytes, 4)?).then_some(reason)
}

/// The frames in a part of a segment, one after the other.
pub(super) struct Frames<'a> {
    file: &'a dyn DiskFile,
    /// Notes where commits begin.
    index: Option<&'a Index>,
    /// From the next frame to the end of the part.
    remaining: Range<u64>,
    /// The bytes that were read, and how many of them have been used.
    chunk: Vec<u8>,
    used: usize,
}

impl<'a> Frames<'a> {
    /// Builds the frames of a part, which begins at a frame.
    pub(super) fn new(file: &'a dyn DiskFile, part: Range<u64>) -> Self {
        Self {
            file,
            index: None,
            remaining: part,
            chunk: Vec::new(),
            used: 0,
        }
    }

    /// Notes in an index where the frames begin.
    pub(super) fn noting(self, index: &'a Index) -> Self {
        Self {
            index: Some(index),
            ..self
        }
    }

    /// Returns the offset of the next frame, or the end of the part when there are no more.
    pub(super) fn offset(&self) -> u64 {
        self.remaining.start
    }

    /// Returns whether the end of the part has not been reached.
    pub(super) fn has_more(&self) -> bool {
        !self.remaining.is_empty()
    }

    /// Advances to the next frame; returns it with its offset, or `None` when it is not intact.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Frame<'_>)>> {
        self.read_on()?;
        let Some(frame) = self.chunk.get(self.used..).and_then(read) else {
            return Ok(None);
        };
        let offset = self.remaining.start;
        self.remaining.start += frame.total_bytes() as u64;
        self.used += frame.total_bytes();
        if let Some(index) = self.index {
            index.note(frame.peek.first_position, offset);
        }
        Ok(Some((offset, frame)))
    }

    /// Reads until the whole next frame is in memory: a chunk, or more if the frame is larger.
    fn read_on(&mut self) -> io::Result<()> {
        let remaining = self.remaining.end.saturating_sub(self.remaining.start);
        let remaining = usize::try_from(remaining).map_err(io::Error::other)?;
        loop {
            let read = self.chunk.get(self.used..).unwrap_or_default();
            let needed = claimed_bytes(read).unwrap_or(HEAD_BYTES).min(remaining);
            if needed <= read.len() {
                return Ok(());
            }
            self.used = 0;
            self.chunk.resize(needed.max(READ_BYTES).min(remaining), 0);
            self.file.read_at(&mut self.chunk, self.remaining.start)?;
        }
    }
}

fn parts(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let group = u32_at(bytes, 8)?;
    let commit = bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
    Some((group, commit))
}

/// Reads the length that a frame's head claims, without reading the commit.
fn claimed_bytes(head: &[u8]) -> Option<usize> {
    let length = usize::try_from(u32_at(head, 0)?).ok()?;
    (length > 0).then(|| HEAD_BYTES.saturating_add(length))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let part = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(part.try_into().ok()?))
}

fn checksum(group: u32, commit: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&group.to_le_bytes());
    hasher.update(commit);
    hasher.finalize()
}
