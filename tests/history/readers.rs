//! Who could read a record at a moment: by everything that was true then, and nothing that came
//! later.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

fn head(master: &Client) -> u64 {
    master.health()["log"]["head"].as_u64().unwrap()
}

fn asked(master: &Client, record: &str, at: impl Into<Json>) -> Json {
    let body = json!({"record": record, "at": at.into()});
    master.call("audit:readers", body).result()
}

/// Who could, by the names of a list.
fn named(found: &Json, list: &str) -> BTreeMap<String, Vec<String>> {
    let texts = |list: &Json| -> Vec<String> {
        let texts = list.as_array().unwrap().iter();
        texts.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let readers = found[list].as_array().unwrap().iter();
    let readers = readers.map(|it| {
        (
            it["user"].as_str().unwrap().to_owned(),
            texts(&it["reasons"]),
        )
    });
    readers.collect()
}

fn give(master: &Client, action: &str, role: &str, to: &Client) {
    let body = json!({"roles": [role], "users": [to.user]});
    master.call(action, body).result();
}

#[test]
fn roles_locks_and_lists_count_as_they_were() {
    let server = TestServer::start();
    let [ada, bob, eve, kim] =
        ["ada", "bob", "eve", "kim"].map(|it| Client::signed_up(&server, it));
    let [ada_id, bob_id, eve_id, kim_id] =
        [&ada, &bob, &eve, &kim].map(|it| it.user.clone().unwrap());
    let master = Client::master(&server);
    let before = head(&master);
    give(&master, "role:assign", "editor", &bob);
    let access = json!([{"level": "read", "role": "editor"}, {"level": "read", "user_id": eve_id}]);
    ada.save("note/1", json!({"text": "a", "_access": access}));
    let first = head(&master);
    // Bob leaves, Kim comes, Eve is locked out.
    give(&master, "role:revoke", "editor", &bob);
    give(&master, "role:assign", "editor", &kim);
    let lock = json!({"auth_id": eve_id, "disabled": true});
    master.call("auth:disable:set", lock).result();
    let second = head(&master);
    // Then nobody but the owner may.
    ada.save("note/1", json!({"_access": []}));
    let third = head(&master);
    ada.call("record:delete", json!({"ids": ["note/1"]}))
        .result();

    let reason = |text: &str| vec![text.to_owned()];
    let then = asked(&master, "note/1", first);
    assert_eq!(
        (&then["everyone"], &then["is_complete"]),
        (&Json::Null, &json!(true))
    );
    let expected = BTreeMap::from([
        (ada_id.clone(), reason("owner")),
        (bob_id.clone(), reason("role editor")),
        (eve_id.clone(), reason("user")),
    ]);
    assert_eq!(named(&then, "users"), expected);
    let then = asked(&master, "note/1", second);
    let expected = BTreeMap::from([
        (ada_id.clone(), reason("owner")),
        (kim_id.clone(), reason("role editor")),
    ]);
    assert_eq!(named(&then, "users"), expected);
    let locked = BTreeMap::from([(eve_id, reason("user"))]);
    assert_eq!(named(&then, "locked_out"), locked);
    let then = asked(&master, "note/1", third);
    assert_eq!(
        named(&then, "users"),
        BTreeMap::from([(ada_id, reason("owner"))])
    );
    for at in [before, head(&master)] {
        let then = asked(&master, "note/1", at);
        assert_eq!(
            (&then["exists"], &then["users"]),
            (&json!(false), &json!([]))
        );
    }
    let far = json!({"record": "note/1", "at": 1_000_000});
    assert_eq!(master.call("audit:readers", far).code(), 108);
}

#[test]
fn everybody_administrators_and_a_private_database() {
    let server = TestServer::start();
    let [ada, bob] = ["ada", "bob"].map(|it| Client::signed_up(&server, it));
    let master = Client::master(&server);
    ada.save("note/open", json!({"text": "a", "_access": null}));
    ada.save("note/own", json!({"text": "a", "_access": []}));
    let body = json!({"database_id": "_private", "records": [{"_id": "note/secret", "text": "a"}]});
    ada.call("record:save", body).result();
    let first = head(&master);
    master
        .call("role:admin", json!({"roles": ["chief"]}))
        .result();
    give(&master, "role:assign", "chief", &bob);
    let second = head(&master);

    let open = asked(&master, "note/open", first);
    assert_eq!(open["everyone"]["reason"], "no access list");
    let own = asked(&master, "note/own", first);
    assert_eq!(
        (&own["everyone"], &own["administrators"]),
        (&Json::Null, &json!([]))
    );
    let own = asked(&master, "note/own", second);
    assert_eq!(own["administrators"], json!([bob.user]));
    // He really can.
    let listed = bob
        .call("history:list", json!({"record": "note/own"}))
        .result();
    assert_eq!(listed["versions"][0]["record"]["text"], "a");
    let secret = asked(&master, "note/secret", second);
    assert_eq!(secret["private_of"], json!(ada.user));
    assert_eq!(secret["administrators"], json!([]));
    let users: BTreeSet<String> = named(&secret, "users").into_keys().collect();
    assert_eq!(users, BTreeSet::from([ada.user.unwrap()]));
}

#[test]
fn fields_that_the_rules_of_then_hid_are_named() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    ada.save("note/1", json!({"title": "a", "pay": 1, "_access": null}));
    let rule = |who: &str, readable: bool| {
        json!({"record_type": "note", "record_field": "pay", "user_role": who, "writable": true,
            "readable": readable, "comparable": readable, "discoverable": readable})
    };
    let rules = json!({"access": [rule("_owner", true), rule("_public", false)]});
    let before = head(&master);
    master.call("schema:field_access:update", rules).result();
    let ruled = head(&master);
    master
        .call("schema:field_access:update", json!({"access": []}))
        .result();
    for (at, hidden) in [
        (before, json!([])),
        (ruled, json!(["pay"])),
        (head(&master), json!([])),
    ] {
        let then = asked(&master, "note/1", at);
        assert_eq!(then["everyone"]["hidden"], hidden, "{then}");
        assert_eq!(then["everyone"]["hidden_from_users"], hidden);
        assert_eq!(then["users"][0]["hidden"], json!([]));
    }
}

#[test]
fn the_rules_of_a_new_app_are_rules() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let record = format!("user/{}", ada.user.unwrap());
    let then = asked(&master, &record, head(&master));
    assert_eq!(then["everyone"]["hidden"], json!(["username"]), "{then}");
    assert_eq!(then["everyone"]["hidden_from_users"], json!([]), "{then}");
}
