//! Who may connect, and what clients see before plugins are ready.

use serde_json::{Value as Json, json};

use super::server;
use super::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

const PROTOCOL: (&str, &str) = ("Sec-WebSocket-Protocol", "skygear.plugin.v1");

fn refused(server: &TestServer, path: &str, headers: &[(&str, &str)]) -> (u16, Json) {
    match Worker::open(server, path, headers) {
        Ok(_) => panic!("was let in"),
        Err((status, body)) => (status, body["error"].clone()),
    }
}

#[test]
fn only_plugins_are_let_in() {
    let server = server(&[]);
    let key = |key| ("X-Skygear-API-Key", key);
    let in_query = format!("/_/plugin?api_key={MASTER_KEY}");
    let cases = [
        (401, 103, refused(&server, "/_/plugin", &[PROTOCOL])),
        (
            401,
            103,
            refused(&server, "/_/plugin", &[PROTOCOL, key("wrong")]),
        ),
        (401, 103, refused(&server, &in_query, &[PROTOCOL])),
        (
            403,
            102,
            refused(&server, "/_/plugin", &[PROTOCOL, key(API_KEY)]),
        ),
        (
            403,
            102,
            refused(
                &server,
                "/_/plugin",
                &[PROTOCOL, key(MASTER_KEY), ("Origin", "http://evil.example")],
            ),
        ),
        (426, 107, refused(&server, "/_/plugin", &[key(MASTER_KEY)])),
        (
            426,
            107,
            refused(
                &server,
                "/_/plugin",
                &[
                    key(MASTER_KEY),
                    ("Sec-WebSocket-Protocol", "skygear.plugin.v9"),
                ],
            ),
        ),
    ];
    for (status, code, (found, error)) in cases {
        assert_eq!(
            (status, json!(code)),
            (found, error["code"].clone()),
            "{error}"
        );
        if status == 426 {
            assert_eq!(error["info"]["supported"], json!(["skygear.plugin.v1"]));
        }
    }
    // A page of the server itself, and a worker that offers more than one version.
    let own = format!("http://{}", server.address());
    let offers = (
        "Sec-WebSocket-Protocol",
        "skygear.plugin.v2, skygear.plugin.v1",
    );
    assert!(
        Worker::open(
            &server,
            "/_/plugin",
            &[offers, key(MASTER_KEY), ("Origin", &own)]
        )
        .is_ok()
    );
}

#[test]
fn clients_wait_until_plugins_are_ready() {
    let server = server(&[]);
    let (client, master) = (Client::anonymous(&server), Client::master(&server));
    let query = json!({"record_type": "note"});
    let own = json!({"record_type": "note", "_from_plugin": true});
    for answer in [
        client.call("record:query", query.clone()),
        client.call("auth:signup", json!({})),
        master.call("record:query", own.clone()),
    ] {
        assert_eq!((answer.status, answer.code()), (503, 118));
    }
    assert_eq!(client.call("", json!({})).status, 200);

    let mut worker = Worker::greet(&server, &json!({}));
    worker.register(&json!({}));
    let event = worker.expect_request("before-plugins-ready");
    assert_eq!(event["param"]["config"]["app"]["master_key"], MASTER_KEY);
    for answer in [
        client.call("record:query", query.clone()),
        client.call("record:query", own.clone()),
        master.call("record:query", query.clone()),
    ] {
        assert_eq!((answer.status, answer.code()), (503, 121));
    }
    assert_eq!(master.call("record:query", own).status, 200);
    // Over its own connection the plugin needs no key.
    let payload = json!({"action": "record:query", "record_type": "note", "_from_plugin": true});
    worker.send(json!({"type": "call", "id": "c1", "payload": payload}));
    assert_eq!(worker.expect("reply")["status"], 200);

    worker.answer(&event, &json!(null));
    worker.expect("ready");
    assert_eq!(client.call("record:query", query).status, 200);
}

#[test]
fn a_server_that_ends_lets_running_requests_finish() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "slow"}]}));
    let client = Client::anonymous(&server);
    let asked = super::call(&client, "slow", json!({}));
    let request = worker.expect_request("slow");
    let pid = server.pid().to_string();
    std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .unwrap();
    eventually("no new connections", || {
        std::net::TcpStream::connect(server.address()).err()
    });
    worker.answer(&request, &json!("finished"));
    assert_eq!(asked.join().unwrap().result(), "finished");
    let drain = worker.expect("drain");
    assert_eq!(
        (&drain["reason"], &drain["reconnect"]),
        (&json!("shutdown"), &json!(true))
    );
    worker.expect("drained");
    assert_eq!(worker.expect_close(), 1012);
    assert!(server.terminate().success());
}

/// The client is answered, and no worker takes the stop for a broken network.
#[test]
fn a_server_that_ends_says_goodbye_although_a_request_takes_too_long() {
    let mut server = server(&[("PLUGINS", "TEST,OTHER")]);
    let (mut slow, mut other) = super::two_ready(
        &server,
        &json!({"op": [{"name": "slow"}]}),
        &json!({"op": [{"name": "other"}]}),
    );
    let client = Client::anonymous(&server);
    let asked = super::call(&client, "slow", json!({}));
    slow.expect_request("slow");
    let pid = server.pid().to_string();
    std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status()
        .unwrap();
    for worker in [&mut slow, &mut other] {
        assert_eq!(worker.expect("drain")["reason"], "shutdown");
    }
    other.expect("drained");
    assert_eq!(other.expect_close(), 1012);
    assert_eq!(slow.expect("cancel")["reason"], "shutdown");
    assert_eq!(slow.expect_close(), 1012);
    let answer = asked.join().unwrap();
    assert_eq!(
        (answer.status, answer.code()),
        (503, 118),
        "{}",
        answer.json()
    );
    assert!(server.terminate().success());
}

#[test]
fn a_worker_comes_back_after_a_crash_of_the_server() {
    let points = json!({"op": [{"name": "a"}]});
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    server.restart();
    assert!(matches!(
        worker.next(std::time::Duration::from_secs(10)),
        super::worker::Seen::Lost
    ));
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let asked = super::call(&Client::anonymous(&server), "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}
