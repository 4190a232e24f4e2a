//! `AUTH_RECORD_KEYS` changed in an app that has users.

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};
use crate::support::server::TestServer;

const PASSWORD: &str = "secret-of-the-test";

fn log_in(server: &TestServer, auth_data: Json) -> Answer {
    let body = json!({"auth_data": auth_data, "password": PASSWORD});
    Client::anonymous(server).call("auth:login", body)
}

fn sign_up(server: &TestServer, auth_data: Json) -> Answer {
    let body = json!({"auth_data": auth_data, "password": PASSWORD});
    Client::anonymous(server).call("auth:signup", body)
}

#[test]
fn new_keys_are_unique_text_and_old_ones_need_not_be_unique_any_more() {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    server.set("DEV_MODE", "NO");
    server.set("AUTH_RECORD_KEYS", "username,(phone,email)");
    let said = server.try_restart().unwrap_err();
    assert!(
        said.contains("AUTH_RECORD_KEYS") && said.contains("DEV_MODE"),
        "{said}"
    );
    server.set("DEV_MODE", "YES");
    server.restart();
    let ada = ada.at(&server);
    let id = format!("user/{}", ada.user.clone().unwrap());
    ada.save(&id, json!({"phone": "aB", "email": "a@example.com"}));
    let by = |phone: &str| json!({"phone": phone, "email": "A@example.com"});
    assert_eq!(
        log_in(&server, by("aB")).status,
        200,
        "the mail address ignores case"
    );
    assert_eq!(
        log_in(&server, by("ab")).code(),
        110,
        "the new key does not"
    );
    assert_eq!(
        sign_up(&server, by("ab")).status,
        200,
        "mail addresses are not unique alone"
    );
    assert_eq!(sign_up(&server, by("aB")).code(), 109);
    assert_eq!(sign_up(&server, json!({"username": "ADA"})).code(), 109);

    // Without development mode existing types are left unchanged, even after a rebuild.
    server.set("DEV_MODE", "NO");
    server.set("AUTH_RECORD_KEYS", "username");
    server.terminate();
    assert!(server.skytrail(&["rebuild"]).status.success());
    server.restart();
    let email = json!({"email": "a@example.com"});
    assert_eq!(log_in(&server, email).code(), 108);
    assert_eq!(sign_up(&server, json!({"username": "eve"})).status, 200);
}

#[test]
fn what_users_have_in_common_cannot_become_unique() {
    let mut server = TestServer::start();
    for name in ["ada", "eve"] {
        let user = Client::signed_up(&server, name);
        let id = format!("user/{}", user.user.clone().unwrap());
        user.save(&id, json!({"phone": "1", "name": name}));
    }
    server.set("AUTH_RECORD_KEYS", "username,phone");
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("phone"), "{said}");
    server.set("AUTH_RECORD_KEYS", "username,(phone,name)");
    server.restart();
    assert_eq!(
        log_in(&server, json!({"phone": "1", "name": "eve"})).status,
        200
    );
}

/// Anyone who could set what another user signs in with could sign in as that user, or lock them
/// out.
#[test]
fn what_users_sign_in_with_is_guarded_as_user_names_are() {
    let mut server = TestServer::with(&[("AUTH_RECORD_KEYS", "username,phone")]);
    let (ada, bo) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bo"),
    );
    let id = format!("user/{}", ada.user.clone().unwrap());
    ada.save(&id, json!({"phone": "1", "city": "London"}));
    let saved = bo.save(&id, json!({"phone": "2", "city": "Bonn"}));
    assert_eq!(
        (&saved["phone"], &saved["city"]),
        (&json!("1"), &json!("Bonn"))
    );
    let fetch = json!({"ids": [id]});
    let phone_for = |client: &Client| {
        let found = client.call("record:fetch", fetch.clone()).result();
        found[0].get("phone").cloned()
    };
    assert_eq!(phone_for(&Client::anonymous(&server)), None);
    assert_eq!(phone_for(&bo), Some(json!("1")));
    assert_eq!(ada.save(&id, json!({"phone": "3"}))["phone"], "3");

    // A rule set by an operator is the only one, even for keys that come later.
    let master = Client::master(&server);
    let open = json!({
        "record_type": "user", "record_field": "city", "user_role": "_owner",
        "writable": true, "readable": true, "comparable": true, "discoverable": true,
    });
    let body = json!({"access": [open]});
    let set = master.call("schema:field_access:update", body).result();
    server.set("AUTH_RECORD_KEYS", "username,phone,email");
    server.restart();
    let (master, bo) = (master.at(&server), bo.at(&server));
    let kept = master.call("schema:field_access:get", json!({})).result();
    assert_eq!(kept, set);
    assert_eq!(bo.save(&id, json!({"phone": "4"}))["phone"], "4");
}
