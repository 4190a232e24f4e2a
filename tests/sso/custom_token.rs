//! `sso:custom_token:login`

use jsonwebtoken::Algorithm;
use serde_json::json;

use super::{EXPIRES, ISSUED, SECRET, server, sign, token_of};
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn every_algorithm_with_a_shared_secret_signs_in() {
    let server = server();
    let anyone = Client::anonymous(&server);
    let users: Vec<_> = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
        .into_iter()
        .map(|algorithm| {
            let token = sign(
                algorithm,
                &json!({"sub": "al", "iat": ISSUED, "exp": EXPIRES}),
            );
            let session = anyone.call("sso:custom_token:login", json!({"token": token}));
            session.result()["user_id"].clone()
        })
        .collect();
    assert!(
        users
            .iter()
            .all(|user| user.is_string() && *user == users[0]),
        "{users:?}"
    );
    assert!(!server.output().contains(SECRET));
}

#[test]
fn a_profile_is_merged_at_every_login_by_the_rules_of_a_save() {
    let server = TestServer::with(&[("CUSTOM_TOKEN_SECRET", SECRET), ("PLUGINS", "TEST")]);
    let hook = json!({"hook": [
        {"name": "guard", "type": "user", "trigger": "beforeSave", "async": false},
    ]});
    let mut worker = Worker::ready(&server, &json!({}), &hook);
    let anyone = Client::anonymous(&server);
    let login = |profile| {
        let anyone = anyone.clone();
        let token = token_of("al", profile);
        std::thread::spawn(move || anyone.call("sso:custom_token:login", json!({"token": token})))
    };

    let first = login(json!({"nickname": "Al", "level": 3}));
    let request = worker.expect_request("guard");
    assert_eq!(
        request["context"].get("user_id"),
        None,
        "there is no user yet"
    );
    assert_eq!(request["param"]["original"], json!(null));
    worker.answer_record(&request, &json!({"level": 4}));
    let session = first.join().unwrap().result();
    assert_eq!(session["profile"]["level"], 4);

    let second = login(json!({"nickname": "Bo"}));
    let request = worker.expect_request("guard");
    assert_eq!(request["context"]["user_id"], session["user_id"]);
    assert_eq!(request["param"]["original"]["nickname"], "Al");
    worker.answer_record(&request, &json!({}));
    let profile = second.join().unwrap().result()["profile"].clone();
    assert_eq!(
        (&profile["nickname"], &profile["level"]),
        (&json!("Bo"), &json!(4))
    );

    let third = login(json!({"nickname": "Cy"}));
    let request = worker.expect_request("guard");
    worker.refuse(&request, &json!({"code": 30_001, "message": "not today"}));
    assert_eq!(third.join().unwrap().code(), 30_001);

    // Without a profile nothing is saved, so no hook is called.
    let fourth = login(json!({})).join().unwrap().result();
    assert_eq!(fourth["profile"]["nickname"], "Bo");
}

#[test]
fn who_has_closed_his_record_signs_in_and_it_stays_closed() {
    let server = server();
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let default = json!([{"public": true, "level": "read"}]);
    let body = json!({"type": "user", "default_access": default});
    master.call("schema:default_access", body).result();
    let login = |profile| {
        let token = token_of("al", profile);
        let session = anyone.call("sso:custom_token:login", json!({"token": token}));
        session.result()
    };
    let session = login(json!({"nickname": "Al"}));
    assert_eq!(session["profile"]["_access"], default);
    let al = anyone.with_token(session["access_token"].as_str().unwrap());
    let id = format!("user/{}", session["user_id"].as_str().unwrap());
    al.save(&id, json!({"_access": []}));
    let profile = login(json!({"nickname": "Bo"}))["profile"].clone();
    assert_eq!(
        (&profile["nickname"], &profile["_access"]),
        (&json!("Bo"), &json!([]))
    );
    let found = anyone.call("record:fetch", json!({"ids": [id]})).result();
    assert_eq!(found[0]["code"], 102, "{found}");
}

#[test]
fn a_profile_that_cannot_be_stored_makes_no_user() {
    let server = server();
    let ada = Client::signed_up(&server, "ada");
    let anyone = Client::anonymous(&server);
    let login = |profile| {
        let token = token_of("al", profile);
        anyone.call("sso:custom_token:login", json!({"token": token}))
    };
    let bad_value = json!({"at": {"$type": "date", "$date": "soon"}});
    assert_eq!(login(bad_value).code(), 108);
    assert_eq!(login(json!({"username": "ADA"})).code(), 109);
    let al = login(json!({"username": "al"})).result();
    assert_ne!(al["user_id"].as_str(), ada.user.as_deref());
    // A name that belongs to another user is refused later, too, and leaves the record unchanged.
    assert_eq!(login(json!({"username": "ada", "level": 9})).code(), 109);
    let after = login(json!({})).result();
    assert_eq!(after["profile"]["username"], "al");
    assert!(after["profile"].get("level").is_none(), "{after}");
}

#[test]
fn a_user_who_is_locked_out_changes_nothing() {
    let server = server();
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let login = |profile| {
        let token = token_of("al", profile);
        anyone.call("sso:custom_token:login", json!({"token": token}))
    };
    let user = login(json!({"nickname": "Al"})).result()["user_id"].clone();
    let disable = json!({"auth_id": user, "disabled": true, "message": "no"});
    master.call("auth:disable:set", disable).result();
    let refused = login(json!({"nickname": "Bo"}));
    assert_eq!((refused.status, refused.code()), (403, 127));
    assert_eq!(refused.json()["error"]["info"]["message"], "no");
    assert_eq!(master.query("user", json!(null))[0]["nickname"], "Al");
    let account = json!({"provider": "p", "principal_id": "al", "user_id": user});
    master.call("sso:oauth:link", account.clone()).result();
    assert_eq!(master.call("sso:oauth:login", account).code(), 127);
}

#[test]
fn a_sign_up_that_a_hook_undoes_leaves_no_account_behind() {
    let server = TestServer::with(&[("CUSTOM_TOKEN_SECRET", SECRET), ("PLUGINS", "TEST")]);
    let hook = json!({"hook": [
        {"name": "guard", "type": "user", "trigger": "afterSave", "async": false},
    ]});
    let mut worker = Worker::ready(&server, &json!({}), &hook);
    let anyone = Client::anonymous(&server);
    let login = || {
        let (anyone, token) = (anyone.clone(), token_of("al", json!({"nickname": "Al"})));
        std::thread::spawn(move || anyone.call("sso:custom_token:login", json!({"token": token})))
    };
    let first = login();
    let request = worker.expect_request("guard");
    worker.refuse(&request, &json!({"code": 30_001, "message": "not today"}));
    assert_eq!(first.join().unwrap().code(), 30_001);
    let second = login();
    let request = worker.expect_request("guard");
    assert_eq!(request["param"]["original"], json!(null), "a new user");
    worker.answer_record(&request, &json!({}));
    second.join().unwrap().result();
    assert_eq!(Client::master(&server).query("user", json!(null)).len(), 1);
}

#[test]
fn without_a_secret_there_is_no_such_login() {
    let server = TestServer::start();
    let token = token_of("al", json!({}));
    let answer = Client::anonymous(&server).call("sso:custom_token:login", json!({"token": token}));
    assert_eq!((answer.status, answer.code()), (503, 125));
}
