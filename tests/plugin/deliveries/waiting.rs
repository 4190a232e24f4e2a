//! Synchronous after-hooks: the caller hears of the first attempt, and retries are made from the
//! log.

use std::time::Instant;

use super::super::{call, save, two_ready};
use super::*;

fn points() -> Json {
    json!({"hook": [hook("note", "afterSave")]})
}

#[test]
fn an_error_answer_is_final() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &points());
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let request = next_delivery(&mut worker);
    assert_eq!(request["context"]["request_tag"], "record");
    worker.refuse(&request, &json!({"code": 110, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 110);
    expect_end(&server, &mut worker);
    let state = consumer(&server);
    assert_eq!(
        (&state["open"], &state["dead_letters"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn who_saves_while_nobody_is_there_hears_so_after_a_while_and_the_plugin_hears_later() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "1")]);
    come_and_go(&server, &points());
    let ada = Client::signed_up(&server, "ada");
    let begun = Instant::now();
    let slot = save(&ada, json!({"_id": "note/1", "n": 1}));
    let slot = slot.join().unwrap().result();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(
        slot[0]["info"],
        json!({"plugin": "TEST", "reason": "no-worker", "stored": true})
    );
    assert_eq!(ada.query("note", json!([])).len(), 1);
    let mut worker = arrive(&server, &json!({}), &points());
    let delivery = next_delivery(&mut worker);
    assert_eq!(
        (number(&delivery), &delivery["delivery"]["attempt"]),
        (1, &json!(1))
    );
    worker.answer_record(&delivery, &json!({}));
    expect_end(&server, &mut worker);
}

#[test]
fn who_waits_while_the_only_worker_is_restarted_is_answered_by_the_next() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "30")]);
    let mut old = Worker::ready(&server, &knowing(&json!({"window": 1})), &points());
    let ada = Client::signed_up(&server, "ada");
    let first = save(&ada, json!({"_id": "note/1", "n": 1}));
    let running = next_delivery(&mut old);
    let second = save(&ada, json!({"_id": "note/2", "n": 2}));
    await_consumer(&server, "the second waits", |it| it["open"] == 2);
    old.send(json!({"type": "drain"}));
    await_consumer(&server, "no worker serves", |it| it["workers"] == 0);
    let third = save(&ada, json!({"_id": "note/3", "n": 3}));
    await_consumer(&server, "the third waits", |it| it["open"] == 3);
    old.answer_record(&running, &json!({}));
    assert_eq!(first.join().unwrap().result()[0]["n"], 1);
    old.expect("drained");
    old.say_goodbye();
    await_consumer(&server, "the others wait", |it| it["open"] == 2);

    let mut new = arrive(&server, &json!({}), &points());
    for _ in 0..2 {
        let delivery = next_delivery(&mut new);
        assert_eq!(delivery["delivery"]["attempt"], 1);
        new.answer_record(&delivery, &json!({}));
    }
    assert_eq!(second.join().unwrap().result()[0]["n"], 2);
    assert_eq!(third.join().unwrap().result()[0]["n"], 3);
    expect_end(&server, &mut new);
}

#[test]
fn who_waits_while_the_only_worker_is_killed_and_its_session_ends_is_answered_by_the_next() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "30"), ("PLUGIN_RESUME", "1")]);
    let hello = json!({"features": ["deliver", "resume"], "window": 1});
    let mut old = Worker::ready(&server, &hello, &points());
    let ada = Client::signed_up(&server, "ada");
    let first = save(&ada, json!({"_id": "note/1", "n": 1}));
    next_delivery(&mut old);
    let second = save(&ada, json!({"_id": "note/2", "n": 2}));
    await_consumer(&server, "the second waits", |it| it["open"] == 2);
    old.die();
    let slot = first.join().unwrap().result();
    assert_eq!(slot[0]["info"]["reason"], "worker-lost");
    await_consumer(&server, "the session is over", |it| it["workers"] == 0);

    let mut new = arrive(&server, &json!({}), &points());
    for _ in 0..2 {
        let delivery = next_delivery(&mut new);
        let attempt = if number(&delivery) == 1 { 2 } else { 1 };
        assert_eq!(delivery["delivery"]["attempt"], attempt);
        new.answer_record(&delivery, &json!({}));
    }
    assert_eq!(second.join().unwrap().result()[0]["n"], 2);
    expect_end(&server, &mut new);
}

#[test]
fn a_worker_that_leaves_still_gets_the_hooks_that_its_own_requests_wait_for() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "30")]);
    let mut both = points();
    both["op"] = json!([{"name": "tidy"}]);
    let mut worker = Worker::ready(&server, &knowing(&json!({"window": 1})), &both);
    let ada = Client::signed_up(&server, "ada");
    let asked = call(&ada, "tidy", json!({}));
    let outer = worker.expect_request("tidy");
    worker.send(json!({"type": "drain"}));
    await_consumer(&server, "no worker serves", |it| it["workers"] == 0);
    let payload = json!({"action": "record:save", "_user_id": ada.user,
                         "records": [{"_id": "note/1", "n": 1}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = next_delivery(&mut worker);
    assert_eq!((number(&inner), &inner["parent"]), (1, &json!("c1")));
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["body"]["result"][0]["n"], 1);
    worker.answer(&outer, &json!("tidied"));
    assert_eq!(asked.join().unwrap().result(), "tidied");
    worker.expect("drained");
}

#[test]
fn a_lost_worker_and_a_late_one_are_told_again() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hasty(4000));
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    next_delivery(&mut worker);
    worker.die();
    let slot = saving.join().unwrap().result();
    assert_eq!(slot[0]["info"]["reason"], "worker-lost");
    let mut worker = arrive(&server, &json!({}), &hasty(4000));
    let again = next_delivery(&mut worker);
    assert_eq!(again["delivery"]["attempt"], 2);
    worker.answer_record(&again, &json!({}));

    let saving = save(&ada, json!({"_id": "note/2", "n": 2}));
    next_delivery(&mut worker);
    let slot = saving.join().unwrap().result();
    assert_eq!(
        (&slot[0]["code"], &slot[0]["info"]["reason"]),
        (&json!(119), &json!("deadline"))
    );
    assert_eq!(worker.expect("cancel")["reason"], "deadline");
    let again = next_delivery(&mut worker);
    assert_eq!(
        (number(&again), &again["delivery"]["attempt"]),
        (2, &json!(2))
    );
    worker.answer_record(&again, &json!({}));
}

#[test]
fn an_atomic_save_says_which_hook_failed_and_that_all_is_stored() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &points());
    let ada = Client::signed_up(&server, "ada");
    let records = json!([{"_id": "note/1", "n": 1}, {"_id": "note/2", "n": 2}]);
    let saving = call(
        &ada,
        "record:save",
        json!({"records": records, "atomic": true}),
    );
    for _ in 0..2 {
        let request = next_delivery(&mut worker);
        if number(&request) == 1 {
            worker.refuse(&request, &json!({"code": 108, "message": "no"}));
        } else {
            worker.answer_record(&request, &json!({}));
        }
    }
    let result = saving.join().unwrap().result();
    assert_eq!(
        (&result[0]["_id"], &result[0]["code"]),
        (&json!("note/1"), &json!(108))
    );
    assert_eq!(
        (&result[1]["_id"], &result[1]["n"]),
        (&json!("note/2"), &json!(2))
    );
    assert_eq!(ada.query("note", json!([])).len(), 2);
}

#[test]
fn hooks_of_several_plugins_come_in_the_order_of_the_plugins() {
    let server = TestServer::with(&[("PLUGINS", "ONE,TWO")]);
    let mut one = Worker::greet(&server, &json!({"plugin": "ONE"}));
    one.register(&points());
    let mut two = Worker::greet(&server, &json!({"plugin": "TWO"}));
    two.register(&points());
    for worker in [&mut one, &mut two] {
        worker.serve_event("before-plugins-ready");
    }
    for event in ["after-plugins-ready", "server-ready"] {
        for worker in [&mut one, &mut two] {
            if event == "after-plugins-ready" {
                worker.expect("ready");
            }
            worker.serve_event(event);
        }
    }
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let first = next_delivery(&mut one);
    expect_held(&server, &mut two, (1, 0));
    one.answer_record(&first, &json!({}));
    let second = next_delivery(&mut two);
    two.refuse(&second, &json!({"code": 110, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 110);

    // A hook that fails keeps nothing from the others.
    let saving = save(&ada, json!({"_id": "note/2", "n": 2}));
    let first = next_delivery(&mut one);
    one.refuse(&first, &json!({"code": 108, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 108);
    let second = next_delivery(&mut two);
    assert_eq!(number(&second), 2);
    two.answer_record(&second, &json!({}));
}

#[test]
fn a_hook_may_save_its_own_record_and_is_told_before_it_answers() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({"window": 1})), &points());
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let outer = next_delivery(&mut worker);
    let payload = json!({"action": "record:save", "_user_id": ada.user,
                         "records": [{"_id": "note/1", "n": 2}]});
    worker.send(json!({"type": "call", "id": "c1", "parent": outer["id"], "payload": payload}));
    let inner = next_delivery(&mut worker);
    assert_eq!((number(&inner), &inner["parent"]), (2, &json!("c1")));
    assert_eq!(inner["param"]["original"]["n"], 1);
    worker.answer_record(&inner, &json!({}));
    assert_eq!(worker.expect("reply")["body"]["result"][0]["n"], 2);
    worker.answer_record(&outer, &json!({}));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 1);
}

#[test]
fn notes_of_a_login_are_no_saves() {
    let server = server(&[]);
    let mut point = hook("user", "afterSave");
    point["async"] = json!(true);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &json!({"hook": [point]}));
    let ada = Client::signed_up(&server, "ada");
    let signed_up = next_delivery(&mut worker);
    assert_eq!(signed_up["param"]["original"], Json::Null);
    worker.answer(&signed_up, &Json::Null);
    let auth_data = json!({"username": "ada"});
    let body = json!({"auth_data": auth_data, "password": "secret-of-the-test"});
    Client::anonymous(&server).call("auth:login", body).result();
    expect_end(&server, &mut worker);
    let id = format!("user/{}", ada.user.as_ref().unwrap());
    ada.save(&id, json!({"bio": "x"}));
    assert_eq!(next_delivery(&mut worker)["param"]["record"]["bio"], "x");
}

/// The hook with a limit of its own. That of the plugin would hold for its start as well.
fn hasty(timeout_ms: u64) -> Json {
    let mut points = points();
    points["hook"][0]["timeout_ms"] = json!(timeout_ms);
    points
}

/// Synchronous hooks of `note`, and an asynchronous one of its saves, `later`.
fn with_later() -> Json {
    let mut later = hook("note", "afterSave");
    later["name"] = json!("later");
    later["async"] = json!(true);
    json!({"hook": [hook("note", "afterSave"), later, hook("note", "afterDelete")]})
}

/// Takes the two deliveries of a save and answers the synchronous one; returns the one of `later`.
fn next_later(worker: &mut Worker) -> Json {
    let mut both = [next_delivery(worker), next_delivery(worker)];
    both.sort_by_key(|it| it["name"] == "later");
    let [own, late] = both;
    assert_eq!(late["name"], "later", "{own}");
    worker.answer_record(&own, &json!({}));
    late
}

#[test]
fn who_saves_what_a_retry_holds_back_need_not_wait_for_it() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &with_later());
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let late = next_later(&mut worker);
    assert_eq!(saving.join().unwrap().result()[0]["n"], 1);
    let poison = json!({"code": 10000, "message": "poison"});
    let mut in_an_hour = poison.clone();
    in_an_hour["info"] = json!({"retry_after_ms": 3_600_000});
    worker.refuse(&late, &in_an_hour);
    await_consumer(&server, "it waits for its retry", |it| it["retrying"] == 1);
    for (n, client) in [(2, &ada), (3, &master)] {
        let saving = save(client, json!({"_id": "note/1", "n": n}));
        assert_eq!(saving.join().unwrap().result()[0]["n"], n);
    }
    let deleted = ada.call("record:delete", json!({"ids": ["note/1"]}));
    assert_eq!(deleted.result()[0]["_type"], "record");
    expect_held(&server, &mut worker, (6, 0));
    // Other records go on.
    let saving = save(&ada, json!({"_id": "note/2", "n": 1}));
    let late = next_later(&mut worker);
    assert_eq!((id(&late), number(&late)), ("note/2", 1));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 1);
}

#[test]
fn who_waits_behind_what_comes_to_be_tried_again_is_let_go_and_told_of_in_turn() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &with_later());
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let first = next_later(&mut worker);
    assert_eq!(saving.join().unwrap().result()[0]["n"], 1);
    let saving = save(&ada, json!({"_id": "note/1", "n": 2}));
    await_consumer(&server, "the second waits", |it| it["open"] == 3);
    worker.refuse(&first, &json!({"code": 10000, "message": "not yet"}));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 2);

    // Nor does any caller wait for the result of the retry.
    let again = next_delivery(&mut worker);
    assert_eq!(again["delivery"]["id"], first["delivery"]["id"]);
    let saving = save(&ada, json!({"_id": "note/1", "n": 3}));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 3);
    expect_none_sent(&server, &mut worker);
    worker.answer(&again, &Json::Null);
    for n in [2, 3] {
        let late = next_later(&mut worker);
        assert_eq!(
            (number(&late), &late["delivery"]["attempt"]),
            (n, &json!(1))
        );
        worker.answer(&late, &Json::Null);
    }
    expect_end(&server, &mut worker);
    // Once it is over, callers wait for hooks as usual.
    let saving = save(&ada, json!({"_id": "note/1", "n": 4}));
    let mut both = [next_delivery(&mut worker), next_delivery(&mut worker)];
    both.sort_by_key(|it| it["name"] == "later");
    worker.refuse(&both[0], &json!({"code": 108, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 108);
    worker.answer(&both[1], &Json::Null);
    expect_end(&server, &mut worker);
}

#[test]
fn a_synchronous_hook_that_was_late_once_keeps_nobody_after_it_waiting() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hasty(1000));
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let hanging = next_delivery(&mut worker);
    assert_eq!(saving.join().unwrap().result()[0]["code"], 119);
    assert_eq!(worker.expect("cancel")["id"], hanging["id"]);
    let saving = save(&ada, json!({"_id": "note/1", "n": 2}));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 2);
}

#[test]
fn a_plugin_whose_record_waits_for_a_retry_keeps_nobody_from_the_next_plugins() {
    let server = TestServer::with(&[("PLUGINS", "TEST,OTHER")]);
    let (mut worker, mut other) = two_ready(&server, &points(), &points());
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    next_delivery(&mut worker);
    worker.die();
    let slot = saving.join().unwrap().result();
    assert_eq!(slot[0]["info"]["reason"], "worker-lost");
    let first = next_delivery(&mut other);
    other.answer_record(&first, &json!({}));
    let mut worker = arrive(&server, &json!({}), &points());
    let again = next_delivery(&mut worker);
    assert_eq!(again["delivery"]["attempt"], 2);
    let saving = save(&ada, json!({"_id": "note/1", "n": 2}));
    let second = next_delivery(&mut other);
    assert_eq!(number(&second), 2);
    other.refuse(&second, &json!({"code": 108, "message": "no"}));
    assert_eq!(saving.join().unwrap().result()[0]["code"], 108);
    worker.answer_record(&again, &json!({}));
    assert_eq!(number(&next_delivery(&mut worker)), 2);
}
