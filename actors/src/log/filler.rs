//! Filling a sled store from the journal, from when it is opened until it is told to end.
//!
//! Any call into sled can hang, so this runs on a thread of its own that can be abandoned. Nothing
//! that an abandoned thread does has any effect: its folder is no longer used, and its messages are
//! ignored.
//!
//! All commits since the last round go into sled together, in chunks. The last chunk is written
//! again with the commits that follow, until it is full, so slow saves fill chunks as well.

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
/// After a batch of fewer events than this, the filler waits for more: nobody waits for sled, and
/// many small batches cost it much more than a few large ones.
const FULL_BATCH_EVENTS: u64 = 1024;
const GATHER: Duration = Duration::from_millis(100);
/// Fewer events than this do not fill a chunk, which is then written again with what follows. So
/// the filler waits longer.
const FEW_EVENTS: u64 = 24;
const GATHER_FEW: Duration = Duration::from_secs(1);
/// The nice value of the filler and of the threads that sled starts from it; threads that somebody
/// waits for have priority.
const NICENESS: i32 = 10;
/// How often to check for disk space.
const SPACE_PERIOD: Duration = Duration::from_secs(1);

/// State that the fillers, one after the other, share with readers.
pub(super) struct Shared {
    pub(super) segments: Arc<Segments>,
    pub(super) reserve: Option<Arc<Reserve>>,
    pub(super) cache_bytes: u64,
    pub(super) store: RwLock<Option<Arc<SledStore>>>,
    pub(super) position: AtomicU64,
    pub(super) is_degraded: AtomicBool,
    pub(super) num_rebuilds: AtomicU64,
    /// Notified when the journal has grown.
    pub(super) wake: Condvar,
    /// Notified when a filler should end.
    pub(super) stop: Condvar,
    pub(super) wake_lock: Mutex<()>,
}

/// See the module's overview.
pub(super) struct Filler {
    shared: Arc<Shared>,
    folder: PathBuf,
    is_over: AtomicBool,
    /// When sled began the write that it is busy with, if there is one.
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

    /// Opens sled and copies until told to end. sled is not opened on a full disk: what it does to
    /// itself there can hang the next one to open it.
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
                // The remaining space belongs to the record store: nobody waits for sled.
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

    /// Returns whether sled has been busy with one write for this long: it can lock up for good.
    pub(super) fn is_stuck(&self, batch_timeout: Duration) -> bool {
        let since = *self.putting_since.lock();
        since.is_some_and(|since| since.elapsed() >= batch_timeout)
    }

    /// Ends the filler: readers fall back to the journal, and whatever it still does has no effect.
    /// Returns the store; whoever holds it last closes it.
    pub(super) fn end(&self) -> Option<Arc<SledStore>> {
        let mut published = self.shared.store.write();
        // A filler that is about to sleep sees the flag, or is woken.
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

    /// Makes the store known to readers, unless this filler has ended.
    fn publish(&self, change: impl FnOnce() -> Option<Arc<SledStore>>) {
        let mut store = self.shared.store.write();
        if !self.is_over() {
            *store = change();
        }
    }

    /// Returns the end of what sled has, if its last chunk matches the journal.
    fn agreed_tail(&self, store: &SledStore) -> Result<Tail, SledError> {
        let last = store.last()?;
        let mut rest = last.as_slice();
        while let Some((first, _)) = rest.first() {
            // The journal is read to the end of a segment; a chunk can extend beyond that.
            let journal = self.shared.segments.read_raw(*first, BATCH_EVENTS);
            let journal = journal.unwrap_or_default();
            let pairs = rest.iter().zip(&journal);
            let num_same = pairs.take_while(|(sled, journal)| sled == journal).count();
            if num_same == 0 {
                return Err(SledError::NotOpened(
                    "its last commits differ from the journal's",
                ));
            }
            rest = rest.get(num_same..).unwrap_or_default();
        }
        let mut tail = Tail::default();
        tail.extend(last);
        tail.stored();
        Ok(tail)
    }

    /// Waits for some time, or until told to end.
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

/// The end of a store, and what is to be written after it.
#[derive(Default)]
struct Tail {
    /// The last position.
    position: u64,
    /// The commits of the store's last chunk, as long as that has room, and those that follow it.
    commits: Vec<RawCommit>,
    /// How many of `commits` are in the store.
    num_stored: usize,
}

impl Tail {
    fn extend(&mut self, commits: Vec<RawCommit>) {
        let peek = |(_, bytes): &RawCommit| codec::peek(bytes).ok();
        let last = commits.last().and_then(peek);
        self.position = last.map_or(self.position, |last| last.last_position());
        self.commits.extend(commits);
    }

    /// Returns the chunks that the store does not have, or has only in part.
    fn chunks(&self) -> impl Iterator<Item = &[RawCommit]> {
        let is_stored = |(number, chunk): &(usize, &[RawCommit])| {
            *number == 0 && chunk.len() == self.num_stored
        };
        let chunks = chunk::cut(&self.commits).enumerate();
        chunks.skip_while(is_stored).map(|(_, chunk)| chunk)
    }

    /// Notes that the store has everything, and continues with its last chunk.
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
        /// However the commits arrive, the store ends up with the same chunks, and none is written
        /// needlessly.
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
