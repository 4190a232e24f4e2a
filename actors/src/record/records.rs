//! All record types: the entry point for requests about records.
//!
//! Reads are answered here. Requests that change records go to the actor of their type, which is
//! started on demand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::dev::SendError;
use actix::{Actor, Addr, Arbiter, Handler};
use parking_lot::Mutex;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::Record;
use skytrail_schema::types::TypeDefinition;

use super::actor::{Counters, Outcomes, RecordActor, RecordActorState, Request};
use super::env::RecordEnv;
use super::handover::handover;
use super::history::{self, Change, ListVersions, RestoreRecord, VersionPage};
use super::messages::{
    ChangeType, CreateTypes, DeleteRecords, ExportPage, ExportRecords, FetchRecords, ItemResults,
    Precondition, QueryRecords, QueryReply, SaveRecords, SetFieldAccess,
};
use super::past::Moment;
use super::readers::{self, Readers};
use super::turns::Turns;
use super::{export, read, save, types};

/// Each time that the number of actors reaches a multiple of this, actors of types that do not
/// exist are dropped.
const SWEPT_AT: usize = 64;

/// The record actors by type, started on demand. An actor whose mailbox has closed is started
/// again: an actor keeps nothing that the log cannot restore.
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

    /// Returns what reading needs.
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

    /// Stops the actors' threads; work in progress is abandoned.
    pub fn stop(&self) {
        self.actors.lock().clear();
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }

    /// Saves records; returns one result per item, in request order.
    ///
    /// # Errors
    /// Whatever fails the request as a whole: 114, 115 for an atomic one, overload.
    pub async fn save(&self, command: SaveRecords) -> Result<ItemResults<Record>, ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        let items = command.items.iter().flatten();
        env.await_captured_to_write(items.map(|item| &item.id.record_type))
            .await?;
        // The actor of the first item sequences a batch across types; the log makes it atomic.
        let first = command
            .items
            .iter()
            .flatten()
            .next()
            .map(|item| item.id.record_type.clone());
        let is_privileged = command.context.caller.is_master();
        let saved = match first {
            Some(name) => self.ask(&name, command).await,
            None => save::save(&self.env, &Turns::default(), command).await,
        };
        show(&env, is_privileged).await;
        saved
    }

    /// Deletes records; returns one result per id, in request order.
    ///
    /// # Errors
    /// 115 for an atomic request, overload.
    pub async fn delete(&self, command: DeleteRecords) -> Result<ItemResults<RecordId>, ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        env.await_captured_to_write(command.ids.iter().map(|id| &id.record_type))
            .await?;
        let Some(first) = command.ids.first().map(|id| id.record_type.clone()) else {
            return Ok(Vec::new());
        };
        let is_privileged = command.context.caller.is_master();
        let deleted = self.ask(&first, command).await;
        show(&env, is_privileged).await;
        deleted
    }

    /// Fetches records; returns one result per id, in request order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn fetch(&self, command: FetchRecords) -> Result<ItemResults<Record>, ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        env.await_captured(command.ids.iter().map(|id| &id.record_type))
            .await?;
        read::fetch(&env, command).await
    }

    /// Runs a query.
    ///
    /// # Errors
    /// 120 and 124 for a query that the type's fields or the caller's rights do not allow.
    pub async fn query(&self, command: QueryRecords) -> Result<QueryReply, ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        env.await_captured([&command.query.record_type]).await?;
        read::query(&env, command).await
    }

    /// Reads a page of all records of a type.
    ///
    /// # Errors
    /// Those of [`Records::query`].
    pub async fn export(&self, command: ExportRecords) -> Result<ExportPage, ApiError> {
        self.env
            .await_captured([&command.query.record_type])
            .await?;
        export::page(&self.env, command).await
    }

    /// Lists the versions of a record.
    ///
    /// # Errors
    /// 110 for a record that never existed, 102 for a history that the caller may not see.
    pub async fn history(&self, command: ListVersions) -> Result<VersionPage, ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        env.await_captured([&command.id.record_type]).await?;
        history::list(&env, command).await
    }

    /// Returns what the event at a position changed in a record, whoever may see it.
    ///
    /// # Errors
    /// 108 for a position where nothing happened to the record.
    pub async fn changes_at(
        &self,
        id: &RecordId,
        position: u64,
    ) -> Result<BTreeMap<String, Change>, ApiError> {
        history::changes_at(&self.env, id, position).await
    }

    /// Finds out who could read a record at a moment.
    ///
    /// # Errors
    /// 108 for a moment in the future.
    pub async fn readers(&self, id: &RecordId, at: Moment) -> Result<Readers, ApiError> {
        readers::find(&self.env, id, at).await
    }

    /// Restores a record to what it was.
    ///
    /// # Errors
    /// Those of [`Records::history`] and of a save; 110 if the record did not exist then.
    pub async fn restore(&self, command: RestoreRecord) -> Result<Record, ApiError> {
        let (item, database) = history::restored(&self.env, &command).await?;
        let save = SaveRecords {
            context: command.context,
            database,
            items: vec![Ok(item)],
            is_atomic: false,
            precondition: Precondition::Nothing,
            name_limit: None,
        };
        let saved = self.save(save).await?.into_iter().next();
        let lost = || ApiError::unexpected("the record was not saved");
        saved.ok_or_else(lost)?.map_err(|item| item.error)
    }

    /// Changes a type's settings or one of its fields.
    ///
    /// # Errors
    /// 110 for a field that does not exist, or whose new name is taken; overload.
    pub async fn change_type(&self, command: ChangeType) -> Result<(), ApiError> {
        let addr = self.actor(&command.name).ok_or_else(no_thread)?;
        let changed = addr.send(command).await;
        changed.map_err(|_| no_answer())?
    }

    /// Creates types and gives them fields.
    ///
    /// # Errors
    /// 114 for a field that exists with another type, or that refers to a missing type.
    pub async fn create_types(&self, command: CreateTypes) -> Result<(), ApiError> {
        let env = self.env.for_caller(&command.context.caller);
        types::create(&self.env, command).await?;
        show(&env, true).await;
        Ok(())
    }

    /// Returns all types with their fields, as clients and plugins see them.
    pub fn schema(&self) -> Json {
        types::schema(&self.env)
    }

    /// Returns all types.
    pub fn definitions(&self) -> Vec<Arc<TypeDefinition>> {
        self.env.model.get_types()
    }

    /// Sets the rules of access to fields.
    ///
    /// # Errors
    /// Overload.
    pub async fn set_field_access(&self, command: SetFieldAccess) -> Result<(), ApiError> {
        types::set_field_access(&self.env, command).await
    }

    /// Returns the rules of access to fields.
    pub fn field_access(&self) -> FieldAccess {
        self.env.model.get_field_access().1
    }

    fn actor(&self, name: &TypeName) -> Option<Addr<RecordActor>> {
        let mut actors = self.actors.lock();
        if let Some(running) = actors.get(name)
            && running.addr.connected()
        {
            return Some(running.addr.clone());
        }
        if actors.len().is_multiple_of(SWEPT_AT) {
            // Requests can name any type; types that do not exist leave nothing behind.
            actors.retain(|name, _| self.env.definition(name).is_created);
        }
        let arbiter = self.arbiters.get(actors.len() % self.arbiters.len())?;
        let counters = Arc::new(Counters::default());
        let actor = RecordActor::new(self.env.clone(), Arc::clone(&counters));
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

    /// Lets a type's actor begin with a message, and continues the work here once the actor has
    /// decided.
    async fn ask<M, T>(&self, name: &TypeName, message: M) -> Outcomes<T>
    where
        M: Send + 'static,
        T: Send + 'static,
        RecordActor: Handler<Request<M, T>>,
    {
        let addr = self.actor(name).ok_or_else(no_thread)?;
        let (sender, receiver) = handover();
        match addr.try_send(Request { message, sender }) {
            Ok(()) => {}
            Err(SendError::Closed(_)) => return Err(no_answer()),
            // Waits until the mailbox has room again.
            Err(SendError::Full(request)) => addr.send(request).await.map_err(|_| no_answer())?,
        }
        receiver.await.unwrap_or_else(|| Err(no_answer()))
    }
}

/// Waits a short while until what was just written is in the tables that others read and write: a
/// plugin continues there with what it has saved while it answers one request. The write is stored
/// in any case.
async fn show(env: &RecordEnv, is_for_plugin: bool) {
    if is_for_plugin {
        env.captured.show(&env.applied, &env.model, None).await;
    }
}

fn no_thread() -> ApiError {
    ApiError::overloaded("the server")
}

fn no_answer() -> ApiError {
    ApiError::overloaded("the record type")
}
