//! Work that is lost with its worker: what another worker gets, and what is never repeated.

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, hook, save, server};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::server::TestServer;

/// The worker that has the request dies; returns another, which was connected before that.
fn die(worker: Worker, server: &TestServer, points: &Json) -> Worker {
    let mut other = Worker::greet(server, &json!({}));
    other.register(points);
    other.expect("ready");
    worker.die();
    other
}

#[test]
fn a_hook_goes_to_nobody_else_unless_it_may_be_repeated() {
    let server = server(&[]);
    let mut points = json!({"hook": [hook("once", "beforeSave"), hook("again", "beforeSave")]});
    points["hook"][1]["idempotent"] = json!(true);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");

    let saving = save(&ada, json!({"_id": "once/1"}));
    worker.expect_request("once_beforeSave");
    let mut other = die(worker, &server, &points);
    let slot = saving.join().unwrap().result();
    assert_eq!(slot[0]["info"]["reason"], "worker-lost", "{slot}");
    other.expect_nothing(&server);
    assert!(ada.query("once", json!([])).is_empty());

    let saving = save(&ada, json!({"_id": "again/1"}));
    other.expect_request("again_beforeSave");
    let mut third = die(other, &server, &points);
    let request = third.expect_request("again_beforeSave");
    third.answer_record(&request, &json!({"n": 3}));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 3);
}

#[test]
fn lambdas_and_handlers_that_are_lost_are_unavailable() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "a"}], "handler": [{"name": "b", "methods": ["GET"]}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let url = format!("{}/b", server.base_url);
    for name in ["a", "b"] {
        let asked = match name {
            "a" => call(&Client::anonymous(&server), "a", json!({})),
            _ => {
                let url = url.clone();
                std::thread::spawn(move || send("GET", &url, &[], None).unwrap())
            }
        };
        worker.expect_request(name);
        worker = die(worker, &server, &points);
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (503, 118), "{name}");
        let info = answer.json()["error"]["info"].clone();
        assert_eq!(info, json!({"plugin": "TEST", "reason": "worker-lost"}));
        worker.expect_nothing(&server);
    }
}

#[test]
fn a_run_that_is_lost_is_noted_and_not_repeated() {
    let server = server(&[]);
    let points = json!({"timer": [{"name": "tick", "spec": "@yearly"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let master = Client::master(&server);
    let name = json!({"plugin": "TEST", "name": "tick"});
    let running = call(&master, "task:run", name);
    worker.expect_request("tick");
    let mut other = die(worker, &server, &points);
    running.join().unwrap();
    eventually("the run is over", || {
        let listed = master.call("task:list", json!({})).result();
        let task = &listed["tasks"][0];
        (task["last_run"]["error"]["code"] == 118).then_some(())
    });
    other.expect_nothing(&server);
}
