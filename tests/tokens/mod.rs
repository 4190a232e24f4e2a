//! Access tokens from outside: the three stores side by side, and the tokens that v1 left in each.

mod files;
mod redis;
mod redis_server;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use crate::support::client::Client;
use crate::support::machine::{faketime, skipped};
use crate::support::server::{MASTER_KEY, TestServer};

/// Returns whether a token signs a user in.
fn is_good(client: &Client) -> bool {
    let answer = client.call("me", json!({}));
    assert!([0, 104].contains(&answer.code()), "{}", answer.json());
    answer.code() == 0
}

/// Tests what every store promises; only signed tokens cannot be forgotten.
fn keeps_its_promises(settings: &[(&str, &str)], can_forget: bool) {
    let mut server = TestServer::with(settings);
    let ada = Client::signed_up(&server, "ada");
    let token = ada.token.clone().unwrap();
    server.restart();
    let ada = ada.at(&server);
    assert!(is_good(&ada), "a session survives a restart");
    assert!(!is_good(&ada.with_token("no-token")));
    assert!(!is_good(&ada.with_token("../keys.json")));
    assert!(!server.output().contains(&token));

    ada.call("auth:logout", json!({})).result();
    assert_eq!(is_good(&ada), !can_forget, "after logging out");

    let credentials = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    let session = Client::anonymous(&server)
        .call("auth:login", credentials)
        .result();
    let old = ada.with_token(session["access_token"].as_str().unwrap());
    assert!(is_good(&old));
    let body = json!({"old_password": "secret-of-the-test", "password": "secret-of-the-test"});
    let changed = old.call("auth:password", body).result();
    let newest = old.with_token(changed["access_token"].as_str().unwrap());
    assert!(!is_good(&old), "a new password ends older sessions");
    assert!(is_good(&newest));
    let renewed = newest.call("me", json!({})).result();
    assert!(is_good(
        &newest.with_token(renewed["access_token"].as_str().unwrap())
    ));
    no_session_is_renewed_past_a_new_password(&newest);
}

#[test]
fn a_clock_that_is_set_back_ends_no_session_and_revives_none() {
    let Some(faketime) = faketime() else {
        return skipped("a clock that is set back", "faketime is not installed");
    };
    let mut server = TestServer::with(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME", "+1d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let old = Client::signed_up(&server, "ada");
    let other = Client::signed_up(&server, "bob");
    let body = json!({"old_password": "secret-of-the-test", "password": "another-secret"});
    let changed = old.call("auth:password", body).result();
    let new = old.with_token(changed["access_token"].as_str().unwrap());
    let restart_at = |server: &mut TestServer, offset: &str| {
        assert!(server.terminate().success());
        server.set("FAKETIME", offset);
        server.restart();
    };
    restart_at(&mut server, "+0");
    assert!(is_good(&other.at(&server)) && is_good(&new.at(&server)));
    assert!(!is_good(&old.at(&server)), "its password is a new one");
    // So it is with a password that is changed while the clock is behind.
    let body = json!({"old_password": "secret-of-the-test", "password": "another-secret"});
    let changed = other.at(&server).call("auth:password", body).result();
    let newest = other.with_token(changed["access_token"].as_str().unwrap());
    for offset in ["+0", "+2d"] {
        restart_at(&mut server, offset);
        assert!(is_good(&newest.at(&server)), "{offset}");
        assert!(!is_good(&other.at(&server)), "{offset}");
    }
}

/// A session is renewed repeatedly while its user's password changes.
fn no_session_is_renewed_past_a_new_password(user: &Client) {
    let mut user = user.clone();
    for _ in 0..3 {
        let stolen = user.clone();
        let renewing = std::thread::spawn(move || {
            let mut sessions = vec![stolen.clone()];
            loop {
                let answer = sessions.last().unwrap().call("me", json!({}));
                match answer.json()["result"]["access_token"].as_str() {
                    Some(token) => sessions.push(stolen.with_token(token)),
                    None => return sessions,
                }
                assert!(sessions.len() < 10_000, "renewed without an end");
            }
        });
        let body = json!({"old_password": "secret-of-the-test", "password": "secret-of-the-test"});
        let changed = user.call("auth:password", body).result();
        user = user.with_token(changed["access_token"].as_str().unwrap());
        let sessions = renewing.join().unwrap();
        assert!(sessions.iter().all(|session| !is_good(session)));
        assert!(is_good(&user));
    }
}

#[test]
fn signed_tokens_keep_their_promises() {
    keeps_its_promises(&[], false);
}

#[test]
fn stored_tokens_keep_their_promises() {
    keeps_its_promises(&[("TOKEN_STORE", "fs")], true);
}

#[test]
fn tokens_in_redis_keep_their_promises() {
    let redis = redis_server::Redis::start();
    let url = redis.url();
    keeps_its_promises(
        &[("TOKEN_STORE", "redis"), ("TOKEN_STORE_PATH", &url)],
        true,
    );
}

#[test]
fn signed_tokens_of_v1_are_accepted_with_the_secret_they_were_signed_with() {
    let secret = "token-secret-of-the-tests";
    let (default, set) = (
        TestServer::start(),
        TestServer::with(&[("TOKEN_STORE_SECRET", secret)]),
    );
    for (server, ours, others) in [(&default, MASTER_KEY, secret), (&set, secret, MASTER_KEY)] {
        let ada = Client::signed_up(server, "ada");
        let sign = |algorithm, key: &str, claims| {
            let key = EncodingKey::from_secret(key.as_bytes());
            let token = jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap();
            ada.with_token(&token)
        };
        let claims = || json!({"iat": 4_000_000_000_u64, "iss": "myapp", "sub": ada.user});
        // A token from the future is invalid; one without a time of issue is never revoked.
        assert!(!is_good(&sign(Algorithm::HS256, ours, claims())));
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut claims = claims();
            claims["iat"] = json!(0);
            assert!(
                is_good(&sign(algorithm, ours, claims.clone())),
                "{algorithm:?}"
            );
            assert!(!is_good(&sign(algorithm, others, claims)), "{algorithm:?}");
        }
    }
}

#[test]
fn a_role_that_is_taken_ends_its_rights_at_the_next_request() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let roles = json!({"roles": ["Admin"], "users": [ada.user, ada.user]});
    let give = || {
        ada.call("role:assign", json!({"roles": ["x"], "users": []}))
            .code()
    };
    assert_eq!(give(), 102);
    master.call("role:assign", roles.clone()).result();
    assert_eq!(give(), 0);
    master.call("role:revoke", roles).result();
    assert_eq!(give(), 102);
}

#[test]
fn a_user_who_is_locked_out_is_out_at_the_next_request() {
    let server = TestServer::with(&[("TOKEN_STORE", "fs")]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let save = || {
        ada.call("record:save", json!({"records": [{"_id": "note/1"}]}))
            .code()
    };
    let disable = |disabled| {
        let body = json!({"auth_id": ada.user, "disabled": disabled});
        master.call("auth:disable:set", body).result();
    };
    assert_eq!(save(), 0);
    disable(true);
    assert_eq!(save(), 127);
    for action in ["relation:query", "relation:add", "relation:remove"] {
        assert_eq!(
            ada.call(action, json!({"name": "follow"})).code(),
            127,
            "{action}"
        );
    }
    disable(false);
    assert_eq!(save(), 0);
}
