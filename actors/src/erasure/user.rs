//! Erasing a user: auth row, user record, devices, their records of personal types, and on request
//! all other records that they own.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    ChangeStamp, ErasureRequest, ErasureScope, Event, EventBody, NoDetails, Stream,
};
use skytrail_schema::id::{RecordId, TypeName, UserId};
use skytrail_schema::positions::Positions;
use skytrail_schema::record::Head;

use super::files::FilesSought;
use super::{Erased, Eraser, NamedFiles};
use crate::accounts::plan_release;
use crate::context::RequestContext;
use crate::log::{ConflictKey, Erasure};
use crate::record::apply::state_of;
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;
use crate::record::delete::find_referrer;
use crate::record::past;

/// Erases a user: identity, logins, the addresses of their devices, subscriptions.
#[derive(Clone, Debug)]
pub struct EraseUser {
    /// The caller: the master key, or an administrator.
    pub context: RequestContext,
    /// The user.
    pub user: UserId,
    /// The reason, which is kept in the log.
    pub why: String,
    /// Whether all records that the user owns are erased, and not only those of personal types.
    pub with_records: bool,
    /// Whether files that nothing else names are removed.
    pub with_files: bool,
}

/// The result of erasing a user.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UserErased {
    /// The user.
    pub user: UserId,
    /// The erasure of the user proper.
    #[serde(flatten)]
    pub erased: Erased,
    /// How many of the user's records are erased; their events are counted in `erased`.
    pub num_records: u64,
    /// Records that could not be erased, with the reasons.
    pub refused: Vec<Refused>,
}

/// A record that could not be erased.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refused {
    /// The record.
    pub record: String,
    /// Why.
    pub message: String,
    /// A record that refers to it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub referred_by: Option<String>,
}

impl Eraser {
    /// Erases a user; returns when they are gone, or when that takes too long. Their records go
    /// first.
    ///
    /// # Errors
    /// 108 for the master key's own user; 110 if there is nothing to erase; the store or the log
    /// failed.
    pub async fn user(&self, command: EraseUser) -> Result<UserErased, ApiError> {
        if command.user == UserId::god() {
            let message = "_god is the master key's own user and cannot be erased";
            return Err(ApiError::invalid_argument(message, &["user"]));
        }
        let context = &command.context;
        self.env.applied.wait_for(self.env.log.head()).await?;
        let personal = self.personal_types(&command.user).await?;
        let is_selected = |name: &TypeName| command.with_records || personal.contains(name);
        let records = self.records_of(&command.user, is_selected).await?;
        let (mut requested, remaining) = self.request_records(&command, records).await;
        let mut refused = Vec::new();
        for (id, mut error) in remaining {
            if personal.contains(&id.record_type) {
                match self.force_record(&command.of_record(&id)).await {
                    Ok(one) => {
                        requested.push(one);
                        continue;
                    }
                    Err(after) => error = after,
                }
            }
            // Others refer to this record, and an earlier erasure has emptied it.
            if error.code == Code::ResourceNotFound {
                continue;
            }
            let referrer = find_referrer(&self.env, &id, self.env.log.head()).await?;
            refused.push(Refused {
                record: id.to_string(),
                message: error.message,
                referred_by: referrer.map(|id| id.to_string()),
            });
        }
        let num_records = requested.len().try_into().unwrap_or(u64::MAX);
        let attempt = |_| self.try_request_user(&command, &requested);
        let erased = retry_on_conflict(None, attempt).await?;
        let mut erased = self.await_end(erased, context).await?;
        for one in requested {
            let one = self.await_end(one, context).await?;
            erased.finished &= one.finished;
            erased.num_events += one.num_events;
            erased.files.add(one.files);
        }
        Ok(UserErased {
            user: command.user.clone(),
            erased: erased.told_to(context),
            num_records,
            refused,
        })
    }

    /// Requests the erasure of records; a record that others of them refer to comes after those.
    /// Returns what was refused.
    async fn request_records(
        &self,
        command: &EraseUser,
        mut ids: Vec<RecordId>,
    ) -> (Vec<Erased>, Vec<(RecordId, ApiError)>) {
        let (mut requested, mut refused) = (Vec::new(), Vec::new());
        loop {
            let (num_requested, mut held) = (requested.len(), Vec::new());
            for id in ids {
                match self.request_record(&command.of_record(&id)).await {
                    Ok(one) => requested.push(one),
                    Err(error) if error.code == Code::ConstraintViolated => held.push((id, error)),
                    Err(error) => refused.push((id, error)),
                }
            }
            if held.is_empty() || requested.len() == num_requested {
                refused.extend(held);
                return (requested, refused);
            }
            // References often all point one way through the list; then the reverse order succeeds.
            ids = held.into_iter().rev().map(|(id, _)| id).collect();
        }
    }

    async fn try_request_user(
        &self,
        command: &EraseUser,
        records: &[Erased],
    ) -> Result<Outcome<Erased>, ApiError> {
        let EraseUser {
            context, user, why, ..
        } = command;
        let (user_position, row) = self.env.load_present_user(user).await?;
        let id = RecordId::user(user);
        let (position, head) = self.env.load_head(&id).await?;
        let position = position.min(user_position);
        self.env.applied.wait_for(position).await?;
        let mut plan = Plan::default();
        if let Some((version, state)) = row {
            plan_release(&mut plan, &state);
            let body = EventBody::UserRemoved(NoDetails {});
            plan.push(Stream::User(user.clone()), version + 1, body);
        }
        if let Some(head) = head
            && !self.is_emptied(&head).await?
        {
            self.plan_without_record(&mut plan, &head, context, position)
                .await?;
        }
        let of_devices = self.of_devices(user, position).await?;
        let mut devices = of_devices.devices;
        let users = std::slice::from_ref(user);
        devices.extend(self.devices.list_devices_of(users).await?);
        self.plan_without_devices(&mut plan, (user, &devices), context, position)
            .await?;
        if !plan.events.is_empty() {
            // With this commit the user is gone; the next attempt finds what is left of them.
            commit(&self.env.log, plan, position, context).await?;
            return Ok(Outcome::Conflict);
        }
        let sealed = self.sealed_records(user).await?;
        if self.take_away_left(command, &sealed).await? {
            return Ok(Outcome::Conflict);
        }
        let mut positions = self.of_user(user, &id, position).await?;
        positions.extend(of_devices.positions);
        let named = records
            .iter()
            .filter_map(|it| self.erasures.get(it.position));
        let named: Vec<Erasure> = named.collect();
        let is_named = |position| {
            named
                .iter()
                .any(|it| it.request.positions.contains(position))
        };
        let sealed = sealed.iter().map(|event| event.position);
        positions.extend(sealed.filter(|position| !is_named(*position)));
        let positions: Positions = positions.into_iter().collect();
        let sought = self.files_sought(command, &positions, position).await?;
        // A user who is already gone may have left records or files, which are erased now.
        if positions.is_empty() && records.is_empty() {
            let files = match sought.clone() {
                Some(sought) => self.files_of(sought, &positions, &[], position).await?,
                None => NamedFiles::default(),
            };
            if files.erased.is_empty() {
                return Err(super::request::nothing(user));
            }
        }
        let scope = ErasureScope::User(user.clone());
        let request = ErasureRequest {
            keys: self.log.key_of(user).into_iter().collect(),
            ..ErasureRequest::new(scope, why.clone(), positions)
        };
        let stream = Stream::User(user.clone());
        let mut reads = vec![ConflictKey::stream(&stream), ConflictKey::record(&id)];
        // Events that are sealed with the user's key meanwhile have to be named, too.
        reads.push(ConflictKey::subject(user));
        let read = (position, reads);
        self.request((Plan::default(), request), sought, read, context)
            .await
    }

    /// Returns what files are removed for: the events that are erased, and with the user's records
    /// also the user's uploads, which no record need name.
    async fn files_sought(
        &self,
        command: &EraseUser,
        positions: &Positions,
        until: u64,
    ) -> Result<Option<FilesSought>, ApiError> {
        if !command.with_files {
            return Ok(None);
        }
        let mut sought: FilesSought = positions.iter().collect();
        if command.with_records {
            sought.uploaded = self.uploaded_by(&command.user, until).await?;
        }
        Ok(Some(sought))
    }

    /// Plans that a record is deleted, or emptied if others refer to it.
    pub(super) async fn plan_without_record(
        &self,
        plan: &mut Plan,
        head: &Arc<Head>,
        context: &RequestContext,
        position: u64,
    ) -> Result<(), ApiError> {
        let id = &head.record.id;
        let definition = self.env.definition(&id.record_type);
        let by = context.caller.user.clone();
        if find_referrer(&self.env, id, position).await?.is_none() {
            plan.delete(head, &definition, self.env.clock.now(), by);
            return Ok(());
        }
        let mut record = head.record.clone();
        record.fields = Default::default();
        record.updated_at = self.env.clock.now();
        record.updated_by = by;
        let body = EventBody::RecordReplaced(state_of(&record));
        plan.push(Stream::Record(id.clone()), head.version + 1, body);
        Ok(())
    }

    pub(super) fn touch(&self, context: &RequestContext) -> ChangeStamp {
        ChangeStamp {
            at: self.env.clock.now(),
            by: context.caller.user.clone(),
        }
    }

    /// Finds the events of a user's own streams that have a payload.
    async fn of_user(
        &self,
        user: &UserId,
        id: &RecordId,
        until: u64,
    ) -> Result<Vec<u64>, ApiError> {
        let stream = Stream::User(user.clone());
        let is_held = |event: &Event| !matches!(event.body, EventBody::UserRemoved(_));
        let mut found = self.in_stream(&stream, until, is_held).await?;
        let (_, head) = self.env.load_head(id).await?;
        let last = head.map(|head| head.position);
        let stream = Stream::Record(id.clone());
        let of_record = self.with_payloads(&stream, until).await?;
        found.extend(of_record.iter().filter(|it| Some(*it) != last));
        Ok(found)
    }

    /// Finds the wanted events of a stream whose payloads are not erased.
    pub(super) async fn in_stream(
        &self,
        stream: &Stream,
        until: u64,
        is_selected: impl Fn(&Event) -> bool,
    ) -> Result<Vec<u64>, ApiError> {
        let mut found = Vec::new();
        let see = |_, event: Event| {
            if event.body.erased().is_none() && is_selected(&event) {
                found.push(event.position);
            }
        };
        let ranges = [(stream.clone(), 1..=until)];
        self.env.streams().each(&ranges, see).await?;
        Ok(found)
    }

    /// Lists the records of some types that a user owns, or owned when the record was deleted.
    async fn records_of(
        &self,
        user: &UserId,
        is_selected: impl Fn(&TypeName) -> bool,
    ) -> Result<Vec<RecordId>, ApiError> {
        const BATCH_SIZE: usize = 1000;
        let mut found = BTreeSet::new();
        let is_selected = |name: &TypeName| !name.is_user() && is_selected(name);
        let types = self.env.model.get_types();
        if !types.iter().any(|definition| is_selected(&definition.name)) {
            return Ok(Vec::new());
        }
        for definition in types {
            if !is_selected(&definition.name) {
                continue;
            }
            let mut after = 0;
            loop {
                let heads = self.env.store.scan(&definition, after, BATCH_SIZE).await?;
                let Some((last, _)) = heads.last() else { break };
                after = *last;
                let records = heads.into_iter().map(|(_, head)| head.record);
                let owned = records.filter(|record| record.owner.as_ref() == Some(user));
                found.extend(owned.map(|record| record.id));
            }
        }
        let all = 1..=self.env.applied.position();
        for id in past::deleted(&self.env, all, is_selected).await? {
            if found.contains(&id) {
                continue;
            }
            let last = past::last_state(&self.env, &id).await?;
            if last.is_some_and(|record| record.owner.as_ref() == Some(user)) {
                found.insert(id);
            }
        }
        Ok(found.into_iter().collect())
    }
}
