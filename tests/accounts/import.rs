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
    let password = "long ".repeat(14);
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
    // The log has the hash only sealed with the user's key.
    assert!(!log.contains("$argon2id$"));
    server.restart();
    let anyone = Client::anonymous(&server);
    assert_eq!(log_in(&anyone, "ada", &password).status, 200);
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
    // Nothing of the refused users was stored.
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

/// Makes another user the owner of the record of a user who does not exist yet.
fn squat(server: &TestServer, owner: &Client, fields: Json) -> Json {
    let mut body = json!({"_user_id": owner.user, "records": [fields]});
    if body["records"][0]["private"].take() == json!(true) {
        body["database_id"] = json!("_private");
    }
    Client::master(server).call("record:save", body).result()
}

#[test]
fn a_record_that_a_stranger_made_becomes_the_users() {
    let mut server = TestServer::start();
    let mallory = Client::signed_up(&server, "mallory");
    let access = json!([{"user_id": mallory.user, "level": "write"}]);
    let fields = json!({"_id": "user/u-1", "_access": access, "is_verified": true, "bio": "hers"});
    squat(&server, &mallory, fields);
    squat(
        &server,
        &mallory,
        json!({"_id": "user/u-2", "private": true}),
    );
    let users = json!([
        {"id": "u-1", "auth_data": {"username": "ada"}, "profile": {"phone": "1"}},
        {"id": "u-2", "auth_data": {"username": "ben"}},
    ]);
    let done = import(&server, users);
    assert_eq!(done[0], json!({"_type": "user", "_id": "u-1"}));
    // A record in another user's private database is left there, and named in the error.
    assert_eq!(done[1]["code"], 109, "{done}");
    let message = done[1]["message"].as_str().unwrap();
    assert!(message.contains("private database") && message.contains("user/u-2"));
    for _ in 0..2 {
        let master = Client::master(&server);
        let fetched = master.call("record:fetch", json!({"ids": ["user/u-1"]}));
        let record = fetched.result()[0].clone();
        for member in ["_ownerID", "_created_by"] {
            assert_eq!(record[member], "u-1", "{record}");
        }
        assert_eq!(record["_access"], Json::Null);
        assert_eq!(
            (&record["username"], &record["phone"]),
            (&json!("ada"), &json!("1"))
        );
        assert!(record.get("bio").is_none() && record.get("is_verified").is_none());
        let own = json!(["eq", {"$type": "keypath", "$val": "_owner"}, "u-1"]);
        assert_eq!(master.query("user", own).len(), 1);
        server.restart();
    }
}

#[test]
fn nobody_but_the_master_key_makes_the_record_of_somebody_else() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    for database in ["_public", "_private"] {
        let records = json!([{"_id": "user/u-1"}, {"_id": "note/1"}]);
        let body = json!({"records": records, "database_id": database});
        let saved = ada.call("record:save", body).result();
        assert_eq!(saved[0]["code"], 102, "{saved}");
    }
    assert!(
        Client::master(&server)
            .query(
                "user",
                json!(["eq", {"$type": "keypath", "$val": "_id"}, "u-1"])
            )
            .is_empty()
    );
    // A user whose record was lost gets a new one.
    assert_eq!(import(&server, json!([{"id": "u-1"}]))[0]["_type"], "user");
}

#[test]
fn a_password_of_v1_is_kept_where_its_hash_knows_only_a_part() {
    let server = TestServer::start();
    let password = "long ".repeat(20);
    let hash = bcrypt::hash(&password, 4).unwrap();
    let user = json!({"id": "u-1", "auth_data": {"username": "ada"}, "password_hash": hash});
    import(&server, json!([user]));
    let anyone = Client::anonymous(&server);
    // As in v1, everything after byte 72 may be wrong, so this password must not replace the hash.
    let mistyped = format!("{}oops", password.trim_end());
    assert_eq!(log_in(&anyone, "ada", &mistyped).status, 200);
    assert_eq!(log_in(&anyone, "ada", &password).status, 200);
    assert!(!history(&server, "u-1").contains("user.password_rehashed"));
}

#[test]
fn ids_and_names_of_users_have_a_bound() {
    let server = TestServer::start();
    let long = "x".repeat(1025);
    let users = json!([
        {"id": long},
        {"id": "a", "accounts": {"custom_token": {"principal": long}}},
        {"id": "b", "roles": [long]},
        {"id": "x".repeat(1024)},
    ]);
    let done = import(&server, users);
    for refused in 0..3 {
        assert_eq!(done[refused]["code"], 108, "{done}");
        let message = done[refused]["message"].as_str().unwrap();
        assert!(message.contains("1024 bytes"), "{message}");
    }
    assert_eq!(done[3]["_type"], "user");
}

#[test]
fn who_was_erased_has_no_sessions_when_his_id_is_imported_again() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let id = ada.user.clone().unwrap();
    let body = json!({"user": id, "why": "a test"});
    assert_eq!(master.call("erase:user", body).status, 200);
    let user = json!({"id": id, "auth_data": {"username": "ada"},
        "password_hash": bcrypt::hash("new", 4).unwrap()});
    assert_eq!(
        import(&server, json!([user])),
        json!([{"_type": "user", "_id": id}])
    );
    assert_eq!(ada.call("me", json!({})).code(), 104);
    let session = log_in(&Client::anonymous(&server), "ada", "new").result();
    assert_eq!(session["user_id"], id);
    let again = ada.with_token(session["access_token"].as_str().unwrap());
    assert_eq!(again.call("me", json!({})).status, 200);
}
