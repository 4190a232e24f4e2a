//! Sessions that outlive their transports.

use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_actors::plugin::PluginGate;
use skytrail_actors::plugin::messages::TransportEvent;
use tokio::time::Instant;

use crate::support::{Seen, Worker, World, assert_refused, op, payload, request};

fn resumable() -> Json {
    json!({"features": ["resume", "future"]})
}

async fn ready(world: &World) -> Worker {
    world.ready(resumable(), op("a")).await
}

#[actix::test]
async fn what_a_worker_had_survives_its_connection() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let (first, second) = (world.ask(request("a")), world.ask(request("a")));
    let mut sent = worker.expect("request").await;
    let asked = Instant::now();
    // The answer is lost with the connection, and so is the second request.
    worker.lose(json!({"type": "response", "id": sent["id"], "result": "first"}));
    worker.break_link().await;
    tokio::time::sleep(Duration::from_secs(14)).await;
    let third = world.ask(request("a"));
    let welcome = worker.come_back(&world, json!({})).await;
    assert_eq!(welcome["resumed"], true);
    assert!(welcome["received"].is_u64());
    assert_eq!(first.answer().await, Ok(json!("first")));
    for (asked, result) in [(second, "second"), (third, "third")] {
        sent = worker.expect("request").await;
        worker.answer(&sent, json!(result)).await;
        assert_eq!(asked.answer().await, Ok(json!(result)));
    }
    assert_eq!(asked.elapsed().as_secs(), 14);
    let state = world.broker.state().await.unwrap();
    assert_eq!((state.plugins[0].resumed, state.plugins[0].lost), (1, 0));
    assert_eq!(state.plugins[0].workers.len(), 1);
}

#[actix::test]
async fn what_arrived_before_the_break_is_not_taken_twice() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = ready(&world).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    let call = json!({"type": "call", "id": "c1", "payload": payload("me")});
    worker.send(call).await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    worker.break_link().await;
    // The call's reply arrives while the worker is away.
    let call = calls.recv().await.unwrap();
    let reply = skytrail_actors::plugin::ApiReply {
        status: 200,
        body: json!({"result": 7}),
    };
    call.reply.send(reply).unwrap();
    world.quiet().await;
    // The worker does not know what arrived, and sends everything again.
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
    let repeated = json!({"type": "call", "seq": 1, "id": "c1", "payload": payload("me")});
    worker.send_text(&repeated.to_string()).await;
    assert_eq!(worker.expect("reply").await["body"], json!({"result": 7}));
    world.quiet().await;
    assert!(calls.try_recv().is_err());
    assert!(worker.poll_next().await.is_none());
}

#[actix::test]
async fn a_worker_that_stays_away_is_lost_after_a_while() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let asked = world.ask(request("a"));
    worker.expect("request").await;
    let broken = Instant::now();
    worker.break_link().await;
    let (answer, _) = asked.timed().await;
    assert_refused(answer, 118, "worker-lost");
    assert_eq!(broken.elapsed().as_secs(), 15);
    let state = world.broker.state().await.unwrap();
    assert_eq!(state.plugins[0].lost, 1);
    assert!(state.plugins[0].workers.is_empty());

    let welcome = worker.come_back(&world, json!({})).await;
    assert_eq!(welcome["resumed"], false);
    assert!(welcome.get("received").is_none());
    // It is a new session: registered anew, and nothing is known any more of what it owed.
    worker.register(op("a")).await;
    worker.expect_ready().await;
    worker.answer(&json!({"id": "r1"}), json!("late")).await;
    worker.expect("warning").await;
}

#[actix::test]
async fn deadlines_go_on_while_a_worker_is_away() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let mut hasty = request("a");
    hasty.timeout = Some(Duration::from_secs(3));
    let asked = world.ask(hasty);
    let sent = worker.expect("request").await;
    worker.break_link().await;
    let (answer, elapsed) = asked.timed().await;
    assert_refused(answer, 119, "deadline");
    assert_eq!(elapsed.as_secs(), 3);
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
    assert_eq!(worker.expect("cancel").await["id"], sent["id"]);
}

#[actix::test]
async fn new_requests_go_elsewhere_or_wait() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let mut other = world.register(resumable(), op("a")).await;
    other.expect("ready").await;
    worker.break_link().await;
    for _ in 0..20 {
        let asked = world.ask(request("a"));
        let sent = other.expect("request").await;
        other.answer(&sent, json!(1)).await;
        asked.answer().await.unwrap();
    }
    // While no worker is connected, a request waits as it does for any worker.
    other.break_link().await;
    let (answer, elapsed) = world.ask(request("a")).timed().await;
    assert_refused(answer, 118, "no-worker");
    assert_eq!(elapsed.as_secs(), 5);
    let waiting = world.ask(request("a"));
    world.quiet().await;
    assert!(world.broker.state().await.unwrap().plugins[0].workers[0].is_suspended);
    worker.come_back(&world, json!({})).await;
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(2)).await;
    assert_eq!(waiting.answer().await, Ok(json!(2)));
}

#[actix::test]
async fn idempotent_requests_wait_for_the_worker_that_has_them() {
    let points = json!({"op": [{"name": "a", "idempotent": true}]});
    let world = World::new(&["P"]);
    let mut worker = world.ready(resumable(), points.clone()).await;
    let asked = world.ask(request("a"));
    worker.expect("request").await;
    worker.break_link().await;
    let mut other = world.register(json!({}), points).await;
    other.expect_ready().await;
    let broken = Instant::now();
    let sent = other.expect("request").await;
    assert_eq!(broken.elapsed().as_secs(), 15);
    other.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn a_session_can_be_taken_over_while_its_connection_looks_alive() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    let mut old = world.connect();
    std::mem::swap(&mut old, &mut worker);
    worker.take_claim_of(&old);
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
    assert_eq!(old.expect_close().await, 4007);
    // Nothing that still arrives over the old connection counts, not even its end.
    old.send(json!({"type": "response", "id": sent["id"], "result": "old"}))
        .await;
    old.transport(TransportEvent::Closed).await;
    world.quiet().await;
    assert!(!asked.is_answered());
    worker.answer(&sent, json!("new")).await;
    assert_eq!(asked.answer().await, Ok(json!("new")));
}

#[actix::test]
async fn only_who_knows_the_secret_gets_a_session() {
    let world = World::new(&["P", "Q"]);
    let mut worker = world.register(resumable(), op("a")).await;
    let claim = worker.claim();
    let stranger = |claim: Json| {
        let world = &world;
        async move {
            let mut stranger = world.connect();
            let mut hello = resumable();
            hello["resume"] = claim;
            stranger.hello(hello).await
        }
    };
    for (name, value) in [("secret", "guessed"), ("secret", ""), ("session", "s-1")] {
        let mut wrong = claim.clone();
        wrong[name] = json!(value);
        assert_eq!(stranger(wrong).await["resumed"], false);
    }
    let mut elsewhere = world.connect();
    let hello = json!({"plugin": "Q", "features": ["resume"], "resume": claim});
    assert_eq!(elsewhere.hello(hello).await["resumed"], false);
    // The session has not noticed.
    worker.send(json!({"type": "ping"})).await;
    worker.expect("pong").await;
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
}

#[actix::test]
async fn a_session_whose_gap_cannot_be_filled_is_over() {
    let world = World::with(&["P"], |settings| settings.max_unacknowledged = 3);
    let mut worker = ready(&world).await;
    let asked: Vec<_> = (0..5).map(|_| world.ask(request("a"))).collect();
    for _ in 0..5 {
        worker.expect("request").await;
    }
    // It claims to have received so little that what follows is no longer kept.
    worker.received -= 5;
    worker.break_link().await;
    let welcome = worker.come_back(&world, json!({})).await;
    assert_eq!(welcome["resumed"], false);
    for asked in asked {
        assert_refused(asked.answer().await, 118, "worker-lost");
    }

    let mut worker = {
        worker.register(op("a")).await;
        worker.expect_ready().await;
        worker
    };
    // Nor can it have received what was never sent.
    worker.break_link().await;
    worker.received += 1;
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], false);
}

#[actix::test]
async fn what_is_kept_is_bounded_by_size_and_freed_by_acks() {
    let world = World::with(&["P"], |settings| {
        settings.max_unacknowledged_bytes = 10_000
    });
    let mut worker = ready(&world).await;
    // Acknowledged as they arrive: far more than is kept in total.
    for _ in 0..20 {
        let mut large = request("a");
        large.param = json!("x".repeat(4000));
        let asked = world.ask(large);
        let sent = worker.expect("request").await;
        worker.answer(&sent, json!(1)).await;
        asked.answer().await.unwrap();
    }
    worker.break_link().await;
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
}

#[actix::test]
async fn a_worker_that_only_sends_is_told_what_arrived() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    for size in 0..250 {
        worker
            .send(json!({"type": "window", "size": size % 7 + 1}))
            .await;
        world.quiet().await;
        while worker.poll_next().await.is_some() {}
    }
    assert!(worker.num_unacknowledged() <= 100);
}

#[actix::test]
async fn sessions_that_ended_badly_are_over_at_once() {
    let misdeeds = [
        (4002, TransportEvent::Binary),
        (1009, TransportEvent::TooLarge),
    ];
    for (code, misdeed) in misdeeds {
        let world = World::new(&["P"]);
        let mut worker = ready(&world).await;
        let asked = world.ask(request("a"));
        worker.expect("request").await;
        worker.transport(misdeed).await;
        assert_eq!(worker.expect_close().await, code);
        let (answer, elapsed) = asked.timed().await;
        assert_refused(answer, 118, "worker-lost");
        assert_eq!(elapsed, Duration::ZERO);
        assert_eq!(worker.come_back(&world, json!({})).await["resumed"], false);
    }
}

#[actix::test]
async fn a_worker_that_says_goodbye_is_not_waited_for() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let asked = world.ask(request("a"));
    worker.expect("request").await;
    worker.say_goodbye().await;
    let (answer, elapsed) = asked.timed().await;
    assert_refused(answer, 118, "worker-lost");
    assert_eq!(elapsed, Duration::ZERO);
}

#[actix::test]
async fn who_cannot_come_back_is_lost_at_once() {
    let world = World::with(&["P"], |settings| settings.resume = Duration::ZERO);
    let mut worker = world.connect();
    let welcome = worker.hello(resumable()).await;
    assert_eq!(
        (&welcome["features"], &welcome["resume_ms"]),
        (&json!([]), &json!(0))
    );
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    let welcome = worker.hello(resumable()).await;
    assert_eq!(
        (&welcome["features"], &welcome["resume_ms"]),
        (&json!(["resume"]), &json!(15_000))
    );
    let mut modest = world.connect();
    assert_eq!(modest.hello(json!({})).await["features"], json!([]));
    world.quiet().await;
    modest.die().await;
    worker.break_link().await;
    world.quiet().await;
    let state = world.broker.state().await.unwrap();
    assert_eq!(
        (state.plugins[0].workers.len(), state.plugins[0].lost),
        (1, 1)
    );
}

#[actix::test]
async fn a_silent_worker_may_come_back_to_its_session() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let mut patient = request("a");
    patient.timeout = Some(Duration::from_secs(30));
    let start = Instant::now();
    while worker.next_raw().await != Seen::Close(4006, "nothing received".into()) {}
    let elapsed = start.elapsed().as_secs();
    assert!((30..=33).contains(&elapsed), "{elapsed}");
    let asked = world.ask(patient);
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn a_session_is_resumed_again_and_again_in_whatever_state_it_was() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.hello(resumable()).await;
    for event in ["before-config", "init"] {
        let sent = worker.expect_event(event).await;
        worker.break_link().await;
        assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
        let answer = if event == "init" {
            op("a")
        } else {
            json!(null)
        };
        worker.answer(&sent, answer).await;
    }
    assert_eq!(worker.expect("registered").await["ok"], true);
    worker.serve_event("after-config").await;
    worker.break_link().await;
    world.quiet().await;
    assert_eq!(
        worker.come_back(&world, json!({"window": 1})).await["resumed"],
        true
    );
    worker.serve_event("before-plugins-ready").await;
    worker.expect("ready").await;
    worker.serve_event("after-plugins-ready").await;
    worker.serve_event("server-ready").await;
    // The window is what the worker says now.
    let asked = [world.ask(request("a")), world.ask(request("a"))];
    let sent = worker.expect("request").await;
    world.quiet().await;
    assert_eq!(world.broker.state().await.unwrap().plugins[0].queued, 1);
    // Draining goes on, too.
    worker.send(json!({"type": "drain"})).await;
    worker.break_link().await;
    assert_eq!(worker.come_back(&world, json!({})).await["resumed"], true);
    worker.answer(&sent, json!(1)).await;
    worker.expect("drained").await;
    let [done, waiting] = asked;
    assert_eq!(done.answer().await, Ok(json!(1)));
    assert_refused(waiting.answer().await, 118, "no-worker");
}

#[actix::test]
async fn a_server_that_leaves_waits_for_nobody_who_cannot_come() {
    let world = World::new(&["P"]);
    let mut worker = ready(&world).await;
    let asked = world.ask(request("a"));
    worker.expect("request").await;
    worker.break_link().await;
    world.quiet().await;
    let start = Instant::now();
    world.broker.leave(Duration::MAX).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_refused(asked.answer().await, 118, "worker-lost");
}

#[actix::test]
async fn a_worker_started_anew_with_other_points_replaces_the_one_that_was_lost() {
    let world = World::new(&["P"]);
    let mut old = ready(&world).await;
    let asked = world.ask(request("a"));
    old.expect("request").await;
    old.break_link().await;
    let mut new = world.register(resumable(), op("b")).await;
    new.expect_ready().await;
    let (answer, elapsed) = asked.timed().await;
    assert_refused(answer, 118, "worker-lost");
    assert_eq!(elapsed, Duration::ZERO);
    assert!(world.broker.points().lambda("b").is_some());
    assert_eq!(old.come_back(&world, json!({})).await["resumed"], false);
}
