//! `VERIFY_REQUIRED`: an unverified user may sign in and nothing else. And who may not be locked
//! out.

use serde_json::json;

use super::{change_password, log_in};
use crate::sso::{SECRET, token_of};
use crate::support::client::Client;
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";

#[test]
fn a_user_may_act_once_the_record_says_that_he_is_verified() {
    let server = TestServer::with(&[("VERIFY_REQUIRED", "YES")]);
    let mut ada = Client::signed_up(&server, "ada");
    let id = format!("user/{}", ada.user.clone().unwrap());
    let own = json!({"records": [{"_id": id, "is_verified": true}]});
    let refused = [
        ada.call("record:save", own.clone()),
        ada.call("record:query", json!({"record_type": "note"})),
        ada.call("relation:add", json!({"name": "_follow", "targets": []})),
        ada.call("me", json!({})),
        change_password(&mut ada, PASSWORD, "other"),
    ];
    for answer in refused {
        assert_eq!(
            (answer.status, answer.code()),
            (403, 128),
            "{}",
            answer.json()
        );
    }
    assert_eq!(log_in(&ada, "ada", PASSWORD).status, 200);
    let roles = ada.call("role:get", json!({"users": [ada.user]}));
    assert_eq!(roles.status, 200);
    // A plugin that verifies users has the master key.
    Client::master(&server).call("record:save", own).result();
    ada.call("me", json!({})).result();
    ada.save("note/1", json!({"n": 1}));
    change_password(&mut ada, PASSWORD, "other").result();
}

#[test]
fn nobody_says_of_himself_that_he_is_verified() {
    let server = TestServer::with(&[("VERIFY_REQUIRED", "YES"), ("CUSTOM_TOKEN_SECRET", SECRET)]);
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let profile = json!({"is_verified": true, "bio": "x"});
    let body = |name: &str| json!({"auth_data": {"username": name}, "password": PASSWORD, "profile": profile});
    let signed_up = anyone.call("auth:signup", body("eve")).result();
    let token = token_of("al", profile.clone());
    let vouched = anyone
        .call("sso:custom_token:login", json!({"token": token}))
        .result();
    for session in [&signed_up, &vouched] {
        assert_eq!(session["profile"]["bio"], "x");
        assert!(session["profile"].get("is_verified").is_none(), "{session}");
        let eve = anyone.with_token(session["access_token"].as_str().unwrap());
        assert_eq!(eve.call("me", json!({})).code(), 128);
    }
    let session = master.call("auth:signup", body("ada")).result();
    assert_eq!(session["profile"]["is_verified"], true);
    // Nor can a verified user verify others.
    let ada = anyone.with_token(session["access_token"].as_str().unwrap());
    let eves = json!({"_id": format!("user/{}", signed_up["user_id"].as_str().unwrap()),
        "is_verified": true, "bio": "y"});
    let saved = ada.call("record:save", json!({"records": [eves]})).result();
    assert_eq!(saved[0]["bio"], "y", "{saved}");
    assert!(saved[0].get("is_verified").is_none(), "{saved}");
    let saved = ada.call("record:save", json!({"records": [eves], "atomic": true}));
    assert_eq!(saved.code(), 115, "{}", saved.json());
}

#[test]
fn the_field_is_like_any_other_where_nobody_asks_for_it() {
    let server = TestServer::start();
    let body = json!({"auth_data": {"username": "ada"}, "password": PASSWORD,
        "profile": {"is_verified": true}});
    let session = Client::anonymous(&server)
        .call("auth:signup", body)
        .result();
    assert_eq!(session["profile"]["is_verified"], true);
}

#[test]
fn nobody_locks_out_the_master_key() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    master
        .call("role:admin", json!({"roles": ["Admin"]}))
        .result();
    master
        .call(
            "role:assign",
            json!({"roles": ["Admin"], "users": [ada.user]}),
        )
        .result();
    master.save("note/1", json!({"n": 1}));
    let lock = json!({"auth_id": "_god", "disabled": true});
    assert_eq!(ada.call("auth:disable:set", lock).code(), 108);
    let erase = json!({"user": "_god", "records": true, "why": "to see"});
    assert_eq!(ada.call("erase:user", erase).code(), 108);
    master.save("note/1", json!({"n": 2}));
    // An earlier lock does not keep it out.
    let user = json!({"id": "_god", "disabled": {"message": "of before"}});
    let other = TestServer::start();
    let master = Client::master(&other);
    master
        .call("auth:import", json!({"users": [user]}))
        .result();
    master.save("note/1", json!({"n": 1}));
}
