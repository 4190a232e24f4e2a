//! What v1 sent to a plugin and made of its answers, held against this server.
//!
//! The transcripts were taken over v1's http transport. Steps in which the plugin answers with
//! something that is no envelope of the socket, or hangs up, are left out: `failures` has what
//! becomes of those here.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::server;
use super::worker::Worker;
use crate::golden::matching::{Variables, compare};
use crate::golden::runner::{self, Difference, Scenario, Witness};
use crate::support::eventually;

/// A request that the plugin is to receive, and how it answers.
#[derive(Clone, Debug, Deserialize)]
struct Exchange {
    expect: Json,
    reply: Reply,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Reply {
    json: Option<Json>,
    record: Option<RecordReply>,
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

/// What the plugin is to do in the step that is played, and what it was asked.
#[derive(Default)]
struct Script {
    exchanges: Vec<Exchange>,
    is_played: Vec<bool>,
    seen: Vec<Json>,
    /// The hooks of all steps so far, as texts.
    hooks: HashSet<String>,
}

impl Script {
    /// Notes a request and returns the answer that it should get.
    fn take(&mut self, request: &Json) -> Reply {
        let envelope = envelope(request);
        // What failed is delivered again, which v1 never did.
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

/// Returns what v1's envelope has of a request.
fn envelope(request: &Json) -> Json {
    let members = ["kind", "name", "param", "context"];
    let members = members
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), request.get(name)?.clone())));
    Json::Object(members.collect())
}

/// The plugin, as a witness of the scenario.
struct Plugin(Arc<Mutex<Script>>);

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
        if replies.clone().any(is_of_http) {
            return false;
        }
        let exchanges: Vec<Exchange> = serde_json::from_value(exchanges).unwrap();
        let mut script = self.0.lock().unwrap();
        script.is_played = vec![false; exchanges.len()];
        script.exchanges = exchanges;
        script.seen.clear();
        true
    }

    fn after(&mut self, variables: &Variables) -> Result<(), String> {
        let wanted = self.0.lock().unwrap().exchanges.len();
        // Asynchronous hooks and events come when they come; too few are a difference below.
        let mut patience = 200;
        eventually("the plugin was asked", || {
            patience -= 1;
            (self.0.lock().unwrap().seen.len() >= wanted || patience == 0).then_some(())
        });
        let script = self.0.lock().unwrap();
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
    if let Some(record) = reply.record {
        let mut answer = message["param"]["record"].clone();
        let fields = answer.as_object_mut().unwrap();
        for name in record.remove {
            fields.remove(&name);
        }
        fields.extend(record.merge);
        worker.answer(message, &answer);
    } else {
        let mut response = reply.json.unwrap_or(json!({"result": null}));
        response["type"] = json!("response");
        response["id"] = message["id"].clone();
        worker.send(response);
    }
}

fn replay(file: &str, text: &str) {
    let recorded: Json =
        serde_json::from_str(include_str!("../golden/plugin/registration.json")).unwrap();
    let scenarios: Vec<Scenario> = serde_json::from_str(text).unwrap();
    let differences: Vec<Difference> =
        serde_json::from_str(include_str!("../golden/plugin/differences.json")).unwrap();
    let server = server(&[("CUSTOM_TOKEN_SECRET", "ssosecret")]);
    let mut worker = Worker::ready(&server, &json!({}), &recorded["registration"]);
    worker.hears_of_schema = true;
    let script = Arc::new(Mutex::new(Script::default()));
    let asked = Arc::clone(&script);
    let _serving = worker.serve(move |worker, message| react(&asked, worker, message));
    let mut failures = Vec::new();
    let scenarios: Vec<_> = scenarios
        .into_iter()
        .filter(|it| !it.transcript_only)
        .collect();
    let total = scenarios.len();
    for scenario in scenarios {
        let name = scenario.name.clone();
        let difference = differences.iter().find(|it| it.scenario == name);
        let mut plugin = Plugin(Arc::clone(&script));
        if let Err(why) = runner::run_witnessed(&scenario, difference, &server, &mut plugin) {
            failures.push(format!("{name}: {why}"));
        }
    }
    let passed = total - failures.len();
    println!("{file}: {passed} of {total} scenarios passed");
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
    let mut times = Vec::new();
    for exchange in step["plugin"].as_array().unwrap() {
        let tick = worker.expect_request("plug_timer");
        times.push(Instant::now());
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
    let between = (times[1] - times[0]).as_secs_f64();
    let wanted = step["seconds_between"].as_f64().unwrap();
    assert!((between - wanted).abs() < 1.5, "{between}");
}

#[test]
fn v1s_events() {
    replay(
        "timer_and_event",
        include_str!("../golden/plugin/timer_and_event.json"),
    );
}
