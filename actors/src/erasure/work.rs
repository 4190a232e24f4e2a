//! Completing erasures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{ErasureEnd, ErasureScope, EventBody};
use skytrail_schema::positions::Positions;

use super::owned::{OwnedState, Ready};
use super::{Eraser, HolderError};
use crate::context::RequestContext;
use crate::log::Erasure;
use crate::record::attempt::commit;
use crate::record::decide::Plan;

/// How long to wait before a holder that failed is called again, at first and at most.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long an upload can take to finish once all its bytes have arrived.
const ENDING: Duration = Duration::from_secs(3600);
/// The longest wait while the disk is full: whoever frees space waits for the erasure.
const PAUSE_WHEN_FULL: Duration = Duration::from_secs(5);

/// The eraser's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EraserState {
    /// Erasures that are not done everywhere yet.
    pub num_open: usize,
    /// Erasures finished since the start.
    pub num_finished: u64,
    /// Whether a holder failed to do what it was asked, or a user's records could not be erased.
    pub is_failing: bool,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}

/// The eraser's counters.
#[derive(Debug, Default)]
pub(super) struct EraserStats {
    num_finished: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// Why erasures have not ended.
struct Failure {
    reason: String,
    /// Whether trying again soon costs nothing.
    is_soon: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self {
            reason,
            is_soon: false,
        }
    }
}

/// How far the holders are with some erasures. Those that are done are not called again if a later
/// one fails: the log would begin a new segment each time, and fill sled anew.
#[derive(Default)]
struct Progress {
    erasures: Tries,
    num_holders: usize,
}

/// Erasures by position, each with whether the records of its user are settled: what they were in
/// the record store is there until then, and has to be removed from its files afterwards.
type Tries = BTreeSet<(u64, bool)>;

impl Eraser {
    /// Returns the eraser's state.
    pub fn state(&self) -> EraserState {
        let reason = self.state.failure.lock().clone();
        let of_records = || {
            let reason = self.owned_failure()?;
            Some(format!("a user's records are not erased yet: {reason}"))
        };
        let reason = reason.or_else(of_records);
        EraserState {
            num_open: *self.erasures.watch().borrow(),
            num_finished: self.state.num_finished.load(Ordering::Relaxed),
            is_failing: reason.is_some(),
            reason,
        }
    }

    /// Completes all open erasures and those that follow, for ever.
    pub async fn work(&self) {
        self.forget_old_keys().await;
        tokio::join!(
            self.remove_late_files(),
            self.erase_owned(),
            self.finish_all()
        );
    }

    async fn finish_all(&self) {
        let mut num_open = self.erasures.watch();
        let mut pause = PAUSES.0;
        let mut progress = Progress::default();
        let mut again = self.lacked_by_the_store();
        loop {
            if again.is_empty() && num_open.wait_for(|_| self.has_ready()).await.is_err() {
                return;
            }
            let mut erasures = again.clone();
            erasures.extend(self.ready());
            let failure = self.finish(&erasures, &mut progress).await.err();
            let is_soon = failure.as_ref().is_none_or(|failure| failure.is_soon);
            let is_done = failure.is_none();
            *self.state.failure.lock() = failure.map(|failure| failure.reason);
            if is_soon {
                pause = PAUSES.0;
            }
            if is_done {
                again.clear();
                continue;
            }
            if self.log.is_disk_full() {
                pause = pause.min(PAUSE_WHEN_FULL);
            }
            // A new erasure need not wait for those that failed.
            let more = num_open.wait_for(|_| {
                let now = self.tries_of(&self.ready());
                !now.is_subset(&progress.erasures)
            });
            let _ = tokio::time::timeout(pause, more).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Returns the open erasures that the holders can be called for.
    fn ready(&self) -> Vec<Erasure> {
        let mut erasures = self.erasures.open();
        let users = self.ready_users();
        erasures.retain(|erasure| is_ready(erasure, &users));
        erasures
    }

    fn has_ready(&self) -> bool {
        let users = self.ready_users();
        self.erasures.has_open(|erasure| is_ready(erasure, &users))
    }

    /// Returns what is ready of the users' erasures that are open and cover records.
    fn ready_users(&self) -> BTreeMap<u64, Ready> {
        let open = self.erasures.with_open_records().into_iter();
        open.map(|position| (position, self.owned_ready(position)))
            .collect()
    }

    /// Returns whether no records are left that are to be erased with an erasure.
    fn is_settled(&self, erasure: &Erasure) -> bool {
        erasure.request.records.is_none()
            || erasure.is_finished()
            || self.owned_state(erasure.mark.position) == OwnedState::Settled
    }

    fn tries_of(&self, erasures: &[Erasure]) -> Tries {
        let each = erasures.iter();
        each.map(|it| (it.mark.position, self.is_settled(it)))
            .collect()
    }

    /// Returns the finished erasures whose end the record store lacked when it was opened: it was
    /// behind, or was put back. It may have had the request, but may not have been rewritten since. A
    /// new store has only what the log still has.
    fn lacked_by_the_store(&self) -> Vec<Erasure> {
        if self.behind_since == 0 {
            return Vec::new();
        }
        let mut erasures = self.erasures.all();
        erasures.retain(|it| it.finished_at.is_some_and(|at| at > self.behind_since));
        erasures
    }

    /// Destroys the keys of all erasures again: when the log was put back, they may have been put
    /// back, too.
    async fn forget_old_keys(&self) {
        let all = self.erasures.all();
        let keys = all.iter().flat_map(|erasure| erasure.request.keys.clone());
        if let Err(error) = self.log.destroy_keys(keys.collect()).await {
            tracing::error!(%error, "keys of erased users could not be destroyed");
        }
    }

    /// Removes the files of erasures from shortly before the last stop once more. An upload that
    /// began earlier may have stored its bytes afterwards, and a crash can have kept them from
    /// being removed.
    async fn remove_late_files(&self) {
        let all = self.erasures.all();
        let Some(remover) = self.files.as_ref().filter(|_| !all.is_empty()) else {
            return;
        };
        let last = self.env.log.read(self.first_head, 1).await;
        let last = last.map(|commits| commits.first().map(|commit| commit.time));
        let Ok(Some(last)) = last else {
            tracing::error!("the log's end cannot be read: erased files are not removed again");
            return;
        };
        let window = (self.upload_time + ENDING).as_micros();
        let window = i64::try_from(window).unwrap_or(i64::MAX);
        let since = last.micros().saturating_sub(window);
        let late = all.iter().filter(|it| it.mark.at.micros() >= since);
        let names: Vec<_> = late.flat_map(|it| it.request.files.clone()).collect();
        let mut pause = PAUSES.0;
        while let Err(error) = remover.remove(&names).await {
            tracing::error!(%error, "erased files could not be removed again; retrying");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Calls all holders for some erasures together, and ends each open one whose files are gone,
    /// except those of users whose records are not settled; fails with the reason if something is
    /// left to do.
    async fn finish(&self, erasures: &[Erasure], progress: &mut Progress) -> Result<(), Failure> {
        let positions = erasures.iter();
        let positions = positions.flat_map(|erasure| erasure.request.positions.iter());
        let positions: Positions = positions.collect();
        let last = last_of(erasures);
        let tries = self.tries_of(erasures);
        if !tries.is_subset(&progress.erasures) {
            *progress = Progress {
                erasures: tries.clone(),
                num_holders: 0,
            };
        }
        // This comes first: it is quick, and takes effect in every copy of the log.
        let keys = erasures
            .iter()
            .flat_map(|erasure| erasure.request.keys.clone());
        if let Err(error) = self.log.destroy_keys(keys.collect()).await {
            tracing::error!(%error, "keys of an erasure are not destroyed yet; trying again");
            return Err(format!("keys are not destroyed yet: {error}").into());
        }
        if let Err(error) = self.env.applied.wait_for(last).await {
            tracing::warn!(%error, "an erasure waits for the record store");
            return Err(format!("it waits for the record store: {error}").into());
        }
        // After this, changes to it by SQL are in the log, or parked.
        if let Err(error) = self.env.captured.drain().await {
            tracing::warn!(%error, "an erasure waits for changes made by SQL");
            return Err(format!("it waits for changes made by SQL: {error}").into());
        }
        let scopes = erasures.iter().map(|erasure| erasure.request.scope.clone());
        let scopes: Vec<ErasureScope> = scopes.collect();
        for holder in self.holders.iter().skip(progress.num_holders) {
            let forgotten = match holder.forget_beside(&scopes).await {
                Ok(()) => holder.forget(&positions).await,
                failed => failed,
            };
            if let Err(error) = forgotten {
                let holder = holder.name();
                tracing::error!(holder, %error, "an erasure is not done yet; trying again");
                if error == HolderError::DiskFull
                    && let Some(reserve) = &self.reserve
                {
                    reserve.give_up();
                }
                return Err(Failure {
                    reason: format!("{holder}: {error}"),
                    is_soon: matches!(error, HolderError::StillSeen(_)),
                });
            }
            progress.num_holders += 1;
        }
        if self.has_parked_more(erasures).await? {
            progress.num_holders = 0;
            return Err(Failure {
                reason: "SQL has written more that could not be imported".to_owned(),
                is_soon: true,
            });
        }
        let open = erasures.iter().filter(|erasure| !erasure.is_finished());
        let mut open: Vec<&Erasure> = open.collect();
        // A user's erasure ends after those of the records.
        open.sort_by_key(|erasure| erasure.request.records.is_some());
        let mut done = Ok(());
        for erasure in open {
            let position = erasure.mark.position;
            // An erasure whose files cannot be removed does not hold up the others.
            let ended = match self.remove_files(erasure).await {
                Ok(()) if tries.contains(&(position, true)) => self.end(erasure).await,
                Ok(()) => {
                    self.note_forgotten(position);
                    Ok(())
                }
                failed => failed,
            };
            done = done.and(ended);
        }
        done.map_err(Failure::from)
    }

    /// Returns whether changes of erased users by SQL were parked after the holders had forgotten such
    /// changes. By now, all changes are imported or parked that transactions made which had begun
    /// before: the record store has waited for them.
    async fn has_parked_more(&self, erasures: &[Erasure]) -> Result<bool, Failure> {
        let open = erasures.iter().filter(|erasure| !erasure.is_finished());
        let scopes = open.map(|erasure| erasure.request.scope.clone());
        let of_users: Vec<ErasureScope> = scopes
            .filter(|scope| matches!(scope, ErasureScope::User(_)))
            .collect();
        if of_users.is_empty() {
            return Ok(false);
        }
        self.is_kept_beside(&of_users).await.map_err(|error| {
            tracing::warn!(%error, "an erasure waits for changes made by SQL");
            format!("it waits for changes made by SQL: {error}").into()
        })
    }

    async fn remove_files(&self, erasure: &Erasure) -> Result<(), String> {
        let files = &erasure.request.files;
        let Some(remover) = self.files.as_ref().filter(|_| !files.is_empty()) else {
            return Ok(());
        };
        let removed = remover.remove(files).await;
        if let Err(error) = &removed {
            let erasure = &erasure.stream;
            tracing::error!(%erasure, %error, "files of an erasure are not removed yet; trying again");
        }
        removed.map_err(|error| format!("files are not removed yet: {error}"))
    }

    async fn end(&self, erasure: &Erasure) -> Result<(), String> {
        if self.has_open_part(erasure) {
            // It is called again together with that one.
            return Ok(());
        }
        match self.erases_more(erasure).await {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the records of an erased user could not be looked for");
                return Err(format!("the user's records cannot be looked for: {error}"));
            }
        }
        if let Err(error) = self.note_end(erasure).await {
            tracing::error!(%error, "the end of an erasure could not be noted");
            return Err(format!("its end could not be noted: {error}"));
        }
        self.forget_owned(erasure).await;
        self.state.num_finished.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            erasure = %erasure.stream,
            events = erasure.request.positions.len(),
            "erased"
        );
        Ok(())
    }

    fn has_open_part(&self, erasure: &Erasure) -> bool {
        if erasure.request.records.is_none() {
            return false;
        }
        let position = Some(erasure.mark.position);
        let is_part = |it: &Erasure| it.request.part_of == position;
        self.erasures.has_open(is_part)
    }

    async fn note_end(&self, erasure: &Erasure) -> Result<(), ApiError> {
        let mut plan = Plan::default();
        let request = erasure.mark.position;
        let (num_refused, refused) = self.refused_of(request);
        let body = EventBody::ErasureFinished(ErasureEnd {
            request,
            num_refused,
            refused,
        });
        plan.push(erasure.stream.clone(), 2, body);
        let context = RequestContext::system();
        // Nothing was read, so there can be no conflict.
        commit(&self.env.log, plan, self.env.log.head(), &context)
            .await
            .map(drop)
    }
}

/// Returns whether the holders can be called for an erasure, given what is ready of users' erasures.
fn is_ready(erasure: &Erasure, users: &BTreeMap<u64, Ready>) -> bool {
    let is_ready = match erasure.request.part_of {
        Some(position) => users.get(&position).map(|ready| ready.records),
        None => users.get(&erasure.mark.position).map(|ready| ready.user),
    };
    is_ready.unwrap_or(true)
}

/// Returns the position of the last of some erasures.
fn last_of(erasures: &[Erasure]) -> u64 {
    let positions = erasures.iter().map(|erasure| erasure.mark.position);
    positions.max().unwrap_or_default()
}
