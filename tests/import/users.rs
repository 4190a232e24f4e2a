//! Importing users and roles from a file, and exporting them.

use serde_json::{Value as Json, json};

use super::records::{export, file, import, run};
use super::said;
use crate::support::assert_private;
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn users_come_with_their_roles_and_hashes_only_when_they_are_asked_for() {
    let first = TestServer::start();
    let master = Client::master(&first);
    let ada = Client::signed_up(&first, "ada");
    let bob = Client::signed_up(&first, "bob");
    let roles = json!({"roles": ["editor"], "users": [ada.user]});
    assert_eq!(master.call("role:assign", roles).status, 200);
    let lock = json!({"auth_id": bob.user, "disabled": true, "message": "gone"});
    assert_eq!(master.call("auth:disable:set", lock).status, 200);
    ada.save("note/1", json!({"title": "hers"}));
    let plain = export(&first, &["--users"]);
    let whole = export(&first, &["--users", "--password-hashes"]);
    let of_users = |text: &str| -> Vec<Json> {
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter(|line: &Json| line["_type"] == "auth")
            .collect()
    };
    assert!(!plain.contains("password_hash") && !plain.contains("$argon2"));
    assert_eq!((of_users(&plain).len(), of_users(&whole).len()), (2, 2));

    let second = TestServer::start();
    let path = file(&second, "all.jsonl", &whole);
    let table = import(&second, &path, &["--dry-run"]);
    assert_eq!(table.of("total")[5], 0, "{}", table.0);
    let table = import(&second, &path, &[]);
    assert_eq!(table.of("auth")[..2], [2, 2], "{}", table.0);
    assert_eq!(table.of("total")[5], 0, "{}", table.0);
    let log_in = |name: &str| {
        let body = json!({"auth_data": {"username": name}, "password": "secret-of-the-test"});
        Client::anonymous(&second).call("auth:login", body)
    };
    let session = log_in("ada").result();
    assert_eq!(session["user_id"].as_str(), ada.user.as_deref());
    assert_eq!(session["roles"], json!(["editor"]));
    assert_eq!(log_in("bob").code(), 127);
    // Again: existing users stay unchanged.
    let table = import(&second, &path, &[]);
    assert_eq!(
        (table.of("total")[1], table.of("total")[5]),
        (0, 0),
        "{}",
        table.0
    );
    let third = TestServer::start();
    let path = file(&third, "plain.jsonl", &plain);
    import(&third, &path, &[]);
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    assert_eq!(
        Client::anonymous(&third).call("auth:login", body).code(),
        105
    );
    let refused = run(&first, &["export", "note", "--users"]);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("type user"), "{}", said(&refused));
}

/// Returns what two servers with the same users answer alike.
fn people(server: &TestServer, users: &[&str]) -> Json {
    let master = Client::master(server);
    let roles = master.call("role:export", json!({})).result();
    let request = json!({"ids": users, "password_hashes": true});
    let auth = master.call("auth:export", request).result();
    let request = json!({"record_type": "user"});
    let records = master.call("record:export", request).result();
    json!({"roles": roles, "auth": auth, "records": records})
}

#[test]
fn roles_and_forbidden_passwords_come_back_in_a_fresh_server() {
    const PASSWORD: &str = "secret-of-the-test";
    let settings = [("USER_AUDIT_PW_HISTORY_SIZE", "3")];
    let first = TestServer::with(&settings);
    let master = Client::master(&first);
    let mut ada = Client::signed_up(&first, "ada");
    let bob = Client::signed_up(&first, "bob");
    let (ada_id, bob_id) = (ada.user.clone().unwrap(), bob.user.clone().unwrap());
    let change = |client: &mut Client, old: &str, new: &str| {
        let body = json!({"old_password": old, "password": new});
        let answer = client.call("auth:password", body);
        if answer.status == 200 {
            client.token = answer.result()["access_token"].as_str().map(str::to_owned);
        }
        answer
    };
    change(&mut ada, PASSWORD, "the second").result();
    change(&mut ada, "the second", "the third").result();
    let boss = json!({"roles": ["boss"]});
    master.call("role:admin", boss.clone()).result();
    let member = json!({"roles": ["member", "reader"]});
    master.call("role:default", member).result();
    let assign = json!({"roles": ["boss"], "users": [ada_id]});
    master.call("role:assign", assign).result();
    let elsewhere = json!([{"id": "eve", "auth_data": {"username": "eve"},
        "accounts": {"oauth/com.example": {"principal": "p1", "profile": {"a": 1}}},
        "disabled": {"message": "gone", "expiry": "2999-01-02T03:04:05Z"}}]);
    master
        .call("auth:import", json!({"users": elsewhere}))
        .result();
    ada.call("me", json!({})).result();
    let users = [ada_id.as_str(), &bob_id, "eve"];
    let plain = export(&first, &["--users"]);
    assert!(!plain.contains("password_history"));
    let whole = first.folder().join("whole.jsonl");
    let whole_path = whole.to_string_lossy().into_owned();
    export(
        &first,
        &["--users", "--password-hashes", "--output", &whole_path],
    );
    assert_private(&whole);

    let mut second = TestServer::with(&settings);
    let table = import(&second, &whole, &["--dry-run"]);
    assert_eq!(table.of("role"), [4, 3, 0, 0, 1, 0], "{}", table.0);
    let table = import(&second, &whole, &[]);
    // The administrators' role that every app has is a different one here.
    assert_eq!(table.of("role"), [4, 3, 0, 0, 1, 0], "{}", table.0);
    assert_eq!(table.of("auth"), [3, 3, 0, 0, 0, 0], "{}", table.0);
    Client::master(&second).call("role:admin", boss).result();
    let (there, here) = (people(&first, &users), people(&second, &users));
    assert_eq!(there, here);
    assert_eq!(
        there["auth"][0]["password_history"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let table = import(&second, &whole, &[]);
    assert_eq!(table.of("total")[1..], [0, 0, 10, 0, 0], "{}", table.0);
    second.restart();
    assert_eq!(people(&second, &users), here);

    // And all of it is in force.
    let body = json!({"auth_data": {"username": "ada"}, "password": "the third"});
    let session = Client::anonymous(&second).call("auth:login", body).result();
    let token = session["access_token"].as_str().unwrap();
    let mut ada = Client::anonymous(&second).with_token(token);
    for old in [PASSWORD, "the second", "the third"] {
        let refused = change(&mut ada, "the third", old).json();
        assert_eq!(refused["error"]["info"]["reason"], "PasswordReused");
    }
    change(&mut ada, "the third", "the fourth").result();
    // The history has three passwords, and the first one is the fourth by now.
    change(&mut ada, "the fourth", PASSWORD).result();
    let assign = json!({"roles": ["editor"], "users": [bob_id]});
    assert_eq!(ada.call("role:assign", assign).status, 200);
    let new = Client::signed_up(&second, "new");
    let roles = new.call("me", json!({})).result()["roles"].clone();
    assert_eq!(roles, json!(["member", "reader"]));
}

#[test]
fn a_password_that_is_no_hash_is_not_taken_into_a_history() {
    let server = TestServer::with(&[("USER_AUDIT_PW_HISTORY_SIZE", "3")]);
    let master = Client::master(&server);
    let import = |history: Json| {
        let user = json!({"id": "ada", "password_history": history});
        let done = master.call("auth:import", json!({"users": [user]}));
        done.result()[0]["code"].clone()
    };
    let at = "2020-01-01T00:00:00Z";
    assert_eq!(import(json!([{"hash": "plain text", "set_at": at}])), 108);
    assert_eq!(import(json!([{"hash": "plain text"}])), 108);
    assert_eq!(import(json!("secret")), 108);
    let hash = bcrypt::hash("old", 4).unwrap();
    assert_eq!(import(json!([{"hash": hash, "set_at": at}])), Json::Null);
}
