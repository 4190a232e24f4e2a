//! Erasing the payload of one event.

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{ErasureRequest, ErasureScope, EventBody, Stream};
use skytrail_schema::id::RecordId;

use super::request::nothing;
use super::{Erased, Eraser};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::log::seek::load_event;
use crate::record::attempt::{Outcome, retry_in_turn};
use crate::record::decide::Plan;

/// Erases the payload of one version of a record. The record's present state stays, and so does
/// what later versions have of the erased one.
#[derive(Clone, Debug)]
pub struct EraseEvent {
    /// The caller: the master key, or an administrator.
    pub context: RequestContext,
    /// The event's position in the log.
    pub position: u64,
    /// The reason, which is kept in the log.
    pub why: String,
    /// Whether files that nothing else names are removed.
    pub with_files: bool,
}

impl Eraser {
    /// Erases an event; returns when it is gone, or when that takes too long.
    ///
    /// # Errors
    /// 110 if there is nothing to erase; 111 if it is not a version of a record, or its type is
    /// temporal; 102 for another user's private record.
    pub async fn event(&self, command: EraseEvent) -> Result<Erased, ApiError> {
        let id = self.record_of(command.position).await?;
        let turn = self.hold_up(&id, &command.context);
        let requested = retry_in_turn(turn, |_| self.try_request_event(&command)).await?;
        let erased = self.await_end(requested, &command.context).await?;
        Ok(erased.told_to(&command.context))
    }

    /// Returns the record of which a version is to be erased.
    async fn record_of(&self, position: u64) -> Result<RecordId, ApiError> {
        let named = format!("position {position}");
        if position == 0 || position > self.env.log.head() {
            return Err(nothing(&named));
        }
        let (_, event) = load_event(&*self.env.log, position).await?;
        let Stream::Record(id) = event.stream else {
            let message = format!("{named} is not a version of a record");
            return Err(ApiError::new(Code::NotSupported, message));
        };
        let is_held = matches!(
            event.body,
            EventBody::RecordCreated(_)
                | EventBody::RecordChanged(_)
                | EventBody::RecordReplaced(_)
        );
        if !is_held {
            return Err(nothing(&named));
        }
        Ok(id)
    }

    async fn try_request_event(&self, command: &EraseEvent) -> Result<Outcome<Erased>, ApiError> {
        let id = &self.record_of(command.position).await?;
        let (until, head) = self.load_checked(id, &command.context).await?;
        self.refuse_temporal(&id.record_type)?;
        let mut plan = Plan::default();
        if let Some(head) = &head {
            plan.repeat(head, &self.env.definition(&id.record_type));
        }
        let sought = command
            .with_files
            .then(|| [command.position].into_iter().collect());
        let positions = [command.position].into_iter().collect();
        let request = ErasureRequest::new(ErasureScope::Events, command.why.clone(), positions);
        let read = (until, vec![ConflictKey::record(id)]);
        self.request((plan, request), sought, read, &command.context)
            .await
    }
}
