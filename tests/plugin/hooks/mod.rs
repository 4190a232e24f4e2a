//! Database hooks: what they are told, what they may change, and what their refusals cause.

mod bounds;
mod overtaken;
mod repeats;
mod rights;
mod several;
mod turns;
mod users;

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, hook, save, server};
use crate::support::client::Client;
use crate::support::eventually;

fn points(record_type: &str, triggers: &[&str]) -> Json {
    let hooks: Vec<_> = triggers
        .iter()
        .map(|trigger| hook(record_type, trigger))
        .collect();
    json!({"hook": hooks})
}

#[test]
fn a_before_save_hook_changes_what_is_stored() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let user = ada.user.clone().unwrap();
    let saving = save(&ada, json!({"_id": "note/1", "title": "first", "n": 1}));
    let request = worker.expect_request("note_beforeSave");
    assert_eq!(request["kind"], "hook");
    assert_eq!(request["param"]["original"], json!(null));
    let record = &request["param"]["record"];
    assert_eq!(
        (&record["_id"], &record["title"]),
        (&json!("note/1"), &json!("first"))
    );
    assert_eq!(
        (&record["_ownerID"], &record["_type"]),
        (&json!(user), &json!("record"))
    );
    let context = &request["context"];
    assert_eq!(
        (&context["user_id"], &context["access_key_type"]),
        (&json!(user), &json!("client"))
    );
    assert_eq!(context["request_tag"], "record");
    assert!(context["request_id"].is_string());
    worker.answer_record(
        &request,
        &json!({"title": "better", "extra": [1], "_ownerID": "eve"}),
    );
    let saved = saving.join().unwrap().result();
    assert_eq!(saved[0]["title"], "better");
    // Even when a field that the hook adds makes the server decide again.
    for time in ["_created_at", "_updated_at"] {
        assert_eq!(saved[0][time], record[time], "{time}");
    }

    let found = ada.query("note", json!([]));
    assert_eq!(found[0]["title"], "better");
    assert_eq!(found[0]["extra"], json!([1]));
    assert_eq!(found[0]["n"], 1);
    assert_eq!(found[0]["_ownerID"], json!(user));

    let saving = save(&ada, json!({"_id": "note/1", "title": "second", "n": null}));
    let request = worker.expect_request("note_beforeSave");
    assert_eq!(request["param"]["original"]["title"], "better");
    assert_eq!(request["param"]["record"]["title"], "second");
    worker.answer(&request, &json!({"_id": "note/1", "extra": null}));
    saving.join().unwrap().result();
    let found = ada.query("note", json!([]));
    // A field that the hook left out counts as not sent; one that it set to null is cleared.
    assert_eq!(
        (&found[0]["title"], &found[0]["n"]),
        (&json!("better"), &json!(1))
    );
    assert!(found[0].get("extra").is_none());
}

#[test]
fn a_refused_record_is_not_stored_and_the_others_are() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    ada.call("record:query", json!({"record_type": "note"}));
    for is_atomic in [false, true] {
        let records = json!([{"_id": "note/bad", "n": 1}, {"_id": "note/good", "n": 2},
                             {"_id": "other/1", "n": 3}]);
        let body = json!({"records": records, "atomic": is_atomic});
        let saving = call(&ada, "record:save", body);
        for _ in 0..2 {
            let request = worker.expect_request("note_beforeSave");
            if request["param"]["record"]["_id"] == "note/bad" {
                let info = json!({"arguments": ["n"]});
                worker.refuse(
                    &request,
                    &json!({"code": 108, "message": "bad n", "info": info}),
                );
            } else {
                worker.answer_record(&request, &json!({}));
            }
        }
        let answer = saving.join().unwrap();
        if is_atomic {
            assert_eq!((answer.status, answer.code()), (409, 115));
            let info = &answer.json()["error"]["info"];
            assert_eq!(info["note/bad"]["code"], 108);
        } else {
            let result = answer.result();
            assert_eq!(
                result[0],
                json!({"_id": "note/bad", "_type": "error", "name": "InvalidArgument",
                    "code": 108, "message": "bad n", "info": {"arguments": ["n"]}})
            );
            assert_eq!(result[1]["n"], 2);
            assert_eq!(result[2]["n"], 3);
            let ids = json!({"ids": ["note/good", "other/1"]});
            let deleted = ada.call("record:delete", ids).result();
            assert_eq!(deleted[0]["_type"], "record");
        }
        let stored = ada.query("note", json!([])).len() + ada.query("other", json!([])).len();
        assert_eq!(stored, 0);
    }
}

#[test]
fn an_answer_that_is_not_the_record_is_a_failure() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let bad = [
        (
            json!(null),
            "failed to unmarshal record: no key \"_id\" in map",
        ),
        (
            json!({"n": 1}),
            "failed to unmarshal record: no key \"_id\" in map",
        ),
        (json!({"_id": "note/2"}), "_id"),
        (json!({"_id": "note/1", "_access": {}}), "_access"),
    ];
    for (answer, message) in bad {
        let saving = save(&ada, json!({"_id": "note/1"}));
        let request = worker.expect("request");
        worker.answer(&request, &answer);
        let slot = saving.join().unwrap().result()[0].clone();
        assert_eq!(slot["code"], 10000, "{slot}");
        let found = slot["message"].as_str().unwrap();
        assert!(found.contains(message), "{found}");
    }
    assert!(ada.query("note", json!([])).is_empty());
    // The log says whose answer it was.
    eventually("the log names it", || {
        let output = server.output();
        let lines = output.lines().filter(|line| line.contains("plugin=TEST"));
        let told = lines.filter(|line| line.contains("hook=\"note_beforeSave\""));
        (told.count() == 4).then_some(())
    });
}

#[test]
fn an_after_save_hook_is_told_what_was_stored_and_its_error_is_reported() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["afterSave"]));
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let request = worker.expect_request("note_afterSave");
    assert_eq!(request["param"]["record"]["n"], 1);
    // A hook that asks the server finds what was saved.
    let payload = json!({"action": "record:query", "record_type": "note"});
    worker.send(json!({"type": "call", "id": "c1", "parent": request["id"], "payload": payload}));
    assert_eq!(worker.expect("reply")["body"]["result"][0]["n"], 1);
    worker.refuse(&request, &json!({"code": 110, "message": "no such room"}));
    let result = saving.join().unwrap().result();
    assert_eq!(result[0]["code"], 110);
    assert_eq!(ada.query("note", json!([])).len(), 1);
}

#[test]
fn delete_hooks_refuse_and_are_told() {
    let server = server(&[]);
    let points = points("note", &["beforeDelete", "afterDelete"]);
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let deleting = call(&ada, "record:delete", json!({"ids": ["note/1"]}));
    let request = worker.expect_request("note_beforeDelete");
    assert_eq!(request["param"]["record"]["n"], 1);
    worker.refuse(&request, &json!({"code": 102, "message": "keep it"}));
    assert_eq!(deleting.join().unwrap().result()[0]["code"], 102);
    assert_eq!(ada.query("note", json!([])).len(), 1);

    let deleting = call(&ada, "record:delete", json!({"ids": ["note/1"]}));
    for name in ["note_beforeDelete", "note_afterDelete"] {
        let request = worker.expect_request(name);
        assert_eq!(request["param"]["record"]["n"], 1);
        worker.answer_record(&request, &json!({}));
    }
    assert_eq!(deleting.join().unwrap().result()[0]["_id"], "note/1");
    assert!(ada.query("note", json!([])).is_empty());
}

#[test]
fn an_asynchronous_hook_delays_nobody() {
    let server = server(&[]);
    let mut slow = hook("note", "afterSave");
    slow["async"] = json!(true);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"hook": [slow]}));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    // The save is answered while the hook is still open.
    let request = worker.expect_request("note_afterSave");
    let context = request["context"].as_object().unwrap();
    let members: Vec<_> = context.keys().collect();
    assert_eq!(members, ["access_key_type", "user_id"]);
    worker.refuse(&request, &json!({"message": "ignored"}));
    ada.save("note/2", json!({"n": 2}));
}

#[test]
fn a_save_from_a_hook_of_its_own_plugin_goes_through() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "beforeSave"), hook("audit", "beforeSave")]});
    let mut worker = Worker::ready(&server, &json!({"window": 1}), &points);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    let outer = worker.expect_request("note_beforeSave");
    let payload = json!({"action": "record:save", "_user_id": ada.user,
                         "records": [{"_id": "audit/1", "of": "note/1"}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = loop {
        let request = worker.expect("request");
        if request["kind"] == "hook" {
            break request;
        }
        worker.answer(&request, &json!(null));
    };
    assert_eq!(
        (&inner["name"], &inner["parent"]),
        (&json!("audit_beforeSave"), &json!("c1"))
    );
    assert_eq!(
        inner["context"]["request_id"],
        outer["context"]["request_id"]
    );
    worker.answer_record(&inner, &json!({}));
    let reply = worker.expect("reply");
    assert_eq!(reply["body"]["result"][0]["_id"], "audit/1", "{reply}");
    worker.answer_record(&outer, &json!({"audited": true}));
    assert_eq!(saving.join().unwrap().result()[0]["audited"], true);
    // Both commits name the request, and each has an id of its own.
    let master = Client::master(&server);
    let commit = |id: &str| {
        let versions = master.call("history:list", json!({"record": id})).result();
        let version = &versions["versions"][0];
        let request = &outer["context"]["request_id"];
        assert_eq!(&version["request_id"], request, "{id}");
        version["commit"].clone()
    };
    assert_ne!(commit("note/1"), commit("audit/1"));
}

#[test]
fn plugins_hear_of_new_fields() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({}));
    worker.hears_of_schema = true;
    let ada = Client::signed_up(&server, "ada");
    ada.save(
        "note/1",
        json!({"title": "a", "by": {"$type": "ref", "$id": format!("user/{}", ada.user.as_ref().unwrap())}}),
    );
    let event = worker.expect_request("schema-changed");
    assert_eq!(event["kind"], "event");
    assert!(event.get("context").is_none());
    let fields = &event["param"]["note"]["fields"];
    assert_eq!(
        fields,
        &json!([{"name": "by", "type": "ref(user)"}, {"name": "title", "type": "string"}])
    );
    assert!(event["param"]["user"]["fields"].is_array());
    worker.answer(&event, &json!(null));
    // No event if nothing is new: the next events are about new fields.
    ada.save("note/1", json!({"title": "b"}));
    ada.save("note/1", json!({"words": 2}));
    let event = worker.expect_request("schema-changed");
    let fields = &event["param"]["note"]["fields"];
    assert_eq!(fields[2]["name"], "words", "{fields}");
}

#[test]
fn a_hook_may_save_the_very_record_that_it_is_asked_about() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("note", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "title": "mine"}));
    let outer = worker.expect_request("note_beforeSave");
    let payload = json!({"action": "record:save", "_user_id": ada.user,
                         "records": [{"_id": "note/1", "counter": 1}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = worker.expect_request("note_beforeSave");
    assert_eq!(inner["parent"], "c1");
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["body"]["result"][0]["counter"], 1);
    // The outer save continues from there; its hook is not called again.
    worker.answer_record(&outer, &json!({"checked": true}));
    let saved = saving.join().unwrap().result();
    assert_eq!(saved[0]["_type"], "record", "{saved}");
    let found = ada.query("note", json!([]));
    assert_eq!(found[0]["title"], "mine");
    assert_eq!(found[0]["checked"], true);
    assert_eq!(found[0]["counter"], 1);
    worker.expect_nothing(&server);
}
