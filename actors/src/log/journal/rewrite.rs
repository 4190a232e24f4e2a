//! Taking payloads out of sealed segments: the one thing that ever changes one.
//!
//! 1. The segment is written again beside the old one, without the payloads and their salts; their
//!    hashes take their place, so chain and positions stay what they were.
//! 2. It is made durable, and renamed into the old one's place. Whatever is interrupted, there is a
//!    whole segment: the old one or the new one.
//! 3. Readers get the new file. Who was reading the old one reads it to the end.
//!
//! A file that was left half written is removed when the journal is opened.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skytrail_schema::codec;
use skytrail_schema::positions::Positions;

use super::index::Index;
use super::{READ_BYTES, SegmentEntry, Segments, frame, segment};
use crate::log::ReadError;
use crate::log::disk::{Disk, DiskFile};

/// The ending of a segment that is being written again.
const UNFINISHED: &str = ".erasing";

/// Why payloads were not taken out.
#[derive(Debug, thiserror::Error)]
pub(in crate::log) enum RewriteError {
    /// A segment cannot be read, or is not what was written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A segment cannot be written.
    #[error("a segment cannot be written again: {0}")]
    Write(#[from] io::Error),
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
}

/// What taking payloads out came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rewritten {
    /// Segments that were written again.
    pub num_segments: u64,
    /// By how many bytes they became shorter.
    pub num_bytes: u64,
}

/// Removes what an interrupted rewrite has left.
pub(super) fn remove_unfinished(disk: &Arc<dyn Disk>) -> io::Result<()> {
    for name in disk.list()? {
        if name.ends_with(UNFINISHED) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

impl Segments {
    /// Takes the payloads of events out of all sealed segments. Those that have none of them any
    /// more are left as they are, so it may be done again. One thread at a time does this. It ends
    /// before the next segment once the log is closed.
    pub(in crate::log) fn blank(
        &self,
        disk: &Arc<dyn Disk>,
        positions: &Positions,
        is_closing: &AtomicBool,
    ) -> Result<Rewritten, RewriteError> {
        let mut done = Rewritten::default();
        let mut entries = self.list.read().clone();
        // The last is open.
        entries.pop();
        for entry in entries {
            if !positions.meets(entry.first_position, entry.last_position) {
                continue;
            }
            if is_closing.load(Ordering::Acquire) {
                return Err(RewriteError::Closed);
            }
            let Some(new) = entry.without(disk, positions)? else {
                continue;
            };
            done.num_segments += 1;
            done.num_bytes += entry.end.saturating_sub(new.end);
            let mut list = self.list.write();
            let mut known = list.iter_mut();
            if let Some(known) = known.find(|known| known.first_position == entry.first_position) {
                *known = new;
            }
        }
        Ok(done)
    }
}

impl SegmentEntry {
    /// Writes the segment again without some payloads; `None` when it has none of them.
    fn without(
        &self,
        disk: &Arc<dyn Disk>,
        positions: &Positions,
    ) -> Result<Option<Self>, RewriteError> {
        let temporary = format!("{}{UNFINISHED}", self.name);
        let mut out = Copy::begin(disk, &temporary)?;
        let copied = self.copy(positions, &mut out);
        let has_taken = match copied {
            Ok(has_taken) => has_taken,
            Err(error) => {
                disk.remove(&temporary)?;
                return Err(error);
            }
        };
        if !has_taken {
            disk.remove(&temporary)?;
            return Ok(None);
        }
        let new = out.finish(self)?;
        disk.rename(&temporary, &self.name)?;
        disk.sync_folder()?;
        Ok(Some(new))
    }

    /// Copies header and frames; returns whether a payload was left out.
    fn copy(&self, positions: &Positions, out: &mut Copy) -> Result<bool, RewriteError> {
        let mut header = vec![0; segment::HEADER_BYTES];
        self.file.read_at(&mut header, 0)?;
        out.put(&header)?;
        let mut has_taken = false;
        let mut frames = self.frames_from(self.first_position);
        while frames.has_more() {
            let (_, frame) = self.next(&mut frames, self.first_position)?;
            let taken = self.taken(&frame, positions)?;
            has_taken |= taken.is_some();
            let commit = taken.as_deref().unwrap_or(frame.commit);
            out.put_frame(frame.peek.first_position, commit)?;
        }
        Ok(has_taken)
    }

    /// Returns a commit without the payloads that are to go; `None` when it has none of them.
    fn taken(
        &self,
        frame: &frame::Frame<'_>,
        positions: &Positions,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let (first, last) = (frame.peek.first_position, frame.peek.last_position());
        if !positions.meets(first, last) {
            return Ok(None);
        }
        let taken = codec::blank_payloads(frame.commit, |position| positions.contains(position));
        taken.map_err(|error| ReadError::Damaged {
            position: first,
            reason: format!("segment={}: {error}", self.name),
        })
    }
}

/// A segment as it is being written.
struct Copy {
    file: Arc<dyn DiskFile>,
    hasher: blake3::Hasher,
    index: Index,
    written: u64,
    waiting: Vec<u8>,
}

impl Copy {
    fn begin(disk: &Arc<dyn Disk>, name: &str) -> io::Result<Self> {
        let file = match disk.create(name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(name)?,
            other => other?,
        };
        file.set_len(0)?;
        Ok(Self {
            file,
            hasher: blake3::Hasher::new(),
            index: Index::default(),
            written: 0,
            waiting: Vec::with_capacity(READ_BYTES),
        })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= READ_BYTES {
            self.write_out()?;
        }
        Ok(())
    }

    /// Adds a commit, as a group of its own: no later one can be torn any more.
    fn put_frame(&mut self, position: u64, commit: &[u8]) -> io::Result<()> {
        let offset = self.written + self.waiting.len() as u64;
        self.index.note(position, offset);
        let mut bytes = Vec::with_capacity(frame::HEAD_BYTES + commit.len());
        let group = u32::try_from(offset).map_err(io::Error::other)?;
        frame::put(&mut bytes, group, commit);
        self.put(&bytes)
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_at(&self.waiting, self.written)?;
        self.hasher.update(&self.waiting);
        self.written += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Seals the segment, which takes the place of another, and makes it durable.
    fn finish(mut self, entry: &SegmentEntry) -> Result<SegmentEntry, RewriteError> {
        self.write_out()?;
        let footer = segment::Footer {
            last_position: entry.last_position,
            chain: entry.last_chain()?,
            digest: *self.hasher.finalize().as_bytes(),
        };
        self.file.write_at(&footer.encode(), self.written)?;
        self.file.sync_data()?;
        Ok(SegmentEntry {
            file: self.file,
            end: self.written,
            index: Arc::new(self.index),
            ..entry.clone()
        })
    }
}

impl SegmentEntry {
    /// Reads the chain hash of the last commit.
    fn last_chain(&self) -> Result<skytrail_schema::chain::ChainHash, RewriteError> {
        let mut chain = [0; 32];
        // A commit ends in its chain hash.
        let at = self.end.saturating_sub(chain.len() as u64);
        self.file.read_at(&mut chain, at)?;
        Ok(chain)
    }
}
