//! Reading: the plugin's registration, and the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, Origin, Stream};
use tokio::time::Instant;

use super::due::Past;
use super::{DeliveryLoop, EventRequest, MAX_REQUESTS, PAUSE};
use crate::context::{Cause, RequestContext};
use crate::delivery::consumers::announced::Waiter;
use crate::delivery::consumers::cursor::Cursor;
use crate::delivery::consumers::hook_events::{self, HookEvent};
use crate::delivery::consumers::parts::Recipient;
use crate::delivery::consumers::schedule::{Arrival, GivenUp, Schedule};
use crate::delivery::consumers::store::LogRange;
use crate::log::seek::load_commit;
use crate::plugin::ExtensionPoints;

/// The approximate number of events that are read at once.
const PAGE_EVENTS: usize = 512;

/// How many deliveries can be open before reading the log stops.
const MAX_OPEN: usize = 10_000;

/// At this number of dead letters, the unread events of an unregistered hook no longer become dead
/// letters.
const MAX_DEAD_LETTERS: u64 = 10_000;

/// How many events can be done beyond what has been read.
const MAX_AHEAD: usize = 1000;

/// Returns whether a request may come from a plugin itself, but not over its connection: it then
/// has the master key, and does not tell which hook it belongs to.
fn may_be_of_plugin(context: &RequestContext) -> bool {
    context.caller.may_be_plugin() && context.origin == Origin::Api && context.via.is_empty()
}

impl DeliveryLoop {
    /// Updates the presence and the registration when they have changed, and when a pause is over,
    /// because the promise may be missing still.
    pub(super) async fn look_for_changes(&mut self) {
        let is_over = self.not_before.is_some_and(|due| due <= Instant::now());
        self.not_before = self.not_before.filter(|_| !is_over);
        if !is_over && !self.changes.has_changed().unwrap_or(false) {
            return;
        }
        self.changes.mark_unchanged();
        match &self.parts.recipient {
            Recipient::Plugin => self.look_at_plugin().await,
            Recipient::Log(side) => {
                self.presence = side.dispatcher.presence();
                self.has_promised = true;
            }
        }
    }

    async fn look_at_plugin(&mut self) {
        let gate = &self.parts.env.plugins;
        // In this order: a plugin that is registered by then has its points.
        let (presence, points) = (gate.presence(&self.parts.name), gate.points());
        let before = std::mem::replace(&mut self.presence, presence);
        self.has_served |= presence.is_ready;
        if presence.is_ready && (!before.is_ready || before.generation != presence.generation) {
            // It has come back, or was initialised anew.
            self.held_until = None;
        }
        if presence.is_registered && !Arc::ptr_eq(&points, &self.points) {
            // The previous registration no longer holds, and this one does not yet.
            self.has_promised = false;
            if self.not_before.is_none() {
                self.promise_hooks(points).await;
            }
        }
        self.has_begun_catch_up &= presence.is_ready;
        if presence.is_ready && self.has_promised && !self.has_begun_catch_up {
            self.has_begun_catch_up = true;
            self.begin_catch_up();
        }
    }

    /// Promises to deliver to the hooks that the plugin registered, to new ones from now on.
    ///
    /// While that cannot be saved, nothing is delivered, and it is retried.
    async fn promise_hooks(&mut self, points: Arc<ExtensionPoints>) {
        let head = self.parts.env.log.head();
        let hooks = hook_events::after_hooks(&points, &self.parts.name);
        let mut names = BTreeSet::new();
        let mut since = BTreeMap::new();
        let read = self.schedule.read();
        let mut gone = self.checkpoint.gone.clone();
        for hook in hooks {
            let key = hook_events::key_of(hook);
            // A hook that comes back before its leftover events have been read continues there.
            let leftover = gone.remove(&key).map(|leftover| leftover.since.max(read));
            let position = self.checkpoint.since.get(&key).copied().or(leftover);
            since.insert(key, position.unwrap_or(head));
            names.insert(hook.name.clone());
        }
        for (key, from) in &self.checkpoint.since {
            if !since.contains_key(key) {
                let (since, until) = (*from, head);
                gone.insert(key.clone(), LogRange { since, until });
            }
        }
        if self.is_new {
            self.schedule = Schedule::new(Cursor::at(head), self.parts.settings.max_attempts);
        }
        if self.is_new || since != self.checkpoint.since || self.unsaved.is_failing() {
            self.checkpoint.since = since;
            self.checkpoint.gone = gone;
            self.unsaved.touch();
            if !self.save_all().await {
                self.not_before = Some(Instant::now() + PAUSE);
                return;
            }
        }
        self.points = points;
        self.is_new = false;
        self.has_promised = true;
        // They are saved with the next cursor. Until then they are open in the saved one, so a
        // crash loses none: they are orphaned again when they are read again.
        for orphan in self.schedule.retain(|hook| names.contains(hook)) {
            self.orphan(orphan);
        }
        let keys = self.checkpoint.since.keys().cloned();
        self.promises.send_replace(Arc::new(keys.collect()));
    }

    /// Handles the return of the plugin: what was committed up to now is the past.
    fn begin_catch_up(&mut self) {
        let head = self.parts.env.log.head();
        let news = self
            .presence
            .from
            .filter(|(worker, _)| self.starter != Some(*worker));
        if let Some((worker, from)) = news {
            self.starter = Some(worker);
            let from = from.min(head);
            tracing::info!(
                consumer = %self.parts.name, from,
                "deliveries start where the plugin asked"
            );
            self.go_to(from);
        }
        self.schedule.catch_up_until(head);
    }

    /// Continues after a position, whatever was before.
    pub(super) fn go_to(&mut self, position: u64) {
        self.epoch += 1;
        self.requests.clear();
        self.urgencies.clear();
        self.retries.clear();
        self.schedule = Schedule::new(Cursor::at(position), self.parts.settings.max_attempts);
        let head = self.parts.env.log.head();
        self.schedule.catch_up_until(head);
        self.checkpoint.ordered = head;
        for since in self.checkpoint.since.values_mut() {
            *since = (*since).min(position);
        }
        self.unsaved.touch();
    }

    /// Returns whether so many deliveries are open that the log is read no further.
    pub(super) fn is_full(&self) -> bool {
        self.schedule.counts().open >= MAX_OPEN
    }

    /// Returns whether there is room for more events, and it is known which of them are wanted.
    pub(super) fn may_read(&self) -> bool {
        let has_recipient = match &self.parts.recipient {
            Recipient::Plugin => self.has_promised,
            // It is read only while workers are connected: nothing is promised to absent ones.
            Recipient::Log(_) => self.presence.is_ready,
        };
        let is_free = has_recipient && !self.is_full();
        is_free && !self.is_draining() && self.closing.is_none() && self.not_before.is_none()
    }

    /// Returns whether anything is left to read.
    pub(super) fn is_page_left(&self) -> bool {
        self.schedule.next_unread().is_some()
            || self.parts.env.applied.position() > self.schedule.read()
    }

    /// Reads a page of the log, as far as the store has applied it.
    pub(super) async fn read_page(&mut self) {
        if !self.may_read() {
            return;
        }
        while let Some(position) = self.schedule.next_unread() {
            if let Err(error) = self.read_again(position).await {
                return self.unreadable(&error);
            }
        }
        let (read, until) = (self.schedule.read(), self.parts.env.applied.position());
        if until <= read {
            return;
        }
        self.unsaved.touch();
        let is_plugin = matches!(self.parts.recipient, Recipient::Plugin);
        if is_plugin && self.checkpoint.since.is_empty() && self.checkpoint.gone.is_empty() {
            // None of it is wanted.
            return self.schedule.advance(until);
        }
        match self.load_page(read, until).await {
            // The events exist, but cannot be read at the moment.
            Ok(commits) if commits.is_empty() => self.not_before = Some(Instant::now() + PAUSE),
            Ok(commits) => {
                for commit in &commits {
                    self.end_gone_hooks(commit, read);
                    self.take(commit, read);
                    self.schedule.advance(commit.last_position());
                }
                let read = self.schedule.read();
                self.checkpoint
                    .gone
                    .retain(|_, leftover| leftover.until > read);
            }
            Err(error) => self.unreadable(&error),
        }
    }

    pub(super) async fn load_page(
        &self,
        read: u64,
        until: u64,
    ) -> Result<Vec<Arc<Commit>>, ApiError> {
        let commits = self.parts.env.log.read(read + 1, PAGE_EVENTS).await;
        let mut commits = commits.map_err(|error| ApiError::unexpected(error.to_string()))?;
        commits.retain(|commit| commit.last_position() <= until);
        Ok(commits)
    }

    /// Adds the events of a commit after `read` to the schedule.
    fn take(&mut self, commit: &Arc<Commit>, read: u64) {
        let name = Arc::clone(&self.parts.name);
        let announced = self.parts.announced_commits.take_for(commit.id, &name);
        for due in self.due(commit, Past::Ignored) {
            let event = due.event;
            let waiter = announced
                .as_ref()
                .and_then(|announced| announced.take_waiter(due.index, &name));
            if event.position <= read || self.schedule.has(event.position) {
                continue;
            }
            let mut arrival = due.arrival(commit);
            let is_remembered = waiter.is_some() || self.requests.len() < MAX_REQUESTS;
            if let Some(announced) = announced.as_ref().filter(|_| is_remembered) {
                let context = &announced.context;
                arrival.causes = context.ancestors.iter().map(Cause::id).collect();
                // Plugins that prepare wait for each other, and for nothing else.
                let is_waited_for = !context.via.is_empty() || !self.has_served;
                arrival.is_urgent = waiter.is_some() && is_waited_for;
                arrival.may_be_nested = waiter.is_some() && may_be_of_plugin(context);
                let num_left = arrival.hooks.iter().filter(|(_, is_sync)| *is_sync).count();
                let request = EventRequest {
                    commit: Arc::clone(announced),
                    answer: None,
                    num_left,
                    its_turn_since: None,
                };
                self.requests.insert(event.position, request);
            }
            if let Some(waiter) = waiter {
                self.add_waiter(event.position, waiter, &mut arrival);
            }
            if arrival.hooks.is_empty() {
                self.requests.remove(&event.position);
            }
            self.schedule.load(arrival);
        }
    }

    /// Ends the deliveries that a commit's events after `read` require for hooks that are no longer
    /// registered.
    ///
    /// When there are very many dead letters, no more are created: the log has the events anyway.
    /// Events that are too old are skipped, as they would be if the hooks still existed.
    fn end_gone_hooks(&mut self, commit: &Commit, read: u64) {
        if self.checkpoint.gone.is_empty() {
            return;
        }
        let is_too_old = self.parts.is_too_old(commit.time);
        for hook_event in hook_events::of_commit(commit) {
            let position = hook_event.event.position;
            // An event that was loaded ahead of its turn was handled then.
            if position <= read || self.schedule.has(position) {
                continue;
            }
            for hook in self.gone_hooks(&hook_event) {
                if is_too_old && position > self.checkpoint.ordered {
                    self.checkpoint.num_skipped += 1;
                    self.unsaved.note_too_old(position);
                } else if self.unsaved.num_dead_letters() >= MAX_DEAD_LETTERS {
                    self.unsaved.note_orphaned((hook, false), position);
                } else {
                    self.orphan(GivenUp {
                        position,
                        stream: hook_event.event.stream.clone(),
                        hook,
                        is_sync: false,
                        attempts: 0,
                    });
                }
            }
        }
    }

    /// Returns the hooks that should have been told of an event and are no longer registered.
    fn gone_hooks(&self, hook_event: &HookEvent<'_>) -> Vec<Arc<str>> {
        let position = hook_event.event.position;
        let gone = self.checkpoint.gone.iter().filter(|(key, leftover)| {
            let is_in = leftover.since < position && position <= leftover.until;
            is_in && hook_events::is_meant(key, (&hook_event.id, hook_event.trigger))
        });
        gone.map(|(key, _)| hook_events::name_in(key).into())
            .collect()
    }

    /// Remembers the waiter for an event; the turn of its hooks may be later.
    fn add_waiter(&mut self, position: u64, waiter: Waiter, arrival: &mut Arrival) {
        let Some(request) = self.requests.get_mut(&position) else {
            return;
        };
        if request.num_left == 0 {
            let _ = waiter.answer.send(Ok(()));
            return;
        }
        request.answer = Some(waiter.answer);
        request.its_turn_since = waiter.turn.is_none().then(Instant::now);
        if let Some(turn) = waiter.turn {
            arrival.is_held = true;
            self.turns.push(Box::pin(async move {
                // Dropped or answered: the plugins before have had their turn.
                let _ = turn.await;
                position
            }));
        }
    }

    /// Reads an event again that was open, or is wanted once more.
    async fn read_again(&mut self, position: u64) -> Result<(), ApiError> {
        let commit = load_commit(&*self.parts.env.log, position).await?;
        let due = self.due(&commit, Past::Counts).into_iter();
        for it in due.filter(|it| it.event.position == position) {
            for (hook, attempts) in self.schedule.retain_unread(position, &it.hooks) {
                self.orphan(GivenUp {
                    position,
                    stream: it.event.stream.clone(),
                    hook,
                    is_sync: false,
                    attempts,
                });
            }
            let arrival = it.arrival(&commit);
            self.schedule.load(arrival);
        }
        if self.schedule.next_unread() == Some(position) {
            self.schedule.forget_unread(position);
        }
        Ok(())
    }

    /// Handles a waiter for an event that is far ahead: loads the event ahead of its turn, unless
    /// its record has an earlier one.
    pub(super) async fn reach_ahead(&mut self, position: u64) {
        let is_far = self.may_read() && position > self.schedule.read();
        if !is_far || self.schedule.num_ahead() >= MAX_AHEAD || self.schedule.has(position) {
            return;
        }
        if let Err(error) = self.load_ahead(position).await {
            self.unreadable(&error);
        }
    }

    async fn load_ahead(&mut self, position: u64) -> Result<(), ApiError> {
        let env = self.parts.env.clone();
        env.applied.wait_for(position).await?;
        let commit = load_commit(&*env.log, position).await?;
        let read = self.schedule.read();
        for HookEvent { event, id, .. } in hook_events::of_commit(&commit) {
            let stream = Stream::Record(id.clone());
            let before = commit.first_position() - 1;
            // If another stream's event is mistaken for one of the record's, this one only waits
            // for its turn.
            let has_earlier = env.streams().may_have(&stream, read + 1..=before).await?;
            if self.schedule.has_open(&stream) || has_earlier || event.position <= read {
                return Ok(());
            }
        }
        self.end_gone_hooks(&commit, read);
        self.take(&commit, read);
        Ok(())
    }
}
