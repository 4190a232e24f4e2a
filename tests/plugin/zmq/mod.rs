//! Transport zmq from outside: the real server, workers controlled by the test.
//!
//! Workers connect over a Unix socket, whose address the test can choose; the published runtime
//! connects over TCP (`sample`).

mod calls;
mod failures;
mod sample;
mod worker;

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use self::worker::{Seen, Worker, await_listener};
use super::call;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// A server with a zmq plugin.
struct World {
    server: TestServer,
    path: PathBuf,
    _folder: TempDir,
}

impl World {
    /// Starts a server that listens for workers of plugin `TEST`.
    fn new(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("zmq");
        let address = format!("ipc://{}", path.display());
        let own = [
            ("PLUGINS", "TEST"),
            ("TEST_TRANSPORT", "zmq"),
            ("TEST_PATH", "test"),
            ("TEST_ARGS", &address),
        ];
        let all: Vec<_> = own.iter().chain(settings).copied().collect();
        let server = TestServer::with(&all);
        await_listener(&path);
        Self {
            server,
            path,
            _folder: folder,
        }
    }

    /// Adds a worker that is ready for requests.
    fn worker(&self, identity: &str) -> Worker {
        Worker::ready(&self.path, identity)
    }

    /// Adds the first worker, which registers.
    fn first_worker(&self, identity: &str, points: &Json) -> Worker {
        let mut worker = self.worker(identity);
        worker.register(points);
        worker
    }
}

fn ops(names: &[&str]) -> Json {
    let ops: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
    json!({"op": ops})
}

/// Fails unless the error is that of a plugin that did not answer.
fn assert_timed_out(answer: &crate::support::client::Answer) {
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"]),
        (500, &json!(10000)),
        "{error}"
    );
    assert_eq!(error["message"], "Plugin time out");
}

#[test]
fn a_start_says_who_can_get_the_master_key_over_a_port() {
    let world = World::new(&[]);
    let is_about = |line: &&str| line.contains("the master key") && line.contains("ipc://");
    let output = world.server.output();
    assert_eq!(output.lines().find(is_about), None);
    for (address, level, whom) in [
        ("tcp://127.0.0.1:0", "WARN", "every user of this machine"),
        ("tcp://*:0", "ERROR", "everybody who can reach"),
    ] {
        let server = TestServer::with(&[
            ("PLUGINS", "TEST"),
            ("TEST_TRANSPORT", "zmq"),
            ("TEST_PATH", "test"),
            ("TEST_ARGS", address),
        ]);
        let told = eventually("the start says it", || {
            let output = server.output();
            output.lines().find(is_about).map(str::to_owned)
        });
        for part in [level, whom, "TEST"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}

#[test]
fn a_lambda_goes_to_a_worker_and_its_answer_comes_back() {
    let world = World::new(&[]);
    let mut worker = world.first_worker("0001-000A", &ops(&["hello:world"]));
    let ada = Client::signed_up(&world.server, "ada");
    let asked = call(&ada, "hello:world", json!({"args": {"who": "bob"}}));
    let request = worker.expect_request("hello:world");
    assert_eq!(request.bounce, 0);
    assert_eq!((request.id.len(), request.id.as_bytes()[4]), (9, b'-'));
    let body = &request.body;
    assert_eq!(body["kind"], "op");
    assert_eq!(body["param"]["args"], json!({"who": "bob"}));
    assert_eq!(body["context"]["user_id"], json!(ada.user));
    assert_eq!(body["context"]["access_key_type"], "client");
    // Exactly v1's envelope.
    let mut members: Vec<_> = body.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["context", "kind", "name", "param"]);
    worker.answer(&request, &json!({"message": "hello bob"}));
    let answer = asked.join().unwrap();
    assert_eq!(answer.json(), json!({"result": {"message": "hello bob"}}));

    let asked = call(&ada, "hello:world", json!({}));
    let request = worker.expect_request("hello:world");
    worker.refuse(
        &request,
        &json!({"code": 108, "message": "no", "info": {"a": 1}}),
    );
    let error = asked.join().unwrap().json()["error"].clone();
    assert_eq!(error["code"], 108);
    assert_eq!(
        (&error["message"], &error["info"]),
        (&json!("no"), &json!({"a": 1}))
    );

    let asked = call(&ada, "hello:world", json!({}));
    let request = worker.expect_request("hello:world");
    worker.answer_text(&request, "no JSON");
    let error = asked.join().unwrap().json()["error"].clone();
    assert_eq!(error["code"], 10000);
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("Failed to parse plugin response: "),
        "{message}"
    );
}

#[test]
fn the_worker_that_was_heard_last_is_asked_and_a_busy_one_is_not() {
    let world = World::new(&[]);
    let mut first = world.first_worker("a", &ops(&["x"]));
    first.set_beats(false);
    let mut second = world.worker("b");
    // The server sends heartbeats only to idle workers.
    second.expect_beat();
    let client = Client::anonymous(&world.server);
    let asked = call(&client, "x", json!({}));
    let request = second.expect_request("x");
    // It may have been silent for too long. A request that it got before the server has read this
    // READY would be lost.
    first.signal(worker::READY);
    first.expect_nothing();
    let also = call(&client, "x", json!({}));
    let other = first.expect_request("x");
    first.answer(&other, &json!("first"));
    assert_eq!(also.join().unwrap().result(), "first");
    second.answer(&request, &json!("second"));
    assert_eq!(asked.join().unwrap().result(), "second");
}

/// Starts a server with a second plugin `OTHER`, and a ready worker of each.
fn two_plugins(points: &Json, others: &Json) -> (World, Worker, Worker, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    let address = format!("ipc://{}", path.display());
    let settings = [
        ("PLUGINS", "TEST,OTHER"),
        ("OTHER_TRANSPORT", "zmq"),
        ("OTHER_PATH", "other"),
        ("OTHER_ARGS", &address),
    ];
    let world = World::new(&settings);
    await_listener(&path);
    // The same identity at both: it has no meaning beyond its socket.
    let (mut worker, mut other) = (world.worker("w"), Worker::ready(&path, "w"));
    let others = others.clone();
    let initialising = std::thread::spawn(move || {
        other.initialise(&others);
        other
    });
    worker.initialise(points);
    let mut other = initialising.join().unwrap();
    worker.serve_event("before-plugins-ready");
    other.serve_event("before-plugins-ready");
    for event in ["after-plugins-ready", "server-ready"] {
        worker.serve_event(event);
        other.serve_event(event);
    }
    (world, worker, other, folder)
}

#[test]
fn two_plugins_have_their_own_workers() {
    let (world, mut worker, mut other, _folder) = two_plugins(&ops(&["a"]), &ops(&["b"]));
    let client = Client::anonymous(&world.server);
    let asked = call(&client, "a", json!({}));
    let outer = worker.expect_request("a");
    worker.call(&outer, &json!({"action": "b"}));
    // The count grows across plugins.
    let inner = other.expect_request("b");
    assert_eq!(inner.bounce, 2);
    other.answer(&inner, &json!("inner"));
    let reply = worker.expect_reply();
    assert_eq!(reply.body, json!({"result": "inner"}));
    worker.answer(&outer, &json!("outer"));
    assert_eq!(asked.join().unwrap().result(), "outer");
}

#[test]
fn the_server_says_why_it_cannot_listen_for_workers() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("ipc://{}/none/zmq", folder.path().display());
    let cases = [
        (address.as_str(), "none/zmq: No such file"),
        (
            "tcp://192.0.2.1:5555",
            "tcp://192.0.2.1:5555: Cannot assign",
        ),
        ("udp://127.0.0.1:5555", "TEST_ARGS"),
        ("", "TEST_ARGS"),
    ];
    let mut server = TestServer::start();
    for (address, reason) in cases {
        for (name, value) in [
            ("PLUGINS", "TEST"),
            ("TEST_TRANSPORT", "zmq"),
            ("TEST_PATH", "test"),
            ("TEST_ARGS", address),
        ] {
            server.set(name, value);
        }
        let said = server.try_restart().unwrap_err();
        assert!(said.contains(reason), "{address}: {said}");
    }
    // Two plugins with one path would share one broker.
    for (name, value) in [
        ("PLUGINS", "TEST,OTHER"),
        ("TEST_ARGS", "tcp://127.0.0.1:0"),
        ("OTHER_TRANSPORT", "zmq"),
        ("OTHER_PATH", "test"),
        ("OTHER_ARGS", "tcp://127.0.0.1:0"),
    ] {
        server.set(name, value);
    }
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("OTHER_PATH"), "{said}");
}

#[test]
fn what_comes_back_through_another_plugin_goes_to_the_worker_that_waits() {
    let (world, mut worker, mut other, _folder) = two_plugins(&ops(&["a", "c"]), &ops(&["b"]));
    let asked = call(&Client::anonymous(&world.server), "a", json!({}));
    let outer = worker.expect_request("a");
    // This one was heard last, and any other call would reach it.
    let mut idle = world.worker("idle");
    idle.expect_beat();
    worker.call(&outer, &json!({"action": "b"}));
    let between = other.expect_request("b");
    other.call(&between, &json!({"action": "c"}));
    let inner = worker.expect_request("c");
    // On the worker's own stack, one bounce further than its call.
    assert_eq!((&inner.id, inner.bounce), (&outer.id, 2));
    worker.answer(&inner, &json!("inner"));
    assert_eq!(other.expect_reply().body["result"], "inner");
    other.answer(&between, &json!("between"));
    assert_eq!(worker.expect_reply().body["result"], "between");
    worker.answer(&outer, &json!("outer"));
    assert_eq!(asked.join().unwrap().result(), "outer");
    idle.expect_nothing();
}

#[test]
fn a_stop_lets_workers_finish_and_ends_their_connections() {
    let mut world = World::new(&[]);
    let mut worker = world.first_worker("a", &ops(&["x"]));
    let asked = call(&Client::anonymous(&world.server), "x", json!({}));
    let request = worker.expect_request("x");
    world.server.begin_to_terminate();
    worker.expect_nothing();
    worker.answer(&request, &json!("done"));
    assert_eq!(asked.join().unwrap().result(), "done");
    worker.expect_end();
    assert!(world.server.wait().success());
    assert!(!world.path.exists());
}
