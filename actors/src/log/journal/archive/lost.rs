//! Records that exist at the end of a log, but whose state is unknown: the versions that they had
//! by then were erased after that end, or removed by retention.

use std::collections::HashSet;
use std::io;

use skytrail_schema::codec::{self, Outline};
use skytrail_schema::event::{EventKind, Stream};

use super::SegmentFile;
use crate::log::journal::segment;

/// See the module. Segments are read in order, from the log's first one on.
#[derive(Clone, Debug, Default)]
pub struct LostRecords(HashSet<Stream>);

impl LostRecords {
    /// Returns how many there are at the end of what has been read.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Reads the next segment, up to where it is cut. As long as there are no such records, a
    /// segment in which nothing is erased need not be read.
    ///
    /// # Errors
    /// The device failed, or a commit cannot be read.
    pub fn read(&mut self, segment: &SegmentFile, end: u64) -> io::Result<()> {
        let mut frames = segment.frames(segment::HEADER_BYTES as u64..end);
        while let Some((_, frame)) = frames.next()? {
            let events = codec::outlines(frame.commit).map_err(io::Error::other)?;
            events.into_iter().for_each(|event| self.learn(event));
        }
        Ok(())
    }

    /// Does what a projection of the log does: a record whose beginning is erased is known again
    /// from its next full state on, and a deleted record is not lost.
    fn learn(&mut self, event: Outline) {
        match event.kind {
            EventKind::RecordCreated if event.is_erased => {
                self.0.insert(event.stream);
            }
            EventKind::RecordReplaced if event.is_erased => {}
            EventKind::RecordCreated | EventKind::RecordReplaced | EventKind::RecordDeleted => {
                self.0.remove(&event.stream);
            }
            _ => {}
        }
    }
}
