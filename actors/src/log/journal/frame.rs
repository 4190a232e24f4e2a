//! Frames: the bytes of one commit in a segment, with what recovery needs.
//!
//! ```text
//! frame = length u32 | checksum u32 | group u32 | commit bytes
//! ```
//!
//! `checksum` is CRC-32 over group and commit bytes. `group` is the offset at
//! which the frame's group began: the frames that were written together and
//! made durable by one flush. A group is flushed before the next one is
//! written, so a broken frame with a valid one of a *later* group behind it was
//! durable once and has been damaged since, while one with only frames of its
//! own group behind it may just be torn.

use skytrail_schema::codec::{self, CodecError, Peek};

pub(super) const HEAD_BYTES: usize = 12;

/// A frame that holds together.
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
    // A commit is limited to far less than 4 GiB before it comes here.
    let length = u32::try_from(commit.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&checksum(group, commit).to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(commit);
}

/// Reads the frame at the start of `bytes`; `None` when there is none that holds together.
pub(super) fn read(bytes: &[u8]) -> Option<Frame<'_>> {
    let (group, commit) = parts(bytes)?;
    // Looking at the commit first is cheap and spares the checksum of random bytes.
    let peek = codec::peek(commit).ok()?;
    (checksum(group, commit) == u32_at(bytes, 4)?).then_some(Frame {
        group,
        commit,
        peek,
    })
}

/// Says why the frame at the start of `bytes` cannot be read although it is what was written: a newer
/// version of this program may have.
pub(super) fn unknown(bytes: &[u8]) -> Option<CodecError> {
    let (group, commit) = parts(bytes)?;
    let reason = codec::peek(commit).err()?;
    (checksum(group, commit) == u32_at(bytes, 4)?).then_some(reason)
}

fn parts(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let group = u32_at(bytes, 8)?;
    let commit = bytes.get(HEAD_BYTES..HEAD_BYTES.checked_add(length)?)?;
    Some((group, commit))
}

/// Reads the length that a frame's head claims, without looking at the commit.
pub(super) fn claimed_bytes(head: &[u8]) -> Option<usize> {
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
