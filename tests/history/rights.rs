//! Who may see past records.

use super::*;

fn code(client: &Client, record: &str) -> i64 {
    client
        .call("history:list", json!({"record": record}))
        .code()
}

#[test]
fn histories_are_for_the_master_key_administrators_and_owners_where_a_type_says_so() {
    let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note")]);
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let boss = Client::signed_up(&server, "boss");
    master
        .call("role:admin", json!({"roles": ["Boss"]}))
        .result();
    let body = json!({"users": [boss.user], "roles": ["Boss"]});
    master.call("role:assign", body).result();
    ada.save("note/1", json!({"n": 1, "_access": []}));
    ada.save("page/1", json!({"n": 1}));
    let private = json!({"database_id": "_private", "records": [{"_id": "note/secret", "n": 1}]});
    ada.call("record:save", private).result();

    // Master key, administrator, owner and another user, in this order; then without a user.
    for (record, expected) in [
        ("note/1", [0, 0, 0, 102]),
        ("page/1", [0, 0, 102, 102]),
        ("note/secret", [0, 102, 0, 102]),
        ("note/never", [110, 110, 102, 102]),
        ("page/never", [110, 110, 102, 102]),
    ] {
        let got = [&master, &boss, &ada, &bob].map(|client| code(client, record));
        assert_eq!(got, expected, "{record}");
        let anonymous = Client::anonymous(&server);
        assert_eq!(code(&anonymous, record), 101, "{record}");
    }
    // A restore needs permission to save, too.
    let then = versions(&master, "note/1")[0]["position"].clone();
    ada.save("note/1", json!({"n": 2}));
    let body = json!({"record": "note/1", "as_of": then});
    assert_eq!(boss.call("history:restore", body.clone()).code(), 102);
    assert_eq!(bob.call("history:restore", body).code(), 102);
    assert_eq!(restore(&ada, "note/1", &then)["n"], 1);
    // The last owner of a deleted record counts as its owner.
    delete(&ada, "note/1");
    assert_eq!([code(&ada, "note/1"), code(&bob, "note/1")], [0, 102]);
    assert_eq!(restore(&ada, "note/1", &then)["n"], 1);
}

#[test]
fn the_past_is_judged_by_the_rights_of_today_and_of_then() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let public = json!([{"level": "read", "public": true}]);
    ada.save("note/open", json!({"n": 1, "_access": []}));
    ada.save("note/closed", json!({"n": 1, "_access": public}));
    let then = versions(&master, "note/closed")[0]["position"].clone();
    ada.save("note/open", json!({"n": 2, "_access": public}));
    ada.save("note/closed", json!({"n": 2, "_access": []}));
    let opened = versions(&master, "note/open")[0]["position"].clone();
    ada.save("note/open", json!({"n": 3}));
    let check = || {
        assert_eq!(fetch(&bob, "note/open", &then)["code"], 102);
        assert_eq!(fetch(&ada, "note/open", &then)["n"], 1);
        assert_eq!(fetch(&bob, "note/open", &opened)["n"], 2);
    };
    check();
    assert_eq!(fetch(&bob, "note/closed", &then)["code"], 102);
    assert_eq!(fetch(&ada, "note/closed", &then)["n"], 1);
    delete(&ada, "note/open");
    check();
    assert_eq!(fetch(&bob, "note/open", &Json::Null)["code"], 110);
    assert_eq!(fetch(&bob, "note/open", &json!(1))["code"], 110);
    let beyond = json!({"ids": ["note/open"], "as_of": 100_000});
    assert_eq!(bob.call("record:fetch", beyond).code(), 108);

    // Fields that a user may not see are hidden in the past, too.
    let rule = json!({
        "record_type": "*", "record_field": "n", "user_role": "_any_user",
        "writable": true, "readable": false, "comparable": false, "discoverable": false,
    });
    let body = json!({"access": [rule]});
    master.call("schema:field_access:update", body).result();
    assert_eq!(fetch(&ada, "note/closed", &then).get("n"), None);
    assert_eq!(fetch(&master, "note/closed", &then)["n"], 1);
}

#[test]
fn what_is_made_under_the_id_of_a_deleted_record_does_not_open_its_past() {
    let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note")]);
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    for temporal in [false, true] {
        let id = format!("note/{temporal}");
        ada.save(&id, json!({"secret": 1, "_access": []}));
        let body = json!({"type": "note", "temporal": temporal});
        master.call("schema:temporal", body).result();
        ada.save(&id, json!({"secret": 2, "_access": []}));
        let then = versions(&master, &id)[0]["position"].clone();
        ada.save(&id, json!({"secret": 3, "_access": []}));
        delete(&ada, &id);
        let found = |client: &Client| {
            let body = json!({"record_type": "note", "as_of": then});
            let records = client.call("record:query", body).result();
            let records = records.as_array().unwrap().iter();
            records
                .filter(|record| record["_id"] == *id)
                .map(|record| record["secret"].clone())
                .collect::<Vec<_>>()
        };
        let check = |what: &str| {
            assert_eq!(fetch(&bob, &id, &then)["code"], 102, "{what}");
            assert_eq!(fetch(&ada, &id, &then)["secret"], 2, "{what}");
            assert_eq!(found(&bob), [] as [Json; 0], "{what}");
            assert_eq!(found(&ada), [2], "{what}");
        };
        check("deleted");
        let body = json!({"database_id": "_private", "records": [{"_id": id, "n": 1}]});
        bob.call("record:save", body).result();
        check("made again");
        // Bob sees what he has done, and Ada no more of it than before.
        assert_eq!(kinds(&versions(&bob, &id)), ["record.created"]);
        assert_eq!(code(&ada, &id), 102);
        let body = json!({"record": id, "as_of": then});
        assert_eq!(bob.call("history:restore", body).code(), 102);
        let body = json!({"database_id": "_private", "ids": [id]});
        bob.call("record:delete", body).result();
        check("deleted again");
        let versions_of_bob = versions(&bob, &id);
        assert_eq!(
            kinds(&versions_of_bob),
            ["record.deleted", "record.created"]
        );
        assert_eq!(versions(&master, &id).len(), 6);
    }
}

#[test]
fn what_was_closed_before_another_was_made_under_its_id_stays_closed() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    for temporal in [false, true] {
        let id = format!("note/{temporal}");
        ada.save(&id, json!({"n": 0}));
        let body = json!({"type": "note", "temporal": temporal});
        master.call("schema:temporal", body).result();
        ada.save(&id, json!({"n": 1}));
        let then = versions(&master, &id)[0]["position"].clone();
        let seen_by = |client: &Client| {
            let body = json!({"record_type": "note", "as_of": then});
            let found = client.call("record:query", body).result();
            let found = found.as_array().unwrap();
            let is_found = found.iter().any(|record| record["_id"] == *id);
            (fetch(client, &id, &then)["n"] == 1, is_found)
        };
        assert_eq!(seen_by(&bob), (true, true));
        delete(&ada, &id);
        bob.save(&id, json!({"n": 2}));
        delete(&bob, &id);
        restore(&master, &id, &then);
        ada.save(&id, json!({"_access": []}));
        delete(&ada, &id);
        assert_eq!(seen_by(&bob), (false, false), "{temporal}");
        bob.save(&id, json!({"n": 3}));
        assert_eq!(seen_by(&bob), (false, false), "{temporal}");
        assert_eq!(seen_by(&ada), (true, true), "{temporal}");
    }
}

#[test]
fn a_record_that_is_named_twice_is_deleted_once() {
    let server = TestServer::start();
    let (master, ada) = (Client::master(&server), Client::signed_up(&server, "ada"));
    ada.save("note/1", json!({"n": 1}));
    let then = versions(&master, "note/1")[0]["position"].clone();
    let body = json!({"ids": ["note/1", "note/1"]});
    let deleted = ada.call("record:delete", body).result();
    assert_eq!(deleted.as_array().unwrap().len(), 2, "{deleted}");
    assert_eq!(versions(&master, "note/1").len(), 2);
    assert_eq!(fetch(&ada, "note/1", &then)["n"], 1);
}

fn path(field: &str) -> Json {
    json!({"$type": "keypath", "$val": field})
}

/// Sets the rules for fields of notes; all other rules are removed.
fn close(master: &Client, fields: &[&str]) {
    let rule = |field: &&str| {
        json!({"record_type": "note", "record_field": field, "user_role": "_any_user",
            "writable": true, "readable": false, "comparable": false, "discoverable": false})
    };
    let rules: Vec<Json> = fields.iter().map(rule).collect();
    let body = json!({"access": rules});
    master.call("schema:field_access:update", body).result();
}

#[test]
fn an_old_name_does_not_open_a_closed_field() {
    for temporal in [false, true] {
        let server = TestServer::with(&[("HISTORY_FOR_OWNERS", "note")]);
        let master = Client::master(&server);
        let ada = Client::signed_up(&server, "ada");
        let schema = |action: &str, field: &str, to: &str| {
            let body = json!({"record_type": "note", "item_name": field, "new_name": to});
            master.call(action, body).result();
        };
        ada.save("note/0", json!({"open": "o0"}));
        let body = json!({"type": "note", "temporal": temporal});
        master.call("schema:temporal", body).result();
        ada.save(
            "note/1",
            json!({"secret": "s1", "gone": "g1", "open": "o1"}),
        );
        close(&master, &["secret", "gone"]);
        let then = versions(&master, "note/1")[0]["position"].clone();
        let hidden = |what: &str| {
            let seen = fetch(&ada, "note/1", &then);
            assert_eq!(
                (&seen["open"], seen.get("secret"), seen.get("gone")),
                (&json!("o1"), None, None),
                "{what} {temporal}"
            );
            let query = |more: Json| {
                let mut body = json!({"record_type": "note", "as_of": then});
                body.as_object_mut()
                    .unwrap()
                    .extend(more.as_object().unwrap().clone());
                ada.call("record:query", body)
            };
            let found = query(json!({"predicate": ["eq", path("open"), "o1"]})).result();
            assert_eq!(
                (found[0].get("secret"), found[0].get("gone")),
                (None, None),
                "{what}"
            );
            for field in ["secret", "gone"] {
                let asked = json!({"predicate": ["eq", path(field), "s1"]});
                assert_eq!(query(asked).code(), 124, "{what} {field} {temporal}");
                let sorted = json!({"sort": [[path(field), "asc"]]});
                assert_eq!(query(sorted).code(), 124, "{what} {field} {temporal}");
            }
            let told = Json::from(versions(&ada, "note/1")).to_string();
            assert!(told.contains("o1"), "{told}");
            for value in ["s1", "g1"] {
                assert!(!told.contains(value), "{what} {temporal} {told}");
            }
            assert_eq!(fetch(&master, "note/1", &then)["secret"], "s1");
        };
        hidden("as it was");
        schema("schema:rename", "secret", "s2");
        hidden("renamed");
        schema("schema:delete", "gone", "");
        // Rules are set as a whole, and the rule of a deleted field is easily forgotten.
        close(&master, &["s2"]);
        hidden("deleted");
        // Another field with the old name, which everybody sees.
        ada.save("note/2", json!({"secret": "open to all", "gone": "too"}));
        assert_eq!(fetch(&ada, "note/2", &Json::Null)["secret"], "open to all");
        hidden("its name given to another");
        schema("schema:rename", "s2", "s3");
        hidden("renamed again");
        schema("schema:delete", "s3", "");
        close(&master, &[]);
        hidden("renamed and deleted");
    }
}
