//! Following commits: records as events left them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use lru::LruCache;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Event, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;

use super::listeners::Interest;
use super::service::LiveQueries;
use super::view::Change;
use crate::delivery::Consumer;
use crate::record::apply::{self, Folded};
use crate::store::HeadSource as _;

/// How many records are kept, so that the next change of one can be applied to it.
const MAX_HEADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2047);

/// The consumer that keeps live queries up to date.
pub struct LiveFollower {
    service: LiveQueries,
    /// Records as their last events left them.
    heads: LruCache<RecordId, Arc<Head>>,
    /// The next event, if none is skipped.
    next: u64,
}

impl LiveFollower {
    /// Builds the consumer.
    pub fn new(service: LiveQueries) -> Self {
        Self {
            service,
            heads: LruCache::new(MAX_HEADS),
            next: 0,
        }
    }

    async fn look_at(&mut self, event: &Event) {
        let Stream::Record(id) = &event.stream else {
            if let Stream::Type(_) = &event.stream {
                // The fields may have other names now.
                self.heads.clear();
            }
            self.service.notice(event);
            return;
        };
        let interest = self.service.interest(id, event);
        let Interest::Changes { reshaped } = interest else {
            self.heads.pop(id);
            return;
        };
        match self.after(id, event, reshaped).await {
            Ok(after) => {
                match &after {
                    Some(head) => drop(self.heads.put(id.clone(), Arc::clone(head))),
                    None => drop(self.heads.pop(id)),
                }
                let position = event.position;
                let change = Change {
                    position,
                    id: id.clone(),
                    after,
                };
                self.service.see(&change).await;
            }
            Err(error) => {
                tracing::warn!(
                    %error, position = event.position,
                    "a change could not be read and is looked up again"
                );
                self.heads.pop(id);
                self.service.disturb(&id.record_type, event.position);
            }
        }
    }

    /// Returns the record as the event left it.
    async fn after(
        &self,
        id: &RecordId,
        event: &Event,
        reshaped: u32,
    ) -> Result<Option<Arc<Head>>, ApiError> {
        let env = self.service.env();
        let cached = self.heads.peek(id);
        let cached = cached.filter(|head| head.version + 1 == event.version);
        let folded = apply::record(cached.map(|head| &**head), id, event);
        if let Folded::Known(head) = folded {
            return Ok(head.map(Arc::new));
        }
        let versions = [(id.key.clone(), event.position)];
        let at_hand = env.model.get_written(&id.record_type, &versions);
        // The fields of what is in memory may have been renamed since.
        let is_as_then = || env.definition(&id.record_type).reshaped == reshaped;
        if let Some(head) = at_hand.into_iter().next().flatten()
            && is_as_then()
        {
            return Ok(Some(head));
        }
        let folded = env.load_from_log(id, event.position).await?;
        let Some(head) = folded else {
            return Err(ApiError::unexpected(
                "a change of a record that does not exist",
            ));
        };
        Ok(Some(Arc::new(head)))
    }
}

#[async_trait]
impl Consumer for LiveFollower {
    fn is_idle(&self) -> bool {
        self.service.is_idle()
    }

    async fn roused(&mut self) -> Option<u64> {
        Some(self.service.roused().await)
    }

    async fn take(&mut self, commit: &Commit) {
        if commit.first_position() != self.next {
            self.heads.clear();
        }
        for event in &commit.events {
            self.look_at(event).await;
        }
        self.next = commit.last_position() + 1;
    }

    fn caught_up(&mut self) {
        self.service.flush();
    }

    fn state(&self) -> Json {
        serde_json::to_value(self.service.state()).unwrap_or_default()
    }
}
