//! Workers that misbehave: the rows of the protocol's failure table.

use std::time::Duration;

use serde_json::json;
use skytrail_actors::plugin::messages::TransportEvent;
use tokio::time::Instant;

use crate::support::{Seen, Worker, World, assert_refused, op, request};

#[actix::test]
async fn a_worker_that_dies_loses_its_requests_at_once() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let asked = world.ask(request("a"));
    worker.expect("request").await;
    worker.die().await;
    let (answer, elapsed) = asked.timed().await;
    assert_eq!(answer.as_ref().unwrap_err().status(), 503);
    assert_refused(answer, 118, "worker-lost");
    assert_eq!(elapsed, Duration::ZERO);
    assert_eq!(world.broker.state().await.unwrap().plugins[0].lost, 1);
}

#[actix::test]
async fn a_plugin_is_missing_once_requests_no_longer_wait_for_its_worker() {
    let world = World::new(&["P"]);
    let missing = async || {
        let plugin = world.broker.state().await.unwrap().plugins.remove(0);
        (plugin.is_missing, plugin.connected)
    };
    let worker = world.ready(json!({}), op("a")).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(missing().await, (false, 1));
    worker.die().await;
    // A restart takes a moment, during which requests wait.
    tokio::time::sleep(Duration::from_millis(4900)).await;
    assert_eq!(missing().await, (false, 0));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(missing().await, (true, 0));
    let mut other = world.register(json!({}), op("a")).await;
    other.expect_ready().await;
    assert_eq!(missing().await, (false, 1));
}

#[actix::test]
async fn only_idempotent_requests_go_to_another_worker() {
    let points = json!({"op": [{"name": "once"}, {"name": "again", "idempotent": true}]});
    let world = World::new(&["P"]);
    let mut first = world.ready(json!({}), points.clone()).await;
    let once = world.ask(request("once"));
    first.expect("request").await;
    let again = world.ask(request("again"));
    first.expect("request").await;
    first.die().await;
    let mut second = world.register(json!({}), points).await;
    second.expect_ready().await;
    assert_refused(once.answer().await, 118, "worker-lost");
    let sent = second.expect("request").await;
    assert_eq!(sent["param"], json!({"action": "again"}));
    second.answer(&sent, json!("done")).await;
    assert_eq!(again.answer().await, Ok(json!("done")));
}

#[actix::test]
async fn what_was_still_queued_goes_to_another_worker() {
    let world = World::new(&["P"]);
    let mut first = world.ready(json!({"window": 1}), op("a")).await;
    let lost = world.ask(request("a"));
    first.expect("request").await;
    let queued = world.ask(request("a"));
    world.quiet().await;
    first.die().await;
    let mut second = world.register(json!({}), op("a")).await;
    second.expect_ready().await;
    let sent = second.expect("request").await;
    second.answer(&sent, json!(1)).await;
    assert_eq!(queued.answer().await, Ok(json!(1)));
    assert_refused(lost.answer().await, 118, "worker-lost");
}

#[actix::test]
async fn the_first_of_two_answers_counts() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!("first")).await;
    worker.answer(&sent, json!("second")).await;
    assert_eq!(asked.answer().await, Ok(json!("first")));
    worker.expect("warning").await;
    worker
        .answer(&json!({"id": "r999"}), json!("never asked"))
        .await;
    worker.expect("warning").await;
    worker.answer(&json!({"id": "nonsense"}), json!(0)).await;
    worker.expect("warning").await;
}

#[actix::test]
async fn too_many_odd_messages_end_the_connection() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    for _ in 0..100 {
        worker.answer(&json!({"id": "r999"}), json!(0)).await;
        worker.expect("warning").await;
    }
    worker.answer(&json!({"id": "r999"}), json!(0)).await;
    assert_eq!(worker.expect_close().await, 4002);
}

#[actix::test]
async fn a_late_answer_is_dropped_and_frees_the_slot() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.expect("cancel").await;
    assert_refused(asked.answer().await, 119, "deadline");
    let next = world.ask(request("a"));
    world.quiet().await;
    assert_eq!(world.broker.state().await.unwrap().plugins[0].queued, 1);
    worker.answer(&sent, json!("late")).await;
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!("in time")).await;
    assert_eq!(next.answer().await, Ok(json!("in time")));
}

#[actix::test]
async fn neither_or_both_of_result_and_error_is_an_error() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    for malformed in [json!({}), json!({"result": 1, "error": {"code": 1}})] {
        let asked = world.ask(request("a"));
        let sent = worker.expect("request").await;
        let mut response = malformed;
        response["type"] = json!("response");
        response["id"] = sent["id"].clone();
        worker.send(response).await;
        assert_eq!(asked.answer().await.unwrap_err().code.number(), 10000);
        worker.expect("warning").await;
    }
}

#[actix::test]
async fn a_code_that_is_a_string_does_not_count_and_is_named() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    for (code, counts) in [(json!("108"), 10000), (json!(108.0), 108)] {
        let asked = world.ask(request("a"));
        let sent = worker.expect("request").await;
        let error = json!({"code": code, "message": "no"});
        worker
            .send(json!({"type": "response", "id": sent["id"], "error": error}))
            .await;
        assert_eq!(asked.answer().await.unwrap_err().code.number(), counts);
        if counts == 10000 {
            let message = "the code of the error for \"a\" should be a whole number, not \"108\"";
            assert_eq!(worker.expect("warning").await["message"], message);
        }
    }
}

#[actix::test]
async fn wrong_numbers_are_named() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let before = worker.num_sent();
    let text = |seq: u64| json!({"type": "window", "size": 1, "seq": seq}).to_string();
    worker.send_text(&text(before)).await;
    let warning = worker.expect("warning").await;
    let message = format!("seq {before} was received already");
    assert_eq!(warning["message"], message);
    worker.send_text(&text(0)).await;
    let Seen::Close(code, reason) = worker.next().await else {
        panic!("expected a close");
    };
    assert_eq!((code, reason.as_str()), (4002, "seq starts at 1"));
}

#[actix::test]
async fn garbage_ends_the_connection_and_its_requests() {
    type Misdeed = fn() -> TransportEvent;
    fn text(text: &str) -> TransportEvent {
        TransportEvent::Frame(skytrail_actors::plugin::protocol::parse(text))
    }
    let misdeeds: [(u16, Misdeed); 8] = [
        (4002, || text("not json")),
        (4002, || text("[]")),
        (4002, || text("{\"id\":\"r1\"}")),
        (4002, || text("{\"type\":\"window\",\"size\":1,\"seq\":99}")),
        (4002, || text("{\"type\":\"window\",\"size\":1}")),
        (4002, || text("{\"type\":\"hello\",\"plugin\":\"P\"}")),
        (4002, || TransportEvent::Binary),
        (1009, || TransportEvent::TooLarge),
    ];
    for (code, misdeed) in misdeeds {
        let world = World::new(&["P"]);
        let mut worker = world.ready(json!({}), op("a")).await;
        let asked = world.ask(request("a"));
        worker.expect("request").await;
        worker.transport(misdeed()).await;
        assert_eq!(worker.expect_close().await, code);
        assert_refused(asked.answer().await, 118, "worker-lost");
    }
}

#[actix::test]
async fn anything_but_hello_at_first_ends_the_connection() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.send(json!({"type": "window", "size": 1})).await;
    assert_eq!(worker.expect_close().await, 4002);
}

#[actix::test]
async fn a_number_seen_before_is_skipped() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    let repeated = json!({"type": "response", "seq": 1, "id": sent["id"], "result": "old"});
    worker.send_text(&repeated.to_string()).await;
    world.quiet().await;
    assert!(!asked.is_answered());
    worker.answer(&sent, json!("new")).await;
    assert_eq!(asked.answer().await, Ok(json!("new")));
}

#[actix::test]
async fn an_unknown_type_is_ignored_with_a_warning() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    worker.send(json!({"type": "news"})).await;
    worker.expect("warning").await;
    worker.send_text("{\"type\":\"gossip\"}").await;
    worker.expect("warning").await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn a_worker_that_hangs_in_all_its_slots_is_closed() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 2}), op("a")).await;
    let start = Instant::now();
    let asked = [world.ask(request("a")), world.ask(request("a"))];
    for _ in 0..2 {
        worker.expect("request").await;
    }
    for _ in 0..2 {
        worker.expect("cancel").await;
    }
    for asked in asked {
        assert_refused(asked.answer().await, 119, "deadline");
    }
    assert_eq!(worker.expect_close().await, 4008);
    let elapsed = start.elapsed().as_secs();
    assert!((60..=63).contains(&elapsed), "{elapsed}");
}

#[actix::test]
async fn one_stuck_slot_is_no_reason_to_close() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 2}), op("a")).await;
    let stuck = world.ask(request("a"));
    worker.expect("request").await;
    worker.expect("cancel").await;
    stuck.answer().await.unwrap_err();
    for _ in 0..20 {
        let asked = world.ask(request("a"));
        let sent = worker.expect("request").await;
        wait(&mut worker, Duration::from_secs(10)).await;
        worker.answer(&sent, json!(1)).await;
        asked.answer().await.unwrap();
    }
}

/// Lets time pass, answering pings.
async fn wait(worker: &mut Worker, duration: Duration) {
    let end = Instant::now() + duration;
    if let Ok(seen) = tokio::time::timeout_at(end, worker.next()).await {
        panic!("did not expect {seen:?}");
    }
}

#[actix::test]
async fn a_silent_worker_is_pinged_and_closed() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let start = Instant::now();
    let asked = world.ask(request("a"));
    let mut num_pings = 0;
    loop {
        match worker.next_raw().await {
            Seen::Message(message) if message["type"] == "ping" => num_pings += 1,
            Seen::Message(_) => {}
            Seen::Close(code, _) => {
                assert_eq!(code, 4006);
                break;
            }
            Seen::Nothing => panic!("no goodbye"),
        }
    }
    let elapsed = start.elapsed().as_secs();
    assert!((30..=33).contains(&elapsed), "{elapsed}");
    assert!(num_pings >= 2, "{num_pings}");
    let (answer, _) = asked.timed().await;
    assert!(matches!(answer.unwrap_err().code.number(), 118 | 119));
}

#[actix::test]
async fn a_worker_that_only_answers_pings_is_alive_however_much_it_is_sent() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    for _ in 0..15 {
        // Something is sent more often than pings are due.
        let asked = world.ask(request("a"));
        let mut left = Duration::from_secs(5);
        while let Ok(seen) = tokio::time::timeout(left, worker.next()).await {
            assert!(matches!(seen, Seen::Message(_)), "{seen:?}");
            left = Duration::from_secs(5);
        }
        asked.hang_up();
    }
}

#[actix::test]
async fn pings_are_answered() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    worker.send(json!({"type": "ping", "ack": 1})).await;
    worker.expect("pong").await;
}

#[actix::test]
async fn a_worker_that_does_not_read_is_closed_and_others_serve() {
    let world = World::with(&["P", "Q"], |settings| settings.send_buffer = 10_000);
    let p = world.register(json!({"window": 1024}), op("a"));
    let q = world.register(json!({"plugin": "Q"}), op("b"));
    let (mut deaf, mut q) = (p.await, q.await);
    deaf.serve_event("before-plugins-ready").await;
    q.serve_event("before-plugins-ready").await;
    deaf.expect("ready").await;
    q.expect("ready").await;
    for event in ["after-plugins-ready", "server-ready"] {
        deaf.serve_event(event).await;
        q.serve_event(event).await;
    }
    let large = || {
        let mut large = request("a");
        large.param = json!("x".repeat(4000));
        large
    };
    let asked: Vec<_> = (0..20).map(|_| world.ask(large())).collect();
    world.quiet().await;
    // What the worker does not read waits for it or another worker, and not in its buffer.
    let state = world.broker.state().await.unwrap();
    assert!(state.in_flight <= 4, "{}", state.in_flight);
    assert!(state.plugins[0].workers[0].is_choked);

    let mut other = request("b");
    other.plugin = "Q".into();
    let quick = world.ask(other);
    let sent = q.expect("request").await;
    q.answer(&sent, json!(1)).await;
    assert_eq!(quick.timed().await, (Ok(json!(1)), Duration::ZERO));

    // It sends, but it does not read.
    let start = Instant::now();
    while deaf.address.connected() && start.elapsed() < Duration::from_secs(60) {
        deaf.send(json!({"type": "ping"})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let elapsed = start.elapsed().as_secs();
    assert!((30..=34).contains(&elapsed), "{elapsed}");
    for asked in asked {
        let error = asked.answer().await.unwrap_err();
        assert!(matches!(error.code.number(), 118 | 119), "{error}");
    }
}

#[actix::test]
async fn a_message_of_any_size_that_is_allowed_can_be_sent() {
    let world = World::with(&["P"], |settings| settings.send_buffer = 1000);
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut large = request("a");
    large.param = json!("x".repeat(100_000));
    let asked = world.ask(large);
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn a_choked_worker_gets_requests_again_when_it_reads() {
    let world = World::with(&["P"], |settings| settings.send_buffer = 10_000);
    let mut worker = world.ready(json!({"window": 1024}), op("a")).await;
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let mut large = request("a");
            large.param = json!("x".repeat(4000));
            world.ask(large)
        })
        .collect();
    world.quiet().await;
    for _ in 0..20 {
        let sent = worker.expect("request").await;
        worker.answer(&sent, json!(1)).await;
    }
    for asked in asked {
        assert_eq!(asked.answer().await, Ok(json!(1)));
    }
}
