//! All record types: what is asked of records, and who answers it.
//!
//! Reads are answered here. What changes records goes to the actor of their type, which is started on
//! demand.

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

use super::actor::{Counters, Outcomes, RecordActor, RecordActorState, Request};
use super::env::RecordEnv;
use super::handover::handover;
use super::history::{self, Change, ListVersions, RestoreRecord, VersionPage};
use super::messages::{
    ChangeType, CreateTypes, DeleteRecords, ExportPage, ExportRecords, FetchRecords, ImportRecords,
    ItemResults, QueryRecords, QueryReply, SaveRecords, SetFieldAccess,
};
use super::past::Moment;
use super::readers::{self, Readers};
use super::{export, read, save, types};
use crate::import::{Importer, Outcome};

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

    /// Saves; one result per item, in request order.
    ///
    /// # Errors
    /// Whatever fails the request as a whole: 114, 115 for an atomic one, overload.
    pub async fn save(&self, command: SaveRecords) -> Result<ItemResults<Record>, ApiError> {
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

    /// Deletes; one result per id, in request order.
    ///
    /// # Errors
    /// 115 for an atomic request, overload.
    pub async fn delete(&self, command: DeleteRecords) -> Result<ItemResults<RecordId>, ApiError> {
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

    /// Fetches; one result per id, in request order.
    ///
    /// # Errors
    /// The store failed.
    pub async fn fetch(&self, command: FetchRecords) -> Result<ItemResults<Record>, ApiError> {
        self.env
            .settle(command.ids.iter().map(|id| &id.record_type))
            .await?;
        read::fetch(&self.env, command).await
    }

    /// Queries.
    ///
    /// # Errors
    /// 120 and 124 for a query that the type's fields or the caller's rights do not allow.
    pub async fn query(&self, command: QueryRecords) -> Result<QueryReply, ApiError> {
        self.env.settle([&command.query.record_type]).await?;
        read::query(&self.env, command).await
    }

    /// Reads a page of all records of a type.
    ///
    /// # Errors
    /// As [`Records::query`].
    pub async fn export(&self, command: ExportRecords) -> Result<ExportPage, ApiError> {
        self.env.settle([&command.query.record_type]).await?;
        export::page(&self.env, command).await
    }

    /// Takes records over; one outcome per record, in request order. No hook is asked or told.
    ///
    /// # Errors
    /// 114 when a value does not fit its field; overload.
    pub async fn import(&self, command: ImportRecords) -> Result<Vec<Outcome>, ApiError> {
        let importer = Importer::new(self.env.clone(), command.options).on_behalf(command.context);
        importer
            .planning(command.planned)?
            .partial_records(command.records, command.postpones)
            .await
    }

    /// Lists the versions of a record.
    ///
    /// # Errors
    /// 110 for a record that never was, 102 for a history that the caller may not see.
    pub async fn history(&self, command: ListVersions) -> Result<VersionPage, ApiError> {
        self.env.settle([&command.id.record_type]).await?;
        history::list(&self.env, command).await
    }

    /// Says what the event at a position changed of a record, whoever may see it.
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
    /// 108 for a moment that is not yet.
    pub async fn readers(&self, id: &RecordId, at: Moment) -> Result<Readers, ApiError> {
        readers::find(&self.env, id, at).await
    }

    /// Brings a record back to what it was.
    ///
    /// # Errors
    /// As [`Records::history`], and whatever a save of it says; 110 when it was not there then.
    pub async fn restore(&self, command: RestoreRecord) -> Result<Record, ApiError> {
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

    /// Changes a type's settings or one of its fields.
    ///
    /// # Errors
    /// 110 for a field that is not there, or whose new name is taken; overload.
    pub async fn change_type(&self, command: ChangeType) -> Result<(), ApiError> {
        let addr = self.actor(&command.name).ok_or_else(no_thread)?;
        let changed = addr.send(command).await;
        changed.map_err(|_| no_answer())?
    }

    /// Makes types and gives them fields.
    ///
    /// # Errors
    /// 114 for a field that is there with another type, or that refers to a missing type.
    pub async fn create_types(&self, command: CreateTypes) -> Result<(), ApiError> {
        types::create(&self.env, command).await?;
        self.show(true).await;
        Ok(())
    }

    /// Returns all types with their fields, as clients and plugins see them.
    pub fn schema(&self) -> Json {
        types::schema(&self.env)
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
            // Types of any name can be asked for; those that there are not leave nothing behind.
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
