//! Whether keys are those that a log is sealed with.

use std::collections::BTreeSet;
use std::io;

use skytrail_schema::codec::{self, CodecError, SubjectKeys};

use super::SegmentFile;
use crate::log::journal::segment;

/// The keys that have opened an event. One event per key is enough, and opening all of them would
/// take long.
#[derive(Clone, Debug, Default)]
pub struct OpenedKeys(BTreeSet<u64>);

impl OpenedKeys {
    /// Opens what is sealed with further keys in a segment, up to where it is cut. Returns the
    /// first position that its key does not open, and why. Missing keys are not reported.
    ///
    /// # Errors
    /// The device failed, or a commit cannot be read.
    pub fn read(
        &mut self,
        segment: &SegmentFile,
        end: u64,
        keys: &dyn SubjectKeys,
    ) -> io::Result<Option<(u64, CodecError)>> {
        let mut frames = segment.frames(segment::HEADER_BYTES as u64..end);
        while let Some((_, frame)) = frames.next()? {
            let sealed = codec::sealed_events(frame.commit).map_err(io::Error::other)?;
            let mut is_new = false;
            for event in &sealed {
                is_new |= self.0.insert(event.key);
            }
            if !is_new {
                continue;
            }
            match codec::decode_commit(frame.commit, keys) {
                Ok(_) | Err(CodecError::KeyMissing(_)) => {}
                Err(error) => return Ok(Some((frame.peek.first_position, error))),
            }
        }
        Ok(None)
    }
}
