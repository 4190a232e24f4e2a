//! What somebody missed, out of the log.

use std::collections::HashMap;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::id::{RecordId, RecordKey};
use skytrail_schema::record::Head;

use super::follow::full_numbers;
use super::frame::Frame;
use super::lens::{Audience, disturbs, moves};
use super::load::Renderer;
use super::query::LiveQuery;
use super::view::{Change, Missed};
use crate::record::apply::{self, Folded};
use crate::record::env::RecordEnv;
use crate::record::past;

/// About how many events are read at once.
const PAGE_EVENTS: usize = 1024;

/// Why somebody has to start anew.
pub(super) const CHANGED_MEANWHILE: &str =
    "access rights, fields or records that the query looks at changed meanwhile; start anew";
const TOO_OLD: &str = "too old: too much has happened since; start anew";
const UNKNOWN: &str = "the log does not go so far; start anew";
const UNREADABLE: &str = "what happened meanwhile cannot be read; start anew";

/// What was found out.
#[derive(Debug)]
pub(super) enum Replayed {
    /// All that he missed.
    Told(Vec<Frame>),
    /// He gets the result anew, for this reason.
    Reset(&'static str),
}

/// Finds out what a member missed; of more than `max_events` events nothing is.
pub(super) async fn replay(
    env: &RecordEnv,
    whose: (&LiveQuery, &Audience),
    missed: &Missed,
    max_events: u64,
) -> Replayed {
    let Missed { from, until, .. } = *missed;
    if from > env.log.head() {
        return Replayed::Reset(UNKNOWN);
    }
    if until.saturating_sub(from) > max_events {
        return Replayed::Reset(TOO_OLD);
    }
    let mut replay = Replay {
        env,
        whose,
        missed,
        renderer: Renderer::new(env),
        heads: HashMap::new(),
        frames: Vec::new(),
    };
    // The follower is ahead of the store, which knows where a record's events stand.
    if let Err(error) = env.applied.wait_for(until).await {
        tracing::warn!(%error, from, "what a live query missed cannot be looked up");
        return Replayed::Reset(UNREADABLE);
    }
    match replay.run().await {
        Ok(true) => Replayed::Told(replay.frames),
        Ok(false) => Replayed::Reset(CHANGED_MEANWHILE),
        Err(error) => {
            tracing::warn!(%error, from, "what a live query missed cannot be read");
            Replayed::Reset(UNREADABLE)
        }
    }
}

struct Replay<'a> {
    env: &'a RecordEnv,
    whose: (&'a LiveQuery, &'a Audience),
    missed: &'a Missed,
    renderer: Renderer<'a>,
    /// The records that were met, as the last event left them.
    heads: HashMap<RecordKey, Option<Head>>,
    frames: Vec<Frame>,
}

impl Replay<'_> {
    /// Goes through the events; `false` when it cannot be told exactly.
    async fn run(&mut self) -> Result<bool, ApiError> {
        let mut position = self.missed.from;
        while position < self.missed.until {
            let commits = self.env.log.read(position + 1, PAGE_EVENTS).await;
            let unread = |cause: &dyn std::fmt::Display| ApiError::unexpected(cause.to_string());
            let commits = commits.map_err(|error| unread(&error))?;
            let last = commits.last().map(|commit| commit.last_position());
            let last = last.ok_or_else(|| unread(&"the log ends before"))?;
            let events = commits.iter().flat_map(|commit| &commit.events);
            let wanted = self.missed.from + 1..=self.missed.until;
            for event in events.filter(|event| wanted.contains(&event.position)) {
                if event.position > position && !self.step(event).await? {
                    return Ok(false);
                }
            }
            position = last;
        }
        Ok(true)
    }

    async fn step(&mut self, event: &Event) -> Result<bool, ApiError> {
        let (query, lens) = (self.whose.0, &self.missed.lens);
        if disturbs(event, self.whose, Some(lens)) {
            return Ok(false);
        }
        if query.is_wide {
            return Ok(!moves(event, self.whose, Some(lens)));
        }
        match &event.stream {
            Stream::Record(id) if id.record_type == query.query.record_type => {
                self.tell(id, event).await?;
            }
            _ => {}
        }
        Ok(true)
    }

    async fn tell(&mut self, id: &RecordId, event: &Event) -> Result<(), ApiError> {
        let (query, lens) = (self.whose.0, Arc::clone(&self.missed.lens));
        let before = match self.heads.remove(&id.key) {
            Some(known) => known,
            None => self.load(id, event).await?,
        };
        let finds = |head: &Head| lens.finds(query, &head.record);
        let was_there = before.as_ref().is_some_and(finds);
        let Folded::Known(after) = apply::record(before.as_ref(), id, event) else {
            return Err(ApiError::unexpected(
                "a change of a record that is not there",
            ));
        };
        let label = &self.missed.label;
        let found = after.as_ref().filter(|head| finds(head));
        match (was_there, found) {
            (_, Some(head)) => {
                let name = if was_there { "change" } else { "enter" };
                self.renderer.begin();
                let head = Arc::new(head.clone());
                let (place, _) = self.renderer.render(query, &lens, &head);
                let place = (event.position, place);
                let frame = self.renderer.record(label, name, place);
                self.frames.push(frame);
            }
            (true, None) => {
                let change = Change {
                    position: event.position,
                    id: id.clone(),
                    after: None,
                };
                self.renderer.begin();
                self.frames.push(self.renderer.leave(label, &change));
            }
            (false, None) => {}
        }
        self.heads.insert(id.key.clone(), after);
        Ok(())
    }

    /// Loads a record as it was when he left.
    async fn load(&self, id: &RecordId, event: &Event) -> Result<Option<Head>, ApiError> {
        if matches!(event.body, EventBody::RecordCreated(_)) {
            return Ok(None);
        }
        let from = self.missed.from;
        let record = past::record_at(self.env, id, from).await?;
        let Some(mut record) = record else {
            return Ok(None);
        };
        full_numbers(self.env, &mut record).await?;
        Ok(Some(Head {
            version: event.version.saturating_sub(1),
            position: from,
            record,
        }))
    }
}
