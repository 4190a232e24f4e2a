//! What operators may ask for, by action and on the command line.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::support::program::bounded;
use crate::support::server::MASTER_KEY;

/// Runs a command against the running server.
fn delivery(server: &TestServer, arguments: &[&str]) -> String {
    let output = ordered(server, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ordered(server: &TestServer, arguments: &[&str]) -> Output {
    let set = format!("MASTER_KEY={MASTER_KEY}");
    let mut all = vec!["--set", &set, "delivery", "--server", &server.base_url];
    all.extend(arguments);
    server.skytrail(&all)
}

/// Saves a few notes and has them delivered; returns their positions.
fn deliver_some(client: &Client, worker: &mut Worker) -> Vec<u64> {
    (1..=3)
        .map(|n| {
            client.save(&format!("note/{n}"), json!({"n": n}));
            let delivery = next_delivery(worker);
            worker.answer(&delivery, &Json::Null);
            delivery["delivery"]["position"].as_u64().unwrap()
        })
        .collect()
}

fn numbers(worker: &mut Worker, count: usize) -> Vec<i64> {
    let mut numbers: Vec<i64> = (0..count)
        .map(|_| {
            let delivery = next_delivery(worker);
            worker.answer(&delivery, &Json::Null);
            number(&delivery)
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn people_pause_rewind_and_deliver_again() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    let positions = deliver_some(&ada, &mut worker);
    let listed = delivery(&server, &["list"]);
    assert!(
        listed.starts_with("TEST") && listed.contains("running"),
        "{listed}"
    );

    delivery(&server, &["pause", "TEST"]);
    ada.save("note/4", json!({"n": 4}));
    expect_held(&server, &mut worker, (1, 0));
    assert_eq!(consumer(&server)["state"], "paused");
    delivery(&server, &["resume", "TEST"]);
    assert_eq!(numbers(&mut worker, 1), [4]);

    let second = positions[1].to_string();
    delivery(&server, &["redeliver", "TEST", &second, &second]);
    assert_eq!(numbers(&mut worker, 1), [2]);
    delivery(&server, &["rewind", "TEST", "--position", &second]);
    assert_eq!(numbers(&mut worker, 2), [3, 4]);
    delivery(
        &server,
        &["rewind", "TEST", "--time", "2020-01-01T00:00:00Z"],
    );
    assert_eq!(numbers(&mut worker, 4), [1, 2, 3, 4]);
    delivery(&server, &["rewind", "TEST", "--end"]);
    expect_end(&server, &mut worker);
}

#[test]
fn who_follows_an_order_hears_when_it_is_carried_out() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    let positions = deliver_some(&ada, &mut worker);
    let told = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&told);
    let _serving = worker.serve(move |worker, message| {
        if message["kind"] == "hook" {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        if message["type"] == "request" {
            worker.answer(message, &Json::Null);
        }
    });
    let ended = delivery(&server, &["rewind", "TEST", "--position", "0", "--follow"]);
    assert!(ended.contains(", 0 events behind; 0 in flight"), "{ended}");
    assert_eq!(told.load(Ordering::SeqCst), 3);
    let (first, last) = (positions[0].to_string(), positions[1].to_string());
    delivery(&server, &["redeliver", "TEST", &first, &last, "--follow"]);
    assert_eq!(told.load(Ordering::SeqCst), 5);
    delivery(&server, &["pause", "TEST"]);
    let ended = ordered(&server, &["rewind", "TEST", "--position", "0", "--follow"]);
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(why.contains("TEST is paused"), "{why}");
    assert!(why.contains("skytrail delivery resume TEST"), "{why}");
    // Nothing that was already delivered is open.
    let ended = delivery(&server, &["rewind", "TEST", "--end", "--follow"]);
    assert!(ended.contains("paused"), "{ended}");
}

#[test]
fn a_paused_consumer_keeps_nobody_waiting_and_is_paused_after_a_restart() {
    let mut server = server(&[]);
    let points = json!({"hook": [hook("note", "afterSave")]});
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &points);
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    master
        .call("delivery:pause", json!({"consumer": "TEST"}))
        .result();
    let body = json!({"records": [{"_id": "note/1", "n": 1}]});
    let slot = ada.call("record:save", body).result();
    assert_eq!(slot[0]["info"]["reason"], "paused");
    expect_held(&server, &mut worker, (1, 0));
    server.kill();
    server.restart();
    let mut worker = arrive(&server, &json!({}), &points);
    expect_held(&server, &mut worker, (1, 0));
    let master = Client::master(&server);
    master
        .call("delivery:resume", json!({"consumer": "TEST"}))
        .result();
    assert_eq!(number(&next_delivery(&mut worker)), 1);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_is_wrong() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    deliver_some(&ada, &mut worker);
    let master = Client::master(&server);
    let bad = [
        (
            "delivery:pause",
            json!({"consumer": "ELSE"}),
            110,
            "no such consumer",
        ),
        ("delivery:pause", json!({}), 108, "missing"),
        (
            "delivery:rewind",
            json!({"consumer": "TEST"}),
            108,
            "one of",
        ),
        (
            "delivery:rewind",
            json!({"consumer": "TEST", "position": 99999}),
            108,
            "ends at",
        ),
        (
            "delivery:rewind",
            json!({"consumer": "TEST", "time": "yesterday"}),
            108,
            "RFC 3339",
        ),
        (
            "delivery:redeliver",
            json!({"consumer": "TEST", "from": 2, "until": 1}),
            108,
            "order",
        ),
        (
            "delivery:redeliver",
            json!({"consumer": "TEST", "from": 1, "until": 99999}),
            108,
            "to",
        ),
        (
            "delivery:resend",
            json!({"consumer": "TEST", "ids": ["7/x"]}),
            110,
            "7/x",
        ),
        (
            "delivery:resend",
            json!({"consumer": "TEST", "ids": ["x"]}),
            108,
            "not a dead letter's id",
        ),
        (
            "delivery:drop",
            json!({"consumer": "TEST"}),
            108,
            "ids or all",
        ),
        (
            "delivery:forget",
            json!({"consumer": "TEST"}),
            108,
            "is connected",
        ),
    ];
    for (action, body, code, message) in bad {
        let answer = master.call(action, body.clone());
        let error = &answer.json()["error"];
        assert_eq!(answer.code(), code, "{action} {body}: {error}");
        assert!(
            error["message"].as_str().unwrap().contains(message),
            "{error}"
        );
    }
    expect_end(&server, &mut worker);
}

#[test]
fn a_plugin_says_itself_where_deliveries_start() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    let positions = deliver_some(&ada, &mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let from = json!({"from": positions[0]});
    let mut worker = arrive(&server, &from, &told(&json!({})));
    assert_eq!(numbers(&mut worker, 2), [2, 3]);
    expect_end(&server, &mut worker);
}

#[test]
fn where_deliveries_start_is_said_once() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    let positions = deliver_some(&ada, &mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let hello = json!({"features": ["deliver", "resume"], "from": positions[0]});
    let mut first = arrive(&server, &hello, &told(&json!({})));
    assert_eq!(numbers(&mut first, 2), [2, 3]);
    // The position that a worker gives while another serves has no effect, even when it is the only
    // one later.
    let mut second = arrive(&server, &hello, &told(&json!({})));
    first.say_goodbye();
    await_consumer(&server, "the first has left", |it| it["workers"] == 1);
    second.break_link();
    assert!(second.come_back(&server));
    expect_end(&server, &mut second);
    ada.save("note/4", json!({"n": 4}));
    assert_eq!(numbers(&mut second, 1), [4]);
}

#[test]
fn a_plugin_that_does_not_come_any_more_is_forgotten() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    deliver_some(&ada, &mut worker);
    await_consumer(&server, "it is kept", |it| it["lag"] == 0);
    drop(worker);
    server.kill();
    server.set("PLUGINS", "");
    server.restart();
    await_consumer(&server, "it is unknown", |it| it["state"] == "unknown");
    let said = delivery(&server, &["forget", "TEST"]);
    assert_eq!(said, "forgotten\n");
    assert!(delivery(&server, &["list"]).contains("no plugin"));
    server.restart();
    assert!(delivery(&server, &["list"]).contains("no plugin"));
}

#[test]
fn a_damaged_letter_is_listed_and_dropped_among_the_others() {
    let mut server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    let error = json!({"code": 10000, "message": "never", "info": {"drop": true}});
    for n in 1..=2 {
        ada.save(&format!("note/{n}"), json!({"n": n}));
        let given_up = next_delivery(&mut worker);
        worker.refuse(&given_up, &error);
    }
    await_consumer(&server, "both are letters", |it| it["dead_letters"] == 2);
    let serving = worker.serve(|_, _| {});
    assert!(server.terminate().success());
    drop(serving);
    let path = server.data_dir().join("ops.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    let said = br#""record":"note/1""#;
    let found = bytes.windows(said.len()).position(|it| it == said);
    // No longer valid JSON.
    bytes[found.unwrap()] = b'x';
    std::fs::write(&path, bytes).unwrap();
    server.restart();

    let master = Client::master(&server);
    let letters = || {
        let listed = master.call("delivery:dead_letters", json!({"consumer": "TEST"}));
        listed.result()
    };
    let listed = letters();
    let damaged = &listed[0]["id"];
    assert!(listed[0]["unreadable"].is_string(), "{listed}");
    assert_eq!(listed[0].get("record"), None);
    assert_eq!(listed[1]["record"], "note/2");
    let said = delivery(&server, &["dead-letters", "TEST"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("cannot be read"), "{said}");
    assert!(lines[1].contains("note/2"), "{said}");
    let body = json!({"consumer": "TEST", "ids": [damaged]});
    let state = master.call("delivery:drop", body).result();
    assert_eq!(state["dead_letters"], 1);
    let left = letters();
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(left[0]["record"], "note/2");
}

#[test]
fn who_follows_an_order_waits_for_somebody_to_carry_it_out() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    deliver_some(&ada, &mut worker);
    worker.die();
    await_consumer(&server, "the worker is gone", |it| it["state"] == "away");
    let mut command = bounded(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("DATA_DIR", server.data_dir());
    let set = format!("MASTER_KEY={MASTER_KEY}");
    command.args(["--set", &set, "delivery", "--server", &server.base_url]);
    command.args(["rewind", "TEST", "--position", "0", "--follow"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut following = command.spawn().unwrap();
    let mut said = BufReader::new(following.stderr.take().unwrap()).lines();
    let waits = said.next().map(Result::unwrap).unwrap_or_default();
    assert!(waits.contains("TEST has no worker"), "{waits}");
    assert!(following.try_wait().unwrap().is_none(), "it has ended");
    let mut worker = arrive(&server, &json!({}), &told(&json!({})));
    assert_eq!(numbers(&mut worker, 3), [1, 2, 3]);
    let done = following.wait_with_output().unwrap();
    let ended = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{ended}");
    assert!(ended.contains("running, at"), "{ended}");
    assert!(ended.contains(", 0 events behind; 0 in flight"), "{ended}");
    let again: Vec<String> = said.map_while(Result::ok).collect();
    assert!(
        !again.iter().any(|it| it.contains("has no worker")),
        "{again:?}"
    );
}

#[test]
fn what_is_tried_again_is_listed_with_its_reason_and_can_be_given_up() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    let ada = Client::signed_up(&server, "ada");
    for n in 1..=2 {
        ada.save("note/1", json!({"n": n}));
    }
    let failing = next_delivery(&mut worker);
    let info = json!({"retry_after_ms": 3_600_000});
    let error = json!({"code": 10000, "message": "poison", "info": info});
    worker.refuse(&failing, &error);
    let state = await_consumer(&server, "it is tried again", |it| it["retrying"] == 1);
    let id = &*letter_id(&failing);
    let retry = &state["retries"][0];
    assert_eq!(retry["id"], id);
    assert_eq!(retry["position"], failing["delivery"]["position"]);
    assert_eq!(
        (&retry["hook"], &retry["record"], &retry["attempts"]),
        (&json!("note_afterSave"), &json!("note/1"), &json!(1))
    );
    assert_eq!(retry["error"]["message"], "poison");
    let listed = delivery(&server, &["list"]);
    let mut lines = listed.lines().skip(1);
    let line = lines.next().unwrap_or_default();
    for part in [id, "note/1", "1 attempt", "poison"] {
        assert!(line.contains(part), "{part}: {listed}");
    }

    let said = delivery(&server, &["drop", "TEST", id]);
    assert!(said.contains("0 retrying, 1 dead"), "{said}");
    // Its record goes on.
    assert_eq!(numbers(&mut worker, 1), [2]);
    let state = await_consumer(&server, "all is over", |it| it["lag"] == 0);
    assert_eq!(state["retries"], json!([]));
    let master = Client::master(&server);
    let letters = master.call("delivery:dead_letters", json!({"consumer": "TEST"}));
    let letter = &letters.result()[0];
    assert_eq!(
        (
            &letter["id"],
            &letter["attempts"],
            &letter["error"]["message"]
        ),
        (&json!(id), &json!(1), &json!("poison"))
    );
    delivery(&server, &["drop", "TEST", id]);
    assert_eq!(consumer(&server)["dead_letters"], 0);
}

#[test]
fn what_is_given_up_while_it_is_tried_is_not_tried_once_more() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &knowing(&json!({})), &told(&json!({})));
    Client::signed_up(&server, "ada").save("note/1", json!({"n": 1}));
    let first = next_delivery(&mut worker);
    let id = letter_id(&first);
    let body = json!({"consumer": "TEST", "ids": [id]});
    let master = Client::master(&server);
    // It has not failed.
    assert_eq!(master.call("delivery:drop", body.clone()).code(), 110);
    let error = json!({"code": 10000, "message": "no"});
    worker.refuse(&first, &error);
    let again = next_delivery(&mut worker);
    let state = master.call("delivery:drop", body).result();
    assert_eq!(state["in_flight"], 1);
    worker.refuse(&again, &error);
    let state = await_consumer(&server, "it is over", |it| it["lag"] == 0);
    assert_eq!(
        (&state["dead_letters"], &state["failed"]),
        (&json!(1), &json!(2))
    );
}
