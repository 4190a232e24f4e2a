//! What people want of a consumer, and the server of its courier.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};

use super::Errand;
use super::wanted::Past;
use crate::delivery::couriers::messages::{Command, ConsumerState, Order, Target};
use crate::delivery::couriers::occasion;
use crate::delivery::couriers::parts::Recipient;
use crate::delivery::couriers::store::LetterId;
use crate::log::seek::position_before;

/// So many deliveries may be asked for again at once.
const MAX_AGAIN: usize = 5000;

/// So many events are looked at for that.
const MAX_RANGE: u64 = 100_000;

/// So many letters are looked at at once.
const PAGE_LETTERS: usize = 500;

/// Why a consumer is paused when somebody wanted it.
const ON_REQUEST: &str = "on request";

impl Errand {
    pub(super) async fn obey(&mut self, command: Command) {
        match command {
            Command::Order(order, reply) => {
                let done = self.carry_out(order).await;
                // Who has the answer and looks sees no earlier state.
                self.show();
                // Nobody may be waiting any more.
                let _ = reply.send(done);
            }
            Command::Keep(done) => {
                self.keep_all().await;
                drop(done);
            }
            Command::Ahead(position) => self.reach_ahead(position).await,
            Command::Close(done) => {
                self.closing = Some(done);
                // What is under way may take longer than there is time.
                self.keep_all().await;
            }
        }
    }

    async fn carry_out(&mut self, order: Order) -> Result<ConsumerState, ApiError> {
        match order {
            Order::Pause => self.standing.paused = Some(ON_REQUEST.to_owned()),
            Order::Resume => {
                self.standing.paused = None;
                self.schedule.catch_up_until(self.parts.env.log.head());
            }
            Order::Rewind(target) => {
                let position = self.find(target).await?;
                self.go_to(position);
            }
            Order::Redeliver { from, until } => self.deliver_again(from, until).await?,
            Order::Resend(letters) => self.resend(letters).await?,
            Order::Drop(letters) => self.drop_letters(letters).await?,
        }
        self.keeping.touch();
        if self.keep_all().await {
            Ok(self.state())
        } else {
            Err(ApiError::unexpected(
                "it could not be kept; it may not outlast a restart",
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
        let mut wanted: Vec<LetterId> = Vec::new();
        let mut position = from;
        while position <= until {
            let page = self.load_page(position - 1, read).await?;
            let Some(last) = page.last().map(|commit| commit.last_position()) else {
                return Err(ApiError::unexpected("the log cannot be read"));
            };
            for commit in &page {
                let called = self.wanted(commit, Past::Counts).into_iter();
                for it in called.filter(|it| (from..=until).contains(&it.event.position)) {
                    let position = it.event.position;
                    wanted.extend(it.hooks.into_iter().map(|(hook, _)| (position, hook)));
                }
            }
            if wanted.len() > MAX_AGAIN {
                return Err(refuse(format!(
                    "more than {MAX_AGAIN} deliveries: take a smaller range, or rewind"
                )));
            }
            position = last + 1;
        }
        let again: BTreeSet<LetterId> = wanted.iter().cloned().collect();
        let letters = self.list_letters(|id| again.contains(id)).await?;
        self.reopen(wanted);
        self.keeping.forget(letters);
        Ok(())
    }

    async fn drop_letters(&mut self, named: Vec<LetterId>) -> Result<(), ApiError> {
        let is_retried = |(position, hook): &LetterId| self.schedule.is_retried(*position, hook);
        let (retried, letters): (Vec<_>, Vec<_>) = named.into_iter().partition(is_retried);
        // None would mean all.
        if retried.is_empty() || !letters.is_empty() {
            let letters = self.find_letters(letters).await?;
            self.keeping.forget(letters);
        }
        for (position, hook) in retried {
            let known = self.retries.get(&(position, Arc::clone(&hook)));
            let error = known.map(|retry| retry.error.clone());
            if let Some(left) = self.schedule.give_up(position, &hook) {
                let on_request = || ApiError::unexpected("given up on request").to_wire();
                self.give_up(left, error.unwrap_or_else(on_request));
            }
        }
        Ok(())
    }

    /// Letters of hooks that are not registered stay: nobody could be told of them. Who wants all has
    /// the others.
    async fn resend(&mut self, named: Vec<LetterId>) -> Result<(), ApiError> {
        let names = self.registered();
        let is_registered = |hook: &str| names.as_ref().is_none_or(|names| names.contains(hook));
        let mut letters = Vec::new();
        if named.is_empty() {
            letters = self.list_letters(|(_, hook)| is_registered(hook)).await?;
        }
        if letters.is_empty() {
            letters = self.find_letters(named).await?;
            if let Some((position, hook)) = letters.iter().find(|(_, hook)| !is_registered(hook)) {
                let message = format!(
                    "the hook {hook} is not registered: {position}/{hook} stays a dead letter"
                );
                return Err(ApiError::invalid_argument(message, &["ids"]));
            }
        }
        // Beyond what was read it comes by itself, the consumer has been rewound.
        let read = self.schedule.read();
        let again = letters.iter().filter(|(position, _)| *position <= read);
        self.reopen(again.cloned().collect());
        self.keeping.forget(letters);
        Ok(())
    }

    /// Returns the names of the hooks that the plugin registered last; none of a consumer of the log,
    /// which has no hooks.
    fn registered(&self) -> Option<BTreeSet<String>> {
        let names = || self.standing.since.keys().map(|key| occasion::name_in(key));
        match &self.parts.recipient {
            Recipient::Plugin => Some(names().map(str::to_owned).collect()),
            Recipient::Log(_) => None,
        }
    }

    fn reopen(&mut self, wanted: Vec<LetterId>) {
        for (position, hook) in wanted {
            self.standing.ordered = self.standing.ordered.max(position);
            self.schedule.reopen(position, [hook]);
        }
    }

    /// Returns the letters of these names, or all that there are when none is named.
    async fn find_letters(&mut self, named: Vec<LetterId>) -> Result<Vec<LetterId>, ApiError> {
        let is_named = |id: &LetterId| named.is_empty() || named.contains(id);
        let found = self.list_letters(is_named).await?;
        let missing = named.iter().find(|id| !found.contains(id));
        if let Some((position, hook)) = missing {
            let message = format!("no dead letter {position}/{hook}, nor is it being tried again");
            return Err(ApiError::new(Code::ResourceNotFound, message));
        }
        Ok(found)
    }

    /// Lists letters that are wanted: all, or the first thousands.
    async fn list_letters(
        &mut self,
        is_wanted: impl Fn(&LetterId) -> bool,
    ) -> Result<Vec<LetterId>, ApiError> {
        // Those that are not kept yet are letters, too.
        self.keep_all().await;
        let mut found = Vec::new();
        let mut after: Option<LetterId> = None;
        loop {
            let (store, name) = (&self.parts.store, &self.parts.name);
            let page = store.list_letters(name, after.as_ref(), PAGE_LETTERS).await;
            let page = page.map_err(|error| ApiError::unexpected(error.to_string()))?;
            let ids = page.iter().map(|it| &it.id);
            found.extend(ids.filter(|id| is_wanted(id)).cloned());
            match page.last() {
                Some(last) if page.len() == PAGE_LETTERS && found.len() < MAX_AGAIN => {
                    after = Some(last.id.clone());
                }
                _ => return Ok(found),
            }
        }
    }
}
