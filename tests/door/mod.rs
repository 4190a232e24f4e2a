//! The HTTP door: limits, addresses, and who hears what.

use serde_json::json;

use crate::support::client::{Answer, Client, send};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

fn ask(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<(String, String)> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    send(
        method,
        &format!("{}{path}", server.base_url),
        &headers,
        None,
    )
    .unwrap()
}

#[test]
fn a_body_above_the_limit_is_refused_in_json() {
    let server = TestServer::with(&[("MAX_BODY_BYTES", "2048")]);
    let client = Client::anonymous(&server);
    let answer = client.call("record:query", json!({"record_type": "x".repeat(4096)}));
    assert_eq!((answer.status, answer.code()), (413, 107));
    let answer = client.call("record:query", json!({"record_type": "x".repeat(1024)}));
    assert_eq!(answer.status, 200);
}

#[test]
fn browsers_may_ask_from_anywhere() {
    let server = TestServer::start();
    let asked = [
        ("Origin", "http://example.com"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "x-skygear-api-key"),
    ];
    let answer = ask(&server, "OPTIONS", "/any/path", &asked);
    assert_eq!((answer.status, answer.bytes.len()), (200, 0));
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(answer.header("Access-Control-Allow-Methods"), Some("POST"));
    assert_eq!(
        answer.header("Access-Control-Allow-Headers"),
        Some("x-skygear-api-key")
    );
    let ids = [answer, ask(&server, "GET", "/", &[])]
        .map(|answer| answer.header("X-Skygear-Request-Id").unwrap().to_owned());
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn only_the_master_key_sees_the_parts() {
    let server = TestServer::start();
    for key in ["", "wrong", API_KEY] {
        let answer = ask(&server, "GET", "/_/health", &[("X-Skygear-API-Key", key)]);
        assert_eq!(answer.json(), json!({"status": "OK"}));
    }
    let master = [("X-Skygear-API-Key", MASTER_KEY)];
    let answer = ask(&server, "GET", "/_/health", &master);
    assert!(answer.json()["log"].is_object(), "{}", answer.json());
}

#[test]
fn publishing_without_a_socket_needs_the_master_key_channels_and_data() {
    let server = TestServer::start();
    let publish = |body| Client::master(&server).call("pubsub:publish", body);
    let answer = publish(json!({"channels": ["room"], "data": {"a": 1}}));
    assert_eq!(answer.status, 200, "{}", answer.json());
    assert_eq!(publish(json!({"channels": [], "data": 1})).code(), 108);
    assert_eq!(
        publish(json!({"channels": ["room"], "data": null})).code(),
        108
    );
    assert_eq!(publish(json!({"channels": "room", "data": 1})).code(), 107);
    let body = json!({"channels": ["room"], "data": 1});
    let answer = Client::anonymous(&server).call("pubsub:publish", body);
    assert_eq!((answer.status, answer.code()), (401, 102));
}
