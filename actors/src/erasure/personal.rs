//! Records of personal types: their events are sealed with their owner's key, so they are erased
//! with the owner, whatever could otherwise prevent it.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::codec::SealedEvent;
use skytrail_schema::event::{EventBody, EventKind, Stream};
use skytrail_schema::id::{RecordId, TypeName, UserId};
use skytrail_schema::record::Head;

use super::{EraseRecord, EraseUser, Erased, Eraser};
use crate::log::seek::{load_event, unreadable};
use crate::record::attempt::retry_on_conflict;

impl EraseUser {
    /// Returns the command to erase one of the user's records.
    pub(super) fn of_record(&self, id: &RecordId) -> EraseRecord {
        EraseRecord {
            context: self.context.clone(),
            id: id.clone(),
            why: self.why.clone(),
            with_files: self.with_files,
        }
    }
}

impl Eraser {
    /// Finds the types that are personal, or were when an event about the user was written.
    pub(super) async fn personal_types(
        &self,
        user: &UserId,
    ) -> Result<BTreeSet<TypeName>, ApiError> {
        let types = self.env.model.get_types().into_iter();
        let personal = types.filter(|definition| definition.is_personal);
        let mut names: BTreeSet<TypeName> = personal.map(|it| it.name.clone()).collect();
        let sealed = self.sealed_records(user).await?;
        names.extend(
            sealed
                .iter()
                .filter_map(|it| it.stream.record_type().cloned()),
        );
        Ok(names)
    }

    /// Finds the events of records that are sealed with a user's key. The log is searched from
    /// where a type first became personal.
    pub(super) async fn sealed_records(&self, user: &UserId) -> Result<Vec<SealedEvent>, ApiError> {
        let (kind, until) = (EventKind::TypePersonalSet, self.env.applied.position());
        let marked = self.env.store.list_positions_of_kind(kind, 1, until);
        let Some(from) = marked.await?.first().copied() else {
            return Ok(Vec::new());
        };
        let sealed = self.log.sealed_for(user, from).await;
        let mut sealed = sealed.map_err(|error| unreadable(from, &error))?;
        let is_of_record = |stream: &Stream| match stream {
            Stream::Record(id) => !id.record_type.is_user(),
            _ => false,
        };
        sealed.retain(|event| is_of_record(&event.stream));
        Ok(sealed)
    }

    /// Erases a user's records that were written meanwhile; returns whether there were any.
    pub(super) async fn take_away_left(
        &self,
        command: &EraseUser,
        sealed: &[SealedEvent],
    ) -> Result<bool, ApiError> {
        let ids = sealed.iter().filter_map(|event| match &event.stream {
            Stream::Record(id) => Some(id.clone()),
            _ => None,
        });
        let ids: Vec<RecordId> = ids.collect::<BTreeSet<_>>().into_iter().collect();
        let heads = self.env.load_heads(&ids).await?;
        let mut has_some = false;
        for id in &ids {
            let belongs_to_user =
                |head: &&Arc<Head>| head.record.owner.as_ref() == Some(&command.user);
            let Some(head) = heads.get(id).filter(belongs_to_user) else {
                continue;
            };
            if !self.is_emptied(head).await? {
                self.force_record(&command.of_record(id)).await?;
                has_some = true;
            }
        }
        Ok(has_some)
    }

    /// Returns whether a record has no fields left, and its last event carries this in full.
    pub(super) async fn is_emptied(&self, head: &Head) -> Result<bool, ApiError> {
        if head.record.fields.iter().next().is_some() {
            return Ok(false);
        }
        let (_, event) = load_event(&*self.env.log, head.position).await?;
        Ok(matches!(
            event.body,
            EventBody::RecordCreated(_) | EventBody::RecordReplaced(_)
        ))
    }

    /// Like [`Eraser::record`], but neither hooks nor references can prevent it, and it does not
    /// wait for the end. A record that others refer to stays, without fields.
    pub(super) async fn force_record(&self, command: &EraseRecord) -> Result<Erased, ApiError> {
        retry_on_conflict(None, |_| self.try_request_record(command, true)).await
    }
}
