//! A client's socket for pub/sub, with marks: what comes before one has come, and nothing else has.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::socket::{Incoming, Socket};

/// Longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Line {
    socket: Socket,
    /// What came before a mark and was not taken.
    heard: VecDeque<String>,
    /// A channel that only this one listens to.
    channel: String,
    num_marks: u64,
    may_publish: bool,
}

impl Line {
    pub(super) fn new(name: &str, socket: Socket, path: &str) -> Self {
        Self {
            socket,
            heard: VecDeque::new(),
            channel: format!("marks of {name}"),
            num_marks: 0,
            may_publish: !path.starts_with("/_/"),
        }
    }

    /// Whether a client may publish here. Where it may not, what was announced before waits for it.
    pub(super) fn may_publish(&self) -> bool {
        self.may_publish
    }

    pub(super) fn send(&mut self, text: &str) {
        self.socket.send(text);
    }

    pub(super) fn close(mut self) {
        self.socket.close();
    }

    /// Takes what came before a mark, if anything did.
    pub(super) fn take_heard(&mut self) -> Option<String> {
        self.heard.pop_front()
    }

    /// Takes what has come or comes within `patience`.
    pub(super) fn receive(&mut self, patience: Duration) -> Incoming {
        let heard = self.heard.pop_front();
        heard.map_or_else(|| self.socket.receive(patience), Incoming::Text)
    }

    /// Publishes to itself and waits for it: the hub has taken what was said over this line by
    /// then, and what it sent over it has come.
    pub(super) fn mark(&mut self) -> Result<(), String> {
        if self.num_marks == 0 {
            let listen = json!({"action": "sub", "channel": self.channel});
            self.socket.send(&listen.to_string());
        }
        self.num_marks += 1;
        let mark = json!({"channel": self.channel, "data": self.num_marks});
        let publish = json!({"action": "pub", "channel": self.channel, "data": self.num_marks});
        self.socket.send(&publish.to_string());
        loop {
            match self.socket.receive(PATIENCE) {
                Incoming::Text(text)
                    if serde_json::from_str::<Json>(&text).ok().as_ref() == Some(&mark) =>
                {
                    return Ok(());
                }
                Incoming::Text(text) => self.heard.push_back(text),
                other => return Err(format!("wanted a mark, found {other:?}")),
            }
        }
    }
}
