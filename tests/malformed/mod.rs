//! Malformed input to every action and every socket: the answer is always an error in the envelope
//! with a documented code, in time, and the server keeps running.
//!
//! The valid requests to start from are the examples of docs/API.md.

mod bytes;
mod cut;
mod keys;
mod mutate;
mod sockets;
mod wrong;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::docs::page::Example;
use crate::docs::play::Player;
use crate::docs::{SETTINGS, examples};
use crate::support::client::{Answer, Client, send};
use crate::support::server::{MASTER_KEY, TestServer};

/// Far more than any refusal takes, even on a busy machine.
const BOUND: Duration = Duration::from_secs(30);

/// A server on which the examples have been played, and valid requests for each action.
struct World {
    server: TestServer,
    requests: Vec<Example>,
    /// What was wrong with answers, once for each kind, with a request that shows it.
    failures: RefCell<BTreeMap<String, String>>,
}

impl World {
    fn new() -> Self {
        let server = TestServer::with(SETTINGS);
        let mut player = Player::new(&server);
        let mut requests = Vec::new();
        let mut seen = BTreeSet::new();
        for mut example in examples() {
            player.play(&example);
            let is_json = example.body.starts_with('{');
            if is_json && example.status == 200 && seen.insert(example.section.clone()) {
                example.body = player.filled(&example.body);
                let headers = example.headers.iter();
                example.headers = headers
                    .map(|(name, value)| (name.clone(), player.filled(value)))
                    .collect();
                requests.push(example);
            }
        }
        // An action without an example with a body is called with the master key and the body of
        // another.
        for action in skytrail::action::ACTIONS {
            if !seen.contains(action.name) && !action.name.is_empty() {
                requests.push(Example {
                    line: 0,
                    section: action.name.to_owned(),
                    method: "POST".to_owned(),
                    path: format!("/{}", action.name.replace(':', "/")),
                    headers: vec![("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())],
                    body: r#"{"a": "b"}"#.to_owned(),
                    status: 0,
                    answer: String::new(),
                });
            }
        }
        Self {
            server,
            requests,
            failures: RefCell::default(),
        }
    }

    /// Sends a request with another body, and records an answer that is not allowed.
    fn ask(&self, request: &Example, body: &[u8]) -> Answer {
        let url = format!("{}{}", self.server.base_url, request.path);
        let begun = Instant::now();
        let answer = send(&request.method, &url, &request.headers, Some(body.to_vec()));
        let shown = String::from_utf8_lossy(&body[..body.len().min(2000)]);
        let about = format!("{} {shown}", request.path);
        let answer = answer.unwrap_or_else(|error| panic!("{about}: no answer: {error}"));
        assert!(
            begun.elapsed() < BOUND,
            "{about}: after {:?}",
            begun.elapsed()
        );
        if let Err(why) = check(&answer) {
            self.failures.borrow_mut().entry(why).or_insert(about);
        }
        answer
    }

    /// Fails unless every answer was an allowed one, every part of the server is alive and nothing
    /// panicked.
    fn assert_well(&self) {
        let failures = self.failures.borrow();
        let lines = failures
            .iter()
            .map(|(why, about)| format!("{why}\n    {about}\n"));
        assert!(failures.is_empty(), "{}", lines.collect::<String>());
        let health = Client::master(&self.server).call("_status:healthz", json!({}));
        assert_eq!(health.status, 200);
        let headers = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
        let url = format!("{}/_/health", self.server.base_url);
        let parts = send("GET", &url, &headers, None).unwrap().json();
        assert_eq!(parts["status"], "OK", "{parts}");
        let output = self.server.output();
        let panic = output.lines().find(|line| line.contains("panic"));
        assert!(panic.is_none(), "{panic:?}");
    }
}

/// Fails for an answer that is neither a result nor a documented error.
fn check(answer: &Answer) -> Result<(), String> {
    let body: Json = serde_json::from_slice(&answer.bytes)
        .map_err(|_| format!("{}: no JSON: {:?}", answer.status, answer.bytes))?;
    if answer.status == 200 {
        if !body.is_object() || body.get("error").is_some() {
            return Err(format!("200: {body}"));
        }
        let items = body["result"].as_array().into_iter().flatten();
        for item in items.filter(|item| item["_type"] == "error" || item["type"] == "error") {
            let error = if item["code"].is_null() {
                &item["data"]
            } else {
                item
            };
            check_error(error)?;
        }
        return Ok(());
    }
    if answer.status < 400 {
        return Err(format!("{}: {body}", answer.status));
    }
    check_error(&body["error"])
}

/// Unexpected errors (10000) that v1's protocol has for requests that are just wrong, by a part of
/// the message.
const KNOWN_UNEXPECTED: &[&str] = &[
    "limit must not be negative",
    "db.save: got empty record id",
    "failed to fetch user id = ",
    "unexpected key ",
    "cannot sort by ",
    "cannot be compared",
    "cannot use \"in\" operator to compare the specified values",
    "distance takes a plain field",
    "skydb: AuthInfo ID not found",
    "Unable to send push notification because",
];

fn check_error(error: &Json) -> Result<(), String> {
    let code = error["code"].as_i64().unwrap_or_default();
    let message = error["message"].as_str().unwrap_or_default();
    let is_known = KNOWN_UNEXPECTED.iter().any(|known| message.contains(known));
    let is_documented = (101..=129).contains(&code) || is_known;
    if is_documented && !message.is_empty() && error["name"].is_string() {
        Ok(())
    } else {
        Err(error.to_string())
    }
}
