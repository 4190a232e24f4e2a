//! The file of checksums, and reading the store's pages.
//!
//! ```text
//! file   = header  sum*
//! header = magic(8) | salts 2×u32 | frames u32 | unused u32 | checksum of these u32 | unused(4)
//! sum    = u32, 0 for a page that was never written
//! ```
//!
//! Numbers are little-endian. The header says how many frames of which write-ahead file were
//! processed last. If that file has fewer frames with the same salts, it has lost some.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::wal::Wal;
use super::{PAGE_BYTES, part, sum_of};
use crate::projection::sqlite::held::HeldFile;

const HEADER_BYTES: usize = 32;
const CHECKED_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"SKYSUMS\x01";
/// How much of the store is read at once.
const READ_BYTES: usize = 1 << 20;

/// The open, locked file.
pub(super) struct SumFile(File);

/// The contents of the file.
pub(super) struct Sums {
    pub(super) salts: [u32; 2],
    pub(super) num_frames: u32,
    sums: Vec<u8>,
}

impl Sums {
    pub(super) fn num_pages(&self) -> u32 {
        u32::try_from(self.sums.len() / 4).unwrap_or(u32::MAX)
    }

    /// Returns the checksum of a page, 0 if it was never written.
    pub(super) fn get(&self, page: u32) -> u32 {
        let at = (page as usize).saturating_sub(1) * 4;
        let four = self.sums.get(at..).and_then(|rest| rest.first_chunk());
        four.map_or(0, |four| u32::from_le_bytes(*four))
    }
}

/// Reads the checksums of a store; `None` when they are missing or their header is damaged.
pub(super) fn read(path: &Path) -> io::Result<Option<Sums>> {
    let mut bytes = match std::fs::read(part(path, "-sums")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if bytes.len() < HEADER_BYTES {
        return Ok(None);
    }
    let sums = bytes.split_off(HEADER_BYTES);
    let (checked, rest) = bytes.split_at(CHECKED_BYTES);
    let is_whole = checked.starts_with(MAGIC)
        && rest.first_chunk() == Some(&crc32fast::hash(checked).to_le_bytes());
    let number = |at: usize| {
        let four = checked.get(at..).and_then(|rest| rest.first_chunk());
        u32::from_le_bytes(four.copied().unwrap_or_default())
    };
    Ok(is_whole.then(|| Sums {
        salts: [number(8), number(12)],
        num_frames: number(16),
        sums,
    }))
}

/// Reads the checksums of some pages, as many as there are.
pub(super) fn read_some(path: &Path, first: u32, count: u32) -> io::Result<Vec<u32>> {
    let mut file = File::open(part(path, "-sums"))?;
    file.seek(SeekFrom::Start(place_of(first)))?;
    let mut bytes = Vec::new();
    file.take(u64::from(count) * 4).read_to_end(&mut bytes)?;
    let (sums, _) = bytes.as_chunks::<4>();
    Ok(sums.iter().map(|four| u32::from_le_bytes(*four)).collect())
}

/// Returns the offset of a page's checksum.
fn place_of(page: u32) -> u64 {
    HEADER_BYTES as u64 + u64::from(page.saturating_sub(1)) * 4
}

impl SumFile {
    /// Opens a store's checksums, and waits for another writer of them.
    pub(super) fn open_to_write(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(part(path, "-sums"))?;
        file.lock()?;
        Ok(Self(file))
    }

    /// Creates an empty file of checksums, which replaces any existing one. It gets the permissions
    /// of the store's own file, like the files that SQLite keeps next to it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mode = std::fs::metadata(path)?.mode() & 0o666;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let file = options.open(part(path, "-sums"))?;
        file.lock()?;
        Ok(Self(file))
    }

    /// Writes the checksums of the pages in a write-ahead file, and records how far it was
    /// processed.
    pub(super) fn put(&mut self, wal: &Wal) -> io::Result<()> {
        let mut pages: Vec<(u32, u32)> = wal.sums.iter().map(|(page, sum)| (*page, *sum)).collect();
        pages.sort_unstable();
        for run in pages.chunk_by(|(page, _), (next, _)| page + 1 == *next) {
            let first = run.first().map_or(1, |(page, _)| *page);
            let bytes: Vec<u8> = run.iter().flat_map(|(_, sum)| sum.to_le_bytes()).collect();
            self.0.write_all_at(&bytes, place_of(first))?;
        }
        // A store that was rewritten may have become shorter.
        self.0.set_len(place_of(wal.num_pages.saturating_add(1)))?;
        self.put_header(wal.salts, wal.num_frames)?;
        self.0.sync_data()
    }

    fn put_header(&mut self, salts: [u32; 2], num_frames: u32) -> io::Result<()> {
        let mut header = MAGIC.to_vec();
        for number in [salts[0], salts[1], num_frames, 0] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&header);
        header.extend_from_slice(&checksum.to_le_bytes());
        header.resize(HEADER_BYTES, 0);
        self.0.write_all_at(&header, 0)
    }

    /// Writes the checksums of all pages of the store's file.
    pub(super) fn sum_all(&mut self, store: &HeldFile) -> io::Result<()> {
        let mut store = Pages::of(store)?;
        let Some(num_pages) = store.num_pages() else {
            return Err(io::Error::other("not a file of whole pages"));
        };
        let mut bytes = Vec::with_capacity(num_pages as usize * 4);
        for page in 1..=num_pages {
            bytes.extend_from_slice(&store.sum(page)?.to_le_bytes());
        }
        self.0.write_all_at(&bytes, HEADER_BYTES as u64)?;
        self.put_header([0; 2], 0)?;
        self.0.sync_data()
    }
}

/// The pages of a store's file, best read in order.
pub(super) struct Pages<'a> {
    file: &'a HeldFile,
    num_bytes: u64,
    /// Some consecutive pages, and the offset where they begin.
    read: Vec<u8>,
    offset: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn of(file: &'a HeldFile) -> io::Result<Self> {
        Ok(Self {
            num_bytes: file.num_bytes()?,
            file,
            read: Vec::new(),
            offset: 0,
        })
    }

    /// Returns the number of pages; `None` when the last one is incomplete.
    pub(super) fn num_pages(&self) -> Option<u32> {
        let is_whole = self.num_bytes.is_multiple_of(PAGE_BYTES as u64);
        let num_pages = u32::try_from(self.num_bytes / PAGE_BYTES as u64).ok();
        num_pages.filter(|_| is_whole)
    }

    /// Returns the checksum of a page, 0 for a page of zeros or beyond the end.
    pub(super) fn sum(&mut self, page: u32) -> io::Result<u32> {
        let offset = u64::from(page.saturating_sub(1)) * PAGE_BYTES as u64;
        if offset >= self.num_bytes {
            return Ok(0);
        }
        if self.read_page(offset).is_none() {
            let remaining = usize::try_from(self.num_bytes - offset).unwrap_or(READ_BYTES);
            self.read.resize(remaining.min(READ_BYTES), 0);
            self.file.read_at(&mut self.read, offset)?;
            self.offset = offset;
        }
        let page = self.read_page(offset);
        page.map(sum_of)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Returns a page that is in the buffer already.
    fn read_page(&self, offset: u64) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.read.get(start..start.checked_add(PAGE_BYTES)?)
    }
}
