//! The published Python runtime over zmq, unmodified.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::plugin::http::ready;
use crate::plugin::samples::{Sample, exercise, runtime};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::server::{TestServer, lasting_address};

/// The addresses of all parts.
struct Place {
    server: String,
    workers: String,
    database: String,
}

impl Place {
    fn new() -> Self {
        Self {
            server: lasting_address(),
            workers: format!("tcp://{}", lasting_address()),
            database: lasting_address(),
        }
    }

    fn start_plugin(&self) -> Program {
        let database_url = format!("postgresql://plugin:none@{}/none", self.database);
        Program::start(
            runtime(&self.server, &database_url)
                .env("SKYGEAR_ADDRESS", &self.workers)
                .args(["--serve-static-assets", "demo_plugin.py"]),
        )
    }

    fn start_server(&self) -> TestServer {
        TestServer::with(&[
            ("HOST", &self.server),
            ("PLUGINS", "DEMO"),
            ("DEMO_TRANSPORT", "zmq"),
            ("DEMO_PATH", "demo"),
            ("DEMO_ARGS", &self.workers),
            ("PLUGIN_NULL_DATABASE", &self.database),
        ])
    }
}

fn signal(plugin: &Program, name: &str) {
    let pid = plugin.pid().to_string();
    assert!(
        Command::new("kill")
            .args([name, &pid])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn the_python_sample_runs_over_zmq() {
    let place = Place::new();
    let plugin = place.start_plugin();
    let server = place.start_server();
    exercise(&Sample::new(server, vec![plugin]));
}

#[test]
fn a_save_in_the_sample_has_its_hook_in_the_thread_that_waits() {
    let place = Place::new();
    let _plugin = place.start_plugin();
    let server = place.start_server();
    let client = ready(&server);
    let record = json!({"_id": "demo_note/1", "title": "  a  "});
    let payload = json!({"records": [record]});
    let args = json!({"action": "record:save", "payload": payload});
    let saved = client.call("demo:call", json!({"args": args})).result();
    assert_eq!(saved["result"][0]["title"], "a", "{saved}");
    assert_eq!(saved["result"][0]["revision"], 1);
}

#[test]
fn the_sample_ends_with_an_interrupt_alone_and_is_initialised_again() {
    let place = Place::new();
    let mut plugin = place.start_plugin();
    let server = place.start_server();
    let client = ready(&server);
    let pid = |client: &Client| {
        let answer = client.call("demo:seen", json!({}));
        answer.json()["result"]["pid"].as_u64()
    };
    let first = pid(&client).unwrap();
    signal(&plugin, "-TERM");
    // An ignored signal has no effect that could be waited for.
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(pid(&client), Some(first));
    signal(&plugin, "-INT");
    plugin.wait();
    let _plugin = place.start_plugin();
    let second = eventually("the plugin is back", || pid(&client));
    assert_ne!(first, second);
    eventually("it has been told that clients are served", || {
        let seen = client.call("demo:seen", json!({})).json()["result"].clone();
        (seen["events"] == json!(["before-plugins-ready", "after-plugins-ready"])).then_some(())
    });
}
