//! After-hooks delivered from the log: at least once, and per record in order, whatever was away.

mod crash;
mod gone;
mod left;
mod leftovers;
mod orders;
mod policy;
mod restored;
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

/// Returns the hello of a worker that wants details of each delivery.
fn knowing(more: &Json) -> Json {
    let mut hello = json!({"features": ["deliver"]});
    for (name, value) in more.as_object().unwrap() {
        hello[name] = value.clone();
    }
    hello
}

/// Connects, registers and waits until it serves; later events are left to the caller.
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

/// Lets a worker serve and leave.
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

/// Fails if a delivery was sent that the test did not take, or one is still to come. Waits until
/// the consumer has read the whole log and has an answer to everything.
pub(super) fn expect_end(server: &TestServer, worker: &mut Worker) {
    await_consumer(server, "everything is over", |it| it["lag"] == 0);
    expect_none_sent(server, worker);
}

/// Fails if a delivery was sent that the test did not take, while `num_open` are open and
/// `num_sent` of these are at workers.
///
/// Waits until the consumer has read that many: it reports them only after it has sent what it
/// sends.
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

/// Fails if a delivery was sent that the test did not take; events are answered.
fn expect_none_sent(server: &TestServer, worker: &mut Worker) {
    for sent in worker.sent_so_far(server) {
        assert_eq!(sent["kind"], "event", "{sent}");
        worker.answer(&sent, &Json::Null);
    }
}

fn number(request: &Json) -> i64 {
    request["param"]["record"]["n"].as_i64().unwrap()
}

/// Returns the id that a delivery has among the dead letters.
fn letter_id(delivery: &Json) -> String {
    let hook = delivery["name"].as_str().unwrap();
    format!("{}/{hook}", delivery["delivery"]["position"])
}

fn id(request: &Json) -> &str {
    request["param"]["record"]["_id"].as_str().unwrap()
}

/// Returns the states of all consumers.
fn states(server: &TestServer) -> Vec<Json> {
    let listed = Client::master(server).call("delivery:list", json!({}));
    listed.result().as_array().unwrap().clone()
}

/// Returns the state of the only consumer.
fn consumer(server: &TestServer) -> Json {
    states(server).remove(0)
}

/// Waits until the only consumer's state is as wanted.
fn await_consumer(server: &TestServer, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
    eventually(what, || Some(consumer(server)).filter(&is_so))
}
