//! Following the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::EventFilter;

use crate::log::Timeline;

use super::page::{Direction, EVERYWHERE, EventReader, Page, PageRequest};

/// How many events a page has at most.
const PAGE_EVENTS: usize = 128;

/// After this many events that do not match, a follower is told how far the log was searched.
const SILENT_EVENTS: u64 = 1000;

/// The pause after the log could not be read.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module's overview.
pub struct Follower {
    reader: Arc<EventReader>,
    filter: EventFilter,
    position: u64,
    /// Whether it has read the log before.
    has_begun: bool,
}

impl Follower {
    /// Follows the log after a position.
    pub fn new(reader: Arc<EventReader>, filter: EventFilter, position: u64) -> Self {
        Self {
            reader,
            filter,
            position,
            has_begun: false,
        }
    }

    /// Returns the position up to which it has read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for the next page. The first one arrives at once, so that a follower that begins at
    /// the end learns where that was. A page can be empty when no event matched. While the log or
    /// the store cannot be read, this waits. It can be cancelled and called again without losing
    /// anything.
    pub async fn next(&mut self) -> Page {
        loop {
            match self.read().await {
                Ok(page) => return page,
                Err(error) => {
                    tracing::warn!(%error, "a follower cannot read the log yet");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Page, ApiError> {
        if self.has_begun {
            self.reader.beyond(self.position).await;
        }
        let request = PageRequest {
            filter: self.filter.clone(),
            from: Some(self.position + 1),
            range: EVERYWHERE,
            direction: Direction::Forwards,
            limit: PAGE_EVENTS,
        };
        let page = self.reader.page(&request).await?;
        self.position = page.next.map_or(page.head, |next| next - 1);
        self.has_begun = true;
        Ok(page)
    }
}

/// What a client has been told about its position in the log, from which it continues when it
/// reconnects.
#[derive(Debug)]
pub struct Progress {
    timeline: Timeline,
    reported: u64,
    is_live: bool,
}

impl Progress {
    /// Starts with nothing told. Positions are those of a timeline.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            reported: 0,
            is_live: false,
        }
    }

    /// Returns what to tell a client about its position, after it was sent a page that was searched
    /// up to `position`. It is told when the log's end is reached for the first time; otherwise
    /// only after many events that did not match.
    pub fn note(&mut self, page: &Page, position: u64) -> Option<Json> {
        if let Some(last) = page.events.last() {
            self.reported = last.position;
        }
        let is_new = page.next.is_none() && !self.is_live;
        if !is_new && position.saturating_sub(self.reported) < SILENT_EVENTS {
            return None;
        }
        self.is_live |= is_new;
        self.reported = position;
        Some(json!({
            "position": position,
            "timeline": self.timeline.to_string(),
            "caught_up": page.next.is_none(),
        }))
    }
}
