//! A disk in memory that loses power, runs full, fails its flushes and flips bits.
//!
//! What is written is visible at once and durable after a flush of its file, as
//! with a real page cache; [`MemoryDisk::lose_power`] gives the disk as it would
//! be found after a power cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::log::disk::{Disk, DiskFile};

/// See the module's overview.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    num_syncs: u64,
}

#[derive(Clone, Default)]
struct Content {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last flush, in order: offset and bytes.
    pending: Vec<(u64, Vec<u8>)>,
}

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Flushes fail.
    pub sync_fails: bool,
    /// All files together cannot grow above this many bytes.
    pub capacity: Option<u64>,
    /// Each flush takes this long.
    pub sync_takes: Option<Duration>,
}

impl MemoryDisk {
    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Returns how often a file was flushed.
    pub fn num_syncs(&self) -> u64 {
        self.shared.lock().num_syncs
    }

    /// Returns a disk as it would be found after a power cut now. `keep` says of each write that
    /// was not flushed whether it reached the platter all the same.
    pub fn lose_power(&self, mut keep: impl FnMut(usize) -> bool) -> Self {
        self.map(|content| {
            let mut durable = content.durable.clone();
            for (number, (offset, bytes)) in content.pending.iter().enumerate() {
                if keep(number) {
                    write(&mut durable, *offset, bytes);
                }
            }
            durable
        })
    }

    /// Returns a copy of the disk with one file changed.
    pub fn with_file(&self, name: &str, change: impl Fn(&mut Vec<u8>)) -> Self {
        let copy = self.map(|content| content.visible.clone());
        if let Some(file) = copy.shared.lock().files.get(name) {
            let mut file = file.lock();
            change(&mut file.visible);
            file.durable = file.visible.clone();
        }
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

    fn map(&self, mut found: impl FnMut(&Content) -> Vec<u8>) -> Self {
        let state = self.shared.lock();
        let files = state.files.iter().map(|(name, file)| {
            let bytes = found(&file.lock());
            let content = Content {
                visible: bytes.clone(),
                durable: bytes,
                pending: Vec::new(),
            };
            (name.clone(), Arc::new(Mutex::new(content)))
        });
        let state = State {
            files: files.collect(),
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
        let capacity = self.disk.shared.lock().faults.capacity;
        if grown > 0 && capacity.is_some_and(|capacity| self.disk.used() + grown > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut content = self.content.lock();
        write(&mut content.visible, offset, bytes);
        content.pending.push((offset, bytes.to_vec()));
        Ok(())
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
        if faults.sync_fails {
            return Err(io::Error::other("the flush failed"));
        }
        let mut content = self.content.lock();
        content.durable = content.visible.clone();
        content.pending.clear();
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().visible.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.content.lock().visible.resize(length, 0);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.handle(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
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
        Ok(())
    }
}
