//! The actor of one record type, and the registry that starts it.
//!
//! The actor sequences nothing by blocking: its handlers return futures, so a
//! slow hook of one save holds back no other. What it owns is the type's turn
//! (who has lost too many races goes through one at a time) and its counters.
//! It decides; whoever asked waits for the log himself ([`super::handover`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::dev::SendError;
use actix::{Actor, Addr, Arbiter, Context, Handler, Message, ResponseFuture};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Record;

use super::env::RecordEnv;
use super::handover::{Giver, handover};
use super::history::{self, Change, ListVersions, RestoreRecord, VersionPage};
use super::messages::{
    ChangeType, CreateTypes, DeleteRecords, ExportPage, ExportRecords, FetchRecords, ImportRecords,
    ItemResults, QueryRecords, QueryReply, SaveRecords, SetFieldAccess,
};
use super::past::Moment;
use super::readers::{self, Readers};
use super::service::RecordService;
use super::{delete, export, read, save, types};
use crate::import::{Importer, Outcome};

/// How many messages may wait for one record type.
const MAILBOX: usize = 1024;

/// What a record actor says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RecordActorState {
    /// The record type.
    pub record_type: String,
    /// Saves taken since the start.
    pub num_saves: u64,
    /// Deletes taken since the start.
    pub num_deletes: u64,
    /// Whether it takes messages; one that does not is started again when it is needed.
    pub is_alive: bool,
}

/// See the module's overview.
pub struct RecordActor {
    env: RecordEnv,
    turn: Arc<tokio::sync::Mutex<()>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    saves: AtomicU64,
    deletes: AtomicU64,
}

impl Actor for RecordActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX);
    }
}

/// What comes of a message about items.
type Outcomes<T> = Result<ItemResults<T>, ApiError>;

/// A message, and where its outcome goes.
struct Request<M, T: Send + 'static> {
    message: M,
    giver: Giver<Outcomes<T>>,
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
        let (env, turn) = (self.env.clone(), Arc::clone(&self.turn));
        let storing = request.message.context.storing.clone();
        let saving = async move { save::save(&env, &turn, request.message).await };
        Box::pin(async move { request.giver.begin(saving, &storing).await })
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
        let (env, turn) = (self.env.clone(), Arc::clone(&self.turn));
        let storing = request.message.context.storing.clone();
        let deleting = async move { delete::delete(&env, &turn, request.message).await };
        Box::pin(async move { request.giver.begin(deleting, &storing).await })
    }
}

impl Handler<ChangeType> for RecordActor {
    type Result = ResponseFuture<Result<(), ApiError>>;

    fn handle(&mut self, command: ChangeType, _: &mut Self::Context) -> Self::Result {
        let (env, turn) = (self.env.clone(), Arc::clone(&self.turn));
        Box::pin(async move { types::change(&env, &turn, command).await })
    }
}

/// After so many more actors those of types that there are not are let go.
const SWEPT_AT: usize = 64;

/// How long a plugin's write waits until the tables have it.
const SHOWN_DEADLINE: std::time::Duration = std::time::Duration::from_secs(2);

/// The record actors by type, started on demand. One whose mailbox has closed is started again:
/// nothing lives in an actor that the log cannot give back.
pub struct Records {
    env: RecordEnv,
    arbiters: Vec<Arbiter>,
    actors: Mutex<HashMap<TypeName, Running>>,
}

struct Running {
    addr: Addr<RecordActor>,
    counters: Arc<Counters>,
}

impl Records {
    /// Builds the registry; the actors run on `num_threads` threads of their own.
    pub fn new(env: RecordEnv, num_threads: usize) -> Self {
        let arbiters = (0..num_threads.max(1)).map(|_| Arbiter::new()).collect();
        Self {
            env,
            arbiters,
            actors: Mutex::new(HashMap::new()),
        }
    }

    /// Returns the parts that reading needs.
    pub fn env(&self) -> &RecordEnv {
        &self.env
    }

    /// Returns the state of every running actor.
    pub fn states(&self) -> Vec<RecordActorState> {
        let state_of = |(name, running): (&TypeName, &Running)| RecordActorState {
            record_type: name.to_string(),
            num_saves: running.counters.saves.load(Ordering::Relaxed),
            num_deletes: running.counters.deletes.load(Ordering::Relaxed),
            is_alive: running.addr.connected(),
        };
        self.actors.lock().iter().map(state_of).collect()
    }

    /// Stops the actors' threads; what they are doing is abandoned.
    pub fn stop(&self) {
        self.actors.lock().clear();
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }

    fn actor(&self, name: &TypeName) -> Option<Addr<RecordActor>> {
        let mut actors = self.actors.lock();
        if let Some(running) = actors.get(name)
            && running.addr.connected()
        {
            return Some(running.addr.clone());
        }
        if actors.len().is_multiple_of(SWEPT_AT) {
            // Types of any name can be asked for; those that there are not leave nothing behind.
            actors.retain(|name, _| self.env.definition(name).is_created);
        }
        let arbiter = self.arbiters.get(actors.len() % self.arbiters.len())?;
        let counters = Arc::new(Counters::default());
        let actor = RecordActor {
            env: self.env.clone(),
            turn: Arc::default(),
            counters: Arc::clone(&counters),
        };
        let addr = RecordActor::start_in_arbiter(&arbiter.handle(), |_| actor);
        actors.insert(
            name.clone(),
            Running {
                addr: addr.clone(),
                counters,
            },
        );
        Some(addr)
    }

    /// Waits a while until what was just written is in the tables that others read and write: a plugin
    /// goes on there with what it has saved. It is stored all the same.
    async fn show(&self, is_for_plugin: bool) {
        if is_for_plugin && self.env.captured.is_served() {
            let shown = self.env.applied.wait_for(self.env.model.position());
            let _ = tokio::time::timeout(SHOWN_DEADLINE, shown).await;
        }
    }

    /// Has a type's actor begin with a message, and goes on with it when that has decided.
    async fn ask<M, T>(&self, name: &TypeName, message: M) -> Outcomes<T>
    where
        M: Send + 'static,
        T: Send + 'static,
        RecordActor: Handler<Request<M, T>>,
    {
        let addr = self.actor(name).ok_or_else(no_thread)?;
        let (giver, taker) = handover();
        match addr.try_send(Request { message, giver }) {
            Ok(()) => {}
            Err(SendError::Closed(_)) => return Err(no_answer()),
            // There is room when some have been taken up.
            Err(SendError::Full(request)) => addr.send(request).await.map_err(|_| no_answer())?,
        }
        taker.await.unwrap_or_else(|| Err(no_answer()))
    }
}

fn no_thread() -> ApiError {
    ApiError::overloaded("the server")
}

fn no_answer() -> ApiError {
    ApiError::overloaded("the record type")
}

#[async_trait]
impl RecordService for Records {
    async fn save(&self, command: SaveRecords) -> Result<ItemResults<Record>, ApiError> {
        let items = command.items.iter().flatten();
        self.env
            .settle(items.map(|item| &item.id.record_type))
            .await?;
        // A batch across types is sequenced by the first one's actor; the log makes it atomic.
        let first = command
            .items
            .iter()
            .flatten()
            .next()
            .map(|item| item.id.record_type.clone());
        let is_privileged = command.context.caller.is_master();
        let saved = match first {
            Some(name) => self.ask(&name, command).await,
            None => save::save(&self.env, &tokio::sync::Mutex::new(()), command).await,
        };
        self.show(is_privileged).await;
        saved
    }

    async fn delete(&self, command: DeleteRecords) -> Result<ItemResults<RecordId>, ApiError> {
        self.env
            .settle(command.ids.iter().map(|id| &id.record_type))
            .await?;
        let Some(first) = command.ids.first().map(|id| id.record_type.clone()) else {
            return Ok(Vec::new());
        };
        let is_privileged = command.context.caller.is_master();
        let deleted = self.ask(&first, command).await;
        self.show(is_privileged).await;
        deleted
    }

    async fn fetch(&self, command: FetchRecords) -> Result<ItemResults<Record>, ApiError> {
        self.env
            .settle(command.ids.iter().map(|id| &id.record_type))
            .await?;
        read::fetch(&self.env, command).await
    }

    async fn query(&self, command: QueryRecords) -> Result<QueryReply, ApiError> {
        self.env.settle([&command.query.record_type]).await?;
        read::query(&self.env, command).await
    }

    async fn export(&self, command: ExportRecords) -> Result<ExportPage, ApiError> {
        self.env.settle([&command.query.record_type]).await?;
        export::page(&self.env, command).await
    }

    async fn import(&self, command: ImportRecords) -> Result<Vec<Outcome>, ApiError> {
        let importer = Importer::new(self.env.clone(), command.options).on_behalf(command.context);
        importer
            .planning(command.planned)?
            .partial_records(command.records, command.postpones)
            .await
    }

    async fn history(&self, command: ListVersions) -> Result<VersionPage, ApiError> {
        self.env.settle([&command.id.record_type]).await?;
        history::list(&self.env, command).await
    }

    async fn changes_at(
        &self,
        id: &RecordId,
        position: u64,
    ) -> Result<BTreeMap<String, Change>, ApiError> {
        history::changes_at(&self.env, id, position).await
    }

    async fn readers(&self, id: &RecordId, at: Moment) -> Result<Readers, ApiError> {
        readers::find(&self.env, id, at).await
    }

    async fn restore(&self, command: RestoreRecord) -> Result<Record, ApiError> {
        let (item, database) = history::restored(&self.env, &command).await?;
        let save = SaveRecords {
            context: command.context,
            database,
            items: vec![Ok(item)],
            is_atomic: false,
        };
        let saved = self.save(save).await?.into_iter().next();
        let lost = || ApiError::unexpected("the record was not saved");
        saved.ok_or_else(lost)?.map_err(|item| item.error)
    }

    async fn change_type(&self, command: ChangeType) -> Result<(), ApiError> {
        let addr = self.actor(&command.name).ok_or_else(no_thread)?;
        let changed = addr.send(command).await;
        changed.map_err(|_| no_answer())?
    }

    async fn create_types(&self, command: CreateTypes) -> Result<(), ApiError> {
        types::create(&self.env, command).await?;
        self.show(true).await;
        Ok(())
    }

    fn schema(&self) -> Json {
        types::schema(&self.env)
    }

    async fn set_field_access(&self, command: SetFieldAccess) -> Result<(), ApiError> {
        types::set_field_access(&self.env, command).await
    }

    fn field_access(&self) -> FieldAccess {
        self.env.model.get_field_access().1
    }
}
