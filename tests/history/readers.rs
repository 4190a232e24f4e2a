//! Who could read a record at a past moment: judged by everything that was true then, and nothing
//! that came later.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

fn head(master: &Client) -> u64 {
    master.health()["log"]["head"].as_u64().unwrap()
}

fn asked(master: &Client, record: &str, at: impl Into<Json>) -> Json {
    let body = json!({"record": record, "at": at.into()});
    master.call("audit:readers", body).result()
}

/// Returns who could read it, by the names of a list.
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
    // Bob loses the role, Kim gets it, Eve is locked out.
    give(&master, "role:revoke", "editor", &bob);
    give(&master, "role:assign", "editor", &kim);
    let lock = json!({"auth_id": eve_id, "disabled": true});
    master.call("auth:disable:set", lock).result();
    let second = head(&master);
    // Then only the owner may.
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
    // Bob really can.
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

/// Returns the output of `skytrail audit who-could-read`.
fn printed(server: &TestServer, record: &str, at: u64) -> String {
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let (at, server_url) = (at.to_string(), server.base_url.as_str());
    let asked = ["audit", "who-could-read", record, "--at", &at];
    let output =
        server.skytrail(&[&["--set", &key], &asked[..], &["--server", server_url]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless it is unknown who could read a record at a position, and the answer says what
/// erased that.
fn assert_unknown(server: &TestServer, record: &str, at: u64, why: &str) {
    let then = asked(&Client::master(server), record, at);
    assert_eq!(then["exists"], Json::Null, "{then}");
    assert_eq!(then["is_complete"], false, "{then}");
    assert_eq!(then["erased"]["why"], why, "{then}");
    let said = printed(server, record, at);
    assert!(said.contains("unknown: erased at "), "{said}");
    assert!(said.contains(why) && !said.contains(": nobody"), "{said}");
}

#[test]
fn who_could_read_what_was_erased_is_not_known() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    let before = head(&master);
    for record in ["memo/a", "memo/b", "memo/c"] {
        ada.save(record, json!({"s": "x", "n": 1, "_access": null}));
    }
    let first = head(&master);
    for record in ["memo/a", "memo/b", "memo/c"] {
        ada.save(record, json!({"_access": []}));
    }
    let second = head(&master);
    for record in ["memo/a", "memo/b", "memo/c"] {
        assert_eq!(
            asked(&master, record, first)["everyone"]["reason"],
            "no access list"
        );
    }
    let why = "asked for on paper";
    let field = json!({"record": "memo/a", "field": "s", "why": why});
    master.call("erase:field", field).result();
    let record = json!({"record": "memo/b", "why": why});
    master.call("erase:record", record).result();
    // The event that closed the third record: before it all is known, from it on not.
    let event = json!({"position": second, "why": why});
    master.call("erase:event", event).result();

    for at in [first, second] {
        assert_unknown(&server, "memo/a", at, why);
        assert_unknown(&server, "memo/b", at, why);
    }
    assert_eq!(
        asked(&master, "memo/c", first)["everyone"]["reason"],
        "no access list"
    );
    assert_unknown(&server, "memo/c", second, why);
    // Before a record existed, and after it was gone, nobody could read it: that is known.
    for (record, at) in [
        ("memo/a", before),
        ("memo/b", before),
        ("memo/b", head(&master)),
        ("memo/never", first),
    ] {
        let then = asked(&master, record, at);
        assert_eq!(
            (&then["exists"], &then["is_complete"], &then["erased"]),
            (&json!(false), &json!(true), &Json::Null),
            "{then}"
        );
        assert!(printed(&server, record, at).contains("did not exist"));
    }
    // What remains of the first one shows what it is now.
    let then = asked(&master, "memo/a", head(&master));
    assert_eq!(
        (&then["exists"], &then["is_complete"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(then["everyone"], Json::Null);
}

#[test]
fn who_could_read_versions_that_were_not_kept_is_not_known() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    ada.save("memo/a", json!({"n": 0, "_access": null}));
    let first = head(&master);
    for n in 1..70 {
        ada.save("memo/a", json!({"n": n, "_access": []}));
    }
    let keep = json!({"type": "memo", "versions": 1});
    master.call("schema:retention", keep).result();
    master.call("log:compact", json!({})).result();
    assert_unknown(&server, "memo/a", first, "memo keeps 1 versions");
}

#[test]
fn users_who_were_erased_may_be_missing_and_the_answer_says_so() {
    let server = TestServer::start();
    let [ada, bob] = ["ada", "bob"].map(|it| Client::signed_up(&server, it));
    let master = Client::master(&server);
    let secret = json!({"_id": "memo/secret", "n": 1});
    let body = json!({"database_id": "_private", "records": [secret]});
    ada.call("record:save", body).result();
    ada.save(
        "memo/bobs",
        json!({"n": 1, "_access": [{"level": "read", "user_id": bob.user}]}),
    );
    let access = json!([{"level": "read", "role": "editor"}]);
    ada.save("memo/editors", json!({"n": 1, "_access": access}));
    give(&master, "role:assign", "editor", &bob);
    let then = head(&master);
    let erase = json!({"user": bob.user, "why": "he asked"});
    master.call("erase:user", erase).result();
    for (record, is_complete) in [
        ("memo/secret", true),
        ("memo/bobs", false),
        ("memo/editors", false),
    ] {
        let found = asked(&master, record, then);
        assert_eq!(found["exists"], true);
        assert_eq!(found["is_complete"], is_complete, "{record}: {found}");
        // By now Bob is not a user, and that is known.
        let found = asked(&master, record, head(&master));
        assert_eq!(found["is_complete"], true, "{record}: {found}");
    }
}
