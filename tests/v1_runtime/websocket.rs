//! The runtime over our own transport, through the bridge of the package `skytrail`.

use serde_json::json;

use super::points::{await_ready, exercise, seen};
use super::{PLUGIN, settings};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python, repository};
use crate::support::proxy::Proxy;
use crate::support::server::{TestServer, lasting_address};

/// Starts a server, and returns it with the address of an empty database, which the runtime's hooks
/// need.
fn server() -> (TestServer, String) {
    let database = lasting_address();
    let settings = [("PLUGINS", PLUGIN), ("PLUGIN_NULL_DATABASE", &database)];
    let url = format!("postgresql://plugin:none@{database}/none");
    (TestServer::with(&settings), url)
}

fn start(server: &TestServer, endpoint: &str, database: &str) -> Program {
    let mut command = python();
    command
        .args([
            "-m",
            "skytrail.v1",
            "--serve-static-assets",
            "--loglevel",
            "WARN",
        ])
        .arg(repository("tests/samples/demo_plugin.py"));
    settings(&mut command, server, database)
        .env("SKYGEAR_ENDPOINT", endpoint)
        .env("PLUGIN_NAME", PLUGIN);
    let plugin = Program::start(&mut command);
    await_ready(server);
    plugin
}

#[test]
fn every_point_works_over_a_websocket_and_the_plugin_drains() {
    let (server, url) = server();
    let plugin = start(&server, &server.base_url, &url);
    exercise(&server);
    plugin.terminate();
}

#[test]
fn a_connection_that_breaks_is_resumed() {
    let (server, url) = server();
    let proxy = Proxy::to(server.address());
    let _plugin = start(&server, &proxy.base_url(), &url);
    let client = Client::anonymous(&server);
    // Clients are served before the plugin is told so.
    let before = eventually("the start is over", || {
        let told = json!("after-plugins-ready");
        Some(seen(&server)).filter(|it| it["events"].as_array().unwrap().contains(&told))
    });
    let sleeping: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.call("demo:sleep", json!({"args": [6]})))
        })
        .collect();
    let master = Client::master(&server);
    eventually("the plugin works", || {
        (master.health()["plugins"]["in_flight"] == 3).then_some(())
    });
    proxy.cut();
    for sleeping in sleeping {
        assert_eq!(sleeping.join().unwrap().result()["slept"], 6);
    }
    let after = seen(&server);
    assert_eq!(after["pid"], before["pid"]);
    // A new session would have been initialised again, and told of the events.
    assert_eq!(after["events"], before["events"]);
    assert_eq!(master.health()["plugins"]["plugins"][0]["resumed"], 1);
}
