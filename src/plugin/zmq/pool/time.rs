//! The effects of passing time.

use std::time::{Duration, Instant};

use super::state::{Action, Failure, Pool};
use super::worker::Worker;
use crate::plugin::zmq::message::{Identity, ZmqMessage};

/// How often idle workers are told that the server is alive.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// How long an idle worker may be silent, and a busy one without a connection.
pub(super) const LIVENESS: Duration = Duration::from_secs(3);
/// How long a worker waits for the answer to a call: longer than the server lets one take.
pub(super) const CALL: Duration = Duration::from_secs(70);
/// How long a connection without a worker may be silent.
pub(super) const STRANGER: Duration = Duration::from_secs(60);

impl Pool {
    /// Handles everything that has become due. It must be called often: things happen no earlier
    /// than they should, and no later than the next call.
    pub(in crate::plugin::zmq) fn tick(&mut self, now: Instant) {
        self.expire_requests(now);
        self.expire_workers(now);
        self.beat(now);
        self.serve(now);
    }

    fn expire_requests(&mut self, now: Instant) {
        while let Some(next) = self.waiting.pop_front_if(|next| next.expiry <= now) {
            self.fail(next.request.ticket, Failure::NotTaken);
        }
        let mut expired = Vec::new();
        let mut overdue = Vec::new();
        for worker in self.workers.values_mut() {
            expired.append(&mut worker.give_up(now));
            overdue.extend(worker.overdue_calls(now));
        }
        self.fail_all(expired);
        for call in overdue {
            self.reply(&call, Failure::TimedOut.to_body(), now);
        }
    }

    fn expire_workers(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for (identity, worker) in &mut self.workers {
            let silent = now.saturating_duration_since(worker.heard_at);
            if worker.stack.is_empty() && worker.is_ready && silent >= LIVENESS {
                tracing::debug!(worker = ?identity, "an idle worker is silent; dropping it");
                worker.is_ready = false;
            }
            if let Some(since) = worker.unlinked_at {
                let is_over = now.saturating_duration_since(since) >= LIVENESS;
                if is_over || is_stranger(worker) {
                    lost.push(identity.clone());
                }
            } else if is_stranger(worker) && silent >= STRANGER {
                self.actions.push(Action::HangUp(identity.clone()));
                // Once is enough; the end of the connection follows.
                worker.heard_at = now;
            }
        }
        for identity in lost {
            self.lose(&identity);
            self.workers.remove(&identity);
        }
    }

    fn beat(&mut self, now: Instant) {
        if self.next_beat.is_some_and(|next| now < next) {
            return;
        }
        self.next_beat = Some(now + BEAT);
        let idle = self.workers.iter().filter(|(_, worker)| worker.is_idle());
        let beat =
            |(identity, _): (&Identity, _)| Action::Tell(identity.clone(), ZmqMessage::Heartbeat);
        self.actions.extend(idle.map(beat));
    }
}

impl Pool {
    /// Returns whether this is a worker: it is ready, or has a request. Any peer can make calls.
    pub(in crate::plugin::zmq) fn knows(&self, identity: &Identity) -> bool {
        let worker = self.workers.get(identity);
        worker.is_some_and(|worker| worker.is_ready || worker.has_request())
    }
}

/// Returns whether nothing is known about it except its connection.
fn is_stranger(worker: &Worker) -> bool {
    !worker.is_ready && worker.stack.is_empty()
}
