//! Who did it: every view gives the same user, key, plugin and hooks, and on whose behalf.

use serde_json::{Value as Json, json};

use crate::plugin::worker::Worker;
use crate::plugin::{call, hook};
use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

/// Returns what a command prints with the master key.
fn printed(server: &TestServer, arguments: &[&str]) -> String {
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let address = ["--server", server.base_url.as_str()];
    let output = server.skytrail(&[&["--set", &key], arguments, &address].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns what the views of many events print: the log, a search, and a user's changes.
fn views(server: &TestServer, user: &str) -> [String; 3] {
    let tail = server.skytrail(&["log", "tail", "-n", "100"]).stdout;
    [
        String::from_utf8(tail).unwrap(),
        printed(server, &["log", "search", "--user", user]),
        printed(server, &["audit", "changes", "--user", user]),
    ]
}

fn versions(master: &Client, record: &str) -> Vec<Json> {
    let listed = master.call("history:list", json!({"record": record}));
    listed.result()["versions"].as_array().unwrap().clone()
}

/// Makes a worker call an action during a request.
fn ask(worker: &mut Worker, request: &Json, payload: Json) -> Json {
    let call = json!({"type": "call", "id": "c1", "parent": request["id"], "payload": payload});
    worker.send(call);
    worker.expect("reply")["body"].clone()
}

fn save(record: &str) -> Json {
    json!({"action": "record:save", "records": [{"_id": record, "n": 1}]})
}

#[test]
fn every_view_tells_the_user_from_keys_and_plugins_that_acted_as_him() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let points = json!({"op": [{"name": "p:act"}], "hook": [hook("note", "beforeSave")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let id = ada.user.clone().unwrap();
    ada.save("memo/own", json!({"n": 1}));
    let asked = call(&ada, "p:act", json!({}));
    let request = worker.expect_request("p:act");
    let mut payload = save("memo/plugins");
    payload["access_token"] = json!(ada.token);
    assert_eq!(ask(&mut worker, &request, payload)["error"], Json::Null);
    worker.answer(&request, &Json::Null);
    asked.join().unwrap().result();
    let master_as_ada = master.with_token(ada.token.as_deref().unwrap());
    master_as_ada.save("memo/keys", json!({"n": 1}));
    let saving = call(
        &ada,
        "record:save",
        json!({"records": [{"_id": "note/1", "n": 1}]}),
    );
    let request = worker.expect_request("note_beforeSave");
    worker.answer_record(&request, &json!({"words": 9}));
    saving.join().unwrap().result();

    for said in views(&server, "ada") {
        let line = |record: &str| {
            let found = said.lines().position(|line| line.contains(record));
            said.lines()
                .skip(found.unwrap())
                .take(2)
                .collect::<Vec<_>>()
        };
        let of = |record: &str, who: &str| {
            let line = line(&format!("record/{record} "))[0];
            assert!(line.contains(&format!("by {id} ({who}")), "{line}");
        };
        of("memo/own", "client key, api)");
        of("memo/plugins", "master key, plugin TEST, for ");
        of("memo/keys", "master key, api)");
        of("note/1", "client key, api)");
        let hook = line("record/note/1 ")[1];
        assert_eq!(hook, "    hook TEST/note_beforeSave changed [\"words\"]");
    }
    // The history uses the same words.
    let said = printed(&server, &["history", "list", "memo/plugins"]);
    assert!(
        said.contains(&format!("{id} (master key, plugin TEST, for ")),
        "{said}"
    );
    let said = printed(&server, &["history", "list", "note/1"]);
    assert!(
        said.contains("    hook TEST/note_beforeSave changed [\"words\"]"),
        "{said}"
    );
    // Without a user, only the key and the origin are known.
    let said = views(&server, "ada")[0].clone();
    let made = said.lines().find(|line| line.contains("type/user v1 "));
    assert!(
        made.unwrap().contains("by nobody (master key, system)"),
        "{said}"
    );
}

#[test]
fn who_caused_what_a_plugin_wrote_is_known() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let points = json!({"op": [{"name": "p:god"}, {"name": "p:inner"}]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let (mal, master) = (Client::signed_up(&server, "mal"), Client::master(&server));
    let id = mal.user.clone().unwrap();
    let through = |point: &str| json!({"user": id, "point": point});

    // A lambda that writes with the master key.
    let asked = call(&mal, "p:god", json!({}));
    let request = worker.expect_request("p:god");
    ask(&mut worker, &request, save("memo/god"));
    worker.answer(&request, &Json::Null);
    asked.join().unwrap().result();
    let actor = versions(&master, "memo/god")[0]["actor"].clone();
    let expected = json!({"user": "_god", "key": "master", "origin": "plugin", "plugin": "TEST",
        "on_behalf": through("lambda TEST/p:god")});
    assert_eq!(actor, expected);

    // A lambda that calls another: the user and the first point count.
    let asked = call(&mal, "p:god", json!({}));
    let outer = worker.expect_request("p:god");
    let inner = json!({"type": "call", "id": "c2", "parent": outer["id"],
        "payload": {"action": "p:inner"}});
    worker.send(inner);
    let request = worker.expect_request("p:inner");
    ask(&mut worker, &request, save("memo/nested"));
    worker.answer(&request, &Json::Null);
    worker.expect("reply");
    worker.answer(&outer, &Json::Null);
    asked.join().unwrap().result();
    let actor = versions(&master, "memo/nested")[0]["actor"].clone();
    assert_eq!(actor["on_behalf"], through("lambda TEST/p:god"), "{actor}");

    // A caller without an account: the point, at least, is known.
    let asked = call(&Client::anonymous(&server), "p:god", json!({}));
    let request = worker.expect_request("p:god");
    ask(&mut worker, &request, save("memo/nobody"));
    worker.answer(&request, &Json::Null);
    asked.join().unwrap().result();
    let actor = versions(&master, "memo/nobody")[0]["actor"].clone();
    assert_eq!(
        actor["on_behalf"],
        json!({"point": "lambda TEST/p:god"}),
        "{actor}"
    );

    // A write that no request caused is on nobody's behalf.
    worker.send(json!({"type": "call", "id": "c3", "payload": save("memo/own")}));
    worker.expect("reply");
    mal.save("memo/mals", json!({"n": 1}));
    for record in ["memo/own", "memo/mals"] {
        let actor = versions(&master, record)[0]["actor"].clone();
        assert_eq!(actor.get("on_behalf"), None, "{actor}");
    }

    let who = format!("_god (master key, plugin TEST, for {id} through lambda TEST/p:god)");
    let said = printed(&server, &["history", "list", "memo/god"]);
    assert!(said.contains(&who), "{said}");
    for said in [
        printed(&server, &["log", "search", "--record", "memo/god"]),
        printed(&server, &["audit", "changes", "--user", "_god"]),
        // The user who caused the write counts as having done it, too.
        printed(&server, &["audit", "changes", "--user", "mal"]),
        printed(&server, &["log", "search", "--user", &id]),
    ] {
        assert!(said.contains(&format!("by {who}")), "{said}");
    }
    let of_mal = json!({"record": "memo/god", "user": id});
    let listed = master.call("history:list", of_mal).result();
    assert_eq!(listed["versions"].as_array().map(Vec::len), Some(1));
    let shown = server.skytrail(&["log", "show", "record/memo/god"]).stdout;
    assert!(
        String::from_utf8(shown)
            .unwrap()
            .contains("lambda TEST/p:god")
    );
}

#[test]
fn what_an_erased_user_did_is_found_by_his_id() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let id = ada.user.clone().unwrap();
    ada.save("memo/1", json!({"n": 1}));
    let erase = json!({"user": id, "why": "she asked"});
    master.call("erase:user", erase).result();
    for name in [id.clone(), format!("user/{id}")] {
        let found = master.call("audit:changes", json!({"user": name})).json();
        assert_eq!(found["info"]["user"], json!(id), "{found}");
        let acts = found["result"].as_array().unwrap().iter();
        let mut streams = acts.map(|act| act["stream"].as_str().unwrap());
        assert!(streams.any(|it| it == "record/memo/1"), "{found}");
    }
    assert!(printed(&server, &["audit", "changes", "--user", &id]).contains("record/memo/1"));
}

#[test]
fn the_history_says_when_there_is_more_of_it() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    for n in 0..60 {
        ada.save("memo/1", json!({"n": n}));
    }
    let count = |said: &str| said.lines().filter(|line| line.contains("record.")).count();
    let all = printed(&server, &["history", "list", "memo/1"]);
    assert_eq!(count(&all), 60);
    let key = format!("MASTER_KEY={MASTER_KEY}");
    let some = server.skytrail(&[
        "--set",
        &key,
        "history",
        "list",
        "memo/1",
        "--limit",
        "7",
        "--server",
        &server.base_url,
    ]);
    assert_eq!(count(&String::from_utf8(some.stdout).unwrap()), 7);
    let more = versions(&master, "memo/1")[7]["position"].to_string();
    let said = String::from_utf8(some.stderr).unwrap();
    assert!(said.contains(&format!("--until {more}")), "{said}");
}

#[test]
fn changes_by_nobody_are_told_to_be_none() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "hers"}));
    let changes = |arguments: &[&str]| {
        let key = format!("MASTER_KEY={MASTER_KEY}");
        let words = [
            "--set",
            &key,
            "audit",
            "changes",
            "--server",
            &server.base_url,
            "--user",
        ];
        let output = server.skytrail(&[&words, arguments].concat());
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let (shown, said) = changes(&["ada"]);
    assert!(shown.contains("note/1") && said.is_empty(), "{said}");
    let none = "skytrail: the log has no entries by \"nobody\": is this a user's id, name or email \
                address?\n";
    for arguments in [&["nobody"][..], &["nobody", "--json"]] {
        assert_eq!(changes(arguments), (String::new(), none.to_owned()));
    }
    let (shown, said) = changes(&["ada", "--to", "1"]);
    assert!(shown.is_empty(), "{shown}");
    assert!(
        said.contains("this part of the log has no entries"),
        "{said}"
    );
}

/// Names and values come from users, and the administrator reads them in a terminal.
#[test]
fn no_name_adds_a_line_to_a_view_or_controls_the_terminal() {
    let server = TestServer::start();
    let mallory = Client::signed_up(&server, "mallory");
    let forged = "     9  2026-11-30T04:00:00Z  record.deleted    record/note/ledger v7  by ada";
    mallory.save(&format!("note/a v1\n{forged}"), json!({"n": 1}));
    let record = "note/\u{1b}[2J\u{7}\u{9b}\u{202e}\u{2028}\u{200f}";
    mallory.save(record, json!({"a\nb": "\u{9b}"}));
    let mut said = views(&server, "mallory").to_vec();
    assert!(
        said.iter()
            .all(|it| it.contains(&format!(r"a v1\u{{a}}{forged}")))
    );
    let escaped = r"note/\u{1b}[2J\u{7}\u{9b}\u{202e}\u{2028}\u{200f} v1";
    assert!(said.iter().all(|it| it.contains(escaped)), "{said:?}");
    said.push(printed(&server, &["history", "list", record]));
    for said in said {
        let is_hidden = |char: char| {
            let is_seen = char == '\n' || !char.is_control();
            !is_seen || "\u{202e}\u{2028}\u{200f}".contains(char)
        };
        assert!(!said.contains(is_hidden), "{said:?}");
        assert!(!said.lines().any(|line| line == forged), "{said}");
    }
    let listed = printed(&server, &["history", "list", record]);
    assert!(listed.contains(r#"a\u{a}b: - -> "\u{9b}""#), "{listed}");
    // JSON is for programs.
    let listed = printed(&server, &["history", "list", record, "--json"]);
    assert!(listed.contains("\u{9b}"), "{listed:?}");
}
