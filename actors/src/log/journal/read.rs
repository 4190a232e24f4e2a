//! Reading frames from segments: by position, one after the other, or as commits.

use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::codec::{self, NoKeys, SubjectKeys};
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::frame::{Frame, Frames};
use super::{OpenError, SegmentEntry, Segments, recovery};
use crate::log::ReadError;
use crate::log::disk::Disk;

/// A stored commit: its first position and its bytes.
pub type RawCommit = (u64, Vec<u8>);

impl Segments {
    /// Opens a journal for reading, next to a process that may be writing it: changes nothing, and
    /// ends at the last frame that is whole now.
    ///
    /// # Errors
    /// The journal is not accessible, or damaged.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self, OpenError> {
        let mut last_failure = None;
        // A segment can be sealed or extended between reading its size and reading its bytes. So an
        // inconsistent one is read again, and counts as damaged if nothing has changed.
        loop {
            match recovery::recover(disk, recovery::Access::Read) {
                Ok(found) => {
                    let entries = found.map(|found| found.entries).unwrap_or_default();
                    return Ok(Self {
                        list: RwLock::new(entries),
                        keys: Arc::new(NoKeys),
                    });
                }
                Err(error) => {
                    let failure = error.to_string();
                    if last_failure.as_ref() == Some(&failure) {
                        return Err(error);
                    }
                    last_failure = Some(failure);
                }
            }
        }
    }

    /// Opens sealed events with these keys.
    #[must_use]
    pub fn with_keys(self, keys: Arc<dyn SubjectKeys>) -> Self {
        Self { keys, ..self }
    }

    /// Returns the store's id; `None` for a journal without segments.
    pub fn store_id(&self) -> Option<Uuid> {
        self.list.read().first().map(|entry| entry.store_id)
    }

    /// Returns the last durable position.
    pub fn head(&self) -> u64 {
        self.list
            .read()
            .last()
            .map_or(0, |entry| entry.last_position)
    }

    /// Returns how many segments there are and how many bytes of frames they hold.
    pub fn size(&self) -> (usize, u64) {
        let list = self.list.read();
        (list.len(), list.iter().map(|entry| entry.end).sum())
    }

    /// Reads stored commits from the one that holds `from` on, until there are `max_events` or the
    /// end of a segment is reached.
    ///
    /// # Errors
    /// The device failed, or frames are not intact.
    pub fn read_raw(&self, from: u64, max_events: usize) -> Result<Vec<RawCommit>, ReadError> {
        let Some(entry) = self.entry_for(from) else {
            return Ok(Vec::new());
        };
        let mut frames = entry.frames_from(from);
        let mut found = Vec::new();
        let mut events = 0;
        while frames.has_more() && events < max_events.max(1) {
            let (_, frame) = entry.next(&mut frames, from)?;
            if frame.peek.last_position() >= from {
                events += usize::from(frame.peek.num_events);
                found.push((frame.peek.first_position, frame.commit.to_vec()));
            }
        }
        Ok(found)
    }

    /// Like [`Segments::read_raw`], decoded.
    ///
    /// # Errors
    /// Those of [`Segments::read_raw`], or payloads that do not match their hashes.
    pub fn read(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        self.decode_all(self.read_raw(from, max_events)?)
    }

    /// Reads the commits that hold these ascending positions, each once.
    ///
    /// # Errors
    /// Those of [`Segments::read`]. Positions beyond the end are left out.
    pub(in crate::log) fn read_each(
        &self,
        positions: &[u64],
    ) -> Result<Vec<Arc<Commit>>, ReadError> {
        let mut commits: Vec<Arc<Commit>> = Vec::new();
        for position in positions {
            let last = commits.last().map_or(0, |commit| commit.last_position());
            if *position > last {
                commits.extend(self.read(*position, 1)?.into_iter().next());
            }
        }
        Ok(commits)
    }

    /// Decodes stored commits.
    pub(in crate::log) fn decode_all(
        &self,
        raw: Vec<RawCommit>,
    ) -> Result<Vec<Arc<Commit>>, ReadError> {
        let decode = |(position, bytes): RawCommit| {
            let decoded = codec::decode_commit(&bytes, &*self.keys);
            decoded.map(Arc::new).map_err(|error| ReadError::Damaged {
                position,
                reason: error.to_string(),
            })
        };
        raw.into_iter().map(decode).collect()
    }

    /// Returns the time of the commit that holds a position, if it can be read.
    pub(super) fn time_at(&self, position: u64) -> Option<Timestamp> {
        let found = self.read_raw(position, 1).ok()?;
        let (_, bytes) = found.first()?;
        codec::peek(bytes).ok().map(|peek| peek.time)
    }

    pub(super) fn entry_for(&self, position: u64) -> Option<SegmentEntry> {
        let list = self.list.read();
        let number = list.partition_point(|entry| entry.first_position <= position);
        let entry = list.get(number.checked_sub(1)?)?;
        (position <= entry.last_position).then(|| entry.clone())
    }
}

impl SegmentEntry {
    /// Returns the frames from one that begins at or before a position on.
    pub(super) fn frames_from(&self, position: u64) -> Frames<'_> {
        let part = self.index.offset_before(position)..self.end;
        Frames::new(&*self.file, part).noting(&self.index)
    }

    /// Advances to the next frame, which has to exist; `position` is the one that is being searched
    /// for.
    pub(super) fn next<'f>(
        &self,
        frames: &'f mut Frames<'_>,
        position: u64,
    ) -> Result<(u64, Frame<'f>), ReadError> {
        let offset = frames.offset();
        let next = frames.next();
        let frame = next.map_err(|error| ReadError::Io(error.to_string()))?;
        frame.ok_or_else(|| self.broken(offset, position, "frame is damaged"))
    }

    pub(super) fn broken(&self, offset: u64, position: u64, reason: &str) -> ReadError {
        let reason = format!("segment={} offset={offset}: {reason}", self.name);
        ReadError::Damaged { position, reason }
    }
}
