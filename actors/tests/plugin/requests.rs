//! Requests: shape, window, queue, deadlines, workers' shares.

use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_actors::plugin::{CallContext, PluginGate, PluginRequest};
use skytrail_schema::caller::KeyKind;
use tokio::time::Instant;

use crate::support::{Asked, Seen, Worker, World, assert_refused, op, request};

#[actix::test]
async fn a_request_carries_v1s_envelope() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("hello:world")).await;
    let mut asking = request("hello:world");
    asking.context = Some(CallContext {
        user_id: Some("u1".into()),
        access_key_type: Some(KeyKind::Client),
        request_id: None,
        request_tag: "plugin",
        sandbox: false,
        may_be_of_plugin: false,
    });
    let asked = world.ask(asking);
    let sent = worker.expect("request").await;
    assert_eq!(sent["timeout_ms"], 30_000);
    assert_eq!(
        (&sent["kind"], &sent["name"]),
        (&json!("op"), &json!("hello:world"))
    );
    assert_eq!(sent["param"], json!({"action": "hello:world"}));
    assert_eq!(
        sent["context"],
        json!({"user_id": "u1", "access_key_type": "client", "request_tag": "plugin"})
    );
    assert!(sent.get("parent").is_none());
    worker.answer(&sent, json!({"message": "hello bob"})).await;
    assert_eq!(asked.answer().await, Ok(json!({"message": "hello bob"})));
}

#[actix::test]
async fn a_plugins_error_is_the_clients() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    let error = json!({"code": 108, "message": "no", "info": {"arguments": ["x"], "trace": "t"}});
    worker.refuse(&sent, error).await;
    let error = asked.answer().await.unwrap_err();
    assert_eq!(
        error.to_wire(),
        json!({"name": "InvalidArgument", "code": 108, "message": "no", "info": {"arguments": ["x"]}})
    );
}

#[actix::test]
async fn no_more_than_the_window_is_in_flight() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 2}), op("a")).await;
    let asked: Vec<Asked> = (0..5).map(|_| world.ask(request("a"))).collect();
    let mut sent = vec![
        worker.expect("request").await,
        worker.expect("request").await,
    ];
    for round in 0..3 {
        world.quiet().await;
        let state = world.broker.state().await.unwrap();
        assert_eq!((state.in_flight, state.plugins[0].queued), (2, 3 - round));
        worker.answer(&sent.remove(0), json!(round)).await;
        sent.push(worker.expect("request").await);
    }
    for request in sent {
        worker.answer(&request, json!("end")).await;
    }
    for asked in asked {
        assert!(asked.answer().await.is_ok());
    }
}

#[actix::test]
async fn a_window_can_be_closed_and_opened() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    worker.send(json!({"type": "window", "size": 0})).await;
    world.quiet().await;
    let asked = world.ask(request("a"));
    world.quiet().await;
    assert_eq!(world.broker.state().await.unwrap().plugins[0].queued, 1);
    worker.send(json!({"type": "window", "size": 1})).await;
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn an_immodest_window_is_cut_with_a_warning() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.hello(json!({"window": 5000})).await;
    assert_eq!(
        worker.expect("warning").await["message"],
        "the window is now 1024"
    );
}

#[actix::test]
async fn a_full_queue_refuses_at_once() {
    let world = World::with(&["P"], |settings| settings.max_queue = 2);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let _running = world.ask(request("a"));
    worker.expect("request").await;
    let _waiting = [world.ask(request("a")), world.ask(request("a"))];
    world.quiet().await;
    let (answer, elapsed) = world.ask(request("a")).timed().await;
    assert_refused(answer, 118, "queue-full");
    assert_eq!(elapsed, Duration::ZERO);

    let world = World::with(&["P"], |settings| settings.max_queue_bytes = 10_000);
    let _worker = world.ready(json!({}), op("a")).await;
    let mut large = request("a");
    large.param = json!("x".repeat(20_000));
    assert_refused(world.ask(large).answer().await, 118, "queue-full");
}

#[actix::test]
async fn whoever_hangs_up_leaves_the_queue() {
    let world = World::with(&["P"], |settings| settings.max_queue = 1);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let running = world.ask(request("a"));
    let sent = worker.expect("request").await;
    let waiting = world.ask(request("a"));
    world.quiet().await;
    waiting.hang_up();
    world.quiet().await;
    let next = world.ask(request("a"));
    world.quiet().await;
    assert!(!next.is_answered());
    running.hang_up();
    let cancel = worker.expect("cancel").await;
    assert_eq!(
        (&cancel["id"], &cancel["reason"]),
        (&sent["id"], &json!("client-gone"))
    );
    // The slot stays taken until the worker answers.
    world.quiet().await;
    assert!(!next.is_answered());
    worker.answer(&sent, json!(0)).await;
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(next.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn the_smallest_limit_counts() {
    let world = World::with(&["P"], |settings| {
        settings.plugins[0].timeout = Duration::from_secs(8);
    });
    let mut worker = world.ready(json!({}), op("a")).await;

    let (answer, elapsed) = ask_in_vain(&world, &mut worker, None, None).await;
    assert_refused(answer, 119, "deadline");
    assert_eq!(elapsed.as_secs(), 8);

    let (answer, elapsed) = ask_in_vain(&world, &mut worker, Some(3), Some(20)).await;
    assert_eq!(answer.as_ref().unwrap_err().status(), 504);
    assert_refused(answer, 119, "deadline");
    assert_eq!(elapsed.as_secs(), 3);

    let (answer, elapsed) = ask_in_vain(&world, &mut worker, Some(30), Some(2)).await;
    let error = answer.unwrap_err();
    assert_eq!((error.code.number(), error.status()), (122, 503));
    assert_eq!(elapsed.as_secs(), 2);
}

async fn ask_in_vain(
    world: &World,
    worker: &mut Worker,
    own: Option<u64>,
    client: Option<u64>,
) -> (
    Result<serde_json::Value, skytrail_schema::code::ApiError>,
    Duration,
) {
    let mut asking = request("a");
    asking.timeout = own.map(Duration::from_secs);
    asking.deadline = client.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let asked = world.ask(asking);
    let sent = worker.expect("request").await;
    let cancel = worker.expect("cancel").await;
    assert_eq!(
        (&cancel["id"], &cancel["reason"]),
        (&sent["id"], &json!("deadline"))
    );
    worker.refuse(&sent, json!({"message": "cancelled"})).await;
    asked.timed().await
}

#[actix::test]
async fn waiting_in_the_queue_counts() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let _running = world.ask(request("a"));
    worker.expect("request").await;
    let mut hasty = request("a");
    hasty.timeout = Some(Duration::from_secs(1));
    let (answer, elapsed) = world.ask(hasty).timed().await;
    assert_refused(answer, 119, "deadline");
    assert_eq!(elapsed.as_secs(), 1);
    assert_eq!(world.broker.state().await.unwrap().plugins[0].queued, 0);
}

#[actix::test]
async fn without_a_worker_a_request_waits_for_one_a_while() {
    let world = World::new(&["P"]);
    world.ready(json!({}), op("a")).await.die().await;
    let (answer, elapsed) = world.ask(request("a")).timed().await;
    assert_refused(answer, 118, "no-worker");
    assert_eq!(elapsed.as_secs(), 5);

    let asked = world.ask(request("a"));
    world.quiet().await;
    let mut worker = world.register(json!({}), op("a")).await;
    worker.expect_ready().await;
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn requests_go_where_most_of_the_window_is_free() {
    let world = World::new(&["P"]);
    let mut small = world.ready(json!({"window": 2}), op("a")).await;
    let mut large = world.register(json!({"window": 6}), op("a")).await;
    large.expect("ready").await;
    let asked: Vec<Asked> = (0..8).map(|_| world.ask(request("a"))).collect();
    for _ in 0..2 {
        let sent = small.expect("request").await;
        small.answer(&sent, json!(0)).await;
    }
    for _ in 0..6 {
        let sent = large.expect("request").await;
        large.answer(&sent, json!(0)).await;
    }
    for asked in asked {
        asked.answer().await.unwrap();
    }
}

#[actix::test]
async fn a_request_larger_than_the_worker_takes_is_not_sent() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"max_message": 5000}), op("a")).await;
    let mut large = request("a");
    large.param = json!("x".repeat(6000));
    let error = world.ask(large).answer().await.unwrap_err();
    assert_eq!((error.code.number(), error.status()), (107, 413));
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    // The smaller limit applies in both directions.
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!("x".repeat(6000))).await;
    assert_eq!(worker.expect_close().await, 1009);
    assert_refused(asked.answer().await, 118, "worker-lost");
}

#[actix::test]
async fn an_unknown_plugin_cannot_be_asked() {
    let world = World::new(&["P"]);
    let mut stray = request("a");
    stray.plugin = "X".into();
    let error = world.broker.call(stray).await.unwrap_err();
    assert_eq!(error.code.number(), 10000);
}

#[actix::test]
async fn what_became_of_requests_can_be_seen() {
    let world = World::with(&["P"], |settings| settings.max_queue = 1);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    for _ in 0..2 {
        let asked = world.ask(request("a"));
        let sent = worker.expect("request").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        worker.answer(&sent, json!(1)).await;
        worker.answer(&sent, json!(2)).await;
        worker.expect("warning").await;
        asked.answer().await.unwrap();
    }
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.refuse(&sent, json!({"message": "no"})).await;
    asked.answer().await.unwrap_err();

    let gone = world.ask(request("a"));
    let first = worker.expect("request").await;
    gone.hang_up();
    worker.expect("cancel").await;
    let mut hasty = request("a");
    hasty.timeout = Some(Duration::from_secs(1));
    let hasty = world.ask(hasty);
    world.quiet().await;
    assert_refused(world.ask(request("a")).answer().await, 118, "queue-full");
    hasty.answer().await.unwrap_err();
    worker.answer(&first, json!("late")).await;

    let lost = world.ask(request("a"));
    worker.expect("request").await;
    worker.die().await;
    lost.answer().await.unwrap_err();
    assert_refused(world.ask(request("a")).answer().await, 118, "no-worker");

    let state = world.broker.state().await.unwrap();
    let figures = &state.plugins[0].figures;
    let endings: Vec<_> = figures
        .endings
        .iter()
        .map(|(ending, count)| (ending.name(), *count))
        .collect();
    assert_eq!(
        endings,
        [
            ("result", 2),
            ("error", 1),
            ("deadline", 1),
            ("client-gone", 1),
            ("no-worker", 1),
            ("unreached", 0),
            ("worker-lost", 1),
            ("queue-full", 1),
        ]
    );
    assert_eq!((figures.late, figures.stray), (1, 2));
    assert_eq!((state.plugins[0].calls, state.plugins[0].errors), (8, 6));
    // Only the plugin's own answers are timed.
    assert_eq!(figures.seconds.count, 3);
    assert!(
        (0.04..0.05).contains(&figures.seconds.sum),
        "{:?}",
        figures.seconds
    );
}

fn run(name: &str) -> PluginRequest {
    PluginRequest {
        kind: "timer",
        ..request(name)
    }
}

#[actix::test]
async fn timers_leave_half_of_the_window_to_others() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 5}), op("a")).await;
    let runs: Vec<_> = (0..4).map(|_| world.ask(run("tick"))).collect();
    world.quiet().await;
    let asked: Vec<_> = (0..3).map(|_| world.ask(request("a"))).collect();
    world.quiet().await;
    let sent = take_all(&mut worker).await;
    let kinds: Vec<_> = sent.iter().map(|request| &request["kind"]).collect();
    // Other requests overtake those that wait.
    assert_eq!(kinds, ["timer", "timer", "op", "op", "op"]);
    for request in sent.iter().skip(2) {
        worker.answer(request, json!(1)).await;
    }
    for asked in asked {
        assert_eq!(asked.answer().await, Ok(json!(1)));
    }
    let state = world.broker.state().await.unwrap();
    let waiting = (state.plugins[0].queued, state.plugins[0].queued_timers);
    assert_eq!(waiting, (2, 2));
    // They stay within their half even if there is room.
    assert!(take_all(&mut worker).await.is_empty());
    for request in sent.iter().take(2) {
        worker.answer(request, json!(2)).await;
    }
    for _ in 0..2 {
        let request = worker.expect("request").await;
        worker.answer(&request, json!(2)).await;
    }
    for run in runs {
        assert_eq!(run.answer().await, Ok(json!(2)));
    }
}

#[actix::test]
async fn a_window_of_one_takes_a_timer() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let asked = world.ask(run("tick"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn timers_that_wait_take_no_room_from_what_else_waits() {
    let world = World::with(&["P"], |settings| settings.max_queue = 2);
    let mut worker = world.ready(json!({"window": 2}), op("a")).await;
    let runs: Vec<_> = (0..4).map(|_| world.ask(run("tick"))).collect();
    world.quiet().await;
    assert!(runs.last().unwrap().is_answered());
    let asked: Vec<_> = (0..3).map(|_| world.ask(request("a"))).collect();
    world.quiet().await;
    assert!(asked.iter().all(|asked| !asked.is_answered()));
    assert_eq!(take_all(&mut worker).await.len(), 2);
}

/// Returns the requests that have arrived.
async fn take_all(worker: &mut Worker) -> Vec<Json> {
    let mut requests = Vec::new();
    while let Some(seen) = worker.poll_next().await {
        if let Seen::Message(message) = seen
            && message["type"] == "request"
        {
            requests.push(message);
        }
    }
    requests
}
