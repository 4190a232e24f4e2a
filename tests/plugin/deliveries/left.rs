//! Deliveries whose hook is no longer registered.

use std::collections::BTreeSet;

use super::*;

/// Asynchronous hooks of notes, by name.
fn hooks(names: &[&str]) -> Json {
    let hooks = names.iter().map(|name| {
        let mut point = hook("note", "afterSave");
        point["name"] = json!(name);
        point["async"] = json!(true);
        point
    });
    json!({"hook": hooks.collect::<Vec<_>>()})
}

/// Leaves one delivery of `old` given up and another waiting for its retry, with a third queued
/// behind it; returns their ids in log order.
fn leave_three(server: &TestServer, worker: &mut Worker) -> Vec<String> {
    let ada = Client::signed_up(server, "ada");
    let mut ids = Vec::new();
    for (name, info) in [
        ("note/1", json!({"drop": true})),
        ("note/2", json!({"retry_after_ms": 3_600_000})),
    ] {
        ada.save(name, json!({"n": 1}));
        let delivery = next_delivery(worker);
        ids.push(letter_id(&delivery));
        let error = json!({"code": 10000, "message": "poison", "info": info});
        worker.refuse(&delivery, &error);
    }
    ada.save("note/2", json!({"n": 2}));
    let listed = await_consumer(server, "the third waits", |it| {
        it["retrying"] == 1 && it["open"] == 2 && it["dead_letters"] == 1
    });
    let last = listed["position"].as_u64().unwrap() + listed["lag"].as_u64().unwrap();
    ids.push(format!("{last}/old"));
    ids
}

/// Returns the ids of the dead letters and their error messages.
fn letters(server: &TestServer) -> Vec<(String, String)> {
    let letters = Client::master(server).call("delivery:dead_letters", json!({"consumer": "TEST"}));
    let letters = letters.result();
    let text = |it: &Json| it.as_str().unwrap().to_owned();
    let letters = letters.as_array().unwrap().iter();
    letters
        .map(|it| (text(&it["id"]), text(&it["error"]["message"])))
        .collect()
}

/// Waits until there are three dead letters, and compares them with what was left over.
fn expect_letters(server: &TestServer, ids: &[String]) {
    // Nothing is open either before the log has been read.
    await_consumer(server, "all is read and nothing open", |it| {
        it["open"] == 0 && it["lag"] == 0
    });
    let found = letters(server);
    let found_ids: Vec<&String> = found.iter().map(|(id, _)| id).collect();
    assert_eq!(found_ids, ids.iter().collect::<Vec<_>>());
    assert_eq!(found[0].1, "poison");
    for (id, why) in &found[1..] {
        assert!(why.contains("old is not registered"), "{id}: {why}");
    }
    assert_eq!(consumer(server)["skipped"], 0);
}

#[test]
fn what_a_new_registration_leaves_over_is_kept_as_dead_letters_and_said() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hooks(&["old"]));
    let ids = leave_three(&server, &mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let mut worker = arrive(&server, &json!({}), &hooks(&["new"]));
    expect_letters(&server, &ids);
    let position = |id: &String| id.split_once('/').unwrap().0.to_owned();
    let said = eventually("the server says what was left over", || {
        let output = server.output();
        let line = output
            .lines()
            .find(|line| line.contains("become dead letters"));
        line.map(str::to_owned)
    });
    let (from, until) = (position(&ids[1]), position(&ids[2]));
    for part in [
        "WARN",
        "old",
        "num=2",
        &format!("from={from}"),
        &format!("until={until}"),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    Client::signed_up(&server, "bob").save("note/3", json!({"n": 3}));
    let delivery = next_delivery(&mut worker);
    assert_eq!((&delivery["name"], number(&delivery)), (&json!("new"), 3));
    worker.answer(&delivery, &Json::Null);
    expect_end(&server, &mut worker);
}

#[test]
fn letters_of_a_hook_that_is_gone_stay_until_it_is_back() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hooks(&["old"]));
    let ids = leave_three(&server, &mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let worker = arrive(&server, &json!({}), &hooks(&["new"]));
    expect_letters(&server, &ids);
    let master = Client::master(&server);
    for which in [json!({"ids": [ids[0]]}), json!({"all": true})] {
        let mut body = which;
        body["consumer"] = json!("TEST");
        let refused = master.call("delivery:resend", body);
        assert_eq!(refused.code(), 108);
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains("old is not registered"), "{message}");
    }
    expect_letters(&server, &ids);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let mut worker = arrive(&server, &json!({}), &hooks(&["old", "new"]));
    let body = json!({"consumer": "TEST", "all": true});
    let state = master.call("delivery:resend", body).result();
    assert_eq!(state["dead_letters"], 0);
    // Different records may be delivered in any order.
    let mut resent = BTreeSet::new();
    for _ in &ids {
        let delivery = next_delivery(&mut worker);
        resent.insert(letter_id(&delivery));
        worker.answer(&delivery, &Json::Null);
    }
    assert_eq!(resent, ids.into_iter().collect());
    expect_end(&server, &mut worker);
}

#[test]
fn all_letters_are_resent_but_those_of_a_hook_that_is_gone() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hooks(&["old", "new"]));
    Client::signed_up(&server, "ada").save("note/1", json!({"n": 1}));
    let error = json!({"code": 10000, "message": "never", "info": {"drop": true}});
    for _ in 0..2 {
        let delivery = next_delivery(&mut worker);
        worker.refuse(&delivery, &error);
    }
    await_consumer(&server, "both are letters", |it| it["dead_letters"] == 2);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let mut worker = arrive(&server, &json!({}), &hooks(&["new"]));
    let body = json!({"consumer": "TEST", "all": true});
    let resent = Client::master(&server).call("delivery:resend", body);
    assert_eq!(resent.result()["dead_letters"], 1);
    let delivery = next_delivery(&mut worker);
    assert_eq!(delivery["name"], "new");
    worker.answer(&delivery, &Json::Null);
    let left = letters(&server);
    assert!(left.len() == 1 && left[0].0.ends_with("/old"), "{left:?}");
}

#[test]
fn what_was_left_over_is_not_lost_with_the_server() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &hooks(&["old"]));
    let ids = leave_three(&server, &mut worker);
    // Listing dead letters makes them durable, along with everything that is open.
    assert_eq!(letters(&server).len(), 1);
    worker.die();
    server.kill();
    server.restart();
    let worker = arrive(&server, &json!({}), &hooks(&["new"]));
    expect_letters(&server, &ids);
    drop(worker);
    // These are durable once they are listed.
    server.kill();
    server.restart();
    let _worker = arrive(&server, &json!({}), &hooks(&["new"]));
    expect_letters(&server, &ids);
}

#[test]
fn a_kill_loses_nothing_of_a_hook_that_does_not_come_back() {
    let mut server = server(&[]);
    let worker = Worker::ready(&server, &knowing(&json!({})), &hooks(&["old"]));
    let ada = Client::signed_up(&server, "ada");
    for n in 1..=2 {
        ada.save("note/1", json!({"n": n}));
    }
    // The plugin's cursor may or may not have been written by now.
    drop(worker);
    server.kill();
    server.restart();
    let _worker = arrive(&server, &json!({}), &hooks(&["new"]));
    await_consumer(&server, "all is read", |it| it["lag"] == 0);
    let found = letters(&server);
    let are_old: Vec<bool> = found.iter().map(|(id, _)| id.ends_with("/old")).collect();
    assert_eq!(are_old, [true, true], "{found:?}");
}
