//! Clients that take their time, hold on, or go away.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{figure, scrape};
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::raw::RawClient;
use crate::support::server::{API_KEY, TestServer};
use crate::support::socket::Socket;

/// Longer than any limit that these tests set, and shorter than the default limits.
const SOON: Duration = Duration::from_secs(9);

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let server = TestServer::with(&[("HTTP_HEAD_TIMEOUT", "1")]);
    let mut client = RawClient::connect(&server);
    client.send(b"POST / HTTP/1.1\r\nHost:");
    assert!(client.is_ended(SOON));
}

#[test]
fn a_later_head_that_does_not_come_ends_the_connection_too() {
    let settings = [("HTTP_HEAD_TIMEOUT", "1"), ("HTTP_KEEP_ALIVE", "1")];
    let server = TestServer::with(&settings);
    let mut client = RawClient::connect(&server);
    client.send_head("/", &["Content-Length: 0"]);
    assert_eq!(client.answer(SOON).unwrap().status, 200);
    client.send(b"POST / HTTP/1.1\r\nHost:");
    assert!(client.is_ended(SOON));
}

#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let server = TestServer::with(&[("HTTP_BODY_TIMEOUT", "1")]);
    let mut client = RawClient::connect(&server);
    client.send_head("/", &["Content-Length: 100"]);
    client.send(b"{");
    let answer = client.answer(SOON).unwrap();
    assert_eq!((answer.status, answer.code()), (408, 107));
}

#[test]
fn who_does_not_take_his_answer_loses_the_connection() {
    let server = TestServer::with(&[("HTTP_SEND_TIMEOUT", "1")]);
    let owner = Client::signed_up(&server, "reader");
    for number in 0..16 {
        let text = "x".repeat(1 << 20);
        owner.save(&format!("page/{number}"), json!({"text": text}));
    }
    let before = figure(&scrape(&server), "skytrail_connections");
    let mut reader = RawClient::connect_narrow(&server, 4096);
    let body = json!({"record_type": "page"}).to_string();
    let length = format!("Content-Length: {}", body.len());
    let key = format!("X-Skygear-API-Key: {API_KEY}");
    reader.send_head("/record/query", &[&length, &key]);
    reader.send(body.as_bytes());
    eventually("the answer is under way", || {
        reader.has_answer().then_some(())
    });
    eventually("the connection is closed", || {
        let now = figure(&scrape(&server), "skytrail_connections");
        (now <= before).then_some(())
    });
}

#[test]
fn who_takes_his_answer_slowly_gets_it_whole() {
    let settings = [
        ("HTTP_SEND_TIMEOUT", "4"),
        ("HTTP_HEAD_TIMEOUT", "1"),
        ("HTTP_KEEP_ALIVE", "1"),
    ];
    let server = TestServer::with(&settings);
    let owner = Client::signed_up(&server, "reader");
    for number in 0..8 {
        let text = "x".repeat(1 << 20);
        owner.save(&format!("page/{number}"), json!({"text": text}));
    }
    let mut reader = RawClient::connect_narrow(&server, 256 << 10);
    let body = json!({"record_type": "page"}).to_string();
    let length = format!("Content-Length: {}", body.len());
    let key = format!("X-Skygear-API-Key: {API_KEY}");
    reader.send_head("/record/query", &[&length, &key]);
    reader.send(body.as_bytes());
    let answer = reader.answer_slowly(Duration::from_secs(7)).unwrap();
    assert_eq!(answer.json()["result"].as_array().unwrap().len(), 8);
}

#[test]
fn answers_that_clients_do_not_take_have_a_bound_together() {
    let server = TestServer::with(&[("HTTP_MAX_UNSENT_BYTES", "20000000")]);
    let owner = Client::signed_up(&server, "reader");
    for number in 0..16 {
        let text = "x".repeat(1 << 20);
        owner.save(&format!("page/{number}"), json!({"text": text}));
    }
    let unsent = || figure(&scrape(&server), "skytrail_unsent_bytes");
    let body = json!({"record_type": "page"}).to_string();
    let length = format!("Content-Length: {}", body.len());
    let key = format!("X-Skygear-API-Key: {API_KEY}");
    let mut slow = RawClient::connect_narrow(&server, 4096);
    slow.send_head("/record/query", &[&length, &key]);
    slow.send(body.as_bytes());
    eventually("an answer is under way", || slow.has_answer().then_some(()));
    assert!(unsent() > 16e6);

    // There is no room for another large answer, but for small ones, and for the answers of saves.
    let answer = owner.call("record:query", json!({"record_type": "page"}));
    assert_eq!((answer.status, answer.code()), (503, 10000));
    let limit = &answer.json()["error"]["info"]["limit"];
    assert_eq!(limit["name"], "HTTP_MAX_UNSENT_BYTES");
    assert_eq!(
        owner
            .call("record:fetch", json!({"ids": ["page/1"]}))
            .status,
        200
    );
    let text = "y".repeat(5 << 20);
    owner.save("page/large", json!({"text": text}));

    drop(slow);
    eventually("what nobody takes any more has left", || {
        (unsent() < 1e6).then_some(())
    });
    let answer = owner.call("record:query", json!({"record_type": "page", "limit": 16}));
    assert_eq!(answer.status, 200);
}

#[test]
fn what_was_done_is_answered_also_when_there_is_no_room_for_answers() {
    let server = TestServer::with(&[
        ("HTTP_MAX_UNSENT_BYTES", "1"),
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_SUBJECT", "mailto:ops@notes.example"),
    ]);
    let master = Client::master(&server);
    // Neither stores anything, and the second one's answer is long.
    let told = json!({"channels": ["news"], "data": {}});
    assert_eq!(master.call("pubsub:publish", told).status, 200);
    let users: Vec<String> = (0..900).map(|it| format!("{it:0>40}")).collect();
    let pushed = json!({"user_ids": users, "notification": {"web": {}}});
    let pushed = master.call("push:user", pushed);
    assert_eq!(pushed.status, 200, "{}", pushed.json()["error"]);

    // A request that only reads is refused, unless its answer is short.
    let owner = Client::signed_up(&server, "reader");
    owner.save("page/1", json!({"text": "x".repeat(1 << 15)}));
    owner.save("page/2", json!({"text": "x"}));
    let fetch = |id| owner.call("record:fetch", json!({"ids": [id]})).status;
    assert_eq!([fetch("page/1"), fetch("page/2")], [503, 200]);
}

#[test]
fn more_connections_than_allowed_wait_for_room() {
    let settings = [("HTTP_MAX_CONNECTIONS", "2"), ("HTTP_WORKERS", "1")];
    let server = TestServer::with(&settings);
    let ask = |client: &mut RawClient| client.send_head("/", &["Content-Length: 0"]);
    let mut taken: Vec<RawClient> = (0..2).map(|_| RawClient::connect(&server)).collect();
    for client in &mut taken {
        ask(client);
        assert_eq!(client.answer(SOON).unwrap().status, 200);
    }
    let mut waiting = RawClient::connect(&server);
    ask(&mut waiting);
    // The server gives no sign that it leaves a connection waiting.
    assert!(waiting.answer(Duration::from_millis(300)).is_none());
    drop(taken.pop());
    assert_eq!(waiting.answer(SOON).unwrap().status, 200);
}

#[test]
fn who_hangs_up_frees_what_was_done_for_him() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let points = json!({"op": [{"name": "slow", "user_required": false}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let mut client = RawClient::connect(&server);
    let key = format!("X-Skygear-API-Key: {API_KEY}");
    client.send_head("/slow", &["Content-Length: 0", &key]);
    let request = worker.expect_request("slow");
    drop(client);
    let cancel = worker.expect("cancel");
    assert_eq!(
        (&cancel["id"], &cancel["reason"]),
        (&request["id"], &Json::from("client-gone"))
    );
    eventually("it is counted", || {
        (figure(&scrape(&server), "skytrail_hang_ups_total") > 0.0).then_some(())
    });
}

#[test]
fn a_socket_where_none_is_served_is_answered_at_once() {
    let server = TestServer::start();
    let headers = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    let (status, _) = Socket::open(server.address(), "/record/query", &headers)
        .err()
        .unwrap();
    assert_eq!(status, 400);
}
