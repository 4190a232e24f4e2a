//! What the histories found or do not reach, each as a separate scenario.

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

/// Saves a record in the caller's private database.
fn save_privately(client: &Client, id: &str, text: &str) {
    let record = json!({"_id": id, "text": text});
    let body = json!({"records": [record], "database_id": "_private"});
    assert_eq!(client.call("record:save", body).result()[0]["_id"], id);
}

fn refer(client: &Client, id: &str, target: &str) -> Json {
    client.save(id, json!({"about": {"$type": "ref", "$id": target}}))
}

#[test]
fn who_may_not_create_records_learns_nothing_of_other_databases() {
    let server = TestServer::start();
    let [ada, eve] = ["ada", "eve"].map(|name| Client::signed_up(&server, name));
    save_privately(&ada, "note/1", "mine");
    let settled = json!({"type": "note", "create_roles": ["writer"]});
    Client::master(&server)
        .call("schema:access", settled)
        .result();
    let try_to_take = |id: &str| {
        let answer = eve.call("record:save", json!({"records": [{"_id": id}]}));
        answer.result()[0]["message"].clone()
    };
    assert_eq!(try_to_take("note/2"), "no permission to create");
    assert_eq!(try_to_take("note/1"), "no permission to create");
}

#[test]
fn a_condition_does_not_look_into_what_the_caller_must_not_read() {
    let server = TestServer::start();
    let [ada, eve] = ["ada", "eve"].map(|name| Client::signed_up(&server, name));
    ada.save("secret/1", json!({"text": "rosebud", "_access": []}));
    save_privately(&ada, "secret/2", "rosebud");
    ada.save("secret/3", json!({"text": "rosebud"}));
    for number in 1..=3 {
        refer(
            &eve,
            &format!("guess/{number}"),
            &format!("secret/{number}"),
        );
    }
    let path = json!({"$type": "keypath", "$val": "about.text"});
    let found = |client: &Client, predicate: Json| {
        let found = client.query("guess", predicate);
        found
            .iter()
            .map(|it| it["_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // SQL evaluates the first one; the second needs memory, which supports more patterns.
    for predicate in [
        json!(["eq", path, "rosebud"]),
        json!(["ilike", path, "ROSE%"]),
    ] {
        assert_eq!(found(&eve, predicate.clone()), ["guess/3"], "{predicate}");
        let all = ["guess/1", "guess/2", "guess/3"];
        assert_eq!(
            found(&Client::master(&server), predicate.clone()),
            all,
            "{predicate}"
        );
    }
    assert_eq!(
        found(&ada, json!(["eq", path, "rosebud"])),
        ["guess/1", "guess/3"]
    );
    assert_eq!(
        found(&eve, json!(["eq", path, null])),
        ["guess/1", "guess/2"]
    );
}

#[test]
fn a_record_that_refers_to_itself_is_still_held_by_others() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({}));
    for id in ["note/1", "note/2"] {
        refer(&ada, id, "note/1");
    }
    let delete = |ids: Json| ada.call("record:delete", json!({"ids": ids})).result();
    assert_eq!(delete(json!(["note/1"]))[0]["code"], 113);
    // In the given order: the record that blocks the other is deleted first.
    assert_eq!(
        delete(json!(["note/2", "note/1"])),
        json!([
            {"_id": "note/2", "_type": "record"},
            {"_id": "note/1", "_type": "record"},
        ])
    );
}

/// Sets one rule that denies everything on a field, except to those whom `more` names.
fn set_rules(server: &TestServer, (kind, field): (&str, &str), more: &[(&str, bool)]) {
    let rule = |who: &str, is_allowed: bool| {
        json!({
            "record_type": kind, "record_field": field, "user_role": who,
            "writable": is_allowed, "readable": is_allowed,
            "comparable": is_allowed, "discoverable": is_allowed,
        })
    };
    let mut access = vec![rule("_public", false)];
    access.extend(more.iter().map(|(who, is_allowed)| rule(who, *is_allowed)));
    let set = Client::master(server).call("schema:field_access:update", json!({"access": access}));
    assert_eq!(
        set.result()["access"].as_array().unwrap().len(),
        access.len()
    );
}

#[test]
fn rules_hold_for_sign_ups_and_sessions() {
    let server = TestServer::start();
    set_rules(&server, ("user", "score"), &[]);
    let (client, master) = (Client::anonymous(&server), Client::master(&server));
    let sign_up = |caller: &Client, name: &str| {
        let body = json!({"auth_data": {"username": name}, "password": "pass", "profile": {"score": 7, "age": 8}});
        caller.call("auth:signup", body).result()
    };
    let stored = |session: &Json| {
        let ids = json!({"ids": [session["profile"]["_id"]]});
        master.call("record:fetch", ids).result()[0].clone()
    };
    let ada = sign_up(&client, "ada");
    assert_eq!(
        [&ada["profile"]["score"], &ada["profile"]["age"]],
        [&json!(null), &json!(8)]
    );
    assert_eq!(
        stored(&ada)["score"],
        json!(null),
        "a sign-up sets what only others may"
    );

    let ben = sign_up(&master, "ben");
    assert_eq!(stored(&ben)["score"], 7);
    let log_in = json!({"auth_data": {"username": "ben"}, "password": "pass"});
    let session = client.call("auth:login", log_in).result();
    assert_eq!(
        [&session["profile"]["score"], &session["profile"]["age"]],
        [&json!(null), &json!(8)]
    );
    let mut me = client.clone();
    me.token = ben["access_token"].as_str().map(str::to_owned);
    assert_eq!(
        me.call("me", json!({})).result()["profile"]["score"],
        json!(null)
    );
}

#[test]
fn who_may_not_change_his_name_can_still_sign_up_and_in() {
    let server = TestServer::start();
    set_rules(&server, ("user", "username"), &[]);
    let ada = Client::signed_up(&server, "ada");
    let body = json!({"auth_data": {"username": "ada"}, "password": "secret-of-the-test"});
    let session = ada.call("auth:login", body).result();
    assert_eq!(session["user_id"].as_str(), ada.user.as_deref());
}

#[test]
fn an_include_brings_nothing_of_a_field_that_is_hidden_in_this_record() {
    let server = TestServer::start();
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("topic/1", json!({"text": "a surprise"}));
    ada.save(
        "gift/1",
        json!({"about": {"$type": "ref", "$id": "topic/1"}}),
    );
    // Visible to everyone except the person it is for.
    set_rules(
        &server,
        ("gift", "about"),
        &[("_owner", false), ("_any_user", true)],
    );
    let path = json!({"$type": "keypath", "$val": "about"});
    let brought = |client: &Client| {
        let body = json!({"record_type": "gift", "include": {"about": path}});
        client.call("record:query", body).result()[0]["_transient"]["about"].clone()
    };
    assert_eq!(brought(&ben)["text"], "a surprise");
    assert_eq!(brought(&ada), json!(null));
}

#[test]
fn a_private_record_of_type_user_is_nobodys_profile() {
    let server = TestServer::start();
    let [ada, eve] = ["ada", "eve"].map(|name| Client::signed_up(&server, name));
    // A user without a record: the master key has acted for it.
    let as_bot = |body: Json| {
        let mut body = body.as_object().unwrap().clone();
        body.insert("_user_id".into(), "bot".into());
        Client::master(&server).call("record:query", body.into())
    };
    as_bot(json!({"record_type": "note"})).result();
    save_privately(&eve, "user/bot", "of eve alone");
    let body = json!({"name": "follow", "targets": ["bot"]});
    let followed = ada.call("relation:add", body).result();
    assert_eq!(
        followed[0]["data"],
        json!({"_id": "user/bot", "_type": "record", "_access": null})
    );
    let body = json!({"name": "follow", "direction": "outward"});
    assert_eq!(ada.call("relation:query", body).result(), followed);
    for (named, code) in [
        (json!(7), 107),
        (json!(["bot"]), 107),
        (json!("user/bot"), 108),
    ] {
        let refused = Client::master(&server).call("me", json!({"_user_id": named}));
        assert_eq!(refused.code(), code, "{named}: {}", refused.json());
    }
    let me = Client::master(&server).call("me", json!({"_user_id": "bot"}));
    assert!(
        !me.json().to_string().contains("of eve alone"),
        "{}",
        me.json()
    );
}

#[test]
fn a_number_that_stays_the_same_is_no_change_of_a_protected_field() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let number = ada.save("note/1", json!({"number": {"$type": "seq"}}))["number"].clone();
    let rule = json!({"record_type": "note", "record_field": "number", "user_role": "_public",
        "writable": false, "readable": true, "comparable": true, "discoverable": true});
    Client::master(&server)
        .call("schema:field_access:update", json!({"access": [rule]}))
        .result();
    let save = |number: &Json| {
        let record = json!({"_id": "note/1", "number": number, "text": "new"});
        ada.call("record:save", json!({"records": [record], "atomic": true}))
    };
    assert_eq!(save(&number).result()[0]["text"], "new");
    let refused = save(&json!(77)).json();
    assert_eq!(refused["error"]["info"]["note/1"]["code"], 123, "{refused}");
}

#[test]
fn nobody_gets_the_address_of_a_file_whose_field_is_hidden() {
    let server = TestServer::start();
    let [ada, eve] = ["ada", "eve"].map(|name| Client::signed_up(&server, name));
    let file = json!({"filename": "a.txt", "content-type": "text/plain", "content-size": 1});
    let name = ada.call("asset:put", file).result()["asset"]["$name"].clone();
    ada.save("note/1", json!({"file": {"$type": "asset", "$name": name}}));
    ada.save(
        "hint/1",
        json!({"about": {"$type": "ref", "$id": "note/1"}}),
    );
    set_rules(&server, ("note", "file"), &[("_owner", true)]);
    let path = json!({"$type": "keypath", "$val": "about"});
    let told = |client: &Client| {
        let fetched = client
            .call("record:fetch", json!({"ids": ["note/1"]}))
            .result();
        let queried = client.query("note", json!(null));
        let body = json!({"record_type": "hint", "include": {"note": path}});
        let included = client.call("record:query", body).result();
        [fetched, queried.into(), included]
            .map(|it: Json| it.to_string().contains(name.as_str().unwrap()))
    };
    assert_eq!(told(&ada), [true; 3]);
    assert_eq!(told(&eve), [false; 3]);
}
