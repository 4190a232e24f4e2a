//! What is on disk at the start: where the log ends, and whether it is whole.
//!
//! Only the open segment is walked, and only frames' lengths, checksums and
//! positions are looked at: `verify` checks the rest. A frame that does not
//! hold together is a torn write when no frame of a later group follows it (it
//! was never acknowledged, and is cut), and damage otherwise: then the log does
//! not open, and says where.
//!
//! What is read may be in the page cache alone: the process may have ended
//! before the flush, and after a flush that failed the kernel takes the pages
//! for clean. That can be the last group only, which is therefore written again
//! and flushed before anybody is shown it.

use std::io;
use std::sync::Arc;

use skytrail_schema::chain;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::segment::NewerSegment;
use super::{End, INDEX_EVERY, OpenError, OpenSegment, SegmentEntry, frame, segment};
use crate::log::disk::{Disk, DiskFile};

pub(super) struct Recovered {
    pub(super) entries: Vec<SegmentEntry>,
    pub(super) end: End,
    pub(super) store_id: Uuid,
    pub(super) torn_bytes: u64,
}

/// Whether the journal is opened to be written, or beside a process that may be writing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The tail may be cut.
    Write,
    /// Nothing is changed; the log ends at the last whole frame.
    Read,
}

/// Looks at every segment's ends and walks the open one; `None` when there is no journal yet.
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
        let header = read_header(&name, &file)?;
        let end = recovered.as_ref().map(|found| found.end);
        check_continuity(&name, &header, recovered.as_ref())?;
        let start = end.unwrap_or(End {
            position: header.first_position - 1,
            chain: header.previous_chain,
            time: Timestamp::default(),
        });
        let footer = if is_last {
            None
        } else {
            segment::read_footer(&file)?
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
            index: walked.index,
        });
    }
    Ok(recovered)
}

/// Makes the last segment ready to be written on; `None` when there is none.
pub(super) fn reopen_last(entries: &[SegmentEntry]) -> io::Result<Option<OpenSegment>> {
    let Some(entry) = entries.last() else {
        return Ok(None);
    };
    let length = entry.file.size()?;
    let file = Arc::clone(&entry.file);
    // Only whether it is empty and where the next index entry is due matter here.
    let commits = entry.index.len() * INDEX_EVERY;
    Ok(Some(OpenSegment {
        file,
        offset: entry.end,
        length,
        commits,
    }))
}

struct Walked {
    end: End,
    offset: u64,
    index: Vec<(u64, u64)>,
    torn_bytes: u64,
}

fn read_header(name: &str, file: &Arc<dyn DiskFile>) -> Result<segment::Header, OpenError> {
    let mut bytes = [0; segment::HEADER_BYTES];
    let is_whole = file.size()? >= bytes.len() as u64;
    if is_whole {
        file.read_at(&mut bytes, 0)?;
    }
    match segment::Header::decode(&bytes) {
        Ok(header) if segment::position_of(name) == Some(header.first_position) => Ok(header),
        Err(segment::HeaderError::Newer(found)) => Err(OpenError::Newer(NewerSegment {
            segment: name.to_owned(),
            found,
        })),
        Ok(_) | Err(segment::HeaderError::Damaged) => {
            Err(damaged(name, 0, "header does not hold together"))
        }
    }
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
        index: Vec::new(),
        torn_bytes: 0,
    })
}

/// Walks a segment without footer: the open one, or one whose sealing was interrupted.
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
    let mut walked = Walked {
        end: start,
        offset: segment::HEADER_BYTES as u64,
        index: Vec::new(),
        torn_bytes: 0,
    };
    let mut offset = segment::HEADER_BYTES;
    let mut commits = 0_usize;
    let mut last_group = (None, offset);
    while let Some(frame) = bytes.get(offset..).and_then(frame::read) {
        if frame.peek.first_position != walked.end.position + 1 {
            let reason = format!("expected position {}", walked.end.position + 1);
            return Err(damaged(name, offset as u64, &reason));
        }
        if commits.is_multiple_of(INDEX_EVERY) {
            walked
                .index
                .push((frame.peek.first_position, offset as u64));
        }
        walked.end = End {
            position: frame.peek.last_position(),
            chain: frame.peek.chain,
            time: frame.peek.time,
        };
        if last_group.0 != Some(frame.group) {
            last_group = (Some(frame.group), offset);
        }
        commits += 1;
        offset += frame.total_bytes();
    }
    walked.offset = offset as u64;
    let rest = bytes.get(offset..).unwrap_or_default();
    let torn_bytes = find_torn(rest, (name, offset), walked.end.position, is_last)?;
    walked.torn_bytes = torn_bytes as u64;
    if is_last && access == Access::Write {
        if segment::Footer::decode(rest).is_some() {
            // A segment is sealed once the next one is durable. Only who reads beside the writer may
            // have looked for that too early.
            let reason = "it is sealed, and the segment behind it is missing";
            return Err(damaged(name, offset as u64, reason));
        }
        let (_, start) = last_group;
        let mut end = bytes.get(start..offset).unwrap_or_default().to_vec();
        // Nothing of a torn tail is ever to be taken for a frame.
        end.resize(end.len() + torn_bytes, 0);
        if !end.is_empty() {
            file.write_at(&end, start as u64)?;
            file.sync_data()?;
        }
    }
    Ok(walked)
}

/// Says how many bytes behind a segment's last whole frame are of a write that was torn.
fn find_torn(
    rest: &[u8],
    (name, offset): (&str, usize),
    last_position: u64,
    is_last: bool,
) -> Result<usize, OpenError> {
    let last_used = rest.iter().rposition(|byte| *byte != 0);
    let Some(last_used) = last_used else {
        return Ok(0);
    };
    if let Some(reason) = frame::unknown(rest) {
        let reason = format!("a whole commit cannot be read, a newer version wrote it: {reason}");
        return Err(damaged(name, offset as u64, &reason));
    }
    if has_later_group(rest, offset, last_position) {
        return Err(damaged(name, offset as u64, "frame does not hold together"));
    }
    // The footer was written but the file not cut, or the sealing was interrupted.
    let is_footer = !is_last || segment::Footer::decode(rest).is_some();
    Ok(if is_footer { 0 } else { last_used + 1 })
}

/// Whether some frame behind a broken one at `offset` belongs to a later group, which was only
/// written after the broken one's group had been made durable.
pub(super) fn has_later_group(rest: &[u8], offset: usize, last_position: u64) -> bool {
    (1..rest.len()).any(|ahead| {
        let Some(bytes) = rest.get(ahead..) else {
            return false;
        };
        let is_plausible = bytes.get(frame::HEAD_BYTES) == rest.get(frame::HEAD_BYTES)
            || bytes.get(frame::HEAD_BYTES) == Some(&1);
        if !is_plausible {
            return false;
        }
        let frame = frame::read(bytes).filter(|frame| frame.peek.first_position > last_position);
        frame.is_some_and(|frame| usize::try_from(frame.group).is_ok_and(|group| group > offset))
    })
}

fn damaged(name: &str, offset: u64, reason: &str) -> OpenError {
    OpenError::Damaged {
        segment: name.to_owned(),
        offset,
        reason: reason.to_owned(),
    }
}
