//! What the histories found, each as a story of its own.

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
    // The first is left to SQL, the second to memory, which knows more of patterns.
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
    // In their order: the one that holds goes first.
    assert_eq!(
        delete(json!(["note/2", "note/1"])),
        json!([
            {"_id": "note/2", "_type": "record"},
            {"_id": "note/1", "_type": "record"},
        ])
    );
}
