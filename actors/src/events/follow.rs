//! Following the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::EventFilter;

use crate::log::Timeline;

use super::page::{Asked, Direction, EVERYWHERE, EventReader, Page};

/// So many events come at once at most.
const PAGE_EVENTS: usize = 128;

/// After so many events that were not wanted a follower is told how far the log was looked at.
const SILENT_EVENTS: u64 = 1000;

/// The pause when the log cannot be read.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module's overview.
pub struct Follower {
    reader: Arc<EventReader>,
    filter: EventFilter,
    position: u64,
    /// Whether it has looked at the log.
    has_begun: bool,
}

impl Follower {
    /// Follows the log behind a position.
    pub fn new(reader: Arc<EventReader>, filter: EventFilter, position: u64) -> Self {
        Self {
            reader,
            filter,
            position,
            has_begun: false,
        }
    }

    /// Returns the position up to which it has looked.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Waits for the next page; the first comes at once, so that whoever begins at the end knows where
    /// that was. It may hold no event, when those that were looked at are not wanted. While log or
    /// store cannot be read it waits. May be given up and called again: nothing is lost.
    pub async fn next(&mut self) -> Page {
        loop {
            match self.read().await {
                Ok(page) => return page,
                Err(error) => {
                    tracing::warn!(%error, "a follower waits");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Page, ApiError> {
        if self.has_begun {
            self.reader.beyond(self.position).await;
        }
        let asked = Asked {
            filter: self.filter.clone(),
            from: Some(self.position + 1),
            range: EVERYWHERE,
            direction: Direction::Forwards,
            limit: PAGE_EVENTS,
        };
        let page = self.reader.page(&asked).await?;
        self.position = page.next.map_or(page.head, |next| next - 1);
        self.has_begun = true;
        Ok(page)
    }
}

/// What whoever is told of a log has been told of his place in it: he goes on there when he comes
/// again.
#[derive(Debug)]
pub struct Progress {
    timeline: Timeline,
    told: u64,
    is_live: bool,
}

impl Progress {
    /// Nothing was told yet. Positions are those of a timeline.
    pub fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            told: 0,
            is_live: false,
        }
    }

    /// After a page was told that was looked at up to `position`: returns what is to be said of
    /// that. The first time that the log's end is reached it is said; otherwise it goes without
    /// saying while there are events.
    pub fn note(&mut self, page: &Page, position: u64) -> Option<Json> {
        if let Some(last) = page.events.last() {
            self.told = last.position;
        }
        let is_new = page.next.is_none() && !self.is_live;
        if !is_new && position.saturating_sub(self.told) < SILENT_EVENTS {
            return None;
        }
        self.is_live |= is_new;
        self.told = position;
        Some(json!({
            "position": position,
            "timeline": self.timeline.to_string(),
            "caught_up": page.next.is_none(),
        }))
    }
}
