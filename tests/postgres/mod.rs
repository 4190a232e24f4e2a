//! The server with its records in PostgreSQL.

mod away;
mod compose;
mod erased;
mod faults;
mod held;
mod indexes;
mod left;
mod moving;
mod names;
mod outage;
mod plans;
mod pooler;
mod rights;
mod two_servers;
mod upgrade;
mod values;
mod wide;
mod writable;

use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

#[test]
fn records_are_where_plugins_look_for_them() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept", "n": 1.5}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let found = database.sql("SELECT _id, text, n FROM app_myapp.note");
    assert_eq!(found, "1|kept|1.5\n");
    let found = database.sql("SELECT username FROM app_myapp._user");
    assert_eq!(found, "ada\n");
    assert!(!server.data_dir().join("records.sqlite").exists());
}

#[test]
fn a_schema_that_was_dropped_is_filled_from_the_log() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert!(server.terminate().success());
    database.sql("DROP SCHEMA app_myapp CASCADE");
    server.restart();
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
}

#[test]
fn a_log_moves_between_a_file_and_a_server() {
    let database = shared().database(&[]);
    let mut server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "from before"}));
    server.restart_with(&[("DATABASE_URL", &database.url())]);
    ada.at(&server).save("note/2", json!({"text": "after"}));
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 2);
    server.restart_with(&[("DATABASE_URL", "")]);
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 2);
}

#[test]
fn a_store_of_another_log_is_left_alone() {
    let database = shared().database(&[]);
    let url = database.url();
    let mut first = TestServer::with(&[("DATABASE_URL", &url)]);
    Client::signed_up(&first, "ada").save("note/1", json!({"text": "first"}));
    assert!(first.terminate().success());
    let mut second = TestServer::start();
    assert!(second.terminate().success());
    second.set("DATABASE_URL", &url);
    let said = second.try_restart().unwrap_err();
    assert!(said.contains("is a store of another log"), "{said}");
    assert_eq!(database.sql("SELECT text FROM app_myapp.note"), "first\n");
}

#[test]
fn tables_of_somebody_else_are_left_alone() {
    let database = shared().database(&[]);
    database.sql("CREATE SCHEMA app_myapp CREATE TABLE note (_id text)");
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    server.set("DATABASE_URL", &database.url());
    let said = server.try_restart().unwrap_err();
    assert!(
        said.contains("app_myapp holds tables of another program"),
        "{said}"
    );
    assert_eq!(database.sql("SELECT count(*) FROM app_myapp.note"), "0\n");
}

#[test]
fn an_address_that_leads_nowhere_is_told_without_its_password() {
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    server.set("DATABASE_URL", "mysql://me:secret@localhost/x");
    let said = server.try_restart().unwrap_err();
    assert!(said.contains("DATABASE_URL"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}
