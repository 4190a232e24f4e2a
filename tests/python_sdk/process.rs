//! The plugin as a process: asked to end, killed, without its server.

use serde_json::json;

use super::{await_ready, command, lambda, seen, server, start};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::server::{TestServer, lasting_address};

#[test]
fn a_plugin_that_is_told_to_end_finishes_what_runs() {
    let server = server();
    let mut plugin = start(&server);
    let sleeping: Vec<_> = [false, true]
        .map(|is_blocking| {
            let client = Client::anonymous(&server);
            std::thread::spawn(move || client.call("demo:sleep", json!({"args": [1, is_blocking]})))
        })
        .into();
    eventually("the plugin sleeps", || {
        let events = seen(&server)["events"].clone();
        let events = events.as_array()?.iter();
        (events.filter(|event| *event == "sleeping").count() == 2).then_some(())
    });
    plugin.ask_to_end();
    for sleeping in sleeping {
        assert_eq!(sleeping.join().unwrap().result(), json!({"slept": 1}));
    }
    assert!(plugin.wait().success());
}

#[test]
fn what_nobody_waits_for_any_more_is_stopped() {
    let server = server();
    let _plugin = start(&server);
    let client = Client::anonymous(&server);
    let late = client.call("demo:hasty", json!({}));
    assert_eq!((late.status, late.code()), (504, 119));
    eventually("the function is stopped", || {
        (seen(&server)["cancelled"] == 1).then_some(())
    });
}

#[test]
fn a_plugin_that_was_killed_is_missed_until_it_is_back() {
    let server = server();
    let plugin = start(&server);
    let before = seen(&server)["pid"].clone();
    drop(plugin);
    let _plugin = Program::start(&mut command(&server));
    eventually("the plugin is back", || {
        let client = Client::anonymous(&server);
        let answer = client.call("demo:seen", json!({}));
        (answer.status == 200 && answer.result()["pid"] != before).then_some(())
    });
}

#[test]
fn a_plugin_comes_back_to_a_server_that_was_restarted() {
    let mut server = TestServer::with(&[("PLUGINS", "DEMO"), ("HOST", &lasting_address())]);
    let _plugin = start(&server);
    let before = seen(&server)["pid"].clone();
    server.kill();
    server.restart();
    await_ready(&server);
    assert_eq!(seen(&server)["pid"], before);
    assert!(server.terminate().success());
    server.restart();
    await_ready(&server);
    let client = Client::anonymous(&server);
    assert_eq!(lambda(&client, "demo:nest", json!([2])), 2);
    assert_eq!(seen(&server)["pid"], before);
}

#[test]
fn a_server_that_does_not_know_the_plugin_ends_it() {
    let server = server();
    let mut stranger = Program::start(command(&server).env("PLUGIN_NAME", "STRANGER"));
    assert!(!stranger.wait().success());
}
