//! A consumer's actor, and the handle to it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{
    Actor, Addr, ArbiterHandle, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use tokio::sync::{mpsc, oneshot, watch};

use super::delivery_loop::DeliveryLoop;
use super::messages::{Command, ConsumerState, Order};
use super::parts::{ConsumerParts, LogSide, Recipient};
use super::store::{ConsumerCheckpoint, LogConsumerOptions};

/// How many commands can be queued.
const MAILBOX: usize = 256;

/// See the module.
pub(super) struct ConsumerActor {
    recipient: Recipient,
    delivery_loop: Option<DeliveryLoop>,
    commands: mpsc::Sender<Command>,
}

/// What a consumer shows of its state.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) state: Mutex<ConsumerState>,
    /// Whether so much of the log is still unread that a commit from now will take a while.
    pub(super) is_behind: AtomicBool,
    /// Whether so many deliveries are open that no more of the log is read.
    pub(super) is_full: AtomicBool,
    /// Its checkpoint in the ops store, from which a replacement continues if this actor is lost.
    /// `None` for a new plugin.
    pub(super) saved: Mutex<Option<ConsumerCheckpoint>>,
}

/// The handle to a consumer's actor.
#[derive(Clone)]
pub(super) struct ConsumerHandle {
    address: Addr<ConsumerActor>,
    commands: mpsc::Sender<Command>,
    shown: Arc<Shown>,
    recipient: Recipient,
    /// The hooks that it has promised to deliver to, by their keys.
    promised: watch::Receiver<Arc<BTreeSet<String>>>,
}

impl ConsumerHandle {
    /// Starts an actor. `checkpoint` is `None` for a new plugin.
    pub(super) fn start(
        parts: ConsumerParts,
        checkpoint: Option<ConsumerCheckpoint>,
        arbiter: &ArbiterHandle,
    ) -> Self {
        let (commands, orders) = mpsc::channel(MAILBOX);
        let (promises, promised) = watch::channel(Arc::default());
        let shown = Arc::new(Shown {
            saved: Mutex::new(checkpoint.clone()),
            ..Shown::default()
        });
        let recipient = parts.recipient.clone();
        let delivery_loop =
            DeliveryLoop::new(parts, checkpoint, orders, (promises, Arc::clone(&shown)));
        let actor = ConsumerActor {
            recipient: recipient.clone(),
            delivery_loop: Some(delivery_loop),
            commands: commands.clone(),
        };
        let address = ConsumerActor::start_in_arbiter(arbiter, |_| actor);
        Self {
            address,
            commands,
            shown,
            recipient,
            promised,
        }
    }

    pub(super) fn state(&self) -> ConsumerState {
        self.shown.state.lock().clone()
    }

    /// Returns the log side of a consumer of the log.
    pub(super) fn log(&self) -> Option<&LogSide> {
        match &self.recipient {
            Recipient::Plugin => None,
            Recipient::Log(side) => Some(side),
        }
    }

    pub(super) fn options(&self) -> Option<&LogConsumerOptions> {
        self.log().map(|side| &side.options)
    }

    /// Returns whether it delivers: it has not been closed, and has not panicked.
    pub(super) fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Takes the stored checkpoint of an actor that is gone.
    pub(super) fn take_saved(&self) -> Option<ConsumerCheckpoint> {
        self.shown.saved.lock().take()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.shown.is_behind.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.shown.is_full.load(Ordering::Relaxed)
    }

    /// Waits until the actor has promised to deliver to these hooks, and the promise is durable.
    pub(super) async fn promises(&self, hooks: &[String]) {
        let mut promised = self.promised.clone();
        let has_all = |known: &Arc<BTreeSet<String>>| hooks.iter().all(|it| known.contains(it));
        // An actor that is gone promises nothing; the caller's timeout ends this.
        if promised.wait_for(has_all).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends the actor a command that needs no answer; it is lost if the mailbox is full.
    pub(super) fn tell(&self, command: Command) {
        let _ = self.commands.try_send(command);
    }

    /// Makes the actor save its state.
    pub(super) async fn keep(&self) {
        let (done, kept) = oneshot::channel();
        if self.commands.send(Command::Keep(done)).await.is_ok() {
            let _ = kept.await;
        }
    }

    /// Makes the actor save its state and end.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    pub(super) async fn order(&self, order: Order) -> Result<ConsumerState, ApiError> {
        let ordered = self.address.send(Ask(order)).await;
        ordered.unwrap_or_else(|_| Err(ApiError::overloaded("the delivery")))
    }
}

impl Actor for ConsumerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(delivery_loop) = self.delivery_loop.take() {
            ctx.spawn(delivery_loop.run().into_actor(self));
        }
    }
}

impl Drop for ConsumerActor {
    /// Closes the dispatcher, because its workers get nothing any more and must reconnect.
    fn drop(&mut self) {
        if let Recipient::Log(side) = &self.recipient {
            side.dispatcher.close();
        }
    }
}

/// Asks for an [`Order`].
#[derive(Debug)]
pub(super) struct Ask(Order);

impl Message for Ask {
    type Result = Result<ConsumerState, ApiError>;
}

impl Handler<Ask> for ConsumerActor {
    type Result = ResponseFuture<Result<ConsumerState, ApiError>>;

    fn handle(&mut self, ask: Ask, _: &mut Self::Context) -> Self::Result {
        let commands = self.commands.clone();
        Box::pin(async move {
            let busy = || ApiError::overloaded("the delivery");
            let (reply, replied) = oneshot::channel();
            let command = Command::Order(ask.0, reply);
            commands.try_send(command).map_err(|_| busy())?;
            replied.await.map_err(|_| busy())?
        })
    }
}
