//! Random schedules of the server's and the workers' steps.
//!
//! Whatever they do, every request is answered once, none is given to two workers, what a call
//! caused goes to the worker that made it, and finally nothing is left.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    /// The server asks; with a cause, because of that call.
    Ask {
        cause: Option<usize>,
    },
    /// No caller waits for a request any more.
    Cancel(usize),
    /// The server replies to a call.
    Reply(usize),
    /// A connection comes or goes.
    Link(usize),
    Unlink(usize),
    /// A worker sends a signal.
    Signal {
        worker: usize,
        message: ZmqMessage,
    },
    /// It answers one of its requests, and then again.
    Answer {
        worker: usize,
        which: usize,
    },
    /// It answers something that was not asked.
    Babble {
        worker: usize,
        bounce: u32,
    },
    /// It makes a call for one of its requests.
    Call {
        worker: usize,
        which: usize,
    },
    /// It makes a call by itself.
    OwnCall {
        worker: usize,
        bounce: u32,
    },
    Wait {
        tenths: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..WORKERS.len();
    let signal = prop_oneof![
        3 => Just(ZmqMessage::Ready),
        3 => Just(ZmqMessage::Heartbeat),
        1 => Just(ZmqMessage::Shutdown),
    ];
    prop_oneof![
        6 => proptest::option::of(any::<usize>()).prop_map(|cause| Step::Ask { cause }),
        1 => any::<usize>().prop_map(Step::Cancel),
        3 => any::<usize>().prop_map(Step::Reply),
        2 => worker.clone().prop_map(Step::Link),
        1 => worker.clone().prop_map(Step::Unlink),
        5 => (worker.clone(), signal).prop_map(|(worker, message)| Step::Signal { worker, message }),
        6 => (worker.clone(), any::<usize>())
            .prop_map(|(worker, which)| Step::Answer { worker, which }),
        1 => (worker.clone(), 0..4_u32).prop_map(|(worker, bounce)| Step::Babble { worker, bounce }),
        5 => (worker.clone(), any::<usize>()).prop_map(|(worker, which)| Step::Call { worker, which }),
        1 => (worker, 0..13_u32).prop_map(|(worker, bounce)| Step::OwnCall { worker, bounce }),
        3 => (1..40_u64).prop_map(|tenths| Step::Wait { tenths }),
        1 => (200..400_u64).prop_map(|tenths| Step::Wait { tenths }),
    ]
}

/// What is known about a request.
#[derive(Default)]
struct RequestState {
    cause: Option<Arc<str>>,
    num_given: usize,
    num_answers: usize,
}

/// A call as its worker knows it.
struct Calling {
    worker: Identity,
    envelope: Envelope,
    is_replied: bool,
}

struct Play {
    game: Game,
    request_state: HashMap<Ticket, RequestState>,
    calls: HashMap<Arc<str>, Calling>,
    linked: HashSet<Identity>,
    /// What each worker was given, and has not answered as far as it knows.
    has: HashMap<Identity, Vec<Envelope>>,
    next: usize,
}

impl Play {
    fn new() -> Self {
        Self {
            game: Game::with(&[]),
            request_state: HashMap::new(),
            calls: HashMap::new(),
            linked: HashSet::new(),
            has: HashMap::new(),
            next: 0,
        }
    }

    fn take(&mut self, step: Step) {
        let (pool, now) = (&mut self.game.pool, self.game.now);
        match step {
            Step::Ask { cause } => self.ask(cause),
            Step::Cancel(which) => {
                let mut tickets: Vec<_> = self.request_state.keys().cloned().collect();
                tickets.sort();
                if let Some(ticket) = pick(&tickets, which) {
                    pool.cancel(ticket);
                }
            }
            Step::Reply(which) => {
                if let Some(call) = self.open_call(which) {
                    self.game.pool.reply(&call, b"reply".to_vec(), now);
                }
            }
            Step::Link(worker) => {
                let identity = name(WORKERS[worker]);
                assert_eq!(pool.link(&identity, now), self.linked.insert(identity));
            }
            Step::Unlink(worker) => {
                let identity = name(WORKERS[worker]);
                if self.linked.remove(&identity) {
                    pool.unlink(&identity, now);
                }
            }
            Step::Signal { worker, message } => self.say(worker, message),
            Step::Answer { worker, which } => self.answer(worker, which),
            Step::Babble { worker, bounce } => self.say(worker, ZmqMessage::Response(own(bounce))),
            Step::Call { worker, which } => self.call(worker, which),
            Step::OwnCall { worker, bounce } => self.say(worker, ZmqMessage::Request(own(bounce))),
            Step::Wait { tenths } => self.wait(tenths),
        }
        self.check();
    }

    /// Makes a worker answer, and then once more. Two requests of one call share id and bounce, so
    /// the second answer could not be told from one to the request that arrived meanwhile.
    fn answer(&mut self, worker: usize, which: usize) {
        let Some(request) = self.return_to(worker, which) else {
            return;
        };
        let given = self.has.entry(name(WORKERS[worker])).or_default();
        given.retain(|other| *other != request);
        self.say(worker, ZmqMessage::Response(request.clone()));
        self.check();
        let given = &self.has[&name(WORKERS[worker])];
        let is_same = |other: &Envelope| (&other.id, other.bounce) == (&request.id, request.bounce);
        if !given.iter().any(is_same) {
            self.say(worker, ZmqMessage::Response(request));
        }
    }

    fn call(&mut self, worker: usize, which: usize) {
        if let Some(mut call) = self.return_to(worker, which) {
            call.bounce += 1;
            self.say(worker, ZmqMessage::Request(call));
        }
    }

    /// Returns a worker to one of its requests. It does one thing at a time, so it no longer works
    /// on those nested in that one.
    fn return_to(&mut self, worker: usize, which: usize) -> Option<Envelope> {
        let given = self.has.get_mut(&name(WORKERS[worker]))?;
        let request = pick(given, which)?.clone();
        given.retain(|other| {
            other.id != request.id || other.bounce < request.bounce || *other == request
        });
        Some(request)
    }

    fn ask(&mut self, cause: Option<usize>) {
        self.next += 1;
        let ticket: Ticket = self.next.to_string().into();
        let cause = cause.and_then(|which| self.open_call(which));
        let request_state = RequestState {
            cause: cause.clone(),
            ..RequestState::default()
        };
        self.request_state
            .insert(Arc::clone(&ticket), request_state);
        self.game.ask(&ticket, cause.as_deref());
    }

    fn open_call(&self, which: usize) -> Option<Arc<str>> {
        let open = self.calls.iter().filter(|(_, calling)| !calling.is_replied);
        let mut open: Vec<_> = open.map(|(call, _)| Arc::clone(call)).collect();
        open.sort();
        pick(&open, which).cloned()
    }

    fn say(&mut self, worker: usize, message: ZmqMessage) {
        let identity = name(WORKERS[worker]);
        if self.linked.contains(&identity) {
            self.game.pool.hear(&identity, message, self.game.now);
        }
    }

    fn wait(&mut self, tenths: u64) {
        for _ in 0..tenths {
            self.game.now += Duration::from_millis(100);
            self.game.pool.tick(self.game.now);
            self.check();
        }
    }

    fn check(&mut self) {
        for action in self.game.pool.take_actions() {
            match action {
                Action::Tell(to, ZmqMessage::Request(envelope)) => self.check_given(to, envelope),
                Action::Tell(to, ZmqMessage::Response(envelope)) => {
                    self.check_reply(&to, &envelope)
                }
                Action::Tell(to, message) => {
                    assert_eq!(message, ZmqMessage::Heartbeat);
                    assert!(self.linked.contains(&to));
                }
                Action::HangUp(identity) => {
                    assert!(self.linked.remove(&identity));
                    self.game.pool.unlink(&identity, self.game.now);
                }
                Action::Answer(ticket, answer) => self.check_answer(&ticket, answer),
                Action::Call(call, parent, body) => self.check_call(call, parent, &body),
            }
        }
        self.check_levels();
    }

    fn check_given(&mut self, to: Identity, envelope: Envelope) {
        assert!(self.linked.contains(&to));
        let ticket = String::from_utf8(envelope.body.clone()).unwrap();
        let request_state = self.request_state.get_mut(&*ticket).unwrap();
        request_state.num_given += 1;
        assert_eq!(
            request_state.num_given, 1,
            "request {ticket} was given twice"
        );
        match &request_state.cause {
            Some(call) => {
                let calling = &self.calls[call];
                assert_eq!(to, calling.worker);
                assert_eq!(envelope.id, calling.envelope.id);
                assert_eq!(envelope.bounce, calling.envelope.bounce + 1);
            }
            None => {
                // No caller waits for anything else that this worker has.
                let had = self.has.entry(to.clone()).or_default();
                let is_awaited = |had: &Envelope| {
                    let ticket = std::str::from_utf8(&had.body).unwrap();
                    self.request_state[ticket].num_answers == 0
                };
                assert!(!had.iter().any(is_awaited));
            }
        }
        self.has.entry(to).or_default().push(envelope);
    }

    fn check_reply(&mut self, to: &Identity, envelope: &Envelope) {
        assert!(self.linked.contains(to));
        if envelope.body != b"reply" {
            let refusals =
                [Failure::TimedOut, Failure::TooDeep, Failure::TooManyCalls].map(Failure::to_body);
            assert!(refusals.contains(&envelope.body));
            return;
        }
        let mut calls = self.calls.values_mut();
        let calling = calls.find(|calling| {
            let (theirs, ours) = (&calling.envelope, &envelope);
            !calling.is_replied
                && calling.worker == *to
                && (&theirs.id, theirs.bounce) == (&ours.id, ours.bounce)
        });
        calling
            .expect("a reply to a call of this worker")
            .is_replied = true;
    }

    fn check_answer(&mut self, ticket: &Ticket, answer: Result<Vec<u8>, Failure>) {
        let request_state = self.request_state.get_mut(ticket).unwrap();
        request_state.num_answers += 1;
        assert_eq!(
            request_state.num_answers, 1,
            "request {ticket} was answered twice"
        );
        if let Ok(body) = answer {
            assert_eq!(request_state.num_given, 1);
            assert_eq!(body, ticket.as_bytes());
        }
    }

    fn check_call(&mut self, call: Arc<str>, parent: Option<Ticket>, body: &[u8]) {
        let mut workers = self.game.pool.workers.iter();
        let (worker, entry) = workers
            .find_map(|(identity, worker)| {
                let index = worker.find_call(&call)?;
                Some((identity.clone(), &worker.stack[index]))
            })
            .unwrap();
        if let Some(parent) = &parent {
            assert_eq!(body, parent.as_bytes());
            assert_eq!(self.request_state[parent].num_answers, 0);
        }
        let envelope = Envelope {
            bounce: entry.bounce,
            id: entry.id.clone(),
            body: Vec::new(),
        };
        let calling = Calling {
            worker,
            envelope,
            is_replied: false,
        };
        assert!(self.calls.insert(call, calling).is_none());
    }

    /// Checks that everything that can grow is bounded.
    fn check_levels(&self) {
        let pool = &self.game.pool;
        assert!(pool.waiting.len() <= LIMITS.max_waiting);
        for worker in pool.workers.values() {
            let levels = LIMITS.max_bounce as usize + 4;
            assert!(worker.stack.len() <= levels, "{:?}", worker.stack);
            assert!(worker.unsent.len() <= 2 * levels);
        }
    }

    /// Ends all connections and lets time pass: nothing may be left.
    fn end(mut self) {
        for worker in 0..WORKERS.len() {
            self.take(Step::Unlink(worker));
        }
        self.wait(100);
        for (ticket, request_state) in &self.request_state {
            assert_eq!(
                request_state.num_answers, 1,
                "request {ticket} was not answered"
            );
        }
        assert!(self.game.pool.workers.is_empty());
        assert!(self.game.pool.waiting.is_empty());
    }
}

fn own(bounce: u32) -> Envelope {
    Envelope {
        bounce,
        id: RequestId::random(),
        body: b"own".to_vec(),
    }
}

fn pick<T>(all: &[T], which: usize) -> Option<&T> {
    all.get(which.checked_rem(all.len())?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold(steps in proptest::collection::vec(step(), 1..120)) {
        let mut play = Play::new();
        for worker in 0..2 {
            play.take(Step::Link(worker));
            play.take(Step::Signal { worker, message: ZmqMessage::Ready });
        }
        for step in steps {
            play.take(step);
        }
        play.end();
    }
}
