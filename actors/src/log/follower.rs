//! The follower: fills the sled store from the journal, on a thread of its own.
//!
//! It is not in the commit path, so a slow, damaged or hanging sled holds back
//! no write and no start: until sled has a position, readers get it from the
//! journal. When sled differs from the journal or fails, its folder is set
//! aside and it is built again from the journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};
use skytrail_schema::event::Commit;
use tokio::sync::oneshot;

use super::journal::Segments;
use super::reserve::Reserve;
use super::sled_store::{self, SledError, SledStore};

/// How many events are copied at once.
const BATCH_EVENTS: usize = 2048;
/// How long a read from sled may take before the journal is asked instead.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// After fewer events than this the follower gathers more before it goes on: nobody waits for sled,
/// and many small batches cost it much more than few large ones.
const FULL_BATCH_EVENTS: u64 = 1024;
const GATHER: Duration = Duration::from_millis(100);
/// How long sled may take to close before it is left alone.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait before sled is tried again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What the follower says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct FollowerState {
    /// The last position in sled.
    pub position: u64,
    /// How often sled was set aside and built anew.
    pub num_rebuilds: u64,
    /// Whether readers have stopped asking sled.
    pub is_degraded: bool,
}

pub(super) struct Follower {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    segments: Arc<Segments>,
    reserve: Option<Arc<Reserve>>,
    folder: PathBuf,
    cache_bytes: u64,
    store: RwLock<Option<Arc<SledStore>>>,
    position: AtomicU64,
    num_rebuilds: AtomicU64,
    is_degraded: AtomicBool,
    is_stopping: AtomicBool,
    /// Told when sled has been thrown away.
    renewal: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Condvar,
    stop: Condvar,
    wake_lock: Mutex<()>,
}

impl Follower {
    /// Starts following.
    pub(super) fn start(
        segments: Arc<Segments>,
        folder: &Path,
        cache_bytes: u64,
        reserve: Option<Arc<Reserve>>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            segments,
            reserve,
            folder: folder.to_owned(),
            cache_bytes,
            store: RwLock::new(None),
            position: AtomicU64::new(0),
            num_rebuilds: AtomicU64::new(0),
            is_degraded: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            renewal: Mutex::default(),
            wake: Condvar::new(),
            stop: Condvar::new(),
            wake_lock: Mutex::new(()),
        });
        let followed = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("sled-follower".to_owned())
            .spawn(move || followed.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Says that the journal has grown.
    pub(super) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Throws sled away and fills it again from the journal: what was erased there is in sled still,
    /// also in what sled itself has given up. Answers when the old folder is gone.
    pub(super) async fn renew(&self) {
        let (sender, gone) = oneshot::channel();
        self.shared.renewal.lock().push(sender);
        self.shared.wake.notify_one();
        self.shared.stop.notify_one();
        // It ends without an answer when the log closes; the next start does it again.
        let _ = gone.await;
    }

    /// Returns the follower's state.
    pub(super) fn state(&self) -> FollowerState {
        FollowerState {
            position: self.shared.position.load(Ordering::Acquire),
            num_rebuilds: self.shared.num_rebuilds.load(Ordering::Relaxed),
            is_degraded: self.shared.is_degraded.load(Ordering::Relaxed),
        }
    }

    /// Reads commits from sled; `None` when sled has not got them, fails, or is too slow.
    pub(super) async fn read(&self, from: u64, max_events: usize) -> Option<Vec<Arc<Commit>>> {
        if from > self.shared.position.load(Ordering::Acquire)
            || self.shared.is_degraded.load(Ordering::Relaxed)
        {
            return None;
        }
        let store = self.shared.store.read().clone()?;
        let (sender, receiver) = oneshot::channel();
        // A thread of its own: a read of a damaged page may never return.
        let reader = std::thread::Builder::new().name("sled-read".to_owned());
        let spawned = reader.spawn(move || {
            let _ = sender.send(store.read(from, max_events.max(1)));
        });
        let answer = match spawned {
            Ok(_) => tokio::time::timeout(READ_DEADLINE, receiver).await,
            Err(_) => return None,
        };
        let Ok(Ok(Ok(raw))) = answer else {
            self.shared.degrade("a read failed or took too long");
            return None;
        };
        let commits = self
            .shared
            .segments
            .decode_all(raw)
            .ok()
            .filter(|commits| is_answer(commits, from));
        if commits.is_none() {
            self.shared.degrade("stored commits do not hold together");
        }
        let mut events = 0;
        let mut commits = commits?;
        commits.retain(|commit| {
            let is_wanted = events < max_events.max(1) && commit.last_position() >= from;
            events += if is_wanted { commit.events.len() } else { 0 };
            is_wanted
        });
        Some(commits)
    }

    /// Stops following and writes sled out; waits no longer than `deadline`.
    pub(super) fn stop(&self, deadline: Duration) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        self.shared.stop.notify_one();
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let waiter = std::thread::Builder::new().name("sled-stop".to_owned());
        let shared = Arc::clone(&self.shared);
        let waiting = waiter.spawn(move || {
            let _ = thread.join();
            let store = shared.store.write().take();
            drop(store);
            let _ = sender.send(());
        });
        if waiting.is_err() || receiver.recv_timeout(deadline).is_err() {
            tracing::warn!("sled did not stop in time; the journal has everything");
        }
    }
}

/// Whether commits are what a reader of `from` wanted: the one that holds it, and what follows.
fn is_answer(commits: &[Arc<Commit>], from: u64) -> bool {
    let follows = |pair: &[Arc<Commit>]| match pair {
        [before, after] => after.first_position() == before.last_position() + 1,
        _ => true,
    };
    commits
        .first()
        .is_some_and(|first| first.first_position() <= from && from <= first.last_position())
        && commits.windows(2).all(follows)
}

impl Shared {
    fn run(&self) {
        while !self.is_stopping.load(Ordering::Acquire) {
            let followed = self.follow();
            self.throw_away_if_wanted();
            match followed {
                Ok(()) => {}
                Err(error) if error.is_disk_full() => {
                    tracing::warn!("no space for sled; trying again later");
                    self.let_go();
                    self.pause(PAUSE_AFTER_FAILURE);
                }
                Err(error) => {
                    tracing::warn!(%error, "sled failed; building it again from the journal");
                    self.set_aside();
                    self.pause(PAUSE_AFTER_FAILURE);
                }
            }
        }
        // Who waits hears that it ended.
        self.renewal.lock().clear();
    }

    /// Opens sled and copies until told to stop.
    fn follow(&self) -> Result<(), SledError> {
        let store = Arc::new(SledStore::open(&self.folder, self.cache_bytes)?);
        let mut position = self.agreed_position(&store)?;
        *self.store.write() = Some(Arc::clone(&store));
        self.position.store(position, Ordering::Release);
        self.is_degraded.store(false, Ordering::Relaxed);
        while !self.is_stopping.load(Ordering::Acquire) && self.renewal.lock().is_empty() {
            if self.is_degraded.load(Ordering::Relaxed) {
                return Err(SledError::NotOpened("readers found it damaged"));
            }
            if self
                .reserve
                .as_ref()
                .is_some_and(|reserve| !reserve.is_held())
            {
                // What space there is belongs to the record store: nobody waits for sled.
                self.pause(PAUSE_AFTER_FAILURE);
                continue;
            }
            let raw = self.segments.read_raw(position + 1, BATCH_EVENTS);
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
                    self.position.store(position, Ordering::Release);
                    if copied < FULL_BATCH_EVENTS {
                        self.pause(GATHER);
                    }
                }
                None => self.wait(Duration::from_millis(500)),
            }
        }
        store.flush()
    }

    /// Returns the last position in sled, if it is the journal's commit there.
    fn agreed_position(&self, store: &SledStore) -> Result<u64, SledError> {
        let Some((first, bytes)) = store.last()? else {
            return Ok(0);
        };
        let journal = self.segments.read_raw(first, 1).unwrap_or_default();
        let is_same = journal
            .first()
            .is_some_and(|(_, journal)| *journal == bytes);
        let peek = skytrail_schema::codec::peek(&bytes)
            .ok()
            .filter(|_| is_same);
        peek.map(|peek| peek.last_position())
            .ok_or(SledError::NotOpened("its last commit is not the journal's"))
    }

    fn degrade(&self, reason: &str) {
        if !self.is_degraded.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason, "sled is degraded; reading from the journal");
            self.wake.notify_one();
        }
    }

    /// Leaves readers to the journal and closes sled, which may take for ever on a full disk.
    fn let_go(&self) {
        self.position.store(0, Ordering::Release);
        let Some(store) = self.store.write().take() else {
            return;
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        let closer = std::thread::Builder::new().name("sled-close".to_owned());
        let closing = closer.spawn(move || {
            drop(store);
            let _ = sender.send(());
        });
        if closing.is_ok() && receiver.recv_timeout(CLOSE_DEADLINE).is_err() {
            tracing::warn!("sled does not close; it is left alone");
        }
    }

    /// Removes sled's folder, and one that was set aside, if somebody waits for that.
    fn throw_away_if_wanted(&self) {
        let waiting = std::mem::take(&mut *self.renewal.lock());
        if waiting.is_empty() {
            return;
        }
        self.let_go();
        if let Err(error) = sled_store::throw_away(&self.folder) {
            tracing::error!(%error, "sled's folder cannot be removed");
            self.renewal.lock().extend(waiting);
            self.pause(PAUSE_AFTER_FAILURE);
            return;
        }
        for waiting in waiting {
            let _ = waiting.send(());
        }
    }

    fn set_aside(&self) {
        self.let_go();
        self.num_rebuilds.fetch_add(1, Ordering::Relaxed);
        match sled_store::quarantine(&self.folder) {
            Ok(Some(aside)) => tracing::warn!(aside = %aside.display(), "damaged sled set aside"),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "sled's folder cannot be set aside"),
        }
    }

    /// Lets time pass, unless the end comes.
    fn pause(&self, time: Duration) {
        let mut guard = self.wake_lock.lock();
        if !self.is_stopping.load(Ordering::Acquire) {
            self.stop.wait_for(&mut guard, time);
        }
    }

    fn wait(&self, time: Duration) {
        let mut guard = self.wake_lock.lock();
        if !self.is_stopping.load(Ordering::Acquire) {
            self.wake.wait_for(&mut guard, time);
        }
    }
}
