//! A client's pub/sub socket with marks. When a mark has arrived, everything sent before it has
//! arrived, and nothing sent after it.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::socket::{Incoming, Socket};

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// See the module.
pub(super) struct Line {
    socket: Socket,
    /// Messages that arrived before a mark and were not taken.
    heard: VecDeque<String>,
    /// A channel that only this client listens to.
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

    /// Returns whether a client may publish here. Where it may not, what was announced before waits
    /// for it.
    pub(super) fn may_publish(&self) -> bool {
        self.may_publish
    }

    pub(super) fn send(&mut self, text: &str) {
        self.socket.send(text);
    }

    pub(super) fn close(mut self) {
        self.socket.close();
    }

    /// Takes a message that arrived before a mark, if there is one.
    pub(super) fn take_heard(&mut self) -> Option<String> {
        self.heard.pop_front()
    }

    /// Takes a message that has arrived, or arrives within `timeout`.
    pub(super) fn receive(&mut self, timeout: Duration) -> Incoming {
        let heard = self.heard.pop_front();
        heard.map_or_else(|| self.socket.receive(timeout), Incoming::Text)
    }

    /// Publishes to itself and waits for that message. By then the hub has taken everything sent
    /// over this line, and everything the hub sent over it has arrived.
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
            match self.socket.receive(TIMEOUT) {
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
