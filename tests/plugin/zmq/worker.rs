//! A worker with its own ZMTP implementation, controlled by the test.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::eventually;

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(30);

pub const READY: u8 = 1;
pub const HEARTBEAT: u8 = 2;
pub const SHUTDOWN: u8 = 3;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;

/// How often a worker sends a heartbeat: the server gives up an idle one that is silent for three
/// seconds.
const BEAT: Duration = Duration::from_millis(500);

/// The events of a registration.
const INITIALISED: [&str; 3] = ["before-config", "init", "after-config"];

/// A DEALER's connection.
pub struct Worker {
    stream: BufReader<UnixStream>,
    link: Arc<Mutex<Link>>,
    identity: String,
}

/// The side that is written to, by the worker and by the thread of its heartbeats.
struct Link {
    stream: UnixStream,
    beats: bool,
    /// How many bytes of a message that has begun are missing.
    num_owed: u64,
}

impl Link {
    /// Writes bytes; the server may have hung up.
    fn write(&mut self, bytes: &[u8]) {
        self.num_owed = self.num_owed.saturating_sub(bytes.len() as u64);
        let _ = self.stream.write_all(bytes);
    }

    /// Sends a heartbeat, unless it would be in the middle of a message.
    fn beat(&mut self) {
        if self.beats && self.num_owed == 0 {
            self.write(&message(&[&[HEARTBEAT]]));
        }
    }
}

/// Sends heartbeats until the worker is gone, whatever the test does meanwhile.
fn keep_beating(link: &Weak<Mutex<Link>>) {
    loop {
        std::thread::park_timeout(BEAT);
        let Some(link) = link.upgrade() else { return };
        link.lock().unwrap().beat();
    }
}

/// What a worker sees.
#[derive(Debug)]
pub enum Seen {
    Heartbeat,
    Request(Envelope),
    Reply(Envelope),
    /// The connection ended.
    Lost,
    /// Nothing in time.
    Nothing,
}

/// A message.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub bounce: u32,
    pub id: String,
    pub text: String,
    pub body: Json,
}

impl Worker {
    /// Connects and shakes hands; sends no messages yet.
    pub fn connect(path: &Path, identity: &str) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let link = Link {
            stream: stream.try_clone().unwrap(),
            beats: true,
            num_owed: 0,
        };
        let mut worker = Self {
            stream: BufReader::new(stream),
            link: Arc::new(Mutex::new(link)),
            identity: identity.to_owned(),
        };
        let mut greeting = [0; 64];
        greeting[0] = 0xff;
        greeting[9] = 0x7f;
        greeting[10] = 3;
        greeting[12..16].copy_from_slice(b"NULL");
        worker.write(&greeting);
        worker.stream.read_exact(&mut [0; 64]).unwrap();
        let mut command = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity".to_vec();
        command.extend(u32::try_from(identity.len()).unwrap().to_be_bytes());
        command.extend(identity.as_bytes());
        let length = u8::try_from(command.len()).unwrap();
        worker.write(&[&[4, length], command.as_slice()].concat());
        // The server's READY.
        assert_eq!(worker.read_frame().unwrap().0, 4);
        let link = Arc::downgrade(&worker.link);
        std::thread::spawn(move || keep_beating(&link));
        worker
    }

    /// Sets whether it sends heartbeats, as runtimes do.
    pub fn set_beats(&self, beats: bool) {
        self.link.lock().unwrap().beats = beats;
    }

    /// Connects and is ready for requests.
    pub fn ready(path: &Path, identity: &str) -> Self {
        let mut worker = Self::connect(path, identity);
        worker.signal(READY);
        worker
    }

    /// Sends raw bytes; the server may have hung up.
    pub fn write(&mut self, bytes: &[u8]) {
        self.link.lock().unwrap().write(bytes);
    }

    pub fn signal(&mut self, signal: u8) {
        self.send(&[&[signal]]);
    }

    /// Sends frames.
    pub fn send(&mut self, frames: &[&[u8]]) {
        self.write(&message(frames));
    }

    fn send_message(&mut self, kind: u8, bounce: u32, id: &str, body: &str) {
        let bytes = self.message(kind, bounce, id, body);
        self.write(&bytes);
    }

    fn message(&self, kind: u8, bounce: u32, id: &str, body: &str) -> Vec<u8> {
        let identity = self.identity.clone();
        let bounce = bounce.to_string();
        let frames = [
            identity.as_bytes(),
            b"",
            &[kind],
            bounce.as_bytes(),
            id.as_bytes(),
            b"",
        ];
        message(&[frames.as_slice(), &[body.as_bytes()]].concat())
    }

    /// Answers a request with any text.
    pub fn answer_text(&mut self, request: &Envelope, text: &str) {
        self.send_message(RESPONSE, request.bounce, &request.id, text);
    }

    /// Sends an answer except for its body, whose length is announced.
    pub fn begin_answer(&mut self, request: &Envelope, length: u64) {
        let bounce = request.bounce.to_string();
        let frames = [
            b"".as_slice(),
            b"",
            &[RESPONSE],
            bounce.as_bytes(),
            request.id.as_bytes(),
            b"",
        ];
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend([1, u8::try_from(frame.len()).unwrap()]);
            bytes.extend(frame);
        }
        bytes.push(2);
        bytes.extend(length.to_be_bytes());
        let mut link = self.link.lock().unwrap();
        link.write(&bytes);
        link.num_owed = length;
    }

    pub fn answer(&mut self, request: &Envelope, result: &Json) {
        self.answer_text(request, &json!({"result": result}).to_string());
    }

    pub fn refuse(&mut self, request: &Envelope, error: &Json) {
        self.answer_text(request, &json!({"error": error}).to_string());
    }

    /// Answers a hook with the record of its request, changed.
    pub fn answer_record(&mut self, request: &Envelope, changes: &Json) {
        let mut record = request.body["param"]["record"].clone();
        for (name, value) in changes.as_object().unwrap() {
            record[name] = value.clone();
        }
        self.answer(request, &record);
    }

    /// Calls an action during a request.
    pub fn call(&mut self, request: &Envelope, payload: &Json) {
        let body = json!({"method": "POST", "payload": payload}).to_string();
        self.send_message(REQUEST, request.bounce + 1, &request.id, &body);
    }

    /// Calls an action outside of any request.
    pub fn call_alone(&mut self, id: &str, payload: &Json) {
        let body = json!({"method": "POST", "payload": payload}).to_string();
        self.send_message(REQUEST, 0, id, &body);
    }

    /// Makes many calls outside of any request, all in one write.
    pub fn call_many_alone(&mut self, ids: &[String], payload: &Json) {
        let body = json!({"method": "POST", "payload": payload}).to_string();
        let calls = ids.iter().map(|id| self.message(REQUEST, 0, id, &body));
        let bytes: Vec<u8> = calls.flatten().collect();
        self.write(&bytes);
    }

    /// Calls with a body as it is.
    pub fn call_text(&mut self, bounce: u32, id: &str, body: &str) {
        self.send_message(REQUEST, bounce, id, body);
    }

    /// Waits for any message, except events of changed types, which can arrive at any time.
    pub fn next(&mut self, timeout: Duration) -> Seen {
        let deadline = Instant::now() + timeout;
        loop {
            match self.next_of_all(deadline.saturating_duration_since(Instant::now())) {
                Seen::Request(news) if is_news(&news) => self.answer(&news, &Json::Null),
                seen => return seen,
            }
        }
    }

    fn next_of_all(&mut self, timeout: Duration) -> Seen {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Seen::Nothing;
            }
            if !self.has_bytes(left.min(Duration::from_millis(200))) {
                continue;
            }
            return self.read_message().map_or(Seen::Lost, understand);
        }
    }

    /// Returns whether there is something to read, including the end.
    fn has_bytes(&mut self, timeout: Duration) -> bool {
        use std::io::BufRead as _;
        self.stream
            .get_ref()
            .set_read_timeout(Some(timeout))
            .unwrap();
        let is_there = self.stream.fill_buf().is_ok();
        self.stream
            .get_ref()
            .set_read_timeout(Some(TIMEOUT))
            .unwrap();
        is_there
    }

    fn read_message(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let (flags, frame) = self.read_frame()?;
            frames.push(frame);
            if flags & 1 == 0 {
                return Some(frames);
            }
        }
    }

    fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut flags = [0];
        self.stream.read_exact(&mut flags).ok()?;
        let length = if flags[0] & 2 == 0 {
            let mut length = [0];
            self.stream.read_exact(&mut length).ok()?;
            usize::from(length[0])
        } else {
            let mut length = [0; 8];
            self.stream.read_exact(&mut length).ok()?;
            usize::try_from(u64::from_be_bytes(length)).unwrap()
        };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((flags[0], body))
    }

    /// Waits for a request of a point; heartbeats may arrive before it.
    pub fn expect_request(&mut self, name: &str) -> Envelope {
        match self.next_but_beats() {
            Seen::Request(request) if request.body["name"] == name => request,
            other => panic!("expected {name}, saw {other:?}"),
        }
    }

    /// Waits for the reply to its call.
    pub fn expect_reply(&mut self) -> Envelope {
        match self.next_but_beats() {
            Seen::Reply(reply) => reply,
            other => panic!("expected a reply, saw {other:?}"),
        }
    }

    fn next_but_beats(&mut self) -> Seen {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())) {
                Seen::Heartbeat => {}
                other => return other,
            }
        }
    }

    /// Waits until the server considers it idle.
    pub fn expect_beat(&mut self) {
        match self.next(TIMEOUT) {
            Seen::Heartbeat => {}
            other => panic!("expected a heartbeat, saw {other:?}"),
        }
    }

    /// Waits for the end of the connection.
    pub fn expect_end(&mut self) {
        self.set_beats(false);
        match self.next_but_beats() {
            Seen::Lost => {}
            other => panic!("expected the end, saw {other:?}"),
        }
    }

    /// Fails if the server has sent it a request. No timeout can prove that nothing arrives: the
    /// reply to a call of its own follows everything that was sent to it before.
    pub fn expect_nothing(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        self.call_alone("MARK", &json!({"action": "schema:fetch"}));
        loop {
            match self.next_of_all(deadline.saturating_duration_since(Instant::now())) {
                Seen::Reply(reply) if reply.id == "MARK" => return,
                Seen::Heartbeat | Seen::Reply(_) => {}
                Seen::Request(news) if is_news(&news) => self.answer(&news, &Json::Null),
                other => panic!("expected nothing, saw {other:?}"),
            }
        }
    }

    /// Waits for a while, and must see no request. For things that have no order with anything that
    /// this worker could see.
    pub fn expect_peace(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            match self.next(left) {
                Seen::Heartbeat | Seen::Nothing => {}
                other => panic!("expected nothing, saw {other:?}"),
            }
        }
    }

    pub fn serve_event(&mut self, name: &str) -> Envelope {
        let event = self.expect_request(name);
        assert_eq!(event.body["kind"], "event");
        self.answer(&event, &Json::Null);
        event
    }

    /// Registers, and is made ready as the server's only plugin.
    pub fn register(&mut self, points: &Json) {
        let prepared = [
            "before-plugins-ready",
            "after-plugins-ready",
            "server-ready",
        ];
        self.serve_events(&[INITIALISED.as_slice(), &prepared].concat(), points);
    }

    /// Registers.
    pub fn initialise(&mut self, points: &Json) {
        self.serve_events(&INITIALISED, points);
    }

    /// Receives events in their order. On a busy machine the test may be silent for so long that
    /// the server gives its worker up; then everything starts again.
    fn serve_events(&mut self, names: &[&str], points: &Json) {
        let mut left = names.iter();
        while left.len() > 0 {
            let event = match self.next_but_beats() {
                Seen::Request(event) => event,
                other => panic!("expected an event, saw {other:?}"),
            };
            if event.body["name"] == names[0] {
                left = names.iter();
            }
            let name = left.next().unwrap();
            assert_eq!(event.body["name"], *name);
            let is_init = *name == "init";
            self.answer(&event, if is_init { points } else { &Json::Null });
        }
    }

    /// Dies as a killed process does.
    pub fn die(self) {
        let stream = self.stream.get_ref();
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn is_news(request: &Envelope) -> bool {
    request.body["name"] == "schema-changed"
}

/// Returns the bytes of a message.
fn message(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, frame) in frames.iter().enumerate() {
        let more = u8::from(index + 1 < frames.len());
        bytes.push(more | 2);
        bytes.extend(u64::try_from(frame.len()).unwrap().to_be_bytes());
        bytes.extend(*frame);
    }
    bytes
}

fn understand(frames: Vec<Vec<u8>>) -> Seen {
    let text = |frame: &Vec<u8>| String::from_utf8(frame.clone()).unwrap();
    match frames.as_slice() {
        [signal] if signal.as_slice() == [HEARTBEAT] => Seen::Heartbeat,
        [_, empty, kind, bounce, id, also_empty, body] => {
            assert!(empty.is_empty() && also_empty.is_empty());
            let envelope = Envelope {
                bounce: text(bounce).parse().unwrap(),
                id: text(id),
                text: text(body),
                body: serde_json::from_slice(body).unwrap(),
            };
            match kind.as_slice() {
                [REQUEST] => Seen::Request(envelope),
                [RESPONSE] => Seen::Reply(envelope),
                other => panic!("kind {other:?}"),
            }
        }
        other => panic!("frames {other:?}"),
    }
}

/// Waits until the server listens on the socket.
pub fn await_listener(path: &Path) {
    eventually("the server listens for workers", || {
        UnixStream::connect(path).ok().map(drop)
    });
}
