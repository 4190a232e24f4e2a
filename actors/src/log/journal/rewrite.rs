//! Removing payloads from sealed segments: the only thing that ever changes one.
//!
//! 1. The segment is written again next to the old one, without the payloads and their salts. The
//!    payloads' hashes take their place, so chain and positions do not change.
//! 2. It is made durable and renamed over the old one. After any interruption there is one whole
//!    segment: the old one or the new one.
//! 3. Readers get the new file. A reader of the old one can finish with it.
//!
//! A half-written file is removed when the journal is opened.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skytrail_schema::codec;
use skytrail_schema::positions::Positions;

use super::index::Index;
use super::{READ_BYTES, SegmentEntry, Segments, frame, segment};
use crate::log::ReadError;
use crate::log::disk::{Disk, DiskFile};

/// The ending of a segment that is being rewritten.
const UNFINISHED: &str = ".erasing";

/// Why payloads were not removed.
#[derive(Debug, thiserror::Error)]
pub(in crate::log) enum RewriteError {
    /// A segment cannot be read, or differs from what was written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A segment cannot be written.
    #[error("a segment cannot be rewritten: {0}")]
    Write(#[from] io::Error),
    /// The log is being closed.
    #[error("the log is closed")]
    Closed,
}

/// The result of removing payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rewritten {
    /// Segments that were rewritten.
    pub num_segments: u64,
    /// How many bytes shorter they became.
    pub num_bytes: u64,
}

/// Removes the leftovers of an interrupted rewrite.
pub(super) fn remove_unfinished(disk: &Arc<dyn Disk>) -> io::Result<()> {
    for name in disk.list()? {
        if name.ends_with(UNFINISHED) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

impl Segments {
    /// Removes the payloads of events from all sealed segments. A segment that no longer has any of
    /// them is left as it is, so this can be repeated. Only one thread may do this at a time. Once
    /// the log is closed, it ends before the next segment.
    pub(in crate::log) fn blank(
        &self,
        disk: &Arc<dyn Disk>,
        positions: &Positions,
        is_closing: &AtomicBool,
    ) -> Result<Rewritten, RewriteError> {
        let mut done = Rewritten::default();
        let mut entries = self.list.read().clone();
        // The last one is open.
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
    /// Rewrites the segment without some payloads; `None` when it has none of them.
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

    /// Copies the header and the frames; returns whether a payload was left out.
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

    /// Returns a commit without the payloads that have to go; `None` when it has none of them.
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

/// A segment that is being written.
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

    /// Adds a commit as a group of its own: in a sealed segment a broken frame is never a torn
    /// write.
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

    /// Seals the segment, which replaces another, and makes it durable.
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
        // A commit ends with its chain hash.
        let at = self.end.saturating_sub(chain.len() as u64);
        self.file.read_at(&mut chain, at)?;
        Ok(chain)
    }
}
