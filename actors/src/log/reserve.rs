//! Reserved disk space: a file that is given up when the disk fills up, so that what was
//! acknowledged can still be projected and a shutdown can finish.
//!
//! Writes are accepted only while the reserve is held. It is given up when the free space next to
//! it falls below a quarter of its size, when hardly any inodes are left, or when a write finds no
//! space. It is created again when there is room for it and twice that quarter, and inodes for new
//! files. If it has to be given up again at once, as with a user's quota, which the free space does
//! not show, the next attempt has to wait. Reads are never refused.
//!
//! Without a reserve (0 bytes) every write is tried. It then counts as held unless the last write
//! found no space.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// The reserve takes at most one part in this many of its file system.
const SMALLEST_SHARE: u64 = 8;
/// With fewer free inodes, the reserve is given up: what was acknowledged may need some.
const FEWEST_INODES: u64 = 8;
/// The reserve is created again when this many inodes are free.
const ENOUGH_INODES: u64 = 32;
/// Without a reserve, this much free space counts as enough for writes.
const ENOUGH_BYTES: u64 = 16 << 20;
/// If the reserve is given up sooner than this after it was created again, the next attempt waits as
/// long.
const SETTLED: Duration = Duration::from_secs(5);

/// What is free on a file system.
#[derive(Clone, Copy, Debug)]
struct Free {
    bytes: u64,
    /// `None` if the file system creates inodes as needed.
    inodes: Option<u64>,
}

impl Free {
    fn in_folder(folder: &Path) -> io::Result<Self> {
        let all = statvfs(folder)?;
        Ok(Self {
            bytes: all.f_bavail.saturating_mul(all.f_frsize),
            inodes: (all.f_files > 0).then_some(all.f_favail),
        })
    }

    fn lacks_inodes(self, needed: u64) -> bool {
        self.inodes.is_some_and(|inodes| inodes < needed)
    }
}

/// The reserve of one file system.
#[derive(Debug)]
pub struct Reserve {
    folder: PathBuf,
    file: PathBuf,
    size_bytes: u64,
    is_held: AtomicBool,
    changed: Mutex<Changed>,
}

/// When the reserve was created again, and until when it must not be created again.
#[derive(Debug, Default)]
struct Changed {
    created: Option<Instant>,
    waits_until: Option<Instant>,
}

impl Reserve {
    /// Creates the reserve in a folder, or takes over an existing one. It is not held if there is
    /// no space for it. `size_bytes` is the wanted size; 0 means no reserve.
    ///
    /// # Errors
    /// The file system cannot be queried, or the file cannot be created for another reason.
    pub fn new(folder: &Path, size_bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let all = statvfs(folder)?;
        let total_bytes = all.f_blocks.saturating_mul(all.f_frsize);
        let reserve = Self {
            folder: folder.to_owned(),
            file: folder.join("reserve"),
            size_bytes: size_bytes.min(total_bytes / SMALLEST_SHARE),
            is_held: AtomicBool::new(false),
            changed: Mutex::default(),
        };
        let has_file = std::fs::metadata(&reserve.file)
            .is_ok_and(|file| file.len() == reserve.size_bytes && reserve.size_bytes > 0);
        let is_held = has_file || reserve.size_bytes == 0;
        reserve.is_held.store(is_held, Ordering::Release);
        if !has_file {
            // With another size it only takes up space.
            reserve.remove()?;
        }
        reserve.tend()?;
        // What fills up after this fills up for the first time.
        *reserve.changed.lock() = Changed::default();
        if !has_file && reserve.is_out_of_space() {
            tracing::warn!(
                folder = %folder.display(),
                size_bytes = reserve.size_bytes,
                "there is no space for the disk reserve: writes are refused until there is"
            );
        }
        Ok(reserve)
    }

    /// Returns whether writes are accepted.
    pub fn is_held(&self) -> bool {
        self.size_bytes == 0 || !self.is_out_of_space()
    }

    /// Returns whether there is no space for writes.
    pub fn is_out_of_space(&self) -> bool {
        !self.is_held.load(Ordering::Acquire)
    }

    /// Records that a write found space.
    pub fn found_space(&self) {
        if self.size_bytes == 0 && self.is_out_of_space() {
            self.is_held.store(true, Ordering::Release);
            tracing::info!(folder = %self.folder.display(), "there is space for writes again");
        }
    }

    /// Returns what is free on the file system, without the reserve while that is held; `None` if
    /// the file system cannot be queried.
    pub fn free_bytes(&self) -> Option<u64> {
        let free = Free::in_folder(&self.folder).ok();
        free.map(|free| free.bytes)
    }

    /// Returns whether the file system has hardly any inodes left.
    pub fn lacks_inodes(&self) -> bool {
        let free = Free::in_folder(&self.folder);
        // Until there are enough of them, the reserve is not created again.
        free.is_ok_and(|free| free.lacks_inodes(ENOUGH_INODES))
    }

    /// Gives up the reserve, because a write found no space.
    pub fn give_up(&self) {
        if !self.is_held.swap(false, Ordering::AcqRel) {
            return;
        }
        self.settle();
        let free = Free::in_folder(&self.folder).ok();
        let folder = self.folder.display();
        match free {
            Some(free) if free.lacks_inodes(FEWEST_INODES) => tracing::error!(
                %folder,
                free_inodes = free.inodes,
                "the file system has no inodes left (df -i): writes are refused until files are \
                 removed"
            ),
            _ => tracing::error!(
                %folder,
                free_bytes = free.map(|free| free.bytes),
                "the disk is full: writes are refused until there is space again"
            ),
        }
        if let Err(error) = self.remove() {
            tracing::error!(%error, "the reserve cannot be released");
        }
    }

    /// Checks the free space, and gives up the reserve or creates it again. To be called often.
    ///
    /// # Errors
    /// Like [`Reserve::new`].
    pub fn tend(&self) -> io::Result<()> {
        if self.size_bytes == 0 && !self.is_out_of_space() {
            return Ok(());
        }
        let free = Free::in_folder(&self.folder)?;
        if self.size_bytes == 0 {
            if free.bytes >= ENOUGH_BYTES && !free.lacks_inodes(ENOUGH_INODES) {
                self.found_space();
            }
            return Ok(());
        }
        let floor_bytes = self.size_bytes / 4;
        if self.is_held.load(Ordering::Acquire) {
            if free.bytes < floor_bytes || free.lacks_inodes(FEWEST_INODES) {
                self.give_up();
            }
            return Ok(());
        }
        let has_room = free.bytes >= self.size_bytes + 2 * floor_bytes;
        let waits_until = self.changed.lock().waits_until;
        let is_waiting = waits_until.is_some_and(|until| Instant::now() < until);
        if !has_room || free.lacks_inodes(ENOUGH_INODES) || is_waiting {
            return Ok(());
        }
        match self.make() {
            Ok(()) => {
                self.changed.lock().created = Some(Instant::now());
                self.is_held.store(true, Ordering::Release);
                tracing::info!(size_bytes = self.size_bytes, "there is space for writes");
                Ok(())
            }
            Err(error) => {
                self.remove()?;
                if super::disk::is_full(&error) {
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// Makes the next attempt wait if the reserve was held only for a short time.
    fn settle(&self) {
        let mut changed = self.changed.lock();
        let now = Instant::now();
        let held = changed.created.map(|created| now.duration_since(created));
        changed.waits_until = held.filter(|held| *held < SETTLED).map(|_| now + SETTLED);
    }

    fn make(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .open(&self.file)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.size_bytes) {
            Err(Errno::OPNOTSUPP) => write_zeros(&file, self.size_bytes),
            other => Ok(other?),
        }
    }

    fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Writes zeros, for file systems that cannot allocate space in advance.
fn write_zeros(file: &File, size_bytes: u64) -> io::Result<()> {
    use std::io::{Read as _, Write as _};

    let mut zeros = io::repeat(0).take(size_bytes);
    let mut out = io::BufWriter::with_capacity(1 << 20, file);
    io::copy(&mut zeros, &mut out)?;
    out.flush()
}
