//! Google's service.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use parking_lot::Mutex;
use serde_json::{Value as Json, json};

use super::service::{Received, Reply, Service};
use super::{await_figure, certificates, is_known, push_to, register, server};
use crate::support::client::Client;
use crate::support::server::TestServer;

const EMAIL: &str = "push@notes.example";
const SEND: &str = "/v1/projects/notes%2D1/messages:send";

/// The state of Google's service.
#[derive(Default)]
struct Google {
    /// The service's own address, which grants must be for.
    token_url: Mutex<String>,
    num_grants: AtomicUsize,
    /// The valid access tokens.
    granted: Mutex<BTreeSet<String>>,
    unregistered: Mutex<BTreeSet<String>>,
    is_away: AtomicBool,
}

fn error(status: u16, name: &str, code: Option<&str>) -> Reply {
    let details: Vec<Json> = code
        .map(|code| {
            json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
        })
        .into_iter()
        .collect();
    let error = json!({"code": status, "status": name, "message": name, "details": details});
    Reply::json(status, &json!({"error": error}))
}

impl Google {
    fn judge(&self, request: &Received) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            _ if self.is_away.load(Ordering::Relaxed) => Reply::status(503),
            ("POST", "/token") => self.grant(request),
            ("POST", SEND) => self.take(request),
            _ => Reply::status(404),
        }
    }

    fn grant(&self, request: &Received) -> Reply {
        let refused = || Reply::json(400, &json!({"error": "invalid_grant"}));
        let body = String::from_utf8_lossy(&request.body);
        let kind =
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant%2Dtype%3Ajwt%2Dbearer&assertion=";
        let Some(assertion) = body.strip_prefix(kind) else {
            return refused();
        };
        let key = certificates::text("account.pub");
        let key = DecodingKey::from_rsa_pem(key.as_bytes()).unwrap();
        let mut validation = Validation::new(Algorithm::RS256);
        validation.set_audience(&[&*self.token_url.lock()]);
        validation.set_issuer(&[EMAIL]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        let Ok(token) = decode::<Json>(assertion, &key, &validation) else {
            return refused();
        };
        let claims = token.claims;
        let life = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
        let scope = "https://www.googleapis.com/auth/firebase.messaging";
        let key_id = decode_header(assertion).unwrap().kid;
        let is_good = claims["scope"] == scope && (1..=3600).contains(&life);
        if !is_good || key_id.as_deref() != Some("key-1") {
            return refused();
        }
        let number = self.num_grants.fetch_add(1, Ordering::Relaxed);
        let token = format!("access-{number}");
        self.granted.lock().insert(token.clone());
        let granted = json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"});
        Reply::json(200, &granted)
    }

    fn take(&self, request: &Received) -> Reply {
        let shown = request.header("authorization").unwrap_or_default();
        let shown = shown.strip_prefix("Bearer ").unwrap_or_default();
        if !self.granted.lock().contains(shown) {
            return error(401, "UNAUTHENTICATED", None);
        }
        let message = &request.json()["message"];
        let invalid = || error(400, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"));
        let (Some(token), Some(android)) =
            (message["token"].as_str(), message["android"].as_object())
        else {
            return invalid();
        };
        let known = ["notification", "data", "priority", "ttl", "collapse_key"];
        if android.keys().any(|name| !known.contains(&name.as_str())) {
            return invalid();
        }
        let data = android.get("data").and_then(Json::as_object);
        if data.is_some_and(|data| data.values().any(|value| !value.is_string())) {
            return invalid();
        }
        if self.unregistered.lock().contains(token) {
            return error(404, "NOT_FOUND", Some("UNREGISTERED"));
        }
        Reply::json(200, &json!({"name": "projects/notes-1/messages/1"}))
    }
}

fn google() -> (Arc<Google>, Service) {
    let google = Arc::<Google>::default();
    let judge = Arc::clone(&google);
    let service = Service::start(move |request| judge.judge(request));
    *google.token_url.lock() = format!("{}/token", service.url());
    (google, service)
}

fn with_account(service: &Service) -> TestServer {
    let account = json!({
        "type": "service_account",
        "project_id": "notes-1",
        "private_key_id": "key-1",
        "private_key": certificates::text("account.key"),
        "client_email": EMAIL,
        "token_uri": format!("{}/token", service.url()),
    });
    server(&[
        ("FCM_ENABLE", "YES"),
        ("FCM_TYPE", "service_account"),
        ("FCM_SERVICE_ACCOUNT_KEY", &account.to_string()),
        ("FCM_ENDPOINT", &service.url()),
    ])
}

fn hello() -> Json {
    json!({"fcm": {"notification": {"title": "hello"}, "data": {"room": "den"}}})
}

/// Returns the accepted messages.
fn taken(service: &Service, count: usize) -> Vec<Received> {
    let mut messages = Vec::new();
    crate::support::eventually("messages are taken", || {
        let received = service.received().into_iter();
        let of = received.filter(|(request, status)| request.path == SEND && *status == 200);
        messages = of.map(|(request, _)| request).collect();
        (messages.len() >= count).then_some(())
    });
    messages
}

#[test]
fn messages_go_under_one_access_token_to_android() {
    let (google, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    register(&ada, "ios", "i1", "com.example.notes");
    push_to(&ada, &ada, &hello());
    let first = taken(&service, 1);
    let message = json!({"token": "a:1", "android": hello()["fcm"]});
    assert_eq!(first[0].json()["message"], message);
    // The older name is accepted, too.
    push_to(
        &ada,
        &ada,
        &json!({"gcm": {"notification": {"title": "again"}}}),
    );
    let second = taken(&service, 2);
    assert_eq!(
        second[1].json()["message"]["android"]["notification"]["title"],
        "again"
    );
    assert_eq!(google.num_grants.load(Ordering::Relaxed), 1);
    await_figure(&server, "fcm", "num_sent", 2);
    let output = server.output();
    assert!(!output.contains("a:1") && !output.contains("access-0") && !output.contains("PRIVATE"));
}

#[test]
fn an_access_token_that_google_withdraws_is_replaced() {
    let (google, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    push_to(&ada, &ada, &hello());
    taken(&service, 1);
    google.granted.lock().clear();
    push_to(&ada, &ada, &hello());
    let received = taken(&service, 2);
    assert_eq!(received[1].header("authorization"), Some("Bearer access-1"));
    await_figure(&server, "fcm", "num_failed", 0);
}

#[test]
fn a_device_that_google_does_not_know_is_forgotten() {
    let (google, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    let gone = register(&ada, "android", "gone", "");
    let there = register(&ada, "android", "there", "");
    google.unregistered.lock().insert("gone".to_owned());
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_unregistered", 1);
    await_figure(&server, "fcm", "num_sent", 1);
    assert!(!is_known(&ada, &gone));
    assert!(is_known(&ada, &there));
    // A refusal for another reason says nothing about the device.
    push_to(&ada, &ada, &json!({"fcm": {"unknown": 1}}));
    await_figure(&server, "fcm", "num_failed", 1);
    assert!(is_known(&ada, &there));
}

/// Google says of a token that it never issued only that an argument is invalid, and which.
#[test]
fn a_device_with_a_token_that_is_not_googles_is_forgotten() {
    let (_, service) = google();
    let server = with_account(&service);
    let (ada, ben) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "ben"),
    );
    register(&ben, "android", "b:1", "");
    push_to(&ada, &ben, &hello());
    taken(&service, 1);
    for (field, message, figure, count) in [
        (Some("message.token"), "an argument", "num_unregistered", 1),
        (
            None,
            "The registration token is not a valid FCM registration token",
            "num_unregistered",
            2,
        ),
        (Some("message.android.ttl"), "an argument", "num_failed", 1),
        (None, "Invalid data payload key: from", "num_failed", 2),
    ] {
        let device = register(&ada, "android", "a:1", "");
        let violations = field.map(|field| {
            json!({"@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": field, "description": message}]})
        });
        let code = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
            "errorCode": "INVALID_ARGUMENT"});
        let details = Vec::from_iter([code].into_iter().chain(violations));
        let error = json!({"code": 400, "status": "INVALID_ARGUMENT", "message": message,
            "details": details});
        service.script([Reply::json(400, &json!({"error": error}))]);
        push_to(&ada, &ada, &hello());
        await_figure(&server, "fcm", figure, count);
        let is_forgotten = figure == "num_unregistered";
        assert_eq!(is_known(&ada, &device), !is_forgotten, "{error}");
    }
}

#[test]
fn what_google_would_refuse_is_said_at_once() {
    let (_, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    for (android, message) in [
        (json!({"data": ["a"]}), "fcm.data is not an object"),
        (
            json!({"data": {"number": 1}}),
            "fcm.data.number is not a string",
        ),
        (
            json!({"data": {"from": "ada"}}),
            "fcm.data.from: Google reserves this name",
        ),
        (
            json!({"data": {"message_type": "a"}}),
            "fcm.data.message_type: Google reserves this name",
        ),
        (
            json!({"data": {"google.a": "a"}}),
            "fcm.data.google.a: Google reserves this name",
        ),
        (
            json!({"data": {"gcm.a": "a"}}),
            "fcm.data.gcm.a: Google reserves this name",
        ),
        (
            json!({"notification": "hello"}),
            "fcm.notification is not an object",
        ),
        (
            json!({"ttl": 60}),
            "fcm.ttl is not a number of seconds as text, such as \"3.5s\"",
        ),
    ] {
        let body = json!({"device_ids": ["a"], "notification": {"fcm": android}});
        let answer = ada.call("push:device", body);
        assert_eq!(answer.code(), 108, "{:?}", answer.json());
        let said = answer.json()["error"]["message"].clone();
        assert_eq!(said, format!("notification.{message}"));
    }
    register(&ada, "android", "a:1", "");
    let good = json!({"data": {"fromage": "a", "googled": "b", "_skygear": "c"}, "ttl": "3.5s",
        "notification": null});
    push_to(&ada, &ada, &json!({"gcm": good}));
    taken(&service, 1);
}

#[test]
fn a_service_that_is_away_gets_its_messages_when_it_is_back() {
    let (_, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    register(&ada, "android", "a:2", "");
    // First no access token is available, then the quota is exceeded.
    service.script([
        Reply::status(503),
        Reply::json(401, &json!({"error": "invalid_client"})),
    ]);
    push_to(&ada, &ada, &hello());
    taken(&service, 2);
    service.script([
        error(429, "RESOURCE_EXHAUSTED", Some("QUOTA_EXCEEDED")).with("retry-after", "1")
    ]);
    push_to(&ada, &ada, &hello());
    taken(&service, 4);
    await_figure(&server, "fcm", "num_sent", 4);
    await_figure(&server, "fcm", "num_failed", 0);
}

/// Google limits how much a single phone gets. Who exceeds that delays nobody else.
#[test]
fn a_phone_that_gets_too_much_delays_no_other() {
    let (_, service) = google();
    let server = with_account(&service);
    let (ada, eve) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "eve"),
    );
    register(&ada, "android", "a:1", "");
    register(&eve, "android", "e:1", "");
    push_to(&ada, &ada, &hello());
    taken(&service, 1);
    let violation = json!({"subject": "device:e:1", "description": "Device message rate exceeded"});
    let details = json!([
        {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError",
            "errorCode": "QUOTA_EXCEEDED"},
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [violation]},
    ]);
    let error = json!({"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details});
    let limited = Reply::json(429, &json!({"error": error}));
    service.script([limited.with("retry-after", "600")]);
    push_to(&eve, &eve, &hello());
    await_figure(&server, "fcm", "num_retrying", 1);
    await_figure(&server, "fcm", "is_held", false);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_sent", 2);
}

/// An error about the sender says nothing about the message.
#[test]
fn a_message_waits_while_google_does_not_take_who_sends() {
    let (_, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    // A malformed grant, then two whose tokens are refused, then a missing permission.
    let granted = || Reply::json(200, &json!({"access_token": "bad", "expires_in": 3599}));
    service.script([
        Reply::json(200, &json!({"token_type": "Bearer"})),
        granted(),
        error(401, "UNAUTHENTICATED", None),
        granted(),
        error(401, "UNAUTHENTICATED", None),
        error(403, "PERMISSION_DENIED", None),
    ]);
    push_to(&ada, &ada, &hello());
    taken(&service, 1);
    await_figure(&server, "fcm", "num_sent", 1);
    await_figure(&server, "fcm", "num_retried", 3);
    await_figure(&server, "fcm", "num_failed", 0);
    // These errors are about one device.
    for (status, name, code) in [
        (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"),
        (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"),
    ] {
        let refused = || error(status, name, Some(code));
        let again = Reply::json(200, &json!({"access_token": "bad", "expires_in": 3599}));
        if status == 401 {
            service.script([refused(), again, refused()]);
        } else {
            service.script([refused()]);
        }
        push_to(&ada, &ada, &hello());
    }
    await_figure(&server, "fcm", "num_unreachable", 2);
    await_figure(&server, "fcm", "num_failed", 0);
    await_figure(&server, "fcm", "is_held", false);
}

#[test]
fn a_service_that_asks_for_ages_does_not_end_its_queue() {
    let (_, service) = google();
    let mut server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    let for_ages = u64::MAX.to_string();
    // First for one message, then for all.
    push_to(&ada, &ada, &hello());
    taken(&service, 1);
    service.script([error(500, "INTERNAL", None).with("retry-after", &for_ages)]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_failed", 1);
    push_to(&ada, &ada, &hello());
    taken(&service, 2);
    service.script([error(503, "UNAVAILABLE", None).with("retry-after", &for_ages)]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_failed", 2);
    await_figure(&server, "fcm", "num_kept", 0);
    server.restart();
    push_to(&ada.at(&server), &ada, &hello());
    taken(&service, 3);
}

fn to_token(token: &str) -> impl Fn(&Received) -> bool {
    move |message| message.json()["message"]["token"] == token
}

#[test]
fn what_waits_is_not_sent_to_who_has_the_phone_next() {
    let (google, service) = google();
    let mut server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    let ben = Client::signed_up(&server, "ben");
    let phone = register(&ada, "android", "a:1", "");
    let tablet = register(&ada, "android", "a:2", "");
    google.is_away.store(true, Ordering::Relaxed);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_kept", 2);
    // Another user registers the phone under its id, and the tablet as a new device.
    ada.call("device:unregister", json!({"id": phone})).result();
    let body = json!({"id": phone, "type": "android", "device_token": "a:1"});
    ben.call("device:register", body).result();
    ada.call("device:unregister", json!({"id": tablet}))
        .result();
    register(&ben, "android", "a:2", "");
    await_figure(&server, "fcm", "num_expired", 2);
    await_figure(&server, "fcm", "num_kept", 0);
    // Across a restart as well.
    push_to(&ada, &ben, &hello());
    await_figure(&server, "fcm", "num_kept", 2);
    server.kill();
    server.restart();
    let (ada, ben) = (ada.at(&server), ben.at(&server));
    register(&ada, "android", "a:2", "");
    await_figure(&server, "fcm", "num_expired", 1);
    google.is_away.store(false, Ordering::Relaxed);
    await_figure(&server, "fcm", "num_sent", 1);
    assert!(taken(&service, 1).iter().all(to_token("a:1")));
    await_figure(&server, "fcm", "num_kept", 0);
    drop(ben);
}

#[test]
fn what_waits_goes_to_where_its_device_is_then() {
    let (google, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    let phone = register(&ada, "android", "a:1", "");
    google.is_away.store(true, Ordering::Relaxed);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_retrying", 1);
    let body = json!({"id": phone, "type": "android", "device_token": "a:2"});
    ada.call("device:register", body).result();
    google.is_away.store(false, Ordering::Relaxed);
    assert!(taken(&service, 1).iter().all(to_token("a:2")));
}

#[test]
fn what_waits_for_who_is_erased_is_never_sent() {
    let (google, service) = google();
    let server = with_account(&service);
    let ada = Client::signed_up(&server, "ada");
    register(&ada, "android", "a:1", "");
    google.is_away.store(true, Ordering::Relaxed);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "fcm", "num_kept", 1);
    let body = json!({"user": ada.user, "why": "asked for"});
    let erased = Client::master(&server).call("erase:user", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    await_figure(&server, "fcm", "num_expired", 1);
    await_figure(&server, "fcm", "num_kept", 0);
    google.is_away.store(false, Ordering::Relaxed);
    let ben = Client::signed_up(&server, "ben");
    register(&ben, "android", "b:1", "");
    push_to(&ben, &ben, &hello());
    await_figure(&server, "fcm", "num_sent", 1);
    assert!(taken(&service, 1).iter().all(to_token("b:1")));
}
