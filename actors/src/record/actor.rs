//! The actor of one record type.
//!
//! The actor does not block to keep things in sequence: its handlers return futures, so a slow hook
//! of one save does not hold back another save. The actor owns its counters and the turns: requests
//! that have lost too many races run one at a time, those about the same records ([`super::turns`])
//! and those about the type itself. It decides; the caller itself waits for the log
//! ([`super::handover`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Record;

use super::env::RecordEnv;
use super::handover::HandoverSender;
use super::messages::{ChangeType, DeleteRecords, ItemResults, SaveRecords};
use super::turns::Turns;
use super::{delete, save, types};

/// How many messages can wait for one record type.
const MAILBOX: usize = 1024;

/// What a record actor reports about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecordActorState {
    /// The record type.
    pub record_type: String,
    /// Saves received since the start.
    pub num_saves: u64,
    /// Deletes received since the start.
    pub num_deletes: u64,
    /// Whether it accepts messages. One that does not is started again when it is needed.
    pub is_alive: bool,
}

/// See the module's overview.
pub struct RecordActor {
    env: RecordEnv,
    /// For changes of the type.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// For changes of its records.
    turns: Arc<Turns>,
    counters: Arc<Counters>,
}

/// What an actor counts. Whoever started the actor reads this too.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) saves: AtomicU64,
    pub(super) deletes: AtomicU64,
}

impl RecordActor {
    pub(super) fn new(env: RecordEnv, counters: Arc<Counters>) -> Self {
        Self {
            env,
            turn: Arc::default(),
            turns: Arc::default(),
            counters,
        }
    }
}

impl Actor for RecordActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// The outcome of a message about items.
pub(super) type Outcomes<T> = Result<ItemResults<T>, ApiError>;

/// A message, and where its outcome goes.
pub(super) struct Request<M, T: Send + 'static> {
    pub(super) message: M,
    pub(super) sender: HandoverSender<Outcomes<T>>,
}

impl<M, T: Send + 'static> Message for Request<M, T> {
    type Result = ();
}

impl Message for ChangeType {
    type Result = Result<(), ApiError>;
}

impl Handler<Request<SaveRecords, Record>> for RecordActor {
    type Result = ResponseFuture<()>;

    fn handle(
        &mut self,
        request: Request<SaveRecords, Record>,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.counters.saves.fetch_add(1, Ordering::Relaxed);
        let (env, turns) = (self.env.clone(), Arc::clone(&self.turns));
        let commit_gate = request.message.context.commit_gate.clone();
        let saving = async move { save::save(&env, &turns, request.message).await };
        Box::pin(async move { request.sender.begin(saving, &commit_gate).await })
    }
}

impl Handler<Request<DeleteRecords, RecordId>> for RecordActor {
    type Result = ResponseFuture<()>;

    fn handle(
        &mut self,
        request: Request<DeleteRecords, RecordId>,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.counters.deletes.fetch_add(1, Ordering::Relaxed);
        let (env, turns) = (self.env.clone(), Arc::clone(&self.turns));
        let commit_gate = request.message.context.commit_gate.clone();
        let deleting = async move { delete::delete(&env, &turns, request.message).await };
        Box::pin(async move { request.sender.begin(deleting, &commit_gate).await })
    }
}

impl Handler<ChangeType> for RecordActor {
    type Result = ResponseFuture<Result<(), ApiError>>;

    fn handle(&mut self, command: ChangeType, _: &mut Self::Context) -> Self::Result {
        let (env, turn) = (self.env.clone(), Arc::clone(&self.turn));
        Box::pin(async move { types::change(&env, &turn, command).await })
    }
}
