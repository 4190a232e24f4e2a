//! Workers that die, stay silent and send nonsense: clients get v1's error in time, and nothing
//! else is held up.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;

use super::worker::{HEARTBEAT, READY, SHUTDOWN, Worker};
use super::{Seen, World, assert_timed_out, ops};
use crate::plugin::{call, hook, save};
use crate::support::client::{Client, send};
use crate::support::eventually;

#[test]
fn a_worker_that_dies_in_a_call_costs_that_call_alone() {
    let world = World::new(&[]);
    let mut points = ops(&["x"]);
    points["hook"] = json!([hook("note", "beforeSave")]);
    let mut worker = world.first_worker("a", &points);
    let ada = Client::signed_up(&world.server, "ada");
    let records = json!([{"_id": "note/1"}, {"_id": "other/1"}]);
    let saving = call(&ada, "record:save", json!({"records": records}));
    worker.expect_request("note_beforeSave");
    let mut other = world.worker("b");
    let begun = Instant::now();
    worker.die();
    // Others continue immediately.
    let asked = call(&ada, "x", json!({}));
    let request = other.expect_request("x");
    other.answer(&request, &json!(1));
    asked.join().unwrap().result();
    let result = saving.join().unwrap().result();
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "long before its time is over"
    );
    let error = (&result[0]["code"], &result[0]["message"]);
    assert_eq!(error, (&json!(10000), &json!("Plugin time out")));
    assert_eq!(result[1]["_type"], "record");
}

#[test]
fn a_silent_worker_costs_its_time_and_its_late_answer_is_nobodys() {
    let world = World::new(&[("ZMQ_TIMEOUT", "5")]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    worker.set_beats(false);
    let client = Client::anonymous(&world.server);
    let begun = Instant::now();
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    assert_timed_out(&asked.join().unwrap());
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_secs(5), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(20), "{elapsed:?}");
    let asked = call(&client, "x", json!({}));
    // The pool does not report what waits in it, and a call would end the worker's current request.
    // The pool's own tests prove without timing that it gives nothing to a busy worker.
    worker.expect_peace(Duration::from_millis(200));
    worker.answer(&request, &json!("late"));
    let request = worker.expect_request("x");
    worker.answer(&request, &json!("in time"));
    assert_eq!(asked.join().unwrap().result(), "in time");
}

#[test]
fn the_clients_own_limit_is_told_as_such() {
    let world = World::new(&[("RESPONSE_TIMEOUT", "1")]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let asked = call(&Client::anonymous(&world.server), "x", json!({}));
    let request = worker.expect_request("x");
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.code()), (503, 122));
    worker.answer(&request, &json!("late"));
}

#[test]
fn without_an_idle_worker_a_request_times_out_after_three_seconds() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let client = Client::anonymous(&world.server);
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    let begun = Instant::now();
    assert_timed_out(&call(&client, "x", json!({})).join().unwrap());
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_secs(3), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn a_delivery_that_no_worker_takes_is_no_attempt() {
    let world = World::new(&[("PLUGIN_MAX_ATTEMPTS", "1")]);
    let points = json!({"hook": [hook("note", "afterSave")]});
    let mut worker = world.first_worker("a", &points);
    let ada = Client::signed_up(&world.server, "ada");
    // Unlike its end, its goodbye is sure to have been noticed.
    worker.signal(SHUTDOWN);
    worker.expect_nothing();
    drop(worker);
    let saved = save(&ada, json!({"_id": "note/1"})).join().unwrap();
    assert_eq!(saved.result()[0]["message"], "Plugin time out");
    let mut worker = world.worker("b");
    let told = eventually("it is told", || {
        match worker.next(Duration::from_secs(1)) {
            Seen::Request(request) if request.body["kind"] == "hook" => return Some(request),
            Seen::Request(request) if request.body["name"] == "init" => {
                worker.answer(&request, &points);
            }
            Seen::Request(event) => worker.answer(&event, &json!(null)),
            _ => {}
        }
        None
    });
    assert_eq!(told.body["param"]["record"]["_id"], "note/1");
    worker.answer_record(&told, &json!({}));
}

#[test]
fn as_many_deliveries_are_under_way_as_there_are_workers() {
    let world = World::new(&[]);
    let mut point = hook("note", "afterSave");
    point["async"] = json!(true);
    let _first = world.first_worker("a", &json!({"hook": [point]}));
    let ada = Client::signed_up(&world.server, "ada");
    for n in 0..4 {
        ada.save(&format!("note/{n}"), json!({}));
    }
    let master = Client::master(&world.server);
    let are_running = |num: u64| {
        eventually("so many run", || {
            let consumer = master.call("delivery:list", json!({})).result()[0].clone();
            let counts = (consumer["open"].as_u64(), consumer["in_flight"].as_u64());
            (counts == (Some(4), Some(num))).then_some(())
        });
    };
    are_running(1);
    let _second = world.worker("b");
    are_running(2);
}

#[test]
fn garbage_costs_at_most_the_connection_that_sent_it() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let client = Client::anonymous(&world.server);
    // Frames without a meaning are dropped.
    let seven = |kind: &'static [u8], bounce: &'static [u8], id: &'static [u8]| {
        [b"a".as_slice(), b"", kind, bounce, id, b"", b"{}"]
    };
    worker.send(&[b"\x07"]);
    worker.send(&[b""]);
    worker.send(&[b"a", b"b"]);
    worker.send(&seven(b"\x09", b"0", b"id"));
    worker.send(&seven(b"\x04", b"-1", b"id"));
    worker.send(&seven(b"\x05", b"one", b"id"));
    worker.send(&seven(b"\x05", b"0", b"\xff\xfe"));
    worker.send(&seven(b"\x05", b"0", b"an id that nobody gave"));
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
    // Anything that is not ZMTP ends the connection: a frame of a petabyte, too many frames,
    // unknown flags.
    let broken: [&[u8]; 3] = [b"\x02\x00\x04\0\0\0\0\0\0", &[1, 0].repeat(20), b"\xf0\x00"];
    for (number, bytes) in broken.into_iter().enumerate() {
        let mut other = Worker::ready(&world.path, &format!("broken-{number}"));
        other.write(bytes);
        other.expect_end();
    }
    // Other protocols are not accepted either.
    for bytes in [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3), vec![0; 64]] {
        let mut stream = UnixStream::connect(&world.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        stream.write_all(&bytes).unwrap();
        let mut told = Vec::new();
        // A reset also counts as an end.
        let _ = stream.read_to_end(&mut told);
        assert!(told.len() <= 64);
    }
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    worker.answer(&request, &json!(2));
    assert_eq!(asked.join().unwrap().result(), 2);
}

#[test]
fn a_worker_that_comes_back_under_another_name_registers_anew() {
    let world = World::new(&[]);
    let worker = world.first_worker("before", &ops(&["x"]));
    let client = Client::anonymous(&world.server);
    worker.die();
    assert_timed_out(&client.call("x", json!({})));
    let mut worker = world.worker("after");
    worker.register(&ops(&["y"]));
    eventually("the new point is there", || {
        let asked = call(&client, "y", json!({}));
        while !asked.is_finished() {
            if let Seen::Request(request) = worker.next(Duration::from_millis(50)) {
                worker.answer(&request, &json!(1));
            }
        }
        (asked.join().unwrap().json()["result"] == 1).then_some(())
    });
    assert_eq!(client.call("x", json!({})).code(), 117);
}

#[test]
fn a_worker_that_says_goodbye_gets_nothing_more() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let mut other = world.worker("b");
    other.expect_beat();
    worker.signal(SHUTDOWN);
    eventually("the server has heard it", || {
        let output = world.server.output();
        output.contains("worker shuts down").then_some(())
    });
    other.expect_nothing();
    // A heartbeat does not make it a worker again: if it did, it would be the one heard last, and
    // would be asked.
    other.set_beats(false);
    worker.signal(HEARTBEAT);
    worker.expect_nothing();
    let client = Client::anonymous(&world.server);
    let asked = call(&client, "x", json!({}));
    let request = other.expect_request("x");
    other.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
    worker.expect_nothing();
}

#[test]
fn an_identity_in_use_is_not_given_away() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    Worker::ready(&world.path, "a").expect_end();
    let asked = call(&Client::anonymous(&world.server), "x", json!({}));
    let request = worker.expect_request("x");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn before_a_worker_comes_the_plugin_is_unavailable() {
    let world = World::new(&[]);
    let url = format!("{}/record/query", world.server.base_url);
    let body = json!({"record_type": "note"});
    let client = Client::master(&world.server);
    let answer = client.call("record:query", body.clone());
    assert_eq!((answer.status, answer.code()), (503, 118));
    // The key is checked first.
    let wrong = json!({"action": "record:query", "api_key": "wrong"}).to_string();
    let answer = send("POST", &url, &[], Some(wrong.into_bytes())).unwrap();
    assert_eq!((answer.status, answer.code()), (401, 103));
    let _worker = world.first_worker("a", &ops(&["x"]));
    let answer = client.call("record:query", body);
    assert_eq!(answer.status, 200);
}

#[test]
fn a_nested_save_fails_with_the_worker_that_it_waits_for() {
    let world = World::new(&[("ZMQ_TIMEOUT", "5")]);
    let mut points = ops(&["x"]);
    points["hook"] = json!([hook("note", "beforeSave")]);
    let mut worker = world.first_worker("a", &points);
    worker.set_beats(false);
    let ada = Client::signed_up(&world.server, "ada");
    let asked = call(&ada, "x", json!({}));
    let outer = worker.expect_request("x");
    let record = json!({"_id": "note/1"});
    worker.call(
        &outer,
        &json!({"action": "record:save", "records": [record]}),
    );
    let inner = worker.expect_request("note_beforeSave");
    // Both are too late; the worker hears of the save, and of nothing else.
    assert_timed_out(&asked.join().unwrap());
    let reply = worker.expect_reply();
    assert_eq!(reply.bounce, 1);
    worker.answer_record(&inner, &json!({}));
    worker.answer(&outer, &json!(1));
    worker.set_beats(true);
    assert!(ada.query("note", json!([])).is_empty());
    let saving = save(&ada, json!({"_id": "note/2"}));
    let hooked = worker.expect_request("note_beforeSave");
    worker.answer_record(&hooked, &json!({}));
    assert_eq!(saving.join().unwrap().result()[0]["_id"], "note/2");
}

#[test]
fn an_answer_that_is_too_large_is_an_error_at_once() {
    let world = World::new(&[("PLUGIN_MAX_MESSAGE", "100000")]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let client = Client::anonymous(&world.server);
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    // Not all of it has to arrive.
    worker.begin_answer(&request, 150_000);
    worker.write(&[b'x'; 50_000]);
    let error = asked.join().unwrap().json()["error"].clone();
    let too_large = "Failed to parse plugin response: more than 100000 bytes";
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(10000), &json!(too_large))
    );
    eventually("the log names plugin, worker and request", || {
        let output = world.server.output();
        let mut lines = output.lines();
        let told = ["WARN", "TEST", "worker", &request.id, "100000"];
        lines.find(|line| told.iter().all(|part| line.contains(part)))?;
        Some(())
    });
    // The worker stays, and is unharmed.
    worker.write(&[b'x'; 100_000]);
    let asked = call(&client, "x", json!({}));
    let request = worker.expect_request("x");
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn a_call_that_is_too_large_is_refused_at_once() {
    let world = World::new(&[("PLUGIN_MAX_MESSAGE", "100000")]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let asked = call(&Client::anonymous(&world.server), "x", json!({}));
    let outer = worker.expect_request("x");
    let record = json!({"_id": "note/1", "text": "x".repeat(150_000)});
    worker.call(
        &outer,
        &json!({"action": "record:save", "records": [record]}),
    );
    let reply = worker.expect_reply();
    assert_eq!((reply.bounce, &reply.id), (1, &outer.id));
    let error = &reply.body["error"];
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(107), &json!("a call of more than 100000 bytes"))
    );
    worker.answer(&outer, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
}

#[test]
fn a_delivery_whose_answer_is_too_large_has_failed() {
    let world = World::new(&[
        ("PLUGIN_MAX_MESSAGE", "100000"),
        ("PLUGIN_MAX_ATTEMPTS", "1"),
    ]);
    let mut point = hook("note", "afterSave");
    point["async"] = json!(true);
    let mut worker = world.first_worker("a", &json!({"hook": [point]}));
    Client::signed_up(&world.server, "ada").save("note/1", json!({}));
    let told = worker.expect_request("note_afterSave");
    worker.answer_record(&told, &json!({"text": "x".repeat(150_000)}));
    let master = Client::master(&world.server);
    let letters = eventually("it is a dead letter", || {
        let letters = master
            .call("delivery:dead_letters", json!({"consumer": "TEST"}))
            .result();
        letters
            .as_array()
            .is_some_and(|all| !all.is_empty())
            .then_some(letters)
    });
    assert!(
        letters.to_string().contains("more than 100000 bytes"),
        "{letters}"
    );
}

#[test]
fn far_too_much_ends_the_connection() {
    let world = World::new(&[("PLUGIN_MAX_MESSAGE", "100000")]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let asked = call(&Client::anonymous(&world.server), "x", json!({}));
    let request = worker.expect_request("x");
    worker.begin_answer(&request, 1 << 40);
    let error = asked.join().unwrap().json()["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("more than 100000 bytes"), "{error}");
    worker.expect_end();
}

#[test]
fn who_is_not_ready_sends_little() {
    let world = World::new(&[]);
    let _worker = world.first_worker("a", &ops(&["x"]));
    let mut stranger = Worker::connect(&world.path, "stranger");
    stranger.call_alone("A-1", &json!({"action": "schema:fetch"}));
    assert!(stranger.expect_reply().body["result"].is_object());
    let padding = "x".repeat(100_000);
    let payload = json!({"action": "schema:fetch", "padding": padding});
    stranger.call_alone("A-2", &payload);
    let reply = stranger.expect_reply();
    assert_eq!(
        (reply.id.as_str(), &reply.body["error"]["code"]),
        ("A-2", &json!(107))
    );
    // A ready worker may send that much.
    stranger.signal(READY);
    stranger.call_alone("A-3", &payload);
    let reply = stranger.expect_reply();
    assert_eq!(reply.id, "A-3");
    assert!(reply.body["result"].is_object(), "{}", reply.text);
}
