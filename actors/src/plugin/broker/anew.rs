//! Plugins that the server reaches and initialises anew: on request, and after a clash.
//!
//! A plugin that was restarted unnoticed keeps its old registration. So when another plugin's
//! registration clashes with it, it is asked again, because it may have given up the point. When its
//! points have changed, the refused plugin is asked again as well. While both still clash, the
//! pauses in between grow, like those between the tries of a refused plugin.

use std::time::Duration;

use actix::{Context, Handler, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::actor::Plugins;
use super::plugin::{Plugin, Worker};
use crate::plugin::gate::WorkerId;
use crate::plugin::messages::{InitialiseAnew, Registered};
use crate::plugin::registration::problem;
use crate::plugin::settings::FIRST_PAUSE;

/// When a plugin was last initialised because of a clash, and how long it is left alone then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    last: Instant,
    pause: Duration,
}

/// A caller that waits for the outcome of an initialisation.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Workers up to this one were there before the request: their outcome does not count.
    after: WorkerId,
    sender: oneshot::Sender<Registered>,
}

impl Pace {
    /// Begins with a registration, which was just made.
    pub(super) fn begin(now: Instant) -> Self {
        Self {
            last: now,
            pause: FIRST_PAUSE,
        }
    }

    /// Returns whether it is time again; if so, the next pause is longer, unless the last clash was
    /// long ago.
    fn has_passed(&mut self, now: Instant, longest: Duration) -> bool {
        let elapsed = now.saturating_duration_since(self.last);
        if elapsed < self.pause {
            return false;
        }
        let is_over = elapsed > self.pause + longest;
        self.pause = if is_over {
            FIRST_PAUSE
        } else {
            (self.pause * 2).min(longest)
        };
        self.last = now;
        true
    }
}

impl Plugins {
    /// Has the plugins initialised anew whose points were in the way of a registration. One that is
    /// refused itself is asked again anyway.
    pub(super) fn ask_holders(&mut self, clashes: &[usize]) {
        let (now, longest) = (Instant::now(), self.settings.longest_pause());
        for index in clashes {
            let Some(holder) = self.plugins.get_mut(*index) else {
                continue;
            };
            let pace = holder.pace.get_or_insert_with(|| Pace::begin(now));
            if holder.problems.is_empty() && pace.has_passed(now, longest) {
                self.shared.wish_for(&holder.name);
            }
        }
    }

    /// Has the plugins initialised anew that were refused because of a plugin's former points.
    pub(super) fn ask_refused(&self, index: usize) {
        for plugin in &self.plugins {
            if plugin.clashes.contains(&index) {
                self.shared.wish_for(&plugin.name);
            }
        }
    }
}

impl Plugin {
    /// Tells those who wait for an initialisation what became of it.
    pub(super) fn settle(&mut self, worker: WorkerId, outcome: &Registered) {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let (settled, waiting): (Vec<_>, _) = waiting.partition(|it| worker > it.after);
        self.waiting = waiting;
        for it in settled {
            // The caller may have stopped waiting.
            let _ = it.sender.send(outcome.clone());
        }
    }

    /// Tells those who wait that a registration counts.
    pub(super) fn settle_active(&mut self) {
        let Some(active) = &self.active else {
            return;
        };
        let outcome = Ok(active.registration.counts());
        let of_active = |worker: &&Worker| worker.generation == active.generation;
        let newest = self.workers.iter().filter(of_active).map(|it| it.id).max();
        if let Some(worker) = newest {
            self.settle(worker, &outcome);
        }
    }

    /// Tells those who wait that a worker is gone, unless its registration counted.
    pub(super) fn settle_lost(&mut self, worker: &Worker) {
        let active = self.active.as_ref().map(|active| active.generation);
        if active != Some(worker.generation) {
            let lost = problem("init", "", "the plugin was lost while it was initialised");
            self.settle(worker.id, &Err(vec![lost]));
        }
    }
}

impl Handler<InitialiseAnew> for Plugins {
    type Result = ResponseFuture<Option<Registered>>;

    fn handle(&mut self, asked: InitialiseAnew, _: &mut Context<Self>) -> Self::Result {
        let (sender, outcome) = oneshot::channel();
        let after = self.shared.last_worker();
        let index = self.index_of(&asked.0);
        if let Some(plugin) = index.and_then(|index| self.plugins.get_mut(index)) {
            plugin.waiting.retain(|it| !it.sender.is_closed());
            plugin.waiting.push(Waiting { after, sender });
            self.shared.wish_for(&plugin.name);
        }
        Box::pin(async move { outcome.await.ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_after_clashes_grow_and_shrink() {
        let (begun, longest) = (Instant::now(), Duration::from_secs(30));
        let mut pace = Pace::begin(begun);
        let mut at = |seconds: u64| pace.has_passed(begun + Duration::from_secs(seconds), longest);
        // The tries of a plugin that is refused again and again.
        let tries = [0, 2, 6, 14, 30, 60, 90].map(&mut at);
        assert_eq!(tries, [false, true, true, true, true, true, true]);
        assert!(!at(95));
        assert!(at(1000));
        assert!(!at(1001));
        assert!(at(1002));
    }
}
