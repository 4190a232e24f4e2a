//! The state of the disk at the start: where the log ends, and whether it is whole.
//!
//! Only the open segment is walked, and only the lengths, checksums, positions and groups of its
//! frames are checked; `verify` checks the rest. Bytes that do not continue the log are a torn
//! write if no frame of a later group follows: that write was never acknowledged and is overwritten
//! with zeros. Otherwise they are damage: the log does not open, and the error says where.
//!
//! A whole frame can be torn, too. Then it belongs to a group that was half written and refused for
//! lack of space, and it lies after the group that was written in its place. Both groups began at
//! the same offset, so the group number of such a frame is at most that of the log's last group. If
//! the numbers are equal, the chain tells the two apart.
//!
//! What is read may only be in the page cache: the process may have ended before the flush, and
//! after a failed flush the kernel takes the pages for clean. That can only be true of the last
//! group, so it is written again and flushed before it is shown to anyone.

use std::io;
use std::sync::Arc;

use skytrail_schema::chain;
use skytrail_schema::codec::{self, CodecError};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::frame::Frame;
use super::index::Index;
use super::segment::Newer;
use super::{End, OpenError, OpenSegment, SegmentEntry, SignedEnd, frame, segment};
use crate::log::disk::{Disk, DiskFile};

pub(super) struct Recovered {
    pub(super) entries: Vec<SegmentEntry>,
    pub(super) end: End,
    pub(super) store_id: Uuid,
    pub(super) torn_bytes: u64,
}

/// Whether the journal is opened for writing, or next to a process that may be writing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// A torn tail is overwritten with zeros, unless the log was signed beyond its end.
    Write(Option<SignedEnd>),
    /// Nothing is changed; the log ends at the last whole frame.
    Read,
}

impl Access {
    /// Returns the signed end that the journal has to contain.
    fn signed(self) -> Option<SignedEnd> {
        match self {
            Self::Write(signed) => signed,
            Self::Read => None,
        }
    }
}

/// Reads every segment's ends and walks the open one; `None` when there is no journal yet.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    access: Access,
) -> Result<Option<Recovered>, OpenError> {
    let names = disk.list()?;
    let mut names = names
        .into_iter()
        .filter(|name| segment::position_of(name).is_some())
        .peekable();
    let mut recovered: Option<Recovered> = None;
    while let Some(name) = names.next() {
        let is_last = names.peek().is_none();
        let file = disk.open(&name)?;
        let header = read_header(&name, &*file)?;
        let end = recovered.as_ref().map(|found| found.end);
        check_store(&name, &header, access)?;
        check_continuity(&name, &header, recovered.as_ref())?;
        let start = end.unwrap_or(End {
            position: header.first_position - 1,
            chain: header.previous_chain,
            time: Timestamp::default(),
        });
        let footer = if is_last {
            None
        } else {
            segment::read_footer(&*file)?
        };
        let walked = match footer {
            Some(footer) => sealed(&file, &footer, start)?,
            None => walk(&name, &file, start, is_last, access)?,
        };
        let found = recovered.get_or_insert_with(|| Recovered {
            entries: Vec::new(),
            end: start,
            store_id: header.store_id,
            torn_bytes: 0,
        });
        found.end = walked.end;
        found.torn_bytes += walked.torn_bytes;
        found.entries.push(SegmentEntry {
            name,
            store_id: header.store_id,
            first_position: header.first_position,
            previous_chain: header.previous_chain,
            file,
            last_position: walked.end.position,
            end: walked.offset,
            index: Arc::new(walked.index),
        });
    }
    match access.signed() {
        Some(signed) if recovered.is_none() => Err(OpenError::Contradicted(format!(
            "it does not exist, but it was signed at {}",
            signed.position
        ))),
        _ => Ok(recovered),
    }
}

/// Prepares the last segment for more writes; `None` when there is none.
pub(super) fn reopen_last(entries: &[SegmentEntry]) -> io::Result<Option<OpenSegment>> {
    let Some(entry) = entries.last() else {
        return Ok(None);
    };
    let length = entry.file.size()?;
    let file = Arc::clone(&entry.file);
    Ok(Some(OpenSegment {
        file,
        offset: entry.end,
        length,
    }))
}

struct Walked {
    end: End,
    offset: u64,
    index: Index,
    torn_bytes: u64,
}

fn read_header(name: &str, file: &dyn DiskFile) -> Result<segment::Header, OpenError> {
    match segment::read_header(file)? {
        Ok(header) if segment::position_of(name) == Some(header.first_position) => Ok(header),
        Err(segment::HeaderError::Newer(found)) => Err(OpenError::Newer(Newer::Segment {
            segment: name.to_owned(),
            found,
        })),
        Ok(_) | Err(segment::HeaderError::Damaged) => Err(damaged(name, 0, "header is damaged")),
    }
}

fn check_store(name: &str, header: &segment::Header, access: Access) -> Result<(), OpenError> {
    let signed = access.signed().map(|signed| signed.store_id);
    if signed.is_none_or(|signed| signed == header.store_id) {
        return Ok(());
    }
    Err(OpenError::Contradicted(format!(
        "segment={name}: it belongs to another store than the signed one"
    )))
}

fn check_continuity(
    name: &str,
    header: &segment::Header,
    before: Option<&Recovered>,
) -> Result<(), OpenError> {
    let (position, chain) = before.map_or((0, chain::GENESIS), |before| {
        (before.end.position, before.end.chain)
    });
    let is_other = before.is_some_and(|before| before.store_id != header.store_id);
    if !is_other && header.first_position == position + 1 && header.previous_chain == chain {
        return Ok(());
    }
    let reason = match before {
        Some(_) => format!("does not follow the segment before it, which ends at {position}"),
        None => "the segments before it are missing".to_owned(),
    };
    Err(damaged(name, 0, &reason))
}

fn sealed(
    file: &Arc<dyn DiskFile>,
    footer: &segment::Footer,
    start: End,
) -> Result<Walked, OpenError> {
    let end = End {
        position: footer.last_position,
        chain: footer.chain,
        time: start.time,
    };
    let offset = file.size()? - segment::FOOTER_BYTES as u64;
    Ok(Walked {
        end,
        offset,
        index: Index::default(),
        torn_bytes: 0,
    })
}

/// The state of a walk over the frames of an open segment.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    pub(super) end: End,
    pub(super) offset: u64,
    /// The group of the last frame.
    group: u32,
}

impl Walk {
    /// Begins at a segment's first frame.
    pub(super) fn begin(end: End) -> Self {
        Self {
            end,
            offset: segment::HEADER_BYTES as u64,
            group: 0,
        }
    }

    /// Returns whether the frame at the offset continues the log, as far as can be told without
    /// hashing it.
    fn is_next(&self, frame: &Frame<'_>) -> bool {
        frame.peek.first_position == self.end.position + 1 && frame.group >= self.group
    }

    /// Returns whether the frame at the offset continues the log.
    pub(super) fn is_linked(&self, frame: &Frame<'_>) -> bool {
        let is_link = || {
            let (bytes, _) = codec::without_chain(frame.commit)?;
            let chain = codec::next_chain_hash(&self.end.chain, bytes)?;
            Ok::<_, CodecError>(chain == frame.peek.chain)
        };
        // A commit that cannot be read is reported when it is decoded.
        self.is_next(frame) && is_link().unwrap_or(true)
    }

    pub(super) fn go_over(&mut self, frame: &Frame<'_>) {
        self.end = End {
            position: frame.peek.last_position(),
            chain: frame.peek.chain,
            time: frame.peek.time,
        };
        self.offset += frame.total_bytes() as u64;
        self.group = frame.group;
    }

    /// Returns what is wrong if `rest` has something that was only written after more of the log
    /// was durable. `rest` begins at the offset and does not continue the log.
    pub(super) fn find_damage(&self, rest: &[u8]) -> Option<&'static str> {
        if rest.iter().all(|byte| *byte == 0) {
            return None;
        }
        match frame::read(rest) {
            Some(frame) if frame.group > self.group => {
                Some("frame does not follow the previous one")
            }
            _ if self.has_later_group(rest) => Some("frame is damaged"),
            _ => None,
        }
    }

    /// Returns whether a frame after the first one belongs to a group that began after the offset.
    fn has_later_group(&self, rest: &[u8]) -> bool {
        (1..rest.len()).any(|ahead| {
            let Some(bytes) = rest.get(ahead..) else {
                return false;
            };
            let is_plausible = bytes.get(frame::HEAD_BYTES) == rest.get(frame::HEAD_BYTES)
                || bytes.get(frame::HEAD_BYTES) == Some(&1);
            if !is_plausible {
                return false;
            }
            frame::read(bytes).is_some_and(|frame| {
                frame.peek.first_position > self.end.position
                    && u64::from(frame.group) > self.offset
            })
        })
    }
}

/// Walks a segment without a footer: the open one, or one whose sealing was interrupted.
fn walk(
    name: &str,
    file: &Arc<dyn DiskFile>,
    start: End,
    is_last: bool,
    access: Access,
) -> Result<Walked, OpenError> {
    let length = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_at(&mut bytes, 0)?;
    let rest_at = |offset: u64| {
        let rest = usize::try_from(offset).ok();
        rest.and_then(|offset| bytes.get(offset..))
            .unwrap_or_default()
    };
    let mut walk = Walk::begin(start);
    let mut last_group = walk;
    let index = Index::default();
    while let Some(frame) = frame::read(rest_at(walk.offset)).filter(|it| walk.is_next(it)) {
        if frame.group != walk.group {
            last_group = walk;
        }
        index.note(frame.peek.first_position, walk.offset);
        walk.go_over(&frame);
    }
    // What is left of a refused group can only be mistaken for more of the last group, because both
    // began at the same offset.
    walk = last_group;
    while let Some(frame) = frame::read(rest_at(walk.offset)).filter(|it| walk.is_linked(it)) {
        walk.go_over(&frame);
    }
    index.cut(walk.offset);
    let rest = rest_at(walk.offset);
    let torn_bytes = find_torn(rest, name, &walk, is_last)?;
    if is_last && let Access::Write(signed) = access {
        if segment::Footer::decode(rest).is_some() {
            // A segment is sealed after the next one is durable. Only a reader next to the writer
            // may have listed the files before that.
            let reason = "it is sealed, but the segment after it is missing";
            return Err(damaged(name, walk.offset, reason));
        }
        if let Some(signed) = signed.filter(|signed| signed.position > walk.end.position) {
            return Err(OpenError::Contradicted(format!(
                "segment={name} offset={}: the log ends at {}, but was signed at {}",
                walk.offset, walk.end.position, signed.position
            )));
        }
        let group = rest_at(last_group.offset);
        let mut end = group
            .get(..group.len() - rest.len())
            .unwrap_or_default()
            .to_vec();
        // No part of a torn tail may ever be taken for a frame.
        end.resize(end.len() + torn_bytes, 0);
        if !end.is_empty() {
            file.write_at(&end, last_group.offset)?;
            file.sync_data()?;
        }
    }
    Ok(Walked {
        end: walk.end,
        offset: walk.offset,
        index,
        torn_bytes: torn_bytes as u64,
    })
}

/// Returns how many bytes after a segment's last whole frame belong to a torn write.
fn find_torn(rest: &[u8], name: &str, walk: &Walk, is_last: bool) -> Result<usize, OpenError> {
    if let Some(reason) = frame::unknown(rest) {
        return Err(OpenError::Newer(Newer::Commit {
            segment: name.to_owned(),
            offset: walk.offset,
            reason,
        }));
    }
    if let Some(reason) = walk.find_damage(rest) {
        return Err(damaged(name, walk.offset, reason));
    }
    // The footer was written but the file was not cut, or the sealing was interrupted.
    let is_footer = !is_last || segment::Footer::decode(rest).is_some();
    let used = rest.iter().rposition(|byte| *byte != 0);
    Ok(used.filter(|_| !is_footer).map_or(0, |last| last + 1))
}

fn damaged(name: &str, offset: u64, reason: &str) -> OpenError {
    OpenError::Damaged {
        segment: name.to_owned(),
        offset,
        reason: reason.to_owned(),
    }
}
