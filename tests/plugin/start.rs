//! A start: the events of plugins in their order, and what clients are told meanwhile.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::worker::{Seen, Worker};
use super::{server, two_ready};
use crate::golden::matching::{Variables, compare};
use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

fn recorded() -> Json {
    serde_json::from_str(include_str!("../golden/plugin/registration.json")).unwrap()
}

fn variables() -> Variables {
    Variables::from([
        ("api_key".to_owned(), json!(API_KEY)),
        ("master_key".to_owned(), json!(MASTER_KEY)),
    ])
}

fn assert_matches(expected: &Json, found: &Json) {
    let mut differences = Vec::new();
    compare(expected, found, "", &variables(), &mut differences);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_start_is_told_as_v1_told_it() {
    let settings = [
        ("CUSTOM_TOKEN_SECRET", "ssosecret"),
        ("ASSET_STORE_SECRET", "asset_secret"),
    ];
    let server = server(&settings);
    let recorded = recorded();
    let mut worker = Worker::greet(&server, &json!({}));
    for exchange in recorded["startup"].as_array().unwrap() {
        let event = loop {
            let message = match worker.next(Duration::from_secs(20)) {
                Seen::Message(message) => message,
                other => panic!("{other:?}"),
            };
            if message["type"] == "request" {
                break message;
            }
        };
        // The envelope has nothing else: events have no context.
        let mut envelope = event.clone();
        let members = envelope.as_object_mut().unwrap();
        for own in ["type", "seq", "ack", "id", "timeout_ms"] {
            members.remove(own);
        }
        assert_matches(&exchange["expect"], &envelope);
        let answer = match event["name"].as_str() {
            Some("init") => &recorded["registration"],
            _ => &Json::Null,
        };
        worker.answer(&event, answer);
    }
}

/// Sends the request that the transcript describes in words.
fn ask_as(server: &TestServer, what: &str) -> Answer {
    let (action, mut body) = match what {
        what if what.starts_with("auth:signup") => ("auth/signup", json!({})),
        what if what.starts_with("record:query") => {
            ("record/query", json!({"record_type": "plug_note"}))
        }
        what if what.starts_with("home") => ("", json!({})),
        what if what.starts_with("an op") => ("plug/open", json!({"args": []})),
        "the health check" => ("_status/healthz", json!({})),
        other => panic!("what is {other}?"),
    };
    let key = match what {
        what if what.contains("wrong key") => "wrong",
        what if what.contains("master key") => MASTER_KEY,
        _ => API_KEY,
    };
    if what.contains("_from_plugin") {
        body["_from_plugin"] = json!(true);
    }
    let headers = [("X-Skygear-API-Key".to_owned(), key.to_owned())];
    let url = format!("{}/{action}", server.base_url);
    let body = body.to_string().into_bytes();
    send("POST", &url, &headers, Some(body)).unwrap()
}

fn assert_told(server: &TestServer, answers: &Json) {
    let answers = answers.as_array().unwrap();
    assert!(answers.len() > 4);
    for expected in answers {
        let what = expected["what"].as_str().unwrap();
        let answer = ask_as(server, what);
        if what == "an op of the plugin before it is known" {
            // v1 handled it as `home`.
            assert_eq!((answer.status, answer.code()), (503, 118));
            continue;
        }
        assert_eq!(json!(answer.status), expected["status"], "{what}");
        assert_matches(&expected["body"], &answer.json());
    }
}

#[test]
fn a_plugin_that_was_absent_prepares_again_before_it_serves() {
    // The call waits for all that the worker does first.
    let server = server(&[("PLUGIN_REJOIN_WAIT", "30")]);
    let points = json!({"op": [{"name": "a"}]});
    let lost = || super::plugin_state(&server)["lost"].as_u64();
    Worker::ready(&server, &json!({}), &points).die();
    eventually("the worker is gone", || {
        lost().filter(|number| *number == 1)
    });
    let asked = super::call(&Client::anonymous(&server), "a", json!({}));
    let mut worker = Worker::greet(&server, &json!({}));
    worker.register(&points);
    let event = worker.expect_request("before-plugins-ready");
    let fields = json!({"fields": [{"name": "added", "type": "string"}]});
    let payload = json!({"action": "schema:create", "record_types": {"note": fields}});
    worker.send(json!({"type": "call", "id": "c1", "parent": event["id"], "payload": payload}));
    assert_eq!(worker.expect("reply")["status"], 200);
    worker.answer(&event, &Json::Null);
    worker.expect("ready");
    let request = worker.expect_request("a");
    worker.answer(&request, &json!("served"));
    assert_eq!(asked.join().unwrap().result(), "served");
}

#[test]
fn clients_are_told_what_v1_told_them_while_plugins_start() {
    let server = server(&[]);
    let recorded = recorded();
    let master = Client::master(&server);
    let mut worker = Worker::greet(&server, &json!({}));
    assert_told(&server, &recorded["client_answers_before_init"]);
    worker.register(&recorded["registration"]);
    let event = worker.expect_request("before-plugins-ready");
    // The plugin creates its type, as plugins do at this point.
    let fields = json!({"fields": [{"name": "title", "type": "string"}]});
    let types = json!({"record_types": {"plug_note": fields}, "_from_plugin": true});
    master.call("schema:create", types).result();
    assert_told(&server, &recorded["client_answers_between_init_and_ready"]);
    // A wrong key is an error now, even where it will be ignored later.
    let headers = [("X-Skygear-API-Key".to_owned(), "wrong".to_owned())];
    let url = format!("{}/plug/open", server.base_url);
    let answer = send("POST", &url, &headers, Some(b"{}".to_vec())).unwrap();
    assert_eq!((answer.status, answer.code()), (401, 103));
    worker.answer(&event, &Json::Null);
    worker.expect("ready");
    let found = ask_as(&server, "record:query");
    assert_eq!(found.result(), json!([]));
}

#[test]
fn plugins_hear_of_the_start_one_after_the_other() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let greet = |name: &str| Worker::greet(&server, &json!({"plugin": name}));
    let (mut second, mut first) = (greet("OTHER"), greet("TEST"));
    second.register(&json!({}));
    first.register(&json!({}));
    for event in [
        "before-plugins-ready",
        "after-plugins-ready",
        "server-ready",
    ] {
        let told = first.expect_request(event);
        second.expect_nothing(&server);
        // Any answer will do: even an error delays nothing.
        first.refuse(&told, &json!({"message": "ignored"}));
        second.serve_event(event);
        if event == "before-plugins-ready" {
            first.expect("ready");
            second.expect("ready");
        }
    }
}

#[test]
fn the_log_names_the_plugin_that_a_start_waits_for() {
    let server = server(&[("PLUGINS", "TEST,OTHER,LAST")]);
    let greet = |name: &str| Worker::greet(&server, &json!({"plugin": name}));
    let (mut first, mut last) = (greet("TEST"), greet("LAST"));
    first.register(&json!({}));
    last.register(&json!({}));
    eventually("the log says whom the start waits for", || {
        server.output().contains("missing=\"OTHER\"").then_some(())
    });
}

/// Waits for the event of changed types, and does not answer.
fn hear(worker: &mut Worker) -> Json {
    let event = worker.expect_request("schema-changed");
    assert_eq!(event["kind"], "event");
    assert!(event.get("context").is_none(), "{event}");
    event["param"].clone()
}

#[test]
fn all_plugins_hear_of_changed_types_and_nobody_waits_for_them() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let (mut first, mut second) = two_ready(&server, &json!({}), &json!({}));
    first.hears_of_schema = true;
    second.hears_of_schema = true;
    let master = Client::master(&server);
    let notes = |fields: &[(&str, &str)]| {
        let field = |(name, kind): &(&str, &str)| json!({"name": name, "type": kind});
        json!({"fields": fields.iter().map(field).collect::<Vec<_>>()})
    };
    let mut expect = |record_type: &str, expected: &Json| {
        let told = hear(&mut first);
        assert_eq!(told[record_type], *expected, "{told}");
        // All types as `schema:fetch` returns them, except the server's own.
        let fetched = master.call("schema:fetch", json!({})).result();
        let types = fetched["record_types"].as_object().unwrap();
        let told = told.as_object().unwrap().clone();
        assert_eq!(
            types.keys().collect::<Vec<_>>(),
            told.keys().collect::<Vec<_>>()
        );
        assert!(told.contains_key("user"));
        assert_eq!(hear(&mut second), Json::Object(told));
    };
    let at = json!({"$type": "geo", "$lng": 1, "$lat": 2});
    master.save("note/1", json!({"title": "a", "at": at}));
    expect("note", &notes(&[("at", "location"), ("title", "string")]));
    let renamed = json!({"record_type": "note", "item_name": "title", "new_name": "name"});
    master.call("schema:rename", renamed).result();
    expect("note", &notes(&[("at", "location"), ("name", "string")]));
    let deleted = json!({"record_type": "note", "item_name": "at"});
    master.call("schema:delete", deleted).result();
    expect("note", &notes(&[("name", "string")]));
    let created = json!({"record_types": {"tag": notes(&[("n", "integer")])}});
    master.call("schema:create", created).result();
    expect("tag", &notes(&[("n", "integer")]));
    // No event if nothing is new: the next events are about new fields.
    master.save("note/1", json!({"name": "b"}));
    master.save("note/1", json!({"words": 2}));
    expect("note", &notes(&[("name", "string"), ("words", "number")]));
}
