//! Apple's service.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::apple::{KEY, TEAM, apple, now, refusal};
use super::certificates::{self, APP};
use super::service::{Reply, Service};
use super::{await_figure, is_known, push_to, register, server};
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

pub(super) fn with_token(service: &Service, more: &[(&str, &str)]) -> TestServer {
    let (url, key) = (service.url(), certificates::setting("team.key"));
    let mut settings = vec![
        ("APNS_ENABLE", "YES"),
        ("APNS_TYPE", "token"),
        ("APNS_TEAM_ID", TEAM),
        ("APNS_KEY_ID", KEY),
        ("APNS_TOKEN_KEY_PATH", key.as_str()),
        ("APNS_ENDPOINT", url.as_str()),
    ];
    settings.extend_from_slice(more);
    server(&settings)
}

fn with_certificate(service: &Service) -> TestServer {
    let (url, pem, key) = (
        service.url(),
        certificates::setting("app.pem"),
        certificates::setting("app.key"),
    );
    server(&[
        ("APNS_ENABLE", "YES"),
        ("APNS_CERTIFICATE_PATH", &pem),
        ("APNS_PRIVATE_KEY_PATH", &key),
        ("APNS_ENDPOINT", &url),
    ])
}

pub fn hello() -> Json {
    json!({"apns": {"aps": {"alert": "hello"}, "room": "den"}})
}

#[test]
fn a_push_arrives_as_it_was_sent_signed_by_the_team() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "5ec2e7ad", APP);
    register(&ada, "ios", "a2", "com.example.other");
    let anonymous = Client::anonymous(&server);
    push_to(&anonymous, &ada, &hello());
    // Apple refuses the other app's device, and it is not tried again.
    let received = service.await_answers(200, 1);
    assert_eq!(received[0].path, "/3/device/5ec2e7ad");
    assert_eq!(received[0].json(), hello()["apns"]);
    assert_eq!(received[0].header("apns-push-type"), Some("alert"));
    service.await_answers(400, 1);
    await_figure(&server, "apns", "num_sent", 1);
    await_figure(&server, "apns", "num_unreachable", 1);

    let mut urgent = hello();
    urgent["apns_headers"] = json!({"apns-collapse-id": "den", "apns-priority": 5});
    push_to(&anonymous, &ada, &urgent);
    let received = service.await_answers(200, 2);
    assert_eq!(received[1].header("apns-collapse-id"), Some("den"));
    assert_eq!(received[1].header("apns-priority"), Some("5"));
    assert_eq!(received[1].json(), hello()["apns"]);

    let by_topic = json!({"user_ids": [format!("user/{}", ada.user.as_ref().unwrap())],
        "topic": APP, "notification": {"apns": {"aps": {"content-available": 1}}}});
    anonymous.call("push:user", by_topic).result();
    let received = service.await_answers(200, 3);
    assert_eq!(received[2].header("apns-push-type"), Some("background"));
    assert_eq!(received.len(), 3);
    // One connection carries everything, with one signature.
    assert_eq!(service.num_connections(), 1);
    let signatures: BTreeSet<_> = received
        .iter()
        .map(|it| it.header("authorization"))
        .collect();
    assert_eq!(signatures.len(), 1);
    let output = server.output();
    let token = received[0].header("authorization").unwrap().to_owned();
    let secrets = [
        "5ec2e7ad",
        token.trim_start_matches("bearer "),
        "PRIVATE KEY",
    ];
    assert!(
        !secrets.iter().any(|secret| output.contains(secret)),
        "{output}"
    );
}

#[test]
fn a_certificate_says_which_app_sends() {
    let (_, service) = apple();
    let server = with_certificate(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", "");
    push_to(&ada, &ada, &hello());
    let received = service.await_answers(200, 1);
    assert!(received[0].has_certificate);
    assert_eq!(received[0].header("apns-topic"), Some(APP));
    assert_eq!(received[0].header("authorization"), None);
}

/// With another team's key Apple refuses the sender, which says nothing about the device. Waiting
/// pushes are sent once an operator has corrected the key.
#[test]
fn a_key_that_apple_does_not_know_costs_no_device_and_no_push() {
    let (_, service) = apple();
    let key = certificates::setting("other-team.key");
    let mut server = with_token(&service, &[("APNS_TOKEN_KEY_PATH", &key)]);
    let ada = Client::signed_up(&server, "ada");
    let phone = register(&ada, "ios", "a1", APP);
    push_to(&ada, &ada, &hello());
    service.await_answers(403, 1);
    await_figure(&server, "apns", "is_held", true);
    await_figure(&server, "apns", "num_failed", 0);
    assert!(is_known(&ada, &phone));
    eventually("the reason is logged", || {
        let output = server.output();
        output.contains("InvalidProviderToken").then_some(())
    });
    server.set("APNS_TOKEN_KEY_PATH", &certificates::setting("team.key"));
    server.restart();
    service.await_answers(200, 1);
}

#[test]
fn a_push_waits_while_apple_does_not_take_who_sends() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    service.script([
        refusal(403, "InvalidProviderToken"),
        refusal(403, "ExpiredProviderToken"),
        refusal(403, "ExpiredProviderToken"),
    ]);
    push_to(&ada, &ada, &hello());
    service.await_answers(200, 1);
    await_figure(&server, "apns", "num_sent", 1);
    await_figure(&server, "apns", "num_retried", 2);
    await_figure(&server, "apns", "num_failed", 0);
    // Even after a push was accepted.
    service.script([refusal(403, "Forbidden").with("retry-after", "30")]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_retrying", 1);
    await_figure(&server, "apns", "is_held", true);
}

/// A certificate decides its topic; with a token, the device does.
#[test]
fn a_topic_that_is_not_allowed_is_the_certificates_or_the_devices_fault() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    service.script([refusal(400, "TopicDisallowed")]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_unreachable", 1);

    let (_, service) = apple();
    let server = with_certificate(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", "");
    service.script([
        refusal(400, "TopicDisallowed"),
        refusal(403, "BadCertificate"),
    ]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 1);
    await_figure(&server, "apns", "num_failed", 0);
}

/// A service that cannot prove to be Apple's gets nothing.
#[test]
fn a_service_that_nobody_vouches_for_is_not_talked_to() {
    let (_, service) = apple();
    let stranger = certificates::setting("nobody.pem");
    let server = with_token(&service, &[("SSL_CERT_FILE", &stranger)]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "is_held", true);
    assert!(service.received().is_empty());
}

#[test]
fn a_certificate_for_no_app_is_refused_at_the_start() {
    let (pem, key) = (
        certificates::setting("nobody.pem"),
        certificates::setting("nobody.key"),
    );
    let mut server = server(&[]);
    server.kill();
    server.set("APNS_ENABLE", "YES");
    server.set("APNS_CERTIFICATE_PATH", &pem);
    server.set("APNS_PRIVATE_KEY_PATH", &key);
    server.set("BAIDU_ENABLE", "YES");
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("its subject has no UID"), "{said}");
    assert!(
        said.contains("Baidu's push service is not supported"),
        "{said}"
    );
}

#[test]
fn devices_are_named_or_missing_in_the_answer() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    let phone = register(&ada, "ios", "a1", APP);
    let other = register(&ada, "ios", "a2", "com.example.other");
    let body = json!({"device_ids": [phone, "nowhere", other, phone], "topic": APP,
        "notification": hello()});
    let pushed = ada.call("push:device", body).result();
    let missing = json!({"_id": "nowhere", "_type": "error", "name": "ResourceNotFound",
        "code": 110, "message": "cannot find device \"nowhere\"", "info": {"id": "nowhere"}});
    assert_eq!(pushed, json!([{"_id": phone}, missing, {"_id": phone}]));
    service.await_answers(200, 1);
    await_figure(&server, "apns", "num_sent", 1);
    assert_eq!(
        service.received().len(),
        1,
        "once, though it was named twice"
    );
}

#[test]
fn what_a_push_must_have_is_said() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let client = Client::anonymous(&server);
    let big = "x".repeat(4096);
    let too_big = json!({"apns": {"aps": {"alert": big}}});
    for (action, body, message) in [
        (
            "push:user",
            json!({"notification": hello()}),
            "empty user ids",
        ),
        ("push:device", json!({"device_ids": []}), "empty device ids"),
        (
            "push:user",
            json!({"user_ids": ["a"]}),
            "no notification specified",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"], "notification": null}),
            "no notification specified",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"], "notification": {"apns": "hello"}}),
            "notification.apns is not an object",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"],
                "notification": {"apns": {}, "apns_headers": {"apns-topic": "x"}}}),
            "notification.apns_headers: apns-topic is not one of apns-push-type, apns-priority, \
             apns-expiration, apns-collapse-id",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"],
                "notification": {"apns": {}, "apns_headers": {"apns-collapse-id": "a\nb"}}}),
            "notification.apns_headers: apns-collapse-id must be at most 256 printable ASCII characters",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"],
                "notification": {"apns": {}, "apns_headers": {"apns-priority": 7}}}),
            "notification.apns_headers: apns-priority is not one of 1, 5, 10",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"],
                "notification": {"apns": {}, "apns_headers": {"apns-expiration": "soon"}}}),
            "notification.apns_headers: apns-expiration is not a whole number",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"],
                "notification": {"apns": {}, "apns_headers": {"apns-collapse-id": "x".repeat(65)}}}),
            "notification.apns_headers: apns-collapse-id has 65 characters, at most 64 are allowed",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"], "notification": {"apns": {"aps": "hello"}}}),
            "notification.apns.aps is not an object",
        ),
        (
            "push:device",
            json!({"device_ids": ["a"], "notification": too_big}),
            "notification.apns has 4116 bytes, at most 4096 are allowed",
        ),
    ] {
        let answer = client.call(action, body);
        assert_eq!(answer.code(), 108, "{action}: {:?}", answer.json());
        assert_eq!(answer.json()["error"]["message"], message);
    }
    let nobody = json!({"user_ids": ["nobody"], "notification": hello()});
    let answer = client.call("push:user", nobody).result();
    assert_eq!(answer, json!([{"_id": "nobody"}]));
}

#[test]
fn a_token_that_apple_takes_for_old_is_made_anew() {
    let (apple, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    push_to(&ada, &ada, &hello());
    let first = service.await_answers(200, 1)[0].clone();
    // Within the same second the new token would equal the old one.
    let then = now();
    eventually("a second passes", || (now() > then).then_some(()));
    let shown = first.header("authorization").unwrap();
    let token = shown.strip_prefix("bearer ").unwrap();
    apple.expired.lock().insert(token.to_owned());
    push_to(&ada, &ada, &hello());
    let received = service.await_answers(200, 2);
    assert_ne!(received[1].header("authorization"), Some(shown));
    service.await_answers(403, 1);
    await_figure(&server, "apns", "num_sent", 2);
    await_figure(&server, "apns", "num_failed", 0);
}

#[test]
fn a_push_is_tried_again_when_apple_says_and_when_the_connection_is_lost() {
    let (_, service) = apple();
    let server = with_token(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    let busy = refusal(503, "ServiceUnavailable").with("retry-after", "3");
    service.script([busy, Reply::cut(), refusal(429, "TooManyRequests")]);
    let begun = std::time::Instant::now();
    push_to(&ada, &ada, &hello());
    service.await_answers(200, 1);
    await_figure(&server, "apns", "num_sent", 1);
    await_figure(&server, "apns", "num_retried", 3);
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_secs(3), "{waited:?}");
    let statuses: Vec<_> = service
        .received()
        .iter()
        .map(|(_, status)| *status)
        .collect();
    assert_eq!(statuses, [503, 0, 429, 200]);
    assert!(service.num_connections() >= 2);
}

#[test]
fn a_push_is_given_up_after_its_attempts() {
    let (_, service) = apple();
    let server = with_token(&service, &[("PUSH_MAX_ATTEMPTS", "2")]);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    service.script([
        refusal(429, "TooManyRequests"),
        refusal(429, "TooManyRequests"),
    ]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_failed", 1);
    assert_eq!(service.received().len(), 2);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "apns", "num_sent", 1);
}

/// The server stops while pushes are in flight: everything that can be sent is sent.
#[test]
fn a_stop_sends_what_was_asked_for() {
    let (_, service) = apple();
    let mut server = with_token(&service, &[("MAX_USER_DEVICES", "200")]);
    let ada = Client::signed_up(&server, "ada");
    let devices: Vec<_> = (0..200)
        .map(|number| register(&ada, "ios", &format!("a{number}"), APP))
        .collect();
    service.set_pause(Duration::from_millis(100));
    let body = json!({"device_ids": devices, "notification": hello()});
    ada.call("push:device", body).result();
    assert!(server.terminate().success());
    assert_eq!(service.await_answers(200, 200).len(), 200);
}

#[test]
fn a_full_queue_refuses_everything_of_a_request_and_says_so() {
    let (_, service) = apple();
    let server = with_token(&service, &[("PUSH_QUEUE", "2")]);
    let ada = Client::signed_up(&server, "ada");
    let devices: Vec<_> = (0..3)
        .map(|number| register(&ada, "ios", &format!("a{number}"), APP))
        .collect();
    service.set_pause(Duration::from_secs(60));
    let push = |ids: &[String]| {
        let body = json!({"device_ids": ids, "notification": hello()});
        ada.call("push:device", body)
    };
    assert_eq!(push(&devices).code(), 108, "more than ever fit");
    push(&devices[..2]).result();
    let full = push(&devices[2..]);
    assert_eq!(full.status, 503, "{:?}", full.json());
    await_figure(&server, "apns", "num_dropped", 1);
    await_figure(&server, "apns", "num_in_flight", 2);
}

#[test]
fn a_plugin_pushes() {
    let (_, service) = apple();
    let server = with_token(&service, &[("PLUGINS", "TEST")]);
    let lambda = json!({"op": [{"name": "shout", "key_required": false, "user_required": false}]});
    let worker = Worker::ready(&server, &json!({}), &lambda);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "ios", "a1", APP);
    let user = ada.user.clone().unwrap();
    let mut asked = Json::Null;
    let serving = worker.serve(move |worker, message| match message["type"].as_str() {
        Some("request") => {
            asked = message.clone();
            let payload = json!({"action": "push:user", "user_ids": [user],
                "notification": hello()});
            let parent = &message["id"];
            worker.send(json!({"type": "call", "id": "c1", "parent": parent, "payload": payload}));
        }
        Some("reply") => worker.answer(&asked, &message["body"]["result"]),
        _ => {}
    });
    let shouted = ada.call("shout", json!({"args": []})).result();
    assert_eq!(shouted, json!([{"_id": ada.user}]));
    let received = service.await_answers(200, 1);
    assert_eq!(received[0].json(), hello()["apns"]);
    drop(serving);
}
