//! After-hooks out of the log: at least once, per record in order, whoever was away.

mod crash;
mod leftovers;
mod orders;
mod policy;
mod waiting;

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::worker::{Seen, Worker};
use super::{hook, server};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Long enough for something that should not come.
const A_WHILE: Duration = Duration::from_millis(300);

/// Returns an asynchronous after-save hook of `note`, with more members.
fn told(more: &Json) -> Json {
    let mut point = hook("note", "afterSave");
    point["async"] = json!(true);
    for (name, value) in more.as_object().unwrap() {
        point[name] = value.clone();
    }
    json!({"hook": [point]})
}

/// Says hello as one who wants to know what is delivered.
fn knowing(more: &Json) -> Json {
    let mut hello = json!({"features": ["deliver"]});
    for (name, value) in more.as_object().unwrap() {
        hello[name] = value.clone();
    }
    hello
}

/// Connects, registers and waits until it serves; events that come later are the caller's.
fn arrive(server: &TestServer, more: &Json, points: &Json) -> Worker {
    let mut worker = Worker::greet(server, &knowing(more));
    worker.register(points);
    loop {
        let message = match worker.next(Duration::from_secs(30)) {
            Seen::Message(message) => message,
            other => panic!("expected to be ready, saw {other:?}"),
        };
        if message["type"] == "ready" {
            return worker;
        }
        worker.answer(&message, &Json::Null);
    }
}

/// Lets a worker serve, and go.
fn come_and_go(server: &TestServer, points: &Json) {
    let worker = Worker::ready(server, &json!({}), points);
    await_consumer(server, "the worker is there", |it| it["state"] == "running");
    worker.die();
    await_consumer(server, "the worker is gone", |it| it["state"] == "away");
}

/// Waits for the next delivery, answering events.
fn next_delivery(worker: &mut Worker) -> Json {
    loop {
        let request = worker.expect("request");
        if request["kind"] == "hook" {
            return request;
        }
        worker.answer(&request, &Json::Null);
    }
}

/// Fails when a delivery comes.
fn expect_none(worker: &mut Worker) {
    loop {
        match worker.next(A_WHILE) {
            Seen::Nothing => return,
            Seen::Message(message) if message["kind"] == "event" => {
                worker.answer(&message, &Json::Null);
            }
            other => panic!("expected nothing, saw {other:?}"),
        }
    }
}

fn number(request: &Json) -> i64 {
    request["param"]["record"]["n"].as_i64().unwrap()
}

fn id(request: &Json) -> &str {
    request["param"]["record"]["_id"].as_str().unwrap()
}

/// Returns what the only consumer says of itself.
fn consumer(server: &TestServer) -> Json {
    let listed = Client::master(server).call("delivery:list", json!({}));
    listed.result()[0].clone()
}

/// Waits until the only consumer says something of itself.
fn await_consumer(server: &TestServer, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
    eventually(what, || Some(consumer(server)).filter(&is_so))
}
