//! A client of live queries that keeps the result up to date from the events it receives.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;
use crate::support::socket::{Incoming, Socket};

/// Longer than anything here should take.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The state of a subscription.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    pub records: BTreeMap<String, Json>,
    /// The new result after the start or a reset, until it is complete.
    arriving: Option<BTreeMap<String, Json>>,
    pub position: Option<u64>,
    pub timeline: Option<Json>,
    pub num_ready: u64,
    pub num_resets: u64,
    pub error: Option<Json>,
    pub has_ended: bool,
    /// It has resumed and not yet received everything that it missed. Until then a record may leave
    /// that it never had.
    is_returning: bool,
    /// The connection was lost while returning. A record that became readable again was not
    /// announced then, so it may change without having entered.
    was_cut: bool,
    /// The names of the events, in order.
    pub events: Vec<String>,
    /// Everything received over all connections, shown when a check fails.
    pub heard: Vec<String>,
}

impl Followed {
    /// Continues after a disconnect.
    pub fn resumed(&self) -> Self {
        let mut resumed = Self {
            arriving: None,
            is_returning: true,
            was_cut: self.is_returning,
            ..self.clone()
        };
        resumed.heard.push(format!("back from {:?}", self.position));
        resumed
    }

    /// Whether it has resumed and not yet received everything that it missed.
    pub fn is_returning(&self) -> bool {
        self.is_returning
    }

    /// Fails with all events that led to it.
    fn expect(&self, is_so: bool, what: &str) {
        assert!(is_so, "{what}; it was told\n{}", self.heard.join("\n"));
    }

    pub fn take(&mut self, frame: &Json) {
        let event = frame["event"].as_str().unwrap();
        self.events.push(event.to_owned());
        self.heard.push(frame.to_string());
        let record = &frame["record"];
        let id = || record["_id"].as_str().unwrap().to_owned();
        match event {
            "result" => {
                let arriving = self.arriving.get_or_insert_default();
                for record in frame["records"].as_array().unwrap() {
                    arriving.insert(record["_id"].as_str().unwrap().to_owned(), record.clone());
                }
            }
            "ready" => {
                if let Some(arrived) = self.arriving.take() {
                    self.records = arrived;
                }
                self.num_ready += 1;
                (self.is_returning, self.was_cut) = (false, false);
                self.timeline = Some(frame["timeline"].clone());
            }
            "enter" => {
                let before = self.records.insert(id(), record.clone());
                self.expect(before.is_none(), "entered twice");
            }
            "change" => {
                let before = self.records.insert(id(), record.clone());
                self.expect(
                    before.is_some() || self.was_cut,
                    "changed and never entered",
                );
            }
            "leave" => {
                assert_eq!(record.as_object().unwrap().len(), 2, "{frame}");
                let before = self.records.remove(&id());
                self.expect(
                    before.is_some() || self.is_returning,
                    "left and never entered",
                );
            }
            "reset" => {
                self.num_resets += 1;
                self.arriving = Some(BTreeMap::new());
                self.position = None;
            }
            "error" => self.error = Some(frame["error"].clone()),
            "end" => self.has_ended = true,
            other => panic!("unknown event {other}: {frame}"),
        }
        if let Some(position) = frame["position"].as_u64() {
            let is_later = self.position.is_none_or(|before| before <= position);
            self.expect(is_later, "backwards");
            self.position = Some(position);
        }
    }
}

/// A socket with subscriptions.
pub struct Listener {
    pub socket: Socket,
    pub followed: BTreeMap<String, Followed>,
    pub is_closed: bool,
}

impl Listener {
    pub fn open(server: &TestServer, client: &Client) -> Self {
        Self::try_open(server, client).unwrap_or_else(|refused| panic!("{refused:?}"))
    }

    pub fn try_open(server: &TestServer, client: &Client) -> Result<Self, (u16, Json)> {
        let mut headers = vec![("X-Skygear-API-Key".to_owned(), client.key().to_owned())];
        if let Some(token) = &client.token {
            headers.push(("X-Skygear-Access-Token".to_owned(), token.clone()));
        }
        let opened = Socket::open(server.address(), "/live", &headers);
        let socket = opened.map_err(|(status, body)| {
            (status, serde_json::from_slice(&body).unwrap_or_default())
        })?;
        Ok(Self {
            socket,
            followed: BTreeMap::new(),
            is_closed: false,
        })
    }

    /// Subscribes and waits until everything up to now was received.
    pub fn subscribe(&mut self, name: &str, query: Json) -> &Followed {
        self.ask(name, query);
        let ready = self.followed[name].num_ready;
        self.until(name, |followed| followed.num_ready > ready);
        &self.followed[name]
    }

    /// Sends a subscription; continues from what is known under that name.
    pub fn ask(&mut self, name: &str, query: Json) {
        let mut frame: Map<String, Json> = query.as_object().unwrap().clone();
        frame.insert("action".into(), "live:subscribe".into());
        frame.insert("id".into(), name.into());
        self.followed.entry(name.to_owned()).or_default();
        self.socket.send(&Json::Object(frame).to_string());
    }

    pub fn unsubscribe(&mut self, name: &str) {
        let frame = json!({"action": "live:unsubscribe", "id": name});
        self.socket.send(&frame.to_string());
        self.until(name, |followed| followed.has_ended);
    }

    /// Takes the next frame; `None` if none arrives in time or the socket is closed.
    pub fn next(&mut self, timeout: Duration) -> Option<Json> {
        match self.socket.receive(timeout) {
            Incoming::Text(text) => {
                let frame: Json = serde_json::from_str(&text).unwrap();
                if let Some(name) = frame["id"].as_str() {
                    let followed = self.followed.entry(name.to_owned()).or_default();
                    followed.take(&frame);
                }
                Some(frame)
            }
            Incoming::Closed => {
                self.is_closed = true;
                None
            }
            Incoming::Nothing => None,
        }
    }

    /// Takes frames until a subscription is as wanted.
    pub fn until(&mut self, name: &str, is_there: impl Fn(&Followed) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_there(&self.followed[name]) {
            let left = deadline.saturating_duration_since(Instant::now());
            let said = self.next(left);
            assert!(
                said.is_some(),
                "{name}: closed: {}, so far {:?}",
                self.is_closed,
                self.followed[name]
            );
        }
    }

    /// Takes frames until the socket is closed.
    pub fn until_closed(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.is_closed {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the socket stays open");
            self.next(left);
        }
    }
}
