//! Plugins that the server reaches and initialises anew: after a clash, and on request.

use serde_json::{Value as Json, json};

use super::http::{ready, server};
use super::http_plugin::{HttpPlugin, Reaction};
use super::look::skytrail;
use super::worker::Worker;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{TestServer, lasting_address};

fn pages() -> Json {
    json!({"op": [], "handler": [{"name": "static/", "methods": ["GET"]}]})
}

fn start(address: &str, points: Json) -> HttpPlugin {
    HttpPlugin::start_at(address, points, |_| Reaction::result(json!("here")))
}

fn op(name: &str) -> Json {
    json!({"op": [{"name": name}]})
}

fn problems(master: &Client, plugin: &str) -> Json {
    let shown = master.call("plugin:list", json!({})).result();
    let plugins = shown["plugins"].as_array().unwrap();
    let found = plugins.iter().find(|it| it["name"] == plugin);
    found.unwrap()["problems"].clone()
}

fn num_initialised(plugin: &HttpPlugin) -> usize {
    let events = plugin.names("event");
    events.iter().filter(|it| *it == "init").count()
}

/// Two plugins that clash: the first one has registered, the other one is refused.
struct Clash {
    server: TestServer,
    holder: Option<HttpPlugin>,
    refused: Option<HttpPlugin>,
    addresses: [String; 2],
}

fn clash() -> Clash {
    let addresses = [lasting_address(), lasting_address()];
    let urls = [0, 1].map(|at: usize| format!("http://{}", addresses[at]));
    let holder = start(&addresses[0], pages());
    let settings = [
        ("PLUGINS", "HOLDER,REFUSED"),
        ("HOLDER_TRANSPORT", "http"),
        ("HOLDER_PATH", &urls[0]),
        ("REFUSED_TRANSPORT", "http"),
        ("REFUSED_PATH", &urls[1]),
    ];
    let server = TestServer::with(&settings);
    holder.await_request("after-config");
    let refused = start(&addresses[1], pages());
    let master = Client::master(&server);
    eventually("one is refused", || {
        let problems = problems(&master, "REFUSED").to_string();
        problems
            .contains("HOLDER already has the path")
            .then_some(())
    });
    Clash {
        server,
        holder: Some(holder),
        refused: Some(refused),
        addresses,
    }
}

#[test]
fn a_clash_ends_when_the_plugin_that_has_the_path_gives_it_up() {
    let mut clash = clash();
    drop(clash.holder.take());
    let holder = start(&clash.addresses[0], op("hold"));
    let client = ready(&clash.server);
    assert_eq!(client.call("hold", json!({})).result(), "here");
    let master = Client::master(&clash.server);
    assert_eq!(problems(&master, "REFUSED"), Json::Null);
    drop(holder);
}

#[test]
fn a_clash_ends_when_the_refused_plugin_gives_the_path_up() {
    let mut clash = clash();
    drop(clash.refused.take());
    let refused = start(&clash.addresses[1], op("give"));
    let client = ready(&clash.server);
    assert_eq!(client.call("give", json!({})).result(), "here");
    drop(refused);
}

#[test]
fn plugins_that_still_clash_are_initialised_at_the_pace_of_the_retries() {
    let clash = clash();
    let (holder, refused) = (clash.holder.unwrap(), clash.refused.unwrap());
    eventually("it is asked a third time", || {
        (num_initialised(&refused) == 3).then_some(())
    });
    let num_holder = num_initialised(&holder);
    assert!((2..=4).contains(&num_holder), "{num_holder}");
}

#[test]
fn a_plugin_that_nobody_missed_is_initialised_on_request() {
    let address = lasting_address();
    let plugin = start(&address, op("old"));
    let server = server(&plugin, &[]);
    let client = ready(&server);
    assert_eq!(client.call("old", json!({})).result(), "here");
    let is_told = |plugin: &HttpPlugin| {
        eventually("it is told that it serves", || {
            let events = plugin.names("event");
            events.contains(&"server-ready".to_owned()).then_some(())
        });
    };
    // Otherwise the server might miss it while it tells it.
    is_told(&plugin);
    drop(plugin);
    let plugin = start(&address, op("new"));
    assert_eq!(client.call("new", json!({})).code(), 117);

    let master = Client::master(&server);
    let init = || master.call("plugin:init", json!({"plugin": "TEST"}));
    let told = init().result();
    assert_eq!(told["names"]["op"], json!(["new"]), "{told}");
    assert_eq!(told["points"]["op"], 1, "{told}");
    assert_eq!(client.call("new", json!({})).result(), "here");
    assert_eq!(client.call("old", json!({})).code(), 117);
    is_told(&plugin);

    drop(plugin);
    let bad = json!({"timer": [{"name": "tick", "spec": "60 * * * * *"}]});
    let plugin = start(&address, bad);
    let told = init().result();
    assert_eq!(told["problems"][0]["name"], "tick", "{told}");
    assert_eq!(client.call("new", json!({})).result(), "here");

    drop(plugin);
    let told = init().result();
    let why = told["problems"][0]["message"].as_str().unwrap();
    assert!(
        why.contains("cannot be reached") && why.contains("refused"),
        "{why}"
    );
    let (is_ok, said, wrong) = skytrail(&server, &["plugin", "init", "TEST"]);
    assert!(
        !is_ok && said.contains("cannot be reached"),
        "{said}{wrong}"
    );

    let _plugin = start(&address, op("last"));
    let (is_ok, said, wrong) = skytrail(&server, &["plugin", "init", "TEST"]);
    assert!(is_ok && said.contains("lambda last"), "{said}{wrong}");
    assert_eq!(client.call("last", json!({})).result(), "here");
}

#[test]
fn only_plugins_that_the_server_reaches_are_initialised_on_request() {
    let server = super::server(&[]);
    let _worker = Worker::ready(&server, &json!({}), &json!({}));
    let master = Client::master(&server);
    let answer = master.call("plugin:init", json!({"plugin": "TEST"}));
    assert_eq!((answer.status, answer.code()), (400, 108));
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("restart its workers"), "{message}");
    let answer = master.call("plugin:init", json!({"plugin": "NONE"}));
    assert_eq!((answer.status, answer.code()), (404, 110));
    assert_eq!(master.call("plugin:init", json!({})).code(), 108);
    let client = Client::anonymous(&server);
    let answer = client.call("plugin:init", json!({"plugin": "TEST"}));
    assert_eq!((answer.status, answer.code()), (401, 102));
}

#[test]
fn the_log_says_that_nothing_listens_and_when_it_is_tried_again() {
    let address = lasting_address();
    let url = format!("http://{address}");
    let settings = [
        ("PLUGINS", "TEST"),
        ("TEST_TRANSPORT", "http"),
        ("TEST_PATH", &url),
        ("DEV_MODE", "YES"),
    ];
    let server = TestServer::with(&settings);
    let lines = eventually("three tries are logged", || {
        let output = server.output();
        let is_try = |line: &&str| line.contains("next_try_s");
        let lines: Vec<_> = output.lines().filter(is_try).map(str::to_owned).collect();
        (lines.len() >= 3).then_some(lines)
    });
    for (line, pause) in lines.iter().zip([2, 4, 5]) {
        assert!(line.contains("the plugin cannot be reached"), "{line}");
        assert!(line.contains("Connection refused"), "{line}");
        assert!(line.contains(&format!("next_try_s={pause}")), "{line}");
    }
    let output = server.output();
    for untrue in ["worker connected", "registration refused"] {
        assert!(!output.contains(untrue), "{output}");
    }
    let _plugin = start(&address, op("say"));
    let client = ready(&server);
    assert_eq!(client.call("say", json!({})).result(), "here");
    eventually("it is logged", || {
        let output = server.output();
        output.contains("the plugin has registered").then_some(())
    });
}

#[test]
fn the_log_names_an_event_of_the_start_at_which_a_plugin_fails() {
    let failing = ["before-plugins-ready", "server-ready"];
    let plugin = HttpPlugin::start_raw("127.0.0.1:0", move |request| {
        match request["name"].as_str().unwrap() {
            "init" => Reaction::result(json!({})),
            name if failing.contains(&name) => Reaction::Json(
                json!({"error": {"code": 10_000, "message": format!("no table for {name}")}}),
            ),
            _ => Reaction::result(Json::Null),
        }
    });
    let server = server(&plugin, &[]);
    ready(&server);
    for event in failing {
        let line = eventually("the failure is logged", || {
            let output = server.output();
            let wanted = format!("no table for {event}");
            let line = output.lines().find(|line| line.contains(&wanted));
            line.map(str::to_owned)
        });
        assert!(line.contains("WARN") && line.contains("TEST"), "{line}");
        assert!(line.contains(&format!("event=\"{event}\"")), "{line}");
    }
    assert!(!server.output().contains("event=\"after-plugins-ready\""));
}
