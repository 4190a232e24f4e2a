//! After-hooks out of the log: at least once, per record in order, whoever was away.

mod crash;
mod gone;
mod left;
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

/// Fails when a delivery has been sent that was not taken, or one is still to come. Until the
/// consumer has looked at the whole log and has an answer to everything, this waits.
pub(super) fn expect_end(server: &TestServer, worker: &mut Worker) {
    await_consumer(server, "everything is over", |it| it["lag"] == 0);
    expect_none_sent(server, worker);
}

/// Fails when a delivery has been sent that was not taken, though `num_open` are not over, and
/// `num_sent` of these are at workers. Until the consumer has read so many, this waits: what it
/// says then it says behind what it has sent.
fn expect_held(server: &TestServer, worker: &mut Worker, (num_open, num_sent): (u64, u64)) {
    let name = worker.plugin.clone();
    let state = eventually("the consumer has read so many", || {
        let states = states(server);
        let state = states.into_iter().find(|it| it["name"] == name);
        state.filter(|it| it["open"] == num_open)
    });
    assert_eq!(state["in_flight"], num_sent, "{state}");
    expect_none_sent(server, worker);
}

/// Fails when a delivery has been sent that was not taken; events are answered.
fn expect_none_sent(server: &TestServer, worker: &mut Worker) {
    for sent in worker.sent_so_far(server) {
        assert_eq!(sent["kind"], "event", "{sent}");
        worker.answer(&sent, &Json::Null);
    }
}

fn number(request: &Json) -> i64 {
    request["param"]["record"]["n"].as_i64().unwrap()
}

fn id(request: &Json) -> &str {
    request["param"]["record"]["_id"].as_str().unwrap()
}

/// Returns what all consumers say of themselves.
fn states(server: &TestServer) -> Vec<Json> {
    let listed = Client::master(server).call("delivery:list", json!({}));
    listed.result().as_array().unwrap().clone()
}

/// Returns what the only consumer says of itself.
fn consumer(server: &TestServer) -> Json {
    states(server).remove(0)
}

/// Waits until the only consumer says something of itself.
fn await_consumer(server: &TestServer, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
    eventually(what, || Some(consumer(server)).filter(&is_so))
}
