//! A disk in memory that loses power, runs full, fails its flushes and flips bits.
//!
//! As with a real page cache, written bytes are visible at once and durable after a flush of their
//! file; names are durable after a flush of the folder. A flush that fails leaves its pages clean,
//! as Linux does: they stay visible, and no later flush writes them. [`MemoryDisk::lose_power`]
//! returns the disk as it would be found after a power cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::log::disk::{Disk, DiskFile};

/// See the module's overview.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<State>>,
}

type Files = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Default)]
struct State {
    files: Files,
    /// The files as they are after a power cut.
    durable_files: Files,
    faults: Faults,
    num_syncs: u64,
    num_read_bytes: u64,
    on_create: Option<OnCreate>,
}

/// Is called with the name of a file that is about to be created.
type OnCreate = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Clone, Default)]
struct Content {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// The changes since `durable`, in order; after a failed flush some of them never become
    /// durable.
    changes: Vec<(Change, Page)>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Length(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Page {
    Dirty,
    /// Not written, but considered written because its flush failed.
    Clean,
    Durable,
}

impl Content {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.changes.push((change, Page::Dirty));
    }

    /// Ends the flush of the dirty changes.
    fn flushed(&mut self, becomes: Page) {
        let dirty = self.changes.iter_mut().map(|(_, page)| page);
        dirty
            .filter(|page| **page == Page::Dirty)
            .for_each(|page| *page = becomes);
        let is_durable = |(_, page): &(Change, Page)| *page == Page::Durable;
        let num_durable = self.changes.iter().take_while(|it| is_durable(it)).count();
        for (change, _) in self.changes.drain(..num_durable) {
            change.apply(&mut self.durable);
        }
    }

    /// Returns what is found after a power cut.
    fn after_power_cut(&self, keep: &mut impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut found = self.durable.clone();
        let mut num_unflushed = 0;
        for (change, page) in &self.changes {
            let mut is_kept = *page == Page::Durable;
            if !is_kept {
                is_kept = keep(num_unflushed);
                num_unflushed += 1;
            }
            if is_kept {
                change.apply(&mut found);
            }
        }
        found
    }
}

impl Change {
    fn apply(&self, target: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => write(target, *offset, bytes),
            Self::Length(length) => target.resize(*length, 0),
        }
    }
}

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Flushes fail.
    pub sync_fails: bool,
    /// The maximum size of all files together, in bytes.
    pub capacity: Option<u64>,
    /// How many bytes of an overwrite are accepted before the disk has no space: a copy-on-write
    /// file system needs space for overwrites, too.
    pub overwrites_take: Option<usize>,
    /// Names cannot be made durable for lack of space.
    pub folder_is_full: bool,
    /// No file can be opened or created, because the process has no file descriptors left.
    pub is_out_of_descriptors: bool,
    /// The error that is returned if there is no space.
    pub full: io::ErrorKind,
    /// Each flush takes this long.
    pub sync_takes: Option<Duration>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            sync_fails: false,
            capacity: None,
            overwrites_take: None,
            folder_is_full: false,
            is_out_of_descriptors: false,
            full: io::ErrorKind::StorageFull,
            sync_takes: None,
        }
    }
}

impl MemoryDisk {
    fn take_descriptor(&self) -> io::Result<()> {
        if self.shared.lock().faults.is_out_of_descriptors {
            return Err(Errno::MFILE.into());
        }
        Ok(())
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Calls `on_create` before a file is created; the creation waits for it.
    pub fn set_on_create(&self, on_create: impl Fn(&str) + Send + Sync + 'static) {
        self.shared.lock().on_create = Some(Arc::new(on_create));
    }

    /// Returns how often a file was flushed.
    pub fn num_syncs(&self) -> u64 {
        self.shared.lock().num_syncs
    }

    /// Returns how many bytes of files were read.
    pub fn num_read_bytes(&self) -> u64 {
        self.shared.lock().num_read_bytes
    }

    /// Returns a disk as it would be found after a power cut now. For each write that was not
    /// flushed, `keep` decides whether it reached the platter all the same.
    pub fn lose_power(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        let state = self.shared.lock();
        Self::of(&state.durable_files, |content| {
            content.after_power_cut(&mut keep)
        })
    }

    /// Returns a copy of the disk with one file changed.
    pub fn with_file(&self, name: &str, change: impl Fn(&mut Vec<u8>)) -> Self {
        let copy = Self::of(&self.shared.lock().files, |content| content.visible.clone());
        if let Some(file) = copy.shared.lock().files.get(name) {
            let mut file = file.lock();
            change(&mut file.visible);
            file.durable = file.visible.clone();
        }
        copy
    }

    /// Returns a copy of the disk whose file names would be lost in a power cut.
    #[must_use]
    pub fn with_names_unflushed(&self) -> Self {
        let copy = Self::of(&self.shared.lock().files, |content| content.visible.clone());
        copy.shared.lock().durable_files.clear();
        copy
    }

    /// Returns a file's bytes.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.shared.lock();
        state
            .files
            .get(name)
            .map(|file| file.lock().visible.clone())
            .unwrap_or_default()
    }

    fn of(files: &Files, mut found: impl FnMut(&Content) -> Vec<u8>) -> Self {
        let files = files.iter().map(|(name, file)| {
            let bytes = found(&file.lock());
            let content = Content {
                visible: bytes.clone(),
                durable: bytes,
                changes: Vec::new(),
            };
            (name.clone(), Arc::new(Mutex::new(content)))
        });
        let files: Files = files.collect();
        let state = State {
            durable_files: files.clone(),
            files,
            ..State::default()
        };
        Self {
            shared: Arc::new(Mutex::new(state)),
        }
    }

    fn handle(&self, name: &str) -> Option<MemoryFile> {
        let content = Arc::clone(self.shared.lock().files.get(name)?);
        Some(MemoryFile {
            content,
            disk: self.clone(),
        })
    }

    fn used(&self) -> u64 {
        let state = self.shared.lock();
        state
            .files
            .values()
            .map(|file| file.lock().visible.len() as u64)
            .sum()
    }
}

fn write(target: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    if let Some(place) = target.get_mut(start..end) {
        place.copy_from_slice(bytes);
    }
}

struct MemoryFile {
    content: Arc<Mutex<Content>>,
    disk: MemoryDisk,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.shared.lock().num_read_bytes += buffer.len() as u64;
        let content = self.content.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = content
            .visible
            .get(start..start.saturating_add(buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let grown = {
            let length = self.content.lock().visible.len() as u64;
            (offset + bytes.len() as u64).saturating_sub(length)
        };
        let faults = self.disk.shared.lock().faults;
        let is_beyond = |capacity| self.disk.used() + grown > capacity;
        if grown > 0 && faults.capacity.is_some_and(is_beyond) {
            return Err(faults.full.into());
        }
        let taken = faults
            .overwrites_take
            .filter(|_| grown == 0)
            .and_then(|part| bytes.get(..part));
        let change = Change::Write(offset, taken.unwrap_or(bytes).to_vec());
        self.content.lock().change(change);
        taken.map_or(Ok(()), |_| Err(faults.full.into()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let faults = {
            let mut state = self.disk.shared.lock();
            state.num_syncs += 1;
            state.faults
        };
        if let Some(time) = faults.sync_takes {
            std::thread::park_timeout(time);
        }
        let mut content = self.content.lock();
        if faults.sync_fails {
            content.flushed(Page::Clean);
            return Err(io::Error::other("the flush failed"));
        }
        // The length is not a page: it becomes durable whatever was lost before.
        let length = content.visible.len();
        content.change(Change::Length(length));
        content.flushed(Page::Durable);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().visible.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.content.lock().change(Change::Length(length));
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.take_descriptor()?;
        let file = self.handle(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let on_create = self.shared.lock().on_create.clone();
        if let Some(on_create) = on_create {
            on_create(name);
        }
        self.take_descriptor()?;
        if self.handle(name).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.shared
            .lock()
            .files
            .insert(name.to_owned(), Arc::default());
        self.open(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.shared.lock().files.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.shared.lock();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.shared.lock().files.remove(name);
        removed
            .map(drop)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.faults.sync_fails {
            return Err(io::Error::other("the flush failed"));
        }
        if state.faults.folder_is_full {
            return Err(state.faults.full.into());
        }
        state.durable_files = state.files.clone();
        Ok(())
    }
}
