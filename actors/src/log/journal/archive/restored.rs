//! Where a log was restored from a backup.

use std::io;

use skytrail_schema::codec;
use skytrail_schema::event::{EventFilter, EventKind, Kinds};

use super::{Cut, SegmentFile};
use crate::log::journal::segment;

impl SegmentFile {
    /// Finds the end of the last commit that notes a restore, from a position on. Damaged parts are
    /// skipped.
    ///
    /// # Errors
    /// The device failed.
    pub fn last_restore(&self, from: u64) -> io::Result<Option<Cut>> {
        if self.last_position < from {
            return Ok(None);
        }
        let filter = EventFilter {
            kinds: Kinds::of([EventKind::LogRestored]),
            ..EventFilter::default()
        };
        let mut found = None;
        let mut frames = self.frames(segment::HEADER_BYTES as u64..self.end);
        while let Some((offset, frame)) = frames.next()? {
            let position = frame.peek.last_position();
            // A commit that cannot be read is reported by the check of the log.
            if position >= from && codec::has_wanted(frame.commit, &filter).unwrap_or_default() {
                found = Some(Cut {
                    position,
                    chain: frame.peek.chain,
                    time: Some(frame.peek.time),
                    end: offset + frame.total_bytes() as u64,
                });
            }
        }
        Ok(found)
    }
}
