//! What becomes of a view after something was looked up for it.

use std::collections::HashMap;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, RecordKey};

use super::super::frame::{Frame, Label};
use super::super::lens::Lens;
use super::super::listeners::{LiveQueriesState, ViewId};
use super::super::load::Loaded;
use super::super::matcher::{MatchRequest, Matchers};
use super::super::replay::{CHANGED_MEANWHILE, Replayed, TOO_OLD};
use super::member::{Member, MemberKey, PendingFrames, Post, State};
use super::{Change, Loading, Missed, View, Work, refuse_more};

impl View {
    /// Returns the changes after a load whose match requests must be evaluated before its result can be
    /// [taken](Self::loaded).
    pub(in super::super) fn match_requests(
        &self,
        id: ViewId,
        loaded: &Loaded,
        matchers: &mut Matchers<'_>,
    ) -> Vec<(Change, MatchRequest)> {
        // The result will not be used.
        if self.disturbed_at > loaded.position.min(loaded.lens.position) {
            return Vec::new();
        }
        let match_request = |change: &Change| {
            let of = (id, change, &*matchers.of(change.position));
            let match_request = self.match_request_by(&loaded.lens, loaded.position, of)?;
            Some((change.clone(), match_request))
        };
        self.backlog.iter().filter_map(match_request).collect()
    }

    /// Handles the result of a load; `followed` is how far the follower is. Returns what else has
    /// to be looked up.
    ///
    /// # Errors
    /// Nothing can be told any more.
    pub(in super::super) fn loaded(
        &mut self,
        (id, number): (ViewId, u64),
        loaded: &Loaded,
        (matchers, post): (&mut Matchers<'_>, &mut Post),
        (followed, max_records): (u64, usize),
    ) -> Result<Vec<Work>, ApiError> {
        self.loading = Loading::Not;
        self.num_failed = 0;
        let seen = loaded.position.min(loaded.lens.position);
        if self.disturbed_at > seen {
            return Ok(self.begin_load().into_iter().collect());
        }
        let is_same = |lens: &Arc<Lens>| lens.is_same(&loaded.lens);
        if self.is_loaded && !self.query.is_wide && !self.lens.as_ref().is_some_and(is_same) {
            // Those who wait would see records differently from those who are live. If that changed
            // back before it was noticed, nobody would tell them.
            return Ok(self.disturb(seen, followed).into_iter().collect());
        }
        refuse_more(loaded.records.len(), max_records)?;
        if !self.is_loaded || self.query.is_wide {
            self.begin_anew_who_is_ahead();
            self.adopt(loaded, post);
            self.num_backlog = 0;
            for change in std::mem::take(&mut self.backlog) {
                let matcher = matchers.of(change.position);
                self.tell(id, &change, matcher, post)?;
            }
            refuse_more(self.sent.len(), max_records)?;
        }
        self.serve(number, loaded, post);
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

    /// Handles a load that failed for a reason that passes. Those who waited for it and have no result
    /// are told, and are members no longer; they are returned. The others wait until one succeeds.
    pub(in super::super) fn load_failed(
        &mut self,
        number: u64,
        error: &ApiError,
        post: &mut Post,
    ) -> (Vec<MemberKey>, Option<Work>) {
        self.loading = Loading::Not;
        self.num_failed = self.num_failed.saturating_add(1);
        let has_waited = |member: &Member| match &member.state {
            State::Waiting { load, reset, .. } => reset.is_none() && *load <= number,
            _ => false,
        };
        let gone = self.members.extract_if(.., |_, member| has_waited(member));
        let mut left = Vec::new();
        for (key, member) in gone {
            post.push((key.0, member.label.error(error)));
            left.push(key);
        }
        let waits = |member: &Member| matches!(member.state, State::Waiting { .. });
        let is_behind = self.query.is_wide && self.moved_at > self.position;
        let is_needed = !self.is_loaded || is_behind || self.members.values().any(waits);
        let work = if is_needed && !self.members.is_empty() {
            self.begin_load()
        } else {
            None
        };
        (left, work)
    }

    /// Makes those members begin anew that have received more than what is known.
    ///
    /// Their result came straight from the store, at a position after the follower's when the view
    /// was silenced. No difference fits them.
    fn begin_anew_who_is_ahead(&mut self) {
        if self.is_loaded {
            return;
        }
        for member in self.members.values_mut() {
            let has_result = matches!(member.state, State::Live | State::CatchingUp { .. });
            if has_result && member.since > self.sent_until {
                member.state = State::waiting(self.num_loads, Some(CHANGED_MEANWHILE));
            }
        }
    }

    /// Replaces what is known by a result, and tells the difference to those who had the old one.
    fn adopt(&mut self, loaded: &Loaded, post: &mut Post) {
        let sent: HashMap<RecordKey, u64> = loaded
            .records
            .iter()
            .map(|(id, body)| (id.key.clone(), body.hash))
            .collect();
        let mut said = Vec::new();
        for (id, body) in &loaded.records {
            match self.sent.get(&id.key) {
                None => said.push(("enter", id.clone(), Some(body))),
                Some(hash) if *hash != body.hash => said.push(("change", id.clone(), Some(body))),
                Some(_) => {}
            }
        }
        let gone = self.sent.keys().filter(|key| !sent.contains_key(*key));
        let name = &self.query.query.record_type;
        said.extend(gone.map(|key| ("leave", RecordId::new(name.clone(), key.clone()), None)));
        for ((listener, _), member) in &mut self.members {
            for (event, id, body) in &said {
                let frame = match body {
                    Some(body) => member.label.record(event, None, &body.text),
                    None => member.label.leave(None, id),
                };
                member.take(*listener, (loaded.position, frame), self.max_bytes, post);
            }
            if !said.is_empty() {
                let ready = member.label.ready(loaded.position);
                member.take(*listener, (loaded.position, ready), self.max_bytes, post);
            }
        }
        self.sent = sent;
        self.position = loaded.position;
        self.lens = Some(Arc::clone(&loaded.lens));
        self.is_loaded = true;
    }

    /// Sends the result to those who waited for it.
    fn serve(&mut self, number: u64, loaded: &Loaded, post: &mut Post) {
        let mut pages: HashMap<Label, Vec<Frame>> = HashMap::new();
        for ((listener, _), member) in &mut self.members {
            let State::Waiting { load, reset, kept } = &mut member.state else {
                continue;
            };
            if kept.is_lost {
                // What follows this result was not kept; the next load begins after that.
                (*load, *kept) = (number + 1, PendingFrames::default());
            }
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

    /// Handles the outcome of a replay.
    pub(in super::super) fn replayed(
        &mut self,
        number: u64,
        replayed: &Replayed,
        (figures, post): (&mut LiveQueriesState, &mut Post),
    ) -> Option<Work> {
        let Missed { from, until, .. } = self.replays.remove(&number)?.missed;
        let (reached, next) = (until.max(from), self.next_load());
        let mut is_reset = false;
        // A listener that has ended its query since, and begun it again, waits for something else.
        let waiting = self.members.iter_mut().filter(|(_, it)| it.awaits(number));
        for ((listener, _), member) in waiting {
            let is_lost = matches!(&member.state, State::CatchingUp { kept, .. } if kept.is_lost);
            let reason = match replayed {
                Replayed::Told(_) if is_lost => TOO_OLD,
                Replayed::Told(frames) => {
                    figures.num_replays += 1;
                    post.extend(frames.iter().map(|frame| (*listener, frame.clone())));
                    post.push((*listener, member.label.ready(reached)));
                    member.go_live(*listener, reached, post);
                    continue;
                }
                Replayed::Reset(reason) => reason,
            };
            figures.num_resets += 1;
            member.since = 0;
            member.state = State::waiting(next, Some(reason));
            is_reset = true;
        }
        if is_reset { self.begin_load() } else { None }
    }
}
