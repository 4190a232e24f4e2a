//! Malformed messages on sockets: the socket may end, but the server and the other sockets must
//! not.

use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::World;
use crate::plugin::worker::{Seen, Worker};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::{Incoming, Socket};

const TIMEOUT: Duration = Duration::from_secs(10);

fn strange_frames() -> Vec<String> {
    let deep = |depth: usize| format!("{{\"action\": {}", "[".repeat(depth));
    let mut frames: Vec<String> = [
        "",
        " ",
        "null",
        "1",
        "[]",
        "{}",
        "{",
        "\"x\"",
        "{\"action\": 1}",
        "{\"action\": \"sub\"}",
        "{\"action\": \"sub\", \"channel\": 1}",
        "{\"action\": \"sub\", \"channel\": \"\\u0000\"}",
        "{\"action\": \"pub\", \"channel\": \"a\", \"data\": 1e400}",
        "{\"action\": \"pub\", \"channel\": \"a\", \"data\": \"\\ud800\"}",
        "{\"action\": \"\\u0000\", \"channel\": \"a\"}",
        "{\"action\": \"sub\", \"action\": \"unsub\", \"channel\": \"a\"}",
        "{\"type\": \"hello\", \"plugin\": 1}",
        "{\"type\": \"hello\", \"plugin\": \"\\u0000\", \"window\": -1}",
        "{\"type\": \"hello\", \"plugin\": \"TEST\", \"window\": 1e400}",
        "{\"type\": \"hello\", \"plugin\": \"TEST\", \"generation\": 18446744073709551616}",
        "{\"type\": \"nonsense\"}",
        "{\"type\": \"response\", \"id\": 1, \"seq\": -1}",
        "{\"type\": \"call\", \"seq\": 1, \"id\": \"\", \"payload\": {}}",
    ]
    .iter()
    .map(|text| (*text).to_owned())
    .collect();
    frames.extend([deep(100), deep(200), deep(100_000), "x".repeat(100_000)]);
    frames
}

#[test]
fn pubsub_bears_whatever_is_said() {
    let world = World::new();
    let server = &world.server;
    let mut witness = open(server, "/pubsub", API_KEY);
    witness.send(r#"{"action": "sub", "channel": "room"}"#);
    for path in ["/pubsub", "/_/pubsub"] {
        for frame in strange_frames() {
            let mut socket = open(server, path, MASTER_KEY);
            socket.send(&frame);
            // Still open or ended; either way the next one connects.
            let timeout = Duration::from_millis(5);
            if !matches!(socket.receive(timeout), Incoming::Closed) {
                socket.close();
            }
        }
    }
    witness.send(r#"{"action": "pub", "channel": "room", "data": "well"}"#);
    match witness.receive(TIMEOUT) {
        Incoming::Text(text) => assert!(text.contains("well"), "{text}"),
        other => panic!("{other:?}"),
    }
    world.assert_well();
}

#[test]
fn the_log_bears_whatever_is_said() {
    let world = World::new();
    let server = &world.server;
    let mut frames = strange_frames();
    let beginnings = [
        r#"{"type": "follow", "from": -1}"#,
        r#"{"type": "follow", "kinds": "record"}"#,
        r#"{"type": "follow", "stream": "\u0000"}"#,
        r#"{"type": "consume", "consumer": "\u0000", "window": 1e400}"#,
        r#"{"type": "consume", "consumer": 1}"#,
        r#"{"type": "ack", "position": 18446744073709551616}"#,
    ];
    frames.extend(beginnings.map(str::to_owned));
    let mut witness = open(server, "/log", MASTER_KEY);
    witness.send(r#"{"type": "follow", "from": 1}"#);
    for frame in frames {
        let mut socket = open(server, "/log", MASTER_KEY);
        socket.send(&frame);
        // All of them are refused, and the socket ends.
        while let Incoming::Text(said) = socket.receive(TIMEOUT) {
            assert!(said.contains("\"error\""), "{frame}: {said}");
        }
        assert!(
            matches!(socket.receive(TIMEOUT), Incoming::Closed),
            "{frame}"
        );
    }
    assert!(matches!(witness.receive(TIMEOUT), Incoming::Text(_)));
    world.assert_well();
}

fn open(server: &TestServer, path: &str, key: &str) -> Socket {
    let headers = [("X-Skygear-API-Key".to_owned(), key.to_owned())];
    Socket::open(server.address(), path, &headers).unwrap()
}

/// Reads what the server sends after a strange message, until the end or the answer to a ping after
/// it.
fn hear_out(worker: &mut Worker, strange: &str) {
    worker.send(json!({"type": "ping"}));
    loop {
        match worker.next(TIMEOUT) {
            Seen::Message(message) if message["type"] == "pong" => return,
            Seen::Message(message) => assert!(message["type"].is_string(), "{strange}: {message}"),
            Seen::Close(_) | Seen::Lost => return,
            Seen::Nothing => panic!("no word to {strange}"),
        }
    }
}

#[test]
fn the_plugins_door_bears_whatever_is_said() {
    let server = TestServer::with(&[("PLUGIN_ALLOW_UNLISTED", "on")]);
    for frame in strange_frames() {
        let mut worker = Worker::connect(&server);
        worker.send_raw(Message::text(frame.clone()));
        hear_out(&mut worker, &frame);
    }
    let messages = [
        json!({"type": "call", "id": "c1", "action": "record:save", "payload": {"records": 1}}),
        json!({"type": "call", "id": "c2", "action": "record:save", "payload": []}),
        json!({"type": "call", "id": 7, "action": 7, "payload": 7}),
        json!({"type": "call"}),
        json!({"type": "response", "id": "none", "result": {}}),
        json!({"type": "response", "id": null, "error": []}),
        json!({"type": "cancel", "id": {"a": []}}),
        json!({"type": "drain", "reason": 1}),
        json!({"type": "window", "size": -5}),
        json!({"type": "register", "op": "x"}),
    ];
    for message in messages {
        let mut worker = Worker::greet(&server, &json!({}));
        let text = message.to_string();
        worker.send(message);
        hear_out(&mut worker, &text);
    }
    for registration in [
        json!({"op": 1}),
        json!({"op": [{"name": 1}]}),
        json!({"op": [{"name": "\u{0}"}], "hook": {"x": 1}}),
        json!({"hook": [{"name": "h", "type": "note", "trigger": "never"}]}),
        json!({"timer": [{"name": "t", "spec": "@every 1e400s"}]}),
        json!({"handler": [{"name": "../../x", "methods": ["\r\nX: y"]}]}),
        json!([]),
        json!("x"),
        Json::Null,
    ] {
        let mut worker = Worker::greet(&server, &json!({}));
        loop {
            match worker.next(TIMEOUT) {
                Seen::Message(message) if message["type"] == "request" => {
                    let is_init = message["name"] == "init";
                    worker.answer(&message, if is_init { &registration } else { &Json::Null });
                }
                Seen::Message(message) if message["type"] == "registered" => break,
                Seen::Message(_) => {}
                other => panic!("{registration}: {other:?}"),
            }
        }
        hear_out(&mut worker, &registration.to_string());
    }
    let headers = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let url = format!("{}/_/health", server.base_url);
    let parts = crate::support::client::send("GET", &url, &headers, None)
        .unwrap()
        .json();
    assert_eq!(parts["status"], "OK", "{parts}");
    assert!(!server.output().contains("panic"), "{}", server.output());
}
