//! The journal: the write-ahead log and the archive.
//!
//! Segments of commit frames, written by one thread and flushed once per group before anything is
//! acknowledged. What is durable does not change. A torn write is overwritten with zeros at the
//! start; one that found no space is cut off at once. Only erasures rewrite a sealed segment
//! (`rewrite`). `segment` and `frame` have the layout, `recovery` tells torn from damaged, `read`
//! has the reading side.

pub mod archive;
mod blanks;
mod frame;
mod index;
mod read;
mod recovery;
mod rewrite;
mod sealed;
mod search;
mod segment;
mod verify;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLock;
use skytrail_schema::chain::{self, ChainHash};
use skytrail_schema::codec::{NoKeys, SubjectKeys};
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::disk::{Disk, DiskFile};
use super::keyring::KeyringError;
use index::Index;

pub use read::RawCommit;
pub(super) use rewrite::RewriteError;
pub use rewrite::Rewritten;
pub use segment::Newer;
pub use verify::{VerifyProgress, VerifyReport};

/// The journal's folder in the data folder.
pub const JOURNAL_FOLDER: &str = "journal";

/// How many bytes are read at once, and about how many lie between two entries of a segment's
/// index.
const READ_BYTES: usize = 64 * 1024;

/// The zeros that are written ahead.
static ZEROS: &[u8] = &[0; 64 * 1024];

/// Where a log ended when it was signed; it was durable up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedEnd {
    /// The store that the log belongs to.
    pub store_id: Uuid,
    /// The last position of the last commit.
    pub position: u64,
    /// The chain hash at that position.
    pub chain: ChainHash,
}

/// How a journal is laid out, and what it has to contain.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// A segment is sealed when the next group would make it larger than this. Default 64 MiB.
    pub segment_bytes: u64,
    /// The open segment grows by this many zeros at a time, so that most flushes do not change the
    /// file's length. Default 4 MiB.
    pub step_bytes: u64,
    /// The signed end that the journal has to contain; if it does not, it is left unchanged.
    /// Default none.
    pub signed: Option<SignedEnd>,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            step_bytes: 4 << 20,
            signed: None,
        }
    }
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device failed.
    #[error("journal not accessible: {0}")]
    Io(#[from] io::Error),
    /// Bytes that were durable differ from what was written.
    #[error("journal damaged: segment={segment} offset={offset}: {reason}")]
    Damaged {
        /// The file.
        segment: String,
        /// Where the first bad frame begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// It does not contain, or no longer contains, what was signed of it.
    #[error("journal damaged: {0}")]
    Contradicted(String),
    /// A newer program has written to it.
    #[error("journal: {0}")]
    Newer(Newer),
    /// The keys of sealed events cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyringError),
}

/// The result of opening a journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RecoveryReport {
    /// The last position.
    pub head: u64,
    /// How many segments there are.
    pub num_segments: usize,
    /// Bytes of an unfinished write at the end that were overwritten with zeros; they were never
    /// acknowledged.
    pub torn_bytes: u64,
}

/// Where the log ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) position: u64,
    pub(super) chain: ChainHash,
    pub(super) time: Timestamp,
}

/// The writing side, owned by one thread.
pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    options: JournalOptions,
    store_id: Uuid,
    shared: Arc<Segments>,
    open: OpenSegment,
    end: End,
}

struct OpenSegment {
    file: Arc<dyn DiskFile>,
    /// Where the next frame goes.
    offset: u64,
    /// How far zeros are written ahead. If the file is longer, the rest belongs to a write that
    /// found no space.
    length: u64,
}

impl OpenSegment {
    fn is_empty(&self) -> bool {
        self.offset <= segment::HEADER_BYTES as u64
    }
}

/// The reading side, for any thread while the journal grows.
pub struct Segments {
    list: RwLock<Vec<SegmentEntry>>,
    /// Events about a subject are sealed with these.
    keys: Arc<dyn SubjectKeys>,
}

#[derive(Clone)]
struct SegmentEntry {
    name: String,
    store_id: Uuid,
    first_position: u64,
    previous_chain: ChainHash,
    file: Arc<dyn DiskFile>,
    /// The last durable position.
    last_position: u64,
    /// Where the durable frames end.
    end: u64,
    /// Where some of the durable frames begin.
    index: Arc<Index>,
}

/// Opens the keys of a store; while it runs, the sealed events of its log cannot be opened.
pub(super) type KeysOf<'a> = &'a dyn Fn(Uuid, &Segments) -> Result<Arc<dyn SubjectKeys>, OpenError>;

impl Journal {
    /// Opens the journal in a folder, or creates it. A torn tail is overwritten with zeros.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        keys: KeysOf<'_>,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        rewrite::remove_unfinished(&disk)?;
        // The previous process may have ended after renaming a segment and before this.
        disk.sync_folder()?;
        let recovered = recovery::recover(&disk, recovery::Access::Write(options.signed))?;
        let (entries, end, store_id, torn_bytes) = match recovered {
            Some(found) => (found.entries, found.end, found.store_id, found.torn_bytes),
            None => {
                let end = End {
                    position: 0,
                    chain: chain::GENESIS,
                    time: Timestamp::default(),
                };
                (Vec::new(), end, Uuid::new_v4(), 0)
            }
        };
        let reopened = recovery::reopen_last(&entries)?;
        let segments = Segments {
            list: RwLock::new(entries),
            keys: Arc::new(NoKeys),
        };
        if let Some(signed) = options.signed {
            segments.check_signed(&signed)?;
        }
        let keys = keys(store_id, &segments)?;
        let shared = Arc::new(segments.with_keys(keys));
        // Unknown so far if nothing has been written after a sealed segment.
        let time = shared.time_at(end.position).unwrap_or_default();
        let end = End {
            time: end.time.max(time),
            ..end
        };
        let open = match reopened {
            Some(open) => open,
            None => start_segment(&disk, options, &shared, store_id, end)?,
        };
        let num_segments = shared.list.read().len();
        let report = RecoveryReport {
            head: end.position,
            num_segments,
            torn_bytes,
        };
        Ok((
            Self {
                disk,
                options,
                store_id,
                shared,
                open,
                end,
            },
            report,
        ))
    }

    /// Returns where the log ends.
    pub(super) fn end(&self) -> End {
        self.end
    }

    /// Returns the disk that it is on.
    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Seals everything written so far, unless nothing was written since the last seal.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        self.roll()
    }

    /// Returns the store's id.
    pub(super) fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Returns the reading side.
    pub(super) fn segments(&self) -> Arc<Segments> {
        Arc::clone(&self.shared)
    }

    /// Writes a group of sealed commits without making them durable.
    ///
    /// After an error that means a full disk, the group has to be taken back; any other error
    /// leaves the journal in doubt.
    pub(super) fn write_group(&mut self, group: &[(Vec<u8>, Commit)]) -> io::Result<WrittenGroup> {
        let size: usize = group
            .iter()
            .map(|(bytes, _)| frame::HEAD_BYTES + bytes.len())
            .sum();
        let needed = self.open.offset + size as u64 + segment::FOOTER_BYTES as u64;
        if needed > self.options.segment_bytes && !self.open.is_empty() {
            self.roll()?;
        }
        let start = self.open.offset;
        let group_offset = u32::try_from(start).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(size);
        let mut begins = Vec::with_capacity(group.len());
        for (commit_bytes, commit) in group {
            begins.push((commit.first_position(), start + bytes.len() as u64));
            frame::put(&mut bytes, group_offset, commit_bytes);
        }
        self.grow(start + bytes.len() as u64)?;
        if let Err(error) = self.open.file.write_at(&bytes, start) {
            self.open.length = start;
            return Err(error);
        }
        let last = group.last().map_or(self.end, |(_, commit)| End {
            position: commit.last_position(),
            chain: commit.chain,
            time: commit.time,
        });
        Ok(WrittenGroup {
            end: start + bytes.len() as u64,
            last,
            begins,
        })
    }

    /// Makes a written group durable and visible to readers. After an error nothing more may be
    /// written, because it is in doubt what is on disk.
    pub(super) fn sync(&mut self, group: WrittenGroup) -> io::Result<()> {
        self.open.file.sync_data()?;
        self.open.offset = group.end;
        self.end = group.last;
        if let Some(entry) = self.shared.list.write().last_mut() {
            entry.last_position = group.last.position;
            entry.end = group.end;
            for (position, offset) in group.begins {
                entry.index.note(position, offset);
            }
        }
        Ok(())
    }

    /// Removes a group that found no space; when this returns, it is gone for good. After an error
    /// the journal is in doubt.
    pub(super) fn take_back(&self) -> io::Result<()> {
        if self.open.file.size()? > self.open.length {
            self.open.file.set_len(self.open.length)?;
            self.open.file.sync_data()?;
        }
        Ok(())
    }

    /// Writes zeros ahead, at least to `end`.
    fn grow(&mut self, end: u64) -> io::Result<()> {
        if end <= self.open.length {
            return Ok(());
        }
        let step = self.options.step_bytes.max(1);
        let target = (end.div_ceil(step) * step).min(self.options.segment_bytes.max(end));
        write_zeros(&*self.open.file, self.open.length..target)?;
        self.open.length = target;
        Ok(())
    }

    /// Seals the open segment and starts the next.
    fn roll(&mut self) -> io::Result<()> {
        let next = start_segment(
            &self.disk,
            self.options,
            &self.shared,
            self.store_id,
            self.end,
        )?;
        let sealed = std::mem::replace(&mut self.open, next);
        seal_segment(&sealed, self.end)
    }
}

/// A group between its write and its flush.
pub(super) struct WrittenGroup {
    end: u64,
    last: End,
    /// The commits' first positions and offsets.
    begins: Vec<(u64, u64)>,
}

/// Creates the next segment. It is durable before the last one is sealed, so after any interruption
/// the last segment of the list is the open one.
fn start_segment(
    disk: &Arc<dyn Disk>,
    options: JournalOptions,
    shared: &Segments,
    store_id: Uuid,
    end: End,
) -> io::Result<OpenSegment> {
    let first_position = end.position + 1;
    let name = segment::file_name(first_position);
    let temporary = format!("{name}.new");
    let header = segment::Header {
        store_id,
        first_position,
        previous_chain: end.chain,
    };
    let file = match disk.create(&temporary) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => disk.open(&temporary)?,
        other => other?,
    };
    file.set_len(0)?;
    let bytes = header.encode();
    let header_end = bytes.len() as u64;
    let first_step = options.step_bytes.min(1 << 20).max(header_end);
    file.write_at(&bytes, 0)?;
    write_zeros(&*file, header_end..first_step)?;
    file.sync_data()?;
    disk.rename(&temporary, &name)?;
    // A crash may keep the file or lose it. So this error never counts as a full disk, which would
    // refuse only one write.
    disk.sync_folder().map_err(io::Error::other)?;
    let offset = segment::HEADER_BYTES as u64;
    shared.list.write().push(SegmentEntry {
        name,
        store_id,
        first_position,
        previous_chain: end.chain,
        file: Arc::clone(&file),
        last_position: end.position,
        end: offset,
        index: Arc::default(),
    });
    Ok(OpenSegment {
        file,
        offset,
        length: first_step,
    })
}

/// Writes zeros, a few at a time, so that they need not all be in memory.
fn write_zeros(file: &dyn DiskFile, range: Range<u64>) -> io::Result<()> {
    let mut offset = range.start;
    while offset < range.end {
        let remaining = usize::try_from(range.end - offset).unwrap_or(ZEROS.len());
        let part = ZEROS.get(..remaining).unwrap_or(ZEROS);
        file.write_at(part, offset)?;
        offset += part.len() as u64;
    }
    Ok(())
}

fn seal_segment(open: &OpenSegment, end: End) -> io::Result<()> {
    let footer = segment::Footer {
        last_position: end.position,
        chain: end.chain,
        digest: segment::digest(&*open.file, open.offset)?,
    };
    open.file.write_at(&footer.encode(), open.offset)?;
    open.file
        .set_len(open.offset + segment::FOOTER_BYTES as u64)?;
    open.file.sync_data()
}
