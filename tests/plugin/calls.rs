//! What plugins may ask of the server over their own connection and over HTTP, and on whose behalf.

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, server, two_ready};
use crate::support::client::Client;

/// Asks over the worker's connection; returns status and body.
fn ask(worker: &mut Worker, id: &str, payload: Json) -> (Json, Json) {
    worker.send(json!({"type": "call", "id": id, "payload": payload}));
    let reply = worker.expect("reply");
    assert_eq!(reply["id"], id);
    (reply["status"].clone(), reply["body"].clone())
}

#[test]
fn the_master_key_acts_for_any_user_and_else_for_itself() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    let closed = json!([{"level": "read", "user_id": user}]);
    ada.save("note/hers", json!({"n": 1}));
    ada.call(
        "record:save",
        json!({"records": [{"_id": "note/hers", "_access": closed}]}),
    )
    .result();
    let save = |as_whom: Option<&str>, id: &str| {
        let mut payload = json!({"action": "record:save", "access_token": null,
            "records": [{"_id": id, "seen": true}]});
        if let Some(user) = as_whom {
            payload["_user_id"] = json!(user);
        }
        payload
    };
    // As itself: the user of that name is created on the spot, and no access list keeps it out.
    let (status, body) = ask(&mut worker, "c1", save(None, "note/own"));
    assert_eq!(status, 200);
    assert_eq!(body["result"][0]["_ownerID"], "_god");
    let (_, body) = ask(&mut worker, "c2", save(None, "note/hers"));
    assert_eq!(body["result"][0]["seen"], true, "{body}");
    assert_eq!(body["result"][0]["_ownerID"], json!(user));
    assert_eq!(body["result"][0]["_updated_by"], "_god");
    // As a user, and as one that does not exist.
    let (_, body) = ask(&mut worker, "c3", save(Some(&user), "note/for-her"));
    assert_eq!(body["result"][0]["_ownerID"], json!(user));
    let (status, body) = ask(&mut worker, "c4", save(Some("stranger"), "note/stranger"));
    assert_eq!(status, 200);
    assert_eq!(body["result"][0]["_ownerID"], "stranger");
    // The same over HTTP, but only with the master key.
    let mut payload = save(Some(&user), "note/over-http");
    payload.as_object_mut().unwrap().remove("access_token");
    let saved = Client::master(&server).call("record:save", payload.clone());
    assert_eq!(saved.result()[0]["_ownerID"], json!(user));
    let refused = Client::anonymous(&server).call("record:save", payload);
    assert_eq!((refused.status, refused.code()), (401, 101));
}

#[test]
fn a_call_without_an_action_is_refused() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    for payload in [
        json!({}),
        json!([]),
        json!({"action": ""}),
        json!({"action": 5}),
    ] {
        let (status, body) = ask(&mut worker, "c1", payload.clone());
        assert_eq!(
            (status, &body["error"]["code"]),
            (json!(400), &json!(108)),
            "{payload}"
        );
    }
}

#[test]
fn a_call_within_a_request_keeps_its_id_and_its_time() {
    let server = server(&[("RESPONSE_TIMEOUT", "20")]);
    let points = json!({"op": [{"name": "outer"}, {"name": "inner"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let asked = call(&Client::anonymous(&server), "outer", json!({}));
    let outer = worker.expect_request("outer");
    let payload = json!({"action": "inner", "args": {"$type": "date", "$date": "bad"}});
    let nested = |id: &str, payload: Json| json!({"type": "call", "id": id, "parent": outer["id"], "payload": payload});
    worker.send(nested("c1", payload));
    let reply = worker.expect("reply");
    assert_eq!(
        (&reply["status"], &reply["body"]["error"]["code"]),
        (&json!(400), &json!(107))
    );
    worker.send(nested("c2", json!({"action": "inner", "_user_id": "ada"})));
    let inner = worker.expect_request("inner");
    let context = json!({"user_id": "ada", "access_key_type": "master",
        "request_id": outer["context"]["request_id"], "request_tag": "plugin"});
    assert_eq!(inner["context"], context);
    assert!(inner["timeout_ms"].as_u64().unwrap() <= 20_000, "{inner}");
    // Keys that the plugin did not send are not shown to it.
    assert!(inner["param"].get("api_key").is_none(), "{inner}");
    worker.answer(&inner, &json!("inner"));
    assert_eq!(worker.expect("reply")["body"], json!({"result": "inner"}));
    worker.answer(&outer, &json!("outer"));
    assert_eq!(asked.join().unwrap().result(), "outer");
}

#[test]
fn what_comes_back_through_another_plugin_goes_to_the_worker_that_waits() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let points = json!({"op": [{"name": "a"}, {"name": "c"}]});
    let (mut first, mut other) = two_ready(&server, &points, &json!({"op": [{"name": "b"}]}));
    let asked = call(&Client::anonymous(&server), "a", json!({}));
    let outer = first.expect_request("a");
    // More workers of the plugin, all idle.
    let mut idle: Vec<_> = (0..3).map(|_| Worker::rejoin(&server, &points)).collect();
    let ask = |worker: &mut Worker, parent: &Json, name: &str| {
        let payload = json!({"action": name});
        let id = format!("calls-{name}");
        let parent = &parent["id"];
        worker.send(json!({"type": "call", "id": id, "parent": parent, "payload": payload}));
    };
    ask(&mut first, &outer, "b");
    let between = other.expect_request("b");
    assert!(between.get("parent").is_none(), "{between}");
    ask(&mut other, &between, "c");
    let inner = first.expect_request("c");
    // Nested in the plugin's own call, not in the other plugin's.
    assert_eq!(inner["parent"], "calls-b");
    first.answer(&inner, &json!("inner"));
    assert_eq!(other.expect("reply")["body"]["result"], "inner");
    other.answer(&between, &json!("between"));
    assert_eq!(first.expect("reply")["body"]["result"], "between");
    first.answer(&outer, &json!("outer"));
    assert_eq!(asked.join().unwrap().result(), "outer");
    for idle in &mut idle {
        idle.expect_nothing(&server);
    }
}
