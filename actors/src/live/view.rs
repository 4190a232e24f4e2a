//! What is known of a query's result, for everybody who asks the same as the same user.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::Event;
use skytrail_schema::id::{RecordId, RecordKey};
use skytrail_schema::record::Head;

use super::frame::{Frame, Label};
use super::lens::{Audience, Lens, disturbs, moves};
use super::load::{Loaded, Renderer};
use super::outlet::ListenerId;
use super::query::LiveQuery;
use super::replay::{CHANGED_MEANWHILE, Replayed};

/// So many changes may wait for a result; with more it is looked up again.
const MAX_BACKLOG: usize = 20_000;

/// Who listens, and what he calls it.
pub(super) type MemberKey = (ListenerId, Arc<str>);

/// Frames on their way to listeners.
pub(super) type Post = Vec<(ListenerId, Frame)>;

/// A record as an event left it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The event's position.
    pub(super) position: u64,
    /// The record.
    pub(super) id: RecordId,
    /// What it is now; `None` when it is gone.
    pub(super) after: Option<Arc<Head>>,
}

/// Something that has to be looked up for a view.
#[derive(Debug)]
pub(super) enum Work {
    /// The result; loads of a view have numbers.
    Load(u64),
    /// What a member missed.
    Replay(Missed),
}

/// What a member missed.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    /// The member.
    pub(super) member: MemberKey,
    /// How he marks frames.
    pub(super) label: Label,
    /// How he sees.
    pub(super) lens: Arc<Lens>,
    /// He has had everything up to here.
    pub(super) from: u64,
    /// What comes behind is kept for him.
    pub(super) until: u64,
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
    known: HashMap<RecordKey, u64>,
    /// The result is that of this position or a later one.
    position: u64,
    /// Whether changes can be told. If not, a load is under way.
    is_settled: bool,
    /// Changes since it is not.
    backlog: Vec<Change>,
    /// The last event that changed how the user sees.
    disturbed_at: u64,
    /// The last event that changed what the query looks at beyond its records.
    moved_at: u64,
    /// How many loads have begun.
    num_loads: u64,
    is_loading: bool,
    members: BTreeMap<MemberKey, Member>,
}

/// A subscription.
#[derive(Debug)]
struct Member {
    label: Label,
    /// He has had, or will get otherwise, everything up to here.
    since: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// He is told at once.
    Live,
    /// He waits for the result of that load or a later one; what happens meanwhile is kept.
    Waiting {
        load: u64,
        reset: Option<&'static str>,
        kept: Vec<(u64, Frame)>,
    },
    /// He comes back from a position, and waits until the view is settled.
    Returning(u64),
    /// What he missed is being looked up.
    CatchingUp { kept: Vec<(u64, Frame)> },
}

impl Member {
    /// Takes a frame that is about `position`.
    fn take(&mut self, listener: ListenerId, position: u64, frame: Frame, post: &mut Post) {
        match &mut self.state {
            State::Live if position > self.since => post.push((listener, frame)),
            State::Waiting { kept, .. } | State::CatchingUp { kept } => {
                kept.push((position, frame))
            }
            State::Live | State::Returning(_) => {}
        }
    }

    /// Goes on with what is kept behind what he has had so far.
    fn go_live(&mut self, listener: ListenerId, since: u64, post: &mut Post) {
        self.since = self.since.max(since);
        let state = std::mem::replace(&mut self.state, State::Live);
        if let State::Waiting { kept, .. } | State::CatchingUp { kept } = state {
            let since = self.since;
            let later = kept.into_iter().filter(|(position, _)| *position > since);
            post.extend(later.map(|(_, frame)| (listener, frame)));
        }
    }
}

impl View {
    pub(super) fn new(query: Arc<LiveQuery>, audience: Audience) -> Self {
        Self {
            query,
            audience,
            lens: None,
            known: HashMap::new(),
            position: 0,
            is_settled: false,
            backlog: Vec::new(),
            disturbed_at: 0,
            moved_at: 0,
            num_loads: 0,
            is_loading: false,
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

    /// Lets somebody join: anew, or from a position. `followed` is how far the follower is.
    pub(super) fn join(
        &mut self,
        key: MemberKey,
        label: Label,
        from: Option<u64>,
        followed: u64,
    ) -> Option<Work> {
        let state = match from {
            Some(from) => State::Returning(from),
            None => self.waiting(None),
        };
        let is_waiting = matches!(state, State::Waiting { .. });
        let member = Member {
            label,
            since: 0,
            state,
        };
        self.members.insert(key.clone(), member);
        if is_waiting || !self.is_settled {
            self.begin_load()
        } else {
            self.catch_up(&key, followed)
        }
    }

    /// Returns the state of one who gets the result of a load that begins after now.
    fn waiting(&self, reset: Option<&'static str>) -> State {
        State::Waiting {
            load: self.num_loads + 1,
            reset,
            kept: Vec::new(),
        }
    }

    /// Lets somebody go.
    pub(super) fn leave(&mut self, key: &MemberKey) {
        self.members.remove(key);
    }

    fn begin_load(&mut self) -> Option<Work> {
        if self.is_loading {
            return None;
        }
        self.is_loading = true;
        self.num_loads += 1;
        Some(Work::Load(self.num_loads))
    }

    /// Lets a member who comes back catch up, once the view is settled.
    fn catch_up(&mut self, key: &MemberKey, followed: u64) -> Option<Work> {
        let until = self.position.max(followed);
        let member = self.members.get_mut(key)?;
        let State::Returning(from) = member.state else {
            return None;
        };
        if self.query.is_wide && from > self.position {
            // What happened in between is in no difference that he would be told.
            member.state = State::Waiting {
                load: self.num_loads + 1,
                reset: Some(CHANGED_MEANWHILE),
                kept: Vec::new(),
            };
            return self.begin_load();
        }
        member.since = until;
        member.state = State::CatchingUp { kept: Vec::new() };
        Some(Work::Replay(Missed {
            member: key.clone(),
            label: member.label.clone(),
            lens: Arc::clone(self.lens.as_ref()?),
            from,
            until,
        }))
    }

    /// Sees an event that is about how its user sees, or about what the query looks at beyond its
    /// records.
    pub(super) fn notice(&mut self, event: &Event) -> Option<Work> {
        let whose = (&*self.query, &self.audience);
        let lens = self.lens.as_deref();
        // What the last load has seen already is no news: a difference must lie behind every position
        // that was told, so that who loses his connection within it finds that it happened.
        let is_news = lens.is_none_or(|lens| event.position > lens.position);
        if is_news && disturbs(event, whose, lens) {
            return self.disturb(event.position);
        }
        let is_news = event.position > self.position;
        if is_news && self.query.is_wide && moves(event, whose, lens) {
            self.moved_at = event.position;
            return self.begin_load();
        }
        None
    }

    /// Tells nobody anything until the result has been looked up again.
    pub(super) fn disturb(&mut self, position: u64) -> Option<Work> {
        self.disturbed_at = position;
        self.is_settled = false;
        self.backlog.clear();
        self.begin_load()
    }

    /// Sees a change of a record of its type.
    ///
    /// # Errors
    /// There are more records than `max_records` now.
    pub(super) fn see(
        &mut self,
        change: &Change,
        renderer: &mut Renderer<'_>,
        post: &mut Post,
        max_records: usize,
    ) -> Result<Option<Work>, ApiError> {
        if self.query.is_wide {
            return Ok(None);
        }
        if !self.is_settled {
            if self.backlog.len() >= MAX_BACKLOG {
                return Ok(self.disturb(change.position));
            }
            self.backlog.push(change.clone());
            return Ok(None);
        }
        self.tell(change, renderer, post);
        refuse_more(self.known.len(), max_records)?;
        Ok(None)
    }

    fn tell(&mut self, change: &Change, renderer: &mut Renderer<'_>, post: &mut Post) {
        let Some(lens) = self
            .lens
            .as_ref()
            .filter(|_| change.position > self.position)
        else {
            return;
        };
        let found = change.after.as_ref();
        let found = found.filter(|head| lens.finds(&self.query, &head.record));
        let key = &change.id.key;
        let Some(head) = found else {
            if self.known.remove(key).is_some() {
                for ((listener, _), member) in &mut self.members {
                    let frame = renderer.leave(&member.label, change);
                    member.take(*listener, change.position, frame, post);
                }
            }
            return;
        };
        let (place, hash) = renderer.render(&self.query, lens, head);
        let before = self.known.insert(key.clone(), hash);
        let event = if before.is_some() { "change" } else { "enter" };
        for ((listener, _), member) in &mut self.members {
            let frame = renderer.record(&member.label, event, (change.position, place));
            member.take(*listener, change.position, frame, post);
        }
    }

    /// Takes the result of a load; `followed` is how far the follower is. Returns what else has to
    /// be looked up.
    ///
    /// # Errors
    /// Nothing can be told any more.
    pub(super) fn loaded(
        &mut self,
        number: u64,
        loaded: Loaded,
        (renderer, post): (&mut Renderer<'_>, &mut Post),
        (followed, max_records): (u64, usize),
    ) -> Result<Vec<Work>, ApiError> {
        self.is_loading = false;
        let seen = loaded.position.min(loaded.lens.position);
        if self.disturbed_at > seen {
            return Ok(self.begin_load().into_iter().collect());
        }
        let is_same = |lens: &Arc<Lens>| lens.is_same(&loaded.lens);
        if self.is_settled && !self.query.is_wide && !self.lens.as_ref().is_some_and(is_same) {
            // Who waits would see records otherwise than those who listen, and when that changes
            // back before it is noticed, nobody would tell him.
            return Ok(self.disturb(seen).into_iter().collect());
        }
        refuse_more(loaded.records.len(), max_records)?;
        if !self.is_settled || self.query.is_wide {
            self.adopt(&loaded, post);
            for change in std::mem::take(&mut self.backlog) {
                renderer.begin();
                self.tell(&change, renderer, post);
            }
            refuse_more(self.known.len(), max_records)?;
        }
        self.serve(number, &loaded, post);
        let returning = |(key, member): (&MemberKey, &Member)| {
            matches!(member.state, State::Returning(_)).then(|| key.clone())
        };
        let returning: Vec<_> = self.members.iter().filter_map(returning).collect();
        let mut work: Vec<_> = returning
            .iter()
            .filter_map(|key| self.catch_up(key, followed))
            .collect();
        let waits = |member: &Member| matches!(member.state, State::Waiting { .. });
        let is_behind = self.query.is_wide && self.moved_at > loaded.position;
        if is_behind || self.members.values().any(waits) {
            work.extend(self.begin_load());
        }
        Ok(work)
    }

    /// Takes a result in the place of what is known, and tells those who had that the difference.
    fn adopt(&mut self, loaded: &Loaded, post: &mut Post) {
        let known: HashMap<RecordKey, u64> = loaded
            .records
            .iter()
            .map(|(id, body)| (id.key.clone(), body.hash))
            .collect();
        let mut said = Vec::new();
        for (id, body) in &loaded.records {
            match self.known.get(&id.key) {
                None => said.push(("enter", id.clone(), Some(body))),
                Some(hash) if *hash != body.hash => said.push(("change", id.clone(), Some(body))),
                Some(_) => {}
            }
        }
        let gone = self.known.keys().filter(|key| !known.contains_key(*key));
        let name = &self.query.query.record_type;
        said.extend(gone.map(|key| ("leave", RecordId::new(name.clone(), key.clone()), None)));
        for ((listener, _), member) in &mut self.members {
            for (event, id, body) in &said {
                let frame = match body {
                    Some(body) => member.label.record(event, None, &body.text),
                    None => member.label.leave(None, id),
                };
                member.take(*listener, loaded.position, frame, post);
            }
            if !said.is_empty() {
                let ready = member.label.ready(loaded.position);
                member.take(*listener, loaded.position, ready, post);
            }
        }
        self.known = known;
        self.position = loaded.position;
        self.lens = Some(Arc::clone(&loaded.lens));
        self.is_settled = true;
    }

    /// Gives the result to those who waited for it.
    fn serve(&mut self, number: u64, loaded: &Loaded, post: &mut Post) {
        let mut pages: HashMap<Label, Vec<Frame>> = HashMap::new();
        for ((listener, _), member) in &mut self.members {
            let State::Waiting { load, reset, .. } = &member.state else {
                continue;
            };
            if *load > number {
                continue;
            }
            let label = member.label.clone();
            post.extend(reset.map(|reason| (*listener, label.reset(reason))));
            let pages = pages.entry(label).or_insert_with_key(|label| {
                let pages = loaded.pages.iter().map(|page| label.result(page));
                pages.chain([label.ready(loaded.position)]).collect()
            });
            post.extend(pages.iter().map(|frame| (*listener, frame.clone())));
            member.go_live(*listener, loaded.position, post);
        }
    }

    /// Takes what was found out about what a member missed.
    pub(super) fn replayed(
        &mut self,
        missed: &Missed,
        replayed: Replayed,
        post: &mut Post,
    ) -> Option<Work> {
        let waiting = match &replayed {
            Replayed::Told(_) => None,
            Replayed::Reset(reason) => Some(self.waiting(Some(reason))),
        };
        let member = self.members.get_mut(&missed.member)?;
        if !matches!(member.state, State::CatchingUp { .. }) {
            return None;
        }
        let listener = missed.member.0;
        match replayed {
            Replayed::Told(frames) => {
                post.extend(frames.into_iter().map(|frame| (listener, frame)));
                let reached = missed.until.max(missed.from);
                post.push((listener, member.label.ready(reached)));
                member.go_live(listener, reached, post);
                None
            }
            Replayed::Reset(_) => {
                member.since = 0;
                member.state = waiting?;
                self.begin_load()
            }
        }
    }

    /// Tells everybody that nothing more comes, and why.
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
