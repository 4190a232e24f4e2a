//! Records that were there where a log ends, and of which nothing is known: the versions that they had
//! by then were erased, or let go by retention, behind that end.

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
    /// Returns how many there are at the end of what was read.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Reads the next segment, up to where a cut of it ends. One in which nothing is erased need not
    /// be read while there are none.
    ///
    /// # Errors
    /// The device's; or a commit cannot be read.
    pub fn read(&mut self, segment: &SegmentFile, end: u64) -> io::Result<()> {
        let mut frames = segment.frames(segment::HEADER_BYTES as u64..end);
        while let Some((_, frame)) = frames.next()? {
            let events = codec::outlines(frame.commit).map_err(io::Error::other)?;
            events.into_iter().for_each(|event| self.learn(event));
        }
        Ok(())
    }

    /// As a projection does that is made from the log: a record whose beginning is erased is known
    /// again from its next full state on, and nobody misses one that was deleted.
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
