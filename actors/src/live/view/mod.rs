//! What is known of a query's result, for everybody who asks the same as the same user.

mod member;
mod outcome;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::Event;
use skytrail_schema::id::{RecordId, RecordKey};
use skytrail_schema::record::Head;

use super::frame::Label;
use super::frame_sender::ListenerId;
use super::lens::{Audience, Lens, disturbs, moves};
use super::listeners::ViewId;
use super::matcher::{MatchRequest, MatchResult, Matcher};
use super::query::LiveQuery;
use super::replay::CHANGED_MEANWHILE;
use crate::record::weighed::Weigh as _;

use self::member::{Member, PendingFrames, State};
pub(super) use self::member::{MemberKey, Post};

/// The pause before a result is looked up again because of what it looks at beyond its records: the
/// new result includes whatever happens meanwhile.
pub(super) const WIDE_PAUSE: Duration = Duration::from_millis(50);

/// The pause before a result is looked up again because that has failed. It doubles each time.
const FAILED_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How many changes can wait for a result; with more, it is looked up again.
const MAX_BACKLOG: usize = 20_000;

/// A record as an event left it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The event's position.
    pub(super) position: u64,
    /// The record.
    pub(super) id: RecordId,
    /// What it is now; `None` if it was deleted.
    pub(super) after: Option<Arc<Head>>,
}

/// Something that has to be looked up for a view.
#[derive(Debug)]
pub(super) enum Work {
    /// The result; the loads of a view are numbered.
    Load(u64),
    /// What members missed; it waits in the line of this listener.
    Replay(ListenerId, Missed),
}

/// Where a member begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// With the result.
    Anew,
    /// The member has received everything up to this position.
    Behind(u64),
    /// With the result; what the member has received before is void, for this reason.
    Reset(&'static str),
}

/// What members missed.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    /// The replays of a view are numbered.
    pub(super) number: u64,
    /// How the members' frames are marked.
    pub(super) label: Label,
    /// How the members' user sees.
    pub(super) lens: Arc<Lens>,
    /// The members have received everything up to here.
    pub(super) from: u64,
    /// What follows after this position is kept for the members.
    pub(super) until: u64,
    /// How many records the result has.
    pub(super) num_records: usize,
}

/// A replay that was asked for.
#[derive(Debug)]
struct Replaying {
    missed: Missed,
    has_begun: bool,
}

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loading {
    Not,
    /// It waits for its turn.
    Waiting,
    Running,
}

/// See the module's overview.
#[derive(Debug)]
pub(super) struct View {
    /// What is asked.
    pub(super) query: Arc<LiveQuery>,
    /// By whom.
    pub(super) audience: Audience,
    lens: Option<Arc<Lens>>,
    /// The result: what was told of each record, as a hash.
    sent: HashMap<RecordKey, u64>,
    /// The result is that of this position or a later one.
    position: u64,
    /// Whether changes can be told. If not, a load is under way.
    is_loaded: bool,
    /// While the view is not loaded, what was sent is of this position. Members that have received
    /// more must not be told a difference to it.
    sent_until: u64,
    /// Changes since the view stopped being loaded.
    backlog: Vec<Change>,
    /// About how many bytes the backlog takes. `max_bytes` limits it, and what is kept for a
    /// member.
    num_backlog: usize,
    max_bytes: usize,
    /// The last event that changed how the user sees.
    disturbed_at: u64,
    /// The last event that changed what the query looks at beyond its records.
    moved_at: u64,
    /// How many loads were requested.
    num_loads: u64,
    /// How many replays were requested.
    num_replays: u64,
    /// Those that have not ended, by number.
    replays: BTreeMap<u64, Replaying>,
    loading: Loading,
    /// How many loads have failed since the last one that did not.
    num_failed: u32,
    members: BTreeMap<MemberKey, Member>,
}

impl View {
    pub(super) fn new(query: Arc<LiveQuery>, audience: Audience, max_bytes: usize) -> Self {
        Self {
            query,
            audience,
            lens: None,
            sent: HashMap::new(),
            position: 0,
            is_loaded: false,
            sent_until: 0,
            backlog: Vec::new(),
            num_backlog: 0,
            max_bytes,
            disturbed_at: 0,
            moved_at: 0,
            num_loads: 0,
            num_replays: 0,
            replays: BTreeMap::new(),
            loading: Loading::Not,
            num_failed: 0,
            members: BTreeMap::new(),
        }
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns how its user sees, if that is known.
    pub(super) fn lens(&self) -> Option<&Lens> {
        self.lens.as_deref()
    }

    /// Returns who listens.
    pub(super) fn members(&self) -> impl Iterator<Item = &MemberKey> {
        self.members.keys()
    }

    /// Adds a member. `followed` is how far the follower is.
    pub(super) fn join(
        &mut self,
        key: MemberKey,
        label: Label,
        beginning: Beginning,
        followed: u64,
    ) -> Option<Work> {
        let state = match beginning {
            Beginning::Behind(position) => State::Returning(position),
            Beginning::Anew => State::waiting(self.next_load(), None),
            Beginning::Reset(reason) => State::waiting(self.next_load(), Some(reason)),
        };
        let is_waiting = matches!(state, State::Waiting { .. });
        let member = Member {
            label,
            since: 0,
            state,
        };
        self.members.insert(key.clone(), member);
        if !is_waiting && self.is_loaded {
            return self.catch_up(&key, followed);
        }
        // A load that waits in another listener's line waits in this one's, too. Whichever turn is
        // first begins it.
        let is_in_line = self.loading == Loading::Waiting;
        let begun = self.begin_load();
        begun.or_else(|| is_in_line.then_some(Work::Load(self.num_loads)))
    }

    /// Returns the number of the first load that begins after now.
    fn next_load(&self) -> u64 {
        match self.loading {
            Loading::Waiting => self.num_loads,
            Loading::Not | Loading::Running => self.num_loads + 1,
        }
    }

    /// Removes a member.
    pub(super) fn leave(&mut self, key: &MemberKey) {
        self.members.remove(key);
    }

    fn begin_load(&mut self) -> Option<Work> {
        if self.loading != Loading::Not {
            return None;
        }
        self.loading = Loading::Waiting;
        self.num_loads += 1;
        Some(Work::Load(self.num_loads))
    }

    /// Returns how long work waits before its turn.
    pub(super) fn pause(&self, work: &Work) -> Duration {
        match work {
            Work::Load(_) if self.num_failed > 0 => {
                let doubled = 2_u32.saturating_pow(self.num_failed - 1);
                FAILED_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
            }
            Work::Load(number) if self.query.is_wide && *number > 1 => WIDE_PAUSE,
            Work::Load(_) | Work::Replay(..) => Duration::ZERO,
        }
    }

    /// Begins work that was in line, unless nobody waits for it any more, or it has begun in
    /// another line.
    pub(super) fn begin(&mut self, work: &Work) -> bool {
        match work {
            Work::Load(number) => {
                let is_its_turn = self.loading == Loading::Waiting && self.num_loads == *number;
                if is_its_turn {
                    self.loading = Loading::Running;
                }
                is_its_turn
            }
            Work::Replay(_, missed) => {
                let number = missed.number;
                if !self.members.values().any(|it| it.awaits(number)) {
                    self.replays.remove(&number);
                    return false;
                }
                let replaying = self.replays.get_mut(&number);
                replaying.is_some_and(|it| !std::mem::replace(&mut it.has_begun, true))
            }
        }
    }

    /// Lets a member that comes back catch up, once the view is loaded.
    fn catch_up(&mut self, key: &MemberKey, followed: u64) -> Option<Work> {
        let (until, next) = (self.position.max(followed), self.next_load());
        let member = self.members.get_mut(key)?;
        let State::Returning(from) = member.state else {
            return None;
        };
        if self.query.is_wide && from > self.position {
            // No difference that the member would be told includes what happened in between.
            member.state = State::waiting(next, Some(CHANGED_MEANWHILE));
            return self.begin_load();
        }
        let lens = self.lens.as_ref()?;
        let is_same = |it: &&Replaying| {
            let missed = &it.missed;
            (missed.from, missed.until) == (from, until)
                && missed.label == member.label
                && Arc::ptr_eq(&missed.lens, lens)
        };
        let same = self.replays.values().find(is_same);
        // A replay that waits in another listener's line waits in this one's, too. Whichever turn
        // is first begins it.
        let (missed, has_begun) = match same {
            Some(same) => (same.missed.clone(), same.has_begun),
            None => {
                self.num_replays += 1;
                let missed = Missed {
                    number: self.num_replays,
                    label: member.label.clone(),
                    lens: Arc::clone(lens),
                    from,
                    until,
                    num_records: self.sent.len(),
                };
                (missed, false)
            }
        };
        member.since = until.max(from);
        member.state = State::CatchingUp {
            replay: missed.number,
            kept: PendingFrames::default(),
        };
        self.replays
            .entry(missed.number)
            .or_insert_with(|| Replaying {
                missed: missed.clone(),
                has_begun: false,
            });
        (!has_begun).then_some(Work::Replay(key.0, missed))
    }

    /// Handles an event about how its user sees, or about what the query looks at beyond its
    /// records.
    pub(super) fn notice(&mut self, event: &Event) -> Option<Work> {
        let whose = (&*self.query, &self.audience);
        let lens = self.lens.as_deref();
        // What the last load has already seen is no news. A difference must lie after every
        // position that was told, so that a listener that is cut off in the middle of it learns
        // that it happened.
        let is_news = lens.is_none_or(|lens| event.position > lens.position);
        if is_news && disturbs(event, whose, lens) {
            return self.disturb(event.position, event.position.saturating_sub(1));
        }
        let is_news = event.position > self.position;
        if is_news && self.query.is_wide && moves(event, whose, lens) {
            self.moved_at = event.position;
            return self.begin_load();
        }
        None
    }

    /// Tells nobody anything until the result has been looked up again, as of `position` or later.
    ///
    /// `followed` is how far the follower was before that.
    pub(super) fn disturb(&mut self, position: u64, followed: u64) -> Option<Work> {
        if self.is_loaded {
            self.sent_until = self.position.max(followed);
        }
        self.disturbed_at = position;
        self.is_loaded = false;
        self.backlog.clear();
        self.num_backlog = 0;
        self.begin_load()
    }

    /// Returns the match request that must be evaluated before the view can [see](Self::see) a change.
    pub(super) fn match_request(
        &self,
        id: ViewId,
        change: &Change,
        matcher: &Matcher<'_>,
    ) -> Option<MatchRequest> {
        if !self.is_loaded || self.query.is_wide {
            return None;
        }
        self.match_request_by(self.lens.as_ref()?, self.position, (id, change, matcher))
    }

    /// Returns the match request for a result as of `position`, seen by `lens`.
    fn match_request_by(
        &self,
        lens: &Arc<Lens>,
        position: u64,
        (id, change, matcher): (ViewId, &Change, &Matcher<'_>),
    ) -> Option<MatchRequest> {
        let matters = change.position > position && change.after.is_some();
        let is_open = matters && matcher.result(id, lens).is_none();
        is_open.then(|| MatchRequest {
            view: id,
            query: Arc::clone(&self.query),
            lens: Arc::clone(lens),
            payer: self.members.keys().next().map(|(listener, _)| *listener),
        })
    }

    /// Handles a change of a record of its type. Its [match request](Self::match_request) must be answered
    /// already.
    ///
    /// # Errors
    /// There are more records than `max_records` now, or the query costs too much.
    pub(super) fn see(
        &mut self,
        id: ViewId,
        change: &Change,
        (matcher, post): (&mut Matcher<'_>, &mut Post),
        max_records: usize,
    ) -> Result<Option<Work>, ApiError> {
        if self.query.is_wide {
            return Ok(None);
        }
        if !self.is_loaded {
            self.num_backlog += change.after.weight();
            if self.backlog.len() >= MAX_BACKLOG || self.num_backlog > self.max_bytes {
                return Ok(self.disturb(change.position, change.position));
            }
            self.backlog.push(change.clone());
            return Ok(None);
        }
        self.tell(id, change, matcher, post)?;
        refuse_more(self.sent.len(), max_records)?;
        Ok(None)
    }

    fn tell(
        &mut self,
        id: ViewId,
        change: &Change,
        matcher: &mut Matcher<'_>,
        post: &mut Post,
    ) -> Result<(), ApiError> {
        let lens = self.lens.as_ref();
        let Some(lens) = lens.filter(|_| change.position > self.position) else {
            return Ok(());
        };
        let result = matcher.result(id, lens).cloned();
        let renderer = &mut matcher.renderer;
        let key = &change.id.key;
        let (place, hash) = match result {
            Some(MatchResult::Match(place, hash)) => (place, hash),
            Some(MatchResult::Refused(error)) => return Err(error),
            Some(MatchResult::NoMatch) | None => {
                if self.sent.remove(key).is_some() {
                    for ((listener, _), member) in &mut self.members {
                        let frame = renderer.leave(&member.label, change);
                        member.take(*listener, (change.position, frame), self.max_bytes, post);
                    }
                }
                return Ok(());
            }
        };
        let before = self.sent.insert(key.clone(), hash);
        let event = if before.is_some() { "change" } else { "enter" };
        for ((listener, _), member) in &mut self.members {
            let frame = renderer.record(&member.label, event, (change.position, place));
            member.take(*listener, (change.position, frame), self.max_bytes, post);
        }
        Ok(())
    }

    /// Tells all members that nothing more follows, and why.
    pub(super) fn fail(&mut self, error: &ApiError, post: &mut Post) {
        for ((listener, _), member) in &self.members {
            post.push((*listener, member.label.error(error)));
        }
    }
}

/// Refuses a result that is too long.
fn refuse_more(number: usize, max_records: usize) -> Result<(), ApiError> {
    if number <= max_records {
        return Ok(());
    }
    let text = format!("more than {max_records} records match; ask for fewer");
    let limit = serde_json::json!({"name": "LIVE_MAX_RECORDS", "max": max_records});
    Err(ApiError::invalid_argument(text, &["predicate"]).with_info("limit", limit))
}
