//! Plugins that are called over HTTP.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::http_plugin::{HttpPlugin, Reaction};
use super::worker::Worker;
use super::{call, hook, save};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::{TestServer, lasting_address};

/// Starts a server with a plugin over http.
pub(super) fn server(plugin: &HttpPlugin, settings: &[(&str, &str)]) -> TestServer {
    server_at(&plugin.url(), settings)
}

fn server_at(url: &str, settings: &[(&str, &str)]) -> TestServer {
    let mut all = vec![
        ("PLUGINS", "TEST"),
        ("TEST_TRANSPORT", "http"),
        ("TEST_PATH", url),
    ];
    all.extend(settings);
    TestServer::with(&all)
}

/// Waits until clients are served.
pub fn ready(server: &TestServer) -> Client {
    let master = Client::master(server);
    eventually("clients are served", || {
        let answer = master.call("schema:fetch", json!({}));
        (answer.status == 200).then_some(())
    });
    Client::anonymous(server)
}

fn op(name: &str) -> Json {
    json!({"op": [{"name": name}]})
}

fn echo(request: &Json) -> Reaction {
    Reaction::result(request["param"]["args"].clone())
}

#[test]
fn a_plugin_is_initialised_and_asked() {
    let mut points = op("say");
    points["hook"] = json!([hook("note", "beforeSave")]);
    let plugin = HttpPlugin::start(points, |request| match request["kind"].as_str() {
        Some("hook") => {
            let mut record = request["param"]["record"].clone();
            record["seen"] = json!(true);
            Reaction::result(record)
        }
        _ => echo(request),
    });
    let server = server(&plugin, &[]);
    let client = ready(&server);
    let answer = client.call("say", json!({"args": ["ä", {"n": 1.5}]}));
    assert_eq!(answer.result(), json!(["ä", {"n": 1.5}]));
    let ada = Client::signed_up(&server, "ada");
    let saved = save(&ada, json!({"_id": "note/1", "title": "x"})).join();
    assert_eq!(saved.unwrap().result()[0]["seen"], true);

    let events = eventually("all events came", || {
        let events = plugin.names("event");
        events
            .contains(&"server-ready".to_owned())
            .then_some(events)
    });
    let of_start: Vec<_> = events.iter().filter(|it| *it != "schema-changed").collect();
    assert_eq!(
        of_start,
        [
            "before-config",
            "init",
            "after-config",
            "before-plugins-ready",
            "after-plugins-ready",
            "server-ready"
        ]
    );
    let posted = plugin.posted();
    let head = &posted[0].head;
    assert_eq!(head[0], "POST / HTTP/1.1");
    let has_type = |line: &String| line.eq_ignore_ascii_case("content-type: application/json");
    assert!(head.iter().any(has_type), "{head:?}");
    let asked = plugin.await_request("say");
    let members: Vec<_> = asked.as_object().unwrap().keys().collect();
    assert_eq!(members, ["context", "kind", "name", "param"]);
}

#[test]
fn many_requests_are_under_way_at_once_up_to_the_window() {
    let plugin = HttpPlugin::start(op("wait"), |_| Reaction::Hang);
    let server = server(&plugin, &[("TEST_WINDOW", "20"), ("TEST_TIMEOUT", "8")]);
    let client = ready(&server);
    let calls: Vec<_> = (0..30).map(|_| call(&client, "wait", json!({}))).collect();
    eventually("the window is full", || {
        (plugin.names("op").len() == 20).then_some(())
    });
    let answers: Vec<_> = calls.into_iter().map(|it| it.join().unwrap()).collect();
    for answer in answers {
        let error = answer.json()["error"].clone();
        assert_eq!(
            (answer.status, &error["code"], &error["message"]),
            (500, &json!(10000), &json!("Plugin time out"))
        );
    }
    eventually("nobody waits any more", || {
        (plugin.num_hung_up_on() == plugin.names("op").len()).then_some(())
    });
}

#[test]
fn who_is_away_at_the_start_is_waited_for() {
    let address = lasting_address();
    let server = server_at(&format!("http://{address}"), &[]);
    let client = Client::anonymous(&server);
    let answer = client.call("schema:fetch", json!({}));
    assert_eq!((answer.status, answer.code()), (503, 118));
    assert_eq!(
        answer.json()["error"]["message"],
        "plugins are unavailable at the moment"
    );
    eventually("the server has tried, and says so", || {
        let output = server.output();
        let is_said = output.contains("cannot be reached") && output.contains("Connection refused");
        is_said.then_some(())
    });
    let _plugin = HttpPlugin::start_at(&address, op("say"), echo);
    let client = ready(&server);
    assert_eq!(
        client.call("say", json!({"args": [1]})).result(),
        json!([1])
    );
}

#[test]
fn a_bad_registration_is_refused_as_a_whole_with_its_reasons() {
    let address = lasting_address();
    let bad = json!({"op": [{"name": "fine"}, {"name": 5}],
        "timer": [{"name": "t", "spec": "when it rains"}],
        "handler": [{"name": "pubsub", "methods": ["GET"]}]});
    let plugin = HttpPlugin::start_at(&address, bad, echo);
    let server = server(&plugin, &[]);
    let client = Client::anonymous(&server);
    let output = eventually("it was refused again and again", || {
        let tried = plugin.names("event");
        let num_tried = tried.iter().filter(|name| *name == "init").count();
        let output = server.output();
        (num_tried >= 4 && output.contains("refused again")).then_some(output)
    });
    // The reasons are logged once, and later only that they are the same.
    for said in [
        "op: name should be a string",
        "the path /pubsub belongs to the server",
        "timer \"t\": expected 5 or 6 fields",
        "refused again, for the same reasons",
    ] {
        assert_eq!(output.matches(said).count(), 1, "{said}: {output}");
    }
    assert_eq!(
        client.call("fine", json!({})).code(),
        118,
        "it may come yet"
    );
    assert_eq!(client.call("schema:fetch", json!({})).code(), 118);
    // Once corrected it is accepted, without a restart of the server.
    drop(plugin);
    let _plugin = HttpPlugin::start_at(&address, op("fine"), echo);
    let client = ready(&server);
    assert_eq!(
        client.call("fine", json!({"args": [1]})).result(),
        json!([1])
    );
}

#[test]
fn a_plugin_that_comes_back_is_initialised_again() {
    let address = lasting_address();
    let plugin = HttpPlugin::start_at(&address, op("old"), echo);
    let server = server(&plugin, &[]);
    let client = ready(&server);
    assert_eq!(
        client.call("old", json!({"args": [1]})).result(),
        json!([1])
    );
    drop(plugin);
    // A call may still run into the end of a connection that was open.
    eventually("connections are refused", || {
        let answer = client.call("old", json!({}));
        assert_eq!((answer.status, answer.code()), (500, 10000));
        let message = answer.json()["error"]["message"].to_string();
        message.contains("refused").then_some(())
    });
    let plugin = HttpPlugin::start_at(&address, op("new"), echo);
    eventually("the new points count", || {
        let answer = client.call("new", json!({"args": [2]}));
        (answer.json()["result"] == json!([2])).then_some(())
    });
    eventually("the old ones do not", || {
        let answer = client.call("old", json!({"args": [2]}));
        (answer.json()["result"] != json!([2])).then_some(())
    });
    eventually("it is told that it serves", || {
        let events = plugin.names("event");
        events.contains(&"server-ready".to_owned()).then_some(())
    });
}

#[test]
fn a_plugin_that_is_killed_during_a_call_fails_that_call() {
    let plugin = HttpPlugin::start(op("wait"), |_| Reaction::Hang);
    let server = server(&plugin, &[]);
    let client = ready(&server);
    let waiting = call(&client, "wait", json!({}));
    plugin.await_request("wait");
    drop(plugin);
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, answer.code()), (500, 10000));
    ready(&server);
}

#[test]
fn a_plugin_that_hangs_up_on_a_call_is_not_initialised_again() {
    let points = json!({"op": [{"name": "say"}, {"name": "gone"}]});
    let plugin = HttpPlugin::start(points, |request| match request["name"].as_str() {
        Some("gone") => Reaction::HangUp,
        _ => echo(request),
    });
    let server = server(&plugin, &[]);
    let client = ready(&server);
    eventually("all events came", || {
        let events = plugin.names("event");
        events.contains(&"server-ready".to_owned()).then_some(())
    });
    for number in 0..11 {
        assert_eq!(client.call("gone", json!({})).code(), 10000);
        let answer = client.call("say", json!({"args": [number]}));
        assert_eq!(answer.result(), json!([number]));
    }
    // This request came later: a new initialisation would have begun before it.
    let events = plugin.names("event");
    let num_begun = events.iter().filter(|it| *it == "before-config").count();
    assert_eq!(num_begun, 1, "{events:?}");
}

#[test]
fn answers_that_are_none_are_errors() {
    let plugin = HttpPlugin::start(
        json!({"op": [{"name": "text"}, {"name": "large"}, {"name": "empty"}, {"name": "gone"},
            {"name": "both"}]}),
        |request| match request["name"].as_str().unwrap() {
            "text" => Reaction::Text(200, "<html>".to_owned()),
            "large" => Reaction::Text(200, format!("{{\"result\":\"{}\"}}", "x".repeat(5000))),
            "empty" => Reaction::Json(json!({})),
            "both" => Reaction::Text(
                400,
                r#"{"error":{"code":108,"message":"no"},"result":1}"#.to_owned(),
            ),
            _ => Reaction::HangUp,
        },
    );
    let server = server(&plugin, &[("PLUGIN_MAX_MESSAGE", "4096")]);
    let client = ready(&server);
    let error = |name: &str| {
        let answer = client.call(name, json!({}));
        let error = answer.json()["error"].clone();
        (
            answer.status,
            answer.code(),
            error["message"].as_str().unwrap().to_owned(),
        )
    };
    let (status, code, message) = error("text");
    assert_eq!((status, code), (500, 10000));
    let not_json = "Failed to parse plugin response: the plugin's answer is not JSON: ";
    assert!(message.starts_with(not_json), "{message}");
    eventually("the log shows how it begins", || {
        let output = server.output();
        let mut lines = output.lines();
        lines.find(|line| line.contains("answer cannot be read") && line.contains("<html>"))?;
        Some(())
    });
    let (status, code, message) = error("large");
    assert_eq!((status, code), (500, 10000));
    assert_eq!(
        message,
        "Failed to parse plugin response: more than 4096 bytes"
    );
    assert_eq!(error("empty").1, 10000);
    assert_eq!(error("gone").1, 10000);
    assert_eq!(
        error("both"),
        (400, 108, "no".to_owned()),
        "the status does not count"
    );
}

/// A plugin whose hooks are given a request and a client for their own calls.
fn calling(
    points: Json,
    settings: &[(&str, &str)],
    react: impl Fn(&Client, &Json) -> Reaction + Send + Sync + 'static,
) -> (HttpPlugin, TestServer) {
    let own: Arc<OnceLock<Client>> = Arc::default();
    let known = Arc::clone(&own);
    let plugin = HttpPlugin::start(points, move |request| react(known.wait(), request));
    let server = server(&plugin, settings);
    own.set(Client::master(&server)).unwrap();
    (plugin, server)
}

#[test]
fn a_before_hook_may_name_records_and_files_that_it_makes_over_http() {
    let number = AtomicU32::new(0);
    let react = move |client: &Client, request: &Json| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        let audit = format!("audit/{number}");
        client.save(&audit, json!({}));
        let mut record = request["param"]["record"].clone();
        record["audit"] = json!({"$type": "ref", "$id": audit});
        Reaction::result(record)
    };
    let hooks = json!({"hook": [hook("note", "beforeSave"), hook("user", "beforeSave")]});
    let (plugin, server) = calling(hooks, &[], react);
    ready(&server);
    let master = Client::master(&server);
    let audit = json!({"fields": [{"name": "audit", "type": "ref(audit)"}]});
    let types = json!({"audit": {"fields": []}, "note": audit, "user": audit});
    let types = json!({"record_types": types});
    master.call("schema:create", types).result();
    let ada = Client::signed_up(&server, "ada");
    assert_eq!(plugin.names("hook").len(), 1);
    for n in 2..4 {
        let saved = ada.save("note/1", json!({"n": n}));
        assert_eq!(saved["audit"]["$id"], format!("audit/{}", n - 1));
        assert_eq!(plugin.names("hook").len(), n);
    }
}

#[test]
fn an_after_hook_may_save_its_own_record_over_http() {
    let react = |client: &Client, request: &Json| {
        let record = request["param"]["record"].clone();
        if record["seen"] != true {
            client.save("note/1", json!({"seen": true}));
        }
        Reaction::result(record)
    };
    let hooks = json!({"hook": [hook("note", "afterSave")]});
    let (plugin, server) = calling(hooks, &[], react);
    ready(&server);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"_access": null, "n": 1}));
    assert_eq!(plugin.names("hook").len(), 2);
    assert_eq!(ada.query("note", json!([]))[0]["seen"], true);
}

#[test]
fn an_after_hook_whose_answer_is_not_the_plugins_is_told_again() {
    let number = AtomicU32::new(0);
    let react = move |_: &Client, request: &Json| match number.fetch_add(1, Ordering::SeqCst) {
        0 => Reaction::Text(502, "<html>Bad Gateway</html>".to_owned()),
        1 => Reaction::Text(200, format!("{{\"result\":\"{}\"}}", "x".repeat(5000))),
        _ => Reaction::result(request["param"]["record"].clone()),
    };
    let hooks = json!({"hook": [hook("note", "afterSave")]});
    let (plugin, server) = calling(hooks, &[("PLUGIN_MAX_MESSAGE", "4096")], react);
    ready(&server);
    let ada = Client::signed_up(&server, "ada");
    let answer = save(&ada, json!({"_id": "note/1"})).join().unwrap();
    let message = answer.result()[0]["message"].to_string();
    assert!(
        message.contains("Failed to parse plugin response"),
        "{message}"
    );
    eventually("it was told three times", || {
        (plugin.names("hook").len() == 3).then_some(())
    });
}

#[test]
fn a_client_that_is_told_122_or_leaves_ends_the_request() {
    let plugin = HttpPlugin::start(op("wait"), |_| Reaction::Hang);
    let server = server(&plugin, &[("RESPONSE_TIMEOUT", "1")]);
    let client = ready(&server);
    let answer = client.call("wait", json!({}));
    assert_eq!((answer.status, answer.code()), (503, 122));
    eventually("the server hung up", || {
        (plugin.num_hung_up_on() == 1).then_some(())
    });
}

#[test]
fn a_plugin_over_http_does_not_connect_by_itself() {
    let plugin = HttpPlugin::start(op("say"), echo);
    let server = server(&plugin, &[]);
    ready(&server);
    let mut worker = Worker::connect(&server);
    worker.send(json!({"type": "hello", "plugin": "TEST", "generation": 99}));
    assert_eq!(worker.expect_close(), 4003);
}

#[test]
fn a_drained_server_waits_for_what_runs() {
    let (go_on, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let plugin = HttpPlugin::start(op("slow"), move |_| {
        let told = gate.lock().unwrap().recv_timeout(Duration::from_secs(30));
        told.map_or_else(
            |_| Reaction::result(json!("too long")),
            |()| Reaction::result(json!("done")),
        )
    });
    let mut server = server(&plugin, &[]);
    let client = ready(&server);
    let waiting = call(&client, "slow", json!({}));
    plugin.await_request("slow");
    server.begin_to_terminate();
    // A server that waits shows nothing; one that does not wait is gone by then.
    std::thread::park_timeout(Duration::from_millis(500));
    go_on.send(()).unwrap();
    assert_eq!(waiting.join().unwrap().result(), "done");
    assert!(server.wait().success());
}

#[test]
fn nobodys_credentials_are_wrong_because_a_plugin_over_http_is_slow_or_away() {
    let points = json!({"provider": [
        {"type": "auth", "id": "acme"},
        {"type": "auth", "id": "slow", "timeout_ms": 1000},
    ]});
    let plugin = HttpPlugin::start(points, |request| match request["param"]["auth_data"]["do"]
        .as_str()
    {
        Some("hang") => Reaction::Hang,
        Some("hang up") => Reaction::HangUp,
        Some("nonsense") => Reaction::Text(502, "<html>".to_owned()),
        Some("say so") => Reaction::Json(json!({"error": {"code": 118, "message": "later"}})),
        _ => Reaction::Json(json!({"error": {"code": 10_000, "message": "no"}})),
    });
    let server = server(&plugin, &[("AUTH_THROTTLE", "on")]);
    let client = ready(&server);
    let try_it = |what: &str| {
        let provider = if what == "hang" { "slow" } else { "acme" };
        let body = json!({"provider": provider, "provider_auth_data": {"do": what}});
        let answers = ["auth:login", "auth:signup"].map(|it| client.call(it, body.clone()));
        answers.map(|answer| (answer.status, answer.code()))
    };
    assert_eq!(try_it("hang"), [(504, 119); 2]);
    // More often than the tries allowed: a try that was never judged does not count as a guess.
    for _ in 0..6 {
        assert_eq!(try_it("hang up"), [(503, 118); 2]);
        assert_eq!(try_it("nonsense"), [(503, 118); 2]);
        assert_eq!(try_it("say so"), [(503, 118); 2]);
    }
    assert_eq!(try_it("refuse"), [(401, 105); 2]);
    drop(plugin);
    assert_eq!(try_it("refuse"), [(503, 118); 2]);
    let refusals = Client::master(&server).call("audit:refusals", json!({}));
    let refusals = refusals.result();
    let counted = refusals.as_array().unwrap().iter();
    let counted: Vec<_> = counted.map(|it| (&it["reason"], &it["count"])).collect();
    assert_eq!(
        counted,
        [(&json!("wrong_credentials"), &json!(2))],
        "{refusals}"
    );
}

#[test]
fn nobody_is_shown_the_address_of_a_plugin_that_is_away() {
    let plugin = HttpPlugin::start(op("say"), echo);
    let secret = format!("http://name:pass-word@{}/x?token=se-cret", plugin.address);
    let server = server_at(&secret, &[]);
    let client = ready(&server);
    assert_eq!(
        client.call("say", json!({"args": [1]})).result(),
        json!([1])
    );
    drop(plugin);
    // A call may still run into the end of a connection that was open.
    let message = eventually("connections are refused", || {
        let answer = client.call("say", json!({"args": [1]}));
        let message = answer.json()["error"]["message"].to_string();
        message.contains("Connection refused").then_some(message)
    });
    let log = eventually("it is logged", || {
        let output = server.output();
        output
            .contains("the plugin cannot be reached")
            .then_some(output)
    });
    for text in [&message, &log] {
        assert!(
            !text.contains("se-cret") && !text.contains("pass-word"),
            "{text}"
        );
    }
}
