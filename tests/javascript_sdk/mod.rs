//! `sdks/js` against the real server: the plugin `sdks/js/test/every-point.js` as a program of its
//! own, and clients over HTTP.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::scope;

use serde_json::{Value as Json, json};

use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::program::{Program, bounded, repository, set_up};
use crate::support::proxy::Proxy;
use crate::support::server::{MASTER_KEY, TestServer};

/// Returns a command that runs the plugin for the server at an address, such as a proxy's.
fn plugin_at(address: &str) -> Command {
    plugin_by(Command::new("node"), address)
}

/// The same with a given command for node.
fn plugin_by(mut node: Command, address: &str) -> Command {
    set_up("sdks/js/node_modules/ws");
    node.arg(repository("sdks/js/test/every-point.js"))
        .env("SKYGEAR_ENDPOINT", format!("http://{address}"))
        .env("MASTER_KEY", MASTER_KEY)
        .env("PLUGIN_NAME", "JS")
        .stdin(Stdio::null());
    node
}

fn start(server: &TestServer) -> Program {
    let plugin = Program::start(&mut plugin_at(server.address()));
    await_ready(server);
    plugin
}

/// Waits until clients are served.
fn await_ready(server: &TestServer) {
    let client = Client::anonymous(server);
    eventually("the plugin is ready", || {
        (client.call("js:echo", json!({})).status == 200).then_some(())
    });
}

fn server() -> TestServer {
    TestServer::with(&[("PLUGINS", "JS")])
}

fn seen(client: &Client) -> Json {
    client.call("js:seen", json!({})).result()
}

#[test]
fn lambdas_take_and_give_values_errors_and_limits() {
    let server = server();
    let _plugin = start(&server);
    let (nobody, ada) = (
        Client::anonymous(&server),
        Client::signed_up(&server, "ada"),
    );
    let echo = |client: &Client, args: Json| client.call("js:echo", json!({"args": args})).result();
    let values = json!({
        "day": {"$type": "date", "$date": "2020-01-02T03:04:05.123456Z"},
        "room": {"$type": "ref", "$id": "room/1"},
        "place": {"$type": "geo", "$lng": 114.1, "$lat": 22.3},
        "list": [null, 0, false, "", {}, []],
    });
    let answer = json!({"args": values, "user": ada.user});
    assert_eq!(echo(&ada, values), answer);
    let day = json!({"$type": "date", "$date": "2020-01-02T03:04:05Z"});
    let later = nobody.call("js:later", json!({"args": [day]})).result();
    assert_eq!(later["$date"], "2020-01-02T04:04:05Z");

    let refused = nobody.call("js:refuse", json!({"args": {}}));
    assert_eq!((refused.status, refused.code()), (400, 108));
    assert_eq!(refused.json()["error"]["info"], json!({"arguments": ["x"]}));
    let broken = nobody.call("js:refuse", json!({"args": {"plainly": true}}));
    assert_eq!((broken.status, broken.code()), (500, 10000));
    assert_eq!(broken.json()["error"]["message"], "a plain error");

    let mine = nobody.call("js:mine", json!({}));
    assert_eq!(mine.code(), 101);
    let mine = ada.call("js:mine", json!({})).result();
    assert_eq!(
        mine,
        json!({"title": "mine", "owner": ada.user, "count": 1})
    );

    let late = nobody.call("js:wait", json!({}));
    assert_eq!((late.status, late.code()), (504, 119));
    eventually("the function learns of it", || {
        (seen(&nobody)["aborted"] == "deadline").then_some(())
    });
}

#[test]
fn what_goes_wrong_in_one_request_ends_no_other() {
    let server = server();
    let plugin = start(&server);
    let nobody = Client::anonymous(&server);
    let late = nobody.call("js:pair", json!({}));
    assert_eq!((late.status, late.code()), (504, 119));
    let odd = nobody.call("js:oddly", json!({}));
    assert_eq!((odd.status, odd.code()), (500, 10000));
    let large = nobody.call("js:large", json!({}));
    assert_eq!((large.status, large.code()), (500, 10000));
    let message = large.json()["error"]["message"].to_string();
    assert!(
        message.contains("limit of 8388608, PLUGIN_MAX_MESSAGE"),
        "{message}"
    );
    assert_eq!(seen(&nobody)["pid"], plugin.pid());
}

#[test]
fn handlers_take_and_give_bytes() {
    let server = server();
    let _plugin = start(&server);
    let url = format!("{}/js/bytes", server.base_url);
    let sent = vec![0, 159, 146, 150];
    let answer = send("POST", &url, &[], Some(sent.clone())).unwrap();
    assert_eq!(answer.bytes, [vec![0, 255, 128], sent].concat());
    assert_eq!(
        answer.header("Content-Type"),
        Some("application/octet-stream")
    );
    let url = format!("{}/js/tree/a%20b/c?x=1", server.base_url);
    let answer = send("GET", &url, &[], None).unwrap();
    let expected = json!({"path": "/js/tree/a b/c", "method": "GET", "query": {"x": "1"}});
    assert_eq!((answer.status, answer.json()), (201, expected));
    let cookies = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie");
    assert_eq!(cookies.count(), 2);
}

#[test]
fn hooks_change_refuse_and_are_told_of_records() {
    let server = server();
    let _plugin = start(&server);
    let ada = Client::signed_up(&server, "ada");
    let when = json!({"$type": "date", "$date": "2020-01-02T03:04:05.123456Z"});
    let fields = json!({"title": " hi ", "log": true, "when": when});
    let saved = ada.save("note/1", fields);
    assert_eq!(
        (&saved["title"], &saved["revision"]),
        (&json!("hi"), &json!(1))
    );
    assert_eq!(saved["when"], when, "a date goes through a hook as it came");
    // The hook's own save had a hook, run by the same worker.
    let texts: Vec<Json> = ada
        .query("entry", json!([]))
        .into_iter()
        .map(|entry| entry["text"].clone())
        .collect();
    assert!(texts.contains(&json!("saved: hi")), "{texts:?}");
    assert!(
        texts.contains(&json!("saved: the plugin was here")),
        "{texts:?}"
    );
    assert_eq!(ada.save("note/1", json!({"log": false}))["revision"], 2);

    let records = json!([{"_id": "note/2"}, {"_id": "note/3", "title": "ok", "locked": true}]);
    let slots = ada
        .call("record:save", json!({"records": records}))
        .result();
    assert_eq!(
        (&slots[0]["code"], &slots[1]["title"]),
        (&json!(108), &json!("ok"))
    );
    let saved = seen(&ada)["saved"].clone();
    let titles: Vec<&Json> = saved
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["title"])
        .collect();
    assert_eq!(titles, ["hi", "hi", "ok"]);
    assert_eq!(
        (&saved[0]["first"], &saved[1]["first"]),
        (&json!(true), &json!(false))
    );

    let ids = json!({"ids": ["note/1", "note/3"]});
    let slots = ada.call("record:delete", ids).result();
    assert_eq!(
        (&slots[0]["_type"], &slots[1]["code"]),
        (&json!("record"), &json!(102))
    );
    assert_eq!(seen(&ada)["deleted"], json!(["note/1"]));
}

#[test]
fn no_field_of_a_client_passes_for_the_owner() {
    let server = server();
    let _plugin = start(&server);
    let ada = Client::signed_up(&server, "ada");
    let bob = Client::signed_up(&server, "bob");
    let access = json!([{"public": true, "level": "write"}]);
    ada.save("page/1", json!({"_access": access, "ownerID": "nobody"}));
    let forged = json!([{"_id": "page/1", "ownerID": bob.user, "toWire": 1, "access": "x"}]);
    let save = |client: &Client| {
        let saved = client.call("record:save", json!({"records": forged}));
        saved.result()[0].clone()
    };
    assert_eq!(save(&bob)["code"], 102);
    assert_eq!(save(&ada)["ownerID"], json!(bob.user));
}

#[test]
fn providers_timers_and_events() {
    let server = server();
    let _plugin = start(&server);
    let nobody = Client::anonymous(&server);
    let login = |pin: i64| {
        let data = json!({"name": "ada", "pin": pin});
        let body = json!({"provider": "js.pin", "provider_auth_data": data});
        nobody.call("auth:login", body)
    };
    assert_eq!(login(1).code(), 105);
    let (first, second) = (login(1234).result(), login(1234).result());
    assert_eq!(first["user_id"], second["user_id"]);
    eventually("the timer runs twice", || {
        (seen(&nobody)["timer"].as_i64().unwrap() >= 2).then_some(())
    });
    let events = [
        "before-plugins-ready of myapp",
        "after-plugins-ready of myapp",
        "server-ready of myapp",
    ];
    eventually("the events came", || {
        (seen(&nobody)["events"] == json!(events)).then_some(())
    });
}

/// Lets clients call `js:once` with keys of their own until told to stop; fails unless every call
/// is answered correctly.
struct Load<'a> {
    server: &'a TestServer,
    num_answered: AtomicUsize,
}

impl Load<'_> {
    const CLIENTS: usize = 4;

    fn run(&self, calls_each: usize) {
        scope(|scope| {
            for client in 0..Self::CLIENTS {
                scope.spawn(move || self.call(client, calls_each));
            }
        });
    }

    fn call(&self, client: usize, num_calls: usize) {
        let caller = Client::anonymous(self.server);
        for call in 0..num_calls {
            let key = format!("{client}-{call}");
            let answer = caller.call("js:once", json!({"args": [key]}));
            assert_eq!(answer.json(), json!({"result": key}));
            self.num_answered.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn await_answers(&self, number: usize) {
        eventually("calls are answered", || {
            (self.num_answered.load(Ordering::SeqCst) >= number).then_some(())
        });
    }
}

#[test]
fn a_socket_that_breaks_again_and_again_loses_nothing_and_repeats_nothing() {
    let server = server();
    let proxy = Proxy::to(server.address());
    let plugin = Program::start(&mut plugin_at(&proxy.address));
    await_ready(&server);
    let load = Load {
        server: &server,
        num_answered: AtomicUsize::new(0),
    };
    scope(|scope| {
        scope.spawn(|| load.run(25));
        for cut in 1..=5 {
            load.await_answers(15 * cut);
            eventually("a connection is cut", || (proxy.cut() > 0).then_some(()));
        }
    });
    let nobody = Client::anonymous(&server);
    let seen = seen(&nobody);
    let runs = seen["runs"].as_object().unwrap();
    assert_eq!(runs.len(), 25 * Load::CLIENTS);
    assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    // It is the same session: nothing was restarted.
    assert_eq!(seen["pid"], plugin.pid());
    assert_eq!(seen["events"].as_array().unwrap().len(), 3, "{seen}");
    let stored = nobody.query("run", json!([]));
    assert_eq!(stored.len(), 25 * Load::CLIENTS);
}

#[test]
fn a_worker_that_is_replaced_finishes_what_it_began() {
    let server = server();
    let old = start(&server);
    let load = Load {
        server: &server,
        num_answered: AtomicUsize::new(0),
    };
    let master = Client::master(&server);
    let new = Program::start(&mut plugin_at(server.address()));
    let new_pid = new.pid();
    eventually("both workers work", || {
        (seen(&master)["pid"] == new_pid).then_some(())
    });
    scope(|scope| {
        scope.spawn(|| load.run(40));
        load.await_answers(20);
        old.terminate();
        load.await_answers(40 * Load::CLIENTS);
        new.terminate();
    });
    let body = json!({"record_type": "run", "limit": 1000});
    let runs = master.call("record:query", body).result();
    let runs = runs.as_array().unwrap();
    assert_eq!(runs.len(), 40 * Load::CLIENTS);
    let by_new = runs.iter().filter(|run| run["pid"] == new_pid).count();
    assert!(0 < by_new && by_new < runs.len(), "both did some: {by_new}");
}

#[test]
fn a_plugin_with_a_name_that_nobody_knows_ends_and_says_so() {
    let server = server();
    let output = plugin_by(bounded("node"), server.address())
        .env("PLUGIN_NAME", "STRANGER")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the server refuses this plugin: 4003"),
        "{said}"
    );
    assert!(said.contains("not in the server's PLUGINS"), "{said}");
}
