//! The rules one by one; `schedules` tests them all together, at random.

mod schedules;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{Action, Failure, Limits, Pool, Ticket, WorkerRequest};
use crate::plugin::zmq::message::{Envelope, Identity, RequestId, ZmqMessage};

const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    max_bounce: 10,
    max_waiting: 100,
};

/// A pool and its clock.
struct Game {
    pool: Pool,
    now: Instant,
}

fn name(text: &str) -> Identity {
    Identity(text.as_bytes().into())
}

fn worker_request(ticket: &str, parent: Option<&str>) -> WorkerRequest {
    WorkerRequest {
        ticket: ticket.into(),
        parent: parent.map(Arc::from),
        bounce: 0,
        body: ticket.as_bytes().to_vec(),
    }
}

fn timed_out(ticket: &str) -> Action {
    Action::Answer(ticket.into(), Err(Failure::TimedOut))
}

fn not_taken(ticket: &str) -> Action {
    Action::Answer(ticket.into(), Err(Failure::NotTaken))
}

fn answered(ticket: &str, body: &str) -> Action {
    Action::Answer(ticket.into(), Ok(body.as_bytes().to_vec()))
}

impl Game {
    /// Creates a game with workers that are ready, the last one heard last.
    fn with(workers: &[&str]) -> Self {
        let mut game = Self {
            pool: Pool::new(LIMITS),
            now: Instant::now(),
        };
        for worker in workers {
            assert!(game.pool.link(&name(worker), game.now));
            game.hear(worker, ZmqMessage::Ready);
        }
        game.drain();
        game
    }

    fn hear(&mut self, worker: &str, message: ZmqMessage) {
        self.pool.hear(&name(worker), message, self.now);
    }

    fn hear_too_much(&mut self, worker: &str, message: ZmqMessage) {
        let failure = Failure::TooLarge(1000);
        self.pool
            .hear_too_much(&name(worker), message, failure, self.now);
    }

    fn ask(&mut self, ticket: &str, parent: Option<&str>) {
        self.pool.ask(worker_request(ticket, parent), self.now);
    }

    /// Lets time pass, while the given workers show that they are alive.
    fn wait(&mut self, seconds: u64, living: &[&str]) {
        for _ in 0..seconds * 10 {
            self.now += Duration::from_millis(100);
            for worker in living {
                self.hear(worker, ZmqMessage::Heartbeat);
            }
            self.pool.tick(self.now);
        }
    }

    /// Returns the actions to perform, except heartbeats.
    fn drain(&mut self) -> Vec<Action> {
        let mut actions = self.pool.take_actions();
        actions.retain(|action| !matches!(action, Action::Tell(_, ZmqMessage::Heartbeat)));
        actions
    }

    /// Expects the only action to be a request to a worker; returns the request.
    fn given(&mut self, worker: &str) -> Envelope {
        match self.drain().as_slice() {
            [Action::Tell(to, ZmqMessage::Request(envelope))] if *to == name(worker) => {
                envelope.clone()
            }
            other => panic!("expected a request to {worker}, saw {other:?}"),
        }
    }

    fn answer(&mut self, worker: &str, request: &Envelope, body: &str) {
        let body = body.as_bytes().to_vec();
        self.hear(
            worker,
            ZmqMessage::Response(Envelope {
                body,
                ..request.clone()
            }),
        );
    }

    /// Makes a worker call while it works on a request; returns the call's id and the request that
    /// it is made for.
    fn call(&mut self, worker: &str, request: &Envelope) -> (Arc<str>, Option<Ticket>) {
        let call = Envelope {
            bounce: request.bounce + 1,
            ..request.clone()
        };
        self.hear(worker, ZmqMessage::Request(call));
        match self.drain().as_slice() {
            [Action::Call(call, parent, _)] => (Arc::clone(call), parent.clone()),
            other => panic!("expected a call, saw {other:?}"),
        }
    }
}

#[test]
fn the_worker_that_was_heard_last_gets_the_request() {
    let mut game = Game::with(&["a", "b", "c"]);
    game.hear("a", ZmqMessage::Heartbeat);
    for (ticket, worker) in [("1", "a"), ("2", "c"), ("3", "b")] {
        game.ask(ticket, None);
        let request = game.given(worker);
        assert_eq!(
            (request.bounce, request.body),
            (0, ticket.as_bytes().to_vec())
        );
    }
}

#[test]
fn too_much_is_an_answer_as_well() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    let too_large = Failure::TooLarge(1000);
    let call = Envelope {
        bounce: 1,
        ..request.clone()
    };
    game.hear_too_much("a", ZmqMessage::Request(call.clone()));
    let body = too_large.to_body();
    let refusal = ZmqMessage::Response(Envelope { body, ..call });
    assert_eq!(game.drain(), [Action::Tell(name("a"), refusal)]);
    // It still works on the request, and gets no other.
    game.ask("2", None);
    assert_eq!(game.drain(), []);
    game.hear_too_much("a", ZmqMessage::Response(request.clone()));
    let actions = game.drain();
    let [refused, Action::Tell(_, ZmqMessage::Request(next))] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(*refused, Action::Answer("1".into(), Err(too_large)));
    assert_eq!(next.body, b"2");
    // No caller waits for that any more.
    game.hear_too_much("a", ZmqMessage::Response(request));
    assert_eq!(game.drain(), []);
}

#[test]
fn a_workers_own_call_outlasts_the_request_that_crossed_it() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    // The worker called before it saw the request, which it handles while it waits for the reply.
    let own = Envelope {
        bounce: 0,
        id: RequestId::random(),
        body: b"own".to_vec(),
    };
    game.hear("a", ZmqMessage::Request(own.clone()));
    let actions = game.drain();
    let [Action::Call(call, None, _)] = actions.as_slice() else {
        panic!("no call");
    };
    // It does the same with what that request's calls cause.
    let (inner, _) = game.call("a", &request);
    game.pool.reply(&inner, b"inner".to_vec(), game.now);
    game.drain();
    game.answer("a", &request, "done");
    assert_eq!(game.drain(), [answered("1", "done")]);
    game.ask("2", None);
    assert_eq!(game.drain(), []);
    game.pool.reply(call, b"reply".to_vec(), game.now);
    let body = b"reply".to_vec();
    let reply = ZmqMessage::Response(Envelope { body, ..own });
    let actions = game.drain();
    assert_eq!(actions.first(), Some(&Action::Tell(name("a"), reply)));
    // Then it is idle.
    assert!(matches!(
        actions.as_slice(),
        [_, Action::Tell(_, ZmqMessage::Request(_))]
    ));
}

#[test]
fn who_is_not_ready_and_has_no_request_is_not_known() {
    let mut game = Game::with(&["a"]);
    assert!(game.pool.link(&name("b"), game.now));
    assert!(game.pool.knows(&name("a")) && !game.pool.knows(&name("b")));
    game.hear("b", ZmqMessage::Ready);
    assert!(game.pool.knows(&name("b")));
    game.ask("1", None);
    let request = game.given("b");
    game.hear("b", ZmqMessage::Shutdown);
    assert_eq!(game.drain(), [timed_out("1")]);
    assert!(!game.pool.knows(&name("b")));
    game.answer("b", &request, "late");
    assert!(!game.pool.knows(&name("b")));
    // Any peer can make calls.
    game.call("b", &request);
    assert!(!game.pool.knows(&name("b")));
}

#[test]
fn an_answer_makes_its_worker_idle_again() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    game.ask("2", None);
    assert_eq!(game.drain(), []);
    game.answer("a", &request, "done");
    let actions = game.drain();
    assert_eq!(actions.first(), Some(&answered("1", "done")));
    assert!(matches!(
        actions.get(1),
        Some(Action::Tell(_, ZmqMessage::Request(_)))
    ));
    // The same answer again belongs to no request.
    game.answer("a", &request, "done");
    assert_eq!(game.drain(), []);
}

#[test]
fn without_a_worker_a_request_waits_three_seconds() {
    let mut game = Game::with(&[]);
    game.ask("1", None);
    game.wait(2, &[]);
    assert_eq!(game.drain(), []);
    game.wait(1, &[]);
    assert_eq!(game.drain(), [not_taken("1")]);
    game.ask("2", None);
    game.wait(2, &[]);
    game.pool.link(&name("a"), game.now);
    game.hear("a", ZmqMessage::Ready);
    game.given("a");
}

#[test]
fn a_silent_idle_worker_is_dropped_and_has_to_say_ready_again() {
    let mut game = Game::with(&["a"]);
    game.wait(2, &[]);
    assert_eq!(game.pool.num_ready(), 1);
    game.wait(1, &[]);
    assert_eq!(game.pool.num_ready(), 0);
    game.hear("a", ZmqMessage::Heartbeat);
    game.ask("1", None);
    assert_eq!(game.drain(), []);
    game.hear("a", ZmqMessage::Ready);
    game.given("a");
}

#[test]
fn idle_workers_are_told_each_second_that_the_server_is_there() {
    let mut game = Game::with(&["a", "b"]);
    game.ask("1", None);
    game.given("b");
    game.pool.take_actions();
    game.wait(4, &["a"]);
    let beats = game.pool.take_actions();
    let beat = Action::Tell(name("a"), ZmqMessage::Heartbeat);
    assert!(beats.iter().all(|action| *action == beat));
    assert_eq!(beats.len(), 4);
}

#[test]
fn a_busy_worker_may_be_silent_until_its_time_is_over() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    game.wait(29, &[]);
    assert_eq!(game.drain(), []);
    game.wait(1, &[]);
    assert_eq!(game.drain(), [timed_out("1")]);
    // It is still busy: it is given nothing before it is heard.
    game.ask("2", None);
    assert_eq!(game.drain(), []);
    game.answer("a", &request, "late");
    let second = game.given("a");
    assert_ne!(second.id, request.id);
}

#[test]
fn a_heartbeat_ends_what_nobody_waits_for() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    game.given("a");
    // A heartbeat that was already on its way says nothing about the request.
    game.hear("a", ZmqMessage::Heartbeat);
    game.wait(30, &["a"]);
    assert_eq!(game.drain(), [timed_out("1")]);
    game.hear("a", ZmqMessage::Heartbeat);
    game.ask("2", None);
    game.given("a");
}

#[test]
fn what_a_call_causes_goes_to_the_worker_that_made_it() {
    let mut game = Game::with(&["a", "b"]);
    game.ask("1", None);
    let outer = game.given("b");
    let (call, parent) = game.call("b", &outer);
    assert_eq!(parent.as_deref(), Some("1"));
    game.ask("2", Some(&call));
    let inner = game.given("b");
    assert_eq!((&inner.id, inner.bounce), (&outer.id, 2));
    game.answer("b", &inner, "inner");
    assert_eq!(game.drain(), [answered("2", "inner")]);
    game.pool.reply(&call, b"reply".to_vec(), game.now);
    let reply = ZmqMessage::Response(Envelope {
        bounce: 1,
        id: outer.id.clone(),
        body: b"reply".to_vec(),
    });
    assert_eq!(game.drain(), [Action::Tell(name("b"), reply)]);
    game.answer("b", &outer, "outer");
    assert_eq!(game.drain(), [answered("1", "outer")]);
}

#[test]
fn two_requests_of_one_call_go_to_its_worker_one_after_the_other() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let outer = game.given("a");
    let (call, _) = game.call("a", &outer);
    game.ask("2", Some(&call));
    game.ask("3", Some(&call));
    let first = game.given("a");
    game.answer("a", &first, "x");
    assert!(matches!(
        game.drain().as_slice(),
        [Action::Answer(ticket, Ok(_)), Action::Tell(_, ZmqMessage::Request(second))]
            if **ticket == *"2" && second.body == b"3" && second.bounce == first.bounce
    ));
}

#[test]
fn nesting_is_bounded_both_ways() {
    let mut game = Game::with(&["a"]);
    game.ask("0", None);
    let mut request = game.given("a");
    for depth in 1..=5 {
        let (call, _) = game.call("a", &request);
        game.ask(&depth.to_string(), Some(&call));
        request = game.given("a");
    }
    assert_eq!(request.bounce, 10);
    let call = Envelope {
        bounce: 11,
        ..request.clone()
    };
    game.hear("a", ZmqMessage::Request(call.clone()));
    let refused = ZmqMessage::Response(Envelope {
        body: Failure::TooDeep.to_body(),
        ..call
    });
    assert_eq!(game.drain(), [Action::Tell(name("a"), refused)]);
    let deep = WorkerRequest {
        bounce: 11,
        ..worker_request("deep", None)
    };
    game.pool.ask(deep, game.now);
    assert_eq!(
        game.drain(),
        [Action::Answer("deep".into(), Err(Failure::TooDeep))]
    );
}

#[test]
fn a_request_at_the_bound_cannot_cause_another() {
    let mut game = Game::with(&["a"]);
    let deep = WorkerRequest {
        bounce: 9,
        ..worker_request("1", None)
    };
    game.pool.ask(deep, game.now);
    let request = game.given("a");
    let (call, _) = game.call("a", &request);
    game.ask("2", Some(&call));
    assert_eq!(
        game.drain(),
        [Action::Answer("2".into(), Err(Failure::TooDeep))]
    );
}

#[test]
fn a_worker_that_calls_by_itself_is_busy_until_it_is_answered() {
    let mut game = Game::with(&["a"]);
    let own = Envelope {
        bounce: 0,
        id: RequestId::random(),
        body: b"own".to_vec(),
    };
    game.hear("a", ZmqMessage::Request(own.clone()));
    let actions = game.drain();
    let [Action::Call(call, None, body)] = actions.as_slice() else {
        panic!("{actions:?}")
    };
    assert_eq!(body, b"own");
    // The same message again is not a second call.
    game.hear("a", ZmqMessage::Request(own));
    game.ask("1", None);
    assert_eq!(game.drain(), []);
    game.pool.reply(call, b"reply".to_vec(), game.now);
    assert!(matches!(
        game.drain().as_slice(),
        [
            Action::Tell(_, ZmqMessage::Response(_)),
            Action::Tell(_, ZmqMessage::Request(_))
        ]
    ));
}

#[test]
fn a_call_that_the_server_forgets_is_answered_all_the_same() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    game.call("a", &request);
    game.wait(69, &[]);
    assert_eq!(game.drain(), [timed_out("1")]);
    game.wait(1, &[]);
    let answer = ZmqMessage::Response(Envelope {
        bounce: 1,
        body: Failure::TimedOut.to_body(),
        ..request
    });
    assert_eq!(game.drain(), [Action::Tell(name("a"), answer)]);
}

#[test]
fn a_worker_that_leaves_or_begins_anew_loses_what_it_had() {
    for message in [ZmqMessage::Shutdown, ZmqMessage::Ready] {
        let mut game = Game::with(&["a"]);
        game.ask("1", None);
        let outer = game.given("a");
        let (call, _) = game.call("a", &outer);
        game.ask("2", Some(&call));
        game.given("a");
        game.ask("3", Some(&call));
        game.hear("a", message.clone());
        let lost: Vec<_> = ["1", "2", "3"].map(timed_out).into();
        assert_eq!(game.drain(), lost);
        assert_eq!(game.pool.num_ready() > 0, message == ZmqMessage::Ready);
        // The reply to a forgotten call goes nowhere.
        game.pool.reply(&call, Vec::new(), game.now);
        assert_eq!(game.drain(), []);
    }
}

#[test]
fn a_lost_connection_may_be_back_in_a_moment() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    let request = game.given("a");
    let (call, _) = game.call("a", &request);
    game.pool.unlink(&name("a"), game.now);
    game.pool.reply(&call, b"reply".to_vec(), game.now);
    game.wait(2, &[]);
    assert_eq!(game.drain(), []);
    assert!(game.pool.link(&name("a"), game.now));
    assert!(matches!(
        game.drain().as_slice(),
        [Action::Tell(_, ZmqMessage::Response(_))]
    ));
    game.answer("a", &request, "done");
    assert_eq!(game.drain(), [answered("1", "done")]);
}

#[test]
fn a_lost_connection_that_stays_away_takes_its_requests_along() {
    let mut game = Game::with(&["a"]);
    game.ask("1", None);
    game.given("a");
    game.pool.unlink(&name("a"), game.now);
    game.wait(3, &[]);
    assert_eq!(game.drain(), [timed_out("1")]);
    assert!(game.pool.workers.is_empty());
}

#[test]
fn an_identity_that_is_connected_is_not_given_away() {
    let mut game = Game::with(&["a"]);
    assert!(!game.pool.link(&name("a"), game.now));
    game.pool.unlink(&name("a"), game.now);
    assert!(game.pool.link(&name("a"), game.now));
}

#[test]
fn an_idle_worker_without_a_connection_gets_nothing() {
    let mut game = Game::with(&["a", "b"]);
    game.pool.unlink(&name("b"), game.now);
    game.ask("1", None);
    game.given("a");
}

#[test]
fn a_connection_that_never_becomes_a_worker_is_ended() {
    let mut game = Game::with(&[]);
    game.pool.link(&name("a"), game.now);
    game.wait(59, &[]);
    assert_eq!(game.drain(), []);
    game.wait(1, &[]);
    assert_eq!(game.drain(), [Action::HangUp(name("a"))]);
    game.pool.unlink(&name("a"), game.now);
    game.wait(1, &[]);
    assert!(game.pool.workers.is_empty());
}

#[test]
fn a_cancelled_request_waits_no_longer() {
    let mut game = Game::with(&[]);
    game.ask("1", None);
    game.pool.cancel(&"1".into());
    assert_eq!(game.drain(), [timed_out("1")]);
    game.pool.cancel(&"1".into());
    assert_eq!(game.drain(), []);
}

#[test]
fn so_many_requests_wait_and_no_more() {
    let mut game = Game::with(&[]);
    for number in 0..LIMITS.max_waiting {
        game.ask(&number.to_string(), None);
    }
    assert_eq!(game.drain(), []);
    game.ask("more", None);
    assert_eq!(game.drain(), [not_taken("more")]);
}
