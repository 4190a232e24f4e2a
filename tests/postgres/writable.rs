//! A database that accepts no writes, and a start that meets one.

use std::time::Duration;

use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::{Database, Postgres, shared};
use crate::support::server::TestServer;
use crate::support::wire::Wire;
use crate::support::{eventually, eventually_within};

/// An address that names both.
fn url_of(first: &Postgres, second: &Postgres) -> String {
    let place = |server: &Postgres| server.folder().to_string_lossy().replace('/', "%2F");
    let (first, second) = (place(first), place(second));
    format!("postgres://postgres@{first},{second}/postgres")
}

#[test]
fn a_primary_that_takes_no_writes_is_passed_over() {
    let (first, second) = (Postgres::start(), Postgres::start());
    first.sql("ALTER DATABASE postgres SET default_transaction_read_only TO on");
    let server = TestServer::with(&[("DATABASE_URL", &url_of(&first, &second))]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    assert_eq!(second.sql("SELECT text FROM app_myapp.note"), "kept\n");
}

#[test]
fn a_primary_that_takes_no_writes_any_more_is_left_for_the_next() {
    let first = Postgres::start();
    let between = Wire::to(first.folder());
    let second = first.standby(between.port());
    let url = url_of(&first, &second);
    let server = TestServer::with(&[("DATABASE_URL", &url), ("DATABASE_WAIT", "1")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "before"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    first.await_standby(&second);
    first.sql("ALTER SYSTEM SET default_transaction_read_only TO on");
    first.sql("SELECT pg_reload_conf()");
    eventually("it takes no writes", || {
        (first.sql("SHOW default_transaction_read_only") == "on\n").then_some(())
    });
    second.promote();
    ada.save("note/2", json!({"text": "after"}));
    eventually("the other one is used", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then(|| assert_eq!(answer.result().as_array().unwrap().len(), 2))
    });
    assert_eq!(second.sql("SELECT count(*) FROM app_myapp.note"), "2\n");
    assert_eq!(first.sql("SELECT count(*) FROM app_myapp.note"), "1\n");
}

/// Runs `work` while no session can use the database.
fn without_sessions(database: &Database<'_>, work: impl FnOnce(&str)) {
    let name = database.name();
    shared().sql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    shared().sql(&format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname='{name}'"
    ));
    work(name);
}

/// The database is restored to an older copy, so the server starts again within its process. Then
/// the database accepts no writes for longer than a first start would wait.
#[test]
fn a_server_that_starts_again_waits_for_a_database_that_takes_no_writes() {
    let database = shared().database(&[]);
    let url = database.url();
    let settings = [("DATABASE_URL", &*url), ("DATABASE_WAIT", "1")];
    let mut server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "in the copy"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    without_sessions(&database, |name| {
        shared().sql(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));
        shared().sql(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    });
    ada.save("note/2", json!({"text": "behind it"}));
    eventually("it is there", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        let found = (answer.status == 200).then(|| answer.result());
        found.filter(|found| found.as_array().unwrap().len() == 2)
    });
    without_sessions(&database, |name| {
        shared().sql(&format!("DROP DATABASE {name}"));
        shared().sql(&format!(
            "ALTER DATABASE {name}_copy SET default_transaction_read_only TO on"
        ));
        shared().sql(&format!("ALTER DATABASE {name}_copy RENAME TO {name}"));
    });
    ada.save("note/3", json!({"text": "in the log"}));
    let await_words = |words: &str| {
        eventually_within(Duration::from_secs(90), words, || {
            server.output().contains(words).then_some(())
        });
    };
    await_words("starting again; the record store catches up with the log");
    await_words("the database cannot be used yet");
    await_words("the server waits for its database");
    let name = database.name();
    shared().sql(&format!(
        "ALTER DATABASE {name} RESET default_transaction_read_only"
    ));
    server.await_start(2);
    let ada = ada.at(&server);
    assert_eq!(ada.query("note", json!(null)).len(), 3);
}
