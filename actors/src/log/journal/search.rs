//! Searching the journal without reading more than needed: if a commit has no matching event, only
//! its events' heads are read. That is an order of magnitude faster than decoding it, so a search
//! of the whole log needs no index that every write would have to pay for.

use skytrail_schema::codec;
use skytrail_schema::event::EventFilter;

use super::super::{ReadError, Searched};
use super::{RawCommit, Segments};

/// How many bytes of the log are searched at once.
const PIECE_BYTES: u64 = 4 << 20;
/// How many events are found at once.
const MAX_FOUND: usize = 512;

impl Segments {
    /// Searches a part of the journal, at most to the end of a segment; see
    /// [`EventLog::search`](super::super::EventLog::search).
    ///
    /// # Errors
    /// The device failed, or frames are not intact.
    pub fn search(
        &self,
        from: u64,
        until: u64,
        filter: &EventFilter,
    ) -> Result<Searched<RawCommit>, ReadError> {
        let mut searched = Searched {
            found: Vec::new(),
            until: from.saturating_sub(1),
        };
        let Some(entry) = self.entry_for(from) else {
            return Ok(searched);
        };
        let mut frames = entry.frames_from(from);
        let end = frames.offset() + PIECE_BYTES;
        let mut num_events = 0;
        while frames.has_more() && searched.until < until && num_events < MAX_FOUND {
            if frames.offset() >= end && searched.until >= from {
                break;
            }
            let (_, frame) = entry.next(&mut frames, from)?;
            if frame.peek.last_position() < from {
                continue;
            }
            // If this fails, the error is reported when the commit is decoded.
            if codec::has_wanted(frame.commit, filter).unwrap_or(true) {
                num_events += usize::from(frame.peek.num_events);
                let raw = (frame.peek.first_position, frame.commit.to_vec());
                searched.found.push(raw);
            }
            searched.until = frame.peek.last_position();
        }
        Ok(searched)
    }
}
