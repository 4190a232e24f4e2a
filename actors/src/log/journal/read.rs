//! Reading frames out of segments: by position, one after the other, or as commits.

use std::io;
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::codec::{self, NoKeys, SubjectKeys};
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::{OpenError, READ_BYTES, SegmentEntry, Segments, frame, recovery, segment};
use crate::log::ReadError;
use crate::log::disk::Disk;

/// A stored commit: its first position and its bytes.
pub type RawCommit = (u64, Vec<u8>);

impl Segments {
    /// Opens a journal to be read, beside a process that may be writing it: changes nothing and
    /// ends at the last whole frame there is now.
    ///
    /// # Errors
    /// Not accessible, or damaged.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self, OpenError> {
        let mut last_failure = None;
        // A segment may be sealed or written on between a look at its size and a look at its bytes:
        // what does not hold together is looked at anew, and is damage when it stays as it is.
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

    /// Opens with these what is sealed.
    #[must_use]
    pub fn with_keys(self, keys: Arc<dyn SubjectKeys>) -> Self {
        Self { keys, ..self }
    }

    /// Returns what the store is known by; `None` for a journal without segments.
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

    /// Reads stored commits from the one that holds `from` on, until `max_events` are there or
    /// the end of a segment is reached.
    ///
    /// # Errors
    /// The device; or frames that do not hold together.
    pub fn read_raw(&self, from: u64, max_events: usize) -> Result<Vec<RawCommit>, ReadError> {
        let Some(entry) = self.entry_for(from) else {
            return Ok(Vec::new());
        };
        let mut offset = entry.offset_before(from);
        let mut found = Vec::new();
        let mut events = 0;
        while offset < entry.end && events < max_events.max(1) {
            let chunk = entry.read_chunk(offset)?;
            let mut used = 0;
            while events < max_events.max(1) {
                let rest = chunk.get(used..).unwrap_or_default();
                let Some(frame) = frame::read(rest) else {
                    break;
                };
                used += frame.total_bytes();
                if frame.peek.last_position() >= from {
                    events += usize::from(frame.peek.num_events);
                    found.push((frame.peek.first_position, frame.commit.to_vec()));
                }
            }
            if used == 0 {
                return Err(entry.damaged(offset, from));
            }
            offset += used as u64;
        }
        Ok(found)
    }

    /// As [`Segments::read_raw`], decoded.
    ///
    /// # Errors
    /// As there; or payloads that are not what their hashes say.
    pub fn read(&self, from: u64, max_events: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        self.decode_all(self.read_raw(from, max_events)?)
    }

    /// Reads the commits that hold these ascending positions, each once.
    ///
    /// # Errors
    /// As [`Segments::read`]. What is beyond the end is left out.
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
    /// Returns the offset of an indexed commit at or before `position`.
    pub(super) fn offset_before(&self, position: u64) -> u64 {
        let number = self.index.partition_point(|(first, _)| *first <= position);
        let indexed = number
            .checked_sub(1)
            .and_then(|number| self.index.get(number));
        indexed.map_or(segment::HEADER_BYTES as u64, |(_, offset)| *offset)
    }

    /// Reads bytes from `offset` on: a chunk, or the whole frame there if that is larger.
    pub(super) fn read_chunk(&self, offset: u64) -> Result<Vec<u8>, ReadError> {
        let rest = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let mut bytes = vec![0; rest.min(READ_BYTES)];
        let io = |error: io::Error| ReadError::Io(error.to_string());
        self.file.read_at(&mut bytes, offset).map_err(io)?;
        let wanted = frame::claimed_bytes(&bytes).unwrap_or(0).min(rest);
        if wanted > bytes.len() {
            bytes.resize(wanted, 0);
            self.file.read_at(&mut bytes, offset).map_err(io)?;
        }
        Ok(bytes)
    }

    pub(super) fn damaged(&self, offset: u64, position: u64) -> ReadError {
        let reason = format!(
            "segment={} offset={offset}: frame does not hold together",
            self.name
        );
        ReadError::Damaged { position, reason }
    }
}
