//! Retries, dead letters, order, catching up.

use std::time::Instant;

use super::*;
use crate::support::machine::{faketime, skipped};

#[test]
fn a_delivery_says_what_it_is_and_comes_once() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let first = next_delivery(&mut worker);
    assert_eq!(first["param"]["original"], Json::Null);
    let delivery = first["delivery"].as_object().unwrap();
    let position = delivery["position"].as_u64().unwrap();
    let asked = json!({"record": "note/1"});
    let event = Client::master(&server).call("log:read", asked).result()[0].clone();
    assert_eq!(event["position"], position);
    let event_id = event["id"].as_str().unwrap();
    assert_eq!(delivery["id"], format!("{event_id}/note_afterSave"));
    assert_eq!(
        (&delivery["attempt"], &delivery["catching_up"]),
        (&json!(1), &json!(false))
    );
    assert!(delivery["at"].as_str().unwrap().ends_with('Z'));
    let left = first["timeout_ms"].as_u64().unwrap();
    assert!((50_000..=60_000).contains(&left), "{left}");
    worker.answer(&first, &Json::Null);
    ada.save("note/1", json!({"n": 2}));
    let second = next_delivery(&mut worker);
    assert_eq!(second["param"]["original"]["n"], 1);
    assert_eq!(number(&second), 2);
    worker.answer(&second, &Json::Null);
    expect_end(&server, &mut worker);
}

#[test]
fn those_who_did_not_ask_get_the_plain_envelope() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &told(&json!({})));
    Client::signed_up(&server, "ada").save("note/1", json!({"n": 1}));
    assert!(next_delivery(&mut worker).get("delivery").is_none());
}

#[test]
fn one_record_waits_for_its_own_and_others_go_on() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    for n in 1..=3 {
        ada.save("note/slow", json!({"n": n}));
    }
    ada.save("note/quick", json!({"n": 9}));
    let slow = next_delivery(&mut worker);
    assert_eq!((id(&slow), number(&slow)), ("note/slow", 1));
    let quick = next_delivery(&mut worker);
    assert_eq!(id(&quick), "note/quick");
    worker.answer(&quick, &Json::Null);
    expect_held(&server, &mut worker, (3, 1));
    worker.answer(&slow, &Json::Null);
    for n in 2..=3 {
        let next = next_delivery(&mut worker);
        assert_eq!((id(&next), number(&next)), ("note/slow", n));
        // The record as the event left it, not as it is now.
        assert_eq!(next["param"]["original"]["n"], n - 1);
        worker.answer(&next, &Json::Null);
    }
}

#[test]
fn a_worker_that_dies_with_a_delivery_gets_it_again() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    Client::signed_up(&server, "ada").save("note/1", json!({"n": 1}));
    let first = next_delivery(&mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let mut worker = arrive(&server, &json!({}), &told(&json!({})));
    let second = next_delivery(&mut worker);
    assert_eq!(second["delivery"]["id"], first["delivery"]["id"]);
    assert_eq!(second["delivery"]["attempt"], 2);
    assert_eq!(second["delivery"]["catching_up"], true);
    assert_eq!(second["param"], first["param"]);
    worker.answer(&second, &Json::Null);
    expect_end(&server, &mut worker);
}

#[test]
fn a_poison_event_becomes_a_dead_letter_while_others_go_on() {
    let server = server(&[("PLUGIN_MAX_ATTEMPTS", "2")]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/poison", json!({"n": 1}));
    ada.save("note/poison", json!({"n": 2}));
    let poison = next_delivery(&mut worker);
    let begun = Instant::now();
    let error = json!({"code": 10000, "message": "no"});
    worker.refuse(&poison, &error);
    ada.save("note/well", json!({"n": 7}));
    // On a busy machine the retry may be due before the other note is saved.
    let mut both = [next_delivery(&mut worker), next_delivery(&mut worker)];
    both.sort_by_key(|it| id(it) == "note/poison");
    let [well, again] = both;
    assert_eq!(id(&well), "note/well");
    worker.answer(&well, &Json::Null);
    assert!(begun.elapsed() >= Duration::from_millis(900));
    assert_eq!(again["delivery"]["attempt"], 2);
    assert_eq!((id(&again), number(&again)), ("note/poison", 1));
    worker.refuse(&again, &error);
    // Its record goes on.
    let next = next_delivery(&mut worker);
    assert_eq!((id(&next), number(&next)), ("note/poison", 2));
    worker.answer(&next, &Json::Null);
    let state = await_consumer(&server, "all is over", |it| it["lag"] == 0);
    assert_eq!(
        (&state["dead_letters"], &state["failed"]),
        (&json!(1), &json!(2))
    );

    let master = Client::master(&server);
    let letters = master.call("delivery:dead_letters", json!({"consumer": "TEST"}));
    let letters = letters.result();
    assert_eq!(letters[0]["id"], letter_id(&poison));
    assert_eq!(letters[0]["record"], "note/poison");
    assert_eq!(letters[0]["attempts"], 2);
    assert_eq!(letters[0]["error"]["message"], "no");
    let body = json!({"consumer": "TEST", "ids": [letters[0]["id"]]});
    master.call("delivery:resend", body).result();
    let resent = next_delivery(&mut worker);
    assert_eq!(
        (number(&resent), &resent["delivery"]["attempt"]),
        (1, &json!(1))
    );
    worker.answer(&resent, &Json::Null);
    let letters = master.call("delivery:dead_letters", json!({"consumer": "TEST"}));
    assert_eq!(letters.result(), json!([]));
}

#[test]
fn a_plugin_chooses_its_pause_or_gives_up_at_once() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let first = next_delivery(&mut worker);
    let begun = Instant::now();
    let error = json!({"code": 10000, "message": "later", "info": {"retry_after_ms": 2000}});
    worker.refuse(&first, &error);
    let second = next_delivery(&mut worker);
    // Without a wish it would be one second.
    assert!(begun.elapsed() >= Duration::from_millis(1900));
    let error = json!({"code": 10000, "message": "never", "info": {"drop": true}});
    worker.refuse(&second, &error);
    expect_end(&server, &mut worker);
    let state = consumer(&server);
    assert_eq!(
        (&state["dead_letters"], &state["open"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn progress_starts_the_limit_anew() {
    let server = server(&[]);
    let points = told(&json!({"timeout_ms": 3500}));
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &points);
    Client::signed_up(&server, "ada").save("note/1", json!({"n": 1}));
    let slow = next_delivery(&mut worker);
    for _ in 0..8 {
        // The waiting is what is tested: longer than the limit in total, and far shorter each time.
        match worker.next(Duration::from_millis(500)) {
            Seen::Nothing => {}
            other => panic!("{other:?}"),
        }
        worker.send(json!({"type": "progress", "id": slow["id"]}));
    }
    worker.answer(&slow, &Json::Null);
    let state = await_consumer(&server, "it is over", |it| it["delivered"] == 1);
    assert_eq!(state["failed"], 0);
    // Without progress it is tried again.
    Client::signed_up(&server, "bob").save("note/2", json!({"n": 2}));
    let silent = next_delivery(&mut worker);
    assert_eq!(worker.expect("cancel")["id"], silent["id"]);
    let again = next_delivery(&mut worker);
    assert_eq!(again["delivery"]["attempt"], 2);
    worker.answer(&again, &Json::Null);
}

#[test]
fn who_was_away_catches_up_with_half_his_window() {
    let server = server(&[]);
    let points = told(&json!({}));
    come_and_go(&server, &points);
    let ada = Client::signed_up(&server, "ada");
    for n in 0..6 {
        ada.save(&format!("note/{}", n % 3), json!({"n": n}));
    }
    let mut worker = arrive(&server, &json!({"window": 4}), &points);
    let mut pending = vec![next_delivery(&mut worker), next_delivery(&mut worker)];
    expect_held(&server, &mut worker, (6, 2));
    let mut seen = Vec::new();
    while !pending.is_empty() {
        let delivery = pending.remove(0);
        assert_eq!(delivery["delivery"]["catching_up"], true);
        seen.push((id(&delivery).to_owned(), number(&delivery)));
        worker.answer(&delivery, &Json::Null);
        if seen.len() + pending.len() < 6 {
            pending.push(next_delivery(&mut worker));
        }
    }
    for record in 0..3 {
        let record = format!("note/{record}");
        let of_record = seen.iter().filter(|(id, _)| *id == record);
        let numbers: Vec<i64> = of_record.map(|(_, n)| *n).collect();
        assert_eq!(numbers.len(), 2);
        assert!(numbers.is_sorted(), "{record}: {numbers:?}");
    }
    ada.save("note/9", json!({"n": 9}));
    let live = next_delivery(&mut worker);
    assert_eq!(live["delivery"]["catching_up"], false);
}

#[test]
fn a_hook_need_not_catch_up_with_everything() {
    let server = server(&[]);
    let mut latest = told(&json!({"catch_up": "latest"}))["hook"][0].clone();
    latest["name"] = json!("latest");
    let mut none = told(&json!({"catch_up": "none"}))["hook"][0].clone();
    none["name"] = json!("none");
    let points = json!({"hook": [latest, none]});
    come_and_go(&server, &points);
    let ada = Client::signed_up(&server, "ada");
    for n in 0..3 {
        ada.save("note/1", json!({"n": n}));
    }
    let mut worker = arrive(&server, &json!({}), &points);
    let only = next_delivery(&mut worker);
    assert_eq!((&only["name"], number(&only)), (&json!("latest"), 2));
    worker.answer(&only, &Json::Null);
    let state = await_consumer(&server, "it has caught up", |it| it["lag"] == 0);
    assert_eq!(state["skipped"], 5);
    ada.save("note/1", json!({"n": 3}));
    let mut names = [next_delivery(&mut worker), next_delivery(&mut worker)];
    names.sort_by_key(|it| it["name"].to_string());
    assert_eq!((number(&names[0]), number(&names[1])), (3, 3));
}

#[test]
fn a_hook_that_is_added_later_starts_at_the_end() {
    let mut server = server(&[]);
    let mut other = hook("other", "afterSave");
    other["async"] = json!(true);
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": [other]}));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    worker.die();
    server.kill();
    server.restart();
    let ada = ada.at(&server);
    let mut worker = arrive(&server, &json!({}), &told(&json!({})));
    expect_end(&server, &mut worker);
    ada.save("note/1", json!({"n": 2}));
    let first = next_delivery(&mut worker);
    assert_eq!(number(&first), 2);
    worker.answer(&first, &Json::Null);
}

#[test]
fn a_plugin_that_was_away_for_a_week_is_spared_what_is_older() {
    let Some(faketime) = faketime() else {
        return skipped("what is a week old", "faketime is not installed");
    };
    let mut server = server(&[]);
    let points = told(&json!({}));
    come_and_go(&server, &points);
    let ada = Client::signed_up(&server, "ada");
    for n in 0..3 {
        ada.save(&format!("note/{n}"), json!({"n": n}));
    }
    server.terminate();
    // Eight days later: only clocks jump, timers take no longer.
    server.restart_with(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME", "+8d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let mut worker = arrive(&server, &json!({}), &points);
    ada.at(&server).save("note/9", json!({"n": 9}));
    let only = next_delivery(&mut worker);
    assert_eq!(number(&only), 9);
    worker.answer(&only, &Json::Null);
    let state = await_consumer(&server, "it has caught up", |it| it["lag"] == 0);
    assert_eq!(state["skipped"], 3);
    assert_eq!(state["dead_letters"], 0);
    // No search is needed: the server's output says which events were skipped.
    let said = eventually("the server says what it skipped", || {
        let output = server.output();
        let line = output.lines().find(|line| line.contains("PLUGIN_MAX_LAG"));
        line.map(str::to_owned)
    });
    assert!(said.contains("WARN") && said.contains("num=3"), "{said}");
    // So they can still be delivered, all of them with one command.
    let number_in = |name: &str| {
        let (_, rest) = said.split_once(&format!("{name}=")).unwrap();
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.unwrap().parse::<u64>().unwrap()
    };
    let body = json!({
        "consumer": "TEST",
        "from": number_in("from"),
        "until": number_in("until"),
    });
    let master = Client::master(&server);
    master.call("delivery:redeliver", body).result();
    let mut brought: Vec<i64> = Vec::new();
    for _ in 0..3 {
        let delivery = next_delivery(&mut worker);
        brought.push(number(&delivery));
        worker.answer(&delivery, &Json::Null);
    }
    brought.sort_unstable();
    assert_eq!(brought, [0, 1, 2]);
}

#[test]
fn what_somebody_asks_for_again_is_delivered_however_old_it_is() {
    let Some(faketime) = faketime() else {
        return skipped("what is a week old", "faketime is not installed");
    };
    let mut server = server(&[]);
    let points = told(&json!({}));
    come_and_go(&server, &points);
    let ada = Client::signed_up(&server, "ada");
    for n in 0..3 {
        ada.save("note/1", json!({"n": n}));
    }
    server.terminate();
    server.restart_with(&[
        ("LD_PRELOAD", &faketime),
        ("FAKETIME", "+8d"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ]);
    let mut worker = arrive(&server, &json!({}), &points);
    let state = await_consumer(&server, "it has caught up", |it| it["lag"] == 0);
    assert_eq!(state["skipped"], 3);
    let master = Client::master(&server);
    let body = json!({"consumer": "TEST", "position": 0});
    master.call("delivery:rewind", body).result();
    let first = next_delivery(&mut worker);
    assert_eq!(number(&first), 0);
    worker.answer(&first, &Json::Null);
    // A restart in between changes nothing.
    await_consumer(&server, "the first is over", |it| it["delivered"] == 1);
    worker.die();
    server.terminate();
    server.restart();
    let mut worker = arrive(&server, &json!({}), &points);
    let mut numbers = Vec::new();
    let mut last = Json::Null;
    while numbers.last() != Some(&2) {
        last = next_delivery(&mut worker);
        numbers.push(number(&last));
        worker.answer(&last, &Json::Null);
    }
    assert_eq!(numbers, [1, 2]);
    let state = await_consumer(&server, "it is done", |it| it["lag"] == 0);
    assert_eq!(state["skipped"], 3, "none more");
    // A single one works too.
    let position = &last["delivery"]["position"];
    let body = json!({"consumer": "TEST", "from": position, "until": position});
    let master = master.at(&server);
    master.call("delivery:redeliver", body).result();
    let again = next_delivery(&mut worker);
    assert_eq!(again["delivery"]["id"], last["delivery"]["id"]);
    worker.answer(&again, &Json::Null);
}
