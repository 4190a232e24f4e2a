//! Records of personal types: their events are sealed with their owner's key, so they are erased
//! with the owner, whatever could otherwise prevent it.

use std::collections::BTreeSet;

use skytrail_schema::code::ApiError;
use skytrail_schema::codec::SealedEvent;
use skytrail_schema::event::{EventBody, EventKind, Stream};
use skytrail_schema::id::{TypeName, UserId};
use skytrail_schema::record::Head;

use super::Eraser;
use crate::log::seek::{load_event, unreadable};

impl Eraser {
    /// Returns the types that are personal at present.
    pub(super) fn personal_types(&self) -> BTreeSet<TypeName> {
        let types = self.env.model.get_types().into_iter();
        let personal = types.filter(|definition| definition.is_personal);
        personal.map(|it| it.name.clone()).collect()
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
}
