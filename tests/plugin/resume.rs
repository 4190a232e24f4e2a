//! Connections that break while a hook runs: clients do not notice, as long as the worker comes
//! back.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio_tungstenite::tungstenite::Message;

use super::worker::{Seen, Worker};
use super::{call, hook, plugin_state, save, server};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::server::{MASTER_KEY, TestServer};

fn points() -> Json {
    json!({"op": [{"name": "a"}, {"name": "b"}], "hook": [hook("note", "beforeSave")]})
}

fn ready(server: &TestServer) -> Worker {
    Worker::ready(server, &json!({"features": ["resume"]}), &points())
}

fn await_suspension(server: &TestServer) {
    eventually("the session is suspended", || {
        (plugin_state(server)["workers"][0]["is_suspended"] == true).then_some(())
    });
}

#[test]
fn socket_breaks_worker_lives_back_within_the_time() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1", "n": 1}));
    let request = worker.expect_request("note_beforeSave");
    // The answer never arrives, and while no worker is connected a client asks for more.
    let mut record = request["param"]["record"].clone();
    record["n"] = json!(2);
    worker.lose(json!({"type": "response", "id": request["id"], "result": record}));
    worker.break_link();
    await_suspension(&server);
    let asked = call(&ada, "a", json!({}));
    assert!(worker.come_back(&server));
    assert_eq!(saving.join().unwrap().result()[0]["n"], 2);
    let request = worker.expect_request("a");
    worker.answer(&request, &json!("again"));
    assert_eq!(asked.join().unwrap().result(), "again");
    assert_eq!(ada.query("note", json!([])).len(), 1);
    let state = plugin_state(&server);
    assert_eq!((&state["resumed"], &state["lost"]), (&json!(1), &json!(0)));
    let url = format!("{}/_/metrics", server.base_url);
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    let metrics = send("GET", &url, &[key], None).unwrap();
    let metrics = String::from_utf8(metrics.bytes).unwrap();
    for line in [
        "skytrail_plugin_resumes_total{plugin=\"TEST\"} 1",
        "skytrail_plugin_endings_total{plugin=\"TEST\",ending=\"result\"} 2",
        "skytrail_plugin_answer_seconds_count{plugin=\"TEST\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[test]
fn back_later_is_as_dead() {
    let server = server(&[("PLUGIN_RESUME", "1")]);
    let mut worker = ready(&server);
    let ada = Client::signed_up(&server, "ada");
    let saving = save(&ada, json!({"_id": "note/1"}));
    let request = worker.expect_request("note_beforeSave");
    let broken = Instant::now();
    worker.break_link();
    let slot = saving.join().unwrap().result();
    assert_eq!(slot[0]["info"]["reason"], "worker-lost", "{slot}");
    assert!(broken.elapsed() >= Duration::from_millis(900));
    assert!(ada.query("note", json!([])).is_empty());
    assert!(!worker.come_back(&server));
    worker.register(&points());
    worker.expect_ready();
    worker.answer_record(&request, &json!({}));
    worker.expect("warning");
    assert!(ada.query("note", json!([])).is_empty());
}

#[test]
fn a_socket_that_looks_alive_is_taken_over() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let client = Client::anonymous(&server);
    let asked = call(&client, "a", json!({}));
    let request = worker.expect_request("a");
    assert!(worker.come_back(&server));
    worker.answer(&request, &json!(1));
    assert_eq!(asked.join().unwrap().result(), 1);
    let mut next = Worker::greet(&server, &json!({"features": ["resume"]}));
    next.register(&points());
    next.expect("ready");
}

#[test]
fn a_worker_that_is_done_is_not_waited_for() {
    let server = server(&[]);
    let mut worker = ready(&server);
    let asked = call(&Client::anonymous(&server), "a", json!({}));
    worker.expect_request("a");
    let started = Instant::now();
    worker.say_goodbye();
    let answer = asked.join().unwrap();
    assert_eq!((answer.status, answer.code()), (503, 118));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_worker_that_does_not_read_is_left_and_others_serve() {
    let server = server(&[("PLUGIN_HEARTBEAT", "3"), ("TEST_TIMEOUT", "60")]);
    let mut deaf = ready(&server);
    let mut other = Worker::greet(&server, &json!({}));
    other.register(&points());
    other.expect("ready");
    let client = Client::anonymous(&server);
    // Far more than the sockets' buffers hold; the worker that reads gets its share and answers.
    let large = "x".repeat(4 << 20);
    let asked: Vec<_> = (0..8)
        .map(|_| call(&client, "a", json!({"args": [large]})))
        .collect();
    let mut answered = 0;
    let mut serve = |name: &str, timeout: Duration| match other.next(timeout) {
        Seen::Message(message) if message["type"] == "request" => {
            other.answer(&message, &json!("served"));
            answered += 1;
            message["name"] == name
        }
        Seen::Message(_) | Seen::Nothing => false,
        gone => panic!("the other worker, too: {gone:?}"),
    };
    eventually("the worker is left", || {
        // It signals that it is alive, but reads nothing.
        deaf.send_raw(ping());
        serve("a", Duration::from_millis(100));
        let state = plugin_state(&server);
        let workers = state["workers"].as_array().unwrap();
        let is_left = |worker: &Json| worker["is_suspended"] == true;
        workers.iter().any(is_left).then_some(())
    });
    let served = call(&client, "b", json!({}));
    eventually("others serve", || {
        serve("b", Duration::from_millis(100)).then_some(())
    });
    assert_eq!(served.join().unwrap().result(), "served");
    assert!(answered > 1);
    drop((deaf, asked));
}

fn ping() -> Message {
    Message::text(r#"{"type":"ping"}"#)
}
