//! Users from another server: they keep their ids and passwords.

use serde_json::{Value as Json, json};

use super::log_in;
use crate::support::client::Client;
use crate::support::server::TestServer;

fn import(server: &TestServer, users: Json) -> Json {
    let master = Client::master(server);
    master.call("auth:import", json!({"users": users})).result()
}

fn history(server: &TestServer, user: &str) -> String {
    let shown = server.skytrail(&["log", "show", &format!("user/{user}")]);
    String::from_utf8(shown.stdout).unwrap()
}

#[test]
fn a_password_of_v1_is_accepted_and_hashed_anew() {
    let mut server = TestServer::start();
    // More than 72 bytes: bcrypt never looked at what is behind.
    let password = "long ".repeat(20);
    let hash = bcrypt::hash(&password, 4)
        .unwrap()
        .replacen("$2b$", "$2a$", 1);
    let user = json!({
        "id": "u-1", "auth_data": {"username": "Ada", "email": "ada@example.com"},
        "password_hash": hash, "profile": {"bio": "first", "is_verified": true},
        "roles": ["writer"], "accounts": {"oauth/com.example": {"principal": "p1"}},
        "disabled": {"message": "later", "expiry": "2001-02-03T04:05:06Z"},
    });
    let done = import(&server, json!([user]));
    assert_eq!(done, json!([{"_type": "user", "_id": "u-1"}]));
    assert!(!history(&server, "u-1").contains("user.password_rehashed"));

    let anyone = Client::anonymous(&server);
    assert_eq!(log_in(&anyone, "ada", "long").code(), 105);
    let session = log_in(&anyone, "ada", &password).result();
    assert_eq!(session["user_id"], "u-1");
    assert_eq!(session["roles"], json!(["writer"]));
    assert_eq!(session["profile"]["bio"], "first");
    assert_eq!(session["profile"]["_ownerID"], "u-1");
    let shown = history(&server, "u-1");
    assert!(shown.contains("user.password_rehashed") && !shown.contains("$argon2id$"));
    let log = std::fs::read(
        server
            .data_dir()
            .join("journal/00000000000000000001.journal"),
    );
    let log = String::from_utf8_lossy(&log.unwrap()).into_owned();
    // It is there under the user's key only.
    assert!(!log.contains("$argon2id$"));
    server.restart();
    let anyone = Client::anonymous(&server);
    assert_eq!(log_in(&anyone, "ada", &password).status, 200);
    // All of it counts now.
    assert_eq!(log_in(&anyone, "ada", &password[..72]).code(), 105);
    let again = history(&server, "u-1")
        .matches("user.password_rehashed")
        .count();
    assert_eq!(again, 1);
}

#[test]
fn what_cannot_be_taken_over_is_named_and_the_rest_is() {
    let server = TestServer::start();
    Client::signed_up(&server, "taken");
    let link = json!({"oauth/com.example": {"principal": "p1"}});
    let users = json!([
        {"id": "a", "auth_data": {"username": "a"}, "accounts": link},
        {"id": "a", "auth_data": {"username": "b"}},
        {"id": "c", "auth_data": {"username": "Taken"}},
        {"id": "d", "password_hash": "plain text"},
        {"id": "e", "accounts": link},
        {"id": "f", "pasword_hash": "x"},
        {"auth_data": {"username": "g"}},
        {"id": "h", "auth_data": {"phone": "1"}},
        5,
        {"id": "z", "auth_data": {"username": "z"}},
    ]);
    let done = import(&server, users);
    let codes: Vec<Json> = done
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["code"].clone())
        .collect();
    let expected = json!([null, 109, 109, 108, 109, 108, 108, 108, 107, null]);
    assert_eq!(json!(codes), expected, "{done}");
    assert!(
        done[5]["message"]
            .as_str()
            .unwrap()
            .contains("pasword_hash")
    );
    // Nothing of what was refused is there.
    let master = Client::master(&server);
    let ids: Vec<Json> = master
        .query("user", json!([]))
        .iter()
        .map(|it| it["_id"].clone())
        .collect();
    assert!(ids.contains(&json!("user/a")) && ids.contains(&json!("user/z")));
    assert_eq!(ids.len(), 3, "{ids:?}");
    let refused = Client::anonymous(&server).call("auth:import", json!({"users": []}));
    assert_eq!((refused.status, refused.code()), (401, 102));
}

#[test]
fn who_is_locked_out_stays_so_also_without_a_word_why() {
    let server = TestServer::start();
    let user = |id: &str, disabled: Json| json!({"id": id, "disabled": disabled});
    let users = json!([user("out", json!({})), user("in", Json::Null)]);
    assert_eq!(import(&server, users)[1]["_type"], "user");
    let me = |id: &str| Client::master(&server).call("me", json!({"_user_id": id}));
    assert_eq!(me("out").code(), 127);
    assert_eq!(me("in").code(), 0);
}
