//! Filling a sled store from the journal, from its opening until somebody ends it.
//!
//! Any call of sled may hang, so this has a thread of its own that can be left alone. What it does
//! after that is seen by nobody: its folder is nobody's any more, and it is not heard.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::journal::Segments;
use super::reserve::Reserve;
use super::sled_store::{SledError, SledStore};

/// How many events are copied at once.
const BATCH_EVENTS: usize = 2048;
/// After fewer events than this the filler gathers more before it goes on: nobody waits for sled,
/// and many small batches cost it much more than few large ones.
const FULL_BATCH_EVENTS: u64 = 1024;
const GATHER: Duration = Duration::from_millis(100);
/// How nice the filler and what sled starts from it are to those whom somebody waits for.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// How often to look whether there is space.
const SPACE_PERIOD: Duration = Duration::from_secs(1);

/// What fillers share, one after the other, with those who read.
pub(super) struct Shared {
    pub(super) segments: Arc<Segments>,
    pub(super) reserve: Option<Arc<Reserve>>,
    pub(super) cache_bytes: u64,
    pub(super) store: RwLock<Option<Arc<SledStore>>>,
    pub(super) position: AtomicU64,
    pub(super) is_degraded: AtomicBool,
    pub(super) num_rebuilds: AtomicU64,
    /// Told when the journal has grown.
    pub(super) wake: Condvar,
    /// Told when a filler shall end.
    pub(super) stop: Condvar,
    pub(super) wake_lock: Mutex<()>,
}

/// See the module's overview.
pub(super) struct Filler {
    shared: Arc<Shared>,
    folder: PathBuf,
    is_over: AtomicBool,
}

impl Filler {
    /// Prepares to fill the store in `folder`.
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf) -> Self {
        Self {
            shared,
            folder,
            is_over: AtomicBool::new(false),
        }
    }

    /// Opens sled and copies until told to end. On a full disk sled is not opened: what it does to
    /// itself there may hang whoever opens it later.
    pub(super) fn run(&self) -> Result<(), SledError> {
        // Of the calling thread, on Linux; elsewhere it would be that of the whole process.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            tracing::debug!(%error, "the filler has the priority of the others");
        }
        while !self.has_space() && !self.is_over() {
            self.pause(SPACE_PERIOD);
        }
        if self.is_over() {
            return Ok(());
        }
        let shared = &self.shared;
        let store = Arc::new(SledStore::open(&self.folder, shared.cache_bytes)?);
        let mut position = self.agreed_position(&store)?;
        self.publish(|| {
            shared.position.store(position, Ordering::Release);
            shared.is_degraded.store(false, Ordering::Relaxed);
            Some(Arc::clone(&store))
        });
        while !self.is_over() {
            if shared.is_degraded.load(Ordering::Relaxed) {
                return Err(SledError::NotOpened("readers found it damaged"));
            }
            if !self.has_space() {
                // What space there is belongs to the record store: nobody waits for sled.
                self.pause(SPACE_PERIOD);
                continue;
            }
            let raw = shared.segments.read_raw(position + 1, BATCH_EVENTS);
            let raw = raw.unwrap_or_else(|error| {
                tracing::error!(%error, "the journal cannot be read");
                Vec::new()
            });
            let last = raw
                .last()
                .and_then(|(_, bytes)| skytrail_schema::codec::peek(bytes).ok());
            match last {
                Some(last) => {
                    store.put(&raw)?;
                    let copied = last.last_position() - position;
                    position = last.last_position();
                    self.publish(|| {
                        shared.position.store(position, Ordering::Release);
                        Some(Arc::clone(&store))
                    });
                    if copied < FULL_BATCH_EVENTS {
                        self.pause(GATHER);
                    }
                }
                None => self.wait(Duration::from_millis(500)),
            }
        }
        store.flush()
    }

    /// Ends it: readers are left to the journal, and nobody hears of it from here on, although what
    /// it was doing may go on. Returns the store; whoever has that last closes it.
    pub(super) fn end(&self) -> Option<Arc<SledStore>> {
        let mut published = self.shared.store.write();
        // Who is about to sleep sees it, or is woken.
        let guard = self.shared.wake_lock.lock();
        self.is_over.store(true, Ordering::Release);
        drop(guard);
        self.shared.position.store(0, Ordering::Release);
        self.shared.wake.notify_all();
        self.shared.stop.notify_all();
        published.take()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn has_space(&self) -> bool {
        let reserve = self.shared.reserve.as_ref();
        reserve.is_none_or(|reserve| reserve.is_held())
    }

    /// Lets readers know of the store, unless this is over.
    fn publish(&self, change: impl FnOnce() -> Option<Arc<SledStore>>) {
        let mut store = self.shared.store.write();
        if !self.is_over() {
            *store = change();
        }
    }

    /// Returns the last position in sled, if it is the journal's commit there.
    fn agreed_position(&self, store: &SledStore) -> Result<u64, SledError> {
        let Some((first, bytes)) = store.last()? else {
            return Ok(0);
        };
        let segments = &self.shared.segments;
        let journal = segments.read_raw(first, 1).unwrap_or_default();
        let is_same = journal
            .first()
            .is_some_and(|(_, journal)| *journal == bytes);
        let peek = skytrail_schema::codec::peek(&bytes)
            .ok()
            .filter(|_| is_same);
        peek.map(|peek| peek.last_position())
            .ok_or(SledError::NotOpened("its last commit is not the journal's"))
    }

    /// Lets time pass, unless the end comes.
    fn pause(&self, time: Duration) {
        let mut guard = self.shared.wake_lock.lock();
        if !self.is_over() {
            self.shared.stop.wait_for(&mut guard, time);
        }
    }

    fn wait(&self, time: Duration) {
        let mut guard = self.shared.wake_lock.lock();
        if !self.is_over() {
            self.shared.wake.wait_for(&mut guard, time);
        }
    }
}
