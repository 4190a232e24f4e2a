//! Waiting pushes survive a stop and a crash.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

use super::apns::with_token;
use super::certificates::APP;
use super::service::{Received, Reply, Service};
use super::{await_figure, push_to, register};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// An Apple service that may be unavailable.
pub fn away() -> (Arc<AtomicBool>, Service) {
    let is_away = Arc::new(AtomicBool::new(true));
    let judged = Arc::clone(&is_away);
    let service = Service::start(move |_| {
        let is_away = judged.load(Ordering::Relaxed);
        Reply::status(if is_away { 503 } else { 200 })
    });
    (is_away, service)
}

pub fn notification(text: &str) -> Json {
    json!({"apns": {"aps": {"alert": text}}})
}

fn somebody(server: &TestServer) -> Client {
    let ada = Client::signed_up(server, "ada");
    register(&ada, "ios", "a1", APP);
    ada
}

pub fn texts(received: &[Received]) -> Vec<String> {
    let alert = |it: &Received| it.json()["aps"]["alert"].as_str().unwrap().to_owned();
    received.iter().map(alert).collect()
}

#[test]
fn what_a_crash_interrupts_is_sent_after_it_and_once() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let ada = somebody(&server);
    push_to(&ada, &ada, &notification("first"));
    push_to(&ada, &ada, &notification("second"));
    server.kill();
    // Still unavailable when the server is back.
    let asked = service.received().len();
    server.restart();
    service.await_answers(503, asked + 1);
    await_figure(&server, "apns", "num_kept", 2);
    server.kill();
    is_away.store(false, Ordering::Relaxed);
    server.restart();
    let mut received = texts(&service.await_answers(200, 2));
    received.sort_unstable();
    assert_eq!(received, ["first", "second"]);
    let ids: Vec<_> = service.received().into_iter().collect();
    let id_of = |text: &str| {
        let its = ids
            .iter()
            .filter(|(it, _)| it.json()["aps"]["alert"] == text);
        let mut its: Vec<_> = its.map(|(it, _)| it.header("apns-id").unwrap()).collect();
        its.dedup();
        its.len()
    };
    assert_eq!(id_of("first"), 1, "{ids:?}");
    await_figure(&server, "apns", "num_kept", 0);
    await_figure(&server, "apns", "num_sent", 2);

    // What was sent is not sent again.
    server.kill();
    server.restart();
    push_to(&ada.at(&server), &ada, &notification("third"));
    let received = texts(&service.await_answers(200, 3));
    assert_eq!((received.len(), &*received[2]), (3, "third"));
}

/// A request to many devices is kept once, not once for each of them.
#[test]
fn what_many_devices_get_is_kept_once_and_then_overwritten() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[("MAX_USER_DEVICES", "200")]);
    let ada = Client::signed_up(&server, "ada");
    for number in 0..200 {
        register(&ada, "ios", &format!("a{number}"), APP);
    }
    let secret = "between us ".repeat(350);
    push_to(&ada, &ada, &notification(&secret));
    await_figure(&server, "apns", "num_kept", 200);
    let path = server.data_dir().join("ops.sqlite");
    assert!(server.terminate().success());
    let kept = std::fs::read(&path).unwrap();
    let num_bytes = kept.len();
    assert!(num_bytes < 100 * secret.len(), "{num_bytes} bytes");
    is_away.store(false, Ordering::Relaxed);
    server.restart();
    assert_eq!(texts(&service.await_answers(200, 200)), vec![secret; 200]);
    await_figure(&server, "apns", "num_kept", 0);
    assert!(server.terminate().success());
    let kept = std::fs::read(&path).unwrap();
    assert!(!kept.windows(10).any(|part| part == b"between us"));
}

#[test]
fn a_stop_leaves_what_cannot_be_sent_to_the_next_start() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let ada = somebody(&server);
    push_to(&ada, &ada, &notification("hello"));
    service.await_answers(503, 1);
    assert!(server.terminate().success());
    is_away.store(false, Ordering::Relaxed);
    server.restart();
    assert_eq!(texts(&service.await_answers(200, 1)), ["hello"]);
    await_figure(&server, "apns", "num_kept", 0);
}

#[test]
fn what_is_too_old_after_a_start_is_dropped_and_counted() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let ada = somebody(&server);
    push_to(&ada, &ada, &notification("old"));
    await_figure(&server, "apns", "num_kept", 1);
    server.kill();
    let ops_store = server.data_dir().join("ops.sqlite");
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
        print(db.execute('UPDATE waiting_push SET since = since - 3601 * 1000000').rowcount); db.commit()";
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(&ops_store)
        .output();
    let output = output.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "1",
        "{output:?}"
    );
    is_away.store(false, Ordering::Relaxed);
    server.restart();
    await_figure(&server, "apns", "num_expired", 1);
    push_to(&ada.at(&server), &ada, &notification("new"));
    assert_eq!(texts(&service.await_answers(200, 1)), ["new"]);
    await_figure(&server, "apns", "num_kept", 0);
}

/// Registers a device that is told of notes.
fn told_of_notes(client: &Client, token: &str) {
    let device = register(client, "ios", token, APP);
    let body = json!({"database_id": "_public", "device_id": device, "subscriptions":
        [{"id": "notes", "type": "query", "query": {"record_type": "note"}}]});
    client.call("subscription:save", body).result();
}

/// Of the notices of a subscription only the last one is pushed, also across a crash.
#[test]
fn a_notice_takes_the_place_of_one_from_before_a_crash() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let ada = somebody(&server);
    told_of_notes(&ada, "a2");
    ada.save("note/a", json!({"n": 1}));
    await_figure(&server, "apns", "num_kept", 1);
    let before = service.await_answers(503, 1);
    server.kill();
    server.restart();
    await_figure(&server, "apns", "num_kept", 1);
    let ada = ada.at(&server);
    told_of_notes(&ada, "a3");
    ada.save("note/a", json!({"n": 2}));
    await_figure(&server, "apns", "num_queued", 2);
    // The other device's notice comes later than that of the first one.
    await_figure(&server, "apns", "num_kept", 2);
    is_away.store(false, Ordering::Relaxed);
    await_figure(&server, "apns", "num_kept", 0);
    let received = service.await_answers(200, 2);
    let numbers = |of: &[Received]| {
        let its = of.iter().filter(|it| it.path == "/3/device/a2");
        let number = |it: &Received| it.json()["_skygear"]["seq-num"].as_u64().unwrap();
        Vec::from_iter(its.map(number))
    };
    assert_eq!(numbers(&received).len(), 1, "{received:?}");
    assert!(numbers(&received) > numbers(&before));
}

#[test]
fn a_notice_that_has_to_wait_outlives_a_crash() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let ada = somebody(&server);
    told_of_notes(&ada, "a2");
    ada.save("note/a", json!({"n": 1}));
    await_figure(&server, "apns", "num_kept", 1);
    server.kill();
    is_away.store(false, Ordering::Relaxed);
    server.restart();
    let received = service.await_answers(200, 1);
    assert_eq!(received[0].json()["_skygear"]["subscription-id"], "notes");
}
