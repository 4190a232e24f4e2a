//! Saves and deletions whose hooks wrote something themselves, and that another caller overtook
//! while those hooks ran.

use serde_json::{Value as Json, json};

use super::points;
use crate::plugin::worker::Worker;
use crate::plugin::{call, hook, save, server};
use crate::support::client::Client;

/// Saves a record from the hook that answers `request`.
fn write(worker: &mut Worker, request: &Json, key: &str, record: Json) {
    let payload = json!({"action": "record:save", "records": [record]});
    worker.send(json!({"type": "call", "id": key, "parent": request["id"], "payload": payload}));
    assert_eq!(
        worker.expect("reply")["body"]["result"][0]["_type"],
        "record"
    );
}

/// Saves another order from the hook that answers `outer`, and the first order from the other's.
fn save_through_another(worker: &mut Worker, ada: &Client, outer: &Json) {
    let begin = |worker: &mut Worker, key: &str, within: &Json, record: Json| {
        let payload = json!({"action": "record:save", "_user_id": ada.user, "records": [record]});
        worker.send(json!({"type": "call", "id": key, "parent": within["id"], "payload": payload}));
        worker.expect_request("order_beforeSave")
    };
    let inner = begin(worker, "c1", outer, json!({"_id": "order/2"}));
    let innermost = begin(
        worker,
        "c2",
        &inner,
        json!({"_id": "order/1", "seen": true}),
    );
    assert_eq!(innermost["param"]["record"]["_id"], "order/1");
    worker.answer_record(&innermost, &json!({}));
    assert_eq!(worker.expect("reply")["id"], "c2");
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["id"], "c1");
}

#[test]
fn a_save_that_another_has_overtaken_asks_its_hook_again_whatever_that_wrote() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let first = save(
        &ada,
        json!({"_id": "order/1", "status": "open", "note": ""}),
    );
    let request = worker.expect_request("order_beforeSave");
    write(&mut worker, &request, "c0", json!({"_id": "audit/0"}));
    worker.answer_record(&request, &json!({}));
    first.join().unwrap().result();

    let saving = save(&ada, json!({"_id": "order/1", "note": "late"}));
    let asked = worker.expect_request("order_beforeSave");
    assert_eq!(asked["param"]["original"]["status"], "open");
    write(&mut worker, &asked, "c1", json!({"_id": "audit/1"}));
    let paying = save(&ada, json!({"_id": "order/1", "status": "paid"}));
    let request = worker.expect_request("order_beforeSave");
    worker.answer_record(&request, &json!({}));
    assert_eq!(paying.join().unwrap().result()[0]["status"], "paid");
    worker.answer_record(&asked, &json!({}));

    let asked = worker.expect_request("order_beforeSave");
    assert_eq!(asked["param"]["original"]["status"], "paid");
    worker.refuse(&asked, &json!({"code": 102, "message": "it is paid"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 102);
    assert_eq!(ada.query("order", json!([]))[0]["note"], "");
}

#[test]
fn a_deletion_that_another_has_overtaken_asks_its_hook_again_whatever_that_wrote() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeDelete"]));
    let ada = Client::signed_up(&server, "ada");
    ada.save("order/1", json!({"status": "open"}));
    let deleting = call(&ada, "record:delete", json!({"ids": ["order/1"]}));
    let asked = worker.expect_request("order_beforeDelete");
    write(&mut worker, &asked, "c1", json!({"_id": "audit/1"}));
    ada.save("order/1", json!({"status": "paid"}));
    worker.answer_record(&asked, &json!({}));

    let asked = worker.expect_request("order_beforeDelete");
    assert_eq!(asked["param"]["record"]["status"], "paid");
    worker.refuse(&asked, &json!({"code": 102, "message": "it is paid"}));
    assert_eq!(deleting.join().unwrap().result()[0]["code"], 102);
    assert_eq!(ada.query("order", json!([])).len(), 1);
}

#[test]
fn a_save_that_only_its_own_hooks_have_overtaken_asks_them_once() {
    let server = server(&[]);
    let hooks = points("order", &["beforeSave"]);
    let mut worker = Worker::ready(&server, &json!({}), &hooks);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "order/1", "n": 1}));
    let outer = worker.expect_request("order_beforeSave");
    save_through_another(&mut worker, &ada, &outer);
    worker.answer_record(&outer, &json!({}));
    // If the hook were called again, nothing would answer it.
    let saved = saving.join().unwrap().result()[0].clone();
    assert_eq!((&saved["n"], &saved["seen"]), (&json!(1), &json!(true)));
}

#[test]
fn what_a_client_sent_counts_after_what_its_hook_saved_though_it_was_so_before() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let first = save(
        &ada,
        json!({"_id": "order/1", "status": "open", "note": "a"}),
    );
    let request = worker.expect_request("order_beforeSave");
    worker.answer_record(&request, &json!({}));
    first.join().unwrap().result();
    let saving = save(&ada, json!({"_id": "order/1", "status": "open"}));
    let outer = worker.expect_request("order_beforeSave");
    let record = json!({"_id": "order/1", "status": "inner", "note": "b"});
    let payload = json!({"action": "record:save", "_user_id": ada.user, "records": [record]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = worker.expect_request("order_beforeSave");
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["id"], "c1");
    worker.answer_record(&outer, &json!({}));
    let saved = saving.join().unwrap().result()[0].clone();
    // Fields that the client did not send are as the hook's own save left them.
    assert_eq!(
        (&saved["status"], &saved["note"]),
        (&json!("open"), &json!("b"))
    );
}

#[test]
fn what_a_hook_leaves_out_does_not_count_as_sent_after_what_it_saved() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let first = save(&ada, json!({"_id": "order/1", "status": "open"}));
    let request = worker.expect_request("order_beforeSave");
    worker.answer_record(&request, &json!({}));
    first.join().unwrap().result();
    let saving = save(
        &ada,
        json!({"_id": "order/1", "status": "open", "note": "a"}),
    );
    let outer = worker.expect_request("order_beforeSave");
    let record = json!({"_id": "order/1", "status": "locked"});
    let payload = json!({"action": "record:save", "_user_id": ada.user, "records": [record]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = worker.expect_request("order_beforeSave");
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["id"], "c1");
    worker.answer(&outer, &json!({"_id": "order/1", "note": "a"}));
    let saved = saving.join().unwrap().result()[0].clone();
    assert_eq!(
        (&saved["status"], &saved["note"]),
        (&json!("locked"), &json!("a"))
    );
}

#[test]
fn what_is_created_in_the_place_of_a_record_that_was_deleted_meanwhile_is_new() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    for is_deleted_by_hook in [false, true] {
        let first = save(&ada, json!({"_id": "order/1", "note": "old"}));
        let request = worker.expect_request("order_beforeSave");
        worker.answer_record(&request, &json!({}));
        let first = first.join().unwrap().result()[0].clone();

        let saving = save(&ada, json!({"_id": "order/1", "note": "new"}));
        let asked = worker.expect_request("order_beforeSave");
        assert_eq!(asked["param"]["original"]["note"], "old");
        let deletion = json!({"ids": ["order/1"]});
        if is_deleted_by_hook {
            let payload = json!({"action": "record:delete", "ids": deletion["ids"]});
            let id = asked["id"].clone();
            worker.send(json!({"type": "call", "id": "c1", "parent": id, "payload": payload}));
            let reply = worker.expect("reply");
            assert_eq!(reply["body"]["result"][0]["_id"], "order/1", "{reply}");
            worker.answer_record(&asked, &json!({}));
        } else {
            ada.call("record:delete", deletion).result();
            worker.answer_record(&asked, &json!({}));
            let again = worker.expect_request("order_beforeSave");
            assert_eq!(again["param"]["original"], Json::Null);
            worker.answer_record(&again, &json!({}));
        }
        let saved = saving.join().unwrap().result()[0].clone();
        assert_eq!(saved["note"], "new", "{saved}");
        let time = |record: &Json| record["_created_at"].as_str().unwrap().to_owned();
        assert!(time(&saved) > time(&first), "{first} {saved}");
        let stored = ada.query("order", json!([]))[0].clone();
        assert_eq!(stored["_created_at"], saved["_created_at"]);
        ada.call("record:delete", json!({"ids": ["order/1"]}))
            .result();
    }
}

#[test]
fn a_condition_is_judged_again_when_another_save_has_overtaken_the_hooks() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let first = save(&ada, json!({"_id": "order/1", "status": "open"}));
    let request = worker.expect_request("order_beforeSave");
    worker.answer_record(&request, &json!({}));
    first.join().unwrap().result();

    let is_open = json!(["eq", {"$type": "keypath", "$val": "status"}, "open"]);
    let pay = |by: &str| {
        let record = json!({"_id": "order/1", "status": "paid", "by": by});
        let body = json!({"records": [record], "if": is_open});
        call(&ada, "record:save", body)
    };
    let create = |by: &str| {
        let record = json!({"_id": "order/2", "by": by});
        let body = json!({"records": [record], "create_only": true});
        call(&ada, "record:save", body)
    };
    let asked = |worker: &mut Worker| worker.expect_request("order_beforeSave");
    let (slow, of_slow) = (pay("slow"), asked(&mut worker));
    let (fast, of_fast) = (pay("fast"), asked(&mut worker));
    let (slow_new, of_slow_new) = (create("slow"), asked(&mut worker));
    let (fast_new, of_fast_new) = (create("fast"), asked(&mut worker));
    for request in [of_fast, of_fast_new] {
        worker.answer_record(&request, &json!({}));
    }
    assert_eq!(fast.join().unwrap().result()[0]["by"], "fast");
    assert_eq!(fast_new.join().unwrap().result()[0]["by"], "fast");
    for request in [of_slow, of_slow_new] {
        worker.answer_record(&request, &json!({}));
    }
    // If their hooks were called again, nothing would answer them.
    assert_eq!(slow.join().unwrap().result()[0]["code"], 113);
    assert_eq!(slow_new.join().unwrap().result()[0]["code"], 109);
    // A record that does not match is shown to no hook.
    assert_eq!(pay("late").join().unwrap().result()[0]["code"], 113);
    assert_eq!(create("late").join().unwrap().result()[0]["code"], 109);
}

#[test]
fn a_condition_is_judged_before_the_saves_own_hooks_write() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points("order", &["beforeSave"]));
    let ada = Client::signed_up(&server, "ada");
    let inner = |worker: &mut Worker, outer: &Json, key: &str, record: Json| {
        let payload = json!({"action": "record:save", "_user_id": ada.user, "records": [record]});
        worker.send(json!({"type": "call", "id": key, "parent": outer["id"], "payload": payload}));
        let request = worker.expect_request("order_beforeSave");
        worker.answer_record(&request, &json!({}));
        assert_eq!(worker.expect("reply")["id"], key);
    };
    let record = json!({"_id": "order/1", "status": "new"});
    let body = json!({"records": [record], "create_only": true});
    let saving = call(&ada, "record:save", body);
    let outer = worker.expect_request("order_beforeSave");
    let by_hook = json!({"_id": "order/1", "status": "of the hook", "seen": 1});
    inner(&mut worker, &outer, "c1", by_hook);
    worker.answer_record(&outer, &json!({}));
    let saved = saving.join().unwrap().result()[0].take();
    assert_eq!(
        (&saved["status"], &saved["seen"]),
        (&json!("new"), &json!(1)),
        "{saved}"
    );

    let is_new = json!(["eq", {"$type": "keypath", "$val": "status"}, "new"]);
    let record = json!({"_id": "order/1", "status": "paid"});
    let saving = call(
        &ada,
        "record:save",
        json!({"records": [record], "if": is_new}),
    );
    let outer = worker.expect_request("order_beforeSave");
    let by_hook = json!({"_id": "order/1", "status": "being paid", "seen": 2});
    inner(&mut worker, &outer, "c2", by_hook);
    worker.answer_record(&outer, &json!({}));
    let saved = saving.join().unwrap().result()[0].take();
    assert_eq!(
        (&saved["status"], &saved["seen"]),
        (&json!("paid"), &json!(2)),
        "{saved}"
    );
}

#[test]
fn a_condition_is_judged_before_the_hooks_of_the_saves_own_hooks_write() {
    let server = server(&[]);
    let mut registered = points("order", &["beforeSave"]);
    registered["op"] = json!([{"name": "pay"}]);
    let mut worker = Worker::ready(&server, &json!({}), &registered);
    let ada = Client::signed_up(&server, "ada");
    let first = save(&ada, json!({"_id": "order/1", "n": 1, "seen": false}));
    let request = worker.expect_request("order_beforeSave");
    worker.answer_record(&request, &json!({}));
    first.join().unwrap().result();
    let is_unseen = json!(["eq", {"$type": "keypath", "$val": "seen"}, false]);
    let of = |n: i64| json!([{"_id": "order/1", "n": n}]);

    let saving = call(
        &ada,
        "record:save",
        json!({"records": of(2), "if": is_unseen}),
    );
    let outer = worker.expect_request("order_beforeSave");
    save_through_another(&mut worker, &ada, &outer);
    worker.answer_record(&outer, &json!({}));
    // If the hook were called again, nothing would answer it.
    let saved = saving.join().unwrap().result()[0].take();
    assert_eq!((&saved["n"], &saved["seen"]), (&json!(2), &json!(true)));

    let calling = call(&ada, "pay", json!({}));
    let lambda = worker.expect_request("pay");
    let payload = json!({"action": "record:save", "_user_id": ada.user, "records": of(3),
                         "if": ["eq", {"$type": "keypath", "$val": "n"}, 2]});
    worker.send(json!({"type": "call", "id": "pay", "parent": lambda["id"], "payload": payload}));
    let outer = worker.expect_request("order_beforeSave");
    save_through_another(&mut worker, &ada, &outer);
    worker.answer_record(&outer, &json!({}));
    let saved = worker.expect("reply")["body"]["result"][0].take();
    assert_eq!(saved["n"], 3, "{saved}");
    worker.answer(&lambda, &json!("done"));
    calling.join().unwrap().result();
}

#[test]
fn what_the_hook_of_another_save_of_the_same_call_stores_is_not_the_saves_own() {
    let is_free = json!(["eq", {"$type": "keypath", "$val": "by"}, ""]);
    for condition in [&is_free, &json!(null)] {
        let server = server(&[]);
        let mut registered = points("seat", &["beforeSave"]);
        let hooks = registered["hook"].as_array_mut().unwrap();
        hooks.push(hook("order", "beforeSave"));
        registered["op"] = json!([{"name": "two"}]);
        let mut worker = Worker::ready(&server, &json!({}), &registered);
        let ada = Client::signed_up(&server, "ada");
        let first = save(&ada, json!({"_id": "seat/1", "by": ""}));
        let request = worker.expect_request("seat_beforeSave");
        worker.answer_record(&request, &json!({}));
        first.join().unwrap().result();

        let calling = call(&ada, "two", json!({}));
        let lambda = worker.expect_request("two");
        let begin = |worker: &mut Worker, within: &Json, key: &str, record: Json, needed: &Json| {
            let payload = json!({"action": "record:save", "_user_id": ada.user,
                                 "records": [record], "if": needed});
            let within = within["id"].clone();
            worker.send(json!({"type": "call", "id": key, "parent": within, "payload": payload}));
        };
        let take = |by: &str| json!({"_id": "seat/1", "by": by});
        begin(&mut worker, &lambda, "slow", take("slow"), condition);
        let of_slow = worker.expect_request("seat_beforeSave");
        write(&mut worker, &of_slow, "c1", json!({"_id": "log/1"}));
        let order = json!({"_id": "order/1"});
        begin(&mut worker, &lambda, "order", order, &json!(null));
        let of_order = worker.expect_request("order_beforeSave");
        begin(&mut worker, &of_order, "fast", take("fast"), &is_free);
        let of_fast = worker.expect_request("seat_beforeSave");
        worker.answer_record(&of_fast, &json!({}));
        let fast = worker.expect("reply");
        assert_eq!(fast["body"]["result"][0]["by"], "fast", "{fast}");
        worker.answer_record(&of_slow, &json!({}));
        if condition.is_null() {
            let again = worker.expect_request("seat_beforeSave");
            assert_eq!(again["param"]["original"]["by"], "fast");
            worker.answer_record(&again, &json!({}));
            let slow = worker.expect("reply");
            assert_eq!(slow["body"]["result"][0]["by"], "slow", "{slow}");
        } else {
            // If its hook were called again, nothing would answer it.
            let slow = worker.expect("reply");
            assert_eq!(slow["body"]["result"][0]["code"], 113, "{slow}");
        }
        worker.answer_record(&of_order, &json!({}));
        assert_eq!(worker.expect("reply")["id"], "order");
        worker.answer(&lambda, &json!("done"));
        calling.join().unwrap().result();
        let by = if condition.is_null() { "slow" } else { "fast" };
        assert_eq!(ada.query("seat", json!([]))[0]["by"], by);
    }
}
