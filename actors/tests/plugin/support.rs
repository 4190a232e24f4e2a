//! A world with a broker and scripted workers.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Arbiter, System};
use async_trait::async_trait;
use futures_util::FutureExt;
use parking_lot::Mutex;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::plugin::messages::{FromTransport, TransportEvent};
use skytrail_actors::plugin::transport::{self, Outgoing, OutgoingReceiver};
use skytrail_actors::plugin::{
    ApiCaller, ApiReply, CallContext, Lineage, PluginBroker, PluginCall, PluginConnection,
    PluginEntry, PluginGate, PluginRequest, PluginsSettings, Readiness, TransportKind, protocol,
};
use skytrail_schema::code::ApiError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Longer than any limit of the protocol: anything that waits longer waits for ever.
pub(crate) const EVER: Duration = Duration::from_secs(600);

/// The broker under test.
pub(crate) struct World {
    pub(crate) broker: PluginBroker,
    pub(crate) api: Arc<ScriptedApi>,
}

/// A call that reached the API; the test answers it.
pub(crate) struct ApiCall {
    pub(crate) call: PluginCall,
    pub(crate) reply: oneshot::Sender<ApiReply>,
}

/// An API that the test answers for.
pub(crate) struct ScriptedApi {
    sender: mpsc::UnboundedSender<ApiCall>,
    receiver: Mutex<Option<mpsc::UnboundedReceiver<ApiCall>>>,
}

#[async_trait]
impl ApiCaller for ScriptedApi {
    async fn call(&self, call: PluginCall) -> ApiReply {
        let (reply, answer) = oneshot::channel();
        self.sender.send(ApiCall { call, reply }).ok().unwrap();
        answer.await.unwrap()
    }
}

impl ScriptedApi {
    /// Returns the calls as they arrive; only once per test.
    pub(crate) fn calls(&self) -> mpsc::UnboundedReceiver<ApiCall> {
        self.receiver.lock().take().unwrap()
    }
}

impl World {
    /// Starts a broker with a paused clock, which jumps to the next timer whenever all is quiet.
    pub(crate) fn new(plugins: &[&str]) -> Self {
        Self::with(plugins, |_| {})
    }

    pub(crate) fn with(plugins: &[&str], change: impl FnOnce(&mut PluginsSettings)) -> Self {
        pause_once();
        let mut settings = PluginsSettings {
            plugins: plugins.iter().map(|name| PluginEntry::new(name)).collect(),
            config: Arc::new(json!({"app": {"name": "test"}})),
            ..PluginsSettings::default()
        };
        change(&mut settings);
        let (sender, receiver) = mpsc::unbounded_channel();
        let api = ScriptedApi {
            sender,
            receiver: Mutex::new(Some(receiver)),
        };
        Self {
            broker: PluginBroker::start(settings, &Arbiter::current()),
            api: Arc::new(api),
        }
    }

    /// Opens a connection over which nothing has been said.
    pub(crate) fn connect(&self) -> Worker {
        let (sender, receiver) = transport::channel(TransportKind::WebSocket);
        Worker {
            address: self.broker.connect(sender, Arc::clone(&self.api) as _),
            receiver,
            seq: 0,
            received: 0,
            sent: Vec::new(),
            claim: Json::Null,
            is_careless: false,
        }
    }

    /// Connects a worker, says hello and registers it.
    pub(crate) async fn register(&self, hello: Json, points: Json) -> Worker {
        let mut worker = self.connect();
        worker.hello(hello).await;
        worker.register(points).await;
        worker
    }

    /// Connects the only plugin's worker, and goes on until clients are served.
    pub(crate) async fn ready(&self, hello: Json, points: Json) -> Worker {
        let mut worker = self.register(hello, points).await;
        worker.serve_event("before-plugins-ready").await;
        worker.expect("ready").await;
        worker.serve_event("after-plugins-ready").await;
        worker.serve_event("server-ready").await;
        worker
    }

    /// Sends a request without waiting for the answer.
    pub(crate) fn ask(&self, request: PluginRequest) -> Asked {
        let broker = self.broker.clone();
        let asked = Instant::now();
        let handle = actix::spawn(async move {
            let answer = broker.call(request).await;
            (answer, asked.elapsed())
        });
        Asked(handle)
    }

    pub(crate) fn readiness(&self) -> Readiness {
        self.broker.points().readiness
    }

    /// Lets everything happen that does not need time to pass.
    pub(crate) async fn quiet(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

thread_local! {
    static PAUSED_SYSTEM: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Stops the clock of this test's runtime; a test may have several worlds.
fn pause_once() {
    let system = Some(System::current().id());
    if PAUSED_SYSTEM.replace(system) != system {
        tokio::time::pause();
    }
}

/// A request under way.
pub(crate) struct Asked(JoinHandle<(Result<Json, ApiError>, Duration)>);

impl Asked {
    /// Waits for the answer.
    pub(crate) async fn answer(self) -> Result<Json, ApiError> {
        self.timed().await.0
    }

    /// Waits for the answer; returns how long it took, too.
    pub(crate) async fn timed(self) -> (Result<Json, ApiError>, Duration) {
        timeout(EVER, self.0).await.expect("no answer").unwrap()
    }

    /// Goes away without waiting, like a client that hangs up.
    pub(crate) fn hang_up(self) {
        self.0.abort();
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.0.is_finished()
    }
}

/// What a worker sees.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Message(Json),
    Close(u16, String),
    /// The connection is gone without a word.
    Nothing,
}

fn seen(outgoing: Option<Outgoing>) -> Seen {
    match outgoing {
        Some(Outgoing::Text(text)) => Seen::Message(serde_json::from_str(&text).unwrap()),
        Some(Outgoing::Close { code, reason }) => Seen::Close(code, reason),
        None => Seen::Nothing,
    }
}

/// A worker that does what the test says.
pub(crate) struct Worker {
    pub(crate) address: Addr<PluginConnection>,
    receiver: OutgoingReceiver,
    seq: u64,
    pub(crate) received: u64,
    /// What it has sent, with numbers, and was not acknowledged yet.
    sent: Vec<(u64, String)>,
    /// Its session and the secret.
    claim: Json,
    /// Whether it sends everything unacknowledged again, whatever `welcome` says.
    pub(crate) is_careless: bool,
}

impl Worker {
    /// Sends a message with its number.
    pub(crate) async fn send(&mut self, message: Json) {
        let text = self.numbered(message);
        self.send_text(&text).await;
    }

    /// Sends a message that does not arrive.
    pub(crate) fn lose(&mut self, message: Json) {
        self.numbered(message);
    }

    fn numbered(&mut self, mut message: Json) -> String {
        let kind = message["type"].as_str().unwrap().to_owned();
        if kind == "hello" {
            return message.to_string();
        }
        message["ack"] = json!(self.received);
        if !matches!(kind.as_str(), "ping" | "pong") {
            self.seq += 1;
            message["seq"] = json!(self.seq);
            self.sent.push((self.seq, message.to_string()));
        }
        message.to_string()
    }

    /// Breaks its connection; what was on its way to it is lost.
    pub(crate) async fn break_link(&mut self) {
        self.transport(TransportEvent::Closed).await;
        while self.receiver.next().now_or_never().flatten().is_some() {}
    }

    /// Returns its present connection, to be used after it has come back over another one.
    pub(crate) fn old_link(&self) -> OldLink {
        OldLink {
            address: self.address.clone(),
            seq: self.seq,
        }
    }

    /// Connects again and claims its session; sends again what the server has not received.
    pub(crate) async fn come_back(&mut self, world: &World, more: Json) -> Json {
        let fresh = world.connect();
        self.address = fresh.address;
        self.receiver = fresh.receiver;
        let mut hello = json!({"features": ["resume"], "resume": self.claim.clone()});
        hello["resume"]["received"] = json!(self.received);
        for (name, value) in more.as_object().unwrap() {
            hello[name] = value.clone();
        }
        // `welcome` acknowledges what was received.
        let unconfirmed = self.sent.clone();
        self.say_hello(hello).await;
        let welcome = self.expect("welcome").await;
        if welcome["resumed"] == true {
            let received = welcome["received"].as_u64().unwrap();
            for (seq, text) in unconfirmed {
                if self.is_careless || seq > received {
                    self.send_text(&text).await;
                }
            }
        } else {
            (self.seq, self.received) = (0, 0);
            self.sent.clear();
            self.keep_claim(&welcome);
        }
        welcome
    }

    fn keep_claim(&mut self, welcome: &Json) {
        self.claim = json!({"session": welcome["session"], "secret": welcome["secret"]});
    }

    /// Returns what identifies its session.
    pub(crate) fn claim(&self) -> Json {
        self.claim.clone()
    }

    /// Goes on as if it were that worker.
    pub(crate) fn take_claim_of(&mut self, other: &Self) {
        self.claim = other.claim();
        (self.seq, self.received) = (other.seq, other.received);
    }

    /// Returns the number of its last message.
    pub(crate) fn num_sent(&self) -> u64 {
        self.seq
    }

    pub(crate) fn num_unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// Says goodbye and hangs up.
    pub(crate) async fn say_goodbye(mut self) {
        self.transport(TransportEvent::Goodbye).await;
    }

    /// Sends a text unchanged.
    pub(crate) async fn send_text(&mut self, text: &str) {
        self.transport(TransportEvent::Frame(protocol::parse(text)))
            .await;
    }

    /// Lets the transport report an event. A stopped actor hears nothing any more.
    pub(crate) async fn transport(&mut self, event: TransportEvent) {
        let _ = self.address.send(FromTransport(event)).await;
    }

    /// Dies without a word.
    pub(crate) async fn die(mut self) {
        self.transport(TransportEvent::Closed).await;
    }

    /// Waits for whatever arrives, including pings.
    pub(crate) async fn next_raw(&mut self) -> Seen {
        seen(self.receiver.next().await)
    }

    /// Waits for whatever arrives, and answers pings meanwhile.
    pub(crate) async fn next(&mut self) -> Seen {
        let unasked = async {
            loop {
                let seen = self.next_raw().await;
                if let Some(seen) = self.consider(seen).await {
                    return seen;
                }
            }
        };
        timeout(EVER, unasked).await.expect("nothing came")
    }

    /// Answers pings; passes on everything else. Numbers must not have gaps.
    async fn consider(&mut self, seen: Seen) -> Option<Seen> {
        if let Seen::Message(message) = &seen {
            let ack = message["ack"].as_u64().unwrap_or_default();
            self.sent.retain(|(seq, _)| *seq > ack);
            match message["type"].as_str().unwrap() {
                "ping" => {
                    self.send(json!({"type": "pong"})).await;
                    return None;
                }
                "welcome" | "pong" => {}
                _ => {
                    self.received += 1;
                    assert_eq!(message["seq"], self.received, "{message}");
                }
            }
        }
        Some(seen)
    }

    /// Returns what has arrived, if anything has, without letting time pass.
    pub(crate) async fn poll_next(&mut self) -> Option<Seen> {
        loop {
            let seen = seen(self.receiver.next().now_or_never()?);
            if let Some(seen) = self.consider(seen).await {
                return Some(seen);
            }
        }
    }

    /// Waits for a message of a type; anything else fails the test.
    pub(crate) async fn expect(&mut self, kind: &str) -> Json {
        match self.next().await {
            Seen::Message(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, saw {other:?}"),
        }
    }

    /// Waits for the connection's end; anything else fails the test.
    pub(crate) async fn expect_close(&mut self) -> u16 {
        match self.next().await {
            Seen::Close(code, _) => code,
            other => panic!("expected the end, saw {other:?}"),
        }
    }

    /// Says hello as a worker of plugin `P` unless told otherwise, and is welcomed.
    pub(crate) async fn hello(&mut self, more: Json) -> Json {
        self.say_hello(more).await;
        let welcome = self.expect("welcome").await;
        self.keep_claim(&welcome);
        welcome
    }

    pub(crate) async fn say_hello(&mut self, more: Json) {
        let mut hello = json!({"type": "hello", "plugin": "P", "worker": "w"});
        for (name, value) in more.as_object().unwrap() {
            hello[name] = value.clone();
        }
        self.send(hello).await;
    }

    /// Answers `init` with these points, and the events around it.
    pub(crate) async fn register(&mut self, points: Json) {
        self.serve_event("before-config").await;
        let init = self.expect_event("init").await;
        assert_eq!(init["param"], json!({"config": {"app": {"name": "test"}}}));
        self.answer(&init, points).await;
        let registered = self.expect("registered").await;
        assert_eq!(registered["ok"], true, "{registered}");
        self.serve_event("after-config").await;
    }

    pub(crate) async fn expect_event(&mut self, name: &str) -> Json {
        let request = self.expect("request").await;
        assert_eq!(
            (&request["kind"], &request["name"]),
            (&json!("event"), &json!(name))
        );
        request
    }

    /// Goes on until it serves: it prepares first, if no other worker serves.
    pub(crate) async fn expect_ready(&mut self) {
        loop {
            match self.next().await {
                Seen::Message(message) if message["type"] == "ready" => return,
                Seen::Message(message) if message["name"] == "before-plugins-ready" => {
                    self.answer(&message, json!(null)).await;
                }
                other => panic!("expected to be ready, saw {other:?}"),
            }
        }
    }

    pub(crate) async fn serve_event(&mut self, name: &str) {
        let event = self.expect_event(name).await;
        self.answer(&event, Json::Null).await;
    }

    pub(crate) async fn answer(&mut self, request: &Json, result: Json) {
        self.send(json!({"type": "response", "id": request["id"], "result": result}))
            .await;
    }

    pub(crate) async fn refuse(&mut self, request: &Json, error: Json) {
        self.send(json!({"type": "response", "id": request["id"], "error": error}))
            .await;
    }
}

/// A connection that its worker has left for another one.
pub(crate) struct OldLink {
    address: Addr<PluginConnection>,
    seq: u64,
}

impl OldLink {
    /// Sends the session's next message, and ends. A stopped actor hears nothing of it.
    pub(crate) async fn linger(self, mut message: Json) {
        message["seq"] = json!(self.seq + 1);
        let frame = TransportEvent::Frame(protocol::parse(&message.to_string()));
        for event in [frame, TransportEvent::Closed] {
            let _ = self.address.send(FromTransport(event)).await;
        }
    }
}

/// A lambda's points.
pub(crate) fn op(name: &str) -> Json {
    json!({"op": [{"name": name}]})
}

/// A request to plugin `P`.
pub(crate) fn request(name: &str) -> PluginRequest {
    PluginRequest {
        plugin: "P".into(),
        kind: "op",
        name: name.to_owned(),
        param: json!({"action": name}),
        context: Some(CallContext::default()),
        timeout: None,
        deadline: None,
        lineage: Lineage::default(),
    }
}

/// The body of a call.
pub(crate) fn payload(action: &str) -> Map<String, Json> {
    json!({"action": action}).as_object().unwrap().clone()
}

/// Checks an error's code and the reason in its details.
pub(crate) fn assert_refused(answer: Result<Json, ApiError>, code: i64, reason: &str) {
    let error = answer.expect_err("an error");
    let wire = error.to_wire();
    assert_eq!(wire["code"], code, "{wire}");
    assert_eq!(wire["info"]["reason"], reason, "{wire}");
    assert_eq!(wire["info"]["plugin"], "P", "{wire}");
}
