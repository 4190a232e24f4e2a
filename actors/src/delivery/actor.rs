//! The actor and its loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::event::Commit;
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Consumer, PositionStore};
use crate::log::{EventLog, beyond};

/// The pause after the log could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// About how many events are read at once.
const BATCH_EVENTS: usize = 1024;

/// How often the position is saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The maximum number of undelivered events from before the start that are delivered after it.
const MAX_CATCH_UP: u64 = 100_000;

/// Where a delivery's position is saved.
pub struct PositionSlot {
    /// The name that it is saved under.
    pub name: &'static str,
    /// The store of positions.
    pub positions: Arc<dyn PositionStore>,
}

/// The parts of a delivery.
pub struct DeliveryParts<C> {
    /// Where its position is saved; `None` for a consumer that begins at the present after every
    /// start.
    pub slot: Option<PositionSlot>,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The position up to which commits are delivered: the log's head, or that of the store.
    pub until: watch::Receiver<u64>,
    /// The consumer of the events.
    pub consumer: C,
}

/// The state of a delivery, for display.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeliveryState {
    /// The last position that was delivered or passed unread.
    pub position: u64,
    /// When the oldest commit that is not delivered yet was made; `None` if there is none.
    #[serde(skip)]
    pub oldest: Option<Timestamp>,
    /// The consumer's own state.
    pub consumer: Json,
}

/// See the module's overview.
pub struct Delivery<C> {
    parts: Option<DeliveryParts<C>>,
    until: watch::Receiver<u64>,
    shown: Arc<Shown>,
}

/// What the loop shows of its state.
struct Shown {
    state: Mutex<DeliveryState>,
    /// Whether everything passes unread.
    is_resting: AtomicBool,
}

impl<C: Consumer> Delivery<C> {
    /// Creates a delivery of the events after `position` or, without one, of those delivered from
    /// now on.
    pub fn new(parts: DeliveryParts<C>, position: Option<u64>) -> Self {
        let until = *parts.until.borrow();
        // It is beyond the end when the log was restored to an earlier state.
        let position = position.unwrap_or(until).min(until);
        let earliest = until.saturating_sub(MAX_CATCH_UP);
        if position < earliest {
            let consumer = parts.slot.as_ref().map_or("", |slot| slot.name);
            let skipped = earliest - position;
            tracing::warn!(
                consumer,
                skipped,
                "too many events were not delivered; the oldest are skipped"
            );
        }
        let state = DeliveryState {
            position: position.max(earliest),
            oldest: None,
            consumer: parts.consumer.state(),
        };
        Self {
            until: parts.until.clone(),
            parts: Some(parts),
            shown: Arc::new(Shown {
                state: Mutex::new(state),
                is_resting: AtomicBool::new(false),
            }),
        }
    }
}

impl<C: Consumer + Unpin> Actor for Delivery<C> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(parts) = self.parts.take() {
            ctx.spawn(run(parts, Arc::clone(&self.shown)).into_actor(self));
        }
    }
}

/// Asks for the state of a delivery.
#[derive(Debug)]
pub struct GetDeliveryState;

impl Message for GetDeliveryState {
    type Result = Option<DeliveryState>;
}

impl<C: Consumer + Unpin> Handler<GetDeliveryState> for Delivery<C> {
    type Result = Option<DeliveryState>;

    fn handle(&mut self, _: GetDeliveryState, _: &mut Self::Context) -> Self::Result {
        let mut state = self.shown.state.lock().clone();
        if self.shown.is_resting.load(Ordering::Relaxed) {
            state.position = *self.until.borrow();
        }
        Some(state)
    }
}

/// Loads the next commits after `position` and not beyond `until`; none while the log cannot be
/// read.
async fn load(log: &dyn EventLog, position: u64, until: u64) -> Vec<Arc<Commit>> {
    match log.read(position + 1, BATCH_EVENTS).await {
        Ok(mut commits) => {
            commits.retain(|commit| commit.last_position() <= until);
            commits
        }
        Err(error) => {
            tracing::error!(%error, "the log cannot be read");
            Vec::new()
        }
    }
}

/// Delivers until nothing can follow: the log or the projector has ended.
async fn run<C: Consumer>(mut parts: DeliveryParts<C>, shown: Arc<Shown>) {
    let mut position = shown.state.lock().position;
    let mut bookmark = Bookmark::new(position);
    let mut was_idle = true;
    loop {
        if parts.consumer.is_idle() {
            position = rest(&mut parts, &shown, position).await;
        }
        let Some(until) = next_until(&parts, &mut bookmark, position).await else {
            break;
        };
        let is_idle = parts.consumer.is_idle();
        if is_idle {
            position = until;
        } else {
            if was_idle {
                // Never go back to what passed unread.
                bookmark.save(&parts, position).await;
            }
            let commits = load(&*parts.log, position, until).await;
            if commits.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            for commit in commits {
                shown.state.lock().oldest = Some(commit.time);
                parts.consumer.take(&commit).await;
                position = commit.last_position();
                shown.state.lock().position = position;
            }
            parts.consumer.caught_up();
            bookmark.passed(&parts, position).await;
        }
        was_idle = is_idle;
        let mut state = shown.state.lock();
        state.position = position;
        state.consumer = parts.consumer.state();
        if is_idle || position >= *parts.until.borrow() {
            state.oldest = None;
        }
    }
}

/// Lets everything pass until the consumer needs events; returns the position up to which it needs
/// none.
async fn rest<C: Consumer>(parts: &mut DeliveryParts<C>, shown: &Shown, position: u64) -> u64 {
    shown.is_resting.store(true, Ordering::Relaxed);
    let needless = parts.consumer.roused().await;
    let position = needless.map_or(position, |needless| needless.max(position));
    // What has passed unread is never shown as late.
    shown.state.lock().position = position;
    shown.is_resting.store(false, Ordering::Relaxed);
    position
}

/// Waits until there is something beyond `position` to deliver; `None` when there never will be.
/// Saves the position meanwhile when that is due.
async fn next_until<C: Consumer>(
    parts: &DeliveryParts<C>,
    bookmark: &mut Bookmark,
    position: u64,
) -> Option<u64> {
    let mut until = parts.until.clone();
    loop {
        let Some(due) = bookmark.due else {
            return beyond(&mut until, position).await;
        };
        tokio::select! {
            until = beyond(&mut until, position) => return until,
            () = tokio::time::sleep_until(due) => bookmark.save(parts, position).await,
        }
    }
}

/// The position of a delivery, as saved.
struct Bookmark {
    saved: u64,
    /// When it must be saved again.
    due: Option<Instant>,
}

impl Bookmark {
    fn new(saved: u64) -> Self {
        Self { saved, due: None }
    }

    /// Records that everything up to `position` is delivered.
    async fn passed<C>(&mut self, parts: &DeliveryParts<C>, position: u64) {
        if position == self.saved || parts.slot.is_none() {
            return;
        }
        let now = Instant::now();
        if *self.due.get_or_insert(now + SAVE_INTERVAL) <= now {
            self.save(parts, position).await;
        }
    }

    async fn save<C>(&mut self, parts: &DeliveryParts<C>, position: u64) {
        self.due = None;
        let Some(slot) = parts.slot.as_ref().filter(|_| position != self.saved) else {
            return;
        };
        match slot.positions.save_position(slot.name, position).await {
            Ok(()) => self.saved = position,
            Err(error) => {
                self.due = Some(Instant::now() + SAVE_INTERVAL);
                tracing::warn!(
                    %error, consumer = slot.name,
                    "the position of a delivery could not be saved"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use proptest::prelude::*;

    use super::*;
    use crate::log::written::{Written, commit};

    /// Notes what it is given, unless it is idle.
    struct Noting {
        given: Arc<Mutex<Vec<u64>>>,
        is_idle: Arc<AtomicBool>,
    }

    #[async_trait]
    impl Consumer for Noting {
        fn is_idle(&self) -> bool {
            self.is_idle.load(Ordering::SeqCst)
        }

        async fn take(&mut self, commit: &Commit) {
            tokio::task::yield_now().await;
            self.given.lock().push(commit.first_position());
        }

        fn state(&self) -> Json {
            Json::Null
        }
    }

    async fn rest() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    /// Takes a commit for every permit.
    struct Slow(Arc<tokio::sync::Semaphore>);

    #[async_trait]
    impl Consumer for Slow {
        fn is_idle(&self) -> bool {
            false
        }

        async fn take(&mut self, _: &Commit) {
            self.0.acquire().await.unwrap().forget();
        }

        fn state(&self) -> Json {
            Json::Null
        }
    }

    #[tokio::test(start_paused = true)]
    async fn how_late_a_delivery_is_can_be_seen_within_a_batch() {
        let mut log = Written(Vec::new());
        for second in 1..4 {
            let mut next = Commit::clone(&commit(log.head() + 1, 2));
            next.time = Timestamp::from_micros(second * 1_000_000);
            log.0.push(Arc::new(next));
        }
        let (until, receiver) = watch::channel(0);
        let permits = Arc::new(tokio::sync::Semaphore::new(0));
        let parts = DeliveryParts {
            slot: None,
            log: Arc::new(log),
            until: receiver,
            consumer: Slow(Arc::clone(&permits)),
        };
        let delivery = Delivery::new(parts, Some(0));
        let (parts, shown) = (delivery.parts.unwrap(), delivery.shown);
        let seen = async {
            let mut seen = Vec::new();
            until.send_replace(6);
            for _ in 0..4 {
                rest().await;
                let state = shown.state.lock().clone();
                seen.push((
                    state.position,
                    state.oldest.map(|it| it.micros() / 1_000_000),
                ));
                permits.add_permits(1);
            }
            drop(until);
            seen
        };
        let ((), seen) = tokio::join!(run(parts, Arc::clone(&shown)), seen);
        assert_eq!(seen, [(0, Some(1)), (2, Some(2)), (4, Some(3)), (6, None)]);
    }

    /// Rests until it is roused at a position.
    struct Resting(Arc<AtomicBool>, tokio::sync::oneshot::Receiver<u64>);

    #[async_trait]
    impl Consumer for Resting {
        fn is_idle(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }

        async fn roused(&mut self) -> Option<u64> {
            let needless = (&mut self.1).await.ok();
            self.0.store(false, Ordering::SeqCst);
            needless
        }

        async fn take(&mut self, _: &Commit) {}

        fn state(&self) -> Json {
            Json::Null
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_passed_unread_is_not_late_when_the_consumer_is_roused() {
        let mut log = Written(Vec::new());
        for _ in 0..3 {
            log.0.push(commit(log.head() + 1, 2));
        }
        let (until, receiver) = watch::channel(0);
        let (rouse, roused) = tokio::sync::oneshot::channel();
        let parts = DeliveryParts {
            slot: None,
            log: Arc::new(log),
            until: receiver,
            consumer: Resting(Arc::new(AtomicBool::new(true)), roused),
        };
        let delivery = Delivery::new(parts, Some(0));
        let (parts, shown) = (delivery.parts.unwrap(), delivery.shown);
        let seen = async {
            until.send_replace(4);
            rest().await;
            assert!(shown.is_resting.load(Ordering::Relaxed));
            rouse.send(4).unwrap();
            rest().await;
            let roused_at = shown.state.lock().position;
            let is_resting = shown.is_resting.load(Ordering::Relaxed);
            until.send_replace(6);
            rest().await;
            drop(until);
            (is_resting, roused_at, shown.state.lock().position)
        };
        let ((), seen) = tokio::join!(run(parts, Arc::clone(&shown)), seen);
        assert_eq!(seen, (false, 4, 6));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However far it may go each time, every commit that comes while there is something to
        /// look at is delivered once, in order, and nothing else is.
        #[test]
        fn every_commit_is_delivered_once_and_in_order(
            begins_at in 0_usize..5,
            steps in prop::collection::vec((1_usize..6, any::<bool>()), 1..20),
            sizes in prop::collection::vec(1_u64..4, 100),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let mut log = Written(Vec::new());
            for size in sizes {
                log.0.push(commit(log.head() + 1, size));
            }
            let ends: Vec<u64> = log.0.iter().map(|commit| commit.last_position()).collect();
            let firsts: Vec<u64> = log.0.iter().map(|commit| commit.first_position()).collect();
            let begin = if begins_at == 0 { 0 } else { ends[begins_at - 1] };
            let (until, receiver) = watch::channel(begin);
            let (given, is_idle) = (Arc::default(), Arc::<AtomicBool>::default());
            let consumer = Noting { given: Arc::clone(&given), is_idle: Arc::clone(&is_idle) };
            let parts = DeliveryParts {
                slot: None,
                log: Arc::new(log),
                until: receiver,
                consumer,
            };
            let delivery = Delivery::new(parts, Some(begin));
            let (parts, shown) = (delivery.parts.unwrap(), delivery.shown);
            let mut expected = Vec::new();
            let given = runtime.block_on(async {
                let steps = async {
                    let mut at = begins_at;
                    for (step, idles) in steps {
                        is_idle.store(idles, Ordering::SeqCst);
                        let next = (at + step).min(ends.len());
                        if !idles {
                            expected.extend_from_slice(&firsts[at..next]);
                        }
                        at = next;
                        until.send_replace(ends[at - 1]);
                        rest().await;
                    }
                    drop(until);
                };
                tokio::join!(run(parts, shown), steps);
                given.lock().clone()
            });
            prop_assert_eq!(given, expected);
        }
    }
}
