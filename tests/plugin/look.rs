//! Looking at plugins: `plugin:list`, `plugin:calls`, `plugin:test`, and `skytrail plugin`.

use serde_json::{Value as Json, json};

use super::server;
use super::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{MASTER_KEY, TestServer};

fn ready(server: &TestServer) -> Worker {
    let registration = json!({
        "op": [{"name": "hello:world"}, {"name": "hello:fail"}],
        "hook": [{"name": "check", "type": "note", "trigger": "beforeSave"}],
        "handler": [{"name": "web:page", "methods": ["GET"]}],
        "provider": [{"id": "com.example"}],
    });
    Worker::ready(server, &json!({}), &registration)
}

pub(super) fn skytrail(server: &TestServer, arguments: &[&str]) -> (bool, String, String) {
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let mut all = vec!["--set", &key];
    all.extend(arguments);
    all.extend(["--server", &server.base_url]);
    let done = server.skytrail(&all);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (done.status.success(), text(done.stdout), text(done.stderr))
}

/// Waits until the last call of a start is noted, and returns its number.
fn await_last_of_start(master: &Client) -> Json {
    eventually("the server is said to be ready", || {
        let known = master.call("plugin:calls", json!({})).result();
        let last = known.as_array().unwrap().last().unwrap().clone();
        (last["name"] == "server-ready").then(|| last["number"].clone())
    })
}

#[test]
fn what_a_plugin_registered_and_was_asked_is_shown() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let master = Client::master(&server);
    await_last_of_start(&master);
    let asked = super::call(&master, "hello:world", json!({"args": [1]}));
    let request = worker.expect("request");
    worker.answer(&request, &json!("hi"));
    assert_eq!(asked.join().unwrap().result(), "hi");
    let asked = super::call(&master, "hello:fail", json!({}));
    let request = worker.expect("request");
    worker.refuse(&request, &json!({"code": 108, "message": "never"}));
    assert_eq!(asked.join().unwrap().code(), 108);

    let shown = master.call("plugin:list", json!({})).result();
    let plugin = &shown["plugins"][0];
    assert_eq!(plugin["name"], "TEST");
    assert_eq!(plugin["transport"], "websocket");
    let expected = json!({
        "op": ["hello:fail", "hello:world"],
        "handler": ["GET /web/page"],
        "hook": [{"name": "check", "type": "note", "trigger": "beforeSave"}],
        "provider": ["com.example"],
    });
    assert_eq!(plugin["names"], expected);

    let calls = master.call("plugin:calls", json!({})).result();
    let of = |name: &str| -> Json {
        let calls = calls.as_array().unwrap();
        calls.iter().find(|it| it["name"] == name).unwrap().clone()
    };
    assert_eq!(of("init")["kind"], "event");
    assert_eq!(of("hello:world")["error"], Json::Null);
    let failed = of("hello:fail");
    assert_eq!(failed["error"], json!({"code": 108, "message": "never"}));
    // Only the calls after that one.
    let after = json!({"after": failed["number"]});
    assert_eq!(master.call("plugin:calls", after).result(), json!([]));

    let (is_ok, list, _) = skytrail(&server, &["plugin", "list"]);
    assert!(is_ok);
    for line in [
        "TEST (websocket): ready",
        "  lambda hello:world",
        "  handler GET /web/page",
        "  hook beforeSave note: check",
        "  provider com.example",
    ] {
        assert!(list.contains(line), "{line:?} is missing:\n{list}");
    }
    let (is_ok, calls, _) = skytrail(&server, &["plugin", "calls"]);
    assert!(is_ok);
    assert!(calls.contains("error 108: never"), "{calls}");
}

#[test]
fn who_waits_for_calls_is_told_when_one_comes() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let master = Client::master(&server);
    let last = await_last_of_start(&master);
    let waiting = super::call(
        &master,
        "plugin:calls",
        json!({"after": last, "wait_ms": 20_000}),
    );
    let asked = super::call(&master, "hello:world", json!({}));
    let request = worker.expect("request");
    worker.answer(&request, &Json::Null);
    assert_eq!(asked.join().unwrap().status, 200);
    let news = waiting.join().unwrap().result();
    assert_eq!(news[0]["name"], "hello:world", "{news}");
}

#[test]
fn a_plugin_is_tried_and_nothing_is_stored() {
    let server = server(&[]);
    let worker = ready(&server);
    let answering = std::thread::spawn(move || {
        let mut worker = worker;
        let request = worker.expect("request");
        assert_eq!(request["kind"], "op");
        assert_eq!(request["param"]["args"], json!(["bob"]));
        worker.answer(&request, &json!({"hello": "bob"}));
        let request = worker.expect("request");
        assert_eq!(request["kind"], "hook");
        worker.answer_record(&request, &json!({"words": 2}));
        let request = worker.expect("request");
        worker.refuse(&request, &json!({"code": 108, "message": "never"}));
        worker
    });
    let test = ["plugin", "test", "TEST"];
    let with = |rest: &[&'static str]| [&test[..], rest].concat();
    let (is_ok, said, wrong) = skytrail(
        &server,
        &with(&["op", "hello:world", "--args", "[\"bob\"]"]),
    );
    assert!(
        is_ok && said.contains("\"hello\": \"bob\""),
        "{said}{wrong}"
    );
    let param = r#"{"record": {"_id": "note/1", "text": "a b"}, "original": null}"#;
    let (is_ok, said, wrong) = skytrail(&server, &with(&["hook", "check", "--param", param]));
    assert!(is_ok && said.contains("\"words\": 2"), "{said}{wrong}");
    let (is_ok, said, wrong) = skytrail(&server, &with(&["op", "hello:fail"]));
    assert!(!is_ok && said.contains("\"never\""), "{said}{wrong}");
    answering.join().unwrap();
    let found = Client::master(&server).call("record:query", json!({"record_type": "note"}));
    assert_eq!(found.result(), json!([]));

    let (is_ok, _, wrong) = skytrail(&server, &["plugin", "test", "NONE", "op", "x"]);
    assert!(
        !is_ok && wrong.contains("no plugin named \"NONE\""),
        "{wrong}"
    );
    let (is_ok, _, wrong) = skytrail(&server, &with(&["event", "init"]));
    assert!(!is_ok && wrong.contains("kind should be one of"), "{wrong}");
    let (is_ok, _, wrong) = skytrail(&server, &with(&["op", "x", "--args", "{"]));
    assert!(!is_ok && wrong.contains("--args is not JSON"), "{wrong}");
}

#[test]
fn why_a_registration_is_refused_is_shown_until_one_is_taken() {
    let server = server(&[]);
    let refused = json!({"timer": [{"name": "tick", "spec": "60 * * * * *"}]});
    let mut worker = Worker::greet(&server, &json!({}));
    worker.serve_event("before-config");
    let init = worker.expect_request("init");
    worker.answer(&init, &refused);
    assert_eq!(worker.expect_close(), 4004);
    let master = Client::master(&server);
    let problems = eventually("the refusal is shown", || {
        let shown = master.call("plugin:list", json!({})).result();
        let problems = shown["plugins"][0]["problems"].clone();
        (!problems.is_null()).then_some(problems)
    });
    assert_eq!(problems[0]["name"], "tick", "{problems}");
    let (_, list, _) = skytrail(&server, &["plugin", "list"]);
    assert!(
        list.contains("not ready") && list.contains("refused: timer tick"),
        "{list}"
    );
    let _worker = ready(&server);
    let shown = master.call("plugin:list", json!({})).result();
    assert_eq!(shown["plugins"][0]["problems"], Json::Null);
}
