//! `TOKEN_STORE=redis`, with Debian's redis-server.

use std::collections::BTreeMap;

use redis::Commands;
use serde_json::json;

use super::is_good;
use super::redis_server::Redis;
use crate::live::listener::{Listener, TIMEOUT};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn server(redis: &Redis, more: &[(&str, &str)]) -> TestServer {
    let url = redis.url();
    let mut all = vec![("TOKEN_STORE", "redis"), ("TOKEN_STORE_PATH", url.as_str())];
    all.extend_from_slice(more);
    TestServer::with(&all)
}

#[test]
fn a_token_is_a_hash_whose_own_key_expires() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    for (prefix, before) in [("", String::new()), ("tokens", "tokens:".to_owned())] {
        let settings = [("TOKEN_STORE_PREFIX", prefix), ("TOKEN_STORE_EXPIRY", "60")];
        let server = server(&redis, &settings);
        let ada = Client::signed_up(&server, "ada");
        let token = ada.token.clone().unwrap();
        let key = format!("{before}{token}");
        let stored: BTreeMap<String, String> = connection.hgetall(&key).unwrap();
        assert_eq!(stored["accessToken"], token);
        assert_eq!(Some(&stored["authInfoID"]), ada.user.as_ref());
        assert_eq!(stored["appName"], "myapp");
        let [issued, expires]: [i64; 2] =
            ["issuedAt", "expiredAt"].map(|name| stored[name].parse().unwrap());
        assert_eq!(expires, issued + 60_000_000_000);
        let seconds: i64 = connection.ttl(&key).unwrap();
        assert!((1..=60).contains(&seconds), "{seconds}");
        ada.call("auth:logout", json!({})).result();
        assert!(!connection.exists::<_, bool>(&key).unwrap());
    }
    assert_eq!(
        connection.keys::<_, Vec<String>>("*").unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn hashes_of_v1_are_read_and_their_own_expiry_counts() {
    let redis = Redis::start();
    let mut connection = redis.connect();
    let server = server(&redis, &[("TOKEN_STORE_PREFIX", "p")]);
    let ada = Client::signed_up(&server, "ada");
    let mut write = |name: &str, expired_at: &str| {
        let user = ada.user.clone().unwrap();
        let fields = [
            ("accessToken", name),
            ("expiredAt", expired_at),
            ("issuedAt", "0"),
            ("appName", "myapp"),
            ("authInfoID", &user),
        ];
        let key = format!("p:{name}");
        connection
            .hset_multiple::<_, _, _, ()>(key, &fields)
            .unwrap();
        ada.with_token(name)
    };
    assert!(is_good(&write("v1-for-ever", "0")));
    assert!(is_good(&write("v1-future", "4102444800000000000")));
    // v1 left such keys behind, because it set the expiry on another key.
    assert!(!is_good(&write("v1-past", "1500000000000000000")));
    redis
        .connect()
        .set::<_, _, ()>("p:text", "no hash")
        .unwrap();
    assert!(!is_good(&ada.with_token("text")));
}

#[test]
fn a_redis_that_comes_late_is_found_and_no_sign_up_is_left_behind() {
    let mut redis = Redis::start();
    redis.stop();
    let server = server(&redis, &[]);
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    let refused = Client::anonymous(&server).call("auth:signup", body.clone());
    assert_eq!(refused.status, 503, "{}", refused.json());
    redis.start_again();
    // Only 503 until redis is used: the name is never reserved.
    let session = eventually("somebody signs up", || {
        let answer = Client::anonymous(&server).call("auth:signup", body.clone());
        assert!([200, 503].contains(&answer.status), "{}", answer.json());
        (answer.status == 200).then(|| answer.result())
    });
    let token = session["access_token"].as_str().unwrap();
    assert!(is_good(&Client::anonymous(&server).with_token(token)));
}

#[test]
fn a_redis_that_is_away_ends_no_session() {
    let mut redis = Redis::start();
    let server = server(&redis, &[]);
    let ada = Client::signed_up(&server, "ada");
    let token = ada.token.clone().unwrap();
    let stored: BTreeMap<String, String> = redis.connect().hgetall(&token).unwrap();
    redis.stop();
    let answer = ada.call("me", json!({}));
    assert_eq!(
        (answer.status, answer.code()),
        (503, 10_000),
        "{}",
        answer.json()
    );
    assert!(answer.header("Retry-After").is_some());
    // A request without a token does not need redis.
    let anyone = Client::anonymous(&server);
    assert_eq!(
        anyone
            .call("record:query", json!({"record_type": "user"}))
            .code(),
        0
    );
    redis.start_again();
    let stored: Vec<_> = stored.into_iter().collect();
    redis
        .connect()
        .hset_multiple::<_, _, _, ()>(&token, &stored)
        .unwrap();
    eventually("redis is used again", || {
        (ada.call("me", json!({})).code() == 0).then_some(())
    });
}

#[test]
fn who_is_locked_out_hears_no_more_while_a_token_is_looked_up() {
    let redis = Redis::start();
    let server = server(&redis, &[]);
    let ada = Client::signed_up(&server, "ada");
    let query = json!({"record_type": "note"});
    let mut listener = Listener::open(&server, &ada);
    listener.subscribe("q", query.clone());
    redis.silence();
    listener.ask("r", query);
    let locked = json!({"auth_id": ada.user, "disabled": true});
    let master = Client::master(&server);
    master.call("auth:disable:set", locked).result();
    let last = listener.next(TIMEOUT).unwrap();
    assert_eq!(last["error"]["code"], 127, "{last}");
    listener.until_closed();
}
