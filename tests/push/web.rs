//! Browsers' services.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint as _;
use p256::{PublicKey, SecretKey};
use parking_lot::Mutex;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde_json::{Value as Json, json};
use sha2::Sha256;

use super::service::{Received, Reply, Service};
use super::{await_figure, is_known, push_to, server};
use crate::support::client::Client;
use crate::support::server::TestServer;

const AUTH: [u8; 16] = *b"sixteen bytes ok";

/// A browser, and what its service knows of it.
struct Browser {
    key: SecretKey,
}

impl Browser {
    fn new() -> Self {
        let key = SecretKey::from_slice(&rand::random::<[u8; 32]>()).unwrap();
        Self { key }
    }

    /// Returns the result of `JSON.stringify(subscription)`.
    fn subscription(&self, endpoint: &str) -> String {
        let point = self.key.public_key().to_encoded_point(false);
        json!({
            "endpoint": endpoint,
            "expirationTime": null,
            "keys": {"p256dh": URL_SAFE_NO_PAD.encode(point), "auth": URL_SAFE_NO_PAD.encode(AUTH)},
        })
        .to_string()
    }

    /// Decrypts a message as specified in RFC 8291.
    fn decrypt(&self, body: &[u8]) -> Option<Json> {
        let (salt, rest) = body.split_at_checked(16)?;
        let (record_size, rest) = rest.split_at_checked(4)?;
        assert_eq!(record_size, 4096_u32.to_be_bytes());
        let (length, rest) = rest.split_first()?;
        let (sender, record) = rest.split_at_checked((*length).into())?;
        let key = PublicKey::from_sec1_bytes(sender).ok()?;
        let shared = diffie_hellman(self.key.to_nonzero_scalar(), key.as_affine());
        let own = self.key.public_key().to_encoded_point(false);
        let context = [b"WebPush: info\0", own.as_bytes(), sender].concat();
        let input = derive::<32>(&AUTH, shared.raw_secret_bytes(), &context);
        let cipher_key = derive::<16>(salt, &input, b"Content-Encoding: aes128gcm\0");
        let nonce = derive::<12>(salt, &input, b"Content-Encoding: nonce\0");
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &cipher_key).ok()?);
        let mut record = record.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let content = cipher
            .open_in_place(nonce, Aad::empty(), &mut record)
            .ok()?;
        let (end, content) = content.split_last()?;
        assert_eq!(*end, 2, "the last record");
        serde_json::from_slice(content).ok()
    }
}

fn derive<const N: usize>(salt: &[u8], input: &[u8], info: &[u8]) -> [u8; N] {
    let mut derived = [0; N];
    let hkdf = Hkdf::<Sha256>::new(Some(salt), input);
    hkdf.expand(info, &mut derived).unwrap();
    derived
}

/// A push service for browsers: it knows the sender, and cannot read the message.
#[derive(Default)]
struct Post {
    origin: Mutex<String>,
    /// The key that browsers received when they subscribed.
    key: Mutex<String>,
    /// Subscriptions that have ended, and with which status the service says so.
    ended: Mutex<BTreeMap<String, u16>>,
}

impl Post {
    fn judge(&self, request: &Received) -> Reply {
        if request.method != "POST" {
            return Reply::status(405);
        }
        if let Some(status) = self.ended.lock().get(&request.path) {
            return Reply::status(*status);
        }
        if !self.knows_sender(request) {
            return Reply::status(403);
        }
        let ttl = request
            .header("ttl")
            .and_then(|ttl| ttl.parse::<u32>().ok());
        if ttl.is_none() || request.header("content-encoding") != Some("aes128gcm") {
            return Reply::status(400);
        }
        if request.body.len() > 4096 {
            return Reply::status(413);
        }
        Reply::status(201).with("location", "https://push.example/message/1")
    }

    fn knows_sender(&self, request: &Received) -> bool {
        let shown = request.header("authorization").unwrap_or_default();
        let Some((token, key)) = shown
            .strip_prefix("vapid t=")
            .and_then(|rest| rest.split_once(", k="))
        else {
            return false;
        };
        if key != *self.key.lock() {
            return false;
        }
        let point = URL_SAFE_NO_PAD.decode(key).unwrap();
        let (x, y) = point[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let key = DecodingKey::from_ec_components(&x, &y).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[&*self.origin.lock()]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        let Ok(token) = decode::<Json>(token, &key, &validation) else {
            return false;
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the service has a clock of its own"
        )]
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let until = token.claims["exp"].as_u64().unwrap();
        token.claims["sub"] == "mailto:ops@notes.example" && until <= now + 24 * 3600
    }
}

fn post() -> (Arc<Post>, Service) {
    let post = Arc::<Post>::default();
    let judge = Arc::clone(&post);
    let service = Service::start(move |request| judge.judge(request));
    *post.origin.lock() = service.url();
    (post, service)
}

/// Starts a server and tells the service its key, as a browser would.
fn with_web(post: &Post, service: &Service) -> TestServer {
    let host = service.address.to_string();
    let server = server(&[
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_SUBJECT", "mailto:ops@notes.example"),
        ("WEBPUSH_HOSTS", &host),
    ]);
    *post.key.lock() = public_key(&server);
    server
}

fn public_key(server: &TestServer) -> String {
    let answer = Client::anonymous(server).call("push:web_key", json!({}));
    answer.result()["public_key"].as_str().unwrap().to_owned()
}

fn hello() -> Json {
    json!({"web": {"title": "hello", "room": "den"}})
}

fn register(client: &Client, subscription: &str) -> String {
    super::register(client, "web", subscription, "")
}

#[test]
fn only_the_browser_can_read_what_is_sent_to_it() {
    let (post, service) = post();
    let mut server = with_web(&post, &service);
    let ada = Client::signed_up(&server, "ada");
    let browser = Browser::new();
    let device = register(
        &ada,
        &browser.subscription(&format!("{}/ada", service.url())),
    );
    push_to(&ada, &ada, &hello());
    let received = service.await_answers(201, 1);
    assert_eq!(received[0].path, "/ada");
    assert_eq!(
        browser.decrypt(&received[0].body),
        Some(hello()["web"].clone())
    );
    assert_eq!(Browser::new().decrypt(&received[0].body), None);
    assert_eq!(received[0].header("ttl"), Some("2419200"));

    let mut urgent = hello();
    urgent["web_headers"] = json!({"TTL": 60, "urgency": "high"});
    push_to(&ada, &ada, &urgent);
    let received = service.await_answers(201, 2);
    assert_eq!(received[1].header("ttl"), Some("60"));
    assert_eq!(received[1].header("urgency"), Some("high"));

    // As much as fits, and one byte more.
    let filled = |size: usize| json!({"web": {"t": "x".repeat(size - 8)}});
    push_to(&ada, &ada, &filled(3993));
    let received = service.await_answers(201, 3);
    assert_eq!(received[2].body.len(), 4096);
    let too_big = json!({"device_ids": [device], "notification": filled(3994)});
    let refused = ada.call("push:device", too_big);
    assert_eq!(refused.code(), 108, "{:?}", refused.json());
    // No two messages share a key or a salt.
    assert_ne!(received[0].body[..86], received[1].body[..86]);

    // The key is kept: browsers that subscribed with it stay subscribed.
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(public_key(&server), *post.key.lock());
    push_to(&ada.at(&server), &ada, &hello());
    service.await_answers(201, 4);
}

#[test]
fn a_browser_that_registers_again_is_the_same_device() {
    let (post, service) = post();
    let server = with_web(&post, &service);
    let ada = Client::signed_up(&server, "ada");
    let browser = Browser::new();
    let text = browser.subscription(&format!("{}/ada", service.url()));
    let first = register(&ada, &text);
    let second = register(&ada, &text.replace("\"expirationTime\":null,", ""));
    assert!(!is_known(&ada, &first), "its address went to the second");
    assert!(is_known(&ada, &second));
}

#[test]
fn what_is_no_subscription_is_refused() {
    let (post, service) = post();
    let server = with_web(&post, &service);
    let ada = Client::signed_up(&server, "ada");
    let good = Browser::new().subscription(&format!("{}/ada", service.url()));
    for (text, why) in [
        ("6a4f".to_owned(), "not the JSON of a subscription"),
        (good.replace("https", "http"), "https://"),
        (good.replace("auth\":\"", "auth\":\"AAAA"), "16 bytes"),
        (good.replace("p256dh\":\"B", "p256dh\":\"C"), "P-256"),
        (good.replace("auth", "other"), "missing field `auth`"),
    ] {
        let body = json!({"type": "web", "device_token": text});
        let refused = ada.call("device:register", body).json()["error"].clone();
        assert_eq!(refused["code"], 108, "{text}");
        assert!(
            refused["message"].as_str().unwrap().contains(why),
            "{refused}"
        );
        assert_eq!(refused["info"]["arguments"], json!(["device_token"]));
    }
}

/// A subscription's address comes from a client: only known push services are contacted.
#[test]
fn services_that_are_not_on_the_list_are_not_asked() {
    let ((post, service), stranger) = (post(), Service::start(|_| Reply::status(201)));
    let server = with_web(&post, &service);
    let ada = Client::signed_up(&server, "ada");
    let subscription = Browser::new().subscription(&format!("{}/secrets", stranger.url()));
    register(&ada, &subscription);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "web", "num_unreachable", 1);
    assert_eq!(stranger.num_connections(), 0);
    // Nor is a host to which a service redirects.
    register(
        &ada,
        &Browser::new().subscription(&format!("{}/moved", service.url())),
    );
    service.script([Reply::status(307).with("location", &format!("{}/x", stranger.url()))]);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "web", "num_unreachable", 2);
    await_figure(&server, "web", "num_failed", 1);
    assert_eq!(stranger.num_connections(), 0);
}

#[test]
fn a_subscription_that_ended_is_forgotten_and_a_busy_service_asked_again() {
    let (post, service) = post();
    let server = with_web(&post, &service);
    let ada = Client::signed_up(&server, "ada");
    let browser = |path: &str| {
        let subscription = Browser::new().subscription(&format!("{}{path}", service.url()));
        register(&ada, &subscription)
    };
    let (missing, expired) = (browser("/missing"), browser("/expired"));
    post.ended.lock().insert("/missing".to_owned(), 404);
    post.ended.lock().insert("/expired".to_owned(), 410);
    push_to(&ada, &ada, &hello());
    await_figure(&server, "web", "num_unregistered", 2);
    assert!(!is_known(&ada, &missing) && !is_known(&ada, &expired));

    let there = browser("/there");
    service.script([
        Reply::status(429).with("retry-after", "1"),
        Reply::cut(),
        Reply::status(502),
    ]);
    push_to(&ada, &ada, &hello());
    service.await_answers(201, 1);
    await_figure(&server, "web", "num_retried", 3);
    assert!(is_known(&ada, &there));
    await_figure(&server, "web", "num_sent", 1);
}

/// The sender must be the one to which the browser subscribed.
#[test]
fn the_key_can_be_given() {
    let (post, service) = post();
    let key = SecretKey::from_slice(&rand::random::<[u8; 32]>()).unwrap();
    let private = URL_SAFE_NO_PAD.encode(key.to_bytes());
    let point = key.public_key().to_encoded_point(false);
    *post.key.lock() = URL_SAFE_NO_PAD.encode(point);
    let host = service.address.to_string();
    let server = server(&[
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_SUBJECT", "mailto:ops@notes.example"),
        ("WEBPUSH_HOSTS", &host),
        ("WEBPUSH_PRIVATE_KEY", &private),
    ]);
    assert_eq!(public_key(&server), *post.key.lock());
    let ada = Client::signed_up(&server, "ada");
    register(
        &ada,
        &Browser::new().subscription(&format!("{}/ada", service.url())),
    );
    push_to(&ada, &ada, &hello());
    service.await_answers(201, 1);
    assert!(!server.output().contains(&private));
}
