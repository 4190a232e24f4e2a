//! What a worker should not send, or not omit: clients get the documented error, the worker a
//! warning or a close, and nothing else is affected.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::worker::{Seen, Worker};
use super::{call, server};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn op() -> Json {
    json!({"op": [{"name": "a"}]})
}

fn ready(server: &TestServer) -> Worker {
    Worker::ready(server, &json!({"features": ["resume"]}), &op())
}

/// Has the worker asked once more, and answer.
fn assert_serves(server: &TestServer, worker: &mut Worker) {
    let asked = call(&Client::anonymous(server), "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer(&request, &json!("served"));
    assert_eq!(asked.join().unwrap().result(), "served");
}

/// Connects and registers, and returns the reply to the registration.
fn registered(server: &TestServer, more: &Json, points: &Json) -> (Worker, Json) {
    let mut worker = Worker::greet(server, more);
    worker.serve_event("before-config");
    let init = worker.expect_request("init");
    worker.answer(&init, points);
    let registered = worker.expect("registered");
    (worker, registered)
}

#[test]
fn a_flag_that_is_no_boolean_opens_nothing() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "a", "user_required": 1}]});
    let (mut worker, reply) = registered(&server, &json!({}), &points);
    let problem =
        json!({"list": "op", "name": "a", "message": "user_required should be true or false"});
    assert_eq!(
        (&reply["ok"], &reply["problems"]),
        (&json!(false), &json!([problem]))
    );
    assert_eq!(worker.expect_close(), 4004);
}

#[test]
fn a_second_answer_and_one_to_nothing_are_dropped_with_a_warning() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let asked = call(&Client::anonymous(&server), "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer(&json!({"id": "r4711"}), &json!("nobody's"));
    let warning = worker.expect("warning")["message"].clone();
    assert!(warning.as_str().unwrap().contains("\"r4711\""), "{warning}");
    worker.answer(&request, &json!("first"));
    worker.answer(&request, &json!("second"));
    worker.expect("warning");
    assert_eq!(asked.join().unwrap().result(), "first");
    assert_serves(&server, &mut worker);
}

#[test]
fn more_than_a_hundred_odd_answers_a_minute_end_the_session() {
    let server = server(&[]);
    let mut worker = ready(&server);
    for _ in 0..100 {
        worker.answer(&json!({"id": "r4711"}), &Json::Null);
        worker.expect("warning");
    }
    assert_serves(&server, &mut worker);
    worker.answer(&json!({"id": "r4711"}), &Json::Null);
    assert_eq!(worker.expect_close(), 4002);
    assert!(!worker.come_back(&server));
}

#[test]
fn an_answer_that_is_none_fails_its_request_alone() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let client = Client::anonymous(&server);
    for more in [
        json!({}),
        json!({"result": 1, "error": {"code": 108, "message": "both"}}),
    ] {
        let asked = call(&client, "a", json!({}));
        let request = worker.expect_request("a");
        let mut response = json!({"type": "response", "id": request["id"]});
        for (name, value) in more.as_object().unwrap() {
            response[name] = value.clone();
        }
        worker.send(response);
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (500, 10000), "{more}");
        worker.expect("warning");
        assert_serves(&server, &mut worker);
    }
}

#[test]
fn a_session_that_broke_the_protocol_is_over_at_once() {
    let server = server(&[("PLUGIN_MAX_MESSAGE", "100000")]);
    let mut worker = ready(&server);
    let client = Client::anonymous(&server);
    let text = |text: &str| Message::text(text.to_owned());
    for (code, misdeed) in [
        (4002, text("}{")),
        (4002, text(r#"{"seq":1}"#)),
        (4002, text(r#"{"type":"window","size":1,"seq":7777}"#)),
        (4002, Message::binary(vec![1, 2, 3])),
        (1009, Message::text("x".repeat(100_001))),
    ] {
        let asked = call(&client, "a", json!({}));
        worker.expect_request("a");
        let begun = Instant::now();
        worker.send_raw(misdeed);
        assert_eq!(worker.expect_close(), code);
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (503, 118));
        assert_eq!(answer.json()["error"]["info"]["reason"], "worker-lost");
        // Clients do not wait for a worker that cannot come back.
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert!(!worker.come_back(&server));
        worker.register(&op());
        worker.expect_ready();
    }
    assert_serves(&server, &mut worker);
}

#[test]
fn a_worker_none_of_whose_slots_is_answered_is_sent_away() {
    let server = server(&[]);
    let points = json!({"op": [{"name": "a", "timeout_ms": 1000}]});
    let mut worker = Worker::ready(&server, &json!({"window": 1}), &points);
    let client = Client::anonymous(&server);
    let begun = Instant::now();
    let answer = call(&client, "a", json!({})).join().unwrap();
    assert_eq!((answer.status, answer.code()), (504, 119));
    worker.expect_request("a");
    assert_eq!(worker.expect("cancel")["reason"], "deadline");
    // Its only slot is taken: a client that asks meanwhile waits in vain.
    let answer = call(&client, "a", json!({})).join().unwrap();
    assert_eq!((answer.status, answer.code()), (504, 119));
    loop {
        // It reads, and answers pings.
        match worker.next(Duration::from_secs(60)) {
            Seen::Close(code) => break assert_eq!(code, 4008),
            Seen::Message(message) => assert_ne!(message["type"], "request", "{message}"),
            other => panic!("{other:?}"),
        }
    }
    let elapsed = begun.elapsed();
    assert!(elapsed > Duration::from_secs(25), "{elapsed:?}");
    let mut worker = Worker::rejoin(&server, &op());
    assert_serves(&server, &mut worker);
}

#[test]
fn beyond_the_queue_clients_are_refused_at_once() {
    let server = server(&[("PLUGIN_QUEUE", "2"), ("TEST_TIMEOUT", "20")]);
    let mut worker = Worker::ready(&server, &json!({"window": 1}), &op());
    let client = Client::anonymous(&server);
    let mut waiting = vec![call(&client, "a", json!({}))];
    let first = worker.expect_request("a");
    let refused = loop {
        // The queue holds two requests; the test does not decide which two.
        waiting.push(call(&client, "a", json!({})));
        let done = eventually("it waits or is refused", || {
            let queued = super::plugin_state(&server)["queued"].as_u64().unwrap();
            let refused = waiting.iter().position(|asked| asked.is_finished());
            let is_waiting = queued as usize + 1 == waiting.len();
            (refused.is_some() || is_waiting).then_some(refused)
        });
        if let Some(index) = done {
            break waiting.remove(index);
        }
        assert!(waiting.len() <= 3, "the queue takes more than it may");
    };
    let answer = refused.join().unwrap();
    assert_eq!((answer.status, answer.code()), (503, 118));
    assert_eq!(answer.json()["error"]["info"]["reason"], "queue-full");
    // Those that wait are finally served.
    worker.answer(&first, &json!(1));
    for _ in 0..2 {
        let request = worker.expect_request("a");
        worker.answer(&request, &json!(1));
    }
    for asked in waiting {
        assert_eq!(asked.join().unwrap().result(), 1);
    }
}

#[test]
fn a_worker_that_registers_otherwise_than_its_peers_is_refused() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let other_points = json!({"op": [{"name": "b"}]});
    let (mut other, said) = registered(&server, &json!({}), &other_points);
    assert_eq!(said["ok"], false);
    let problem = &said["problems"][0];
    let message = "differs from other workers of the same generation: only here: op b; \
                   only there: op a";
    assert_eq!(
        (&problem["list"], &problem["message"]),
        (&json!("init"), &json!(message))
    );
    assert_eq!(other.expect_close(), 4004);
    let stricter = json!({"op": [{"name": "a", "key_required": true}]});
    let (mut other, said) = registered(&server, &json!({}), &stricter);
    let message = said["problems"][0]["message"].as_str().unwrap();
    assert!(message.ends_with("different there: op a"), "{message}");
    assert_eq!(other.expect_close(), 4004);
    assert_serves(&server, &mut worker);
    let unknown = Client::anonymous(&server).call("b", json!({}));
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_registration_that_is_refused_leaves_the_one_before() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let path = |name: &str| json!({"handler": [{"name": name, "methods": ["GET"]}]});
    let (mut first, mut second) = super::two_ready(&server, &op(), &path("theirs"));
    // A deployment that claims the other plugin's path, and has an invalid timer.
    let mut clashing = path("theirs");
    clashing["timer"] = json!([{"name": "tick", "spec": "60 * * * * *"}]);
    let (mut next, said) = registered(&server, &json!({"generation": 1}), &clashing);
    assert_eq!(said["ok"], false);
    assert_eq!(next.expect_close(), 4004);
    let mut only_path = path("theirs");
    only_path["op"] = json!([{"name": "new"}]);
    let (mut next, said) = registered(&server, &json!({"generation": 1}), &only_path);
    let problem = said["problems"][0].clone();
    assert_eq!(
        (&problem["list"], &problem["name"]),
        (&json!("handler"), &json!("theirs"))
    );
    let message = problem["message"].as_str().unwrap();
    assert!(message.contains("OTHER"), "{message}");
    assert_eq!(next.expect_close(), 4004);
    // Both plugins still serve what they had.
    assert_serves(&server, &mut first);
    let url = format!("{}/theirs", server.base_url);
    let asked =
        std::thread::spawn(move || crate::support::client::send("GET", &url, &[], None).unwrap());
    let request = second.expect_request("theirs");
    second.answer(&request, &json!({"status": 200, "header": {}, "body": ""}));
    assert_eq!(asked.join().unwrap().status, 200);
    let unknown = Client::anonymous(&server).call("new", json!({}));
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_lambda_that_two_plugins_have_is_the_later_ones_and_is_told_of() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let points = json!({"op": [{"name": "same"}], "provider": [{"id": "com.example"}]});
    let (_first, mut second) = super::two_ready(&server, &points, &points);
    let asked = call(&Client::anonymous(&server), "same", json!({}));
    let request = second.expect_request("same");
    second.answer(&request, &json!("of the later one"));
    assert_eq!(asked.join().unwrap().result(), "of the later one");
    let points = [
        "kind=\"op\" name=\"same\"",
        "kind=\"provider\" name=\"com.example\"",
    ];
    let output = eventually("both are told of", || {
        let output = server.output();
        points
            .iter()
            .all(|it| output.contains(it))
            .then_some(output)
    });
    for point in points {
        let told = output.lines().filter(|line| line.contains(point));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), 1, "{output}");
        assert!(told[0].contains("earlier=TEST later=OTHER"), "{told:?}");
    }
}
