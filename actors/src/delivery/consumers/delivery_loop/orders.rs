//! The orders of operators to a consumer, and the commands of the server to its actor.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};

use super::DeliveryLoop;
use super::due::Past;
use crate::delivery::consumers::hook_events;
use crate::delivery::consumers::messages::{Command, ConsumerState, Order, Target};
use crate::delivery::consumers::parts::Recipient;
use crate::delivery::consumers::store::DeadLetterId;
use crate::log::seek::position_before;

/// How many deliveries can be requested again at once.
const MAX_AGAIN: usize = 5000;

/// How many events are searched for them.
const MAX_RANGE: u64 = 100_000;

/// How many dead letters are read at once.
const PAGE_DEAD_LETTERS: usize = 500;

/// Why a consumer is paused when an operator asked for it.
const ON_REQUEST: &str = "on request";

impl DeliveryLoop {
    pub(super) async fn handle_command(&mut self, command: Command) {
        match command {
            Command::Order(order, reply) => {
                let done = self.carry_out(order).await;
                // A caller that has the answer sees no earlier state.
                self.show();
                // The sender may not be waiting any more.
                let _ = reply.send(done);
            }
            Command::Keep(done) => {
                self.save_all().await;
                drop(done);
            }
            Command::Ahead(position) => self.reach_ahead(position).await,
            Command::Close(done) => {
                self.closing = Some(done);
                // What is in progress may take longer than there is time.
                self.save_all().await;
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> Result<ConsumerState, ApiError> {
        match order {
            Order::Pause => self.checkpoint.paused = Some(ON_REQUEST.to_owned()),
            Order::Resume => {
                self.checkpoint.paused = None;
                self.schedule.catch_up_until(self.parts.env.log.head());
            }
            Order::Rewind(target) => {
                let position = self.find(target).await?;
                self.go_to(position);
            }
            Order::Redeliver { from, until } => self.deliver_again(from, until).await?,
            Order::Resend(letters) => self.resend(letters).await?,
            Order::Drop(letters) => self.drop_dead_letters(letters).await?,
        }
        self.unsaved.touch();
        if self.save_all().await {
            Ok(self.state())
        } else {
            Err(ApiError::unexpected(
                "it could not be saved; a restart may undo it",
            ))
        }
    }

    async fn find(&self, target: Target) -> Result<u64, ApiError> {
        let head = self.parts.env.log.head();
        match target {
            Target::End => Ok(head),
            Target::Time(time) => position_before(&*self.parts.env.log, time).await,
            Target::Position(position) if position <= head => Ok(position),
            Target::Position(_) => {
                let message = format!("the log ends at {head}");
                Err(ApiError::invalid_argument(message, &["position"]))
            }
        }
    }

    async fn deliver_again(&mut self, from: u64, until: u64) -> Result<(), ApiError> {
        let refuse = |message: String| ApiError::invalid_argument(message, &["from", "until"]);
        let read = self.schedule.read();
        if from == 0 || from > until || until > read || until - from > MAX_RANGE {
            return Err(refuse(format!(
                "from and until should be positions from 1 to {read}, in order, and not more than \
                 {MAX_RANGE} apart"
            )));
        }
        let mut selected: Vec<DeadLetterId> = Vec::new();
        let mut position = from;
        while position <= until {
            let page = self.load_page(position - 1, read).await?;
            let Some(last) = page.last().map(|commit| commit.last_position()) else {
                return Err(ApiError::unexpected("the log cannot be read"));
            };
            for commit in &page {
                let called = self.due(commit, Past::Counts).into_iter();
                for it in called.filter(|it| (from..=until).contains(&it.event.position)) {
                    let position = it.event.position;
                    selected.extend(it.hooks.into_iter().map(|(hook, _)| (position, hook)));
                }
            }
            if selected.len() > MAX_AGAIN {
                return Err(refuse(format!(
                    "more than {MAX_AGAIN} deliveries: choose a smaller range, or rewind"
                )));
            }
            position = last + 1;
        }
        let again: BTreeSet<DeadLetterId> = selected.iter().cloned().collect();
        let letters = self.list_dead_letters(|id| again.contains(id)).await?;
        self.reopen(selected);
        self.unsaved.forget(letters);
        Ok(())
    }

    async fn drop_dead_letters(&mut self, named: Vec<DeadLetterId>) -> Result<(), ApiError> {
        let is_retried =
            |(position, hook): &DeadLetterId| self.schedule.is_retried(*position, hook);
        let (retried, letters): (Vec<_>, Vec<_>) = named.into_iter().partition(is_retried);
        // An empty list would mean all.
        if retried.is_empty() || !letters.is_empty() {
            let letters = self.find_dead_letters(letters).await?;
            self.unsaved.forget(letters);
        }
        for (position, hook) in retried {
            let retry_state = self.retries.get(&(position, Arc::clone(&hook)));
            let error = retry_state.map(|retry| retry.error.clone());
            if let Some(given_up) = self.schedule.give_up(position, &hook) {
                let on_request = || ApiError::unexpected("given up on request").to_wire();
                self.give_up(given_up, error.unwrap_or_else(on_request));
            }
        }
        Ok(())
    }

    /// Reopens dead letters. Those of unregistered hooks stay, because nothing could be told of
    /// them; an order for all skips them.
    async fn resend(&mut self, named: Vec<DeadLetterId>) -> Result<(), ApiError> {
        let names = self.registered();
        let is_registered = |hook: &str| names.as_ref().is_none_or(|names| names.contains(hook));
        let mut letters = Vec::new();
        if named.is_empty() {
            letters = self
                .list_dead_letters(|(_, hook)| is_registered(hook))
                .await?;
        }
        if letters.is_empty() {
            letters = self.find_dead_letters(named).await?;
            if let Some((position, hook)) = letters.iter().find(|(_, hook)| !is_registered(hook)) {
                let message = format!(
                    "the hook {hook} is not registered: {position}/{hook} stays a dead letter"
                );
                return Err(ApiError::invalid_argument(message, &["ids"]));
            }
        }
        // What is beyond `read` will be read anyway: the consumer has been rewound.
        let read = self.schedule.read();
        let again = letters.iter().filter(|(position, _)| *position <= read);
        self.reopen(again.cloned().collect());
        self.unsaved.forget(letters);
        Ok(())
    }

    /// Returns the names of the hooks that the plugin registered last; `None` for a consumer of the
    /// log, which has no hooks.
    fn registered(&self) -> Option<BTreeSet<String>> {
        let names = || {
            self.checkpoint
                .since
                .keys()
                .map(|key| hook_events::name_in(key))
        };
        match &self.parts.recipient {
            Recipient::Plugin => Some(names().map(str::to_owned).collect()),
            Recipient::Log(_) => None,
        }
    }

    fn reopen(&mut self, letters: Vec<DeadLetterId>) {
        for (position, hook) in letters {
            self.checkpoint.ordered = self.checkpoint.ordered.max(position);
            self.schedule.reopen(position, [hook]);
        }
    }

    /// Returns the dead letters with these ids, or all of them if none is named.
    async fn find_dead_letters(
        &mut self,
        named: Vec<DeadLetterId>,
    ) -> Result<Vec<DeadLetterId>, ApiError> {
        let is_named = |id: &DeadLetterId| named.is_empty() || named.contains(id);
        let found = self.list_dead_letters(is_named).await?;
        let missing = named.iter().find(|id| !found.contains(id));
        if let Some((position, hook)) = missing {
            let message = format!("{position}/{hook} is neither a dead letter nor being retried");
            return Err(ApiError::new(Code::ResourceNotFound, message));
        }
        Ok(found)
    }

    /// Lists the wanted dead letters: all of them, or the first few thousand.
    async fn list_dead_letters(
        &mut self,
        is_selected: impl Fn(&DeadLetterId) -> bool,
    ) -> Result<Vec<DeadLetterId>, ApiError> {
        // Those that are not saved yet are dead letters, too.
        self.save_all().await;
        let mut found = Vec::new();
        let mut after: Option<DeadLetterId> = None;
        loop {
            let (store, name) = (&self.parts.store, &self.parts.name);
            let page = store
                .list_dead_letters(name, after.as_ref(), PAGE_DEAD_LETTERS)
                .await;
            let page = page.map_err(|error| ApiError::unexpected(error.to_string()))?;
            let ids = page.iter().map(|it| &it.id);
            found.extend(ids.filter(|id| is_selected(id)).cloned());
            match page.last() {
                Some(last) if page.len() == PAGE_DEAD_LETTERS && found.len() < MAX_AGAIN => {
                    after = Some(last.id.clone());
                }
                _ => return Ok(found),
            }
        }
    }
}
