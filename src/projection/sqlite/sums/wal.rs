//! Reads SQLite's write-ahead file, whose layout is part of its published file format.
//!
//! ```text
//! file   = header  frame*
//! header = magic u32 | format u32 | page size u32 | sequence u32 | salts 2×u32 | checksum 2×u32
//! frame  = page number u32 | pages after a commit u32, else 0 | salts 2×u32 | checksum 2×u32 | page
//! ```
//!
//! All numbers are big-endian. Checksums continue from frame to frame. A frame counts if it has the
//! header's salts, its checksum is right, and it is not after the last frame that commits.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use super::{PAGE_BYTES, part, sum_of};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says whether checksums read their words as big-endian.
const MAGIC: u32 = 0x377f_0682;

/// The committed contents of a write-ahead file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wal {
    /// They change each time the file starts over.
    pub(super) salts: [u32; 2],
    /// The number of frames, up to the last one that commits.
    pub(super) num_frames: u32,
    /// How many pages the store has after the last commit.
    pub(super) num_pages: u32,
    /// The pages in these frames, each with the checksum of its last version.
    pub(super) sums: HashMap<u32, u32>,
}

/// A walk along a write-ahead file, which continues from where it was when there is more.
#[derive(Debug, Default)]
pub(super) struct Walk {
    header: Option<[u8; HEADER_BYTES]>,
    is_big_endian: bool,
    /// What was found so far, up to the last frame that commits; frames after that one may be
    /// overwritten.
    wal: Wal,
    running: [u32; 2],
    num_flushed: u32,
}

impl Walk {
    /// Returns what was found so far.
    pub(super) fn found(&self) -> &Wal {
        &self.wal
    }

    /// Walks to the file's end, from its beginning if it has started over. Writers can continue
    /// meanwhile.
    pub(super) fn go_on(&mut self, path: &Path) -> io::Result<()> {
        let Some(mut file) = self.resume(path)? else {
            *self = Self::default();
            return Ok(());
        };
        let mut running = self.running;
        let mut uncommitted = HashMap::new();
        let mut frame = [0; FRAME_HEADER_BYTES + PAGE_BYTES];
        let mut num_frames = self.wal.num_frames;
        while fill(&mut file, &mut frame)? {
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            let checked = head.get(..8).unwrap_or_default();
            add(&mut running, checked, self.is_big_endian);
            add(&mut running, page, self.is_big_endian);
            let is_whole = [number(head, 8), number(head, 12)] == self.wal.salts
                && [number(head, 16), number(head, 20)] == running;
            if !is_whole {
                break;
            }
            num_frames += 1;
            uncommitted.insert(number(head, 0), sum_of(page));
            if number(head, 4) != 0 {
                self.wal.sums.extend(uncommitted.drain());
                self.wal.num_frames = num_frames;
                self.wal.num_pages = number(head, 4);
                self.running = running;
            }
        }
        Ok(())
    }

    /// Opens the file where the walk continues; `None` when it does not exist or is not used.
    fn resume(&mut self, path: &Path) -> io::Result<Option<BufReader<File>>> {
        let file = match File::open(part(path, "-wal")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut file = BufReader::with_capacity(1 << 20, file);
        let mut header = [0; HEADER_BYTES];
        if !fill(&mut file, &mut header)? {
            return Ok(None);
        }
        if self.header == Some(header) {
            let done = u64::from(self.wal.num_frames) * (FRAME_HEADER_BYTES + PAGE_BYTES) as u64;
            file.seek(SeekFrom::Start(HEADER_BYTES as u64 + done))?;
            return Ok(Some(file));
        }
        let magic = number(&header, 0);
        let is_big_endian = magic & 1 == 1;
        let mut running = [0; 2];
        add(
            &mut running,
            header.get(..24).unwrap_or_default(),
            is_big_endian,
        );
        let is_header = magic & !1 == MAGIC
            && number(&header, 8) as usize == PAGE_BYTES
            && running == [number(&header, 24), number(&header, 28)];
        let wal = Wal {
            salts: [number(&header, 16), number(&header, 20)],
            ..Wal::default()
        };
        *self = Self {
            header: Some(header),
            is_big_endian,
            wal,
            running,
            num_flushed: 0,
        };
        Ok(is_header.then_some(file))
    }

    /// Makes what was found durable.
    pub(super) fn flush(&mut self, path: &Path) -> io::Result<()> {
        if self.num_flushed < self.wal.num_frames {
            File::open(part(path, "-wal"))?.sync_data()?;
            self.num_flushed = self.wal.num_frames;
        }
        Ok(())
    }
}

/// Fills the buffer; `false` at the file's end.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    u32::from_be_bytes(four.copied().unwrap_or_default())
}

/// Continues the write-ahead file's checksum over more bytes.
fn add(running: &mut [u32; 2], bytes: &[u8], is_big_endian: bool) {
    let [mut first, mut second] = *running;
    let word = if is_big_endian {
        u32::from_be_bytes
    } else {
        u32::from_le_bytes
    };
    let (words, _) = bytes.as_chunks::<4>();
    for pair in words.chunks_exact(2) {
        if let [left, right] = pair {
            first = first.wrapping_add(word(*left)).wrapping_add(second);
            second = second.wrapping_add(word(*right)).wrapping_add(first);
        }
    }
    *running = [first, second];
}
