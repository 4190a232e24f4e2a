//! Calls of workers, and what they cause.

use std::collections::BTreeSet;

use serde_json::json;

use super::worker::Worker;
use super::{World, ops};
use crate::plugin::{call, hook, save};
use crate::support::client::Client;
use crate::support::server::API_KEY;

#[test]
fn a_save_in_a_lambda_has_its_hook_on_the_same_worker() {
    let world = World::new(&[]);
    let mut points = ops(&["foo"]);
    points["hook"] = json!([hook("note", "beforeSave")]);
    let mut worker = world.first_worker("worker", &points);
    let ada = Client::signed_up(&world.server, "ada");
    let asked = call(&ada, "foo", json!({}));
    let outer = worker.expect_request("foo");
    let mut other = world.worker("other");
    other.expect_beat();
    let user = ada.user.clone().unwrap();
    worker.call(
        &outer,
        &json!({"action": "record:save", "_user_id": user,
            "records": [{"_id": "note/1", "title": "a"}]}),
    );
    let inner = worker.expect_request("note_beforeSave");
    assert_eq!((inner.bounce, &inner.id), (2, &outer.id));
    assert_eq!(inner.body["param"]["record"]["_ownerID"], json!(user));
    worker.answer_record(&inner, &json!({"title": "b"}));
    let reply = worker.expect_reply();
    assert_eq!((reply.bounce, &reply.id), (1, &outer.id));
    assert_eq!(reply.body["result"][0]["title"], "b");
    assert!(reply.text.ends_with("}\n"));
    worker.answer(&outer, &json!("done"));
    assert_eq!(asked.join().unwrap().result(), "done");
    assert_eq!(ada.query("note", json!([])).len(), 1);
    other.expect_nothing();
}

#[test]
fn an_asynchronous_hook_goes_to_another_worker() {
    let world = World::new(&[]);
    let mut after = hook("note", "afterSave");
    after["async"] = json!(true);
    let mut points = ops(&["foo"]);
    points["hook"] = json!([after]);
    let mut worker = world.first_worker("worker", &points);
    let asked = call(&Client::anonymous(&world.server), "foo", json!({}));
    let outer = worker.expect_request("foo");
    let mut other = world.worker("other");
    let record = json!({"_id": "note/1"});
    worker.call(
        &outer,
        &json!({"action": "record:save", "records": [record]}),
    );
    let hooked = other.expect_request("note_afterSave");
    assert_eq!(hooked.bounce, 0);
    assert_ne!(hooked.id, outer.id);
    other.answer_record(&hooked, &json!({}));
    worker.expect_reply();
    worker.answer(&outer, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn calls_have_the_master_keys_rights_whatever_key_they_carry() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["foo"]));
    let ada = Client::signed_up(&world.server, "ada");
    let user = ada.user.clone().unwrap();
    for key in [json!(API_KEY), json!("no key at all"), json!(null)] {
        let asked = call(&ada, "foo", json!({}));
        let outer = worker.expect_request("foo");
        // Only the master key may act as another user, and say which roles are for admins.
        worker.call(
            &outer,
            &json!({"action": "role:default", "roles": ["x"], "api_key": key}),
        );
        assert_eq!(worker.expect_reply().body["result"], json!(["x"]));
        worker.call(
            &outer,
            &json!({"action": "me", "_user_id": user, "api_key": key}),
        );
        let reply = worker.expect_reply();
        assert_eq!(
            reply.body["result"]["user_id"],
            json!(user),
            "{}",
            reply.text
        );
        worker.answer(&outer, &json!(1));
        asked.join().unwrap().result();
    }
}

#[test]
fn errors_and_odd_calls_are_answered() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["foo"]));
    let asked = call(&Client::anonymous(&world.server), "foo", json!({}));
    let outer = worker.expect_request("foo");
    worker.call(&outer, &json!({"action": "no:such"}));
    let reply = worker.expect_reply();
    assert_eq!(reply.body["error"]["code"], 117, "{}", reply.text);
    for body in ["", "no JSON", "[]", "{}", r#"{"payload": 1}"#] {
        worker.call_text(1, &outer.id, body);
        let reply = worker.expect_reply();
        assert_eq!((reply.bounce, &reply.id), (1, &outer.id));
        assert_eq!(reply.body["error"]["code"], 107, "{body}: {}", reply.text);
    }
    worker.answer(&outer, &json!(1));
    asked.join().unwrap().result();
}

#[test]
fn a_worker_may_call_by_itself_and_is_busy_meanwhile() {
    let world = World::new(&[]);
    let mut points = ops(&["foo"]);
    points["hook"] = json!([hook("note", "beforeSave")]);
    let mut worker = world.first_worker("a", &points);
    // There before the call: the hook waits for an idle worker for three seconds only.
    let mut other = world.worker("b");
    other.expect_beat();
    let record = json!({"_id": "note/1"});
    worker.call_alone(
        "A-1",
        &json!({"action": "record:save", "records": [record]}),
    );
    // Work caused by a call outside of any request goes to any idle worker.
    let hooked = other.expect_request("note_beforeSave");
    other.answer_record(&hooked, &json!({}));
    let reply = worker.expect_reply();
    assert_eq!((reply.bounce, reply.id.as_str()), (0, "A-1"));
    assert_eq!(reply.body["result"][0]["_id"], "note/1");
    // Both are idle again.
    let client = Client::anonymous(&world.server);
    let asked = [(); 2].map(|()| call(&client, "foo", json!({})));
    let requests = [&mut worker, &mut other].map(|worker| worker.expect_request("foo"));
    for (worker, request) in [worker, other].iter_mut().zip(requests) {
        worker.answer(&request, &json!(1));
    }
    for asked in asked {
        asked.join().unwrap().result();
    }
}

/// Reads the replies to these calls, in any order.
fn expect_replies(worker: &mut Worker, ids: &[String]) {
    let mut left: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    while !left.is_empty() {
        let reply = worker.expect_reply();
        assert!(left.remove(reply.id.as_str()), "{reply:?}");
    }
}

#[test]
fn a_worker_that_reads_gets_all_replies_however_many_come_at_once() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("worker", &ops(&["foo"]));
    // Most of them are refused the moment they are read.
    let ids: Vec<_> = (0..400).map(|number| format!("own{number}")).collect();
    worker.call_many_alone(&ids, &json!({"action": "schema:fetch"}));
    expect_replies(&mut worker, &ids);
    let asked = call(&Client::anonymous(&world.server), "foo", json!({}));
    let request = worker.expect_request("foo");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn nesting_ends_at_the_bound() {
    let world = World::new(&[("ZMQ_MAX_BOUNCE", "3")]);
    let mut worker = world.first_worker("a", &ops(&["foo"]));
    let asked = call(&Client::anonymous(&world.server), "foo", json!({}));
    let outer = worker.expect_request("foo");
    worker.call(&outer, &json!({"action": "foo"}));
    let inner = worker.expect_request("foo");
    assert_eq!(inner.bounce, 2);
    // The call is within the limit, the request that it would cause is not.
    worker.call(&inner, &json!({"action": "foo"}));
    let reply = worker.expect_reply();
    assert_eq!(reply.bounce, 3);
    let refused = json!({"code": 10000, "message": "Plugin exceeded max bounce count",
        "name": "UnexpectedError"});
    assert_eq!(reply.body["error"], refused);
    // A worker that still continues is answered immediately.
    worker.call_text(5, &inner.id, "{}");
    let reply = worker.expect_reply();
    assert_eq!((reply.bounce, &reply.body["error"]), (5, &refused));
    worker.answer(&inner, &json!("inner"));
    assert_eq!(worker.expect_reply().body, json!({"result": "inner"}));
    worker.answer(&outer, &json!("outer"));
    assert_eq!(asked.join().unwrap().result(), "outer");
}

#[test]
fn a_hook_that_a_client_causes_is_no_nested_request() {
    let world = World::new(&[]);
    let points = json!({"hook": [hook("note", "beforeSave")]});
    let mut worker = world.first_worker("a", &points);
    let ada = Client::signed_up(&world.server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    let hooked = worker.expect_request("note_beforeSave");
    assert_eq!(hooked.bounce, 0);
    worker.refuse(&hooked, &json!({"code": 108, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 108);
}
