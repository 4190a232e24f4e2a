//! Random schedules of what clients and workers do. Whatever they do, every client is answered
//! once and in time, no window is exceeded, no request reaches two workers unless it may be
//! repeated, and in the end nothing is in flight.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use skytrail_schema::code::ApiError;

use crate::support::{Asked, Seen, Worker, World, request};

const LIMIT: Duration = Duration::from_secs(7);

/// Timers fire up to this much late.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

#[derive(Clone, Debug)]
enum Step {
    /// A client asks for a lambda, or for one that may be repeated.
    Ask { is_idempotent: bool },
    /// A client goes away.
    HangUp(usize),
    /// A worker answers one of the requests that it has.
    Answer { worker: usize, request: usize },
    /// It answers one twice.
    AnswerTwice { worker: usize, request: usize },
    /// It answers something that nobody asked.
    Babble { worker: usize },
    /// It changes its window.
    Window { worker: usize, size: usize },
    /// It dies and comes back.
    Die { worker: usize },
    /// It sends garbage, is thrown out and comes back.
    Garbage { worker: usize },
    /// Time passes.
    Wait { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..3_usize;
    prop_oneof![
        6 => any::<bool>().prop_map(|is_idempotent| Step::Ask { is_idempotent }),
        1 => any::<usize>().prop_map(Step::HangUp),
        5 => (worker.clone(), any::<usize>())
            .prop_map(|(worker, request)| Step::Answer { worker, request }),
        1 => (worker.clone(), any::<usize>())
            .prop_map(|(worker, request)| Step::AnswerTwice { worker, request }),
        1 => worker.clone().prop_map(|worker| Step::Babble { worker }),
        1 => (worker.clone(), 0..5_usize)
            .prop_map(|(worker, size)| Step::Window { worker, size }),
        1 => worker.clone().prop_map(|worker| Step::Die { worker }),
        1 => worker.prop_map(|worker| Step::Garbage { worker }),
        2 => (0..4_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// A worker and what it has.
struct Player {
    worker: Worker,
    window: usize,
    pending: Vec<Json>,
    cancelled: HashSet<String>,
    /// Requests it had before its window shrank; they may exceed the new one.
    allowed: usize,
}

struct Game {
    world: World,
    players: Vec<Player>,
    asked: Vec<(usize, Asked)>,
    next: usize,
    /// How often each request was seen by a worker, and whether that may be more than once.
    seen: HashMap<String, usize>,
    repeatable: HashSet<String>,
    answers: Vec<(Result<Json, ApiError>, Duration)>,
}

fn points() -> Json {
    json!({"op": [{"name": "once"}, {"name": "again", "idempotent": true}]})
}

impl Game {
    async fn new() -> Self {
        let world = World::with(&["P"], |settings| {
            settings.plugins[0].timeout = LIMIT;
            settings.max_queue = 5;
            settings.stuck_after = Duration::from_secs(10_000);
        });
        let mut players = Vec::new();
        let first = world.ready(json!({"window": 2}), points()).await;
        players.push(Player::new(first));
        for _ in 0..2 {
            players.push(Player::join(&world).await);
        }
        Self {
            world,
            players,
            asked: Vec::new(),
            next: 0,
            seen: HashMap::new(),
            repeatable: HashSet::new(),
            answers: Vec::new(),
        }
    }

    async fn play(&mut self, step: Step) {
        match step {
            Step::Ask { is_idempotent } => self.ask(is_idempotent),
            Step::HangUp(index) => {
                if !self.asked.is_empty() {
                    let index = index % self.asked.len();
                    self.asked.remove(index).1.hang_up();
                }
            }
            Step::Answer { worker, request } => {
                self.players[worker].answer(request, 1).await;
            }
            Step::AnswerTwice { worker, request } => {
                self.players[worker].answer(request, 2).await;
            }
            Step::Babble { worker } => {
                let stray = json!({"id": "r0"});
                self.players[worker].worker.answer(&stray, json!(0)).await;
            }
            Step::Window { worker, size } => {
                let player = &mut self.players[worker];
                player.allowed = player.pending.len();
                player.window = size;
                let message = json!({"type": "window", "size": size});
                player.worker.send(message).await;
            }
            Step::Die { worker } => {
                let fresh = Player::join(&self.world).await;
                let old = std::mem::replace(&mut self.players[worker], fresh);
                old.worker.die().await;
            }
            Step::Garbage { worker } => {
                let fresh = Player::join(&self.world).await;
                let mut old = std::mem::replace(&mut self.players[worker], fresh);
                old.worker.send_text("}{").await;
            }
            Step::Wait { seconds } => self.wait(seconds).await,
        }
        self.look().await;
    }

    fn ask(&mut self, is_idempotent: bool) {
        let mut asking = request(if is_idempotent { "again" } else { "once" });
        let key = format!("k{}", self.next);
        asking.param = json!({"key": key});
        if is_idempotent {
            self.repeatable.insert(key);
        }
        self.asked.push((self.next, self.world.ask(asking)));
        self.next += 1;
    }

    async fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            // The clock is paused: this jumps from timer to timer.
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.look().await;
        }
    }

    /// Lets everybody see what there is to see, and checks what must be true.
    async fn look(&mut self) {
        self.world.quiet().await;
        for index in 0..self.players.len() {
            for message in self.players[index].read().await {
                let key = message["param"]["key"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                if message["kind"] == "op" {
                    *self.seen.entry(key).or_default() += 1;
                }
            }
            let player = &mut self.players[index];
            let in_flight = player.pending.len();
            player.allowed = player.allowed.min(in_flight);
            assert!(
                in_flight <= player.window.max(player.allowed),
                "{in_flight} in flight at a window of {}",
                player.window
            );
        }
        self.world.quiet().await;
        let mut waiting = Vec::new();
        for (number, asked) in self.asked.drain(..) {
            if asked.is_answered() {
                self.answers.push(asked.timed().await);
            } else {
                waiting.push((number, asked));
            }
        }
        self.asked = waiting;
    }

    /// Lets everything come to its end.
    async fn finish(mut self) {
        for _ in 0..LIMIT.as_secs() + 1 {
            self.wait(1).await;
        }
        assert!(self.asked.is_empty(), "somebody was not answered in time");
        for (answer, elapsed) in &self.answers {
            assert!(*elapsed <= LIMIT + TIMER_GRAIN, "{elapsed:?}");
            match answer {
                Ok(result) => assert_eq!(result, "answer 0"),
                Err(error) => assert!(matches!(error.code.number(), 118 | 119), "{error}"),
            }
        }
        for (key, count) in &self.seen {
            assert!(
                *count == 1 || self.repeatable.contains(key),
                "{key} went to {count} workers"
            );
        }
        for index in 0..self.players.len() {
            while !self.players[index].pending.is_empty() {
                self.players[index].answer(0, 1).await;
            }
        }
        self.look().await;
        let state = self.world.broker.state().await.unwrap();
        assert_eq!((state.in_flight, state.plugins[0].queued), (0, 0));
        for worker in &state.plugins[0].workers {
            assert_eq!(worker.in_use, 0);
        }
    }
}

impl Player {
    fn new(worker: Worker) -> Self {
        Self {
            worker,
            window: 2,
            pending: Vec::new(),
            cancelled: HashSet::new(),
            allowed: 0,
        }
    }

    async fn join(world: &World) -> Self {
        let mut worker = world.register(json!({"window": 2}), points()).await;
        worker.expect("ready").await;
        Self::new(worker)
    }

    async fn answer(&mut self, index: usize, times: usize) {
        if self.pending.is_empty() {
            return;
        }
        let request = self.pending.remove(index % self.pending.len());
        for time in 0..times {
            let result = json!(format!("answer {time}"));
            self.worker.answer(&request, result).await;
        }
    }

    /// Reads what has come, without waiting; returns the requests.
    async fn read(&mut self) -> Vec<Json> {
        let mut requests = Vec::new();
        while let Some(seen) = self.worker.poll_next().await {
            let Seen::Message(message) = seen else {
                panic!("the connection ended: {seen:?}");
            };
            match message["type"].as_str().unwrap() {
                "request" => {
                    self.pending.push(message.clone());
                    requests.push(message);
                }
                "cancel" => {
                    let id = message["id"].as_str().unwrap().to_owned();
                    assert!(self.cancelled.insert(id), "cancelled twice");
                }
                "warning" => {}
                other => panic!("unexpected {other}"),
            }
        }
        requests
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everybody_is_answered_once_whatever_happens(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        actix::System::new().block_on(async move {
            let mut game = Game::new().await;
            for step in steps {
                game.play(step).await;
            }
            game.finish().await;
        });
    }
}
