//! Workers of a log consumer, and calls that manage it.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::MASTER_KEY;
use crate::support::socket::{Incoming, Socket};

pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A worker of a consumer.
pub struct Worker(pub Socket);

impl Worker {
    pub fn connect(address: &str, consumer: &str, window: usize) -> Self {
        Self::greeted(address, consumer, window).0
    }

    /// Connects; also returns the server's first message.
    pub fn greeted(address: &str, consumer: &str, window: usize) -> (Self, Json) {
        let key = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
        let mut socket = Socket::open(address, "/log", &key).unwrap();
        let hello = json!({"type": "consume", "consumer": consumer, "window": window});
        socket.send(&hello.to_string());
        let mut worker = Self(socket);
        let greeting = worker.hear(TIMEOUT).unwrap();
        assert_eq!(greeting["type"], "consuming", "{greeting}");
        assert_eq!(greeting["window"], window);
        (worker, greeting)
    }

    /// Waits for a message; `None` if none arrives in time, or at the end.
    pub fn hear(&mut self, timeout: Duration) -> Option<Json> {
        match self.0.receive(timeout) {
            Incoming::Text(text) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }

    /// Waits for an event.
    pub fn event(&mut self) -> Json {
        let message = self.hear(TIMEOUT).unwrap();
        assert_eq!(message["type"], "event", "{message}");
        message
    }

    pub fn say(&mut self, kind: &str, position: u64, more: &Json) {
        let mut message = json!({"type": kind, "position": position});
        for (name, value) in more.as_object().unwrap() {
            message[name] = value.clone();
        }
        self.0.send(&message.to_string());
    }

    pub fn ack(&mut self, event: &Json) {
        self.say("ack", position(event), &json!({}));
    }

    /// Takes and acknowledges events until its consumer, of which it is the only worker, has
    /// received everything.
    pub fn take_all(&mut self, master: &Client, consumer: &str) -> Vec<Json> {
        let mut taken = Vec::new();
        eventually("the consumer has had everything", || {
            while let Some(event) = self.hear(Duration::from_millis(5)) {
                self.ack(&event);
                taken.push(event);
            }
            has_had_all(master, consumer).then_some(())
        });
        taken
    }
}

pub fn position(message: &Json) -> u64 {
    message["event"]["position"].as_u64().unwrap()
}

pub fn stream(message: &Json) -> String {
    message["event"]["stream"].as_str().unwrap().to_owned()
}

/// Creates a consumer of changes to notes, with more options.
pub fn create(master: &Client, name: &str, more: &Json) -> Json {
    let mut body = json!({"consumer": name, "record_types": ["note"], "kinds": ["record"]});
    for (member, value) in more.as_object().unwrap() {
        body[member] = value.clone();
    }
    master.call("log:consumer:create", body).result()
}

pub fn state(master: &Client, name: &str) -> Json {
    let listed = master.call("delivery:list", json!({})).result();
    let mut listed = listed.as_array().unwrap().iter();
    let found = listed.find(|it| it["name"] == format!("log/{name}"));
    found.cloned().unwrap_or(Json::Null)
}

/// Returns whether a consumer has an answer to everything up to the log's end.
fn has_had_all(master: &Client, name: &str) -> bool {
    state(master, name)["lag"] == 0
}

/// Waits until a consumer has received everything.
pub fn await_end(master: &Client, name: &str) {
    eventually("the consumer has had everything", || {
        has_had_all(master, name).then_some(())
    });
}

/// Waits until a consumer has `num_open` open events, and fails unless `num_sent` of them are at
/// workers. It reports its state only after it has sent everything that it may.
pub fn expect_held(master: &Client, name: &str, (num_open, num_sent): (u64, u64)) {
    let state = eventually("the consumer has read so many", || {
        Some(state(master, name)).filter(|it| it["open"] == num_open)
    });
    assert_eq!(state["in_flight"], num_sent, "{state}");
}
