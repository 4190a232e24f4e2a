//! The actor and its loop.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, WrapFuture};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;

use super::Consumer;
use crate::log::EventLog;
use crate::log::tail::Tail;
use crate::projector::Applied;

/// The pause when the log cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

/// What a delivery works with.
pub struct DeliveryParts<C> {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// What the committer hands over.
    pub tail: Tail,
    /// How far the store is.
    pub applied: Applied,
    /// Who gets the events.
    pub consumer: C,
}

/// What a delivery says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DeliveryState {
    /// The last position that was delivered or let go by.
    pub position: u64,
    /// What the consumer says of itself.
    pub consumer: Json,
}

/// See the module's overview.
pub struct Delivery<C> {
    parts: Option<DeliveryParts<C>>,
    state: Arc<Mutex<DeliveryState>>,
}

impl<C: Consumer> Delivery<C> {
    /// Builds a delivery of what is applied from now on.
    pub fn new(parts: DeliveryParts<C>) -> Self {
        let state = DeliveryState {
            position: parts.applied.position(),
            consumer: parts.consumer.state(),
        };
        Self {
            parts: Some(parts),
            state: Arc::new(Mutex::new(state)),
        }
    }
}

impl<C: Consumer + Unpin> Actor for Delivery<C> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(parts) = self.parts.take() {
            ctx.spawn(run(parts, Arc::clone(&self.state)).into_actor(self));
        }
    }
}

/// Asks for the state.
#[derive(Debug)]
pub struct GetDeliveryState;

impl Message for GetDeliveryState {
    type Result = Option<DeliveryState>;
}

impl<C: Consumer + Unpin> Handler<GetDeliveryState> for Delivery<C> {
    type Result = Option<DeliveryState>;

    fn handle(&mut self, _: GetDeliveryState, _: &mut Self::Context) -> Self::Result {
        Some(self.state.lock().clone())
    }
}

/// Delivers until the projector is gone.
async fn run<C: Consumer>(mut parts: DeliveryParts<C>, state: Arc<Mutex<DeliveryState>>) {
    let mut position = state.lock().position;
    while let Some(until) = parts.applied.beyond(position).await {
        if parts.consumer.is_idle() {
            parts.tail.skip(until);
            position = until;
        } else {
            let commits = parts.tail.take(&*parts.log, position, until).await;
            if commits.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            for commit in commits {
                parts.consumer.take(&commit).await;
                position = commit.last_position();
            }
        }
        let mut state = state.lock();
        state.position = position;
        state.consumer = parts.consumer.state();
    }
}
