//! Deliveries left over from before may block what a caller waits for.

use super::*;
use crate::plugin::call;

/// Leaves a delivery of `note/1` open: the plugin was away when the note was saved.
fn leave_one_over(server: &TestServer, points: &Json) {
    come_and_go(server, points);
    let saved = Client::master(server).call(
        "record:save",
        json!({"records": [{"_id": "note/1", "n": 1}]}),
    );
    assert_eq!(saved.result()[0]["code"], 118);
}

/// Answers the next two deliveries, which are of the first and the second save.
fn serve_both(worker: &mut Worker) {
    for n in [1, 2] {
        let delivery = next_delivery(worker);
        assert_eq!(number(&delivery), n);
        worker.answer_record(&delivery, &json!({}));
    }
}

#[test]
fn a_start_waits_for_no_delivery_that_waits_for_the_start() {
    let mut server = server(&[]);
    let points = json!({"hook": [hook("note", "afterSave")]});
    leave_one_over(&server, &points);
    server.kill();
    server.restart();
    let mut worker = Worker::greet(&server, &json!({}));
    worker.register(&points);
    let event = worker.expect_request("before-plugins-ready");
    // v1's plugins do this here: they bring their records up to date.
    let body = json!({"records": [{"_id": "note/1", "n": 2}], "_from_plugin": true});
    let saving = call(&Client::master(&server), "record:save", body);
    serve_both(&mut worker);
    assert_eq!(saving.join().unwrap().result()[0]["n"], 2);
    worker.answer(&event, &Json::Null);
    worker.expect("ready");
}

#[test]
fn a_nested_save_does_not_wait_for_a_retry() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "afterSave")], "op": [{"name": "a"}]});
    leave_one_over(&server, &points);
    let mut worker = arrive(&server, &json!({"window": 1}), &points);
    let refused = next_delivery(&mut worker);
    let info = json!({"retry_after_ms": 3_600_000});
    worker.refuse(
        &refused,
        &json!({"code": 108, "message": "later", "info": info}),
    );
    await_consumer(&server, "it waits for its retry", |it| it["retrying"] == 1);
    // A lambda takes the only slot, and saves the same record.
    let asked = call(&Client::master(&server), "a", json!({}));
    let request = worker.expect_request("a");
    let payload = json!({"action": "record:save", "records": [{"_id": "note/1", "n": 2}]});
    let id = request["id"].clone();
    worker.send(json!({"type": "call", "id": "c1", "parent": id, "payload": payload}));
    let reply = worker.expect("reply");
    assert_eq!(reply["body"]["result"][0]["n"], 2, "{reply}");
    worker.answer(&request, &json!("done"));
    assert_eq!(asked.join().unwrap().result(), "done");
    expect_held(&server, &mut worker, (2, 0));
}

#[test]
fn what_is_in_its_way_and_waits_for_a_window_comes_beyond_it_too() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "afterSave")], "op": [{"name": "a"}]});
    let mut worker = Worker::ready(&server, &json!({"window": 1}), &points);
    let master = Client::master(&server);
    let asked = call(&master, "a", json!({}));
    let request = worker.expect_request("a");
    // A client's save, whose hook waits for the worker's only slot.
    let records = |n: i64| json!([{"_id": "note/1", "n": n}]);
    let saving = call(&master, "record:save", json!({"records": records(1)}));
    await_consumer(&server, "the hook waits", |it| it["in_flight"] == 1);
    let payload = json!({"action": "record:save", "records": records(2)});
    let id = request["id"].clone();
    worker.send(json!({"type": "call", "id": "c1", "parent": id, "payload": payload}));
    serve_both(&mut worker);
    assert_eq!(saving.join().unwrap().result()[0]["n"], 1);
    assert_eq!(worker.expect("reply")["body"]["result"][0]["n"], 2);
    worker.answer(&request, &json!("done"));
    assert_eq!(asked.join().unwrap().result(), "done");
}
