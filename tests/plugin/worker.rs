//! A plugin's worker over a real socket, controlled by the test.

use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::HandshakeError;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket, client};

use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The status and body of a refused connection.
pub type Refused = (u16, Json);

/// A worker of plugin `TEST`, unless it greets as one of another.
pub struct Worker {
    pub plugin: String,
    socket: WebSocket<TcpStream>,
    seq: u64,
    /// The highest number that it has received.
    received: u64,
    /// Messages that it has sent and that were not acknowledged.
    sent: Vec<(u64, String)>,
    /// Its session and the secret.
    claim: Json,
    /// Whether the test wants to see `schema-changed`, which can arrive at any time.
    pub hears_of_schema: bool,
}

/// What a worker sees.
#[derive(Debug)]
pub enum Seen {
    Message(Json),
    Close(u16),
    /// The connection ended without a close frame.
    Lost,
    /// Nothing in time.
    Nothing,
}

impl Worker {
    /// Opens a connection with the headers of a plugin, and more.
    pub fn open(server: &TestServer, path: &str, more: &[(&str, &str)]) -> Result<Self, Refused> {
        let url = format!("ws://{}{path}", server.address());
        let mut request = url.into_client_request().unwrap();
        for (name, value) in more {
            let name: HeaderName = name.parse().unwrap();
            let value = HeaderValue::from_str(value).unwrap();
            request.headers_mut().insert(name, value);
        }
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        match client(request, stream) {
            Ok((socket, _)) => Ok(Self {
                plugin: "TEST".to_owned(),
                socket,
                seq: 0,
                received: 0,
                sent: Vec::new(),
                claim: Json::Null,
                hears_of_schema: false,
            }),
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                Err((status, serde_json::from_slice(&body).unwrap_or_default()))
            }
            Err(other) => panic!("handshake: {other}"),
        }
    }

    /// Opens a connection as a plugin.
    pub fn connect(server: &TestServer) -> Self {
        let headers = [
            ("X-Skygear-API-Key", MASTER_KEY),
            ("Sec-WebSocket-Protocol", "skygear.plugin.v1"),
        ];
        Self::open(server, "/_/plugin", &headers).unwrap()
    }

    /// Connects and says hello.
    pub fn greet(server: &TestServer, more: &Json) -> Self {
        let mut worker = Self::connect(server);
        let mut hello = json!({"type": "hello", "plugin": "TEST", "worker": "test"});
        for (name, value) in more.as_object().unwrap() {
            hello[name] = value.clone();
        }
        worker.plugin = hello["plugin"].as_str().unwrap().to_owned();
        worker.send(hello);
        let welcome = worker.expect("welcome");
        worker.claim = json!({"session": welcome["session"], "secret": welcome["secret"]});
        worker
    }

    /// Reconnects and claims its session; returns whether the session continues. If so, sends again
    /// what the server has not received.
    pub fn come_back(&mut self, server: &TestServer) -> bool {
        let mut fresh = Self::connect(server);
        let mut claim = self.claim.clone();
        claim["received"] = json!(self.received);
        fresh.send(
            json!({"type": "hello", "plugin": "TEST", "features": ["resume"], "resume": claim}),
        );
        let welcome = fresh.expect("welcome");
        std::mem::swap(&mut self.socket, &mut fresh.socket);
        let is_resumed = welcome["resumed"] == true;
        if is_resumed {
            let received = welcome["received"].as_u64().unwrap();
            for (_, text) in self.sent.iter().filter(|(seq, _)| *seq > received) {
                self.socket.send(Message::text(text.clone())).unwrap();
            }
        } else {
            (self.seq, self.received) = (0, 0);
            self.sent.clear();
        }
        is_resumed
    }

    /// Breaks its connection; messages in flight are lost.
    pub fn break_link(&mut self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    /// Sends a message that does not arrive.
    pub fn lose(&mut self, message: Json) {
        self.numbered(message);
    }

    /// Says goodbye.
    pub fn say_goodbye(mut self) {
        let done = CloseFrame {
            code: CloseCode::Normal,
            reason: "done".into(),
        };
        self.socket.close(Some(done)).unwrap();
    }

    /// Connects, registers, and is made ready as the server's only plugin.
    pub fn ready(server: &TestServer, more: &Json, points: &Json) -> Self {
        let mut worker = Self::greet(server, more);
        worker.register(points);
        worker.serve_event("before-plugins-ready");
        worker.expect("ready");
        worker.serve_event("after-plugins-ready");
        worker.serve_event("server-ready");
        worker
    }

    /// Connects and registers again at a server that is ready.
    pub fn rejoin(server: &TestServer, points: &Json) -> Self {
        let mut worker = Self::greet(server, &json!({}));
        worker.register(points);
        worker.expect_ready();
        worker
    }

    /// Goes on until it serves: it prepares first, if no other worker serves.
    pub fn expect_ready(&mut self) {
        loop {
            match self.next(TIMEOUT) {
                Seen::Message(message) if message["type"] == "ready" => return,
                Seen::Message(message) if message["name"] == "before-plugins-ready" => {
                    self.answer(&message, &Json::Null);
                }
                other => panic!("expected to be ready, saw {other:?}"),
            }
        }
    }

    pub fn register(&mut self, points: &Json) {
        self.serve_event("before-config");
        let init = self.expect("request");
        assert_eq!(init["name"], "init");
        self.answer(&init, points);
        assert_eq!(self.expect("registered")["ok"], true);
        self.serve_event("after-config");
    }

    pub fn serve_event(&mut self, name: &str) {
        let event = self.expect("request");
        assert_eq!(event["kind"], "event");
        assert_eq!(event["name"], name);
        self.answer(&event, &Json::Null);
    }

    /// Sends a message with its number. A dead server is noticed only by what waits for an answer.
    pub fn send(&mut self, message: Json) {
        let text = self.numbered(message);
        let _ = self.socket.send(Message::text(text));
    }

    fn numbered(&mut self, mut message: Json) -> String {
        let kind = message["type"].as_str().unwrap().to_owned();
        if kind != "hello" {
            message["ack"] = json!(self.received);
        }
        if !matches!(kind.as_str(), "hello" | "ping" | "pong") {
            self.seq += 1;
            message["seq"] = json!(self.seq);
            self.sent.push((self.seq, message.to_string()));
        }
        message.to_string()
    }

    /// Sends a raw frame; the server may have hung up.
    pub fn send_raw(&mut self, message: Message) {
        let _ = self.socket.send(message);
    }

    pub fn answer(&mut self, request: &Json, result: &Json) {
        self.send(json!({"type": "response", "id": request["id"], "result": result}));
    }

    /// Answers with a result that is already JSON.
    pub fn answer_with(&mut self, request: &Json, result: &str) {
        let answer = json!({"type": "response", "id": request["id"], "result": "HERE"});
        let text = self.numbered(answer).replace("\"HERE\"", result);
        let _ = self.socket.send(Message::text(text));
    }

    pub fn refuse(&mut self, request: &Json, error: &Json) {
        self.send(json!({"type": "response", "id": request["id"], "error": error}));
    }

    /// Answers a hook with the record of its request, changed.
    pub fn answer_record(&mut self, request: &Json, changes: &Json) {
        let mut record = request["param"]["record"].clone();
        for (name, value) in changes.as_object().unwrap() {
            record[name] = value.clone();
        }
        self.answer(request, &record);
    }

    /// Waits for any message, answering pings.
    pub fn next(&mut self, timeout: Duration) -> Seen {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Seen::Nothing;
            }
            let stream = self.socket.get_ref();
            stream.set_read_timeout(Some(left)).unwrap();
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let message: Json = serde_json::from_str(&text).unwrap();
                    self.received = message["seq"].as_u64().unwrap_or(self.received);
                    let ack = message["ack"].as_u64().unwrap_or_default();
                    self.sent.retain(|(seq, _)| *seq > ack);
                    if message["type"] == "ping" {
                        self.send(json!({"type": "pong"}));
                    } else if message["name"] == "schema-changed" && !self.hears_of_schema {
                        self.answer(&message, &Json::Null);
                    } else {
                        return Seen::Message(message);
                    }
                }
                Ok(Message::Close(frame)) => {
                    return frame.map_or(Seen::Lost, |frame| Seen::Close(frame.code.into()));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if is_timeout(&error) => {}
                Err(_) => return Seen::Lost,
            }
        }
    }

    /// Waits for a message of a type; anything else fails the test.
    pub fn expect(&mut self, kind: &str) -> Json {
        match self.next(TIMEOUT) {
            Seen::Message(message) if message["type"] == kind => message,
            other => panic!("expected {kind}, saw {other:?}"),
        }
    }

    /// Waits for a request of a point.
    pub fn expect_request(&mut self, name: &str) -> Json {
        let request = self.expect("request");
        assert_eq!(request["name"], name);
        request
    }

    /// Returns what the server has asked its plugins for so far and this worker has not taken.
    ///
    /// No timeout can prove that nothing arrives, so this collects what arrives before a mark. The
    /// first pong shows that the server has received what this worker sent. The broker reports its
    /// state only after it has passed on everything it was asked for before. The second pong comes
    /// after all that.
    pub fn sent_so_far(&mut self, server: &TestServer) -> Vec<Json> {
        let mut sent = self.sent_before_pong();
        let health = Client::master(server).health();
        assert!(health["plugins"]["plugins"].is_array(), "{health}");
        sent.extend(self.sent_before_pong());
        sent
    }

    /// Pings, and returns what arrives before the pong.
    fn sent_before_pong(&mut self) -> Vec<Json> {
        self.send(json!({"type": "ping"}));
        let mut sent = Vec::new();
        loop {
            match self.next(TIMEOUT) {
                Seen::Message(message) if message["type"] == "pong" => return sent,
                Seen::Message(message) => sent.push(message),
                other => panic!("expected a pong, saw {other:?} behind {sent:?}"),
            }
        }
    }

    /// Fails if the server has asked this worker for something.
    pub fn expect_nothing(&mut self, server: &TestServer) {
        let sent = self.sent_so_far(server);
        assert!(sent.is_empty(), "{sent:?}");
    }

    /// Waits for the server's close frame, whatever arrives before.
    pub fn expect_close(&mut self) -> u16 {
        loop {
            match self.next(TIMEOUT) {
                Seen::Message(_) => {}
                Seen::Close(code) => return code,
                other => panic!("expected a goodbye, saw {other:?}"),
            }
        }
    }

    /// Dies as a killed process does.
    pub fn die(self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    /// Serves on a thread of its own until the returned value is dropped.
    pub fn serve(mut self, mut react: impl FnMut(&mut Self, &Json) + Send + 'static) -> Serving {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            while stopped.try_recv().is_err() {
                match self.next(Duration::from_millis(20)) {
                    Seen::Message(message) => {
                        react(&mut self, &message);
                    }
                    Seen::Nothing => {}
                    Seen::Close(_) | Seen::Lost => break,
                }
            }
        });
        Serving {
            stop,
            thread: Some(thread),
        }
    }
}

/// A worker on a thread of its own.
pub struct Serving {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.send(());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut)
}
