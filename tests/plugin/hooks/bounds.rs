//! What hooks may do to a record, and what they cannot.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::worker::Worker;
use crate::plugin::{call, save, server};
use crate::support::client::{Answer, Client};

/// Saves a record while its hook answers with the record, changed.
fn save_hooked(worker: &mut Worker, client: &Client, record: Json, changes: &Json) -> Json {
    let saving = save(client, record);
    let request = worker.expect_request("note_beforeSave");
    worker.answer_record(&request, changes);
    saving.join().unwrap().result()[0].clone()
}

#[test]
fn access_that_a_hook_nulls_is_open_for_a_new_record_and_kept_for_an_old_one() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let mine = json!([{"level": "write", "user_id": ada.user}]);
    let null = json!({"_access": null});
    let record = |id: &str| json!({"_id": id, "_access": mine, "n": 1});
    let saved = save_hooked(&mut worker, &ada, record("note/new"), &null);
    assert_eq!(saved["_access"], json!(null));
    let saved = save_hooked(&mut worker, &ada, record("note/old"), &json!({}));
    assert_eq!(saved["_access"], mine);
    let saved = save_hooked(&mut worker, &ada, json!({"_id": "note/old", "n": 2}), &null);
    assert_eq!((&saved["_access"], &saved["n"]), (&mine, &json!(2)));
    let public = json!([{"level": "read", "public": true}]);
    let changes = json!({"_access": public});
    let saved = save_hooked(&mut worker, &ada, record("note/old"), &changes);
    assert_eq!(saved["_access"], public);
}

/// Saves two records while the hook of the first adds something.
fn save_two(worker: &mut Worker, client: &Client, brought: &Json, is_atomic: bool) -> Answer {
    let records = json!([{"_id": "note/odd", "title": "a"}, {"_id": "note/even", "title": "b"}]);
    let body = json!({"records": records, "atomic": is_atomic});
    let saving = call(client, "record:save", body);
    for changes in [brought, &json!({})] {
        let request = worker.expect_request("note_beforeSave");
        worker.answer_record(&request, changes);
    }
    saving.join().unwrap()
}

#[test]
fn what_the_type_cannot_take_fails_the_record_and_no_other() {
    let server = server(&[("DEV_MODE", "NO")]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let master = Client::master(&server);
    let fields = json!({"fields": [{"name": "title", "type": "string"}]});
    let types = json!({"record_types": {"note": fields}});
    master.call("schema:create", types).result();
    let ada = Client::signed_up(&server, "ada");
    for brought in [
        json!({"new": 1}),
        json!({"title": 7}),
        json!({"new": {"$type": "ref", "$id": "nowhere/1"}}),
    ] {
        let result = save_two(&mut worker, &ada, &brought, false).result();
        assert_eq!(
            (&result[0]["code"], &result[0]["_id"]),
            (&json!(114), &json!("note/odd"))
        );
        assert_eq!(result[1]["_type"], "record", "{result}");
        let answer = save_two(&mut worker, &ada, &brought, true);
        assert_eq!((answer.status, answer.code()), (409, 115));
        let info = &answer.json()["error"]["info"];
        assert_eq!(info["note/odd"]["code"], 114, "{info}");
        assert_eq!(ada.query("note", json!([])).len(), 1);
    }
    // With the master key the type gets the field.
    let result = save_two(&mut worker, &master, &json!({"new": 1}), false).result();
    assert_eq!(result[0]["new"], 1, "{result}");
}

#[test]
fn what_two_hooks_bring_that_does_not_go_together_fails_the_later_record() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let body = json!({"records": [{"_id": "note/1"}, {"_id": "note/2"}, {"_id": "note/3"}]});
    let saving = call(&ada, "record:save", body);
    for brought in [json!(1), json!("text"), json!(3)] {
        let request = worker.expect_request("note_beforeSave");
        worker.answer_record(&request, &json!({"new": brought}));
    }
    let result = saving.join().unwrap().result();
    assert_eq!(
        (&result[0]["new"], &result[2]["new"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(result[1]["code"], 114, "{result}");
}

#[test]
fn what_a_hook_leaves_out_stays_out_when_it_brings_a_new_field() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let mut saved_without_title = |record: Json, brought: &str| {
        let saving = save(&ada, record);
        // The new field's commit overtakes the save; its hook is still called only once.
        let request = worker.expect_request("note_beforeSave");
        let id = request["param"]["record"]["_id"].clone();
        worker.answer(&request, &json!({"_id": id, "n": 1, brought: 1}));
        saving.join().unwrap().result()[0].clone()
    };
    let saved = saved_without_title(json!({"_id": "note/1", "title": "a", "n": 0}), "first");
    assert_eq!((&saved["n"], &saved["first"]), (&json!(1), &json!(1)));
    assert!(saved.get("title").is_none(), "{saved}");
    let saved = saved_without_title(json!({"_id": "note/1", "title": "b", "n": 0}), "second");
    assert!(saved.get("title").is_none(), "{saved}");
    assert_eq!((&saved["first"], &saved["second"]), (&json!(1), &json!(1)));
}

#[test]
fn a_hook_sees_all_fields_and_may_set_what_its_client_may_not() {
    let server = server(&[]);
    let hooks = points("note", &["beforeSave", "afterSave"]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let types =
        json!({"record_types": {"note": {"fields": [{"name": "secret", "type": "string"}]}}});
    master.call("schema:create", types).result();
    let nobody = json!({"record_type": "note", "record_field": "secret", "user_role": "_any_user",
        "writable": false, "readable": false, "comparable": false, "discoverable": false});
    let rules = json!({"access": [nobody]});
    master.call("schema:field_access:update", rules).result();
    let mut saved_with = |client: &Client, record: Json, seen: &Json, changes: &Json| {
        let saving = save(client, record);
        let request = worker.expect_request("note_beforeSave");
        assert_eq!(request["param"]["record"]["secret"], *seen);
        worker.answer_record(&request, changes);
        let request = worker.expect_request("note_afterSave");
        let told = request["param"]["record"]["secret"].clone();
        worker.answer_record(&request, &json!({}));
        (told, saving.join().unwrap().result()[0].clone())
    };
    let changes = json!({"secret": "of the hook"});
    let record = json!({"_id": "note/1", "secret": "of the client", "n": 1});
    let (told, saved) = saved_with(&ada, record, &json!(null), &changes);
    assert_eq!(told, "of the hook");
    assert!(saved.get("secret").is_none(), "{saved}");
    let record = json!({"_id": "note/1", "n": 2});
    let (told, _) = saved_with(&ada, record, &json!("of the hook"), &json!({}));
    assert_eq!(told, "of the hook");
}

#[test]
fn a_hook_may_save_the_record_whose_deletion_it_is_asked_about() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeDelete"]));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let deleting = call(&ada, "record:delete", json!({"ids": ["note/1"]}));
    let request = worker.expect_request("note_beforeDelete");
    let payload = json!({"action": "record:save", "_user_id": ada.user,
                         "records": [{"_id": "note/1", "seen": true}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": request["id"], "payload": payload}));
    assert_eq!(worker.expect("reply")["body"]["result"][0]["seen"], true);
    worker.answer_record(&request, &json!({}));
    // The hook is not called again.
    assert_eq!(deleting.join().unwrap().result()[0]["_type"], "record");
    assert!(ada.query("note", json!([])).is_empty());
}

#[test]
fn a_hook_names_its_fields_no_longer_than_clients_may() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let master = Client::master(&server);
    let (longest, longer) = ("f".repeat(1024), "g".repeat(1025));
    let result = save_two(&mut worker, &master, &json!({&longest: 1}), false).result();
    assert_eq!(result[0][&longest], 1);
    let result = save_two(&mut worker, &master, &json!({&longer: 1}), false).result();
    assert_eq!(
        (&result[0]["code"], &result[0]["_id"]),
        (&json!(108), &json!("note/odd"))
    );
    assert_eq!(result[1]["_type"], "record", "{result}");
    let schema = master.call("schema:fetch", json!({})).json().to_string();
    assert!(schema.contains(&longest) && !schema.contains(&longer));
}
