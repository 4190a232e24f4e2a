//! Plugins that are gone after a good start: whoever watches the server is told.

use serde_json::{Value as Json, json};

use super::http::{ready, server as http_server};
use super::http_plugin::{HttpPlugin, Reaction};
use super::look::skytrail;
use super::worker::Worker;
use super::{save, server};
use crate::door::{figure, scrape};
use crate::support::client::{Client, status_of};
use crate::support::eventually;
use crate::support::server::{TestServer, lasting_address};

const WORKERS: &str = "skytrail_plugin_workers{plugin=\"TEST\"}";
const MISSING: &str = "skytrail_plugin_missing{plugin=\"TEST\"}";

/// Waits until the health is degraded for a reason that contains these words.
fn await_reason(server: &TestServer, words: &str) {
    let master = Client::master(server);
    eventually("the health says that the plugin is missing", || {
        let health = master.health();
        let is_said = health["reasons"].to_string().contains(words);
        (is_said && health["status"] == "degraded").then_some(())
    });
}

fn await_no_reason(server: &TestServer) {
    let master = Client::master(server);
    eventually("the health is well", || {
        let health = master.health();
        (health["status"] == "OK" && health["reasons"].is_null()).then_some(())
    });
}

fn healthz(server: &TestServer) -> u16 {
    let url = format!("{}/_status/healthz", server.base_url);
    status_of("GET", &url, &[])
}

fn num_endings(metrics: &str, ending: &str) -> f64 {
    let sample = "skytrail_plugin_endings_total{plugin=\"TEST\",ending=\"";
    figure(metrics, &format!("{sample}{ending}\"}}"))
}

#[test]
fn a_plugin_without_workers_is_a_trouble_until_one_is_back() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "1")]);
    let points = json!({"hook": [super::hook("note", "beforeSave")]});
    let worker = Worker::ready(&server, &json!({}), &points);
    await_no_reason(&server);
    assert_eq!(figure(&scrape(&server), WORKERS), 1.0);
    worker.die();
    await_reason(&server, "no worker of the plugin TEST is connected");
    let master = Client::master(&server);
    let refused = save(&master, json!({"_id": "note/1"})).join().unwrap();
    assert_eq!(refused.result()[0]["code"], 118);
    assert_eq!(figure(&scrape(&server), WORKERS), 0.0);
    assert_eq!(figure(&scrape(&server), MISSING), 1.0);
    // A deploy that hangs connects, and does not register.
    let hanging = Worker::greet(&server, &json!({}));
    eventually("it is connected", || {
        (figure(&scrape(&server), WORKERS) == 1.0).then_some(())
    });
    assert_eq!(figure(&scrape(&server), MISSING), 1.0);
    await_reason(&server, "no worker of the plugin TEST is connected");
    hanging.die();
    // Everything else works, so a load balancer must not take the server away.
    assert_eq!(healthz(&server), 200);
    eventually("the log warns", || {
        let output = server.output();
        let mut warnings = output.lines().filter(|line| line.contains("WARN"));
        warnings
            .any(|line| line.contains("no worker of the plugin is connected"))
            .then_some(())
    });
    let (_, list, _) = skytrail(&server, &["plugin", "list"]);
    assert!(list.contains("TEST (websocket): not connected"), "{list}");
    let _worker = Worker::rejoin(&server, &points);
    await_no_reason(&server);
    assert_eq!(figure(&scrape(&server), WORKERS), 1.0);
}

#[test]
fn a_worker_that_only_broke_its_connection_is_missed_too() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "1")]);
    let points = json!({"op": [{"name": "a"}]});
    let mut worker = Worker::ready(&server, &json!({"features": ["resume"]}), &points);
    worker.break_link();
    await_reason(&server, "no worker of the plugin TEST is connected");
    assert_eq!(figure(&scrape(&server), WORKERS), 0.0);
    assert!(worker.come_back(&server));
    await_no_reason(&server);
}

#[test]
fn a_server_that_stops_does_not_warn_of_workers_that_leave() {
    let mut server = server(&[("PLUGIN_REJOIN_WAIT", "0")]);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    server.begin_to_terminate();
    worker.expect("drain");
    worker.say_goodbye();
    server.wait();
    let output = server.output();
    assert!(!output.contains("no worker of the plugin"), "{output}");
}

#[test]
fn a_plugin_that_has_not_registered_is_a_trouble() {
    let server = server(&[("PLUGIN_REJOIN_WAIT", "1")]);
    await_reason(&server, "the plugin TEST has not registered");
    assert_eq!(healthz(&server), 503);
    let _worker = Worker::ready(&server, &json!({}), &json!({"op": [{"name": "a"}]}));
    await_no_reason(&server);
}

#[test]
fn a_plugin_over_http_that_is_away_is_told_from_one_that_answers_errors() {
    let points = json!({"op": [{"name": "fail"}]});
    let fail = |_: &Json| Reaction::Json(json!({"error": {"code": 108, "message": "no"}}));
    let address = lasting_address();
    let plugin = HttpPlugin::start_at(&address, points.clone(), fail);
    let server = http_server(&plugin, &[("PLUGIN_REJOIN_WAIT", "1")]);
    let client = ready(&server);
    assert_eq!(client.call("fail", json!({})).code(), 108);
    assert_eq!(figure(&scrape(&server), WORKERS), 1.0);
    await_no_reason(&server);
    drop(plugin);
    // A call may still run into the end of a connection that was open.
    eventually("connections are refused", || {
        let answer = client.call("fail", json!({})).json()["error"].to_string();
        answer.contains("refused").then_some(())
    });
    let before = scrape(&server);
    client.call("fail", json!({}));
    let after = scrape(&server);
    let moved = |ending: &str| num_endings(&after, ending) - num_endings(&before, ending);
    assert_eq!((moved("unreached"), moved("error")), (1.0, 0.0));
    assert_eq!(figure(&after, WORKERS), 0.0);
    await_reason(&server, "the plugin TEST cannot be reached");
    assert_eq!(healthz(&server), 200);
    let (_, list, _) = skytrail(&server, &["plugin", "list"]);
    assert!(list.contains("TEST (http): cannot be reached"), "{list}");
    let _plugin = HttpPlugin::start_at(&address, points, fail);
    await_no_reason(&server);
    assert_eq!(figure(&scrape(&server), WORKERS), 1.0);
}
