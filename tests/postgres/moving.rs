//! The record store moves while the server serves, and is rebuilt.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::server::{TestServer, lasting_address};
use crate::support::{SetOnDrop, eventually};

/// Far more than the store is given at once, so that a move can be interrupted on its way.
const BATCHES: usize = 130;

fn fill(ada: &Client) {
    for batch in 0..BATCHES {
        let notes = (0..100).map(|number| {
            let number = batch * 100 + number;
            json!({"_id": format!("note/{number}"), "n": number, "text": "from before"})
        });
        let notes: Vec<_> = notes.collect();
        ada.call("record:save", json!({"records": notes})).result();
    }
}

/// Runs a command that must succeed, and returns its output.
fn skytrail(server: &TestServer, arguments: &[&str]) -> String {
    let output = server.skytrail(arguments);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}\n{}", server.output());
    said
}

fn number(database: &Database<'_>, sql: &str) -> usize {
    database.sql(sql).trim().parse().unwrap()
}

const NOTES: &str = "SELECT count(*) FROM app_myapp.note";

#[test]
fn a_store_moves_while_the_server_serves_and_comes_back() {
    let database = shared().database(&[]);
    let url = database.url();
    let mut server = TestServer::with(&[("HOST", &lasting_address())]);
    let ada = Client::signed_up(&server, "ada");
    fill(&ada);
    let (is_over, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let num_refused = AtomicUsize::new(0);
    // Saves one record after the other, and repeats each until it is acknowledged.
    let write = |writer: usize| {
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            let id = format!("note/{writer}.{number}");
            let record = json!({"_id": id, "n": number, "text": "meanwhile"});
            match ada.try_call("record:save", json!({"records": [record]})) {
                Ok(answer) if answer.json()["result"][0]["_id"] == id => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                }
                Err(error) if error.contains("refused") => {
                    num_refused.fetch_add(1, Ordering::Relaxed);
                }
                _ => {}
            }
        }
    };
    let await_more = || {
        let before = acknowledged.load(Ordering::Relaxed);
        eventually("writing goes on", || {
            (acknowledged.load(Ordering::Relaxed) > before + 30).then_some(())
        });
    };
    thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for writer in 0..3 {
            scope.spawn(move || write(writer));
        }
        await_more();
        // The first command is killed on its way, and the second continues from there.
        let mut killed = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        killed.env_clear().env("DATA_DIR", server.data_dir());
        killed.args(["rebuild", "--to", &url]).stderr(Stdio::null());
        let mut killed = killed.stdout(Stdio::null()).spawn().unwrap();
        let is_true = |sql: &str| (database.sql(sql) == "t\n").then_some(());
        eventually("the new store is made", || {
            is_true("SELECT to_regclass('app_myapp._checkpoint') IS NOT NULL")
        });
        eventually("something is filled", || {
            is_true("SELECT position > 0 FROM app_myapp._checkpoint")
        });
        killed.kill().unwrap();
        let ended = killed.wait().unwrap();
        assert_eq!(ended.code(), None, "it was done before it was killed");
        let said = skytrail(&server, &["rebuild", "--to", &url]);
        assert!(said.contains("the server uses it now"), "{said}");
        assert!(said.contains("set DATABASE_URL"), "{said}");
        await_more();
    });
    // Clients that connected during the restart waited until the server was ready.
    assert_eq!(num_refused.into_inner(), 0);
    let num_notes = BATCHES * 100 + acknowledged.load(Ordering::Relaxed);
    assert_eq!(
        ada.query(
            "note",
            json!(["eq", {"$type": "keypath", "$val": "_id"}, "0"])
        )
        .len(),
        1
    );
    assert_eq!(number(&database, NOTES), num_notes);
    let gaps = "SELECT max(position) - count(*) FROM app_myapp._history";
    assert_eq!(number(&database, gaps), 0);
    let said = skytrail(&server, &["rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
    // A start continues on the new store, although the settings say otherwise.
    server.restart();
    ada.save("note/later", json!({"n": 1}));
    ada.query("note", json!(["eq", {"$type": "keypath", "$val": "n"}, -1]));
    assert_eq!(number(&database, NOTES), num_notes + 1);
    let said = skytrail(&server, &["rebuild", "--to", "file"]);
    assert!(said.contains("remove DATABASE_URL"), "{said}");
    ada.save("note/last", json!({"n": 1}));
    ada.query("note", json!(["eq", {"$type": "keypath", "$val": "n"}, -1]));
    assert_eq!(number(&database, NOTES), num_notes + 1);
    let said = skytrail(&server, &["rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
    server.restart();
    assert!(!server.data_dir().join("record-store.json").exists());
    assert_eq!(
        ada.query(
            "note",
            json!(["eq", {"$type": "keypath", "$val": "_id"}, "last"])
        )
        .len(),
        1
    );
}

#[test]
fn a_server_stays_where_it_is_when_the_store_cannot_be_used() {
    let server = TestServer::with(&[("HOST", &lasting_address())]);
    let ada = Client::signed_up(&server, "ada");
    for to in [
        "mysql://me:secret@localhost/x",
        "postgres://me:secret@localhost:1/x",
    ] {
        let output = server.skytrail(&["rebuild", "--to", to]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{output:?}");
        assert!(!said.contains("secret"), "{said}");
    }
    let database = shared().database(&[]);
    database.sql("CREATE SCHEMA app_myapp CREATE TABLE note (_id text)");
    let note = json!({"database_url": database.url()});
    std::fs::write(
        server.data_dir().join("record-store.json"),
        note.to_string(),
    )
    .unwrap();
    eventually("the move is given up", || {
        (!server.data_dir().join("record-store.json").exists()).then_some(())
    });
    eventually("the server serves again", || {
        let saved = ada.try_call("record:save", json!({"records": [{"_id": "note/1"}]}));
        saved.is_ok().then_some(())
    });
}

#[test]
fn a_store_in_a_server_is_made_anew_beside_the_old_one() {
    let database = shared().database(&[]);
    let setting = format!("DATABASE_URL={}", database.url());
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept", "n": 1.5}));
    ada.save("note/2", json!({"text": "gone"}));
    ada.call("record:delete", json!({"ids": ["note/2"]}))
        .result();
    let said = skytrail(&server, &["--set", &setting, "rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
    assert!(server.terminate().success());
    // Marked as the server's own write, so that it is not captured.
    database.sql("SET skytrail.own TO 'yes'; UPDATE app_myapp.note SET n = 2");
    let output = server.skytrail(&["--set", &setting, "rebuild", "--verify"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("note: the store has 1 rows"), "{said}");
    let said = skytrail(&server, &["--set", &setting, "rebuild"]);
    assert!(said.contains("app_myapp~old"), "{said}");
    assert_eq!(database.sql("SELECT n FROM app_myapp.note"), "1.5\n");
    assert_eq!(database.sql("SELECT n FROM \"app_myapp~old\".note"), "2\n");
    server.restart();
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
}

#[test]
fn what_is_erased_meanwhile_is_not_in_a_store_that_is_moved_to() {
    let database = shared().database(&[]);
    let url = database.url();
    let server = TestServer::with(&[("HOST", &lasting_address())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "forget me"}));
    ada.save("note/2", json!({"text": "stays"}));
    skytrail(&server, &["rebuild", "--to", &url]);
    skytrail(&server, &["rebuild", "--to", "file"]);
    let master = Client::master(&server);
    let request = json!({"record": "note/1", "why": "law"});
    let erased = master.call("erase:record", request).result();
    assert_eq!(erased["finished"], true, "{erased}");
    let texts = "SELECT text FROM app_myapp.note ORDER BY _id";
    assert_eq!(database.sql(texts), "forget me\nstays\n");
    skytrail(&server, &["rebuild", "--to", &url]);
    assert_eq!(database.sql(texts), "stays\n");
    let said = skytrail(&server, &["rebuild", "--verify"]);
    assert!(said.contains("equals the log"), "{said}");
}

/// After an earlier move there is already a note of where the store is, and it is used.
#[test]
fn a_second_move_that_the_server_cannot_follow_is_not_said_to_be_done() {
    let (first, second) = (shared().database(&[]), shared().database(&[]));
    let server = TestServer::with(&[("HOST", &lasting_address())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    skytrail(&server, &["rebuild", "--to", &first.url()]);
    // Only the command has the setting for where that is.
    let url = format!("postgres:///{}?user=postgres", second.name());
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("DATA_DIR", server.data_dir());
    command.env("PGHOST", second.folder());
    let output = command.args(["rebuild", "--to", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        said.contains("the server cannot use the new store"),
        "{said}"
    );
    assert_eq!(number(&second, NOTES), 1);
    ada.save("note/2", json!({"n": 2}));
    assert_eq!(ada.query("note", json!(null)).len(), 2);
    assert_eq!(number(&first, NOTES), 2);
}
