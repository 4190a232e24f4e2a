//! Random schedules of what clients and workers do.
//!
//! Whatever they do, every client is answered once and in time, and no window is exceeded. No
//! request reaches two workers unless it may be repeated, and finally nothing is in flight.
//! Connections break between any two messages. As long as workers come back in time, nothing is
//! lost and nothing is done twice.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use skytrail_actors::plugin::ApiReply;
use skytrail_schema::code::ApiError;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::support::{ApiCall, Asked, Seen, Worker, World, request};

const LIMIT: Duration = Duration::from_secs(7);

/// How long a worker can be away.
const RESUME: Duration = Duration::from_secs(15);

/// Timers fire up to this much late.
const TIMER_GRAIN: Duration = Duration::from_millis(2);

#[derive(Clone, Debug)]
enum Step {
    /// A client asks for a lambda, or for one that may be repeated.
    Ask { is_idempotent: bool },
    /// A client goes away.
    HangUp(usize),
    /// A worker answers one of its requests.
    Answer { worker: usize, request: usize },
    /// It answers a request twice.
    AnswerTwice { worker: usize, request: usize },
    /// It answers something that nobody asked.
    Babble { worker: usize },
    /// It changes its window.
    Window { worker: usize, size: usize },
    /// It calls an action.
    Call { worker: usize },
    /// Clients ask and it calls. After it has read `read` messages its connection breaks, and
    /// everything after that is lost.
    Break {
        worker: usize,
        asks: usize,
        read: usize,
    },
    /// It resumes its session, perhaps while the old connection still looks alive.
    ComeBack { worker: usize, is_careless: bool },
    /// It vanishes for good, and another one connects.
    Die { worker: usize },
    /// It says goodbye, and another one connects.
    Goodbye { worker: usize },
    /// It sends garbage, is disconnected and comes back.
    Garbage { worker: usize },
    /// Time passes.
    Wait { seconds: u64 },
}

/// What clients and workers do while connections break.
fn gentle_step() -> impl Strategy<Value = Step> {
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
        2 => worker.clone().prop_map(|worker| Step::Call { worker }),
        3 => (worker.clone(), 0..3_usize, 0..4_usize)
            .prop_map(|(worker, asks, read)| Step::Break { worker, asks, read }),
        4 => (worker, any::<bool>())
            .prop_map(|(worker, is_careless)| Step::ComeBack { worker, is_careless }),
        2 => (0..4_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

/// Like [`gentle_step`], but workers are lost, too.
fn step() -> impl Strategy<Value = Step> {
    let worker = 0..3_usize;
    prop_oneof![
        29 => gentle_step(),
        1 => worker.clone().prop_map(|worker| Step::Die { worker }),
        1 => worker.clone().prop_map(|worker| Step::Goodbye { worker }),
        1 => worker.prop_map(|worker| Step::Garbage { worker }),
    ]
}

/// A worker and its requests.
struct Player {
    worker: Worker,
    window: usize,
    pending: Vec<Json>,
    cancelled: HashSet<String>,
    /// The requests that it had before its window shrank; they may exceed the new one.
    allowed: usize,
    /// Since when its connection is broken: what it sends waits until it comes back.
    away_since: Option<Instant>,
    /// How many replies each of its calls got.
    replies: HashMap<String, usize>,
}

struct Game {
    world: World,
    players: Vec<Player>,
    asked: Vec<(usize, Asked)>,
    next: usize,
    /// How often each request was seen by a worker, and which requests may be seen more than once.
    seen: HashMap<String, usize>,
    repeatable: HashSet<String>,
    answers: Vec<(Result<Json, ApiError>, Duration)>,
    calls: UnboundedReceiver<ApiCall>,
    num_calls: usize,
    /// How often each call was carried out, and how many replies it got.
    done: HashMap<String, usize>,
    replies: HashMap<String, usize>,
    /// How many answers arrived that nobody had asked for.
    num_strays: u64,
    /// Whether any session has ended.
    is_anything_lost: bool,
}

fn hello() -> Json {
    json!({"window": 2, "features": ["resume"]})
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
        let first = world.ready(hello(), points()).await;
        players.push(Player::new(first));
        for _ in 0..2 {
            players.push(Player::join(&world).await);
        }
        Self {
            calls: world.api.calls(),
            num_calls: 0,
            done: HashMap::new(),
            replies: HashMap::new(),
            num_strays: 0,
            is_anything_lost: false,
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
                self.num_strays += u64::from(!self.players[worker].pending.is_empty());
                self.players[worker].answer(request, 2).await;
            }
            Step::Babble { worker } => {
                self.num_strays += 1;
                let stray = json!({"type": "response", "id": "r0", "result": 0});
                self.players[worker].send(stray).await;
            }
            Step::Window { worker, .. } if self.players[worker].is_away() => {}
            Step::Window { worker, size } => {
                let player = &mut self.players[worker];
                player.allowed = player.pending.len();
                player.window = size;
                let message = json!({"type": "window", "size": size});
                player.worker.send(message).await;
            }
            Step::Call { worker } => self.call(worker).await,
            Step::Break { worker, asks, read } => {
                for _ in 0..asks {
                    self.ask(false);
                }
                self.call(worker).await;
                self.world.quiet().await;
                self.serve_calls();
                self.world.quiet().await;
                self.break_link(worker, read).await;
            }
            Step::ComeBack {
                worker,
                is_careless,
            } => {
                self.players[worker].worker.is_careless = is_careless;
                self.come_back(worker).await;
            }
            Step::Die { worker } => self.replace(worker).await.die().await,
            Step::Goodbye { worker } => self.replace(worker).await.say_goodbye().await,
            Step::Garbage { worker } => self.replace(worker).await.send_text("}{").await,
            Step::Wait { seconds } => self.wait(seconds).await,
        }
        self.look().await;
    }

    async fn replace(&mut self, index: usize) -> Worker {
        self.is_anything_lost = true;
        let fresh = Player::join(&self.world).await;
        std::mem::replace(&mut self.players[index], fresh).worker
    }

    async fn call(&mut self, worker: usize) {
        self.num_calls += 1;
        let id = format!("c{}", self.num_calls);
        let call = json!({"type": "call", "id": id, "payload": {"action": id}});
        self.players[worker].send(call).await;
    }

    async fn break_link(&mut self, index: usize, read: usize) {
        let player = &mut self.players[index];
        if player.is_away() {
            return;
        }
        let requests = player.read(read).await;
        player.away_since = Some(Instant::now());
        player.worker.break_link().await;
        self.note(requests);
    }

    async fn come_back(&mut self, index: usize) {
        let player = &mut self.players[index];
        let hello = json!({"window": player.window});
        let old = player.worker.old_link();
        let welcome = player.worker.come_back(&self.world, hello).await;
        let away_since = player.away_since.take();
        if away_since.is_none() {
            // Nobody listens any more to what the old connection still says.
            let answer = match player.pending.first() {
                Some(request) => request["id"].clone(),
                None => json!("r0"),
            };
            let word = json!({"type": "response", "id": answer, "result": "over the old one"});
            old.linger(word).await;
        }
        if welcome["resumed"] != true {
            let was_away = away_since.map(|since| since.elapsed());
            assert!(was_away >= Some(RESUME), "not resumed after {was_away:?}");
            self.is_anything_lost = true;
            player.forget();
            player.worker.register(points()).await;
            player.worker.expect_ready().await;
        }
    }

    /// Carries out what workers call.
    fn serve_calls(&mut self) {
        while let Ok(ApiCall { call, reply }) = self.calls.try_recv() {
            let id = call.payload["action"].as_str().unwrap().to_owned();
            *self.done.entry(id).or_default() += 1;
            // The caller may be gone.
            let _ = reply.send(ApiReply {
                status: 200,
                body: json!({}),
            });
        }
    }

    /// Counts requests that a worker has seen.
    fn note(&mut self, requests: Vec<Json>) {
        for message in requests {
            let key = message["param"]["key"].as_str().unwrap_or_default();
            if message["kind"] == "op" {
                *self.seen.entry(key.to_owned()).or_default() += 1;
            }
        }
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

    /// Lets everybody see what there is to see, and checks the invariants.
    async fn look(&mut self) {
        self.world.quiet().await;
        self.serve_calls();
        self.world.quiet().await;
        for index in 0..self.players.len() {
            if self.players[index].is_away() {
                continue;
            }
            let requests = self.players[index].read(usize::MAX).await;
            self.note(requests);
            let player = &mut self.players[index];
            for (id, count) in player.replies.drain() {
                *self.replies.entry(id).or_default() += count;
            }
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

    /// Lets everything finish.
    async fn finish(mut self) {
        for index in 0..self.players.len() {
            if self.players[index].is_away() {
                self.come_back(index).await;
            }
        }
        // Workers that vanished are waited for until then.
        for _ in 0..LIMIT.as_secs() + RESUME.as_secs() + 1 {
            self.wait(1).await;
        }
        assert!(self.asked.is_empty(), "somebody was not answered in time");
        self.check_calls();
        for (answer, elapsed) in &self.answers {
            assert!(*elapsed <= LIMIT + TIMER_GRAIN, "{elapsed:?}");
            match answer {
                Ok(result) => assert_eq!(result, "answer 0"),
                Err(error) => {
                    assert!(matches!(error.code.number(), 118 | 119), "{error}");
                    let is_lost = error.info.get("reason") == Some(&json!("worker-lost"));
                    assert!(!is_lost || self.is_anything_lost, "{error}");
                }
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
        if !self.is_anything_lost {
            assert_eq!(state.plugins[0].figures.stray, self.num_strays);
        }
        for worker in &state.plugins[0].workers {
            assert_eq!(worker.in_use, 0);
        }
        // Nobody has to wait for anything.
        let start = Instant::now();
        self.world.broker.leave(Duration::MAX).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        let state = self.world.broker.state().await.unwrap();
        assert!(state.plugins[0].workers.is_empty());
    }

    /// No call is carried out or answered twice; none is lost if only connections were lost.
    fn check_calls(&self) {
        for number in 1..=self.num_calls {
            let id = format!("c{number}");
            let count = |of: &HashMap<String, usize>| of.get(&id).copied().unwrap_or_default();
            let (done, replies) = (count(&self.done), count(&self.replies));
            assert!(done <= 1 && replies <= 1, "{id}: {done}, {replies}");
            assert!(self.is_anything_lost || (done, replies) == (1, 1), "{id}");
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
            away_since: None,
            replies: HashMap::new(),
        }
    }

    /// Begins anew, with another session.
    fn forget(&mut self) {
        self.allowed = 0;
        self.pending.clear();
        self.cancelled.clear();
    }

    fn is_away(&self) -> bool {
        self.away_since.is_some()
    }

    /// Sends a message, or keeps it until the connection is back.
    async fn send(&mut self, message: Json) {
        if self.is_away() {
            self.worker.lose(message);
        } else {
            self.worker.send(message).await;
        }
    }

    async fn join(world: &World) -> Self {
        let mut worker = world.register(hello(), points()).await;
        worker.expect_ready().await;
        Self::new(worker)
    }

    async fn answer(&mut self, index: usize, times: usize) {
        if self.pending.is_empty() {
            return;
        }
        let request = self.pending.remove(index % self.pending.len());
        for time in 0..times {
            let result = format!("answer {time}");
            let response = json!({"type": "response", "id": request["id"], "result": result});
            self.send(response).await;
        }
    }

    /// Reads what has arrived, at most `limit` messages, without waiting; returns the requests.
    async fn read(&mut self, limit: usize) -> Vec<Json> {
        let mut requests = Vec::new();
        for _ in 0..limit {
            let Some(seen) = self.worker.poll_next().await else {
                break;
            };
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
                "reply" => {
                    let id = message["id"].as_str().unwrap().to_owned();
                    *self.replies.entry(id).or_default() += 1;
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
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn everybody_is_answered_once_whatever_happens(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        play(steps);
    }

    #[test]
    fn nothing_is_lost_with_connections_alone(
        steps in proptest::collection::vec(gentle_step(), 1..60)
    ) {
        play(steps);
    }
}

fn play(steps: Vec<Step>) {
    actix::System::new().block_on(async move {
        let mut game = Game::new().await;
        for step in steps {
            game.play(step).await;
        }
        game.finish().await;
    });
}
