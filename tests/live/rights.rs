//! Who receives what, and what happens when rights change.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::listener::{Followed, Listener, TIMEOUT};
use super::{ids, path};
use crate::support::client::Client;
use crate::support::server::TestServer;

pub struct World {
    pub server: TestServer,
    pub ada: Client,
    pub bob: Client,
    pub master: Client,
}

impl World {
    pub fn new(settings: &[(&str, &str)]) -> Self {
        let server = TestServer::with(settings);
        Self {
            ada: Client::signed_up(&server, "ada"),
            bob: Client::signed_up(&server, "bob"),
            master: Client::master(&server),
            server,
        }
    }

    fn assign(&self, action: &str, role: &str) {
        let body = json!({"users": [self.bob.user], "roles": [role]});
        self.master.call(action, body).result();
    }
}

fn save(client: &Client, id: &str, access: Json) {
    client.save(
        id,
        json!({"_access": access, "text": "of ada", "salary": 7}),
    );
}

#[test]
fn a_change_of_an_access_list_or_a_role_takes_effect_at_once() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    let editors = json!([{"role": "editor", "level": "read"}]);
    save(ada, "note/open", json!(null));
    save(ada, "note/hers", json!([]));
    save(ada, "note/editors", editors.clone());
    let query = json!({"record_type": "note"});
    let mut listener = Listener::open(&world.server, bob);
    listener.subscribe("q", query.clone());
    assert_eq!(ids(&listener.followed["q"]), ["note/open"]);
    save(
        ada,
        "note/hers",
        json!([{"user_id": bob.user, "level": "read"}]),
    );
    listener.until("q", |it| it.records.contains_key("note/hers"));
    save(ada, "note/hers", json!([]));
    listener.until("q", |it| !it.records.contains_key("note/hers"));
    assert_eq!(listener.followed["q"].events[2..], ["enter", "leave"]);
    world.assign("role:assign", "editor");
    listener.until("q", |it| it.records.contains_key("note/editors"));
    // The end of the difference gives its position.
    listener.until("q", |it| it.num_ready == 2);
    save(ada, "note/more", editors);
    listener.until("q", |it| it.records.contains_key("note/more"));
    world.assign("role:revoke", "editor");
    listener.until("q", |it| ids(it) == ["note/open"] && it.num_ready == 3);
    // What Bob missed because of a change of rights is sent as a new result.
    let before = listener.followed["q"].clone();
    drop(listener);
    world.assign("role:assign", "editor");
    let mut listener = Listener::open(&world.server, bob);
    listener.followed.insert("q".into(), before.resumed());
    let mut query = query;
    query["from"] = before.position.into();
    let after = listener.subscribe("q", query);
    assert_eq!(after.num_resets, 1);
    assert_eq!(ids(after), ["note/editors", "note/more", "note/open"]);
}

/// A returning listener is sent what it missed from the log, which holds more than it may read
/// today.
#[test]
fn what_may_not_be_read_any_more_is_not_told_to_who_comes_back() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    for id in ["changed", "deleted", "hidden", "made", "shown"] {
        ada.save(&format!("note/{id}"), json!({"text": "as bob knew it"}));
    }
    let open = json!([{"public": true, "level": "read"}]);
    let query = json!({"record_type": "note"});
    let mut listener = Listener::open(&world.server, bob);
    let before = listener.subscribe("q", query.clone()).clone();
    drop(listener);
    let delete = |id: &str| {
        ada.call("record:delete", json!({"ids": [id]})).result();
    };
    ada.save("note/hidden", json!({"text": "secret of the hidden one"}));
    ada.save("note/deleted", json!({"text": "secret of the deleted one"}));
    ada.save("note/made", json!({"text": "secret of the one before"}));
    ada.save("note/brief", json!({"text": "secret of a brief one"}));
    ada.save("note/shown", json!({"text": "secret", "_access": []}));
    ada.save("note/changed", json!({"text": "one"}));
    ada.save("note/hidden", json!({"_access": []}));
    for id in ["note/deleted", "note/made", "note/brief"] {
        delete(id);
    }
    ada.save("note/made", json!({"text": "made anew"}));
    ada.save(
        "note/shown",
        json!({"text": "shown again", "_access": open}),
    );
    ada.save("note/changed", json!({"text": "two"}));
    let mut listener = Listener::open(&world.server, bob);
    listener.followed.insert("q".into(), before.resumed());
    let mut back = query;
    back["from"] = before.position.into();
    let after = listener.subscribe("q", back);
    let told = after.heard[before.heard.len()..].join("\n");
    assert!(!told.contains("secret"), "{told}");
    assert_eq!(after.num_resets, 0);
    assert_eq!(ids(after), ["note/changed", "note/made", "note/shown"]);
    assert_eq!(after.records["note/changed"]["text"], "two");
    assert_eq!(after.records["note/made"]["text"], "made anew");
    assert_eq!(after.records["note/shown"]["text"], "shown again");
    // A record that Bob never received before is not mentioned at all.
    assert!(!told.contains("brief"), "{told}");
    // Changes of readable records arrive one by one.
    assert!(told.contains(r#""text":"one""#), "{told}");
}

/// Rules may be for the users whom a record names. A returning listener is judged by whom it names
/// now.
#[test]
fn fields_that_are_for_others_by_now_are_not_told_to_who_comes_back() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    let (hers, his) = (json!({"editor": ada.user}), json!({"editor": bob.user}));
    for (id, editor) in [
        ("note/lost", &his),
        ("note/kept", &his),
        ("note/won", &hers),
    ] {
        ada.save(id, json!({"pay": "as it was", "n": 0}));
        ada.save(id, editor.clone());
    }
    let rule = |role: &str, is_readable: bool| {
        json!({"record_type": "note", "record_field": "pay", "user_role": role, "writable": true,
            "readable": is_readable, "comparable": is_readable, "discoverable": is_readable})
    };
    let rules = [
        rule("_owner", true),
        rule("_field:editor", true),
        rule("_public", false),
    ];
    let body = json!({"access": rules});
    let answer = world.master.call("schema:field_access:update", body);
    answer.result();
    let query = json!({"record_type": "note"});
    let mut listener = Listener::open(&world.server, bob);
    let before = listener.subscribe("q", query.clone()).clone();
    let pay = |followed: &Followed, id: &str| followed.records[id].get("pay").cloned();
    assert_eq!(pay(&before, "note/lost"), Some(json!("as it was")));
    assert_eq!(pay(&before, "note/won"), None);
    drop(listener);
    ada.save("note/lost", json!({"pay": "secret since it was lost"}));
    ada.save("note/lost", hers);
    ada.save("note/kept", json!({"pay": "raised"}));
    ada.save("note/won", json!({"pay": "secret before it was won"}));
    ada.save("note/won", json!({"pay": "paid"}));
    ada.save("note/won", his);
    for id in ["note/lost", "note/kept", "note/won"] {
        ada.save(id, json!({"n": 1}));
    }
    let mut listener = Listener::open(&world.server, bob);
    listener.followed.insert("q".into(), before.resumed());
    let mut back = query;
    back["from"] = before.position.into();
    let after = listener.subscribe("q", back);
    let told = after.heard[before.heard.len()..].join("\n");
    assert!(!told.contains("secret"), "{told}");
    assert_eq!(after.num_resets, 0);
    assert_eq!(
        after.events[before.events.len()..],
        [["change"; 9].as_slice(), &["ready"]].concat()
    );
    let seen = ["note/lost", "note/kept", "note/won"].map(|id| pay(after, id));
    assert_eq!(seen, [None, Some(json!("raised")), Some(json!("paid"))]);
    let found = bob.query("note", json!([])).into_iter();
    let found = found.map(|it| (it["_id"].as_str().unwrap().to_owned(), it));
    assert_eq!(after.records, found.collect::<BTreeMap<_, _>>());
}

/// Whether a record leaves must not reveal what it was.
#[test]
fn a_predicate_does_not_find_out_what_may_not_be_read_any_more() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    for id in ["note/deleted", "note/hidden", "note/kept"] {
        ada.save(id, json!({"text": "secret"}));
    }
    let mut listener = Listener::open(&world.server, bob);
    let query = json!({"record_type": "note"});
    let position = listener.subscribe("all", query).position;
    ada.call("record:delete", json!({"ids": ["note/deleted"]}))
        .result();
    ada.save("note/hidden", json!({"_access": []}));
    ada.save("note/kept", json!({"text": "open"}));
    let mut told = |text: &str| {
        let query = json!({"record_type": "note", "predicate": ["eq", path("text"), text],
            "from": position});
        let nothing = Followed::default().resumed();
        listener.followed.insert(text.into(), nothing);
        let frames = listener.subscribe(text, query).heard.iter();
        let frames = frames.filter_map(|frame| serde_json::from_str::<Json>(frame).ok());
        let frames = frames.map(|frame| {
            let id = frame["record"]["_id"].as_str().unwrap_or_default();
            format!("{} {id}", frame["event"].as_str().unwrap_or_default())
        });
        let mut told: Vec<String> = frames.collect();
        told.sort();
        told
    };
    let gone = ["leave note/deleted", "leave note/hidden"];
    assert_eq!(
        told("secret"),
        [&gone[..], &["leave note/kept", "ready "]].concat()
    );
    assert_eq!(told("wrong"), [&gone[..], &["ready "]].concat());
    assert_eq!(
        told("open"),
        [&["enter note/kept"], &gone[..], &["ready "]].concat()
    );
}

/// Wherever the connection is lost again during the catch-up, and whatever becomes readable or
/// unreadable since, the listener ends with what a query finds.
#[test]
fn who_loses_his_connection_while_he_catches_up_goes_on_in_the_middle() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    let query = json!({"record_type": "note", "predicate": ["gt", path("n"), 2]});
    let open = json!([{"public": true, "level": "read"}]);
    let back = |known: &Followed| {
        let mut listener = Listener::open(&world.server, bob);
        listener.followed.insert("q".into(), known.resumed());
        let mut query = query.clone();
        query["from"] = known.position.into();
        listener.ask("q", query);
        listener
    };
    for num_heard in 0..8 {
        let fresh = |name: &str| format!("note/{num_heard}-{name}");
        for name in ["opened", "closed", "deleted", "changed"] {
            ada.save(&fresh(name), json!({"n": 3, "_access": open}));
        }
        let mut listener = Listener::open(&world.server, bob);
        let before = listener.subscribe("q", query.clone()).clone();
        drop(listener);
        for n in [4, 5] {
            for name in ["opened", "closed", "deleted", "changed", "new"] {
                ada.save(&fresh(name), json!({"n": n}));
            }
        }
        ada.save(&fresh("opened"), json!({"_access": []}));
        let mut listener = back(&before);
        for _ in 0..num_heard {
            listener.next(TIMEOUT);
        }
        let known = listener.followed["q"].clone();
        drop(listener);
        ada.save(&fresh("opened"), json!({"_access": open}));
        ada.save(&fresh("closed"), json!({"_access": []}));
        ada.call("record:delete", json!({"ids": [fresh("deleted")]}))
            .result();
        let mut listener = back(&known);
        let found = bob.query("note", query["predicate"].clone());
        let found = found.into_iter();
        let found = found.map(|it| (it["_id"].as_str().unwrap().to_owned(), it));
        let found: BTreeMap<String, Json> = found.collect();
        listener.until("q", |it| it.num_ready > known.num_ready);
        let after = &listener.followed["q"];
        assert_eq!((after.num_resets, &after.records), (0, &found));
    }
}

#[test]
fn fields_that_somebody_may_not_see_are_not_told() {
    let world = World::new(&[]);
    let entry = |role: &str, is_readable: bool| {
        json!({"record_type": "note", "record_field": "salary", "user_role": role,
            "writable": true, "readable": is_readable, "comparable": is_readable,
            "discoverable": is_readable})
    };
    let rules = |entries: Json| {
        let body = json!({"access": entries});
        world
            .master
            .call("schema:field_access:update", body)
            .result();
    };
    save(&world.ada, "note/1", json!(null));
    let mut listeners = [&world.ada, &world.bob, &world.master].map(|client| {
        let mut listener = Listener::open(&world.server, client);
        listener.subscribe("q", json!({"record_type": "note"}));
        listener
    });
    let mut sees = |id: &str, expected: [bool; 3]| {
        for (listener, sees) in listeners.iter_mut().zip(expected) {
            listener.until("q", |it| {
                let record = it.records.get(id);
                record.is_some_and(|record| record.get("salary").is_some() == sees)
            });
        }
    };
    sees("note/1", [true; 3]);
    rules(json!([entry("_owner", true), entry("_any_user", false)]));
    sees("note/1", [true, false, true]);
    save(&world.ada, "note/2", json!(null));
    sees("note/2", [true, false, true]);
    // The rule follows the field to its new name.
    let rename = json!({"record_type": "note", "item_name": "salary", "new_name": "pay"});
    world.master.call("schema:rename", rename).result();
    save(&world.ada, "note/3", json!(null));
    world.ada.save("note/1", json!({"pay": 8}));
    for (listener, sees) in listeners.iter_mut().zip([true, false, true]) {
        listener.until("q", |it| {
            let record = &it.records["note/1"];
            record.get("pay").is_some() == sees
                && record["_updated_at"] != it.records["note/2"]["_updated_at"]
        });
    }
    // A field that Bob may not search reveals nothing.
    let [_, bobs, _] = &mut listeners;
    bobs.ask(
        "r",
        json!({"record_type": "note", "predicate": ["gt", path("pay"), 3]}),
    );
    bobs.until("r", |it| it.error.is_some());
    assert_eq!(bobs.followed["r"].error.clone().unwrap()["code"], 124);
}

#[test]
fn a_query_that_makes_no_sense_any_more_ends() {
    let world = World::new(&[]);
    save(&world.ada, "note/1", json!(null));
    let mut listener = Listener::open(&world.server, &world.ada);
    let query = json!({"record_type": "note", "predicate": ["gt", path("salary"), 3]});
    listener.subscribe("q", query);
    listener.subscribe("all", json!({"record_type": "note"}));
    let delete = json!({"record_type": "note", "item_name": "salary"});
    world.master.call("schema:delete", delete).result();
    listener.until("q", |it| it.error.is_some());
    assert_eq!(listener.followed["q"].error.clone().unwrap()["code"], 120);
    listener.until("all", |it| it.records["note/1"].get("salary").is_none());
}

#[test]
fn a_private_database_is_told_to_its_user_alone() {
    let world = World::new(&[]);
    let query = json!({"record_type": "note", "database_id": "_private"});
    let mut hers = Listener::open(&world.server, &world.ada);
    hers.subscribe("q", query.clone());
    hers.subscribe("public", json!({"record_type": "note"}));
    let mut his = Listener::open(&world.server, &world.bob);
    his.subscribe("q", query);
    let body = json!({"database_id": "_private", "records": [{"_id": "note/1", "n": 1}]});
    world.ada.call("record:save", body).result();
    world.bob.save("note/2", json!({"n": 2}));
    hers.until("q", |it| ids(it) == ["note/1"]);
    hers.until("public", |it| ids(it) == ["note/2"]);
    // Bob is sent only the changes of his own records, though Ada's came first.
    let body = json!({"database_id": "_private", "records": [{"_id": "note/3", "n": 3}]});
    world.bob.call("record:save", body).result();
    his.until("q", |it| it.records.contains_key("note/3"));
    assert_eq!(ids(&his.followed["q"]), ["note/3"]);
    let mut listener = Listener::open(&world.server, &world.bob);
    let foreign = json!({"record_type": "note", "database_id": world.ada.user});
    listener.ask("q", foreign);
    listener.until("q", |it| it.error.is_some());
    assert_eq!(listener.followed["q"].error.clone().unwrap()["code"], 102);
}

#[test]
fn a_query_that_looks_beyond_its_records_is_kept_up_to_date() {
    let world = World::new(&[]);
    let (ada, bob) = (&world.ada, &world.bob);
    let reference = |id: &str| json!({"$type": "ref", "$id": id});
    ada.save("room/a", json!({"name": "attic", "open": false}));
    ada.save("note/1", json!({"room": reference("room/a")}));
    let mut listener = Listener::open(&world.server, bob);
    let open = json!({"record_type": "note", "predicate": ["eq", path("room.open"), true]});
    listener.subscribe("open", open);
    let rooms = json!({"record_type": "note", "include": {"room": path("room")}});
    listener.subscribe("rooms", rooms);
    let followed = json!(["func", "userRelation", path("_owner"),
        {"$type": "relation", "$name": "_follow", "$direction": "outward"}]);
    listener.subscribe(
        "followed",
        json!({"record_type": "note", "predicate": followed}),
    );
    assert!(ids(&listener.followed["open"]).is_empty());
    ada.save("room/a", json!({"open": true}));
    listener.until("open", |it| ids(it) == ["note/1"]);
    listener.until("rooms", |it| {
        it.records["note/1"]["_transient"]["room"]["open"] == true
    });
    let body = json!({"name": "_follow", "targets": [ada.user]});
    bob.call("relation:add", body).result();
    listener.until("followed", |it| ids(it) == ["note/1"]);
    ada.save("note/2", json!({"room": reference("room/a")}));
    for name in ["open", "rooms", "followed"] {
        listener.until(name, |it| ids(it) == ["note/1", "note/2"]);
    }
    // A room that Bob may not see reveals nothing.
    ada.save("room/a", json!({"_access": []}));
    listener.until("open", |it| ids(it).is_empty());
    listener.until("rooms", |it| {
        it.records["note/1"]["_transient"]["room"].is_null()
    });
}

/// An import brings an erased user back, maybe with other roles.
#[test]
fn who_was_erased_and_imported_gets_a_new_result() {
    let world = World::new(&[]);
    for role in ["editor", "writer"] {
        save(
            &world.ada,
            &format!("note/for-{role}"),
            json!([{"role": role, "level": "read"}]),
        );
    }
    save(
        &world.ada,
        "note/open",
        json!([{"public": true, "level": "read"}]),
    );
    world.assign("role:assign", "editor");
    let query = json!({"record_type": "note"});
    let mut listener = Listener::open(&world.server, &world.bob);
    let before = listener.subscribe("q", query.clone()).clone();
    assert_eq!(ids(&before), ["note/for-editor", "note/open"]);
    drop(listener);
    let body = json!({"user": world.bob.user, "why": "a mistake"});
    world.master.call("erase:user", body).result();
    let hash = bcrypt::hash("secret", 4).unwrap();
    let bob = json!({"id": world.bob.user, "auth_data": {"username": "bob"},
                     "password_hash": hash, "roles": ["writer"]});
    world
        .master
        .call("auth:import", json!({"users": [bob]}))
        .result();
    let credentials = json!({"auth_data": {"username": "bob"}, "password": "secret"});
    let session = Client::anonymous(&world.server).call("auth:login", credentials);
    let bob = world
        .bob
        .with_token(session.result()["access_token"].as_str().unwrap());
    let mut listener = Listener::open(&world.server, &bob);
    listener.followed.insert("q".into(), before.resumed());
    let mut back = query;
    back["from"] = before.position.into();
    let after = listener.subscribe("q", back);
    assert_eq!(after.num_resets, 1);
    assert_eq!(ids(after), ["note/for-writer", "note/open"]);
}
