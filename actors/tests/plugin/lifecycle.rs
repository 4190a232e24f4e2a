//! Greeting, registration, readiness, generations, drain.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use skytrail_actors::plugin::{PluginGate, Readiness, Trigger};
use skytrail_schema::id::TypeName;
use tokio::time::Instant;

use crate::support::{Seen, World, assert_refused, op, request};

#[actix::test]
async fn without_plugins_the_server_is_ready() {
    let world = World::new(&[]);
    world.quiet().await;
    assert_eq!(world.readiness(), Readiness::Ready);
}

#[actix::test]
async fn a_worker_is_greeted_registered_and_made_ready_in_order() {
    let world = World::new(&["P"]);
    world.quiet().await;
    assert_eq!(world.readiness(), Readiness::Unavailable);
    let mut worker = world.connect();
    let welcome = worker.hello(json!({"features": ["resume", "x"]})).await;
    assert_eq!(welcome["resumed"], false);
    assert_eq!(welcome["features"], json!(["resume"]));
    assert_eq!(welcome["resume_ms"], 15_000);
    assert_eq!(welcome["heartbeat_ms"], 10_000);
    assert_eq!(
        (&welcome["max_calls"], &welcome["max_depth"]),
        (&json!(64), &json!(10))
    );

    worker.serve_event("before-config").await;
    let init = worker.expect_event("init").await;
    assert_eq!(world.readiness(), Readiness::Unavailable);
    worker
        .answer(
            &init,
            json!({"op": [{"name": "a"}], "hook": [
            {"name": "h", "type": "note", "trigger": "beforeSave"}]}),
        )
        .await;
    let registered = worker.expect("registered").await;
    assert_eq!(
        registered["points"],
        json!({"op": 1, "handler": 0, "hook": 1, "timer": 0, "provider": 0})
    );
    assert_eq!(world.readiness(), Readiness::Initializing);
    worker.serve_event("after-config").await;
    let event = worker.expect_event("before-plugins-ready").await;
    assert_eq!(world.readiness(), Readiness::Initializing);
    worker.answer(&event, json!(null)).await;
    assert_eq!(worker.expect("ready").await["state"], "ready");
    assert_eq!(world.readiness(), Readiness::Ready);
    worker.serve_event("after-plugins-ready").await;
    worker.serve_event("server-ready").await;

    let points = world.broker.points();
    let note = TypeName::new("note");
    assert_eq!(points.hooks(&note, Trigger::BeforeSave).len(), 1);
    assert!(points.hooks(&note, Trigger::AfterSave).is_empty());
    assert!(points.lambda("a").is_some() && points.lambda("b").is_none());
}

#[actix::test]
async fn plugins_that_do_not_answer_before_they_serve_delay_clients_once() {
    let world = World::new(&["P", "Q", "R"]);
    let begun = Instant::now();
    let mut mute = Vec::new();
    for name in ["P", "Q", "R"] {
        let plugin = json!({"plugin": name});
        mute.push(world.register(plugin, op(&name.to_lowercase())).await);
    }
    for worker in &mut mute {
        worker.expect_event("before-plugins-ready").await;
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
    // All of them answer pings meanwhile.
    let served = mute.iter_mut().map(|worker| async {
        worker.expect("cancel").await;
        worker.expect("ready").await;
    });
    join_all(served).await;
    assert_eq!(world.readiness(), Readiness::Ready);
    assert!(
        begun.elapsed() < Duration::from_secs(35),
        "not three times 30 s"
    );
}

#[actix::test]
async fn clients_are_refused_until_all_plugins_are_ready() {
    let world = World::new(&["P", "Q"]);
    let mut q = world.register(json!({"plugin": "Q"}), op("q")).await;
    let early = world.readiness().check(true).unwrap_err();
    assert_eq!((early.code.number(), early.status()), (118, 503));
    let mut p = world.register(json!({}), op("p")).await;
    world.quiet().await;
    assert!(world.readiness().check(true).is_ok());
    let early = world.readiness().check(false).unwrap_err();
    assert_eq!((early.code.number(), early.status()), (121, 503));
    // In the order of PLUGINS, one after the other.
    p.serve_event("before-plugins-ready").await;
    q.serve_event("before-plugins-ready").await;
    p.expect("ready").await;
    q.expect("ready").await;
    assert!(world.readiness().check(false).is_ok());
    for event in ["after-plugins-ready", "server-ready"] {
        p.serve_event(event).await;
        q.serve_event(event).await;
    }
}

#[actix::test]
async fn hooks_run_in_the_order_of_plugins() {
    let hook = |name: &str| {
        json!({"hook": [{"name": name, "type": "note", "trigger": "beforeSave"},
                        {"name": format!("{name}2"), "type": "note", "trigger": "beforeSave"}]})
    };
    let world = World::new(&["P", "Q"]);
    let _q = world.register(json!({"plugin": "Q"}), hook("q")).await;
    let _p = world.register(json!({}), hook("p")).await;
    let points = world.broker.points();
    let hooks = points.hooks(&TypeName::new("note"), Trigger::BeforeSave);
    let names: Vec<_> = hooks.iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(names, ["p", "p2", "q", "q2"]);
}

#[actix::test]
async fn a_plugin_that_fails_an_event_of_the_start_holds_nothing_up() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.hello(json!({})).await;
    let event = worker.expect_event("before-config").await;
    worker.refuse(&event, json!({"code": 1})).await;
    let init = worker.expect_event("init").await;
    worker.answer(&init, json!({})).await;
    worker.expect("registered").await;
    let event = worker.expect_event("after-config").await;
    worker.expect("cancel").await;
    worker.answer(&event, json!(null)).await;
    worker.serve_event("before-plugins-ready").await;
    worker.expect("ready").await;
}

#[actix::test]
async fn an_unknown_plugin_is_refused_unless_development_allows_it() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.say_hello(json!({"plugin": "X"})).await;
    assert_eq!(worker.expect_close().await, 4003);

    let world = World::with(&[], |settings| settings.allow_unlisted = true);
    let mut worker = world.ready(json!({}), op("x")).await;
    let asked = world.ask(request("x"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
}

#[actix::test]
async fn a_connection_without_hello_is_closed() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    let start = Instant::now();
    assert_eq!(worker.expect_close().await, 4010);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[actix::test]
async fn a_refused_registration_names_its_problems() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.hello(json!({})).await;
    worker.serve_event("before-config").await;
    let init = worker.expect_event("init").await;
    worker
        .answer(
            &init,
            json!({"timer": [{"name": "demo:tick", "spec": "60 * * * * *"}]}),
        )
        .await;
    let registered = worker.expect("registered").await;
    assert_eq!(registered["ok"], false);
    assert_eq!(
        registered["problems"],
        json!([{"list": "timer", "name": "demo:tick", "message": "second: 60 is above 59"}])
    );
    assert_eq!(worker.expect_close().await, 4004);
    assert_eq!(world.readiness(), Readiness::Unavailable);
}

#[actix::test]
async fn an_init_that_is_late_or_fails_is_refused() {
    let world = World::new(&["P"]);
    let mut worker = world.connect();
    worker.hello(json!({})).await;
    worker.serve_event("before-config").await;
    worker.expect_event("init").await;
    let asked = Instant::now();
    worker.expect("cancel").await;
    assert_eq!(worker.expect("registered").await["ok"], false);
    assert_eq!(worker.expect_close().await, 4004);
    assert_eq!(asked.elapsed().as_secs(), 30);

    let mut worker = world.connect();
    worker.hello(json!({})).await;
    worker.serve_event("before-config").await;
    let init = worker.expect_event("init").await;
    worker
        .refuse(&init, json!({"message": "no database"}))
        .await;
    let registered = worker.expect("registered").await;
    assert_eq!(registered["problems"][0]["message"], "no database");
    assert_eq!(worker.expect_close().await, 4004);
}

#[actix::test]
async fn two_plugins_cannot_have_one_path() {
    let handler = json!({"handler": [{"name": "a", "methods": ["GET"]}]});
    let world = World::new(&["P", "Q"]);
    let _p = world.register(json!({}), handler.clone()).await;
    let mut q = world.connect();
    q.hello(json!({"plugin": "Q"})).await;
    q.serve_event("before-config").await;
    let init = q.expect_event("init").await;
    q.answer(&init, handler).await;
    let registered = q.expect("registered").await;
    assert_eq!(
        registered["problems"][0]["message"],
        "plugin P already has the path /a"
    );
    assert_eq!(q.expect_close().await, 4004);
    assert_eq!(world.broker.points().handlers.len(), 1);
}

#[actix::test]
async fn workers_of_one_generation_must_register_alike() {
    let world = World::new(&["P"]);
    let _first = world.ready(json!({}), op("a")).await;
    let mut second = world.connect();
    second.hello(json!({})).await;
    second.serve_event("before-config").await;
    let init = second.expect_event("init").await;
    second.answer(&init, op("b")).await;
    assert_eq!(second.expect("registered").await["ok"], false);
    assert_eq!(second.expect_close().await, 4004);
    assert!(world.broker.points().lambda("a").is_some());
}

#[actix::test]
async fn a_plugin_that_comes_back_is_initialised_again_and_its_points_replaced() {
    let world = World::new(&["P"]);
    let first = world.ready(json!({}), op("a")).await;
    first.die().await;
    world.quiet().await;
    // Its loss does not make the server unready.
    assert_eq!(world.readiness(), Readiness::Ready);
    assert!(world.broker.points().lambda("a").is_some());
    let mut again = world.register(json!({}), op("b")).await;
    again.serve_event("before-plugins-ready").await;
    again.expect("ready").await;
    let points = world.broker.points();
    assert!(points.lambda("a").is_none() && points.lambda("b").is_some());
}

#[actix::test]
async fn a_plugin_that_was_absent_prepares_again_before_it_serves() {
    let world = World::new(&["P"]);
    let old = world.ready(json!({}), op("a")).await;
    // Next to a worker that serves there is nothing to prepare.
    let mut beside = world.register(json!({}), op("a")).await;
    beside.expect("ready").await;
    for worker in [old, beside] {
        worker.die().await;
    }
    world.quiet().await;

    let mut first = world.register(json!({}), op("a")).await;
    first.expect_event("before-plugins-ready").await;
    let asked = world.ask(request("a"));
    let mut second = world.register(json!({}), op("a")).await;
    world.quiet().await;
    assert!(second.poll_next().await.is_none());
    // One worker prepares; if it is lost, another does.
    first.die().await;
    let event = second.expect_event("before-plugins-ready").await;
    world.quiet().await;
    assert!(second.poll_next().await.is_none() && !asked.is_answered());
    second.answer(&event, json!(null)).await;
    second.expect("ready").await;
    let sent = second.expect("request").await;
    second.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    // The server did not start again.
    world.quiet().await;
    assert!(second.poll_next().await.is_none());
}

#[actix::test]
async fn a_plugin_whose_worker_is_suspended_prepares_before_another_serves() {
    let world = World::new(&["P"]);
    let mut old = world.ready(json!({"features": ["resume"]}), op("a")).await;
    old.break_link().await;
    world.quiet().await;
    let mut new = world.register(json!({}), op("a")).await;
    new.serve_event("before-plugins-ready").await;
    new.expect("ready").await;
}

#[actix::test]
async fn a_plugin_lost_before_the_server_was_ready_is_waited_for_again() {
    let world = World::new(&["P", "Q"]);
    let first = world.register(json!({}), op("a")).await;
    first.die().await;
    let mut q = world.register(json!({"plugin": "Q"}), op("q")).await;
    world.quiet().await;
    assert_eq!(world.readiness(), Readiness::Unavailable);
    let mut p = world.register(json!({}), op("a")).await;
    p.serve_event("before-plugins-ready").await;
    q.serve_event("before-plugins-ready").await;
    p.expect("ready").await;
}

#[actix::test]
async fn a_new_generation_takes_over_in_one_step() {
    let world = World::new(&["P"]);
    let mut old = world.ready(json!({"generation": 1}), op("a")).await;
    let running = world.ask(request("a"));
    let sent = old.expect("request").await;

    let mut new = world.register(json!({"generation": 2}), op("b")).await;
    let event = new.expect_event("before-plugins-ready").await;
    // Until then the old generation serves.
    assert!(world.broker.points().lambda("a").is_some());
    assert!(world.broker.points().lambda("b").is_none());
    new.answer(&event, json!(null)).await;
    new.expect("ready").await;
    assert!(world.broker.points().lambda("a").is_none());
    assert!(world.broker.points().lambda("b").is_some());

    let drain = old.expect("drain").await;
    assert_eq!(drain["reason"], "deploy");
    assert_eq!(
        (&drain["reconnect"], drain.get("workers")),
        (&json!(false), None)
    );
    old.answer(&sent, json!("finished")).await;
    assert_eq!(running.answer().await, Ok(json!("finished")));
    old.expect("drained").await;
    assert_eq!(old.expect_close().await, 1000);
    new.serve_event("after-plugins-ready").await;
    new.serve_event("server-ready").await;

    let mut stale = world.connect();
    stale.say_hello(json!({"generation": 1})).await;
    assert_eq!(stale.expect_close().await, 4005);
}

#[actix::test]
async fn a_new_generation_takes_over_although_its_first_worker_dies() {
    let world = World::new(&["P"]);
    let _old = world.ready(json!({"generation": 1}), op("a")).await;
    let mut first = world.register(json!({"generation": 2}), op("b")).await;
    first.expect_event("before-plugins-ready").await;
    let mut second = world.register(json!({"generation": 2}), op("b")).await;
    world.quiet().await;
    first.die().await;
    second.serve_event("before-plugins-ready").await;
    second.expect("ready").await;
    assert!(world.broker.points().lambda("b").is_some());
}

#[actix::test]
async fn a_worker_that_drains_finishes_what_it_has_and_gets_no_more() {
    let world = World::new(&["P"]);
    let mut leaving = world.ready(json!({}), op("a")).await;
    let running = world.ask(request("a"));
    let sent = leaving.expect("request").await;
    leaving
        .send(json!({"type": "drain", "reason": "deploy"}))
        .await;
    let mut staying = world.register(json!({}), op("a")).await;
    staying.serve_event("before-plugins-ready").await;
    staying.expect("ready").await;
    let next = world.ask(request("a"));
    let theirs = staying.expect("request").await;
    staying.answer(&theirs, json!("other")).await;
    assert_eq!(next.answer().await, Ok(json!("other")));
    leaving.answer(&sent, json!("mine")).await;
    assert_eq!(running.answer().await, Ok(json!("mine")));
    leaving.expect("drained").await;
}

#[actix::test]
async fn a_drain_that_takes_too_long_is_cut_off() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut slow = request("a");
    slow.timeout = Some(Duration::from_secs(20));
    let asked = world.ask(slow);
    worker.expect("request").await;
    worker
        .send(json!({"type": "drain", "drain_ms": 5000}))
        .await;
    assert_eq!(worker.expect_close().await, 1000);
    let (answer, elapsed) = asked.timed().await;
    assert_refused(answer, 118, "worker-lost");
    assert_eq!(elapsed.as_secs(), 5);
}

#[actix::test]
async fn a_server_that_leaves_lets_workers_finish() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut idle = world.register(json!({}), op("a")).await;
    idle.expect("ready").await;
    let asked = world.ask(request("a"));
    let (mut worker, mut idle, sent) = tokio::select! {
        sent = worker.expect("request") => (worker, idle, sent),
        sent = idle.expect("request") => (idle, worker, sent),
    };
    let broker = world.broker.clone();
    let leaving = actix::spawn(async move { broker.leave(Duration::MAX).await });
    for worker in [&mut worker, &mut idle] {
        let drain = worker.expect("drain").await;
        assert_eq!(
            (&drain["reason"], &drain["reconnect"], &drain["workers"]),
            (&json!("shutdown"), &json!(true), &json!(2))
        );
    }
    assert!(!leaving.is_finished());
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    worker.expect("drained").await;
    assert_eq!(worker.expect_close().await, 1012);
    leaving.await.unwrap();
    assert_eq!(worker.next().await, Seen::Nothing);
    assert!(world.broker.admit().is_none());
}

#[actix::test]
async fn a_plugin_has_a_bounded_number_of_workers() {
    let world = World::with(&["P"], |settings| settings.max_workers = 1);
    let _first = world.ready(json!({}), op("a")).await;
    let mut second = world.connect();
    second.say_hello(json!({})).await;
    assert_eq!(second.expect_close().await, 1013);
    let permit = world.broker.admit();
    assert!(permit.is_some());
    assert!(world.broker.admit().is_none());
    drop(permit);
    assert!(world.broker.admit().is_some());
}

#[actix::test]
async fn an_announcement_reaches_every_worker() {
    let world = World::new(&["P"]);
    let mut first = world.ready(json!({}), op("a")).await;
    let mut second = world.register(json!({}), op("a")).await;
    second.expect("ready").await;
    world
        .broker
        .announce("schema-changed", json!({"note": {"fields": []}}));
    for worker in [&mut first, &mut second] {
        let event = worker.expect_event("schema-changed").await;
        assert_eq!(event["param"], json!({"note": {"fields": []}}));
    }
}

#[actix::test]
async fn a_worker_that_was_away_is_told_of_the_schema() {
    let world = World::new(&["P"]);
    let first = world.ready(json!({}), op("a")).await;
    first.die().await;
    for fields in [json!([]), json!([{"name": "title", "type": "string"}])] {
        let schema = json!({"note": {"fields": fields}});
        world.broker.announce("schema-changed", schema);
    }
    let mut again = world.register(json!({}), op("a")).await;
    again.serve_event("before-plugins-ready").await;
    again.expect("ready").await;
    let event = again.expect_event("schema-changed").await;
    // The present schema; the changes in between do not matter.
    assert_eq!(event["param"]["note"]["fields"][0]["name"], "title");
    again.answer(&event, json!(null)).await;
    world.quiet().await;
    assert!(again.poll_next().await.is_none());
}

#[actix::test]
async fn a_generation_is_outdated_while_a_newer_one_is_here_and_an_hour_longer() {
    let hour = Duration::from_secs(3600);
    let world = World::new(&["P"]);
    let mut newest = world.ready(json!({"generation": 2}), op("b")).await;
    // However long ago it connected.
    let end = Instant::now() + hour * 2;
    while Instant::now() < end {
        newest.send(json!({"type": "ping"})).await;
        newest.expect("pong").await;
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let mut stale = world.connect();
    stale.say_hello(json!({"generation": 1})).await;
    assert_eq!(stale.expect_close().await, 4005);
    newest.die().await;
    tokio::time::sleep(hour - Duration::from_secs(1)).await;
    let mut stale = world.connect();
    stale.say_hello(json!({"generation": 1})).await;
    assert_eq!(stale.expect_close().await, 4005);

    // A plugin that was rolled back for good is served by the older generation.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut back = world.register(json!({"generation": 1}), op("a")).await;
    back.serve_event("before-plugins-ready").await;
    back.expect("ready").await;
    let asked = world.ask(request("a"));
    let sent = loop {
        let sent = back.expect("request").await;
        if sent["kind"] == "op" {
            break sent;
        }
        back.answer(&sent, json!(null)).await;
    };
    back.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    assert!(world.broker.points().lambda("b").is_none());
}

#[actix::test]
async fn a_registration_has_a_bounded_number_of_points() {
    let world = World::new(&["P"]);
    let ops: Vec<_> = (0..10_001)
        .map(|n| json!({"id": n.to_string(), "type": "auth", "name": "x"}))
        .collect();
    let mut worker = world.connect();
    worker.hello(json!({})).await;
    worker.serve_event("before-config").await;
    let init = worker.expect_event("init").await;
    worker.answer(&init, json!({"provider": ops})).await;
    let registered = worker.expect("registered").await;
    assert_eq!(
        registered["problems"][0]["message"],
        "more than 10000 points"
    );
    assert_eq!(worker.expect_close().await, 4004);
}

#[actix::test]
async fn a_server_that_leaves_cancels_what_is_not_finished_in_time() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut slow = request("a");
    slow.timeout = Some(Duration::from_secs(30));
    let sent = {
        let broker = world.broker.clone();
        let asked = world.ask(slow);
        let sent = worker.expect("request").await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        actix::spawn(async move { broker.leave(Duration::MAX).await });
        worker.expect("drain").await;
        drop(asked);
        sent
    };
    let cancel = worker.expect("cancel").await;
    assert_eq!(cancel["id"], sent["id"]);
    assert_eq!(worker.expect_close().await, 1012);
}
