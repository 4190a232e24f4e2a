//! Hooks of several plugins, several hooks of one, several records.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::deliveries::expect_end;
use crate::plugin::worker::Worker;
use crate::plugin::{call, hook, save, server, two_ready};
use crate::support::client::Client;

#[test]
fn hooks_of_several_plugins_run_in_their_order_each_on_what_the_one_before_left() {
    let server = server(&[("PLUGINS", "TEST,OTHER")]);
    let hooks = points("note", &["beforeSave", "afterSave"]);
    let (mut first, mut second) = two_ready(&server, &hooks, &hooks);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(
        &ada,
        json!({"_id": "note/1", "by": "client", "n": 0, "left": true}),
    );
    let request = first.expect_request("note_beforeSave");
    assert_eq!(request["param"]["record"]["by"], "client");
    let mut record = request["param"]["record"].clone();
    record["by"] = json!("first");
    record["n"] = json!(1);
    record.as_object_mut().unwrap().remove("left");
    first.answer(&request, &record);
    let request = second.expect_request("note_beforeSave");
    let record = &request["param"]["record"];
    assert_eq!((&record["by"], &record["n"]), (&json!("first"), &json!(1)));
    assert!(record.get("left").is_none(), "{record}");
    second.answer_record(&request, &json!({"by": "second"}));
    for worker in [&mut first, &mut second] {
        let request = worker.expect_request("note_afterSave");
        let record = &request["param"]["record"];
        assert_eq!((&record["by"], &record["n"]), (&json!("second"), &json!(1)));
        worker.answer_record(&request, &json!({}));
    }
    let saved = saving.join().unwrap().result();
    assert_eq!(
        (&saved[0]["by"], &saved[0]["n"]),
        (&json!("second"), &json!(1))
    );
    assert!(saved[0].get("left").is_none(), "{saved}");

    // The first refusal is final.
    let saving = save(&ada, json!({"_id": "note/1", "by": "client"}));
    let request = first.expect_request("note_beforeSave");
    first.refuse(&request, &json!({"code": 102, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 102);
    assert_eq!(ada.query("note", json!([]))[0]["by"], "second");
    // The second plugin has not been asked: the next request it receives is of the next save.
    let saving = save(&ada, json!({"_id": "note/2"}));
    let request = first.expect_request("note_beforeSave");
    first.answer_record(&request, &json!({}));
    let request = second.expect_request("note_beforeSave");
    assert_eq!(request["param"]["record"]["_id"], "note/2");
    second.refuse(&request, &json!({"code": 102, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 102);
}

#[test]
fn several_hooks_of_one_plugin_run_in_the_order_of_their_registration() {
    let server = server(&[]);
    let named = |name: &str| {
        let mut point = hook("note", "beforeSave");
        point["name"] = json!(name);
        point
    };
    let hooks = json!({"hook": [named("z"), named("a"), named("m")]});
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "path": ""}));
    for name in ["z", "a", "m"] {
        let request = worker.expect_request(name);
        let path = request["param"]["record"]["path"].as_str().unwrap();
        worker.answer_record(&request, &json!({"path": format!("{path}{name}")}));
    }
    assert_eq!(saving.join().unwrap().result()[0]["path"], "zam");
}

#[test]
fn a_batch_goes_phase_by_phase_and_who_fails_takes_no_further_part() {
    let server = server(&[]);
    let hooks = points("note", &["beforeSave", "afterSave"]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let ada = Client::signed_up(&server, "ada");
    ada.query("user", json!([]));
    let records: Vec<Json> = ["a", "b", "c"]
        .iter()
        .map(|key| json!({"_id": format!("note/{key}"), "n": 1}))
        .collect();
    for is_atomic in [false, true] {
        let body = json!({"records": records, "atomic": is_atomic});
        let saving = call(&ada, "record:save", body);
        for key in ["a", "b", "c"] {
            let request = worker.expect_request("note_beforeSave");
            assert_eq!(request["param"]["record"]["_id"], format!("note/{key}"));
            if key == "b" {
                worker.refuse(&request, &json!({"code": 108, "message": "not b"}));
            } else {
                worker.answer_record(&request, &json!({"n": 2}));
            }
        }
        let afterwards: &[&str] = if is_atomic { &[] } else { &["a", "c"] };
        let mut told = Vec::new();
        for _ in afterwards {
            let request = worker.expect_request("note_afterSave");
            let record = request["param"]["record"].clone();
            assert_eq!(record["n"], 2);
            told.push(record["_id"].as_str().unwrap().to_owned());
            worker.answer_record(&request, &json!({}));
        }
        told.sort();
        let expected: Vec<_> = afterwards.iter().map(|key| format!("note/{key}")).collect();
        assert_eq!(told, expected);
        let answer = saving.join().unwrap();
        if is_atomic {
            assert_eq!((answer.status, answer.code()), (409, 115));
            let error = &answer.json()["error"];
            let message = "Atomic Operation rolled back due to one or more errors";
            assert_eq!(error["message"], message);
            let info = error["info"].as_object().unwrap();
            assert_eq!(info.keys().collect::<Vec<_>>(), ["note/b"]);
            assert_eq!(info["note/b"]["message"], "not b");
        } else {
            let result = answer.result();
            let kinds: Vec<_> = (0..3).map(|n| result[n]["_type"].clone()).collect();
            assert_eq!(kinds, ["record", "error", "record"]);
            assert_eq!(result[1]["_id"], "note/b");
        }
        assert_eq!(ada.query("note", json!([])).len(), 2);
    }
    expect_end(&server, &mut worker);
}

#[test]
fn an_asynchronous_before_hook_changes_refuses_and_delays_nothing() {
    let server = server(&[]);
    let mut early = hook("note", "beforeSave");
    early["async"] = json!(true);
    let mut delete = hook("note", "beforeDelete");
    delete["async"] = json!(true);
    let hooks = json!({"hook": [early, delete]});
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let ada = Client::signed_up(&server, "ada");
    assert_eq!(ada.save("note/1", json!({"n": 1}))["n"], 1);
    let request = worker.expect_request("note_beforeSave");
    assert_eq!(request["param"]["record"]["n"], 1);
    let context = json!({"user_id": ada.user, "access_key_type": "client"});
    assert_eq!(request["context"], context);
    worker.answer_record(&request, &json!({"n": 99}));
    ada.save("note/2", json!({"n": 2}));
    let request = worker.expect_request("note_beforeSave");
    worker.refuse(&request, &json!({"code": 102, "message": "too late"}));
    let found = ada.query("note", json!([]));
    let numbers: Vec<_> = found.iter().map(|record| record["n"].clone()).collect();
    assert_eq!(numbers.len(), 2);
    assert!(numbers.contains(&json!(1)) && numbers.contains(&json!(2)));
    let deleted = ada.call("record:delete", json!({"ids": ["note/1"]}));
    assert_eq!(deleted.result()[0]["_type"], "record");
    let request = worker.expect_request("note_beforeDelete");
    assert_eq!(request["context"], context);
    worker.refuse(&request, &json!({"message": "ignored"}));
    // No hook is called again: the next request is the next save's.
    ada.save("note/3", json!({"n": 3}));
    let request = worker.expect_request("note_beforeSave");
    assert_eq!(request["param"]["record"]["_id"], "note/3");
}
