//! Where a log was restored from a backup.

use std::io;

use skytrail_schema::codec;
use skytrail_schema::event::{EventFilter, EventKind, Kinds};

use super::{Cut, Damage, SegmentFile, Survey};
use crate::log::journal::segment;

/// What a log says about its last restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRestore {
    /// There was none.
    None,
    /// The end of the commit that notes it.
    At(Cut),
    /// Such a commit may be in a part of the log that is damaged.
    Unknown,
}

impl Survey {
    /// Finds the last restore that is noted at a position or after it.
    ///
    /// # Errors
    /// The device failed.
    pub fn last_restore(&self, from: u64) -> io::Result<LastRestore> {
        for segment in self.segments.iter().rev() {
            match segment.last_restore(from)? {
                LastRestore::None => {}
                LastRestore::At(cut) if self.may_hide(cut.position + 1) => {
                    return Ok(LastRestore::Unknown);
                }
                found => return Ok(found),
            }
        }
        let is_unknown = self.may_hide(from);
        Ok(if is_unknown {
            LastRestore::Unknown
        } else {
            LastRestore::None
        })
    }

    /// Returns whether something from a position on is in no segment, or not where it belongs.
    fn may_hide(&self, from: u64) -> bool {
        let end = |damage: &Damage| damage.last_position.map(|it| it.max(damage.first_position));
        let mut ends = self.damage.iter().map(end);
        ends.any(|end| end.is_none_or(|end| from <= end))
    }
}

impl SegmentFile {
    fn last_restore(&self, from: u64) -> io::Result<LastRestore> {
        if self.last_position < from && self.bad_offset.is_none() {
            return Ok(LastRestore::None);
        }
        let filter = EventFilter {
            kinds: Kinds::of([EventKind::LogRestored]),
            ..EventFilter::default()
        };
        let mut found = LastRestore::None;
        let mut frames = self.frames(segment::HEADER_BYTES as u64..self.end);
        while let Some((offset, frame)) = frames.next()? {
            let position = frame.peek.last_position();
            if position < from {
                continue;
            }
            match codec::has_wanted(frame.commit, &filter) {
                Ok(true) => {
                    found = LastRestore::At(Cut {
                        position,
                        chain: frame.peek.chain,
                        time: Some(frame.peek.time),
                        end: offset + frame.total_bytes() as u64,
                    });
                }
                Ok(false) => {}
                Err(_) => found = LastRestore::Unknown,
            }
        }
        let is_whole = !frames.has_more() && self.bad_offset.is_none();
        Ok(if is_whole {
            found
        } else {
            LastRestore::Unknown
        })
    }
}
