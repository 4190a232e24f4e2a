//! The actor and its loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::AppliedSender;
use crate::log::EventLog;
use crate::record::write_model::WriteModel;
use crate::store::{RecordStore, StoreError, UnavailableReason};

/// About how many events one transaction applies.
const BATCH_EVENTS: usize = 1024;
/// While nothing is committed, how often it looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After a batch smaller than this the projector lingers, unless someone waits for it: a
/// transaction costs much the same for one event as for a hundred.
const SMALL_BATCH_EVENTS: u64 = 512;
const LINGER: Duration = Duration::from_millis(25);
/// The pause after a failed transaction, doubled each time up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The shortest pause after a lock was waited for in vain; otherwise it is half as long as the wait.
/// Meanwhile those can continue who wait for this transaction, or behind it for the same lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Who takes longer for a batch is held up: by others who hold a lock, or by a slow disk.
const HELD_UP: Duration = Duration::from_secs(5);

/// What the projector works with.
pub struct ProjectorParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The store.
    pub store: Arc<dyn RecordStore>,
    /// Learns what it may forget.
    pub model: Arc<WriteModel>,
    /// Tells the readers how far the store is; at first its checkpoint.
    pub applied: AppliedSender,
}

/// What the projector says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProjectorState {
    /// The last applied position.
    pub position: u64,
    /// Transactions since the start.
    pub num_batches: u64,
    /// Failed transactions since the start.
    pub num_failures: u64,
    /// Whether the last transaction failed, or one takes long.
    pub is_failing: bool,
    /// Why it did.
    pub reason: Option<String>,
    /// Events, or parts of them, that the store could not take, ever: the log alone has those.
    pub num_faults: u64,
}

/// See the module's overview.
pub struct Projector {
    parts: Option<ProjectorParts>,
    store: Arc<dyn RecordStore>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    position: AtomicU64,
    num_batches: AtomicU64,
    num_failures: AtomicU64,
    is_failing: AtomicBool,
    reason: Mutex<Option<String>>,
    is_stopping: AtomicBool,
    stopped: Notify,
    has_stopped: AtomicBool,
}

impl Shared {
    /// Takes note of why nothing is applied at present.
    fn fail(&self, reason: String) {
        self.is_failing.store(true, Ordering::Relaxed);
        *self.reason.lock() = Some(reason);
    }
}

impl Projector {
    /// Builds the projector.
    pub fn new(parts: ProjectorParts) -> Self {
        let shared = Arc::new(Shared::default());
        shared
            .position
            .store(parts.applied.position(), Ordering::Relaxed);
        Self {
            store: Arc::clone(&parts.store),
            parts: Some(parts),
            shared,
        }
    }
}

impl Actor for Projector {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(parts) = self.parts.take() {
            let shared = Arc::clone(&self.shared);
            ctx.spawn(run(parts, shared).into_actor(self));
        }
    }
}

/// Asks for the state.
#[derive(Debug)]
pub struct GetProjectorState;

impl Message for GetProjectorState {
    type Result = Option<ProjectorState>;
}

impl Handler<GetProjectorState> for Projector {
    type Result = Option<ProjectorState>;

    fn handle(&mut self, _: GetProjectorState, _: &mut Self::Context) -> Self::Result {
        Some(ProjectorState {
            position: self.shared.position.load(Ordering::Relaxed),
            num_batches: self.shared.num_batches.load(Ordering::Relaxed),
            num_failures: self.shared.num_failures.load(Ordering::Relaxed),
            is_failing: self.shared.is_failing.load(Ordering::Relaxed),
            reason: self.shared.reason.lock().clone(),
            num_faults: self.store.num_faults(),
        })
    }
}

/// Applies what is in the log, and stops. Replies when it has; the caller sets the deadline.
#[derive(Debug)]
pub struct StopProjector;

impl Message for StopProjector {
    type Result = ();
}

impl Handler<StopProjector> for Projector {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopProjector, _: &mut Self::Context) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        shared.is_stopping.store(true, Ordering::Release);
        Box::pin(async move {
            let stopped = shared.stopped.notified();
            if !shared.has_stopped.load(Ordering::Acquire) {
                stopped.await;
            }
        })
    }
}

/// Applies the log until told to stop and nothing is left.
async fn run(parts: ProjectorParts, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut locked_since = None;
    loop {
        let position = shared.position.load(Ordering::Relaxed);
        // What is undone each time should be little.
        let is_held_up = locked_since.is_some_and(|since: Instant| since.elapsed() > HELD_UP);
        let max_events = if is_held_up { 1 } else { BATCH_EVENTS };
        let batch = match parts.log.read(position + 1, max_events).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(%error, "the log cannot be read");
                if shared.is_stopping.load(Ordering::Acquire) {
                    break;
                }
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        let Some(last) = batch.last().map(|commit| commit.last_position()) else {
            if shared.is_stopping.load(Ordering::Acquire) && parts.log.head() <= position {
                break;
            }
            let _ = tokio::time::timeout(LOOK_EVERY, parts.log.beyond(position)).await;
            continue;
        };
        let attempt = Instant::now();
        let mut applying = parts.store.apply(&batch);
        let applied = match tokio::time::timeout(HELD_UP, &mut applying).await {
            Ok(applied) => applied,
            Err(_late) => {
                let mut reason = format!(
                    "applying the same events for more than {} s",
                    HELD_UP.as_secs()
                );
                // What held up the attempt before may hold up this one.
                if let Some(before) = &*shared.reason.lock() {
                    reason = format!("{reason}; before: {before}");
                }
                tracing::warn!(position, reason, "the record store is held up");
                shared.fail(reason);
                applying.await
            }
        };
        match applied {
            Ok(()) => {
                pause = FIRST_PAUSE;
                locked_since = None;
                if shared.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(position = last, "the record store accepts events again");
                    *shared.reason.lock() = None;
                }
                shared.num_batches.fetch_add(1, Ordering::Relaxed);
                shared.position.store(last, Ordering::Release);
                parts.model.projected(last);
                parts.applied.reached(last);
                let is_stopping = shared.is_stopping.load(Ordering::Acquire);
                if last - position < SMALL_BATCH_EVENTS && !is_stopping {
                    let demand = parts.applied.demand.notified();
                    let _ = tokio::time::timeout(LINGER, demand).await;
                }
            }
            // Others' transactions are usually short, and each attempt waits for the lock.
            Err(StoreError::Unavailable {
                why: UnavailableReason::Locked,
                cause,
            }) => {
                parts.applied.fail(UnavailableReason::Locked);
                let since = *locked_since.get_or_insert_with(Instant::now);
                if since.elapsed() > HELD_UP {
                    if !shared.is_failing.load(Ordering::Relaxed) {
                        tracing::warn!(position, cause, "the record store is held up");
                    }
                    shared.fail(cause);
                }
                if shared.is_stopping.load(Ordering::Acquire) {
                    break;
                }
                tokio::time::sleep(LOCK_PAUSE.max(attempt.elapsed() / 2)).await;
            }
            Err(error) => {
                tracing::error!(%error, position, "the record store does not accept events");
                shared.fail(error.to_string());
                parts.applied.fail(match &error {
                    StoreError::Unavailable { why, .. } => *why,
                    _ => UnavailableReason::Failing,
                });
                shared.num_failures.fetch_add(1, Ordering::Relaxed);
                if shared.is_stopping.load(Ordering::Acquire) {
                    // The next start applies what is left.
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    shared.has_stopped.store(true, Ordering::Release);
    shared.stopped.notify_waiters();
}
