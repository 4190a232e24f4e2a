//! Erasure: erased data is gone everywhere, and everything else is unchanged.

pub mod busy;
mod files;
mod full_disk;
mod killed;
mod numbers;
mod owned;
mod owned_random;
mod personal;
mod put_back;
mod retention;
mod retention_random;
pub mod search;
mod single;
mod users;
mod waiting;

use std::process::Output;

use serde_json::{Value as Json, json};

use self::search::{await_copies, places_of};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Text that occurs only where a test puts it.
const CANARY: &str = "canary-9e1f4b7a";
/// Text that stays.
const CONTROL: &str = "control-5c20d8e3";

fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr];
    texts.map(|text| String::from_utf8_lossy(text)).concat()
}

/// Runs `skytrail erase` against the server.
fn erase(server: &TestServer, arguments: &[&str]) -> Output {
    let more = ["--why", "asked for on paper", "--server", &server.base_url];
    let master_key = format!("MASTER_KEY={}", crate::support::server::MASTER_KEY);
    let all = [&["--set", &master_key, "erase"], arguments, &more].concat();
    server.skytrail(&all)
}

fn versions(client: &Client, record: &str) -> Vec<Json> {
    let listed = client.call("history:list", json!({"record": record, "limit": 1000}));
    listed.result()["versions"].as_array().unwrap().clone()
}

fn verified(server: &TestServer) -> String {
    let output = server.skytrail(&["log", "verify"]);
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

fn assert_store_is_the_logs(server: &mut TestServer) {
    assert!(server.terminate().success());
    let output = server.skytrail(&["rebuild", "--verify"]);
    assert!(output.status.success(), "{}", said(&output));
    server.restart();
}

/// Writes versions of two records, one of which is to be erased, and some more.
fn write(client: &Client) {
    for number in 0..40 {
        client.save(
            "note/gone",
            json!({"text": format!("{CANARY} {number}"), "n": number}),
        );
        client.save("note/stays", json!({"text": format!("{CONTROL} {number}")}));
    }
}

#[test]
fn a_record_that_is_erased_is_nowhere_and_the_rest_is_as_it_was() {
    let mut server = TestServer::with(&[("JOURNAL_SEGMENT_BYTES", "1048576")]);
    let master = Client::master(&server);
    write(&master);
    let before = master
        .call("record:fetch", json!({"ids": ["note/gone"]}))
        .result();
    let last = versions(&master, "note/gone")[0]["position"].clone();
    await_copies(&server, &master, CANARY);
    let refused = erase(&server, &["record", "note/never"]);
    assert!(
        said(&refused).contains("the log contains nothing of note/never"),
        "{}",
        said(&refused)
    );

    let erased = erase(&server, &["record", "note/gone"]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert!(
        said(&erased).contains("40 events are erased"),
        "{}",
        said(&erased)
    );

    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    let kept = places_of(&server, CONTROL);
    assert!(
        kept.iter().any(|place| place.contains("journal")),
        "{kept:?}"
    );
    assert!(verified(&server).contains("40 events are erased"));
    check_what_is_shown(&master, &before[0], &last);
    assert_store_is_the_logs(&mut server);
    let master = master.at(&server);
    check_what_is_shown(&master, &before[0], &last);
    assert_eq!(versions(&master, "note/stays").len(), 40);
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    check_what_is_printed(&server, &last);
    let output = server.output();
    assert!(!output.contains("differs from its checksum"), "{output}");
}

/// What remains of the record is shown as erased, with by whom and why.
fn check_what_is_shown(master: &Client, before: &Json, last: &Json) {
    let mark = |erased: &Json| {
        assert_eq!(erased["why"], "asked for on paper", "{erased}");
        assert_eq!(erased["by"]["key"], "master", "{erased}");
        assert!(erased["at"].is_string(), "{erased}");
    };
    let gone = versions(master, "note/gone");
    assert_eq!(gone.len(), 41);
    assert_eq!(gone[0]["kind"], "record.deleted");
    for version in &gone[1..] {
        mark(&version["erased"]);
        assert_eq!(version["record"], Json::Null);
        assert_eq!(version["changes"], json!({}));
    }
    let body = json!({"ids": ["note/gone"], "as_of": last});
    assert_eq!(master.call("record:fetch", body).result()[0]["code"], 110);
    let body = json!({"record_type": "note", "as_of": last});
    let found = master.call("record:query", body).result();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["_id"], "note/stays");
    assert_ne!(&found[0], before);
    let body = json!({"stream": "record/note/gone"});
    let events = master.call("log:read", body).result();
    assert_eq!(events.as_array().unwrap().len(), 41);
    assert_eq!(events[0]["payload"], Json::Null);
    mark(&events[0]["erased"]);
    let listed = master.call("erase:list", json!({})).result();
    let erasure = &listed["erasures"][0];
    assert_eq!(erasure["finished"], true);
    assert_eq!(erasure["num_events"], 40);
    let restored = master.call(
        "history:restore",
        json!({"record": "note/gone", "as_of": last}),
    );
    assert_eq!(restored.code(), 110);
}

/// The command line shows the same.
fn check_what_is_printed(server: &TestServer, last: &Json) {
    let key = format!("MASTER_KEY={}", crate::support::server::MASTER_KEY);
    let list = [
        "--set",
        &key,
        "history",
        "list",
        "note/gone",
        "--server",
        &server.base_url,
    ];
    let listed = said(&server.skytrail(&list));
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 41, "{listed}");
    assert!(!lines[0].contains("erased"), "{listed}");
    for line in &lines[1..] {
        assert!(line.contains("erased at "), "{line}");
        assert!(line.contains("asked for on paper"), "{line}");
    }
    // Without the server, from the log itself.
    let shown = server.skytrail(&["log", "show", &last.to_string()]).stdout;
    let shown: Json = serde_json::from_slice(&shown).unwrap();
    assert_eq!(shown["erased"]["why"], "asked for on paper", "{shown}");
    assert_eq!(shown["erased"]["by"]["key"], "master", "{shown}");
    let tail = said(&server.skytrail(&["log", "tail", "-n", "100000"]));
    assert_eq!(tail.matches("  erased").count(), 40, "{tail}");
}

#[test]
fn a_record_may_come_again_and_be_erased_again() {
    let server = TestServer::start();
    let master = Client::master(&server);
    for round in 1..=2 {
        master.save("note/gone", json!({"text": format!("{CANARY} {round}")}));
        let body = json!({"record": "note/gone", "why": "again"});
        let erased = master.call("erase:record", body).result();
        assert_eq!(erased["finished"], true, "{erased}");
        assert_eq!(erased["num_events"], 1);
        assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    }
    master.save("note/gone", json!({"text": CONTROL}));
    let found = master
        .call("record:fetch", json!({"ids": ["note/gone"]}))
        .result();
    assert_eq!(found[0]["text"], CONTROL);
    eventually("the history is whole", || {
        (versions(&master, "note/gone").len() == 5).then_some(())
    });
    verified(&server);
}

#[test]
fn what_an_erasure_refuses() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"text": "a"}));
    master.save("link/1", json!({"to": {"$type": "ref", "$id": "note/1"}}));
    let code = |body: Json| master.call("erase:record", body).code();
    assert_eq!(code(json!({"record": "note/1"})), 108, "no reason");
    assert_eq!(code(json!({"why": "x"})), 108, "no record");
    assert_eq!(code(json!({"record": "note", "why": "x"})), 108);
    let long = "x".repeat(1001);
    assert_eq!(code(json!({"record": "note/1", "why": long})), 108);
    assert_eq!(code(json!({"record": "note/1", "why": "referred to"})), 113);
    assert_eq!(versions(&master, "note/1").len(), 1, "nothing has happened");
}
