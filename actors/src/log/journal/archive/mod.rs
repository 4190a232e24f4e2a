//! Single segments, as a backup takes them and a restore puts them back.
//!
//! Opening a journal refuses a damaged one. This reads each segment by itself, so that whatever is
//! whole can be saved, and reports what is missing. It reads next to a process that may be writing:
//! only whole frames count, and they are made durable before they are reported.

mod check;
mod files;
mod lost;
mod opened;
mod restored;

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::codec::CodecError;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

pub use check::Checked;
pub use files::KnownFiles;
pub use lost::LostRecords;
pub use opened::OpenedKeys;
pub use restored::LastRestore;

use super::frame::Frames;
use super::recovery::Walk;
use super::segment::{HeaderError, Newer};
use super::{End, frame, segment};
use crate::log::disk::{Disk, DiskFile};

/// A place in the journal that differs from what was written, and what is lost by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The file.
    pub segment: String,
    /// The offset in the file.
    pub offset: u64,
    /// The first position that is lost or cannot be trusted.
    pub first_position: u64,
    /// The last such position; unknown when nothing whole follows.
    pub last_position: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (segment, offset, reason) = (&self.segment, self.offset, &self.reason);
        write!(f, "{segment} at offset {offset}: {reason}; ")?;
        match self.last_position {
            Some(last) if last < self.first_position => write!(f, "no event is lost"),
            Some(last) => write!(f, "events {} to {last}", self.first_position),
            None => write!(f, "events from {} on", self.first_position),
        }
    }
}

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The device failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not even its ends can be read.
    #[error("{0}")]
    Damaged(Damage),
    /// A newer program wrote it.
    #[error("{0}")]
    Newer(Newer),
}

/// Where a restored log should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// With the last event.
    End,
    /// With the last commit that ends at this position or before.
    Position(u64),
    /// With the last commit at or before this time.
    Time(Timestamp),
}

/// The end of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The last position.
    pub position: u64,
    /// The commit's chain hash.
    pub chain: ChainHash,
    /// When it was committed; `None` for the end of a segment without commits.
    pub time: Option<Timestamp>,
    /// Where it ends in the segment.
    pub end: u64,
}

/// A segment whose ends can be read. [`SegmentFile::check`] looks at what is between them.
#[derive(Clone)]
pub struct SegmentFile {
    /// The file's name in the journal.
    pub name: String,
    /// The store that it belongs to.
    pub store_id: Uuid,
    /// The first position.
    pub first_position: u64,
    /// The chain hash before the first position.
    pub previous_chain: ChainHash,
    /// The last position; the one before the first in a segment without events.
    pub last_position: u64,
    /// The chain hash of the last commit.
    pub chain: ChainHash,
    /// Where the frames end.
    pub end: u64,
    /// The digest in the seal, of the bytes before it; `None` for an open segment.
    pub digest: Option<[u8; 32]>,
    file: Arc<dyn DiskFile>,
    /// Where an open segment is damaged.
    bad_offset: Option<u64>,
}

/// A journal on disk, segment by segment.
#[derive(Default)]
pub struct Survey {
    /// The segments in order.
    pub segments: Vec<SegmentFile>,
    /// Segments that cannot be used at all, and positions that are in no segment.
    pub damage: Vec<Damage>,
}

impl Survey {
    /// Reads the ends of every segment in a folder.
    ///
    /// # Errors
    /// The device failed, or a newer program has written there, so it is unknown what is whole.
    pub fn of(disk: &dyn Disk) -> Result<Self, SegmentError> {
        let mut names = disk.list()?;
        names.retain(|name| segment::position_of(name).is_some());
        let mut survey = Self::default();
        for name in names {
            match SegmentFile::open(disk, &name) {
                Ok(segment) => survey.add(segment),
                Err(SegmentError::Damaged(damage)) => survey.damage.push(damage),
                Err(error) => return Err(error),
            }
        }
        survey.close_gaps();
        Ok(survey)
    }

    /// Adds a segment and notes what is missing before it.
    fn add(&mut self, segment: SegmentFile) {
        let (position, chain) = self.end();
        let is_next = segment.first_position == position + 1 && segment.previous_chain == chain;
        let is_other = self
            .segments
            .last()
            .is_some_and(|last| last.store_id != segment.store_id);
        if !is_next || is_other {
            let reason = if is_other {
                "it belongs to another store"
            } else {
                "it does not follow the segment before it"
            };
            self.damage.push(Damage {
                segment: segment.name.clone(),
                offset: 0,
                first_position: position + 1,
                last_position: Some(segment.first_position.saturating_sub(1)),
                reason: reason.to_owned(),
            });
        }
        self.segments.push(segment);
    }

    /// Extends what an unreadable segment has lost to where the next segment begins, and drops the
    /// separate note about that gap.
    fn close_gaps(&mut self) {
        let unreadable = |damage: &Damage| damage.last_position.is_none();
        for number in 0..self.damage.len() {
            let Some(damage) = self.damage.get(number).filter(|it| unreadable(it)) else {
                continue;
            };
            let first = damage.first_position;
            let mut following = self.segments.iter().map(|it| it.first_position);
            let next = following.find(|next| *next > first);
            if let (Some(damage), Some(next)) = (self.damage.get_mut(number), next) {
                damage.last_position = Some(next - 1);
            }
        }
        let unreadable: Vec<(u64, Option<u64>)> = self
            .damage
            .iter()
            .filter(|damage| segment::position_of(&damage.segment) == Some(damage.first_position))
            .map(|damage| (damage.first_position, damage.last_position))
            .collect();
        self.damage.retain(|damage| {
            let range = (damage.first_position, damage.last_position);
            let is_own = segment::position_of(&damage.segment) == Some(damage.first_position);
            is_own || !unreadable.contains(&range)
        });
    }

    /// Returns the last position and its chain hash.
    pub fn end(&self) -> (u64, ChainHash) {
        let last = self.segments.last();
        last.map_or((0, chain::GENESIS), |last| (last.last_position, last.chain))
    }

    /// Returns the chain hash of the commit that ends at a position, if there is one.
    ///
    /// # Errors
    /// The device failed.
    pub fn chain_at(&self, position: u64) -> io::Result<Option<ChainHash>> {
        if position == 0 {
            return Ok(Some(chain::GENESIS));
        }
        let holds = |segment: &&SegmentFile| {
            segment.first_position <= position && position <= segment.last_position
        };
        let Some(segment) = self.segments.iter().find(holds) else {
            return Ok(None);
        };
        if segment.last_position == position {
            return Ok(Some(segment.chain));
        }
        let cut = segment.find_cut(Until::Position(position))?;
        Ok((cut.position == position).then_some(cut.chain))
    }
}

impl SegmentFile {
    /// Opens a segment. If it is not sealed, what is whole now is made durable.
    ///
    /// # Errors
    /// The device failed, the segment's ends cannot be read, or a newer program wrote it.
    pub fn open(disk: &dyn Disk, name: &str) -> Result<Self, SegmentError> {
        let file = disk.open(name)?;
        let header = segment::read_header(&*file)?.map_err(|error| match error {
            HeaderError::Newer(found) => SegmentError::Newer(Newer::Segment {
                segment: name.to_owned(),
                found,
            }),
            HeaderError::Damaged => SegmentError::Damaged(Damage {
                segment: name.to_owned(),
                offset: 0,
                first_position: segment::position_of(name).unwrap_or_default(),
                last_position: None,
                reason: "its header is damaged".to_owned(),
            }),
        })?;
        let mut opened = Self {
            name: name.to_owned(),
            store_id: header.store_id,
            first_position: header.first_position,
            previous_chain: header.previous_chain,
            last_position: header.first_position.saturating_sub(1),
            chain: header.previous_chain,
            end: segment::HEADER_BYTES as u64,
            digest: None,
            file,
            bad_offset: None,
        };
        loop {
            let size = opened.file.size()?;
            match opened.look_at_end() {
                Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    // Sealed meanwhile, which cuts off the zeros that were written ahead.
                    if opened.file.size()? >= size {
                        return Err(error.into());
                    }
                }
                looked => return looked.map(|()| opened),
            }
        }
    }

    fn look_at_end(&mut self) -> Result<(), SegmentError> {
        let Some(footer) = segment::read_footer(&*self.file)? else {
            return self.find_end();
        };
        self.last_position = footer.last_position;
        self.chain = footer.chain;
        self.end = self.file.size()? - segment::FOOTER_BYTES as u64;
        self.digest = Some(footer.digest);
        Ok(())
    }

    /// Finds the end of an open segment, which may be growing meanwhile.
    fn find_end(&mut self) -> Result<(), SegmentError> {
        let mut walked = Walk::begin(End {
            position: self.last_position,
            chain: self.chain,
            time: Timestamp::default(),
        });
        let mut suspect = None;
        loop {
            let size = self.file.size()?;
            let mut frames = self.frames(walked.offset..size);
            while let Some((_, frame)) = frames.next()?
                && walked.is_linked(&frame)
            {
                walked.go_over(&frame);
            }
            let rest = read(&*self.file, walked.offset, size)?;
            if frame::read(&rest).is_some_and(|frame| walked.is_linked(&frame)) {
                continue;
            }
            self.refuse_newer(walked.offset, &rest)?;
            if walked.find_damage(&rest).is_none() {
                break;
            }
            // A read that overtakes a write can see a later group and not the one before it. That
            // one was completely written before the later one, so reading again finds it.
            if suspect == Some(walked.offset) {
                self.bad_offset = Some(walked.offset);
                break;
            }
            suspect = Some(walked.offset);
        }
        self.last_position = walked.end.position;
        self.chain = walked.end.chain;
        self.end = walked.offset;
        Ok(self.file.sync_data()?)
    }

    /// Fails at a whole frame that only a newer program understands: it is neither damage nor an
    /// unfinished write.
    fn refuse_newer(&self, offset: u64, frame: &[u8]) -> Result<(), SegmentError> {
        match frame::unknown(frame) {
            Some(reason) => Err(self.newer(offset, reason)),
            None => Ok(()),
        }
    }

    fn newer(&self, offset: u64, reason: CodecError) -> SegmentError {
        SegmentError::Newer(Newer::Commit {
            segment: self.name.clone(),
            offset,
            reason,
        })
    }

    /// Returns whether the segment has no events.
    pub fn is_empty(&self) -> bool {
        self.last_position < self.first_position
    }

    /// Finds the last commit that is wanted, or the segment's beginning if none is.
    ///
    /// # Errors
    /// The device failed.
    pub fn find_cut(&self, until: Until) -> io::Result<Cut> {
        let mut cut = Cut {
            position: self.first_position.saturating_sub(1),
            chain: self.previous_chain,
            time: None,
            end: segment::HEADER_BYTES as u64,
        };
        let mut frames = self.frames(cut.end..self.end);
        while let Some((offset, frame)) = frames.next()? {
            let last = frame.peek.last_position();
            let is_in_range = match until {
                Until::End => true,
                Until::Position(position) => last <= position,
                Until::Time(time) => frame.peek.time <= time,
            };
            if !is_in_range {
                break;
            }
            cut = Cut {
                position: last,
                chain: frame.peek.chain,
                time: Some(frame.peek.time),
                end: offset + frame.total_bytes() as u64,
            };
        }
        Ok(cut)
    }

    /// Returns the beginning of the segment, up to a cut.
    #[must_use]
    pub fn cut_at(&self, cut: &Cut) -> Self {
        Self {
            last_position: cut.position,
            chain: cut.chain,
            end: cut.end,
            digest: None,
            bad_offset: None,
            ..self.clone()
        }
    }

    /// Cuts the file after a commit, so that it becomes the log's open segment.
    ///
    /// # Errors
    /// The device failed.
    pub fn reopen_at(&self, cut: &Cut) -> io::Result<()> {
        self.file.set_len(cut.end)?;
        self.file.sync_data()
    }

    /// Returns the bytes of this segment as a sealed one. `digest` is the one from
    /// [`SegmentFile::check`].
    pub fn sealed(&self, digest: [u8; 32]) -> impl Read + Send + use<> {
        let footer = segment::Footer {
            last_position: self.last_position,
            chain: self.chain,
            digest,
        };
        let frames = FileReader {
            file: Arc::clone(&self.file),
            offset: 0,
            end: self.end,
        };
        frames.chain(io::Cursor::new(footer.encode()))
    }

    /// Returns how many bytes [`SegmentFile::sealed`] returns.
    pub fn sealed_bytes(&self) -> u64 {
        self.end + segment::FOOTER_BYTES as u64
    }

    /// Returns the frames in a range, which begins at a frame.
    fn frames(&self, part: Range<u64>) -> Frames<'_> {
        Frames::new(&*self.file, part)
    }

    fn damage(&self, offset: u64, first: u64, last: Option<u64>, reason: &str) -> Damage {
        Damage {
            segment: self.name.clone(),
            offset,
            first_position: first,
            last_position: last,
            reason: reason.to_owned(),
        }
    }
}

/// Returns the name of the segment that begins at a position.
pub fn file_name(first_position: u64) -> String {
    segment::file_name(first_position)
}

fn read(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, from)?;
    Ok(bytes)
}

struct FileReader {
    file: Arc<dyn DiskFile>,
    offset: u64,
    end: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let remaining = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(remaining);
        let part = buffer.get_mut(..length).unwrap_or_default();
        self.file.read_at(part, self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
