//! Which files a log knows, to compare with the files in a backup.

use std::collections::BTreeSet;
use std::io;

use skytrail_schema::codec::{self, CodecError, KeyState, SubjectKeys};
use skytrail_schema::event::{EventBody, EventFilter, EventKind, Kinds, Stream};
use skytrail_schema::id::AssetName;

use super::SegmentFile;
use crate::log::journal::segment;

/// Leaves sealed events sealed: no erasure is.
struct Sealed;

impl SubjectKeys for Sealed {
    fn state(&self, _: u64) -> KeyState {
        KeyState::Destroyed
    }
}

/// See the module. Segments are read in order; damaged parts are skipped.
#[derive(Clone, Debug, Default)]
pub struct KnownFiles {
    /// Files that were announced or imported; their bytes may not have arrived.
    pub announced: BTreeSet<AssetName>,
    /// Files whose bytes have arrived.
    pub uploaded: BTreeSet<AssetName>,
    /// Files that an erasure or retention has removed.
    pub erased: BTreeSet<AssetName>,
}

impl KnownFiles {
    /// Reads a segment from a position on.
    ///
    /// # Errors
    /// The device failed.
    pub fn read(&mut self, segment: &SegmentFile, from: u64) -> io::Result<()> {
        if segment.last_position < from {
            return Ok(());
        }
        let filter = EventFilter {
            kinds: Kinds::of([
                EventKind::AssetRegistered,
                EventKind::AssetUploaded,
                EventKind::ErasureRequested,
            ]),
            ..EventFilter::default()
        };
        let mut frames = segment.frames(segment::HEADER_BYTES as u64..segment.end);
        while let Some((_, frame)) = frames.next()? {
            if frame.peek.last_position() >= from {
                // A commit that cannot be read is reported by the check of the log.
                let _ = self.look_at(frame.commit, &filter);
            }
        }
        Ok(())
    }

    fn look_at(&mut self, commit: &[u8], filter: &EventFilter) -> Result<(), CodecError> {
        if !codec::has_wanted(commit, filter)? {
            return Ok(());
        }
        // For a file the stream's name is enough, so an erased payload does no harm.
        for event in codec::outlines(commit)? {
            let Stream::Asset(name) = event.stream else {
                continue;
            };
            match event.kind {
                EventKind::AssetRegistered => self.announced.insert(name),
                EventKind::AssetUploaded => self.uploaded.insert(name),
                _ => false,
            };
        }
        for event in codec::decode_commit(commit, &Sealed)?.events {
            if let EventBody::ErasureRequested(request) = event.body {
                self.erased.extend(request.files);
            }
        }
        Ok(())
    }
}
