//! Messages from workers.

use std::sync::Arc;
use std::time::Instant;

use super::state::{Action, Failure, Pool};
use super::time::{BEAT, CALL};
use super::worker::{Entry, Work};
use crate::plugin::zmq::message::{Envelope, Identity, ZmqMessage};

impl Pool {
    /// Handles a message from a worker with a connection.
    pub(in crate::plugin::zmq) fn hear(
        &mut self,
        from: &Identity,
        message: ZmqMessage,
        now: Instant,
    ) {
        self.hear_all(from, message, None, now);
    }

    /// Handles an oversized message from a worker, without its body.
    pub(in crate::plugin::zmq) fn hear_too_much(
        &mut self,
        from: &Identity,
        message: ZmqMessage,
        failure: Failure,
        now: Instant,
    ) {
        self.hear_all(from, message, Some(failure), now);
    }

    fn hear_all(
        &mut self,
        from: &Identity,
        message: ZmqMessage,
        failure: Option<Failure>,
        now: Instant,
    ) {
        let Some(worker) = self.workers.get_mut(from) else {
            return;
        };
        self.last_turn += 1;
        worker.turn = self.last_turn;
        worker.heard_at = now;
        match message {
            ZmqMessage::Ready => self.begin(from),
            ZmqMessage::Heartbeat => self.hear_beat(from, now),
            ZmqMessage::Shutdown => self.lose(from),
            ZmqMessage::Response(envelope) => self.hear_response(from, envelope, failure),
            ZmqMessage::Request(envelope) => self.hear_call(from, envelope, failure, now),
        }
        self.pump(from, now);
        self.serve(now);
    }

    /// Starts a worker; whatever it had before, it no longer has.
    fn begin(&mut self, from: &Identity) {
        self.lose(from);
        if let Some(worker) = self.workers.get_mut(from) {
            worker.is_ready = true;
        }
    }

    /// Handles a heartbeat, which says that the worker is idle.
    ///
    /// One may still cross a request that is on its way to the worker. Only a later one means that
    /// an overdue request was lost, or ended without an answer.
    fn hear_beat(&mut self, from: &Identity, now: Instant) {
        let Some(worker) = self.workers.get_mut(from) else {
            return;
        };
        if !worker.is_ready {
            tracing::debug!(worker = ?from, "heartbeat from a dropped worker");
        } else if worker.is_given_up() && now.saturating_duration_since(worker.told_at) >= BEAT {
            worker.drop_from(0);
        }
    }

    /// Forgets a worker's requests and calls. Its connection stays.
    pub(super) fn lose(&mut self, identity: &Identity) {
        let Some(worker) = self.workers.get_mut(identity) else {
            return;
        };
        worker.is_ready = false;
        worker.unsent.clear();
        let lost = worker.drop_from(0);
        self.fail_all(lost);
    }

    /// Handles an answer, which also ends what its worker had begun for the request.
    fn hear_response(&mut self, from: &Identity, envelope: Envelope, failure: Option<Failure>) {
        let Envelope { bounce, id, body } = envelope;
        let Some(worker) = self.workers.get_mut(from) else {
            return;
        };
        let Some(index) = worker.find_request(&id, bounce) else {
            tracing::debug!(worker = ?from, ?id, bounce, "no request waits for this answer");
            return;
        };
        let unfinished = worker.drop_within(index + 1, &id);
        let entry = worker.stack.remove(index);
        self.fail_all(unfinished);
        match entry.ticket() {
            Some(ticket) => self.actions.push(Action::Answer(
                Arc::clone(ticket),
                failure.map_or(Ok(body), Err),
            )),
            None => tracing::debug!(worker = ?from, ?id, "late answer dropped"),
        }
    }

    fn hear_call(
        &mut self,
        from: &Identity,
        envelope: Envelope,
        failure: Option<Failure>,
        now: Instant,
    ) {
        let Envelope { bounce, id, body } = envelope;
        let Some(worker) = self.workers.get_mut(from) else {
            return;
        };
        let is_again = |entry: &Entry| {
            entry.id == id && entry.bounce == bounce && matches!(entry.work, Work::Call(..))
        };
        if worker.stack.iter().any(is_again) {
            tracing::debug!(worker = ?from, ?id, bounce, "the same call again");
            return;
        }
        let max_levels = self.limits.max_levels();
        let refused = if failure.is_some() {
            failure
        } else if bounce > self.limits.max_bounce {
            Some(Failure::TooDeep)
        } else {
            let is_full = worker.stack.len() >= max_levels;
            is_full.then_some(Failure::TooManyCalls)
        };
        if let Some(failure) = refused {
            let body = failure.to_body();
            let answer = ZmqMessage::Response(Envelope { bounce, id, body });
            return self.actions.push(Action::Tell(from.clone(), answer));
        }
        let (parent, unfinished) = worker.return_to(&id, bounce);
        self.last_call += 1;
        let call: Arc<str> = format!("c{}", self.last_call).into();
        let work = Work::Call(Arc::clone(&call), now + CALL);
        worker.stack.push(Entry { id, bounce, work });
        self.fail_all(unfinished);
        self.actions.push(Action::Call(call, parent, body));
    }
}
