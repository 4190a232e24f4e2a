//! The values of the sled store: consecutive commits, compressed together.
//!
//! ```text
//! value  = commit                                             (one, as it is)
//!        | 0xC0  0xE1  checksum u32  length u32  zstd frame   (a chunk)
//! commits in a chunk = (length u32  commit)*
//! ```
//!
//! Small commits share most of what is not random in them: names, types, users, times. The chain
//! hash would be much of what remains, so only the first commit keeps it; the others' are computed
//! when they are read.
//!
//! A commit's first byte is its format, and no format is 0xC0. A commit's flags are never 0xE1
//! either, so one damaged byte cannot turn a chunk into a commit. `checksum` is CRC-32 over
//! everything after it. `length` is the length of the commits before compression: it is known, and
//! bounded, before anything is decompressed.

use std::io;
use std::ops::Range;

use skytrail_schema::chain::ChainHash;
use skytrail_schema::codec;

use super::journal::RawCommit;

/// The first bytes of a chunk.
const MARK: [u8; 2] = [0xC0, 0xE1];
const LENGTH_BYTES: usize = 4;
/// The random part of a commit does not compress, and the rest compresses at any level.
const LEVEL: i32 = 1;
/// A chunk of several commits has at most this many bytes before compression. sled puts up to
/// seventeen values in a page, and a page of more than 128 KiB becomes a file of its own: small
/// commits never cause that, whatever they contain. Chunks of twice the size would save a fiftieth
/// of the disk and take twice as long to read one commit from.
const CHUNK_BYTES: usize = 7 << 10;
/// Anything larger is stored uncompressed.
const MAX_BYTES: usize = 16 << 20;

/// Stored bytes differ from what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged value at position={position}: {reason}")]
pub(super) struct Damaged {
    position: u64,
    reason: &'static str,
}

/// Splits commits into chunks; a commit that is too large gets its own.
pub(super) fn cut(commits: &[RawCommit]) -> impl Iterator<Item = &[RawCommit]> {
    let mut rest = commits;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|(_, commit)| {
            bytes += commit.len();
            bytes <= CHUNK_BYTES
        });
        let (chunk, behind) = rest.split_at_checked(fits.count().max(1))?;
        rest = behind;
        Some(chunk)
    })
}

/// Returns whether a chunk may have room for another commit.
pub(super) fn takes_more(chunk: &[RawCommit]) -> bool {
    let bytes: usize = chunk.iter().map(|(_, commit)| commit.len()).sum();
    bytes < CHUNK_BYTES
}

/// Encodes values.
pub(super) struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Compressor::new(LEVEL).map(Self)
    }

    /// Encodes a chunk as a value.
    pub(super) fn pack(&mut self, chunk: &[RawCommit]) -> io::Result<Vec<u8>> {
        if let [(_, commit)] = chunk
            && LENGTH_BYTES + commit.len() > MAX_BYTES
        {
            return Ok(commit.clone());
        }
        let mut plain = Vec::new();
        for (_, commit) in chunk {
            let kept = if plain.is_empty() {
                commit.as_slice()
            } else {
                let (kept, _) = codec::without_chain(commit).map_err(io::Error::other)?;
                kept
            };
            plain.extend_from_slice(&length(kept)?);
            plain.extend_from_slice(kept);
        }
        Ok(seal(length(&plain)?, &self.0.compress(&plain)?))
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; LENGTH_BYTES]> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok(length.to_le_bytes())
}

/// Encodes compressed bytes as a value; `length` is their length before compression.
fn seal(length: [u8; LENGTH_BYTES], frame: &[u8]) -> Vec<u8> {
    let checked = [&length, frame].concat();
    let checksum = crc32fast::hash(&checked).to_le_bytes();
    [MARK.as_slice(), &checksum, &checked].concat()
}

/// Decodes values.
pub(super) struct Unpacker(zstd::bulk::Decompressor<'static>);

impl Unpacker {
    pub(super) fn new() -> io::Result<Self> {
        zstd::bulk::Decompressor::new().map(Self)
    }

    /// Decodes the value that was stored for a position: a chunk that begins there.
    pub(super) fn unpack(&mut self, position: u64, value: &[u8]) -> Result<Chunk, Damaged> {
        let damaged = |reason| Damaged { position, reason };
        let chunk = match value.strip_prefix(&MARK) {
            Some(sealed) => {
                let plain = self.open(sealed).map_err(damaged)?;
                Chunk::of_many(&plain)
            }
            None => Chunk::of_one(value.to_vec()),
        };
        let chunk = chunk.ok_or(damaged("commits are not consecutive"))?;
        if chunk.first_position() != Some(position) {
            return Err(damaged("commits of another position"));
        }
        Ok(chunk)
    }

    /// Decompresses what follows the mark.
    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (checksum, checked) = take_u32(sealed).ok_or("too short")?;
        if crc32fast::hash(checked) != checksum {
            return Err("checksum does not match");
        }
        let (length, frame) = take_u32(checked).ok_or("too short")?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_BYTES {
            return Err("too long");
        }
        let plain = self.0.decompress(frame, length);
        plain
            .ok()
            .filter(|plain| plain.len() == length)
            .ok_or("does not decompress")
    }
}

/// Consecutive commits.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    spans: Vec<CommitSpan>,
}

/// Where a commit is in a chunk.
#[derive(Debug)]
struct CommitSpan {
    first: u64,
    last: u64,
    chain: ChainHash,
    at: Range<usize>,
}

impl Chunk {
    fn of_one(bytes: Vec<u8>) -> Option<Self> {
        let spans = vec![CommitSpan::find(&bytes, 0..bytes.len())?];
        Some(Self { bytes, spans })
    }

    /// Restores the commits of a chunk; `None` when they do not follow each other.
    fn of_many(plain: &[u8]) -> Option<Self> {
        let mut bytes = Vec::with_capacity(plain.len() + plain.len() / 4);
        let mut spans: Vec<CommitSpan> = Vec::new();
        let mut rest = plain;
        while !rest.is_empty() {
            let (length, behind) = take_u32(rest)?;
            let (kept, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
            let start = bytes.len();
            bytes.extend_from_slice(kept);
            if let Some(last) = spans.last() {
                bytes.extend_from_slice(&codec::next_chain_hash(&last.chain, kept).ok()?);
            }
            let span = CommitSpan::find(&bytes, start..bytes.len())?;
            if spans.last().is_some_and(|last| span.first != last.last + 1) {
                return None;
            }
            spans.push(span);
            rest = behind;
        }
        Some(Self { bytes, spans })
    }

    fn first_position(&self) -> Option<u64> {
        self.spans.first().map(|span| span.first)
    }

    /// Returns the commit that holds a position.
    pub(super) fn find(&self, position: u64) -> Option<(RawCommit, u64)> {
        let span = self.behind(position).next()?;
        (span.first <= position).then(|| (self.raw(span), span.last))
    }

    /// Returns commits from the one that holds `from` on, until there are `num_left` events, and
    /// subtracts these from `num_left`.
    pub(super) fn read(&self, from: u64, num_left: &mut u64) -> impl Iterator<Item = RawCommit> {
        let spans = self.behind(from).take_while(|span| {
            let is_needed = *num_left > 0;
            *num_left = num_left.saturating_sub(span.last - span.first + 1);
            is_needed
        });
        spans.map(|span| self.raw(span))
    }

    /// Returns all commits.
    pub(super) fn commits(&self) -> Vec<RawCommit> {
        self.spans.iter().map(|span| self.raw(span)).collect()
    }

    /// Returns the last position.
    pub(super) fn last_position(&self) -> u64 {
        self.spans.last().map_or(0, |span| span.last)
    }

    fn behind(&self, position: u64) -> impl Iterator<Item = &CommitSpan> {
        let before = self.spans.partition_point(|it| it.last < position);
        self.spans.iter().skip(before)
    }

    fn raw(&self, span: &CommitSpan) -> RawCommit {
        let bytes = self.bytes.get(span.at.clone()).unwrap_or_default();
        (span.first, bytes.to_vec())
    }
}

impl CommitSpan {
    fn find(bytes: &[u8], at: Range<usize>) -> Option<Self> {
        let peek = codec::peek(bytes.get(at.clone())?).ok()?;
        Some(Self {
            first: peek.first_position,
            last: peek.last_position(),
            chain: peek.chain,
            at,
        })
    }
}

/// Reads the number that bytes begin with; returns the rest as well.
fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::written::stored;

    /// Consecutive commits, with one event for each size.
    fn commits() -> impl Strategy<Value = Vec<RawCommit>> {
        let size = prop_oneof![8 => 0..300_usize, 1 => 0..20_000_usize];
        let sizes = prop::collection::vec(prop::collection::vec(size, 1..4), 1..80);
        (1..1_u64 << 40, sizes).prop_map(|(first, sizes)| stored(first, &sizes))
    }

    fn pack(chunk: &[RawCommit]) -> Vec<u8> {
        Packer::new().unwrap().pack(chunk).unwrap()
    }

    fn unpack(position: u64, value: &[u8]) -> Result<Vec<RawCommit>, Damaged> {
        let chunk = Unpacker::new().unwrap().unpack(position, value)?;
        Ok(chunk.commits())
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(all in commits()) {
            let (mut packer, mut unpacker) = (Packer::new().unwrap(), Unpacker::new().unwrap());
            let mut found = Vec::new();
            for chunk in cut(&all) {
                let bytes: usize = chunk.iter().map(|(_, commit)| commit.len()).sum();
                prop_assert!(chunk.len() == 1 || bytes <= CHUNK_BYTES);
                let value = packer.pack(chunk).unwrap();
                found.extend(unpacker.unpack(chunk[0].0, &value).unwrap().commits());
            }
            prop_assert_eq!(found, all);
        }

        #[test]
        fn damage_is_seen(
            all in commits(),
            which in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let chunks: Vec<_> = cut(&all).collect();
            let chunk = chunks[which.index(chunks.len())];
            let (position, whole) = (chunk[0].0, pack(chunk));
            let at = at.index(whole.len());
            let mut flipped = whole.clone();
            flipped[at] ^= flip;
            prop_assert!(unpack(position, &flipped).is_err());
            prop_assert!(unpack(position, &whole[..at]).is_err());
            prop_assert!(unpack(position + 1, &whole).is_err());
        }

        #[test]
        fn any_bytes_are_taken_without_harm(
            position in any::<u64>(),
            has_mark in any::<bool>(),
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if has_mark {
                let checksum = crc32fast::hash(&bytes).to_le_bytes();
                bytes = [&MARK, checksum.as_slice(), &bytes].concat();
            }
            prop_assert!(unpack(position, &bytes).is_err());
        }
    }

    #[test]
    fn nothing_is_decompressed_beyond_what_is_claimed_and_allowed() {
        let large = zstd::bulk::compress(&vec![0; 64 << 20], LEVEL).unwrap();
        let reason = |length: u32| {
            unpack(1, &seal(length.to_le_bytes(), &large))
                .unwrap_err()
                .reason
        };
        assert_eq!(reason(64 << 20), "too long");
        assert_eq!(reason(u32::MAX), "too long");
        assert_eq!(reason(1000), "does not decompress");
        assert_eq!(reason(MAX_BYTES as u32), "does not decompress");
    }

    #[test]
    fn commits_that_do_not_follow_each_other_are_no_chunk() {
        let [first, second, third] =
            <[_; 3]>::try_from(stored(1, &[vec![10], vec![10], vec![10]])).unwrap();
        assert!(unpack(1, &pack(&[first.clone(), second, third.clone()])).is_ok());
        assert!(unpack(1, &pack(&[first.clone(), third])).is_err());
        assert!(unpack(1, &pack(&[first.clone(), first])).is_err());
        assert!(unpack(1, &pack(&[])).is_err());
    }

    #[test]
    fn what_is_very_large_stays_as_it_is() {
        let one = stored(7, &[vec![MAX_BYTES]]);
        let value = pack(&one);
        assert_eq!(value, one[0].1);
        assert_eq!(unpack(7, &value).unwrap(), one);
    }
}
