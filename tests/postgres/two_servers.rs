//! Two servers over one schema: the second is told apart from the first, and no client is served
//! what belongs to another log.

use std::process::Command;

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

/// The database settings of the servers.
fn settings(url: &str) -> [(&str, &str); 2] {
    [("DATABASE_URL", url), ("DATABASE_WAIT", "1")]
}

/// Creates a server with a copy of another one's present data, on a database.
fn copy_of(server: &TestServer, url: &str) -> TestServer {
    let mut copy = TestServer::start();
    assert!(copy.terminate().success());
    let data = copy.folder().join("copied");
    let mut command = Command::new("cp");
    command.arg("-r").arg(server.data_dir()).arg(&data);
    assert!(command.status().unwrap().success());
    copy.set("DATA_DIR", &data.to_string_lossy());
    for (name, value) in settings(url) {
        copy.set(name, value);
    }
    copy
}

/// A server with a note, and a stopped one with a copy of its data.
fn with_copy(database: &Database<'_>) -> (TestServer, TestServer, Client) {
    let url = database.url();
    let mut server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert!(server.terminate().success());
    let copy = copy_of(&server, &url);
    server.restart();
    let ada = ada.at(&server);
    (server, copy, ada)
}

/// The sessions that hold the lock which marks the schema as used by a server.
const HOLDERS: &str = "FROM pg_locks WHERE locktype='advisory' AND granted AND database=(SELECT oid \
                       FROM pg_database WHERE datname=current_database())";

/// Takes the lock that marks the schema as used; the session that holds it is ended.
fn seize(database: &Database<'_>) -> String {
    let key = format!("SELECT (classid::bigint << 32) | objid::bigint {HOLDERS}");
    let key = database.sql(&key);
    format!(
        "SELECT pg_terminate_backend(pid), pg_advisory_lock({}) {HOLDERS}",
        key.trim()
    )
}

fn reason(server: &TestServer, part: &str) -> String {
    eventually("health says why the store takes no events", || {
        let health = Client::master(server).health();
        let reason = health["projector"]["reason"].as_str();
        let reason = reason.filter(|reason| reason.contains(part));
        reason.map(str::to_owned)
    })
}

#[test]
fn a_copy_of_the_data_does_not_start_beside_the_server_that_has_it() {
    let database = shared().database(&[]);
    let (mut server, mut copy, ada) = with_copy(&database);
    let said = copy.try_restart().unwrap_err();
    assert!(
        said.contains("another server uses the schema app_myapp"),
        "{said}"
    );
    let pid = database.sql(&format!("SELECT pid {HOLDERS}"));
    assert!(said.contains(&format!("process {}", pid.trim())), "{said}");
    ada.save("note/2", json!({"text": "mine"}));
    assert_eq!(ada.query("note", json!(null)).len(), 2);
    // A server that has ended holds no lock, however it ended.
    server.kill();
    let said = copy.try_restart().unwrap_err();
    assert!(
        said.contains("a server that continued from there filled it"),
        "{said}"
    );
    server.restart();
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 2);
}

#[test]
fn a_server_whose_schema_another_has_taken_says_so_and_serves_nothing_of_it() {
    let database = shared().database(&[]);
    let url = database.url();
    let server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let sql = seize(&database);
    let other = database.session(&sql);
    ada.save("note/2", json!({"text": "later"}));
    reason(&server, "another server uses the schema app_myapp");
    let answer = ada.call("record:query", json!({"record_type": "note"}));
    assert_eq!((answer.status, answer.code()), (503, 10002), "{answer:?}");
    drop(other);
    eventually("the schema is the server's again", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then(|| assert_eq!(answer.result().as_array().unwrap().len(), 2))
    });
}

#[test]
fn what_another_log_has_put_there_is_never_served() {
    let database = shared().database(&[]);
    let url = database.url();
    let server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "ada's"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let mut other = TestServer::start();
    let bob = Client::signed_up(&other, "bob");
    for n in 0..10 {
        bob.save(&format!("note/bob{n}"), json!({"text": "bob's"}));
    }
    assert!(other.terminate().success());
    let name = database.name();
    shared().sql(&format!("DROP DATABASE {name} WITH (FORCE)"));
    shared().sql(&format!("CREATE DATABASE {name}"));
    other.restart_with(&settings(&url));
    assert_eq!(bob.at(&other).query("note", json!(null)).len(), 10);

    let asked_in_vain = || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        assert_eq!((answer.status, answer.code()), (503, 10002), "{answer:?}");
    };
    asked_in_vain();
    ada.save("note/2", json!({"text": "ada's"}));
    reason(&server, "another server uses the schema app_myapp");
    asked_in_vain();
    assert!(other.terminate().success());
    reason(&server, "is a store of another log");
    asked_in_vain();
    let found = database.sql("SELECT DISTINCT text FROM app_myapp.note");
    assert_eq!(found, "bob's\n");
}

/// A copy has the same first commit, so only later commits distinguish the two.
#[test]
fn what_a_copy_of_the_log_has_put_there_is_never_served() {
    let database = shared().database(&[]);
    let (server, mut copy, ada) = with_copy(&database);
    // From then on the record is in memory: it can be saved without the database.
    ada.save("note/1", json!({"text": "again"}));
    assert_eq!(ada.query("note", json!(null))[0]["text"], "again");

    // The database is created again, and the copy uses it first.
    let name = database.name();
    shared().sql(&format!("DROP DATABASE {name} WITH (FORCE)"));
    shared().sql(&format!("CREATE DATABASE {name}"));
    copy.restart();
    let there = ada.at(&copy);
    there.save("note/2", json!({"text": "the copy's"}));
    assert_eq!(there.query("note", json!(null)).len(), 2);
    assert!(copy.terminate().success());
    ada.save("note/1", json!({"text": "mine"}));
    reason(&server, "another");
    let answer = ada.call("record:query", json!({"record_type": "note"}));
    assert_eq!((answer.status, answer.code()), (503, 10002), "{answer:?}");
    let found = database.sql("SELECT _id FROM app_myapp.note ORDER BY 1");
    assert_eq!(found, "1\n2\n");
}
