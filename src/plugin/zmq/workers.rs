//! A plugin's workers: the pool, their connections, and the callers that wait for answers.
//!
//! Nothing here waits, so a lock is enough: whoever changes the pool also performs the actions that
//! it asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use skytrail_actors::plugin::protocol::CallMessage;
use tokio::sync::{mpsc, oneshot, watch};

use super::bodies;
use super::message::{self, Identity, ZmqMessage};
use super::pool::{Action, CallId, Failure, Pool, Ticket, WorkerRequest};
use super::socket::Link;
use crate::plugin::transport::Notice;

/// A request's answer, as its worker wrote it.
pub(super) type Answered = Result<Vec<u8>, Failure>;

/// See the module.
pub(super) struct Workers {
    plugin: Arc<str>,
    max_told_at_once: usize,
    state: Mutex<State>,
}

struct State {
    plugin: Arc<str>,
    pool: Pool,
    links: HashMap<Identity, Link>,
    waiting: HashMap<Ticket, Waiting>,
    notices: mpsc::Sender<Notice>,
    /// How many workers accept requests.
    crew: watch::Sender<usize>,
}

/// A caller that waits for an answer.
struct Waiting {
    sender: oneshot::Sender<Answered>,
    /// Whether the request is part of an initialisation.
    is_greeting: bool,
}

impl Workers {
    pub(super) fn new(plugin: Arc<str>, pool: Pool, notices: mpsc::Sender<Notice>) -> Self {
        let max_told_at_once = pool.max_told_at_once();
        let state = State {
            plugin: Arc::clone(&plugin),
            pool,
            links: HashMap::new(),
            waiting: HashMap::new(),
            notices,
            crew: watch::Sender::new(0),
        };
        Self {
            plugin,
            max_told_at_once,
            state: Mutex::new(state),
        }
    }

    /// Returns the plugin that the workers belong to.
    pub(super) fn plugin(&self) -> &str {
        &self.plugin
    }

    /// Returns how many messages a worker can be sent at once that has not said anything.
    pub(super) fn max_told_at_once(&self) -> usize {
        self.max_told_at_once
    }

    /// Returns how many workers accept requests.
    pub(super) fn crew(&self) -> watch::Receiver<usize> {
        self.state.lock().crew.subscribe()
    }

    /// Asks a worker; the receiver gets the answer, or the reason why there is none.
    pub(super) fn ask(
        &self,
        request: WorkerRequest,
        is_greeting: bool,
    ) -> oneshot::Receiver<Answered> {
        let (sender, answer) = oneshot::channel();
        let waiting = Waiting {
            sender,
            is_greeting,
        };
        self.update(|state, now| {
            state.waiting.insert(Arc::clone(&request.ticket), waiting);
            state.pool.ask(request, now);
        });
        answer
    }

    /// Cancels a request, because no caller waits for its answer any more.
    pub(super) fn cancel(&self, ticket: &Ticket) {
        self.update(|state, _| {
            if state.waiting.remove(ticket).is_some() {
                state.pool.cancel(ticket);
            }
        });
    }

    /// Gives a worker the answer to its call.
    pub(super) fn reply(&self, call: &CallId, body: Vec<u8>) {
        self.update(|state, now| state.pool.reply(call, body, now));
    }

    /// Lets time pass.
    pub(super) fn tick(&self) {
        self.update(|state, now| state.pool.tick(now));
    }

    /// Admits a connection after the handshake; returns whether it can stay.
    pub(super) fn admit(&self, identity: &Identity, link: Link) -> bool {
        let plugin = &self.plugin;
        let is_admitted = self.update(|state, now| {
            let is_free = state.pool.link(identity, now);
            if is_free {
                state.links.insert(identity.clone(), link);
            }
            is_free
        });
        if is_admitted {
            tracing::debug!(%plugin, worker = ?identity, "worker connected");
        } else {
            tracing::warn!(%plugin, worker = ?identity, "refused: its identity is in use");
        }
        is_admitted
    }

    /// Returns whether a worker has this identity: one that is ready, or that has a request.
    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.state.lock().pool.knows(identity)
    }

    /// Handles a message from a connection; returns whether the connection still counts.
    pub(super) fn hear(&self, identity: &Identity, number: u64, message: ZmqMessage) -> bool {
        let plugin = &self.plugin;
        match message {
            ZmqMessage::Ready => tracing::info!(%plugin, worker = ?identity, "worker is ready"),
            ZmqMessage::Shutdown => {
                tracing::info!(%plugin, worker = ?identity, "worker shuts down")
            }
            ZmqMessage::Heartbeat | ZmqMessage::Request(_) | ZmqMessage::Response(_) => {}
        }
        self.update(|state, now| {
            let is_current = state.is_current(identity, number);
            if is_current {
                state.pool.hear(identity, message, now);
            }
            is_current
        })
    }

    /// Handles the beginning of an oversized message, without its body; returns whether the
    /// connection still counts.
    pub(super) fn refuse(
        &self,
        identity: &Identity,
        number: u64,
        message: ZmqMessage,
        why: Failure,
    ) -> bool {
        if let ZmqMessage::Request(envelope) | ZmqMessage::Response(envelope) = &message {
            let (plugin, request) = (&self.plugin, &envelope.id);
            tracing::warn!(
                %plugin, worker = ?identity, ?request, %why,
                "a message that is too large is dropped"
            );
        }
        self.update(|state, now| {
            let is_current = state.is_current(identity, number);
            if is_current {
                state.pool.hear_too_much(identity, message, why, now);
            }
            is_current
        })
    }

    /// Handles the end of a connection.
    pub(super) fn release(&self, identity: &Identity, number: u64) {
        self.update(|state, now| {
            if state.is_current(identity, number) {
                state.cut_off(identity, now);
            }
        });
    }

    /// Changes the state and performs the resulting actions.
    fn update<T>(&self, change: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.state.lock();
        let result = change(&mut state, now);
        state.act(now);
        result
    }
}

impl State {
    fn is_current(&self, identity: &Identity, number: u64) -> bool {
        let link = self.links.get(identity);
        link.is_some_and(|link| link.number == number)
    }

    fn cut_off(&mut self, identity: &Identity, now: Instant) {
        self.links.remove(identity);
        self.pool.unlink(identity, now);
    }

    fn act(&mut self, now: Instant) {
        loop {
            let actions = self.pool.take_actions();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Tell(to, message) => self.tell(&to, message, now),
                    Action::HangUp(identity) => self.cut_off(&identity, now),
                    Action::Answer(ticket, answer) => self.answer(&ticket, answer),
                    Action::Call(call, parent, body) => self.call(&call, parent, &body, now),
                }
            }
        }
        self.note_manning();
    }

    fn tell(&mut self, to: &Identity, message: ZmqMessage, now: Instant) {
        let frames = message::write(to, message);
        let is_sent = self.links.get(to).is_some_and(|link| link.send(&frames));
        if !is_sent {
            tracing::warn!(plugin = %self.plugin, worker = ?to, "disconnected: it does not read");
            self.cut_off(to, now);
        }
    }

    fn answer(&mut self, ticket: &Ticket, answer: Answered) {
        if let Some(waiting) = self.waiting.remove(ticket) {
            // The caller may be gone at this very moment.
            let _ = waiting.sender.send(answer);
        }
    }

    fn call(&mut self, call: &CallId, parent: Option<Ticket>, body: &[u8], now: Instant) {
        let payload = match bodies::payload(body) {
            Ok(payload) => payload,
            Err(refusal) => return self.pool.reply(call, refusal, now),
        };
        let message = CallMessage {
            id: call.to_string(),
            parent: parent.map(|parent| parent.to_string()),
            timeout: None,
            payload,
        };
        if self.notices.try_send(Notice::Call(message)).is_err() {
            self.pool.reply(call, Failure::TooManyCalls.to_body(), now);
        }
    }

    /// Reports workers that arrive when there were none: the plugin is initialised again, unless
    /// the first of them is about to be asked just that.
    fn note_manning(&mut self) {
        let crew = self.pool.num_ready();
        if *self.crew.borrow() == crew {
            return;
        }
        let before = self.crew.send_replace(crew);
        let is_greeted = self.waiting.values().any(|waiting| waiting.is_greeting);
        if before == 0 && !is_greeted {
            // With this many unread notices, one more would change nothing.
            let _ = self.notices.try_send(Notice::Back);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::pool::Limits;
    use super::*;

    const MAX_BOUNCE: u32 = 1000;

    fn call(number: u32) -> ZmqMessage {
        let id = format!("own{number}").into_bytes();
        let frames = [b"w".to_vec(), vec![], vec![4], b"0".to_vec(), id, vec![]];
        let body = br#"{"payload": {}}"#.to_vec();
        message::parse(frames.into_iter().chain([body]).collect()).unwrap()
    }

    #[test]
    fn a_worker_that_comes_back_gets_all_replies_that_it_has_missed() {
        let (sender, mut notices) = mpsc::channel(2 * MAX_BOUNCE as usize);
        let pool = Pool::new(Limits {
            timeout: Duration::from_secs(30),
            max_bounce: MAX_BOUNCE,
            max_waiting: 10,
        });
        let workers = Workers::new("p".into(), pool, sender);
        let identity = Identity(b"w".as_slice().into());
        let (link, _unread) = Link::new(1, workers.max_told_at_once());
        assert!(workers.admit(&identity, link));
        assert!(workers.hear(&identity, 1, ZmqMessage::Ready));
        for number in 0..MAX_BOUNCE {
            assert!(workers.hear(&identity, 1, call(number)));
        }
        workers.release(&identity, 1);
        while let Ok(notice) = notices.try_recv() {
            if let Notice::Call(call) = notice {
                workers.reply(&call.id.into(), b"{}".to_vec());
            }
        }
        let (link, mut unread) = Link::new(2, workers.max_told_at_once());
        assert!(workers.admit(&identity, link));
        let num_told = std::iter::from_fn(|| unread.try_recv().ok()).count();
        assert_eq!(num_told, MAX_BOUNCE as usize);
        assert!(
            workers.hear(&identity, 2, ZmqMessage::Heartbeat),
            "it was cut off"
        );
    }
}
