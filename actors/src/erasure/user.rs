//! Erasing a user: auth row, user record, devices. Their records follow (`owned`).

use std::sync::Arc;

use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{
    ChangeStamp, ErasureRequest, ErasureScope, Event, EventBody, EventKind, NoDetails, Stream,
};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::positions::Positions;
use skytrail_schema::record::Head;

use super::files::FilesSought;
use super::request::nothing;
use super::{Erased, Eraser, NamedFiles};
use crate::accounts::plan_release;
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::apply::state_of;
use crate::record::attempt::{Outcome, retry_in_turn};
use crate::record::decide::Plan;
use crate::record::delete::find_referrer;

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
    /// Erases a user; returns when they are gone with their records, or when that takes too long.
    ///
    /// # Errors
    /// 108 for the master key's own user; 110 if there is nothing to erase; the store or the log
    /// failed.
    pub async fn user(&self, command: EraseUser) -> Result<UserErased, ApiError> {
        if command.user == UserId::god() {
            let message = "_god is the master key's own user and cannot be erased";
            return Err(ApiError::invalid_argument(message, &["user"]));
        }
        self.env.applied.wait_for(self.env.log.head()).await?;
        let attempt = |_| self.try_request_user(&command, None);
        let kept = self.keep_owned(&command.user);
        let request = command.context.request.id();
        let turn = async { self.env.fences.users.hold_up(&command.user, request) };
        let requested = retry_in_turn(turn, attempt).await?;
        let erased = self.await_end(requested, &command.context).await?;
        let erased = self.with_records(command, erased);
        drop(kept);
        Ok(erased)
    }

    /// Adds what is known of the user's records.
    fn with_records(&self, command: EraseUser, mut erased: Erased) -> UserErased {
        let owned = self.owned_of(erased.position);
        let own = self.erasures.get(erased.position);
        let mut positions: Vec<u64> = Vec::new();
        positions.extend(own.iter().flat_map(|it| it.request.positions.iter()));
        let mut num_records = 0;
        let mut files = NamedFiles {
            kept: owned.kept_files,
            ..NamedFiles::default()
        };
        for part in self.erasures.parts_of(erased.position) {
            num_records += u64::from(matches!(part.request.scope, ErasureScope::Record(_)));
            // Events that are sealed with the user's key are named twice.
            positions.extend(part.request.positions.iter());
            files.erased.extend(part.request.files.iter().cloned());
        }
        erased.num_events = positions.into_iter().collect::<Positions>().len();
        erased.files.add(files);
        UserErased {
            user: command.user,
            erased: erased.told_to(&command.context),
            num_records,
            refused: owned.refused,
        }
    }

    /// Requests the erasure of a user. As part of an earlier one, it erases what was written about
    /// the user since then, unless an import has brought them back.
    pub(super) async fn try_request_user(
        &self,
        command: &EraseUser,
        part_of: Option<u64>,
    ) -> Result<Outcome<Erased>, ApiError> {
        let EraseUser {
            context, user, why, ..
        } = command;
        let (user_position, row) = self.env.load_present_user(user).await?;
        if row.is_some() && part_of.is_some() {
            return Err(nothing(user));
        }
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
        let mut emptied_at = None;
        if let Some(head) = head {
            if self.is_emptied(&head).await? {
                emptied_at = Some(head.position);
            } else {
                self.plan_without_record(&mut plan, &head, context, position)
                    .await?;
            }
        }
        let of_devices = self.of_devices(user, position).await?;
        let mut devices = of_devices.devices;
        let users = std::slice::from_ref(user);
        devices.extend(self.devices.list_devices_of(users).await?);
        self.plan_without_devices(&mut plan, (user, &devices), context, position)
            .await?;
        let sealed = self.sealed_records(user).await?;
        let records = match part_of {
            None => self.owned_records(command, !sealed.is_empty()),
            Some(_) => None,
        };
        let roles = &context.caller.roles;
        let roles = records.map(|_| roles.clone()).unwrap_or_default();
        let mut positions = self.of_user(user, position).await?;
        // The last version of a record that stays is empty.
        positions.retain(|position| Some(*position) != emptied_at);
        positions.extend(of_devices.positions);
        positions.extend(sealed.iter().map(|event| event.position));
        let positions: Positions = positions.into_iter().collect();
        let sought = self.files_sought(command, &positions, position).await?;
        // A user who is already gone may have left records or files, which are erased now.
        if plan.events.is_empty()
            && positions.is_empty()
            && !self.removes_files(sought.clone(), position).await?
            && !self.has_records_left(user, records).await?
        {
            return Err(nothing(user));
        }
        let scope = ErasureScope::User(user.clone());
        let request = ErasureRequest {
            keys: self.log.key_of(user).into_iter().collect(),
            records,
            roles,
            part_of,
            ..ErasureRequest::new(scope, why.clone(), positions)
        };
        let stream = Stream::User(user.clone());
        let mut reads = vec![ConflictKey::stream(&stream), ConflictKey::record(&id)];
        // Events that are sealed with the user's key meanwhile have to be named, too.
        reads.push(ConflictKey::subject(user));
        let read = (position, reads);
        // With this commit the user is gone, and whatever interrupts it, the rest follows.
        self.request((plan, request), sought, read, context).await
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

    /// Returns whether any files are removed, though no events are erased.
    async fn removes_files(
        &self,
        sought: Option<FilesSought>,
        until: u64,
    ) -> Result<bool, ApiError> {
        let Some(sought) = sought else {
            return Ok(false);
        };
        let erased = Positions::default();
        let files = self.files_of(sought, &erased, &[], until).await?;
        Ok(!files.erased.is_empty())
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
    async fn of_user(&self, user: &UserId, until: u64) -> Result<Vec<u64>, ApiError> {
        let stream = Stream::User(user.clone());
        let is_held = |event: &Event| {
            event.body.erased().is_none() && event.body.kind() != EventKind::UserRemoved
        };
        let mut found = self.in_stream(&stream, until, is_held).await?;
        let stream = Stream::Record(RecordId::user(user));
        let of_record = self.with_payloads(&stream, until, None).await?;
        found.extend(of_record.iter());
        Ok(found)
    }

    /// Finds the wanted events of a stream.
    pub(super) async fn in_stream(
        &self,
        stream: &Stream,
        until: u64,
        is_selected: impl Fn(&Event) -> bool,
    ) -> Result<Vec<u64>, ApiError> {
        let mut found = Vec::new();
        let see = |_, event: Event| {
            if is_selected(&event) {
                found.push(event.position);
            }
        };
        let ranges = [(stream.clone(), 1..=until)];
        self.env.streams().each(&ranges, see).await?;
        Ok(found)
    }
}
