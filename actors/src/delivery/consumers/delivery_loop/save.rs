//! What is saved durably: the cursor, once a second when it has moved, and dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{DeliveryLoop, PAUSE};
use crate::delivery::consumers::store::{
    ConsumerChange, ConsumerCheckpoint, ConsumerStore, DeadLetter, DeadLetterId,
};
use crate::ops_store::OpsStoreError;

/// How often a moving cursor is saved.
const PERIOD: Duration = Duration::from_secs(1);

/// What must be saved and is not yet.
#[derive(Default)]
pub(super) struct Unsaved {
    /// When the first unsaved change was made.
    changed: Option<Instant>,
    dead: Vec<DeadLetter>,
    forgotten: Vec<DeadLetterId>,
    under_way: Option<BoxFuture<'static, SaveOutcome>>,
    num_dead_letters: u64,
    is_failing: bool,
    too_old: Option<Span>,
    /// By hooks that are no longer registered, and whether these deliveries became dead letters.
    orphaned: BTreeMap<(Arc<str>, bool), Span>,
}

/// Deliveries that were not made and are not logged yet. They are logged together with the next
/// save: after a long absence there may be millions.
#[derive(Clone, Copy)]
struct Span {
    num: u64,
    from: u64,
    until: u64,
}

impl Span {
    /// Adds another delivery.
    fn with(span: Option<Self>, position: u64) -> Self {
        let before = span.unwrap_or(Self {
            num: 0,
            from: position,
            until: position,
        });
        Self {
            num: before.num + 1,
            from: before.from.min(position),
            until: before.until.max(position),
        }
    }
}

/// The result of a save, and the number of dead letters after it, if that has changed.
pub(super) type SaveOutcome = (ConsumerChange, Result<Option<u64>, OpsStoreError>);

/// Saves a change. Dead letters are counted again, because one may have replaced another.
async fn save(store: &dyn ConsumerStore, consumer: &str, change: ConsumerChange) -> SaveOutcome {
    let has_dead_letters = !change.dead.is_empty() || !change.forgotten.is_empty();
    let result = match store.save(consumer, &change).await {
        Ok(()) if has_dead_letters => store.count_dead_letters(consumer).await.map(Some),
        saved => saved.map(|()| None),
    };
    (change, result)
}

impl Unsaved {
    /// Records that something has changed.
    pub(super) fn touch(&mut self) {
        self.changed.get_or_insert_with(Instant::now);
    }

    /// Adds a dead letter to the next save, so that it is stored in the same step as the cursor
    /// passes it.
    pub(super) fn add_dead_letter(&mut self, letter: DeadLetter) {
        self.num_dead_letters += 1;
        self.dead.push(letter);
        self.touch();
    }

    /// Records that a delivery was too old.
    pub(super) fn note_too_old(&mut self, position: u64) {
        self.too_old = Some(Span::with(self.too_old, position));
        self.touch();
    }

    /// Records that a delivery was left over from a hook that is no longer registered, and whether
    /// it became a dead letter.
    pub(super) fn note_orphaned(&mut self, of: (Arc<str>, bool), position: u64) {
        let span = Span::with(self.orphaned.get(&of).copied(), position);
        self.orphaned.insert(of, span);
        self.touch();
    }

    /// Forgets dead letters with the next save.
    pub(super) fn forget(&mut self, letters: impl IntoIterator<Item = DeadLetterId>) {
        let letters: BTreeSet<DeadLetterId> = letters.into_iter().collect();
        self.dead.retain(|letter| !letters.contains(&letter.id()));
        let num_fewer = u64::try_from(letters.len()).unwrap_or(u64::MAX);
        self.num_dead_letters = self.num_dead_letters.saturating_sub(num_fewer);
        self.forgotten.extend(letters);
        self.touch();
    }

    /// Puts a change that could not be saved into the next save, before what was added meanwhile.
    fn put_back(&mut self, change: ConsumerChange) {
        let since: BTreeSet<&DeadLetterId> = self.forgotten.iter().collect();
        let mut dead = change.dead;
        dead.retain(|letter| !since.contains(&letter.id()));
        self.dead.splice(0..0, dead);
        self.forgotten.splice(0..0, change.forgotten);
        self.changed = Some(Instant::now());
        self.is_failing = true;
    }

    /// Sets the number of stored dead letters.
    fn count(&mut self, num_stored: u64) {
        let len = |num: usize| u64::try_from(num).unwrap_or(u64::MAX);
        let (more, fewer) = (len(self.dead.len()), len(self.forgotten.len()));
        self.num_dead_letters = num_stored.saturating_add(more).saturating_sub(fewer);
    }

    /// Returns when the next save is due.
    fn due(&self) -> Option<Instant> {
        let is_idle = self.under_way.is_none();
        self.changed.filter(|_| is_idle).map(|since| since + PERIOD)
    }

    pub(super) fn is_in_progress(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn is_failing(&self) -> bool {
        self.is_failing
    }

    pub(super) fn num_dead_letters(&self) -> u64 {
        self.num_dead_letters
    }

    /// Waits for the save in progress.
    pub(super) async fn done(&mut self) -> SaveOutcome {
        match &mut self.under_way {
            Some(under_way) => {
                let done = under_way.await;
                self.under_way = None;
                done
            }
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, consumer: &str, checkpoint: ConsumerCheckpoint) -> ConsumerChange {
        self.changed = None;
        for ((hook, is_kept), span) in std::mem::take(&mut self.orphaned) {
            let Span { num, from, until } = span;
            let what = if is_kept {
                "the hook is not registered any more: its deliveries become dead letters"
            } else {
                "the hook is not registered any more: its deliveries are skipped; once it is back, \
                 `delivery:redeliver` delivers them"
            };
            tracing::warn!(consumer, %hook, num, from, until, "{what}");
        }
        if let Some(Span { num, from, until }) = self.too_old.take() {
            tracing::warn!(
                consumer,
                num,
                from,
                until,
                "skipped: older than PLUGIN_MAX_LAG; `delivery:redeliver` can still deliver them"
            );
        }
        ConsumerChange {
            checkpoint,
            dead: std::mem::take(&mut self.dead),
            forgotten: std::mem::take(&mut self.forgotten),
        }
    }
}

impl DeliveryLoop {
    /// Returns when the next save is due by itself; never for a plugin that is new and has not been
    /// promised anything yet.
    pub(super) fn save_due(&self) -> Option<Instant> {
        self.unsaved.due().filter(|_| !self.is_new)
    }

    /// Starts a save if it is due.
    pub(super) fn save_if_due(&mut self) {
        if self.save_due().is_some_and(|due| due <= Instant::now()) {
            let checkpoint = self.checkpoint_now();
            let change = self.unsaved.take(&self.parts.name, checkpoint);
            let (store, name) = (Arc::clone(&self.parts.store), Arc::clone(&self.parts.name));
            self.unsaved.under_way =
                Some(Box::pin(async move { save(&*store, &name, change).await }));
        }
    }

    /// Handles the result of a save; returns whether it succeeded.
    pub(super) fn handle_saved(&mut self, (change, result): SaveOutcome) -> bool {
        let unsaved = &mut self.unsaved;
        let num_dead_letters = match result {
            Ok(num_dead_letters) => num_dead_letters,
            Err(error) => {
                if !unsaved.is_failing {
                    tracing::error!(
                        consumer = %self.parts.name, %error,
                        "deliveries cannot be saved"
                    );
                }
                unsaved.put_back(change);
                return false;
            }
        };
        if let Some(num_dead_letters) = num_dead_letters {
            unsaved.count(num_dead_letters);
        }
        unsaved.is_failing = false;
        *self.shown.saved.lock() = Some(change.checkpoint);
        true
    }

    /// Saves everything now; returns whether that succeeded.
    pub(super) async fn save_all(&mut self) -> bool {
        if self.unsaved.is_in_progress() {
            let outcome = self.unsaved.done().await;
            self.handle_saved(outcome);
        }
        if self.unsaved.changed.is_none() {
            return true;
        }
        let checkpoint = self.checkpoint_now();
        let change = self.unsaved.take(&self.parts.name, checkpoint);
        let outcome = save(&*self.parts.store, &self.parts.name, change).await;
        self.handle_saved(outcome)
    }

    /// Counts the stored dead letters.
    pub(super) async fn count_dead_letters(&mut self) {
        match self.parts.store.count_dead_letters(&self.parts.name).await {
            Ok(num_dead_letters) => self.unsaved.count(num_dead_letters),
            Err(error) => {
                tracing::error!(
                    consumer = %self.parts.name, %error,
                    "dead letters could not be counted"
                );
                self.not_before = Some(Instant::now() + PAUSE);
            }
        }
    }

    fn checkpoint_now(&self) -> ConsumerCheckpoint {
        ConsumerCheckpoint {
            cursor: self.schedule.cursor(),
            ..self.checkpoint.clone()
        }
    }
}
