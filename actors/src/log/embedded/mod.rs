//! The embedded log: the journal, the committer, and sled, which follows them.

mod port;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skytrail_schema::codec::{NoKeys, SealedEvent, SubjectKeys};
use skytrail_schema::event::Commit;
use skytrail_schema::id::UserId;
use skytrail_schema::positions::Positions;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::backlog::Backlog;
use super::committer::{Committer, Counters, Now, OnFatal, Order, SequenceNumbers};
use super::disk::{Disk, RealDisk, is_full};
use super::erasures::Erasures;
use super::folder::make_folder;
use super::indexer::{SledIndexer, SledState};
use super::journal::{
    self, JOURNAL_FOLDER, Journal, JournalOptions, RecoveryReport, RewriteError, Rewritten,
    Segments,
};
use super::keyring::Keyring;
use super::recent::Recent;
use super::reserve::Reserve;
use super::resolver::Resolver;
use super::{CommitObserver, EventLog, ReadError};
use crate::observe::HistogramState;

/// How long sled can take for a batch. A slow disk needs some seconds; beyond that sled may have
/// locked up for good.
const SLED_BATCH_TIMEOUT: Duration = Duration::from_secs(120);

/// Where the embedded log is, and how it works.
#[derive(Clone)]
pub struct LogOptions {
    /// The journal's layout.
    pub journal: JournalOptions,
    /// How many recent writes the resolver remembers. Default 200,000.
    pub resolver_keys: usize,
    /// How many decisions can wait. Default 4,096.
    pub queue_decisions: usize,
    /// How many bytes of decisions can wait. Default 32 MiB.
    pub queue_bytes: usize,
    /// The largest commit. Default 8 MiB.
    pub max_commit_bytes: usize,
    /// sled's page cache. Default 16 MiB.
    pub sled_cache_bytes: u64,
    /// About how many bytes of the newest commits stay in memory for readers; 0 for none. Default
    /// 32 MiB.
    pub recent_bytes: usize,
    /// The reserved disk space; writes are refused while it is not held. Default none.
    pub reserve: Option<Arc<Reserve>>,
    /// What the record store has not applied yet, which can delay or refuse writes. Default none.
    pub backlog: Option<Arc<Backlog>>,
    /// The erasures in the log so far. Default none.
    pub erasures: Arc<Erasures>,
    /// Returns the time.
    pub now: Now,
    /// Called when the log is in doubt.
    pub on_fatal: OnFatal,
}

impl LogOptions {
    /// Returns the defaults, with a clock and a callback for when the log is in doubt.
    pub fn new(now: Now, on_fatal: OnFatal) -> Self {
        Self {
            journal: JournalOptions::default(),
            resolver_keys: 200_000,
            queue_decisions: 4096,
            queue_bytes: 32 << 20,
            max_commit_bytes: 8 << 20,
            sled_cache_bytes: 16 << 20,
            recent_bytes: 32 << 20,
            reserve: None,
            backlog: None,
            erasures: Arc::default(),
            now,
            on_fatal,
        }
    }
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogOpenError {
    /// Another process has it open.
    #[error("the data folder is in use by another process, which has to stop first: {}", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The device's error.
        source: std::io::Error,
    },
    /// A restore into the folder was started and not finished.
    #[error("a restore into {} was not finished: empty the folder and restore again", .0.display())]
    HalfRestored(PathBuf),
    /// The journal is damaged or not readable.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
}

/// Why payloads are still in the log's files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlankError {
    /// There is no space for a rewritten segment.
    #[error("the disk is full")]
    DiskFull,
    /// The log is closed or damaged, or the device failed.
    #[error("{0}")]
    Failed(String),
}

impl From<std::io::Error> for BlankError {
    fn from(error: std::io::Error) -> Self {
        if is_full(&error) {
            return Self::DiskFull;
        }
        Self::Failed(error.to_string())
    }
}

impl From<RewriteError> for BlankError {
    fn from(error: RewriteError) -> Self {
        match error {
            RewriteError::Write(error) => error.into(),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The log's state.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct LogState {
    /// The last durable position.
    pub head: u64,
    /// How far the last commit's time is ahead of the clock, in seconds; the clock was ahead once.
    pub seconds_ahead: u64,
    /// Bytes of decisions that are waiting.
    pub queued_bytes: usize,
    /// Groups written since the start.
    pub num_groups: u64,
    /// Decisions refused by the resolver since the start.
    pub num_conflicts: u64,
    /// Commits per group.
    pub group_commits: HistogramState,
    /// Seconds per flush of the journal.
    pub flush_seconds: HistogramState,
    /// Journal segments.
    pub num_segments: usize,
    /// Bytes of the journal.
    pub journal_bytes: u64,
    /// What is free on the file system, without the reserve while that is held; none if it is not
    /// known.
    pub disk_free_bytes: Option<u64>,
    /// Whether writes are refused because the disk is full.
    pub is_disk_full: bool,
    /// Whether that is for lack of inodes.
    pub lacks_inodes: bool,
    /// Whether writes are refused because the record store is too far behind.
    pub is_store_behind: bool,
    /// The sled store.
    pub sled: Option<SledState>,
}

/// The file that marks a data folder into which a backup is being restored.
pub const RESTORE_MARK: &str = "restore.unfinished";

/// A log that is open but not written to yet. Before the first append, the recovery report can be
/// read, and the state that observers need can be built.
pub struct OpenedLog {
    journal: Journal,
    report: RecoveryReport,
    keyring: Option<Arc<Keyring>>,
    lock: Option<File>,
    sled_folder: Option<PathBuf>,
}

/// The embedded log; see [`EventLog`] for what it promises.
pub struct EmbeddedLog {
    queue: Mutex<Option<mpsc::Sender<Order>>>,
    counters: Arc<Counters>,
    head: watch::Receiver<u64>,
    recent: Arc<Recent>,
    now: Now,
    segments: Arc<Segments>,
    disk: Arc<dyn Disk>,
    keyring: Option<Arc<Keyring>>,
    erasures: Arc<Erasures>,
    indexer: Option<Arc<SledIndexer>>,
    committer: Mutex<Option<JoinHandle<()>>>,
    queue_bytes: usize,
    max_commit_bytes: usize,
    reserve: Option<Arc<Reserve>>,
    backlog: Option<Arc<Backlog>>,
    rewriting: Arc<Rewriting>,
    /// Held until the log is closed and no segment is being rewritten; after that another process
    /// may write.
    lock: Mutex<Option<Arc<File>>>,
}

/// Segments are rewritten on a thread of its own, which continues when nobody waits for it any
/// more.
#[derive(Default)]
struct Rewriting {
    /// Held by the thread that rewrites.
    turn: Mutex<()>,
    is_closing: AtomicBool,
}

impl OpenedLog {
    /// Opens the log in a folder, exclusively; sled is kept next to the journal.
    ///
    /// # Errors
    /// The folder is in use by another process or not accessible, or the journal is damaged, with
    /// segment and offset.
    pub fn open(folder: &Path, options: JournalOptions) -> Result<Self, LogOpenError> {
        let failed = |source| LogOpenError::Folder {
            path: folder.to_owned(),
            source,
        };
        make_folder(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogOpenError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        if folder.join(RESTORE_MARK).exists() {
            return Err(LogOpenError::HalfRestored(folder.to_owned()));
        }
        let disk = RealDisk::new(&folder.join(JOURNAL_FOLDER)).map_err(failed)?;
        let mut opened = Self::on_disk_with_keys(Arc::new(disk), options, folder)?;
        opened.lock = Some(lock);
        opened.sled_folder = Some(folder.join("sled"));
        Ok(opened)
    }

    /// Opens a log on any disk, without sled and without keys: nothing in it is sealed.
    ///
    /// # Errors
    /// The journal is not accessible, or damaged.
    pub fn on_disk(disk: Arc<dyn Disk>, options: JournalOptions) -> Result<Self, LogOpenError> {
        let keys = |_: Uuid, _: &Segments| Ok(Arc::new(NoKeys) as Arc<dyn SubjectKeys>);
        let (journal, report) = Journal::open(disk, options, &keys)?;
        Ok(Self {
            journal,
            report,
            keyring: None,
            lock: None,
            sled_folder: None,
        })
    }

    /// Opens a log on any disk, without sled; the keys of sealed events are in a folder.
    ///
    /// # Errors
    /// The journal is not accessible, or damaged.
    pub fn on_disk_with_keys(
        disk: Arc<dyn Disk>,
        options: JournalOptions,
        folder: &Path,
    ) -> Result<Self, LogOpenError> {
        let keyring = OnceCell::new();
        let keys = |store_id: Uuid, log: &Segments| {
            let opened = Keyring::open(folder, store_id, |look| log.last_key(look))?;
            let opened = Arc::new(opened);
            let keys = Arc::clone(keyring.get_or_init(|| opened));
            Ok(keys as Arc<dyn SubjectKeys>)
        };
        let (journal, report) = Journal::open(disk, options, &keys)?;
        Ok(Self {
            journal,
            report,
            keyring: keyring.into_inner(),
            lock: None,
            sled_folder: None,
        })
    }

    /// Returns the recovery report.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Returns the reading side.
    pub fn segments(&self) -> Arc<Segments> {
        self.journal.segments()
    }

    /// Returns the store's id.
    pub fn store_id(&self) -> Uuid {
        self.journal.store_id()
    }

    /// Starts to accept decisions. `observers` see every commit from here on, in order; `sequences`
    /// are the last numbers assigned, up to the head.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        self,
        options: LogOptions,
        observers: Vec<Arc<dyn CommitObserver>>,
        sequences: SequenceNumbers,
    ) -> std::io::Result<EmbeddedLog> {
        let end = self.journal.end();
        let segments = self.journal.segments();
        if let Some(keyring) = &self.keyring {
            // The previous process may have ended between an erasure and the destruction of its
            // keys.
            let erasures = options.erasures.all();
            let keys = erasures.iter().flat_map(|it| it.request.keys.clone());
            keyring.retire(&keys.collect::<Vec<_>>());
        }
        let counters = Arc::new(Counters::default());
        let last = end.time.micros();
        counters.time_micros.store(last, Ordering::Relaxed);
        let index = |folder: PathBuf| {
            let (segments, reserve) = (Arc::clone(&segments), options.reserve.clone());
            let cache_bytes = options.sled_cache_bytes;
            SledIndexer::start(segments, &folder, cache_bytes, reserve, SLED_BATCH_TIMEOUT)
                .map(Arc::new)
        };
        let indexer = self.sled_folder.map(index).transpose()?;
        let mut observers = observers;
        observers.insert(0, Arc::clone(&options.erasures) as _);
        if let Some(indexer) = &indexer {
            observers.push(Arc::new(Wake(Arc::clone(indexer))));
        }
        let disk = self.journal.disk();
        let (publish_head, head) = watch::channel(end.position);
        let recent = Arc::new(Recent::new(options.recent_bytes, options.backlog.clone()));
        let committer = Committer {
            journal: self.journal,
            resolver: Resolver::new(end.position, options.resolver_keys),
            sequences,
            observers,
            recent: Arc::clone(&recent),
            head: publish_head,
            counters: Arc::clone(&counters),
            keyring: self.keyring.clone(),
            epoch: 1,
            now: Arc::clone(&options.now),
            is_ahead: false,
            reserve: options.reserve.clone(),
            on_fatal: options.on_fatal,
        };
        let (sender, receiver) = mpsc::channel(options.queue_decisions);
        let thread = std::thread::Builder::new().name("committer".to_owned());
        let thread = thread.spawn(move || committer.run(receiver))?;
        Ok(EmbeddedLog {
            queue: Mutex::new(Some(sender)),
            counters,
            head,
            recent,
            now: options.now,
            segments,
            disk,
            keyring: self.keyring,
            erasures: options.erasures,
            indexer,
            committer: Mutex::new(Some(thread)),
            queue_bytes: options.queue_bytes,
            max_commit_bytes: options.max_commit_bytes,
            reserve: options.reserve,
            backlog: options.backlog,
            rewriting: Arc::default(),
            lock: Mutex::new(self.lock.map(Arc::new)),
        })
    }
}

/// Wakes the indexer when there is something new.
struct Wake(Arc<SledIndexer>);

impl CommitObserver for Wake {
    fn committed(&self, _: &[Arc<Commit>]) {
        self.0.wake();
    }
}

impl EmbeddedLog {
    /// Returns the log's state.
    pub fn state(&self) -> LogState {
        let (num_segments, journal_bytes) = self.segments.size();
        let last = self.counters.time_micros.load(Ordering::Relaxed);
        let ahead = last.saturating_sub((self.now)().micros());
        let reserve = self.reserve.as_ref();
        let is_disk_full = reserve.is_some_and(|it| it.is_out_of_space());
        LogState {
            head: self.head(),
            seconds_ahead: u64::try_from(ahead / 1_000_000).unwrap_or_default(),
            queued_bytes: self.counters.queued_bytes.load(Ordering::Relaxed),
            num_groups: self.counters.num_groups.load(Ordering::Relaxed),
            num_conflicts: self.counters.num_conflicts.load(Ordering::Relaxed),
            group_commits: self.counters.group_commits.state(),
            flush_seconds: self.counters.flush_seconds.state(),
            num_segments,
            journal_bytes,
            disk_free_bytes: reserve.and_then(|it| it.free_bytes()),
            is_disk_full,
            lacks_inodes: is_disk_full && reserve.is_some_and(|it| it.lacks_inodes()),
            is_store_behind: self.is_store_behind(),
            sled: self.indexer.as_ref().map(|indexer| indexer.state()),
        }
    }

    /// Accepts no more decisions, finishes those that are waiting, and stops.
    ///
    /// Blocks until that is done; for sled and a segment that is being rewritten, at most until
    /// `deadline` has passed. The lock is held until that segment is done.
    pub fn close(&self, deadline: Duration) {
        let begun = Instant::now();
        self.rewriting.is_closing.store(true, Ordering::Release);
        *self.queue.lock() = None;
        if let Some(thread) = self.committer.lock().take() {
            let _ = thread.join();
        }
        if self.rewriting.turn.try_lock_for(deadline).is_none() {
            tracing::warn!(
                "a segment is still being rewritten; the lock is held until that is done"
            );
        }
        if let Some(indexer) = &self.indexer {
            indexer.stop(deadline.saturating_sub(begun.elapsed()));
        }
        drop(self.lock.lock().take());
    }

    /// Removes the payloads of events from the log's files.
    ///
    /// First everything written so far is sealed, then each segment with one of the events is
    /// rewritten, then sled's folder is removed, to be filled again from the journal. Can be
    /// repeated after any interruption.
    ///
    /// # Errors
    /// See [`BlankError`].
    pub async fn blank(&self, positions: &Positions) -> Result<Rewritten, BlankError> {
        let closed = || BlankError::Failed("the log is closed".to_owned());
        let queue = self.queue.lock().clone().ok_or_else(closed)?;
        let (reply, sealed) = oneshot::channel();
        let sent = queue.send(Order::Seal(reply)).await;
        sent.map_err(|_| closed())?;
        // A sender that lives on would keep the committer from ending.
        drop(queue);
        sealed.await.map_err(|_| closed())??;
        let (segments, disk) = (Arc::clone(&self.segments), Arc::clone(&self.disk));
        let (to_blank, rewriting) = (positions.clone(), Arc::clone(&self.rewriting));
        let lock = self.lock.lock().clone();
        let rewritten = tokio::task::spawn_blocking(move || {
            let turn = rewriting.turn.lock();
            let rewritten = segments.blank(&disk, &to_blank, &rewriting.is_closing);
            // Released before the turn: `close` waits for the turn, and then releases the lock.
            drop(lock);
            drop(turn);
            rewritten
        });
        let rewritten = rewritten.await;
        let rewritten = rewritten.map_err(|error| BlankError::Failed(error.to_string()))??;
        if let Some(indexer) = &self.indexer {
            indexer.renew().await;
        }
        Ok(rewritten)
    }

    /// Returns the number of the key that events about a user are sealed with, if there is one.
    pub fn key_of(&self, user: &UserId) -> Option<u64> {
        self.keyring.as_ref()?.number_of(user)
    }

    /// Finds the events from a position on that are sealed with a user's key. Everything that has
    /// been committed so far is searched.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn sealed_for(
        &self,
        user: &UserId,
        from: u64,
    ) -> Result<Vec<SealedEvent>, ReadError> {
        let Some(key) = self.key_of(user) else {
            return Ok(Vec::new());
        };
        let segments = Arc::clone(&self.segments);
        let found = tokio::task::spawn_blocking(move || segments.sealed_with(key, from)).await;
        found.map_err(|error| ReadError::Io(error.to_string()))?
    }

    /// Destroys keys: when this returns, whatever is sealed with them is lost, in every copy of the
    /// log. Can be repeated.
    ///
    /// # Errors
    /// See [`BlankError`].
    pub async fn destroy_keys(&self, numbers: Vec<u64>) -> Result<(), BlankError> {
        let Some(keyring) = self.keyring.clone().filter(|_| !numbers.is_empty()) else {
            return Ok(());
        };
        let destroyed = tokio::task::spawn_blocking(move || keyring.destroy(&numbers)).await;
        destroyed.map_err(|error| BlankError::Failed(error.to_string()))??;
        Ok(())
    }

    fn is_store_behind(&self) -> bool {
        let backlog = self.backlog.as_ref();
        backlog.is_some_and(|backlog| backlog.is_at_bound())
    }

    /// Returns whether writes are refused because the disk is full.
    pub fn is_disk_full(&self) -> bool {
        let reserve = self.reserve.as_ref();
        reserve.is_some_and(|reserve| !reserve.is_held())
    }
}
