//! Segments: files with a run of frames.
//!
//! ```text
//! segment = header  frame*  (zeros | footer)
//! header  = magic(8) | format u32 | store id(16) | first position u64 | previous chain(32) | checksum u32
//! footer  = magic(8) | last position u64 | chain(32) | BLAKE3 of all before(32) | checksum u32
//! ```
//!
//! The open segment ends in zeros, written ahead, so that a flush need not change the file's
//! length. A sealed segment ends in its footer and is never written to again; only an erasure
//! replaces it.

use std::io;

use skytrail_schema::chain::ChainHash;
use skytrail_schema::codec::CodecError;
use uuid::Uuid;

use super::READ_BYTES;
use crate::log::disk::DiskFile;

pub(super) const HEADER_BYTES: usize = 72;
pub(super) const FOOTER_BYTES: usize = 84;
const HEADER_MAGIC: &[u8; 8] = b"SKYJRNL\0";
const FOOTER_MAGIC: &[u8; 8] = b"SKYSEAL\0";
const FORMAT: u32 = 1;

/// The content of a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) store_id: Uuid,
    pub(super) first_position: u64,
    pub(super) previous_chain: ChainHash,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It differs from what was written.
    Damaged,
    /// A newer program wrote it, in this format.
    Newer(u32),
}

/// What a newer program has written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Newer {
    /// A segment.
    #[error("{segment} has format={found}, this program knows up to {FORMAT}")]
    Segment {
        /// The file.
        segment: String,
        /// Its format.
        found: u32,
    },
    /// A commit that is whole.
    #[error("{segment} at offset {offset}: a newer version wrote this commit: {reason}")]
    Commit {
        /// The file.
        segment: String,
        /// Where in it the commit's frame begins.
        offset: u64,
        /// What this program does not know about it.
        reason: CodecError,
    },
}

/// The content of a sealed segment's footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) last_position: u64,
    pub(super) chain: ChainHash,
    pub(super) digest: [u8; 32],
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(HEADER_MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(self.store_id.as_bytes());
        out.extend_from_slice(&self.first_position.to_le_bytes());
        out.extend_from_slice(&self.previous_chain);
        with_checksum(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (format, mut fields) = Self::begin(bytes).ok_or(HeaderError::Damaged)?;
        match format {
            FORMAT => Self::read(&mut fields).ok_or(HeaderError::Damaged),
            newer if newer > FORMAT => Err(HeaderError::Newer(newer)),
            _ => Err(HeaderError::Damaged),
        }
    }

    /// Reads the part that all formats have in common.
    fn begin(bytes: &[u8]) -> Option<(u32, Fields<'_>)> {
        let mut fields = Fields(checked(bytes, HEADER_BYTES)?);
        let is_header = fields.take::<8>()? == *HEADER_MAGIC;
        let format = u32::from_le_bytes(fields.take()?);
        is_header.then_some((format, fields))
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            store_id: Uuid::from_bytes(fields.take()?),
            first_position: u64::from_le_bytes(fields.take()?),
            previous_chain: fields.take()?,
        })
    }
}

impl Footer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_BYTES);
        out.extend_from_slice(FOOTER_MAGIC);
        out.extend_from_slice(&self.last_position.to_le_bytes());
        out.extend_from_slice(&self.chain);
        out.extend_from_slice(&self.digest);
        with_checksum(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(checked(bytes, FOOTER_BYTES)?);
        if fields.take::<8>()? != *FOOTER_MAGIC {
            return None;
        }
        Some(Self {
            last_position: u64::from_le_bytes(fields.take()?),
            chain: fields.take()?,
            digest: fields.take()?,
        })
    }
}

/// Reads the header of a segment.
pub(super) fn read_header(file: &dyn DiskFile) -> io::Result<Result<Header, HeaderError>> {
    let mut bytes = [0; HEADER_BYTES];
    if file.size()? < bytes.len() as u64 {
        return Ok(Err(HeaderError::Damaged));
    }
    file.read_at(&mut bytes, 0)?;
    Ok(Header::decode(&bytes))
}

/// Computes the digest of a segment up to where its frames end.
pub(super) fn digest(file: &dyn DiskFile, end: u64) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    while offset < end {
        let remaining = usize::try_from(end - offset).unwrap_or(READ_BYTES);
        let part = buffer
            .get_mut(..remaining.min(READ_BYTES))
            .unwrap_or_default();
        file.read_at(part, offset)?;
        hasher.update(part);
        offset += part.len() as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Reads the footer of a sealed segment; `None` when the file does not end in one.
pub(super) fn read_footer(file: &dyn DiskFile) -> io::Result<Option<Footer>> {
    let length = file.size()?;
    let Some(start) = length.checked_sub((HEADER_BYTES + FOOTER_BYTES) as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; FOOTER_BYTES];
    file.read_at(&mut bytes, start + HEADER_BYTES as u64)?;
    Ok(Footer::decode(&bytes))
}

/// Returns the file name of the segment that starts at a position; names sort by position.
pub(super) fn file_name(first_position: u64) -> String {
    format!("{first_position:020}.journal")
}

/// Reads the position from a segment's file name.
pub(super) fn position_of(name: &str) -> Option<u64> {
    name.strip_suffix(".journal")
        .filter(|digits| digits.len() == 20)?
        .parse()
        .ok()
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn checked(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let (content, checksum) = bytes.get(..length)?.split_at_checked(length - 4)?;
    (crc32fast::hash(content).to_le_bytes() == checksum).then_some(content)
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}
