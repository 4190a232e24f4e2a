//! The actor and its loop.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::AppliedSender;
use crate::log::EventLog;
use crate::record::write_model::WriteModel;
use crate::store::{RecordStore, StoreError, UnavailableReason};

/// About how many events one transaction applies at most.
const BATCH_EVENTS: usize = 1024;
/// The pause after the log could not be read.
const READ_PAUSE: Duration = Duration::from_millis(200);

/// After a batch smaller than this the projector lingers, unless someone waits for it: a
/// transaction costs much the same for one event as for a hundred.
const SMALL_BATCH_EVENTS: usize = 512;
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

/// What the actor shares with its loop.
#[derive(Default)]
struct Shared {
    /// The store knows the number of faults.
    state: Mutex<ProjectorState>,
    /// Cancelled when the loop is to end.
    stopping: CancellationToken,
    /// Cancelled when it has ended.
    stopped: CancellationToken,
}

impl Shared {
    /// Takes note of why nothing is applied at present. Returns whether something was until now.
    fn fail(&self, reason: String) -> bool {
        let mut state = self.state.lock();
        state.reason = Some(reason);
        !std::mem::replace(&mut state.is_failing, true)
    }

    /// Takes note of a batch. Returns whether the one before failed.
    fn applied(&self, last: u64) -> bool {
        let mut state = self.state.lock();
        state.position = last;
        state.num_batches += 1;
        state.reason = None;
        std::mem::replace(&mut state.is_failing, false)
    }
}

impl Projector {
    /// Builds the projector.
    pub fn new(parts: ProjectorParts) -> Self {
        let shared = Arc::new(Shared::default());
        shared.state.lock().position = parts.applied.position();
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
            num_faults: self.store.num_faults(),
            ..self.shared.state.lock().clone()
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
        self.shared.stopping.cancel();
        Box::pin(self.shared.stopped.clone().cancelled_owned())
    }
}

/// Applies the log until told to stop and nothing is left.
async fn run(parts: ProjectorParts, shared: Arc<Shared>) {
    let _ended = shared.stopped.clone().drop_guard();
    let mut position = parts.applied.position();
    let mut pause = FIRST_PAUSE;
    let mut locked_since = None;
    // While others lock rows again and again, a large transaction meets one of them each time, and
    // all of it is undone. So this is smaller after each that was, and grows again only gradually.
    let mut max_events = BATCH_EVENTS;
    loop {
        let batch = match parts.log.read(position + 1, max_events).await {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(%error, "the log cannot be read");
                if shared.stopping.is_cancelled() {
                    break;
                }
                tokio::time::sleep(READ_PAUSE).await;
                continue;
            }
        };
        let Some(last) = batch.last().map(|commit| commit.last_position()) else {
            if shared.stopping.is_cancelled() && parts.log.head() <= position {
                break;
            }
            tokio::select! {
                () = parts.log.beyond(position) => {}
                () = shared.stopping.cancelled() => {}
            }
            continue;
        };
        let num_events = usize::try_from(last - position).unwrap_or(usize::MAX);
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
                if let Some(before) = &shared.state.lock().reason {
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
                if shared.applied(last) {
                    tracing::info!(position = last, "the record store accepts events again");
                }
                parts.model.projected(last);
                parts.applied.reached(last);
                position = last;
                let may_linger = num_events < SMALL_BATCH_EVENTS.min(max_events);
                max_events = (max_events * 2).min(BATCH_EVENTS);
                if may_linger && !shared.stopping.is_cancelled() {
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
                max_events = (num_events / 2).clamp(1, BATCH_EVENTS);
                let since = *locked_since.get_or_insert_with(Instant::now);
                if since.elapsed() > HELD_UP && shared.fail(cause.clone()) {
                    tracing::warn!(position, cause, "the record store is held up");
                }
                if shared.stopping.is_cancelled() {
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
                shared.state.lock().num_failures += 1;
                if shared.stopping.is_cancelled() {
                    // The next start applies what is left.
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
