//! Workers that die, hang, flood and send nonsense: clients get the documented error in time, and
//! nothing else is held up.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::worker::{Seen, Worker};
use super::{call, hook, plugin_state, save, server};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::raw::RawClient;
use crate::support::server::{MASTER_KEY, TestServer};

/// Waits for the hook's request.
fn expect_hook(worker: &mut Worker) -> Json {
    worker.expect_request("note_beforeSave")
}

fn hooked(timeout_ms: u64) -> Json {
    let mut before = hook("note", "beforeSave");
    before["timeout_ms"] = json!(timeout_ms);
    json!({"hook": [before]})
}

#[test]
fn a_worker_that_dies_in_a_hook_fails_the_record_alone() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &hooked(30_000));
    let ada = Client::signed_up(&server, "ada");
    let records = json!([{"_id": "note/1"}, {"_id": "other/1"}]);
    let saving = call(&ada, "record:save", json!({"records": records}));
    expect_hook(&mut worker);
    worker.die();
    let answer = saving.join().unwrap();
    let result = answer.result();
    assert_eq!(result[0]["code"], 118, "{result}");
    assert_eq!(result[0]["_id"], "note/1");
    assert_eq!(
        result[0]["info"],
        json!({"plugin": "TEST", "reason": "worker-lost"})
    );
    assert_eq!(result[1]["_id"], "other/1");
    assert_eq!(result[1]["_type"], "record");
    assert!(ada.query("note", json!([])).is_empty());
    assert_eq!(ada.query("other", json!([])).len(), 1);

    // With a new worker everything works again.
    let mut worker = Worker::rejoin(&server, &hooked(30_000));
    let body = json!({"records": records, "atomic": true});
    let saving = call(&ada, "record:save", body);
    expect_hook(&mut worker);
    worker.die();
    let answer = saving.join().unwrap();
    assert_eq!((answer.status, answer.code()), (409, 115));
    assert_eq!(answer.json()["error"]["info"]["note/1"]["code"], 118);

    let mut worker = Worker::rejoin(&server, &hooked(30_000));
    let saving = save(&ada, json!({"_id": "note/1"}));
    let request = expect_hook(&mut worker);
    worker.answer_record(&request, &json!({}));
    assert_eq!(saving.join().unwrap().result()[0]["_type"], "record");
}

#[test]
fn a_worker_that_dies_after_the_save_leaves_it_stored() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "afterSave")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    worker.expect_request("note_afterSave");
    worker.die();
    let result = saving.join().unwrap().result();
    assert_eq!(
        (&result[0]["code"], &result[0]["info"]["stored"]),
        (&json!(118), &json!(true)),
        "{result}"
    );
    assert_eq!(ada.query("note", json!([])).len(), 1);
}

#[test]
fn a_worker_that_hangs_in_a_hook_costs_its_deadline_and_blocks_nobody() {
    let server = server(&[]);
    let mut worker = Worker::ready(&server, &json!({}), &hooked(10_000));
    let ada = Client::signed_up(&server, "ada");
    ada.save("other/0", json!({"n": 0}));
    let started = Instant::now();
    let saving = save(&ada, json!({"_id": "note/hangs", "n": 1}));
    let hanging = expect_hook(&mut worker);

    // Meanwhile other types' saves go on, and this type's too.
    let mut num_others = 0;
    while !saving.is_finished() && num_others < 10 {
        ada.save(&format!("other/{num_others}"), json!({"n": num_others}));
        num_others += 1;
    }
    assert_eq!(num_others, 10);
    let same_type = save(&ada, json!({"_id": "note/quick", "n": 2}));
    let request = expect_hook(&mut worker);
    worker.answer_record(&request, &json!({}));
    assert_eq!(same_type.join().unwrap().result()[0]["n"], 2);
    assert!(!saving.is_finished());

    let answer = saving.join().unwrap().result();
    let elapsed = started.elapsed();
    assert_eq!(answer[0]["code"], 119, "{answer}");
    assert_eq!(
        answer[0]["info"],
        json!({"plugin": "TEST", "reason": "deadline"})
    );
    let expected = Duration::from_millis(9900)..Duration::from_secs(30);
    assert!(expected.contains(&elapsed), "{elapsed:?}");
    let cancel = worker.expect("cancel");
    assert_eq!(
        (&cancel["id"], &cancel["reason"]),
        (&hanging["id"], &json!("deadline"))
    );

    // Its late answer changes nothing.
    worker.answer_record(&hanging, &json!({}));
    let saving = save(&ada, json!({"_id": "note/next"}));
    let request = expect_hook(&mut worker);
    worker.answer_record(&request, &json!({}));
    saving.join().unwrap().result();
    let stored = ada.query("note", json!(["eq", {"$type": "keypath", "$val": "n"}, 1]));
    assert!(stored.is_empty());
}

#[test]
fn a_lambda_that_hangs_is_answered_in_time() {
    let server = server(&[("RESPONSE_TIMEOUT", "30")]);
    // Not the plugin's own limit, which its start would have to keep as well.
    let points = json!({"op": [{"name": "a", "timeout_ms": 1000}, {"name": "b"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let answer = call(&Client::anonymous(&server), "a", json!({}))
        .join()
        .unwrap();
    assert_eq!((answer.status, answer.code()), (504, 119));
    worker.expect_request("a");
    assert_eq!(worker.expect("cancel")["reason"], "deadline");

    let server = super::server(&[("RESPONSE_TIMEOUT", "1")]);
    let points = json!({"op": [{"name": "a"}, {"name": "b"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let answer = call(&Client::anonymous(&server), "a", json!({}))
        .join()
        .unwrap();
    assert_eq!((answer.status, answer.code()), (503, 122));
    worker.expect_request("a");
    worker.expect("cancel");
}

#[test]
fn nothing_is_stored_after_the_client_was_told_it_took_too_long() {
    let server = server(&[("RESPONSE_TIMEOUT", "5")]);
    let mut worker = Worker::ready(&server, &json!({}), &hooked(30_000));
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    let request = expect_hook(&mut worker);
    let answer = saving.join().unwrap();
    assert_eq!((answer.status, answer.code()), (503, 122));
    worker.expect("cancel");
    worker.answer_record(&request, &json!({}));
    // The hook of another save has completed since.
    let saving = save(&ada, json!({"_id": "note/2"}));
    let request = expect_hook(&mut worker);
    worker.answer_record(&request, &json!({}));
    saving.join().unwrap().result();
    let stored = ada.query("note", json!([]));
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["_id"], "note/2");
}

#[test]
fn without_a_worker_hooks_and_lambdas_fail_and_everything_else_goes_on() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "1")]);
    let mut points = hooked(30_000);
    points["op"] = json!([{"name": "a"}]);
    Worker::ready(&server, &json!({}), &points).die();
    eventually("it is missed", || {
        let workers = plugin_state(&server)["workers"].take();
        workers.as_array()?.is_empty().then_some(())
    });
    let ada = Client::signed_up(&server, "ada");
    let answer = ada.call("a", json!({}));
    assert_eq!((answer.status, answer.code()), (503, 118));
    assert_eq!(answer.json()["error"]["info"]["reason"], "no-worker");
    let slot = save(&ada, json!({"_id": "note/1"}))
        .join()
        .unwrap()
        .result();
    assert_eq!(slot[0]["info"]["reason"], "no-worker");
    ada.save("other/1", json!({"n": 1}));
}

#[test]
fn nonsense_ends_the_connection_with_its_reason() {
    let points = json!({"op": [{"name": "a"}]});
    let server = server(&[("PLUGIN_MAX_MESSAGE", "100000")]);
    drop(Worker::ready(&server, &json!({}), &points));
    let client = Client::anonymous(&server);
    let nonsense = [
        (4002, Message::text("nonsense")),
        (4002, Message::text("[1]")),
        (
            4002,
            Message::text(r#"{"type":"window","size":1,"seq":7777}"#),
        ),
        (
            4002,
            Message::text(format!("{}{}", "[".repeat(2000), "]".repeat(2000))),
        ),
        (4002, Message::binary(vec![1, 2, 3])),
        (1009, Message::text("x".repeat(100_001))),
    ];
    for (code, message) in nonsense {
        let mut worker = Worker::rejoin(&server, &points);
        let asked = call(&client, "a", json!({}));
        worker.expect_request("a");
        worker.send_raw(message);
        assert_eq!(worker.expect_close(), code);
        let answer = asked.join().unwrap();
        assert_eq!((answer.status, answer.code()), (503, 118));
    }
    // The server is unharmed.
    let mut worker = Worker::rejoin(&server, &points);
    worker.send(json!({"type": "news", "of": "the future"}));
    worker.expect("warning");
    let asked = call(&client, "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer(&request, &json!(1));
    worker.answer(&request, &json!(2));
    assert_eq!(asked.join().unwrap().result(), 1);
    worker.expect("warning");
}

#[test]
fn a_flood_of_calls_is_refused_and_requests_go_on() {
    let server = server(&[("PLUGIN_MAX_CALLS", "4")]);
    let points = json!({"op": [{"name": "a"}, {"name": "wait"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    // These calls wait for this very worker, so they stay in flight.
    for n in 0..10 {
        let payload = json!({"action": "wait"});
        worker.send(json!({"type": "call", "id": format!("c{n}"), "payload": payload}));
    }
    let (mut waiting, mut refused) = (Vec::new(), 0);
    while waiting.len() < 4 || refused < 6 {
        match worker.next(Duration::from_secs(10)) {
            Seen::Message(message) if message["type"] == "request" => waiting.push(message),
            Seen::Message(message) => {
                assert_eq!(
                    (&message["type"], &message["status"]),
                    (&json!("reply"), &json!(429))
                );
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    let asked = call(&Client::anonymous(&server), "a", json!({}));
    let request = worker.expect_request("a");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn a_busy_worker_is_sent_no_more_than_its_window() {
    let server = server(&[]);
    let mut worker = Worker::ready(
        &server,
        &json!({"window": 2}),
        &json!({"op": [{"name": "a"}]}),
    );
    let client = Client::anonymous(&server);
    let asked: Vec<_> = (0..8).map(|_| call(&client, "a", json!({}))).collect();
    let mut pending = vec![worker.expect_request("a"), worker.expect_request("a")];
    eventually("all of them have come", || {
        let state = plugin_state(&server);
        let counts = ["in_flight", "queued"].map(|name| state[name].as_u64().unwrap());
        (counts.iter().sum::<u64>() == 8).then_some(())
    });
    worker.expect_nothing(&server);
    for _ in 0..6 {
        let request = pending.remove(0);
        worker.answer(&request, &json!(1));
        pending.push(worker.expect_request("a"));
    }
    for request in pending {
        worker.answer(&request, &json!(1));
    }
    for asked in asked {
        assert_eq!(asked.join().unwrap().result(), 1);
    }
}

#[test]
fn a_silent_worker_is_given_up() {
    let server = server(&[("PLUGIN_HEARTBEAT", "1")]);
    let worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    // It reads nothing and sends nothing.
    let started = Instant::now();
    eventually("the worker is gone", || {
        let url = format!("{}/_/health", server.base_url);
        let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
        let states = send("GET", &url, &[key], None).unwrap().json();
        let workers = states["plugins"]["plugins"][0]["workers"].as_array();
        workers.unwrap().is_empty().then_some(())
    });
    // With the default of `PLUGIN_HEARTBEAT` it would take half a minute.
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(worker);
}

/// Sends a request with the master key, without waiting for the answer.
fn begin(server: &TestServer, path: &str, body: &Json) -> RawClient {
    let body = body.to_string();
    let key = format!("X-Skygear-API-Key: {MASTER_KEY}");
    let mut client = RawClient::connect(server);
    client.send_head(path, &[&format!("Content-Length: {}", body.len()), &key]);
    client.send(body.as_bytes());
    client
}

#[test]
fn what_a_client_that_is_gone_wanted_saved_or_deleted_ends_in_its_hooks() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "beforeSave"), hook("note", "beforeDelete")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let master = Client::master(&server);
    let save_one = |worker: &mut Worker, id: &str| {
        let saving = save(&master, json!({"_id": id}));
        let request = expect_hook(worker);
        assert_eq!(request["param"]["record"]["_id"], id);
        worker.answer_record(&request, &json!({}));
        saving.join().unwrap().result();
    };
    save_one(&mut worker, "note/old");
    let records = json!([{"_id": "note/gone"}, {"_id": "note/gone-too"}]);
    for case in [
        ("/record/save", json!({"records": records})),
        ("/record/delete", json!({"ids": ["note/old"]})),
    ] {
        let client = begin(&server, case.0, &case.1);
        let request = worker.expect("request");
        drop(client);
        let cancel = worker.expect("cancel");
        assert_eq!(
            (&cancel["id"], &cancel["reason"]),
            (&request["id"], &json!("client-gone"))
        );
        worker.answer(&request, &request["param"]["record"]);
    }
    // No hook was called for the other record.
    save_one(&mut worker, "note/new");
    let mut stored: Vec<_> = master.query("note", json!([]));
    stored.sort_by_key(|record| record["_id"].to_string());
    let ids: Vec<_> = stored.iter().map(|record| &record["_id"]).collect();
    assert_eq!(ids, ["note/new", "note/old"]);
}

#[test]
fn what_is_saved_for_a_request_ends_with_it() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "beforeSave")], "op": [{"name": "outer"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    for (id, is_answered) in [("c1", false), ("c2", true)] {
        let client = begin(&server, "/outer", &json!({}));
        let outer = worker.expect_request("outer");
        let payload = json!({"action": "record:save", "records": [{"_id": format!("note/{id}")}]});
        let parent = &outer["id"];
        worker.send(json!({"type": "call", "id": id, "parent": parent, "payload": payload}));
        let inner = expect_hook(&mut worker);
        let mut left = vec![("reply", json!(id)), ("cancel", inner["id"].clone())];
        if is_answered {
            worker.answer(&outer, &json!("done"));
        } else {
            drop(client);
            left.push(("cancel", outer["id"].clone()));
        }
        while !left.is_empty() {
            let Seen::Message(message) = worker.next(Duration::from_secs(30)) else {
                panic!("{left:?} did not come");
            };
            let before = left.len();
            left.retain(|(kind, id)| message["type"] != *kind || message["id"] != *id);
            assert_eq!(left.len(), before - 1, "{message}");
            if message["type"] == "reply" {
                assert_eq!(message["status"], 499, "{message}");
            }
        }
        worker.answer_record(&inner, &json!({}));
        if !is_answered {
            worker.answer(&outer, &json!("late"));
        }
    }
    let saving = save(&Client::master(&server), json!({"_id": "note/own"}));
    let request = expect_hook(&mut worker);
    worker.answer_record(&request, &json!({}));
    saving.join().unwrap().result();
    let stored = Client::master(&server).query("note", json!([]));
    let ids: Vec<_> = stored.iter().map(|record| &record["_id"]).collect();
    assert_eq!(ids, ["note/own"]);
}
