//! Data that another version wrote: older data is upgraded, and newer data is left as it is, with
//! advice.

use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

/// Changes a database as another version would have left it. Nothing is merged, as after a crash:
/// the pages' checksums are of the merged state.
fn change(path: &Path, sql: &str) {
    let script = "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None); \
        db.execute('PRAGMA wal_autocheckpoint = 0'); db.executescript(sys.argv[2]); os._exit(0)";
    let mut command = Command::new("python3");
    let changed = command.args(["-c", script]).arg(path).arg(sql).output();
    let changed = changed.unwrap();
    assert!(changed.status.success(), "{changed:?}");
}

/// Returns a database's format number.
fn format_of(path: &Path) -> u32 {
    let script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version').fetchone()[0])";
    let mut command = Command::new("python3");
    let read = command.args(["-c", script]).arg(path).output().unwrap();
    let said = String::from_utf8(read.stdout).unwrap();
    said.trim().parse().unwrap()
}

/// A server with a record, already stopped.
fn ended() -> (TestServer, Client) {
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"number": 1}));
    assert!(server.terminate().success());
    (server, ada)
}

fn run(server: &TestServer, arguments: &[&str]) -> (bool, String) {
    let output = server.skytrail(arguments);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn a_record_store_of_a_newer_version_is_refused_until_it_is_made_anew() {
    let (mut server, ada) = ended();
    let store = server.data_dir().join("records.sqlite");
    change(
        &store,
        "CREATE TABLE _later (id INTEGER); PRAGMA user_version = 99",
    );
    for _ in 0..2 {
        let said = server.try_restart().unwrap_err();
        let is_clear = said.contains("format=99") && said.contains("skytrail rebuild");
        assert!(is_clear, "{said}");
        let (is_same, said) = run(&server, &["rebuild", "--verify"]);
        let is_clear = said.contains("format=99") && said.contains("skytrail rebuild");
        assert!(!is_same && is_clear, "{said}");
    }
    let (is_made, said) = run(&server, &["rebuild"]);
    assert!(is_made, "{said}");
    let (is_same, said) = run(&server, &["rebuild", "--verify"]);
    assert!(is_same, "{said}");
    server.restart();
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
}

#[test]
fn a_start_says_through_which_formats_it_brings_the_record_store() {
    let (mut server, ada) = ended();
    assert!(
        !server.output().contains("is upgraded"),
        "{}",
        server.output()
    );
    let store = server.data_dir().join("records.sqlite");
    let present = format_of(&store);
    change(
        &store,
        "DROP TABLE _numbered; DROP TABLE _lost; DROP INDEX _device_user; DROP TABLE _task; PRAGMA user_version = 3",
    );
    server.restart();
    let said = server.output();
    let steps = said
        .lines()
        .filter(|line| line.contains("record store is upgraded"));
    let steps: Vec<&str> = steps.collect();
    assert_eq!(steps.len(), (3..present).count(), "{said}");
    for (step, from) in steps.iter().zip(3..present) {
        let formats = format!("from={from} to={}", from + 1);
        assert!(step.contains("INFO") && step.contains(&formats), "{step}");
    }
    assert_eq!(format_of(&store), present);
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
    server.restart();
    assert!(
        !server.output().contains("is upgraded"),
        "{}",
        server.output()
    );
}

/// Up to format 6 the numbers that records got from a new sequence field were only in the records.
#[test]
fn a_store_from_before_gets_the_numbers_that_its_records_had() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let ids = ["bill/1", "bill/2", "bill/3"];
    for id in ids {
        master.save(id, json!({"text": "first"}));
    }
    let fields = json!([{"name": "no", "type": "sequence"}]);
    let body = json!({"record_types": {"bill": {"fields": fields}}});
    master.call("schema:create", body).result();
    let read = master.call("log:read", json!({"limit": 1})).json();
    let given = &read["info"]["head"];
    master.save("bill/2", json!({"text": "changed"}));
    let gone = json!({"ids": ["bill/1"]});
    master.call("record:delete", gone).result();
    assert!(server.terminate().success());
    change(
        &server.data_dir().join("records.sqlite"),
        "DROP TABLE _numbered; PRAGMA user_version = 6; \
         UPDATE _type SET definition = json_remove(definition, '$.numbered')",
    );
    for _ in 0..2 {
        server.restart();
        let body = json!({"ids": ids, "as_of": given});
        let then = master.at(&server).call("record:fetch", body).result();
        let numbers: Vec<&Json> = (0..3).map(|index| &then[index]["no"]).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert!(server.terminate().success());
        let (is_same, said) = run(&server, &["rebuild", "--verify"]);
        assert!(is_same, "{said}");
    }
}

#[test]
fn an_ops_store_of_a_newer_version_is_left_as_it_is() {
    let (mut server, _) = ended();
    let ops_store = server.data_dir().join("ops.sqlite");
    change(
        &ops_store,
        "DROP TABLE waiting_push; PRAGMA user_version = 99",
    );
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("ops.sqlite has format=99"), "{said}");
    assert!(said.contains("move the file aside"), "{said}");
    // Fails if the server has created one.
    change(&ops_store, "CREATE TABLE waiting_push (id INTEGER)");
    std::fs::rename(&ops_store, server.folder().join("aside.sqlite")).unwrap();
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(server.data_dir().join(format!("ops.sqlite{ending}")));
    }
    server.restart();
}

#[test]
fn a_start_says_when_it_brings_the_ops_store_up() {
    let (mut server, _) = ended();
    assert!(
        !server.output().contains("is upgraded"),
        "{}",
        server.output()
    );
    let ops_store = server.data_dir().join("ops.sqlite");
    change(
        &ops_store,
        "CREATE TABLE push (id TEXT PRIMARY KEY, since INTEGER NOT NULL, device TEXT NOT NULL, \
         kind TEXT NOT NULL, options TEXT NOT NULL, content BLOB NOT NULL, \
         checksum INTEGER NOT NULL) WITHOUT ROWID",
    );
    server.restart();
    assert!(
        server.output().contains("ops.sqlite is upgraded"),
        "{}",
        server.output()
    );
}
