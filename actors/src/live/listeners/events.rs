//! What the follower shows to the listeners.

use std::collections::BTreeSet;

use skytrail_schema::event::{Event, EventBody, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::time::Timestamp;

use super::super::lens::Lens;
use super::super::matcher::{MatchRequest, Matcher};
use super::super::view::Change;
use super::{Interest, Job, Listeners, ViewId, job};

impl Listeners {
    /// Notes that a record has an event. If a view asks for the record, it needs the change, too.
    pub(in super::super) fn interest(
        &mut self,
        id: &RecordId,
        event: &Event,
    ) -> (Interest, Vec<Job>) {
        let jobs = self.notice_of(event, self.wide.clone());
        let Some(ids) = self.by_type.get(&id.record_type) else {
            self.position = event.position;
            return (Interest::None, jobs);
        };
        let lenses = ids.iter().filter_map(|id| self.views.get(id)?.lens());
        let reshaped = lenses.map(Lens::reshaped).min().unwrap_or(0);
        (Interest::Changes { reshaped }, jobs)
    }

    /// Handles an event that is not about a record.
    pub(in super::super) fn notice(&mut self, event: &Event, now: Timestamp) -> Vec<Job> {
        self.position = event.position;
        let jobs = match (&event.stream, &event.body) {
            (Stream::Type(_) | Stream::FieldAccess, _) => {
                let all = self.views.keys().copied().collect();
                self.notice_of(event, all)
            }
            (Stream::User(_), EventBody::UserChanged(patch))
                if !patch.roles_added.is_empty() || !patch.roles_removed.is_empty() =>
            {
                let all = self.views.keys().copied().collect();
                self.notice_of(event, all)
            }
            (Stream::Relation(..), _) => self.notice_of(event, self.wide.clone()),
            _ => Vec::new(),
        };
        self.refuse(event, now);
        jobs
    }

    fn notice_of(&mut self, event: &Event, ids: BTreeSet<ViewId>) -> Vec<Job> {
        let mut jobs = Vec::new();
        for id in ids {
            let Some(view) = self.views.get_mut(&id) else {
                continue;
            };
            let work = view.notice(event);
            jobs.extend(work.and_then(|work| job(&self.listeners, (id, view), work)));
        }
        jobs
    }

    /// Looks up everything of a type again, because a change could not be read.
    pub(in super::super) fn disturb(&mut self, name: &TypeName, position: u64) -> Vec<Job> {
        self.position = position;
        self.figures.num_failures += 1;
        let mut jobs = Vec::new();
        for id in self.by_type.get(name).into_iter().flatten() {
            if let Some(view) = self.views.get_mut(id) {
                let work = view.disturb(position, position.saturating_sub(1));
                jobs.extend(work.and_then(|work| job(&self.listeners, (*id, view), work)));
            }
        }
        jobs
    }

    /// Shows a change of a record to all views of its type at once. So the position is one up to
    /// which each of them has told everything.
    ///
    /// # Errors
    /// The match requests that must be evaluated first; nothing has changed.
    pub(in super::super) fn see(
        &mut self,
        change: &Change,
        matcher: &mut Matcher<'_>,
    ) -> Result<Vec<Job>, Vec<MatchRequest>> {
        let ids = self.by_type.get(&change.id.record_type);
        let ids = || ids.into_iter().flatten();
        let match_request = |id: &ViewId| self.views.get(id)?.match_request(*id, change, matcher);
        let open: Vec<MatchRequest> = ids().filter_map(match_request).collect();
        if !open.is_empty() {
            return Err(open);
        }
        self.position = change.position;
        let (mut post, mut failed, mut jobs) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids() {
            let Some(view) = self.views.get_mut(id) else {
                continue;
            };
            let max_records = self.settings.max_records;
            match view.see(*id, change, (&mut *matcher, &mut post), max_records) {
                Ok(work) => {
                    let job = work.and_then(|work| job(&self.listeners, (*id, view), work));
                    jobs.extend(job);
                }
                Err(error) => failed.push((*id, error)),
            }
        }
        self.deliver(post);
        for (id, error) in failed {
            self.fail(id, &error);
        }
        Ok(jobs)
    }
}
