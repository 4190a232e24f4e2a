//! Addresses that Apple does not take, does not know any more, or cannot take: clients choose them.

use serde_json::{Value as Json, json};

use super::apns::{hello, with_token};
use super::apple::{apple, now, refusal};
use super::certificates::APP;
use super::service::{Reply, Service};
use super::{await_figure, is_known, push_to, register};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Any client can register a device with the topic of another team: that delays no other push.
#[test]
fn a_topic_that_apple_never_took_holds_up_no_other() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let (ada, eve) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "eve"),
    );
    register(&ada, "ios", "a1", APP);
    register(&eve, "ios", "e1", "com.example.strange");
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 1);
    service.script([refusal(403, "InvalidProviderToken").with("retry-after", "30")]);
    push_to(&eve, &eve, &hello());
    await_figure(&server, "apns", "num_retrying", 1);
    await_figure(&server, "apns", "is_held", false);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 2);
}

/// Clients choose addresses. One that no request can hold is the fault of its device alone.
#[test]
fn an_address_that_no_request_can_hold_delays_no_other_push() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let (ada, eve) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "eve"),
    );
    register(&ada, "ios", "a1", APP);
    let long = "e".repeat(70_000);
    for (token, topic) in [("e1", "com.example.notes\n"), (&*long, APP)] {
        // The address is kept when the device changes its type, as an imported one is kept.
        let device = register(&eve, "android", token, topic);
        let changed = json!({"id": device, "type": "ios"});
        eve.call("device:register", changed).result();
    }
    push_to(&eve, &eve, &hello());
    await_figure(&server, "apns", "num_unreachable", 2);
    await_figure(&server, "apns", "num_failed", 0);
    await_figure(&server, "apns", "num_retried", 0);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 1);
    assert_eq!(service.received().len(), 1);
}

#[test]
fn an_address_that_cannot_be_apples_is_refused() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let ask = |token: &str, topic: &str| {
        let body = json!({"type": "ios", "device_token": token, "topic": topic});
        ada.call("device:register", body)
    };
    let (token, topic) = ("a".repeat(201), "c".repeat(256));
    for (token, topic, member, why) in [
        ("a1", "com.example.notes\n", "topic", "other than"),
        ("a1", "com.example.é", "topic", "other than"),
        ("a1", &*topic, "topic", "more than 255"),
        (&*token, APP, "device_token", "more than 200"),
        ("../a1", APP, "device_token", "other than"),
        ("a 1", APP, "device_token", "other than"),
    ] {
        let answer = ask(token, topic);
        assert_eq!(answer.code(), 108, "{:?}", answer.json());
        let refused = answer.json()["error"].clone();
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(why), "{refused}");
        assert_eq!(refused["info"]["arguments"], json!([member]));
    }
    ask(&token[..200], &topic[..255]).result();
    // v1 accepts these, and its published clients' tests use them.
    ask("a-token", "").result();
}

/// A topic of another team holds the service before Apple has accepted any other. Each user in turn
/// gets the push with which the service is asked again.
#[test]
fn strange_topics_hold_nobody_up_after_a_start() {
    let service = Service::start(|request| match request.header("apns-topic") {
        Some(APP) => Reply::status(200),
        _ => refusal(403, "InvalidProviderToken"),
    });
    let server = with_token(&service, &[]);
    let (ada, eve) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "eve"),
    );
    register(&ada, "ios", "a1", APP);
    for number in 0..30 {
        let token = format!("e{number}");
        register(&eve, "ios", &token, "com.example.strange");
    }
    service.script([refusal(503, "ServiceUnavailable").with("retry-after", "3")]);
    push_to(&eve, &ada, &hello());
    await_figure(&server, "apns", "is_held", true);
    push_to(&eve, &eve, &hello());
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 2);
}

#[test]
fn a_device_that_apple_does_not_know_is_forgotten_unless_it_came_back_since() {
    let (apple, service) = apple();
    let server = with_token(&service, &[]);
    let (ada, ben) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "ben"),
    );
    let long_ago = 1_500_000_000_000;
    let soon = i64::try_from(now() + 3600).unwrap() * 1000;
    let came_back = register(&ada, "ios", "back", APP);
    let gone = register(&ada, "ios", "gone", APP);
    let bad = register(&ben, "ios", "bad", APP);
    apple.gone.lock().insert("back".to_owned(), long_ago);
    apple.gone.lock().insert("gone".to_owned(), soon);
    apple.bad.lock().insert("bad".to_owned());
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_unreachable", 2);
    push_to(&ada, &ben, &hello());
    await_figure(&server, "apns", "num_unregistered", 2);
    await_figure(&server, "apns", "num_unreachable", 3);
    await_figure(&server, "apns", "num_failed", 0);
    assert!(is_known(&ada, &came_back));
    assert!(!is_known(&ada, &gone));
    assert!(!is_known(&ada, &bad));
    // A device that registers again is reached again.
    apple.gone.lock().clear();
    let again = json!({"type": "ios", "id": came_back, "device_token": "back", "topic": APP});
    ada.call("device:register", again).result();
    push_to(&ada, &ada, &hello());
    service.await_answers(200, 1);
}

/// With the wrong `APNS_ENV` Apple knows none of the devices.
#[test]
fn no_device_is_forgotten_before_apple_has_known_any() {
    let (apple, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    let devices = ["a0", "a1", "a2", "a3"].map(|token| {
        apple.bad.lock().insert(token.to_owned());
        register(&ada, "ios", token, APP)
    });
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_unreachable", 4);
    await_figure(&server, "apns", "num_unregistered", 0);
    await_figure(&server, "apns", "doubted_setting", "APNS_ENV");
    assert!(devices.iter().all(|device| is_known(&ada, device)));
    eventually("the doubt is logged", || {
        server.output().contains("APNS_ENV").then_some(())
    });
    apple.bad.lock().remove("a0");
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 1);
    await_figure(&server, "apns", "doubted_setting", Json::Null);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_unregistered", 3);
    let [good, bad @ ..] = devices;
    assert!(is_known(&ada, &good));
    assert!(!bad.iter().any(|device| is_known(&ada, device)));
}
