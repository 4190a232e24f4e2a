//! Keys that have a meaning for the JSON library: here they have none, wherever they occur.

use serde_json::{Value as Json, json};

use crate::support::client::{Client, send};
use crate::support::server::{MASTER_KEY, TestServer};

const KEY: &str = "$serde_json::private::RawValue";

/// Reads JSON without the library's special keys; needed only for answers that contain one.
fn read(text: &[u8]) -> Json {
    skytrail_schema::json::from_slice(text).unwrap()
}

#[test]
fn a_record_keeps_such_a_key_through_restarts() {
    let mut server = TestServer::start();
    let blob = json!({"a": 1, KEY: "no JSON", "list": [{KEY: {"b": 2}}]});
    let master = Client::master(&server);
    let record = json!({"_id": "note/one", "blob": blob});
    master
        .call("record:save", json!({"records": [record]}))
        .result();
    master.call(
        "record:save",
        json!({"records": [{"_id": "note/one", "text": "changed"}]}),
    );
    let assert_kept = |master: &Client| {
        let found = master.call("record:fetch", json!({"ids": ["note/one"]}));
        assert_eq!(read(&found.bytes)["result"][0]["blob"], blob);
        let found = master.call("record:query", json!({"record_type": "note"}));
        assert_eq!(read(&found.bytes)["result"][0]["blob"], blob);
        let page = master.call("log:read", json!({"record_types": ["note"]}));
        assert_eq!(page.status, 200);
    };
    assert_kept(&master);
    for _ in 0..2 {
        server.kill();
        let verified = server.skytrail(&["log", "verify"]);
        assert!(verified.status.success(), "{verified:?}");
        server.restart();
        assert_kept(&master.at(&server));
    }
}

#[test]
fn a_subscription_keeps_such_a_key_through_restarts() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let device = json!({"type": "ios", "device_token": "token", "topic": "topic"});
    let device = ada.call("device:register", device).result();
    ada.save("note/one", json!({"blob": {"a": 1}}));
    let predicate = json!(["neq", {"$type": "keypath", "$val": "blob"}, {"a": 1, KEY: "no JSON"}]);
    let subscription = json!({
        "id": "one", "type": "query", "query": {"record_type": "note", "predicate": predicate},
    });
    let saved = json!({"device_id": device["id"], "subscriptions": [subscription]});
    let saved = ada.call("subscription:save", saved);
    assert_eq!(saved.status, 200, "{}", saved.json());
    server.restart();
    let all = json!({"device_id": device["id"]});
    let all = ada.at(&server).call("subscription:fetch_all", all);
    assert_eq!(
        read(&all.bytes)["result"][0]["query"]["predicate"],
        predicate
    );
}

/// Strings within strings, each of which is parsed again by code that gives the key the library's
/// meaning.
fn bomb() -> String {
    let escaped = |text: &str| text.replace('\\', "\\u005c").replace('"', "\\u0022");
    let within = |text: &str| format!("{{\"{KEY}\":\"{}\"}}", escaped(text));
    (0..200).fold("0".to_owned(), |text, _| {
        within(&format!("{}{text}{}", "[".repeat(90), "]".repeat(90)))
    })
}

#[test]
fn texts_within_texts_have_no_depth() {
    let server = TestServer::with(&[("TOKEN_STORE", "jwt")]);
    let body = format!("{{\"action\":\"_status:healthz\",\"a\":{}}}", bomb());
    let url = format!("{}/", server.base_url);
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    send("POST", &url, &[key], Some(body.into_bytes())).unwrap();
    assert_eq!(Client::master(&server).health()["error"], Json::Null);
}

#[test]
fn the_head_of_a_token_has_no_depth() {
    use base64::Engine as _;
    let server = TestServer::with(&[("TOKEN_STORE", "jwt")]);
    let head = format!("{{\"alg\":\"HS256\",\"x\":{}}}", bomb());
    let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(head);
    let anybody = Client::anonymous(&server).with_token(&format!("{head}.e30.AAAA"));
    assert_eq!(anybody.call("me", json!({})).code(), 104);
}
