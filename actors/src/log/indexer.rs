//! The indexer: keeps a sled store filled from the journal.
//!
//! It is not in the commit path, so a slow, damaged or hanging sled holds back no write and no
//! start: until sled has a position, readers get it from the journal. When sled differs from the
//! journal or fails, its folder is set aside. When it met a full disk, or holds something that was
//! erased, its folder is removed. Either way it is filled again from the journal. A sled that does
//! not answer is abandoned, and the next one gets a folder of its own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use skytrail_schema::event::Commit;
use tokio::sync::oneshot;

use super::filler::{Filler, Shared};
use super::journal::{RawCommit, Segments};
use super::reserve::Reserve;
use super::sled_folder::SledFolders;
use super::sled_store::{SledError, SledStore};

/// How long a read from sled can take before the journal is used instead.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// How long sled can take to finish before it is abandoned.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait before trying sled again.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The indexer's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SledState {
    /// The last position in sled.
    pub position: u64,
    /// How often sled was set aside and filled again.
    pub num_rebuilds: u64,
    /// Whether readers have stopped using sled.
    pub is_degraded: bool,
}

pub(super) struct SledIndexer {
    shared: Arc<Shared>,
    sender: Sender<Notice>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A message to the indexer's thread.
enum Notice {
    /// A filler has ended: its number, and why.
    Ended(u64, Result<(), SledError>),
    /// Throw sled away and fill it again.
    Renew(oneshot::Sender<()>),
    /// Stop.
    Stop,
}

impl SledIndexer {
    /// Starts indexing.
    pub(super) fn start(
        segments: Arc<Segments>,
        folder: &Path,
        cache_bytes: u64,
        reserve: Option<Arc<Reserve>>,
        batch_timeout: Duration,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            segments,
            reserve,
            cache_bytes,
            store: RwLock::new(None),
            position: AtomicU64::new(0),
            is_degraded: AtomicBool::new(false),
            num_rebuilds: AtomicU64::new(0),
            wake: Condvar::new(),
            stop: Condvar::new(),
            wake_lock: Mutex::new(()),
        });
        let (sender, notices) = channel();
        let care = Care {
            shared: Arc::clone(&shared),
            folders: SledFolders::new(folder),
            sender: sender.clone(),
            notices,
            number: 0,
            batch_timeout,
            waiting: Vec::new(),
            is_stopping: false,
        };
        let thread = std::thread::Builder::new()
            .name("sled-indexer".to_owned())
            .spawn(move || care.run())?;
        Ok(Self {
            shared,
            sender,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Signals that the journal has grown.
    pub(super) fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Throws sled away and fills it again from the journal. sled still has what was erased in the
    /// journal, even in space that sled itself has freed. Returns when the old folder is gone.
    pub(super) async fn renew(&self) {
        let (sender, gone) = oneshot::channel();
        let _ = self.sender.send(Notice::Renew(sender));
        // There is no answer when the log closes; the next start does this again.
        let _ = gone.await;
    }

    /// Returns the indexer's state.
    pub(super) fn state(&self) -> SledState {
        SledState {
            position: self.shared.position.load(Ordering::Acquire),
            num_rebuilds: self.shared.num_rebuilds.load(Ordering::Relaxed),
            is_degraded: self.shared.is_degraded.load(Ordering::Relaxed),
        }
    }

    /// Reads commits from sled; `None` when sled does not have them, fails, or is too slow.
    pub(super) async fn read(&self, from: u64, max_events: usize) -> Option<Vec<Arc<Commit>>> {
        let store = self.store_with(from)?;
        let max_events = max_events.max(1) as u64;
        let read = move || store.read(from, max_events);
        self.ask(read, |commits| is_answer(commits, from)).await
    }

    /// Like [`SledIndexer::read`], for the commits that hold these ascending positions, each once.
    pub(super) async fn read_each(&self, positions: &[u64]) -> Option<Vec<Arc<Commit>>> {
        let store = self.store_with(*positions.last()?)?;
        let cloned_positions = positions.to_vec();
        let read = move || store.read_each(&cloned_positions);
        let hold = |commits: &[Arc<Commit>]| {
            let is_held = |position: &u64| holder(commits, *position).is_some();
            positions.iter().all(is_held)
        };
        self.ask(read, hold).await
    }

    /// Returns the store, if it has a position.
    fn store_with(&self, position: u64) -> Option<Arc<SledStore>> {
        let has = self.shared.position.load(Ordering::Acquire);
        if position > has || self.shared.is_degraded.load(Ordering::Relaxed) {
            return None;
        }
        self.shared.store.read().clone()
    }

    /// Runs a read of sled; `None` unless it returns a valid answer in time.
    async fn ask(
        &self,
        read: impl FnOnce() -> Result<Vec<RawCommit>, SledError> + Send + 'static,
        is_answer: impl FnOnce(&[Arc<Commit>]) -> bool,
    ) -> Option<Vec<Arc<Commit>>> {
        let (sender, receiver) = oneshot::channel();
        // On a thread of its own: reading a damaged page may never return.
        let reader = std::thread::Builder::new().name("sled-read".to_owned());
        let spawned = reader.spawn(move || {
            let _ = sender.send(read());
        });
        let answer = match spawned {
            Ok(_) => tokio::time::timeout(READ_DEADLINE, receiver).await,
            Err(_) => return None,
        };
        let Ok(Ok(Ok(raw))) = answer else {
            degrade(&self.shared, "a read failed or took too long");
            return None;
        };
        let commits = self.shared.segments.decode_all(raw);
        let commits = commits.ok().filter(|commits| is_answer(commits));
        if commits.is_none() {
            degrade(&self.shared, "stored commits are inconsistent");
        }
        commits
    }

    /// Stops following and flushes sled; waits no longer than `deadline`.
    pub(super) fn stop(&self, deadline: Duration) {
        let _ = self.sender.send(Notice::Stop);
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        let (sender, receiver) = channel();
        let waiter = std::thread::Builder::new().name("sled-stop".to_owned());
        let waiting = waiter.spawn(move || {
            let _ = thread.join();
            let _ = sender.send(());
        });
        if waiting.is_err() || receiver.recv_timeout(deadline).is_err() {
            tracing::warn!("sled did not stop in time; the journal has everything");
        }
    }
}

/// Returns whether commits answer a read from `from`: the one that holds it, and those that follow.
fn is_answer(commits: &[Arc<Commit>], from: u64) -> bool {
    let follows = |pair: &[Arc<Commit>]| match pair {
        [before, after] => after.first_position() == before.last_position() + 1,
        _ => true,
    };
    commits.first().is_some_and(|first| holds(first, from)) && commits.windows(2).all(follows)
}

/// Finds the commit that holds a position among ascending ones.
pub(super) fn holder(commits: &[Arc<Commit>], position: u64) -> Option<&Arc<Commit>> {
    let place = commits.partition_point(|commit| commit.last_position() < position);
    commits.get(place).filter(|commit| holds(commit, position))
}

fn holds(commit: &Commit, position: u64) -> bool {
    (commit.first_position()..=commit.last_position()).contains(&position)
}

fn degrade(shared: &Shared, reason: &str) {
    if !shared.is_degraded.swap(true, Ordering::Relaxed) {
        tracing::warn!(reason, "sled is degraded; reading from the journal");
        shared.wake.notify_one();
    }
}

/// Makes sure that a store is always being filled.
struct Care {
    shared: Arc<Shared>,
    folders: SledFolders,
    sender: Sender<Notice>,
    notices: Receiver<Notice>,
    /// The number of the current filler.
    number: u64,
    /// How long sled can take for one batch.
    batch_timeout: Duration,
    /// Those who wait until sled is thrown away.
    waiting: Vec<oneshot::Sender<()>>,
    is_stopping: bool,
}

impl Care {
    fn run(mut self) {
        self.folders.adopt();
        while !self.is_stopping {
            let has_failed = self.fill();
            self.throw_away_if_wanted();
            if has_failed && !self.is_stopping {
                self.hear(PAUSE_AFTER_FAILURE);
                self.throw_away_if_wanted();
            }
        }
    }

    /// Fills a store until that fails or has to end; returns whether it failed.
    fn fill(&mut self) -> bool {
        self.number += 1;
        let filler = Filler::new(Arc::clone(&self.shared), self.folders.current());
        let filler = Arc::new(filler);
        let (working, sender, number) = (Arc::clone(&filler), self.sender.clone(), self.number);
        let thread = std::thread::Builder::new().name("sled-filler".to_owned());
        let started = thread.spawn(move || {
            let filled = working.run();
            let _ = sender.send(Notice::Ended(number, filled));
        });
        if let Err(error) = started {
            tracing::error!(%error, "sled cannot be filled");
            return true;
        }
        let ended = self.watch(&filler);
        let store = filler.end();
        let ended = ended.or_else(|| self.hear(CLOSE_DEADLINE));
        let hangs = match &ended {
            None => true,
            Some(Err(error)) if error.is_hanging() => true,
            Some(_) => !close(store),
        };
        if hangs {
            tracing::warn!("sled does not answer; its folder is left behind");
            self.folders.leave();
        }
        match ended {
            None | Some(Ok(())) => false,
            Some(Err(error)) => {
                self.put_away(&error);
                true
            }
        }
    }

    /// Moves a failed store out of the way.
    fn put_away(&self, error: &SledError) {
        if error.is_disk_full() {
            tracing::warn!("no space for sled; it is filled again once there is");
            if let Err(error) = self.folders.throw_away() {
                tracing::error!(%error, "sled's folder cannot be removed");
            }
            return;
        }
        tracing::warn!(%error, "sled failed; building it again from the journal");
        self.shared.num_rebuilds.fetch_add(1, Ordering::Relaxed);
        match self.folders.quarantine() {
            Ok(Some(aside)) => tracing::warn!(aside = %aside.display(), "damaged sled set aside"),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "sled's folder cannot be set aside"),
        }
    }

    /// Removes sled's folder, and the one that was set aside, if somebody waits for that.
    fn throw_away_if_wanted(&mut self) {
        while !self.waiting.is_empty() && !self.is_stopping {
            match self.folders.throw_away() {
                Ok(()) => {
                    for waiting in self.waiting.drain(..) {
                        let _ = waiting.send(());
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "sled's folder cannot be removed");
                    self.hear(PAUSE_AFTER_FAILURE);
                }
            }
        }
    }

    /// Waits until a filler ends or has to be ended. While a write to sled hangs, reads are not
    /// sent there. A second store would hang as well, because all stores in a process share sled's
    /// lock.
    fn watch(&mut self, filler: &Filler) -> Option<Result<(), SledError>> {
        while !self.is_stopping && self.waiting.is_empty() {
            match self.notices.recv_timeout(self.batch_timeout) {
                Ok(notice) => {
                    if let Some(ended) = self.note(notice) {
                        return Some(ended);
                    }
                }
                Err(RecvTimeoutError::Timeout) if filler.is_stuck(self.batch_timeout) => {
                    degrade(&self.shared, "a write does not return");
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        None
    }

    /// Waits for the end of the current filler, until a deadline.
    fn hear(&mut self, deadline: Duration) -> Option<Result<(), SledError>> {
        let until = Instant::now() + deadline;
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            let notice = self.notices.recv_timeout(remaining).ok()?;
            if let Some(ended) = self.note(notice) {
                return Some(ended);
            }
        }
    }

    /// Handles a notice; returns how the current filler ended, if this says so.
    fn note(&mut self, notice: Notice) -> Option<Result<(), SledError>> {
        match notice {
            Notice::Ended(number, ended) if number == self.number => return Some(ended),
            // From an abandoned filler.
            Notice::Ended(..) => {}
            Notice::Renew(waiting) => self.waiting.push(waiting),
            Notice::Stop => self.is_stopping = true,
        }
        None
    }
}

/// Closes a store, which can hang for ever on a full disk; returns whether it is closed.
fn close(store: Option<Arc<SledStore>>) -> bool {
    let Some(store) = store else {
        return true;
    };
    let (sender, receiver) = channel();
    let closer = std::thread::Builder::new().name("sled-close".to_owned());
    let closing = closer.spawn(move || {
        drop(store);
        let _ = sender.send(());
    });
    closing.is_ok() && receiver.recv_timeout(CLOSE_DEADLINE).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::log::disk::RealDisk;
    use crate::log::journal::JournalOptions;
    use crate::log::written::append_some;
    use crate::log::{EmbeddedLog, EventLog as _, LogOptions, OpenedLog};

    fn open(folder: &Path) -> (EmbeddedLog, Arc<Segments>) {
        let disk = RealDisk::new(&folder.join("journal")).unwrap();
        let opened = OpenedLog::on_disk(Arc::new(disk), JournalOptions::default()).unwrap();
        let segments = opened.segments();
        let options = LogOptions::new(
            Arc::new(Default::default),
            Arc::new(|reason| panic!("{reason}")),
        );
        let log = opened.start(options, Vec::new(), HashMap::new()).unwrap();
        (log, segments)
    }

    async fn until(indexer: &SledIndexer, is_so: impl Fn(&SledState) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so(&indexer.state()) {
            assert!(Instant::now() < deadline, "{:?}", indexer.state());
            indexer.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_write_to_sled_that_does_not_come_back_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (log, segments) = open(folder.path());
        let batch_timeout = Duration::from_millis(300);
        let sled = folder.path().join("sled");
        let indexer = SledIndexer::start(segments, &sled, 1 << 20, None, batch_timeout).unwrap();
        append_some(&log, 10).await;
        until(&indexer, |state| state.position == 10).await;

        let store = indexer.store_with(10).unwrap();
        let (held, is_held) = channel();
        let (release, released) = channel::<()>();
        let holder = std::thread::spawn(move || {
            store.hold(|| {
                let _ = held.send(());
                let _ = released.recv();
            });
        });
        is_held.recv().unwrap();
        append_some(&log, 10).await;
        until(&indexer, |state| state.is_degraded).await;
        assert_eq!(indexer.read(1, 100).await, None, "the journal is asked");

        drop(release);
        holder.join().unwrap();
        // On a slow machine a write that only takes long may be taken for another one.
        let is_anew = |state: &SledState| {
            state.num_rebuilds > 0 && !state.is_degraded && state.position == 20
        };
        until(&indexer, is_anew).await;
        let all = log.read(1, 100).await.unwrap();
        assert_eq!(indexer.read(1, 100).await, Some(all));
        indexer.stop(Duration::from_secs(10));
        log.close(Duration::from_secs(10));
    }
}
