//! Workers' calls, and what they cause.

use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_actors::context::Cause;
use skytrail_actors::plugin::{ApiReply, Lineage};
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{EVER, Worker, World, op, payload, request};

async fn call(worker: &mut Worker, id: &str, parent: Option<&Json>, action: &str) {
    let mut message = json!({"type": "call", "id": id, "payload": payload(action)});
    if let Some(parent) = parent {
        message["parent"] = parent["id"].clone();
    }
    worker.send(message).await;
}

fn ok(body: Json) -> ApiReply {
    ApiReply { status: 200, body }
}

#[actix::test]
async fn a_call_is_answered_with_status_and_body() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    call(&mut worker, "c1", None, "me").await;
    let got = calls.recv().await.unwrap();
    assert_eq!(&*got.call.plugin, "P");
    assert_eq!(got.call.payload, payload("me"));
    assert_eq!(got.call.lineage.depth, 1);
    assert!(got.call.lineage.via.is_empty());
    got.reply
        .send(ApiReply {
            status: 401,
            body: json!({"error": {}}),
        })
        .unwrap();
    let reply = worker.expect("reply").await;
    assert_eq!(
        (&reply["id"], &reply["status"], &reply["body"]),
        (&json!("c1"), &json!(401), &json!({"error": {}}))
    );
}

#[actix::test]
async fn a_nested_request_goes_back_to_the_worker_beyond_its_window() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({"window": 1}), op("a")).await;
    let mut other = world.register(json!({"window": 8}), op("a")).await;
    other.expect("ready").await;

    let (request_id, save) = (Uuid::now_v7(), Uuid::now_v7());
    let mut outer = request("a");
    outer.lineage = Lineage {
        ancestors: vec![Cause::new(save)],
        depth: 0,
        request_id: Some(request_id),
        via: Vec::new(),
        ..Lineage::default()
    };
    // Fills both, so that a request that waits for a window would wait for ever.
    let asked = [world.ask(outer.clone()), world.ask(outer)];
    let sent = worker.expect("request").await;
    let theirs = other.expect("request").await;
    call(&mut worker, "c1", Some(&sent), "record:save").await;
    let got = calls.recv().await.unwrap();
    assert_eq!(got.call.lineage.depth, 1);
    assert_eq!(got.call.lineage.request_id, Some(request_id));
    let ancestors = got.call.lineage.ancestors.iter().map(Cause::id);
    assert_eq!(ancestors.collect::<Vec<_>>(), [save]);

    let mut nested = request("hook");
    nested.lineage = got.call.lineage.clone();
    let hook = world.ask(nested);
    let inner = worker.expect("request").await;
    assert_eq!(inner["parent"], "c1");
    worker.answer(&inner, json!("hooked")).await;
    assert_eq!(hook.answer().await, Ok(json!("hooked")));
    got.reply.send(ok(json!({"result": []}))).unwrap();
    worker.expect("reply").await;
    worker.answer(&sent, json!("outer")).await;
    other.answer(&theirs, json!("outer")).await;
    for asked in asked {
        assert_eq!(asked.answer().await, Ok(json!("outer")));
    }
}

#[actix::test]
async fn nested_requests_to_another_plugin_do_not_wait_for_windows_either() {
    let world = World::new(&["P", "Q"]);
    let mut calls = world.api.calls();
    let mut p = world.register(json!({"window": 1}), op("a")).await;
    let mut q = world
        .register(json!({"plugin": "Q", "window": 1}), op("b"))
        .await;
    p.serve_event("before-plugins-ready").await;
    q.serve_event("before-plugins-ready").await;
    p.expect("ready").await;
    q.expect("ready").await;
    for event in ["after-plugins-ready", "server-ready"] {
        p.serve_event(event).await;
        q.serve_event(event).await;
    }
    let _asked = world.ask(request("a"));
    let sent = p.expect("request").await;
    call(&mut p, "c1", Some(&sent), "record:save").await;
    let got = calls.recv().await.unwrap();
    let mut at_q = request("b");
    at_q.plugin = "Q".into();
    let _busy = world.ask(at_q.clone());
    q.expect("request").await;
    at_q.lineage = got.call.lineage.clone();
    let _nested = world.ask(at_q);
    let inner = q.expect("request").await;
    // P's call means nothing to Q.
    assert!(inner.get("parent").is_none());
}

#[actix::test]
async fn a_call_ends_with_its_parents_limit() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut short = request("a");
    short.timeout = Some(Duration::from_secs(4));
    let asked = world.ask(short);
    let sent = worker.expect("request").await;
    call(&mut worker, "c1", Some(&sent), "slow").await;
    let got = calls.recv().await.unwrap();
    let limit = got.call.deadline.unwrap() - tokio::time::Instant::now();
    assert_eq!(limit.as_secs_f64().ceil(), 4.0);
    let (answer, elapsed) = asked.timed().await;
    assert_eq!(answer.unwrap_err().code.number(), 119);
    assert_eq!(elapsed.as_secs(), 4);
    let mut kinds = Vec::new();
    for _ in 0..2 {
        if let crate::support::Seen::Message(message) = worker.next().await {
            kinds.push((message["type"].clone(), message["status"].clone()));
        }
    }
    assert!(kinds.contains(&(json!("reply"), json!(503))), "{kinds:?}");
    assert!(kinds.contains(&(json!("cancel"), json!(null))), "{kinds:?}");
}

/// How a request may end before a call that is made for it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    ClientGone,
    Answered,
    WorkerLost,
}

#[actix::test]
async fn a_call_ends_with_the_request_that_it_is_made_for() {
    for end in [End::ClientGone, End::Answered, End::WorkerLost] {
        let world = World::new(&["P"]);
        let mut calls = world.api.calls();
        let mut worker = world.ready(json!({}), op("a")).await;
        let asked = world.ask(request("a"));
        let sent = worker.expect("request").await;
        call(&mut worker, "c1", Some(&sent), "slow").await;
        call(&mut worker, "c2", None, "slow").await;
        let (mut of_it, alone) = (calls.recv().await.unwrap(), calls.recv().await.unwrap());
        if end == End::WorkerLost {
            worker.die().await;
            timeout(EVER, of_it.reply.closed()).await.unwrap();
            continue;
        }
        if end == End::ClientGone {
            asked.hang_up();
            worker.expect("cancel").await;
        } else {
            worker.answer(&sent, json!(1)).await;
        }
        timeout(EVER, of_it.reply.closed()).await.unwrap();
        let reply = worker.expect("reply").await;
        assert_eq!(
            (&reply["id"], &reply["status"]),
            (&json!("c1"), &json!(499))
        );
        if end == End::ClientGone {
            // The worker still has it, but nobody waits for what it asks for.
            call(&mut worker, "c3", Some(&sent), "slow").await;
            let reply = worker.expect("reply").await;
            assert_eq!(
                (&reply["id"], &reply["status"]),
                (&json!("c3"), &json!(499))
            );
            assert!(calls.try_recv().is_err());
        }
        alone.reply.send(ok(json!(2))).unwrap();
        assert_eq!(worker.expect("reply").await["id"], "c2");
    }
}

#[actix::test]
async fn a_call_for_a_request_that_is_answered_or_unknown_is_not_run() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    for parent in [sent["id"].clone(), json!("r4711"), json!("mine"), json!("")] {
        let parent = json!({"id": parent});
        call(&mut worker, "c1", Some(&parent), "me").await;
        let reply = worker.expect("reply").await;
        assert_eq!(
            (&reply["id"], &reply["status"]),
            (&json!("c1"), &json!(499)),
            "{parent}"
        );
        let message = &reply["body"]["error"]["message"];
        assert_eq!(*message, "the call's request has ended; nothing was done");
    }
    assert!(calls.try_recv().is_err());
    // Without a parent, or with null, it is nested in nothing.
    for parent in [None, Some(json!({}))] {
        call(&mut worker, "c2", parent.as_ref(), "me").await;
        let got = calls.recv().await.unwrap();
        assert_eq!(got.call.lineage.depth, 1);
        got.reply.send(ok(json!(2))).unwrap();
        assert_eq!(worker.expect("reply").await["status"], 200);
    }
}

#[actix::test]
async fn a_timer_may_have_more_time_than_its_plugin() {
    let its = Duration::from_secs(3);
    let world = World::with(&["P"], |settings| settings.plugins[0].timeout = its);
    let mut worker = world.ready(json!({}), op("a")).await;
    for (kind, seconds) in [("timer", 8), ("op", 3)] {
        let mut long = request("a");
        long.kind = kind;
        long.timeout = Some(Duration::from_secs(8));
        let asked = world.ask(long);
        assert_eq!(worker.expect("request").await["kind"], kind);
        let (answer, elapsed) = asked.timed().await;
        assert_eq!(answer.unwrap_err().code.number(), 119);
        assert_eq!(elapsed.as_secs(), seconds);
        worker.expect("cancel").await;
    }
}

#[actix::test]
async fn calls_nest_to_a_bounded_depth() {
    let world = World::with(&["P"], |settings| settings.max_depth = 3);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    let mut lineage = Lineage::default();
    let mut asked = Vec::new();
    for depth in 1..=3 {
        let mut next = request("a");
        next.lineage = lineage;
        asked.push(world.ask(next));
        let sent = worker.expect("request").await;
        call(&mut worker, &format!("c{depth}"), Some(&sent), "a").await;
        lineage = calls.recv().await.unwrap().call.lineage;
        assert_eq!(lineage.depth, depth);
    }
    let mut last = request("a");
    last.lineage = lineage;
    asked.push(world.ask(last));
    let sent = worker.expect("request").await;
    call(&mut worker, "c9", Some(&sent), "a").await;
    let reply = loop {
        let reply = worker.expect("reply").await;
        if reply["id"] == "c9" {
            break reply;
        }
    };
    assert_eq!(reply["body"]["error"]["code"], 10000);
    assert_eq!(
        reply["body"]["error"]["message"],
        "Plugin exceeded max bounce count"
    );
}

#[actix::test]
async fn a_flood_of_calls_is_refused_above_the_limit() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    for n in 0..65 {
        call(&mut worker, &format!("c{n}"), None, "me").await;
    }
    let reply = worker.expect("reply").await;
    assert_eq!(
        (&reply["id"], &reply["status"]),
        (&json!("c64"), &json!(429))
    );
    assert!(reply["body"]["error"]["info"]["retry_after_ms"].is_u64());
    // Requests and their answers go on meanwhile.
    let asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    worker.answer(&sent, json!(1)).await;
    assert_eq!(asked.answer().await, Ok(json!(1)));
    let first = calls.recv().await.unwrap();
    first.reply.send(ok(json!({}))).unwrap();
    worker.expect("reply").await;
    call(&mut worker, "c65", None, "me").await;
    world.quiet().await;
    assert!(calls.len() == 64);
}

#[actix::test]
async fn a_cancelled_call_is_answered_once() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({}), op("a")).await;
    call(&mut worker, "c1", None, "slow").await;
    let got = calls.recv().await.unwrap();
    worker.send(json!({"type": "cancel", "id": "c1"})).await;
    assert_eq!(worker.expect("reply").await["status"], 499);
    worker.send(json!({"type": "cancel", "id": "c1"})).await;
    got.reply.send(ok(json!({}))).unwrap();
    world.quiet().await;
    call(&mut worker, "c1", None, "again").await;
    calls
        .recv()
        .await
        .unwrap()
        .reply
        .send(ok(json!(2)))
        .unwrap();
    assert_eq!(worker.expect("reply").await["body"], 2);
}

#[actix::test]
async fn an_id_in_use_is_odd() {
    let world = World::new(&["P"]);
    let mut worker = world.ready(json!({}), op("a")).await;
    call(&mut worker, "c1", None, "slow").await;
    call(&mut worker, "c1", None, "slow").await;
    let warning = worker.expect("warning").await;
    assert_eq!(warning["message"], "a call with the id \"c1\" is in flight");
}

#[actix::test]
async fn a_reply_larger_than_the_worker_takes_says_so() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({"max_message": 5000}), op("a")).await;
    call(&mut worker, "c1", None, "me").await;
    let got = calls.recv().await.unwrap();
    got.reply.send(ok(json!("x".repeat(6000)))).unwrap();
    let reply = worker.expect("reply").await;
    assert_eq!(
        (&reply["status"], &reply["body"]["error"]["code"]),
        (&json!(413), &json!(107))
    );
}

#[actix::test]
async fn a_nested_request_goes_to_another_worker_when_its_own_lacks_the_point() {
    let world = World::new(&["P"]);
    let mut calls = world.api.calls();
    let mut old = world.ready(json!({"generation": 1}), op("a")).await;
    let _asked = world.ask(request("a"));
    let sent = old.expect("request").await;
    call(&mut old, "c1", Some(&sent), "b").await;
    let lineage = calls.recv().await.unwrap().call.lineage;

    let points = json!({"op": [{"name": "a"}, {"name": "b"}]});
    let mut new = world.register(json!({"generation": 2}), points).await;
    new.serve_event("before-plugins-ready").await;
    new.expect("ready").await;
    for event in ["after-plugins-ready", "server-ready"] {
        new.serve_event(event).await;
    }
    old.expect("drain").await;
    for (name, worker) in [("b", &mut new), ("a", &mut old)] {
        let mut nested = request(name);
        nested.lineage = lineage.clone();
        let asked = world.ask(nested);
        let sent = worker.expect("request").await;
        worker.answer(&sent, json!(name)).await;
        assert_eq!(asked.answer().await, Ok(json!(name)));
    }
}

#[actix::test]
async fn nested_requests_are_bounded_by_depth_and_window() {
    let world = World::with(&["P"], |settings| settings.max_depth = 2);
    let mut calls = world.api.calls();
    let mut worker = world.ready(json!({"window": 3}), op("a")).await;
    let _asked = world.ask(request("a"));
    let sent = worker.expect("request").await;
    call(&mut worker, "c1", Some(&sent), "a").await;
    let lineage = calls.recv().await.unwrap().call.lineage;
    let nested = || {
        let mut nested = request("a");
        nested.lineage = lineage.clone();
        world.ask(nested)
    };
    let fitting: Vec<_> = (0..6).map(|_| nested()).collect();
    for _ in 0..6 {
        worker.expect("request").await;
    }
    crate::support::assert_refused(nested().answer().await, 118, "queue-full");
    assert!(fitting.iter().all(|asked| !asked.is_answered()));
}
