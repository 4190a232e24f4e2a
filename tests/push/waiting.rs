//! Operators see what waits, give it up, and have it tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

use super::apns::with_token;
use super::certificates::APP;
use super::kept::{away, notification, texts};
use super::service::{Reply, Service};
use super::{await_figure, push_to, register};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{MASTER_KEY, TestServer};

/// Runs `skytrail push …` against a server; returns what it prints.
fn skytrail_push(server: &TestServer, arguments: &[&str]) -> String {
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let mut all = vec!["--set", &key, "push", "--server", &server.base_url];
    all.extend_from_slice(arguments);
    let output = server.skytrail(&all);
    assert!(output.status.success(), "{output:?}");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8(said).unwrap()
}

fn listed(master: &Client, body: Json) -> Vec<Json> {
    let listed = master.call("push:list", body).result();
    listed.as_array().unwrap().clone()
}

#[test]
fn what_is_withdrawn_while_it_waits_is_never_sent() {
    let (is_away, service) = away();
    let mut server = with_token(&service, &[]);
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let devices = [(&ada, "a1"), (&ben, "b1")];
    let [_, bens] = devices.map(|(user, token)| register(user, "ios", token, APP));
    for text in ["first", "second"] {
        push_to(&ada, &ada, &notification(text));
        push_to(&ada, &ben, &notification(text));
    }
    await_figure(&server, "apns", "num_queued", 4);
    let waiting = listed(&master, json!({"user": ben.user}));
    let of = |push: &Json, member: &str| push[member].as_str().unwrap().to_owned();
    let [first, second] = &*waiting else {
        panic!("{waiting:?}")
    };
    assert_eq!(
        (of(first, "service"), of(first, "device")),
        ("apns".into(), bens.clone())
    );
    assert_eq!(
        of(first, "content"),
        notification("first")["apns"].to_string()
    );
    assert_eq!(
        listed(&master, json!({"device": bens, "after": first["id"]})),
        std::slice::from_ref(second)
    );
    assert_eq!(listed(&master, json!({"limit": 3})).len(), 3);
    let tried = eventually("one was tried", || {
        let all = listed(&master, json!({}));
        all.into_iter().find(|push| push["attempts"] != 0)
    });
    assert!(of(&tried, "failure").contains("503"), "{tried}");
    assert!(
        of(&tried, "next_attempt_at") > of(&tried, "requested_at"),
        "{tried}"
    );

    let shown = skytrail_push(&server, &["list", "--contents"]);
    let shown: Vec<Json> = shown
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(shown.len(), 4);
    let ids = json!([first["id"]]);
    let withdrawn = master.call("push:withdraw", json!({"ids": ids})).result();
    assert_eq!(withdrawn, json!({"num_withdrawn": 1}));
    let user = ben.user.as_deref().unwrap();
    let said = skytrail_push(&server, &["withdraw", "--user", user]);
    assert_eq!(said.trim(), "1 pushes withdrawn");
    let shown = skytrail_push(&server, &["list"]);
    assert_eq!(
        (shown.lines().count(), shown.contains(user)),
        (2, false),
        "{shown}"
    );

    // Nor after a crash.
    server.kill();
    server.restart();
    is_away.store(false, Ordering::Relaxed);
    let mut sent = texts(&service.await_answers(200, 2));
    sent.sort_unstable();
    assert_eq!(sent, ["first", "second"]);
    await_figure(&server, "apns", "num_kept", 0);
    let received = service.received();
    let is_bens = |path: &str, status: u16| path == "/3/device/b1" && status == 200;
    assert!(
        !received
            .iter()
            .any(|(it, status)| is_bens(&it.path, *status))
    );
    assert_eq!(skytrail_push(&server, &["list"]).trim(), "no push waits");
}

#[test]
fn what_waits_from_before_a_start_can_be_withdrawn_though_the_queue_is_smaller() {
    let is_away = Arc::new(AtomicBool::new(true));
    let judged = Arc::clone(&is_away);
    let service = Service::start(move |_| match judged.load(Ordering::Relaxed) {
        true => Reply::status(503).with("retry-after", "3000"),
        false => Reply::status(200),
    });
    let mut server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    for number in 0..20 {
        push_to(&ada, &ada, &notification(&number.to_string()));
    }
    await_figure(&server, "apns", "num_kept", 20);
    server.kill();
    server.restart_with(&[("PUSH_QUEUE", "5")]);
    await_figure(&server, "apns", "is_held", true);
    await_figure(&server, "apns", "num_in_flight", 0);
    let master = Client::master(&server);
    assert_eq!(listed(&master, json!({})).len(), 20);
    let ada = ada.at(&server);
    let body = json!({"user_ids": [ada.user], "notification": notification("refused")});
    assert_eq!(ada.call("push:user", body).status, 503, "the queue is full");
    let withdrawn = master.call("push:withdraw", json!({"all": true})).result();
    assert_eq!(withdrawn, json!({"num_withdrawn": 20}));
    await_figure(&server, "apns", "num_kept", 0);
    is_away.store(false, Ordering::Relaxed);
    push_to(&ada, &ada, &notification("new"));
    master.call("push:retry", json!({})).result();
    assert_eq!(texts(&service.await_answers(200, 1)), ["new"]);
}

#[test]
fn a_service_that_asked_for_a_long_pause_is_asked_before() {
    let service = Service::start(|_| Reply::status(200));
    service.script([Reply::status(503).with("retry-after", "3000")]);
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    push_to(&ada, &ada, &notification("now"));
    await_figure(&server, "apns", "num_retrying", 1);
    push_to(&ada, &ada, &notification("then"));
    await_figure(&server, "apns", "num_queued", 2);
    let said = skytrail_push(&server, &["retry", "--service", "apns"]);
    assert!(said.contains("apns"), "{said}");
    let mut sent = texts(&service.await_answers(200, 2));
    sent.sort_unstable();
    assert_eq!(sent, ["now", "then"]);
    await_figure(&server, "apns", "is_held", false);
}

#[test]
fn what_is_refused() {
    let (_, service) = away();
    let server = with_token(&service, &[]);
    let master = Client::master(&server);
    let refused = |action: &str, body: Json, arguments: Json| {
        let answer = master.call(action, body).json();
        let error = &answer["error"];
        assert_eq!(
            (&error["code"], &error["info"]["arguments"]),
            (&json!(108), &arguments)
        );
    };
    let members = json!(["all", "service", "user", "device", "ids"]);
    refused("push:withdraw", json!({}), members.clone());
    refused(
        "push:withdraw",
        json!({"all": true, "user": "ada"}),
        members,
    );
    refused(
        "push:withdraw",
        json!({"service": "fcm"}),
        json!(["service"]),
    );
    refused(
        "push:retry",
        json!({"service": "pager"}),
        json!(["service"]),
    );
    refused("push:list", json!({"after": "42"}), json!(["after"]));
    refused("push:withdraw", json!({"ids": ["42"]}), json!(["ids"]));
    let without = TestServer::start();
    let master = Client::master(&without);
    assert_eq!(listed(&master, json!({})), Vec::<Json>::new());
    let answer = master.call("push:retry", json!({"service": "apns"})).json();
    assert_eq!(answer["error"]["message"], "no push service is configured");
}
