//! What somebody missed, out of the log.

use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Head;

use super::follow::full_numbers;
use super::frame::Frame;
use super::judge::MAX_COST;
use super::lens::{Audience, disturbs, moves};
use super::load::Renderer;
use super::query::LiveQuery;
use super::service::LiveSettings;
use super::view::{Change, Missed};
use crate::breath::Breath;
use crate::record::apply::{self, Folded};
use crate::record::env::RecordEnv;
use crate::record::past;
use crate::record::weighed::WeighedCache;

/// About how many events are read at once.
const PAGE_EVENTS: usize = 1024;

/// Why somebody has to start anew.
pub(super) const CHANGED_MEANWHILE: &str =
    "access rights, fields or records that the query looks at changed meanwhile; start anew";
pub(super) const TOO_OLD: &str = "too old: too much has happened since; start anew";
const ERASED: &str = "some of what happened meanwhile was erased; start anew";
/// It took too long to find out what was missed.
pub(super) const TOO_LONG: &str = "what was missed takes too long to find out; start anew";

pub(super) const PUT_BACK: &str = "the log was put back to an earlier state; start anew";
const TOO_COSTLY: &str = "the query would have to look at too much for that; start anew";
const UNREADABLE: &str = "what happened meanwhile cannot be read; start anew";

/// What was found out.
#[derive(Debug)]
pub(super) enum Replayed {
    /// All that he missed.
    Told(Vec<Frame>),
    /// He gets the result anew, for this reason.
    Reset(&'static str),
}

/// Why what was missed cannot be told.
enum Untold {
    /// It cannot be told exactly, for this reason.
    Because(&'static str),
    /// It cannot be read.
    Failed(ApiError),
}

impl From<ApiError> for Untold {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// Finds out what a member missed; of more than the settings allow nothing is.
pub(super) async fn replay(
    env: &RecordEnv,
    whose: (&LiveQuery, &Audience),
    missed: &Missed,
    settings: LiveSettings,
) -> Replayed {
    let Missed { from, until, .. } = *missed;
    if from > env.log.head() {
        return Replayed::Reset(PUT_BACK);
    }
    if until.saturating_sub(from) > settings.max_missed {
        return Replayed::Reset(TOO_OLD);
    }
    let mut replay = Replay {
        env,
        whose,
        missed,
        renderer: Renderer::new(env),
        heads: WeighedCache::new(),
        frames: Vec::new(),
        num_bytes: 0,
        max_bytes: settings.max_queue_bytes,
        breath: Breath::default(),
    };
    // The follower is ahead of the store, which knows where a record's events stand.
    if let Err(error) = env.applied.wait_for(until).await {
        tracing::warn!(%error, from, "what a live query missed cannot be looked up");
        return Replayed::Reset(UNREADABLE);
    }
    match replay.run().await {
        Ok(()) => Replayed::Told(replay.frames),
        Err(Untold::Because(reason)) => Replayed::Reset(reason),
        Err(Untold::Failed(error)) => {
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
    /// Records that were met, as the last event left them.
    heads: WeighedCache<RecordId, Option<Arc<Head>>>,
    frames: Vec<Frame>,
    /// The bytes of the frames, and how many there may be.
    num_bytes: usize,
    max_bytes: usize,
    breath: Breath,
}

impl Replay<'_> {
    /// Goes through the events.
    async fn run(&mut self) -> Result<(), Untold> {
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
                if event.position > position {
                    self.step(event).await?;
                }
            }
            position = last;
        }
        Ok(())
    }

    async fn step(&mut self, event: &Event) -> Result<(), Untold> {
        let (query, lens) = (self.whose.0, &self.missed.lens);
        let has_moved = query.is_wide && moves(event, self.whose, Some(lens));
        if has_moved || disturbs(event, self.whose, Some(lens)) {
            return Err(Untold::Because(CHANGED_MEANWHILE));
        }
        match &event.stream {
            Stream::Record(id) if !query.is_wide && id.record_type == query.query.record_type => {
                self.tell(id, event).await
            }
            _ => Ok(()),
        }
    }

    async fn tell(&mut self, id: &RecordId, event: &Event) -> Result<(), Untold> {
        if let EventBody::Erased(_) = event.body {
            return Err(Untold::Because(ERASED));
        }
        let (query, lens) = (self.whose.0, Arc::clone(&self.missed.lens));
        let before = match self.heads.pop(id) {
            Some(known) => known,
            None => self.load(id, event).await?.map(Arc::new),
        };
        let cost = |head: &Arc<Head>| lens.cost(query, &head.record, MAX_COST);
        let finds = |head: &Arc<Head>| lens.finds(query, &head.record);
        let mut spent = before.as_ref().map_or(0, cost);
        if spent > MAX_COST {
            return Err(Untold::Because(TOO_COSTLY));
        }
        let was_there = before.as_ref().is_some_and(finds);
        let Folded::Known(after) = apply::record(before.as_deref(), id, event) else {
            return Err(Untold::Because(ERASED));
        };
        let after = after.map(Arc::new);
        let of_after = after.as_ref().map_or(0, cost);
        if of_after > MAX_COST {
            return Err(Untold::Because(TOO_COSTLY));
        }
        spent = spent.saturating_add(of_after);
        self.breath.after(spent).await;
        let label = &self.missed.label;
        self.renderer.begin();
        match (was_there, after.as_ref().filter(|head| finds(head))) {
            (_, Some(head)) => {
                let name = if was_there { "change" } else { "enter" };
                let (place, _) = self.renderer.render(query, &lens, head);
                let place = (event.position, place);
                let frame = self.renderer.record(label, name, place);
                self.put(frame)?;
            }
            (true, None) => {
                let change = Change {
                    position: event.position,
                    id: id.clone(),
                    after: None,
                };
                let frame = self.renderer.leave(label, &change);
                self.put(frame)?;
            }
            (false, None) => {}
        }
        self.heads.put(id.clone(), after);
        while self.heads.bytes() > self.max_bytes {
            self.heads.pop_lru();
        }
        Ok(())
    }

    fn put(&mut self, frame: Frame) -> Result<(), Untold> {
        self.num_bytes += frame.num_bytes();
        if self.num_bytes > self.max_bytes {
            return Err(Untold::Because(TOO_OLD));
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Loads a record as it was before an event.
    async fn load(&self, id: &RecordId, event: &Event) -> Result<Option<Head>, Untold> {
        if matches!(event.body, EventBody::RecordCreated(_)) {
            return Ok(None);
        }
        // There was one, so one that cannot be found again is not one that he did not know.
        let before = event.position.saturating_sub(1);
        let record = past::whole_record_at(self.env, id, before).await?;
        let mut record = record.ok_or(Untold::Because(ERASED))?;
        full_numbers(self.env, &mut record).await?;
        Ok(Some(Head {
            version: event.version.saturating_sub(1),
            position: before,
            record,
        }))
    }
}
