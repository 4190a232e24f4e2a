//! Named consumers of the log: at least once, in order per stream, shared, retried, parked,
//! rewound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::worker::{TIMEOUT, Worker, await_end, create, expect_held, position, state, stream};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};
use crate::support::socket::Socket;

#[test]
fn what_is_acknowledged_is_over_and_what_is_not_comes_again() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/before", json!({}));
    let made = create(&master, "search", &json!({}));
    assert_eq!(made["name"], "log/search");
    assert_eq!(
        (&made["kind"], &made["state"]),
        (&json!("log"), &json!("away"))
    );
    for number in 0..5 {
        master.save(&format!("note/{number}"), json!({"number": number}));
        master.save(&format!("task/{number}"), json!({"number": number}));
    }
    let mut worker = Worker::connect(server.address(), "search", 3);
    let first = worker.event();
    assert_eq!(stream(&first), "record/note/0");
    assert_eq!(
        (&first["attempt"], &first["event"]["kind"]),
        (&json!(1), &json!("record.created"))
    );
    worker.ack(&first);
    // At most the window at once: the fourth arrives for the first time below.
    let held: Vec<Json> = (0..3).map(|_| worker.event()).collect();
    expect_held(&master, "search", (4, 3));
    drop(worker);
    let mut worker = Worker::connect(server.address(), "search", 3);
    let mut again = Vec::new();
    while again.len() < 4 {
        let event = worker.event();
        worker.ack(&event);
        again.push(event);
    }
    let positions = |events: &[Json]| events.iter().map(position).collect::<BTreeSet<_>>();
    assert!(positions(&again).is_superset(&positions(&held)));
    assert_eq!(again.iter().filter(|it| it["attempt"] == 2).count(), 3);
    await_end(&master, "search");
    // Nothing is repeated: the next event is the new one, after everything else of its stream.
    master.save("note/0", json!({"number": 9}));
    let next = worker.event();
    assert_eq!(
        (stream(&next), &next["event"]["version"]),
        ("record/note/0".to_owned(), &json!(2))
    );
}

#[test]
fn where_it_begins_and_what_it_is_told_is_said_once() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({}));
    let first = master
        .call("log:read", json!({"stream": "record/note/1"}))
        .result();
    let time = first[0]["time"].clone();
    create(&master, "all", &json!({"from": 1}));
    create(&master, "timed", &json!({"time": time}));
    create(&master, "now", &json!({}));
    let streams = |name: &str| -> Vec<String> {
        let mut worker = Worker::connect(server.address(), name, 8);
        let all = worker.take_all(&master, name);
        all.iter().map(stream).collect()
    };
    assert_eq!(streams("all"), ["record/note/1"]);
    assert_eq!(streams("timed"), ["record/note/1"]);
    assert!(streams("now").is_empty());
    // The same declaration is accepted again; a different one is refused.
    assert_eq!(
        create(&master, "now", &json!({"from": 1}))["name"],
        "log/now"
    );
    let call = |action: &str, body: Json| master.call(action, body).code();
    let other = json!({"consumer": "now", "record_types": ["task"]});
    assert_eq!(call("log:consumer:create", other), 109);
    for (name, more) in [
        ("", json!({})),
        ("a/b", json!({})),
        ("x", json!({"from": 1_000_000})),
        ("x", json!({"max_attempts": 0})),
        ("x", json!({"timeout_ms": 1})),
        ("x", json!({"kinds": ["nothing"]})),
    ] {
        let mut body = more;
        body["consumer"] = json!(name);
        assert_eq!(call("log:consumer:create", body.clone()), 108, "{body}");
    }
    assert_eq!(call("log:consumer:delete", json!({"consumer": "x"})), 110);
    // When it is deleted, its workers are disconnected, and it no longer exists.
    let mut worker = Worker::connect(server.address(), "now", 1);
    let deleted = master.call("log:consumer:delete", json!({"consumer": "now"}));
    assert_eq!(deleted.result()["status"], "OK");
    assert_eq!(worker.hear(TIMEOUT).unwrap()["error"]["code"], 110);
    assert_eq!(state(&master, "now"), Json::Null);
}

#[test]
fn a_user_is_named_by_what_he_signs_in_with() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({}));
    master.save("note/2", json!({}));
    let named = create(&master, "hers", &json!({"from": 1, "user": "ada"}));
    let by_id = json!({"from": 1, "user": ada.user});
    // With the id, the same is asked for.
    assert_eq!(create(&master, "hers", &by_id)["name"], named["name"]);
    let mut worker = Worker::connect(server.address(), "hers", 8);
    let all = worker.take_all(&master, "hers");
    let streams: Vec<_> = all.iter().map(stream).collect();
    assert_eq!(streams, ["record/note/1"]);
    // What was created before somebody had the name can be created again.
    let early = json!({"from": 1, "user": "eve"});
    create(&master, "early", &early);
    Client::signed_up(&server, "eve");
    create(&master, "early", &early);
}

#[test]
fn streams_keep_their_order_whoever_works() {
    const STREAMS: usize = 6;
    const EVENTS: usize = 120;
    let server = TestServer::start();
    let master = Client::master(&server);
    create(&master, "shared", &json!({}));
    for number in 0..EVENTS {
        master.save(
            &format!("note/{}", number % STREAMS),
            json!({"number": number}),
        );
    }
    let mut workers: Vec<Worker> = (0..3)
        .map(|_| Worker::connect(server.address(), "shared", 2))
        .collect();
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut in_hand: BTreeSet<String> = BTreeSet::new();
    let mut counts = [0_usize; 3];
    let mut most_at_once = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    while seen.values().map(Vec::len).sum::<usize>() < EVENTS {
        assert!(Instant::now() < deadline, "{seen:?}");
        let mut round = Vec::new();
        for (index, worker) in workers.iter_mut().enumerate() {
            // In the first round every window is filled.
            let mut num_sure = if seen.is_empty() { 2_u32 } else { 0 };
            loop {
                let patience = match num_sure {
                    0 => Duration::from_millis(20),
                    _ => TIMEOUT,
                };
                let Some(event) = worker.hear(patience) else {
                    break;
                };
                num_sure = num_sure.saturating_sub(1);
                // Never two events of a stream at once, whichever workers have them.
                assert!(in_hand.insert(stream(&event)), "{event}");
                round.push((index, event));
            }
        }
        most_at_once = most_at_once.max(in_hand.len());
        for (index, event) in round {
            in_hand.remove(&stream(&event));
            seen.entry(stream(&event))
                .or_default()
                .push(position(&event));
            counts[index] += 1;
            workers[index].ack(&event);
        }
    }
    assert!(
        seen.values().all(|positions| positions.is_sorted()),
        "{seen:?}"
    );
    assert_eq!(most_at_once, STREAMS);
    // Every worker gets a share.
    assert!(
        counts.iter().all(|count| *count >= EVENTS / 6),
        "{counts:?}"
    );
}

#[test]
fn a_failing_event_holds_back_only_its_stream_and_is_parked_in_the_end() {
    let server = TestServer::start();
    let master = Client::master(&server);
    create(&master, "picky", &json!({"max_attempts": 3}));
    master.save("note/bad", json!({"version": 1}));
    master.save("note/bad", json!({"version": 2}));
    master.save("note/good", json!({}));
    let mut worker = Worker::connect(server.address(), "picky", 4);
    let mut order = Vec::new();
    let mut attempts = Vec::new();
    while order.len() < 3 {
        let event = worker.event();
        let is_first_of_bad = stream(&event) == "record/note/bad" && event["event"]["version"] == 1;
        if is_first_of_bad {
            attempts.push(Instant::now());
            let more = json!({"after_ms": 200, "message": "no room"});
            worker.say("retry", position(&event), &more);
        } else {
            order.push(stream(&event));
            worker.ack(&event);
        }
        if attempts.len() == 3 && order.len() == 1 {
            // After the first was given up, the next event of its stream arrives.
            let next = worker.event();
            assert_eq!(next["event"]["version"], 2);
            worker.say("park", position(&next), &json!({"message": "never"}));
            break;
        }
    }
    assert_eq!(order, ["record/note/good"]);
    let pauses = attempts.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(
        pauses
            .clone()
            .all(|pause| pause >= Duration::from_millis(200)),
        "{attempts:?}"
    );
    let letters = eventually("both are dead letters", || {
        let listed = master.call("delivery:dead_letters", json!({"consumer": "log/picky"}));
        let listed = listed.result();
        (listed.as_array().unwrap().len() == 2).then_some(listed)
    });
    assert_eq!(letters[0]["record"], "record/note/bad");
    assert_eq!(
        (&letters[0]["attempts"], &letters[1]["attempts"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(letters[0]["error"]["message"], "no room");
    assert_eq!(letters[1]["error"]["message"], "never");
    // The operators' tools work for it as for a plugin.
    let id = letters[1]["id"].clone();
    let resend = json!({"consumer": "log/picky", "ids": [id]});
    assert_eq!(
        master.call("delivery:resend", resend).result()["dead_letters"],
        1
    );
    let event = worker.event();
    assert_eq!(event["event"]["version"], 2);
    worker.ack(&event);
    let drop = json!({"consumer": "log/picky", "all": true});
    assert_eq!(
        master.call("delivery:drop", drop).result()["dead_letters"],
        0
    );
    let shown = server.skytrail(&[
        "--host",
        server.address(),
        "--set",
        &format!("MASTER_KEY={MASTER_KEY}"),
        "delivery",
        "list",
    ]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("log/picky"), "{shown}");
}

#[test]
fn time_limits_pauses_and_people() {
    let server = TestServer::start();
    let master = Client::master(&server);
    create(&master, "slow", &json!({"timeout_ms": 3500}));
    master.save("note/1", json!({}));
    let mut worker = Worker::connect(server.address(), "slow", 2);
    let first = worker.event();
    // An extension restarts the time limit. The waiting is what is tested: longer than the limit in
    // total, and far shorter each time.
    for _ in 0..8 {
        assert!(worker.hear(Duration::from_millis(500)).is_none());
        worker.say("extend", position(&first), &json!({}));
    }
    worker.ack(&first);
    await_end(&master, "slow");
    assert_eq!(state(&master, "slow")["failed"], 0);
    // An event without an answer is retried.
    create(&master, "hasty", &json!({"timeout_ms": 400}));
    let mut hasty = Worker::connect(server.address(), "hasty", 2);
    master.save("note/1", json!({"more": 1}));
    for attempt in 1..=2 {
        assert_eq!(hasty.event()["attempt"], attempt);
    }
    drop(hasty);
    let second = worker.event();
    assert_eq!(second["attempt"], 1);
    worker.ack(&second);
    await_end(&master, "slow");
    let tell = |action: &str, more: Json| {
        let mut body = more;
        body["consumer"] = json!("log/slow");
        master.call(action, body).result()
    };
    assert_eq!(tell("delivery:pause", json!({}))["state"], "paused");
    master.save("note/2", json!({}));
    expect_held(&master, "slow", (1, 0));
    tell("delivery:resume", json!({}));
    let event = worker.event();
    assert_eq!(
        (stream(&event), &event["attempt"]),
        ("record/note/2".to_owned(), &json!(1))
    );
    worker.ack(&event);
    await_end(&master, "slow");
    // All events again, in order within each stream.
    tell("delivery:rewind", json!({"position": 0}));
    let all = worker.take_all(&master, "slow");
    let of_first: Vec<u64> = all
        .iter()
        .filter(|it| stream(it) == "record/note/1")
        .map(position)
        .collect();
    assert_eq!((all.len(), of_first.len()), (3, 2));
    assert!(of_first.is_sorted());
    let (from, until) = (position(&all[0]), position(&all[0]));
    tell("delivery:redeliver", json!({"from": from, "until": until}));
    let event = worker.event();
    assert_eq!(position(&event), from);
    worker.ack(&event);
    let forget = json!({"consumer": "log/slow"});
    assert_eq!(master.call("delivery:forget", forget.clone()).code(), 108);
    drop(worker);
    eventually("it is forgotten once nobody works for it", || {
        (master.call("delivery:forget", forget.clone()).status == 200).then_some(())
    });
    assert_eq!(state(&master, "slow"), Json::Null);
}

#[test]
fn whoever_breaks_the_rules_hears_of_it() {
    let server = TestServer::start();
    let master = Client::master(&server);
    create(&master, "strict", &json!({}));
    let key = [("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned())];
    let cases = [
        (json!({"type": "consume"}), 108),
        (json!({"type": "consume", "consumer": "none"}), 110),
        (
            json!({"type": "consume", "consumer": "strict", "window": "x"}),
            108,
        ),
    ];
    for (message, code) in cases {
        let mut socket = Worker(Socket::open(server.address(), "/log", &key).unwrap());
        socket.0.send(&message.to_string());
        assert_eq!(
            socket.hear(TIMEOUT).unwrap()["error"]["code"],
            code,
            "{message}"
        );
    }
    for message in ["x", "[]", r#"{"type":"ack"}"#, r#"{"type":"follow"}"#] {
        let mut worker = Worker::connect(server.address(), "strict", 1);
        worker.0.send(message);
        assert_eq!(worker.hear(TIMEOUT).unwrap()["type"], "error", "{message}");
    }
    // Late answers are ignored.
    let mut worker = Worker::connect(server.address(), "strict", 1);
    worker.say("ack", 1_000_000, &json!({}));
    master.save("note/1", json!({}));
    let event = worker.event();
    worker.ack(&event);
    let client = [("X-Skygear-API-Key".to_owned(), API_KEY.to_owned())];
    assert_eq!(
        Socket::open(server.address(), "/log", &client)
            .err()
            .unwrap()
            .0,
        401
    );
}
