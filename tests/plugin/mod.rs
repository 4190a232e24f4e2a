//! Plugins from outside: the real server, workers over real sockets, clients over HTTP.

mod anew;
mod assets;
mod at_work;
mod away;
mod calls;
mod deliveries;
mod door;
mod erasing;
mod exec;
mod failures;
mod golden;
mod handlers;
mod hooks;
pub mod http;
pub mod http_plugin;
mod lambdas;
mod look;
mod lost;
mod oddities;
mod providers;
mod resume;
mod rights;
pub mod samples;
mod start;
mod tasks;
pub mod worker;
mod zmq;

use std::thread::JoinHandle;

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client, send};
use crate::support::server::{MASTER_KEY, TestServer};

/// Starts a server that waits for plugin `TEST`.
fn server(settings: &[(&str, &str)]) -> TestServer {
    let all: Vec<_> = [("PLUGINS", "TEST")]
        .iter()
        .chain(settings)
        .copied()
        .collect();
    TestServer::with(&all)
}

/// Makes two workers ready, of plugins `TEST` and `OTHER`; the second one connects first.
fn two_ready(server: &TestServer, test: &Json, other: &Json) -> (worker::Worker, worker::Worker) {
    use worker::Worker;
    let mut second = Worker::greet(server, &json!({"plugin": "OTHER"}));
    second.register(other);
    let mut first = Worker::greet(server, &json!({}));
    first.register(test);
    for event in [
        "before-plugins-ready",
        "after-plugins-ready",
        "server-ready",
    ] {
        for worker in [&mut first, &mut second] {
            if event == "after-plugins-ready" {
                worker.expect("ready");
            }
            worker.serve_event(event);
        }
    }
    (first, second)
}

/// Returns the state of the server's first plugin.
fn plugin_state(server: &TestServer) -> Json {
    let url = format!("{}/_/health", server.base_url);
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    let states = send("GET", &url, &[key], None).unwrap().json();
    states["plugins"]["plugins"][0].clone()
}

/// Calls an action on a thread of its own.
pub fn call(client: &Client, action: &str, payload: Json) -> JoinHandle<Answer> {
    let (client, action) = (client.clone(), action.to_owned());
    std::thread::spawn(move || client.call(&action, payload))
}

/// Saves a record on a thread of its own.
fn save(client: &Client, record: Json) -> JoinHandle<Answer> {
    call(client, "record:save", json!({"records": [record]}))
}

/// Returns the registration of a hook.
pub fn hook(record_type: &str, trigger: &str) -> Json {
    let name = format!("{record_type}_{trigger}");
    json!({"name": name, "type": record_type, "trigger": trigger, "async": false})
}
