//! The content of a delivery: a record right after an event and right before it, or the reason why
//! there is none.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, EventBody, Stream};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::record::{Head, Record};

use super::announced::AnnouncedCommit;
use crate::context::Cause;
use crate::plugin::{CallContext, Lineage, Trigger};
use crate::record::env::RecordEnv;
use crate::record::{apply, past};

/// A record that an event changed.
pub(super) struct ChangedRecord {
    /// As the event left it; if the event deleted it, as it was before.
    pub(super) record: Record,
    /// As it was before; `None` for a deletion, as in v1.
    pub(super) original: Option<Record>,
}

impl ChangedRecord {
    /// Loads it; `None` when its past is no longer known.
    ///
    /// # Errors
    /// The store or the log cannot be read.
    pub(super) async fn load(
        env: &RecordEnv,
        (commit, event): (&Commit, &Event),
        (id, trigger): (&RecordId, Trigger),
        announced: Option<&AnnouncedCommit>,
    ) -> Result<Option<Self>, ApiError> {
        let before = match (announced, &event.body) {
            (Some(announced), _) => {
                let original = announced.originals.get(id).cloned();
                head_before(commit, event, id, original)
            }
            (None, EventBody::RecordCreated(_)) => None,
            (None, _) => {
                let record = past::record_at(env, id, event.position - 1).await?;
                record.map(|record| Arc::new(head_of(record, event)))
            }
        };
        if trigger == Trigger::AfterDelete {
            return Ok(before.map(|head| Self {
                record: head.record.clone(),
                original: None,
            }));
        }
        Ok(match apply::record(before.as_deref(), id, event) {
            apply::Folded::Known(Some(after)) => Some(Self {
                record: after.record,
                original: before.map(|head| head.record.clone()),
            }),
            _ => None,
        })
    }

    pub(super) fn to_param(&self) -> Json {
        json!({
            "record": self.record.to_wire(),
            "original": self.original.as_ref().map(Record::to_wire),
        })
    }
}

/// Folds what a commit did to a record before one of its events.
fn head_before(
    commit: &Commit,
    event: &Event,
    id: &RecordId,
    original: Option<Arc<Head>>,
) -> Option<Arc<Head>> {
    let earlier = commit.events.iter();
    let earlier = earlier.take_while(|earlier| earlier.position < event.position);
    let of_record = earlier.filter(|earlier| earlier.stream == event.stream);
    of_record.fold(original, |head, event| {
        match apply::record(head.as_deref(), id, event) {
            apply::Folded::Known(head) => head.map(Arc::new),
            apply::Folded::Unknown => head,
        }
    })
}

fn head_of(record: Record, event: &Event) -> Head {
    Head {
        version: event.version.saturating_sub(1),
        position: event.position.saturating_sub(1),
        record,
    }
}

/// Returns what a plugin is told about the author of a commit. A user who has been removed since is
/// left out: a plugin that acts in their name would recreate them.
///
/// # Errors
/// The store failed or does not catch up.
pub(super) async fn context_of(
    env: &RecordEnv,
    (commit, announced): (&Commit, Option<&AnnouncedCommit>),
    is_async: bool,
) -> Result<CallContext, ApiError> {
    let mut context = match announced {
        Some(announced) => context_of_request(announced, is_async),
        None => CallContext::of_actor(&commit.actor),
    };
    if let Some(id) = &context.user_id
        && !env.has_user(&UserId::from(id.as_str())).await?
    {
        context.user_id = None;
    }
    Ok(context)
}

/// Returns the same while the request is running; asynchronous hooks are not told about the
/// request, as in v1.
fn context_of_request(announced: &AnnouncedCommit, is_async: bool) -> CallContext {
    let context = CallContext::of(&announced.context);
    if is_async {
        CallContext {
            request_id: None,
            request_tag: "",
            ..context
        }
    } else {
        context
    }
}

/// Returns the lineage for calls by a hook on a commit.
pub(super) fn lineage_of(commit: &Commit, announced: Option<&AnnouncedCommit>) -> Lineage {
    let mut lineage = announced.map_or_else(Lineage::default, |announced| {
        Lineage::of(&announced.context)
    });
    lineage.ancestors.push(Cause::new(commit.id));
    lineage
}

/// Returns whether the record has a later event, up to `until`.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn has_later(
    env: &RecordEnv,
    id: &RecordId,
    position: u64,
    until: u64,
) -> Result<bool, ApiError> {
    let stream = Stream::Record(id.clone());
    // The store knows only what it has applied.
    env.applied.wait_for(until).await?;
    env.streams().has(&stream, position + 1..=until).await
}
