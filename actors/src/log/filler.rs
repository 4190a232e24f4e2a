//! Filling a sled store from the journal, from its opening until somebody ends it.
//!
//! Any call of sled may hang, so this has a thread of its own that can be left alone. What it does
//! after that is seen by nobody: its folder is nobody's any more, and it is not heard.
//!
//! What came since the last look goes into sled at once, in chunks. The last chunk is put in again
//! with what comes next until it takes no more, so that saves that come slowly fill chunks as well.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use skytrail_schema::codec;

use super::chunk::{self, Packer};
use super::journal::{RawCommit, Segments};
use super::reserve::Reserve;
use super::sled_store::{SledError, SledStore};
use crate::spawn::be_nice;

/// How many events are copied at once.
const BATCH_EVENTS: usize = 2048;
/// After fewer events than this the filler gathers more before it goes on: nobody waits for sled,
/// and many small batches cost it much more than few large ones.
const FULL_BATCH_EVENTS: u64 = 1024;
const GATHER: Duration = Duration::from_millis(100);
/// So few events do not fill a chunk, which is put in anew with what comes next: that is done less
/// often.
const FEW_EVENTS: u64 = 24;
const GATHER_FEW: Duration = Duration::from_secs(1);
/// How nice the filler and what sled starts from it are to those whom somebody waits for.
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
    /// Since when sled has been at what it was given.
    putting_since: Mutex<Option<Instant>>,
}

impl Filler {
    /// Prepares to fill the store in `folder`.
    pub(super) fn new(shared: Arc<Shared>, folder: PathBuf) -> Self {
        Self {
            shared,
            folder,
            is_over: AtomicBool::new(false),
            putting_since: Mutex::new(None),
        }
    }

    /// Opens sled and copies until told to end. On a full disk sled is not opened: what it does to
    /// itself there may hang whoever opens it later.
    pub(super) fn run(&self) -> Result<(), SledError> {
        be_nice("sled filler", NICENESS);
        while !self.has_space() && !self.is_over() {
            self.pause(SPACE_PERIOD);
        }
        if self.is_over() {
            return Ok(());
        }
        let shared = &self.shared;
        let store = Arc::new(SledStore::open(&self.folder, shared.cache_bytes)?);
        let mut packer = Packer::new()?;
        let mut tail = self.agreed_tail(&store)?;
        self.publish(|| {
            shared.position.store(tail.position, Ordering::Release);
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
            let raw = shared.segments.read_raw(tail.position + 1, BATCH_EVENTS);
            let raw = raw.unwrap_or_else(|error| {
                tracing::error!(%error, "the journal cannot be read");
                Vec::new()
            });
            if raw.is_empty() {
                self.wait(Duration::from_millis(500));
                continue;
            }
            let before = tail.position;
            tail.extend(raw);
            *self.putting_since.lock() = Some(Instant::now());
            store.put(&mut packer, tail.chunks())?;
            *self.putting_since.lock() = None;
            tail.stored();
            self.publish(|| {
                shared.position.store(tail.position, Ordering::Release);
                Some(Arc::clone(&store))
            });
            match tail.position - before {
                few if few < FEW_EVENTS => self.pause(GATHER_FEW),
                some if some < FULL_BATCH_EVENTS => self.pause(GATHER),
                _ => {}
            }
        }
        store.flush()
    }

    /// Whether sled has been at what it was given for that long: it can lock itself for good.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        let since = *self.putting_since.lock();
        since.is_some_and(|since| since.elapsed() >= patience)
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

    /// Returns how sled ends, if its last chunk is what the journal has there.
    fn agreed_tail(&self, store: &SledStore) -> Result<Tail, SledError> {
        let last = store.last()?;
        let mut rest = last.as_slice();
        while let Some((first, _)) = rest.first() {
            // The journal is read to the end of a segment, a chunk may go beyond.
            let journal = self.shared.segments.read_raw(*first, BATCH_EVENTS);
            let journal = journal.unwrap_or_default();
            let pairs = rest.iter().zip(&journal);
            let num_same = pairs.take_while(|(sled, journal)| sled == journal).count();
            if num_same == 0 {
                return Err(SledError::NotOpened(
                    "its last commits are not the journal's",
                ));
            }
            rest = rest.get(num_same..).unwrap_or_default();
        }
        let mut tail = Tail::default();
        tail.extend(last);
        tail.stored();
        Ok(tail)
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

/// How a store ends, and what is to be put behind it.
#[derive(Default)]
struct Tail {
    /// The last position.
    position: u64,
    /// What the store's last chunk has, while that takes more, and what comes behind it.
    commits: Vec<RawCommit>,
    /// How many of these are in the store.
    num_stored: usize,
}

impl Tail {
    fn extend(&mut self, commits: Vec<RawCommit>) {
        let peek = |(_, bytes): &RawCommit| codec::peek(bytes).ok();
        let last = commits.last().and_then(peek);
        self.position = last.map_or(self.position, |last| last.last_position());
        self.commits.extend(commits);
    }

    /// Returns the chunks that the store has not got, or not with all that is in them.
    fn chunks(&self) -> impl Iterator<Item = &[RawCommit]> {
        let is_stored = |(number, chunk): &(usize, &[RawCommit])| {
            *number == 0 && chunk.len() == self.num_stored
        };
        let chunks = chunk::cut(&self.commits).enumerate();
        chunks.skip_while(is_stored).map(|(_, chunk)| chunk)
    }

    /// Knows that the store has everything, and goes on from its last chunk.
    fn stored(&mut self) {
        let last = chunk::cut(&self.commits).last();
        let open = last.filter(|last| chunk::takes_more(last));
        self.num_stored = open.map_or(0, <[_]>::len);
        self.commits.drain(..self.commits.len() - self.num_stored);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::log::written::stored;

    proptest! {
        /// However they come, the store ends up with the same chunks, and none is put without need.
        #[test]
        fn what_comes_bit_by_bit_fills_chunks(
            sizes in prop::collection::vec(prop_oneof![0..600_usize, 0..9000_usize].prop_map(|it| vec![it]), 1..120),
            arrivals in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let all = stored(1, &sizes);
            let (mut store, mut tail) = (BTreeMap::new(), Tail::default());
            let mut rest = all.as_slice();
            for arrival in arrivals.into_iter().cycle() {
                let (come, behind) = rest.split_at(arrival.min(rest.len()));
                tail.extend(come.to_vec());
                for chunk in tail.chunks() {
                    let before = store.insert(chunk[0].0, chunk.to_vec());
                    prop_assert!(before.is_none_or(|before| before.len() < chunk.len()));
                }
                tail.stored();
                prop_assert_eq!(tail.position, come.last().unwrap().0);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            let expected: Vec<&[RawCommit]> = chunk::cut(&all).collect();
            prop_assert_eq!(store.into_values().collect::<Vec<_>>(), expected);
        }
    }
}
