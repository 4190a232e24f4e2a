//! What v1 sent to a plugin and did with its answers, compared with this server.
//!
//! The transcripts were recorded over v1's http transport, and are played over http and over the
//! WebSocket. Over the WebSocket, steps are left out in which the plugin answers with something
//! other than an envelope, or hangs up: `failures` tests those there.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value as Json, json};
use skytrail_schema::time::Timestamp;

use super::http_plugin::{HttpPlugin, Reaction};
use super::worker::Worker;
use super::{http, server};
use crate::golden::matching::{Variables, compare};
use crate::golden::runner::{self, Difference, Scenario, Witness};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// A request that the plugin is to receive, and its answer.
#[derive(Clone, Debug, Deserialize)]
struct Exchange {
    expect: Json,
    reply: Reply,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Reply {
    json: Option<Json>,
    record: Option<RecordReply>,
    /// A body that is not an envelope.
    text: Option<String>,
    /// The HTTP status, which is ignored.
    status: Option<u16>,
    /// The connection ends without an answer.
    #[serde(default)]
    close: bool,
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct RecordReply {
    #[serde(default)]
    merge: serde_json::Map<String, Json>,
    #[serde(default)]
    remove: Vec<String>,
}

impl Reply {
    /// Returns the envelope that answers a request.
    fn envelope(&self, request: &Json) -> Json {
        let Some(record) = &self.record else {
            return self.json.clone().unwrap_or(json!({"result": null}));
        };
        let mut answer = request["param"]["record"].clone();
        let fields = answer.as_object_mut().unwrap();
        for name in &record.remove {
            fields.remove(name);
        }
        fields.extend(record.merge.clone());
        json!({"result": answer})
    }
}

/// What the plugin is to do in the current step, and what it was asked.
#[derive(Default)]
struct Script {
    exchanges: Vec<Exchange>,
    is_played: Vec<bool>,
    seen: Vec<Json>,
    /// The hook requests of all steps so far, as JSON strings.
    hooks: HashSet<String>,
}

impl Script {
    /// Records a request and returns the answer to it.
    fn take(&mut self, request: &Json) -> Reply {
        // The plugin also has a timer, which may run at any time.
        if request["kind"] == "timer" {
            return Reply::default();
        }
        let envelope = envelope(request);
        // A failed hook is delivered again, which v1 never did.
        if request["kind"] == "hook" && !self.hooks.insert(envelope.to_string()) {
            return Reply::default();
        }
        self.seen.push(envelope);
        let mut left = self.exchanges.iter().zip(&mut self.is_played);
        let is_meant =
            |expect: &Json| expect["kind"] == request["kind"] && expect["name"] == request["name"];
        match left.find(|(exchange, is_played)| !**is_played && is_meant(&exchange.expect)) {
            Some((exchange, is_played)) => {
                *is_played = true;
                exchange.reply.clone()
            }
            None => Reply::default(),
        }
    }
}

/// Returns the part of a request that v1's envelope has.
fn envelope(request: &Json) -> Json {
    let members = ["kind", "name", "param", "context"];
    let members = members
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), request.get(name)?.clone())));
    Json::Object(members.collect())
}

/// The plugin, as a witness of the scenario.
struct Plugin {
    script: Arc<Mutex<Script>>,
    way: Way,
}

/// How the plugin is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Socket,
    Http,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Http => "http",
        }
    }
}

impl Witness for Plugin {
    fn before(&mut self, step: &Json, ours: Option<&Json>) -> bool {
        let exchanges = ours
            .and_then(|ours| ours.get("plugin"))
            .or(step.get("plugin"));
        let exchanges = exchanges.cloned().unwrap_or(json!([]));
        let replies = exchanges.as_array().unwrap().iter().map(|it| &it["reply"]);
        let is_of_http = |reply: &Json| {
            ["text", "close", "status"]
                .iter()
                .any(|member| reply.get(*member).is_some())
        };
        if self.way == Way::Socket && replies.clone().any(is_of_http) {
            return false;
        }
        let exchanges: Vec<Exchange> = serde_json::from_value(exchanges).unwrap();
        let mut script = self.script.lock().unwrap();
        script.is_played = vec![false; exchanges.len()];
        script.exchanges = exchanges;
        script.seen.clear();
        true
    }

    fn after(&mut self, variables: &Variables) -> Result<(), String> {
        // Asynchronous hooks and events arrive at any time; missing ones show as differences below.
        let deadline = Instant::now() + Duration::from_secs(20);
        eventually("the plugin was asked", || {
            let script = self.script.lock().unwrap();
            let is_over = script.is_played.iter().all(|it| *it) || Instant::now() >= deadline;
            is_over.then_some(())
        });
        let script = self.script.lock().unwrap();
        let mut seen = script.seen.clone();
        let mut wrong = Vec::new();
        for exchange in &script.exchanges {
            let differences_of = |found: &Json| {
                let mut differences = Vec::new();
                compare(
                    &exchange.expect,
                    found,
                    "asked",
                    variables,
                    &mut differences,
                );
                differences
            };
            match seen
                .iter()
                .position(|found| differences_of(found).is_empty())
            {
                Some(index) => drop(seen.remove(index)),
                None => {
                    let name = exchange.expect["name"].clone();
                    let near = seen.iter().find(|found| found["name"] == name);
                    let why = near.map_or(vec!["never".to_owned()], differences_of);
                    wrong.push(format!("{name}: {}", why.join("; ")));
                }
            }
        }
        if self.way == Way::Http {
            // A plugin that hung up is initialised again, and is sent the types again.
            seen.retain(|extra| extra["name"] != "schema-changed");
        }
        wrong.extend(seen.iter().map(|extra| format!("not expected: {extra}")));
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.join("\n    "))
        }
    }
}

fn react(script: &Mutex<Script>, worker: &mut Worker, message: &Json) {
    if message["type"] != "request" {
        return;
    }
    let reply = script.lock().unwrap().take(message);
    std::thread::park_timeout(Duration::from_millis(reply.delay_ms));
    let mut response = reply.envelope(message);
    response["type"] = json!("response");
    response["id"] = message["id"].clone();
    worker.send(response);
}

fn react_to_post(script: &Mutex<Script>, points: &Json, request: &Json) -> Reaction {
    match (request["kind"].as_str(), request["name"].as_str()) {
        (Some("event"), Some("init")) => return Reaction::result(points.clone()),
        // A plugin that hung up is initialised again.
        (Some("event"), Some(name)) if name != "schema-changed" => {
            return Reaction::result(Json::Null);
        }
        _ => {}
    }
    let reply = script.lock().unwrap().take(request);
    std::thread::park_timeout(Duration::from_millis(reply.delay_ms));
    if reply.close {
        return Reaction::HangUp;
    }
    let text = reply.text.clone();
    let text = text.unwrap_or_else(|| reply.envelope(request).to_string());
    Reaction::Text(reply.status.unwrap_or(200), text)
}

/// Plays a file over both transports.
fn replay(file: &str, text: &str) {
    let recorded: Json =
        serde_json::from_str(include_str!("../golden/plugin/registration.json")).unwrap();
    let points = recorded["registration"].clone();
    let secret = ("CUSTOM_TOKEN_SECRET", "ssosecret");
    let script = Arc::new(Mutex::new(Script::default()));

    let server = server(&[secret]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    worker.hears_of_schema = true;
    let asked = Arc::clone(&script);
    let _serving = worker.serve(move |worker, message| react(&asked, worker, message));
    replay_over(Way::Socket, (file, text), &server, &script);

    let script = Arc::new(Mutex::new(Script::default()));
    let asked = Arc::clone(&script);
    let react = move |request: &Json| react_to_post(&asked, &points, request);
    let plugin = HttpPlugin::start_raw("127.0.0.1:0", react);
    let server = http::server(&plugin, &[secret]);
    http::ready(&server);
    eventually("the start is over", || {
        plugin
            .names("event")
            .contains(&"server-ready".to_owned())
            .then_some(())
    });
    replay_over(Way::Http, (file, text), &server, &script);
}

fn replay_over(
    way: Way,
    (file, text): (&str, &str),
    server: &TestServer,
    script: &Arc<Mutex<Script>>,
) {
    let scenarios: Vec<Scenario> = serde_json::from_str(text).unwrap();
    let differences: Vec<Difference> =
        serde_json::from_str(include_str!("../golden/plugin/differences.json")).unwrap();
    let mut failures = Vec::new();
    let scenarios: Vec<_> = scenarios
        .into_iter()
        .filter(|it| !it.transcript_only)
        .collect();
    let total = scenarios.len();
    for scenario in scenarios {
        let name = scenario.name.clone();
        let difference = differences.iter().find(|it| {
            let is_here = it.over.as_deref().is_none_or(|over| over == way.name());
            it.scenario == name && is_here
        });
        let mut plugin = Plugin {
            script: Arc::clone(script),
            way,
        };
        if let Err(why) = runner::run_witnessed(&scenario, difference, server, &mut plugin) {
            failures.push(format!("{name}: {why}"));
        }
    }
    let passed = total - failures.len();
    println!(
        "{file} over {}: {passed} of {total} scenarios passed",
        way.name()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn v1s_hooks() {
    replay("hook", include_str!("../golden/plugin/hook.json"));
}

#[test]
fn v1s_lambdas() {
    replay("op", include_str!("../golden/plugin/op.json"));
}

#[test]
fn v1s_handlers() {
    replay("handler", include_str!("../golden/plugin/handler.json"));
}

#[test]
fn v1s_providers() {
    replay("provider", include_str!("../golden/plugin/provider.json"));
}

/// Returns when the run that the only task is in was due, in microseconds.
fn due_of_running(server: &TestServer) -> Option<i64> {
    let listed = Client::master(server).call("task:list", json!({})).result();
    let run = listed["tasks"][0]["last_run"].clone();
    let due = Timestamp::parse(run["due"].as_str()?).unwrap();
    (run["outcome"] == "running").then(|| due.micros())
}

#[test]
fn v1s_timer() {
    let recorded: Json =
        serde_json::from_str(include_str!("../golden/plugin/registration.json")).unwrap();
    let all = include_str!("../golden/plugin/timer_and_event.json");
    let scenarios: Vec<Json> = serde_json::from_str(all).unwrap();
    let ticking = scenarios.iter().find(|it| it["name"] == "timer-tick");
    let step = &ticking.unwrap()["steps"][0];
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &recorded["registration"]);
    let mut dues = Vec::new();
    for exchange in step["plugin"].as_array().unwrap() {
        let tick = worker.expect_request("plug_timer");
        dues.push(eventually("the run is listed", || due_of_running(&server)));
        let mut differences = Vec::new();
        let (expect, variables) = (&exchange["expect"], Variables::default());
        compare(
            expect,
            &envelope(&tick),
            "asked",
            &variables,
            &mut differences,
        );
        assert!(differences.is_empty(), "{differences:?}");
        worker.answer(&tick, &exchange["reply"]["json"]["result"]);
    }
    // When a tick arrives depends on how busy the machine is; a whole turn may be missed.
    let between = dues[1] - dues[0];
    let expected = (step["seconds_between"].as_f64().unwrap() * 1e6) as i64;
    assert!(between > 0 && between % expected == 0, "{dues:?}");
}

#[test]
fn v1s_events() {
    replay(
        "timer_and_event",
        include_str!("../golden/plugin/timer_and_event.json"),
    );
}
