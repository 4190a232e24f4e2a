//! Turns of queries: many read few connections, and quick ones do not wait for those that take
//! long.
//!
//! 1. Every query holds a slot while it runs.
//! 2. One that is still running after [`TRIAL`] also needs one of the *long* places. There is one
//!    less of them than slots, and a user gets at most [`MAX_LONG_PER_USER`]. So at least one slot is
//!    free again after [`TRIAL`] at most.
//! 3. If it gets no long place, it is broken off, and runs again from the beginning when it has one.
//! 4. What took long is remembered by who asked and how, whatever the values. The same query waits
//!    for a long place at once, until it turns out to be quick again. What it costs depends on who
//!    asks, since access lists hide different records from different users.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_actors::store::Viewer;
use skytrail_schema::id::UserId;
use skytrail_schema::predicate::{Operand, Predicate};
use skytrail_schema::query::{Query, SortKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

/// A query that takes longer than this needs a long place.
const TRIAL: Duration = Duration::from_millis(100);

/// How long a query waits for a long place.
const MAX_LONG_WAIT: Duration = Duration::from_secs(30);

/// How many queries that take long one user can run at once, if there are that many places for
/// others too.
const MAX_LONG_PER_USER: usize = 2;

/// How many queries that took long are remembered.
const MAX_REMEMBERED: usize = 4096;

/// How queries wait for each other at present.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct QueryFigures {
    /// How many have a slot.
    pub num_running: usize,
    /// How many of these take long.
    pub num_long: usize,
    /// How many wait for a slot or a long place.
    pub num_waiting: u64,
    /// How many were refused since the start, because they had waited too long.
    pub num_refused: u64,
}

/// See the module's overview.
pub(super) struct Turns {
    slots: Semaphore,
    num_slots: usize,
    long: Semaphore,
    /// How long a query waits for a slot.
    max_wait: Duration,
    trial: Duration,
    known: Mutex<Known>,
    num_waiting: AtomicU64,
    num_refused: AtomicU64,
}

#[derive(Default)]
struct Known {
    /// The fingerprints of queries that took long.
    long: HashSet<u64>,
    /// The long places of users, while somebody holds them or waits.
    users: HashMap<UserId, Weak<Semaphore>>,
}

/// What decides when a query has its turn.
pub(super) struct Asked {
    /// `None` for the master key and for callers without a user.
    user: Option<UserId>,
    fingerprint: u64,
}

impl Asked {
    pub(super) fn new(query: &Query, viewer: &Viewer<'_>) -> Self {
        let is_master = viewer.caller.is_master();
        let mut hasher = DefaultHasher::new();
        is_master.hash(&mut hasher);
        viewer.caller.user.hash(&mut hasher);
        discriminant(viewer.scope).hash(&mut hasher);
        hash_query(query, &mut hasher);
        Self {
            user: viewer.caller.user.clone().filter(|_| !is_master),
            fingerprint: hasher.finish(),
        }
    }
}

/// The right to run.
pub(super) struct Turn<'a> {
    _slot: SemaphorePermit<'a>,
    long: Option<LongPlace<'a>>,
}

struct LongPlace<'a> {
    _shared: SemaphorePermit<'a>,
    _own: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(super) fn new(num_slots: usize, max_wait: Duration) -> Self {
        let num_slots = num_slots.max(1);
        Self {
            slots: Semaphore::new(num_slots),
            num_slots,
            long: Semaphore::new(num_long(num_slots)),
            max_wait,
            trial: TRIAL,
            known: Mutex::default(),
            num_waiting: AtomicU64::new(0),
            num_refused: AtomicU64::new(0),
        }
    }

    pub(super) fn figures(&self) -> QueryFigures {
        let num_long = num_long(self.num_slots);
        QueryFigures {
            num_running: self.num_slots - self.slots.available_permits().min(self.num_slots),
            num_long: num_long - self.long.available_permits().min(num_long),
            num_waiting: self.num_waiting.load(Ordering::Relaxed),
            num_refused: self.num_refused.load(Ordering::Relaxed),
        }
    }

    /// Waits for a slot, and for a long place if the query or another such query took long before.
    /// Returns `None` if the wait was too long.
    pub(super) async fn take(&self, asked: &Asked, was_broken_off: bool) -> Option<Turn<'_>> {
        let waiting = Waiting::new(&self.num_waiting);
        let turn = self.wait(asked, was_broken_off).await;
        drop(waiting);
        if turn.is_none() {
            self.num_refused.fetch_add(1, Ordering::Relaxed);
        }
        turn
    }

    async fn wait(&self, asked: &Asked, was_broken_off: bool) -> Option<Turn<'_>> {
        if !was_broken_off && !self.takes_long(asked) {
            let slot = self.take_slot().await?;
            // Others of its kind may have taken long meanwhile.
            if !self.takes_long(asked) {
                return Some(Turn {
                    _slot: slot,
                    long: None,
                });
            }
        }
        let long = timeout(MAX_LONG_WAIT, self.take_long(asked)).await.ok()??;
        Some(Turn {
            _slot: self.take_slot().await?,
            long: Some(long),
        })
    }

    pub(super) async fn take_slot(&self) -> Option<SemaphorePermit<'_>> {
        let slot = timeout(self.max_wait, self.slots.acquire()).await;
        slot.ok()?.ok()
    }

    async fn take_long(&self, asked: &Asked) -> Option<LongPlace<'_>> {
        let own = match self.own_places(asked) {
            Some(places) => Some(places.acquire_owned().await.ok()?),
            None => None,
        };
        Some(LongPlace {
            _shared: self.long.acquire().await.ok()?,
            _own: own,
        })
    }

    /// Runs a query in its turn. Returns `None` if it was broken off: it takes long, and there was
    /// no place for that.
    pub(super) async fn run<'a, T>(
        &'a self,
        turn: &mut Turn<'a>,
        asked: &Asked,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        if turn.long.is_some() {
            let begun = Instant::now();
            let done = work.await;
            if begun.elapsed() < self.trial {
                self.known.lock().long.remove(&asked.fingerprint);
            }
            return Some(done);
        }
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = sleep(self.trial) => {}
        }
        self.remember(asked);
        turn.long = Some(self.try_long(asked)?);
        Some(work.await)
    }

    fn try_long(&self, asked: &Asked) -> Option<LongPlace<'_>> {
        let own = match self.own_places(asked) {
            Some(places) => Some(places.try_acquire_owned().ok()?),
            None => None,
        };
        Some(LongPlace {
            _shared: self.long.try_acquire().ok()?,
            _own: own,
        })
    }

    /// Returns the long places of the user who asks, if it is one.
    fn own_places(&self, asked: &Asked) -> Option<Arc<Semaphore>> {
        let user = asked.user.as_ref()?;
        let mut known = self.known.lock();
        if let Some(places) = known.users.get(user).and_then(Weak::upgrade) {
            return Some(places);
        }
        known.users.retain(|_, places| places.strong_count() > 0);
        let num_own = num_long(self.num_slots).div_ceil(2).min(MAX_LONG_PER_USER);
        let places = Arc::new(Semaphore::new(num_own));
        known.users.insert(user.clone(), Arc::downgrade(&places));
        Some(places)
    }

    fn takes_long(&self, asked: &Asked) -> bool {
        self.known.lock().long.contains(&asked.fingerprint)
    }

    fn remember(&self, asked: &Asked) {
        let mut known = self.known.lock();
        if known.long.len() >= MAX_REMEMBERED {
            // They are found out again.
            known.long.clear();
        }
        known.long.insert(asked.fingerprint);
    }
}

fn num_long(num_slots: usize) -> usize {
    num_slots.saturating_sub(1).max(1)
}

/// Counts someone who waits.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hashes what a query asks, without its values.
fn hash_query(query: &Query, hasher: &mut DefaultHasher) {
    query.record_type.hash(hasher);
    if let Some(predicate) = &query.predicate {
        hash_predicate(predicate, hasher);
    }
    for sort in &query.sort {
        sort.is_descending.hash(hasher);
        match &sort.by {
            SortKey::Path(path) => path.hash(hasher),
            SortKey::Distance { field, .. } => field.hash(hasher),
        }
    }
    query.count.hash(hasher);
    query.limit.is_some().hash(hasher);
}

fn hash_predicate(predicate: &Predicate, hasher: &mut DefaultHasher) {
    discriminant(predicate).hash(hasher);
    match predicate {
        Predicate::And(parts) | Predicate::Or(parts) => {
            parts.len().hash(hasher);
            for part in parts {
                hash_predicate(part, hasher);
            }
        }
        Predicate::Not(inner) => hash_predicate(inner, hasher),
        Predicate::Compare(op, left, right) => {
            discriminant(op).hash(hasher);
            hash_operand(left, hasher);
            hash_operand(right, hasher);
        }
        Predicate::In(left, right) => {
            hash_operand(left, hasher);
            hash_operand(right, hasher);
        }
        Predicate::UserRelation { field, .. } => field.hash(hasher),
    }
}

fn hash_operand(operand: &Operand, hasher: &mut DefaultHasher) {
    discriminant(operand).hash(hasher);
    match operand {
        Operand::Path(path) => path.hash(hasher),
        Operand::Literal(_) => {}
        Operand::Distance { field, .. } => field.hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{poll_fn, ready};
    use std::task::Poll;

    use skytrail_schema::caller::Caller;
    use skytrail_schema::query::Scope;
    use tokio::time::timeout;

    use super::*;

    /// Turns of which every query that is not done at once takes long.
    fn turns(num_slots: usize) -> Turns {
        Turns {
            trial: Duration::ZERO,
            ..Turns::new(num_slots, MAX_LONG_WAIT)
        }
    }

    fn asked(user: &str, record_type: &str) -> Asked {
        asked_for(user, &serde_json::json!({"record_type": record_type}))
    }

    fn asked_for(user: &str, wire: &serde_json::Value) -> Asked {
        let query = Query::parse(wire.as_object().unwrap()).unwrap();
        let caller = Caller {
            user: Some(user.into()),
            ..Caller::default()
        };
        let viewer = Viewer {
            scope: &Scope::Public,
            caller: &caller,
        };
        Asked::new(&query, &viewer)
    }

    /// Polls once.
    async fn now<T>(work: impl Future<Output = T>) -> Option<T> {
        timeout(Duration::ZERO, work).await.ok()
    }

    /// Begins a query that is done as soon as it is known to take long. Returns its turn, unless it
    /// has to wait or is broken off.
    async fn begin<'a>(turns: &'a Turns, asked: &Asked) -> Option<Turn<'a>> {
        let mut turn = now(turns.take(asked, false)).await??;
        let work = poll_fn(|cx| {
            cx.waker().wake_by_ref();
            match turns.takes_long(asked) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        turns.run(&mut turn, asked, work).await.map(|()| turn)
    }

    #[tokio::test]
    async fn what_takes_long_leaves_a_slot_to_others() {
        let turns = turns(3);
        let first = begin(&turns, &asked("a", "one")).await;
        assert!(first.is_some(), "there is a long place");
        assert!(begin(&turns, &asked("a", "two")).await.is_none());
        let other = begin(&turns, &asked("b", "one")).await;
        assert!(other.is_some(), "another user has a place, too");
        assert!(begin(&turns, &asked("c", "one")).await.is_none());
        assert_eq!(turns.figures().num_long, 2);

        let quick = asked("c", "three");
        let mut turn = now(turns.take(&quick, false)).await.unwrap().unwrap();
        assert_eq!(turns.run(&mut turn, &quick, ready(1)).await, Some(1));
        drop(turn);

        let again = asked("c", "one");
        let mut waits = pin!(turns.take(&again, false));
        assert!(now(&mut waits).await.is_none(), "it is known to take long");
        assert_eq!(turns.figures().num_waiting, 1);
        drop(other);
        assert!(now(&mut waits).await.unwrap().unwrap().long.is_some());
        assert_eq!(turns.figures().num_waiting, 0);
    }

    #[tokio::test]
    async fn those_that_wait_learn_that_they_take_long() {
        let turns = turns(2);
        let same = asked("a", "one");
        let slots = (turns.take_slot().await, turns.take_slot().await);
        let mut waits = pin!(turns.take(&same, false));
        assert!(now(&mut waits).await.is_none());
        turns.remember(&same);
        drop(slots);
        assert!(now(&mut waits).await.unwrap().unwrap().long.is_some());
    }

    #[tokio::test]
    async fn what_was_quick_needs_no_long_place_any_more() {
        let turns = Turns {
            trial: Duration::from_secs(3600),
            ..Turns::new(2, MAX_LONG_WAIT)
        };
        let same = asked("a", "one");
        turns.remember(&same);
        let mut turn = turns.take(&same, false).await.unwrap();
        assert!(turn.long.is_some());
        turns.run(&mut turn, &same, ready(())).await;
        drop(turn);
        assert!(turns.take(&same, false).await.unwrap().long.is_none());
    }

    #[test]
    fn values_make_no_difference_but_who_asks_and_how_does() {
        let parse = |predicate: serde_json::Value, caller: &str| {
            let wire = serde_json::json!({"record_type": "note", "predicate": predicate});
            asked_for(caller, &wire).fingerprint
        };
        let path = serde_json::json!({"$type": "keypath", "$val": "n"});
        let one = parse(serde_json::json!(["gt", path, 1]), "a");
        assert_eq!(one, parse(serde_json::json!(["gt", path, 2]), "a"));
        assert_ne!(one, parse(serde_json::json!(["lt", path, 1]), "a"));
        assert_ne!(one, parse(serde_json::json!(["gt", path, 1]), "b"));
    }
}
