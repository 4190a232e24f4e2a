//! Changes of types from outside: names and fields, during saves and across restarts.

mod indexes;
mod unique;
mod wide;

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;
use crate::support::{SetOnDrop, eventually};

fn rename(client: &Client, from: &str, to: &str) -> i64 {
    let body = json!({"record_type": "note", "item_name": from, "new_name": to});
    client.call("schema:rename", body).code()
}

fn delete(client: &Client, field: &str) -> i64 {
    let body = json!({"record_type": "note", "item_name": field});
    client.call("schema:delete", body).code()
}

fn fields(client: &Client) -> Json {
    client.call("schema:fetch", json!({})).result()["record_types"]["note"]["fields"].clone()
}

/// Compares the store with one built from the log, row by row.
fn assert_store_equals_log(server: &TestServer) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.args(["rebuild", "--verify"]).env_clear();
    command.env("DATA_DIR", server.data_dir());
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
}

#[test]
fn a_field_keeps_its_values_under_a_new_name_and_loses_them_when_it_goes() {
    let mut server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"text": "one", "n": {"$type": "seq"}}));
    ada.save(
        "note/2",
        json!({"text": "two", "other": {"$type": "ref", "$id": "note/1"}}),
    );
    for (from, to) in [("text", "Text"), ("n", "number"), ("other", "parent")] {
        assert_eq!(rename(&master, from, to), 0);
    }
    let two = ada.save("note/2", json!({"flag": true}));
    assert_eq!([&two["Text"], &two["number"]], [&json!("two"), &json!(2)]);
    assert_eq!(two["parent"]["$id"], "note/1");
    assert_eq!(
        ada.save("note/3", json!({}))["number"],
        3,
        "the numbers go on"
    );
    let refused = ada
        .call("record:delete", json!({"ids": ["note/1"]}))
        .result();
    assert_eq!(refused[0]["code"], 113, "still referred to: {refused}");

    // The old name is free for another field, and so is the name of a deleted one.
    ada.save("note/1", json!({"text": 1.5}));
    assert_eq!(delete(&master, "parent"), 0);
    ada.save("note/2", json!({"parent": "a text now"}));
    let check = |ada: &Client| {
        let by = |field: &str, value: Json| {
            let predicate = json!(["eq", {"$type": "keypath", "$val": field}, value]);
            ada.query("note", predicate).len()
        };
        assert_eq!(by("text", json!(1.5)), 1);
        assert_eq!(by("Text", json!("one")), 1);
        assert_eq!(by("number", json!(2)), 1);
        assert_eq!(by("parent", json!("a text now")), 1);
    };
    check(&ada);
    server.kill();
    server.restart();
    let (ada, master) = (ada.at(&server), master.at(&server));
    check(&ada);
    assert_eq!(ada.save("note/4", json!({}))["number"], 4);
    assert_eq!(
        fields(&master),
        json!([
            {"name": "Text", "type": "string"},
            {"name": "flag", "type": "boolean"},
            {"name": "number", "type": "sequence"},
            {"name": "parent", "type": "string"},
            {"name": "text", "type": "number"},
        ])
    );
    let deleted = ada
        .call("record:delete", json!({"ids": ["note/1"]}))
        .result();
    assert_eq!(
        deleted[0]["_type"], "record",
        "nobody refers to it any more: {deleted}"
    );
    assert!(server.terminate().success());
    assert_store_equals_log(&server);
}

#[test]
fn a_new_name_does_not_open_a_closed_field() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"secret": "s", "open": "o"}));
    let rule = json!({"record_type": "note", "record_field": "secret", "user_role": "_public",
        "writable": false, "readable": false, "comparable": false, "discoverable": false});
    let set = json!({"access": [rule]});
    master.call("schema:field_access:update", set).result();
    assert_eq!(rename(&master, "secret", "hidden"), 0);
    let seen = &ada.query("note", json!(null))[0];
    assert_eq!(
        [&seen["hidden"], &seen["open"]],
        [&json!(null), &json!("o")]
    );
    let rules = master.call("schema:field_access:get", json!({})).result();
    assert_eq!(rules["access"][0]["record_field"], "hidden");
}

#[test]
fn what_users_sign_in_with_stays() {
    let server = TestServer::with(&[("AUTH_RECORD_KEYS", "username,(email,phone)")]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    master.save(
        &format!("user/{}", ada.user.as_deref().unwrap()),
        json!({"city": "London"}),
    );
    let code = |action: &str, field: &str, to: &str| {
        let body = json!({"record_type": "user", "item_name": field, "new_name": to});
        let answer = master.call(action, body);
        (answer.code(), answer.json()["error"]["message"].clone())
    };
    for field in ["username", "email", "phone", "last_login_at"] {
        for action in ["schema:rename", "schema:delete"] {
            let refused = (108, json!(format!("users sign in with {field}")));
            assert_eq!(code(action, field, "other"), refused);
        }
    }
    assert_eq!(code("schema:rename", "city", "town").0, 0);
    assert_eq!(code("schema:delete", "town", "").0, 0);
    ada.save("note/1", json!({"username": "u"}));
    assert_eq!(delete(&ada, "username"), 0);
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    assert_eq!(ada.call("auth:login", body).status, 200);
}

#[test]
fn of_two_changes_of_one_field_at_once_one_is_made() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for round in 0..10 {
        let (from, left, right) = (
            format!("f{round}"),
            format!("l{round}"),
            format!("r{round}"),
        );
        master.save("note/1", json!({&from: "v"}));
        let codes = std::thread::scope(|scope| {
            let tried = [&left, &right].map(|to| scope.spawn(|| rename(&master, &from, to)));
            tried.map(|tried| tried.join().unwrap())
        });
        assert!(codes == [0, 110] || codes == [110, 0], "{codes:?}");
        let winner = if codes[0] == 0 { &left } else { &right };
        let note = &master.query("note", json!(null))[0];
        assert_eq!(note[winner.as_str()], "v", "{note}");
        let same = std::thread::scope(|scope| {
            let tried = [(); 2].map(|()| scope.spawn(|| delete(&master, winner)));
            tried.map(|tried| tried.join().unwrap())
        });
        assert!(same == [0, 110] || same == [110, 0], "{same:?}");
    }
    assert_store_equals_log(&server);
}

#[test]
fn types_that_are_created_at_once_all_come_about() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let create = |field: String| {
        let fields =
            json!([{"name": field, "type": "string"}, {"name": "to", "type": "ref(page)"}]);
        let types = json!({"note": {"fields": fields}, "page": {"fields": []}});
        master
            .call("schema:create", json!({"record_types": types}))
            .code()
    };
    let create = &create;
    let codes: Vec<i64> = std::thread::scope(|scope| {
        let tried: Vec<_> = (0..8)
            .map(|n| scope.spawn(move || create(format!("f{n}"))))
            .collect();
        tried
            .into_iter()
            .map(|tried| tried.join().unwrap())
            .collect()
    });
    assert_eq!(codes, [0; 8]);
    assert_eq!(fields(&master).as_array().unwrap().len(), 9);
    // A refused request creates nothing.
    let types = json!({"a": {"fields": []}, "note": {"fields": [{"name": "to", "type": "json"}]}});
    let refused = master.call("schema:create", json!({"record_types": types}));
    assert_eq!(refused.code(), 114, "{:?}", refused.json());
    let types = master.call("schema:fetch", json!({})).result();
    assert_eq!(types["record_types"]["a"], json!(null));
}

#[test]
fn saves_and_queries_during_renames_lose_nothing() {
    const RENAMES: usize = 100;
    let server = TestServer::start();
    let (ada, master) = (&Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/first", json!({"x": "first", "kept": "k"}));
    let (is_over, num_saves) = (&AtomicBool::new(false), &AtomicUsize::new(0));
    let writer = |name: &'static str| {
        move || {
            let _ends = SetOnDrop(is_over);
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return number;
                }
                let id = format!("note/{name}-{number}");
                ada.save(&id, json!({"kept": "made"}));
                ada.save(&id, json!({"kept": "changed"}));
                ada.save("note/first", json!({"kept": id}));
                num_saves.fetch_add(1, Ordering::Relaxed);
            }
            0
        }
    };
    let reader = || {
        let _ends = SetOnDrop(is_over);
        while !is_over.load(Ordering::Relaxed) {
            let notes = ada.query("note", json!(null));
            let first = notes.iter().find(|note| note["_id"] == "note/first");
            let has = |field: &str| first.unwrap()[field] == "first";
            assert_ne!(has("x"), has("y"), "{first:?}");
        }
    };
    let saved: usize = std::thread::scope(|scope| {
        let writers = ["a", "b"].map(|name| scope.spawn(writer(name)));
        scope.spawn(reader);
        let _ends = SetOnDrop(is_over);
        for number in 0..RENAMES {
            let before = num_saves.load(Ordering::Relaxed);
            // In bursts, so that some saves meet several renames.
            eventually("somebody saves", || {
                let saves = num_saves.load(Ordering::Relaxed) > before;
                (saves || number % 10 != 0).then_some(())
            });
            let (from, to) = if number % 2 == 0 {
                ("x", "y")
            } else {
                ("y", "x")
            };
            assert_eq!(rename(&master, from, to), 0);
        }
        is_over.store(true, Ordering::Relaxed);
        writers.map(|writer| writer.join().unwrap()).iter().sum()
    });
    let notes = ada.query("note", json!(null));
    let changed = notes.iter().filter(|note| note["kept"] == "changed");
    assert_eq!(changed.count(), saved);
    assert_store_equals_log(&server);
}
