//! Another session holds a table.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;
use crate::support::{SetOnDrop, eventually};

/// Begins a transaction in the app's schema that stays open.
fn begin(sql: &str) -> String {
    format!("SET search_path TO app_myapp; BEGIN; {sql}")
}

/// A server with a note.
fn with_a_note(database: &Database<'_>) -> (TestServer, Client) {
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    (server, ada)
}

/// Waits until health reports that the store is held up, and returns why.
fn held_up(server: &TestServer) -> String {
    eventually("the health says that the store is held up", || {
        let health = Client::master(server).health();
        let reason = health["projector"]["reason"].as_str()?;
        let said = health["reasons"].to_string();
        assert!(
            said.contains("the record store applies no events"),
            "{said}"
        );
        (health["status"] == "degraded").then(|| reason.to_owned())
    })
}

fn serves_again(server: &TestServer, ada: &Client, num_notes: usize) {
    eventually("queries are answered again", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        let found = answer.json()["result"].as_array().map(Vec::len);
        (found == Some(num_notes)).then_some(())
    });
    eventually("the health is well again", || {
        let health = Client::master(server).health();
        let reason: &Json = &health["projector"]["reason"];
        (health["status"] == "OK" && reason.is_null()).then_some(())
    });
}

#[test]
fn a_reader_that_stays_keeps_a_new_field_waiting_and_nobody_else() {
    let database = shared().database(&[]);
    let (server, ada) = with_a_note(&database);
    let reader = database.session(&begin("SELECT count(*) FROM note"));
    ada.save("note/2", json!({"text": "kept", "new": 1}));
    let reason = eventually("the health names who is in the way", || {
        let reason = held_up(&server);
        reason.contains("psql").then_some(reason)
    });
    assert!(reason.contains("postgres"), "{reason}");
    // Sessions that queue behind the server's statement are let through.
    let count = "SELECT count(*) FROM app_myapp.note";
    assert_eq!(database.sql(count), "1\n");
    drop(reader);
    serves_again(&server, &ada, 2);
    assert_eq!(
        database.sql("SELECT count(*) FROM app_myapp._faults"),
        "0\n"
    );
}

#[test]
fn readers_that_take_turns_do_not_keep_a_new_field_waiting() {
    const READERS: usize = 6;
    let database = shared().database(&[]);
    let (server, ada) = with_a_note(&database);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&is_over);
        for number in 0..READERS {
            let (database, is_over) = (&database, &is_over);
            scope.spawn(move || {
                database.sql(&format!("SELECT pg_sleep({number} * 0.5)"));
                while !is_over.load(Ordering::Relaxed) {
                    database.sql("SELECT count(*) FROM app_myapp.note, pg_sleep(3)");
                }
            });
        }
        eventually("all of them read", || {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
                         AND datname = current_database() AND query LIKE '%note, pg_sleep(3)'";
            (database.sql(count) == format!("{READERS}\n")).then_some(())
        });
        ada.save("note/2", json!({"text": "kept", "new": 1}));
        serves_again(&server, &ada, 2);
    });
}

#[test]
fn a_field_is_dropped_when_who_reads_its_table_is_done() {
    let database = shared().database(&[]);
    let (server, ada) = with_a_note(&database);
    let reader = database.session(&begin("SELECT count(*) FROM note"));
    let body = json!({"record_type": "note", "item_name": "text"});
    let deleted = Client::master(&server).call("schema:delete", body);
    assert_eq!(deleted.status, 200, "{}", deleted.json());
    held_up(&server);
    drop(reader);
    serves_again(&server, &ada, 1);
    let column = "SELECT count(*) FROM information_schema.columns \
                  WHERE table_schema = 'app_myapp' AND table_name = 'note' AND column_name = 'text'";
    assert_eq!(database.sql(column), "0\n");
}

#[test]
fn who_locks_a_record_for_long_is_no_secret() {
    let database = shared().database(&[]);
    let (server, ada) = with_a_note(&database);
    let locking = database.session(&begin("SELECT 1 FROM note FOR UPDATE"));
    ada.save("note/1", json!({"text": "changed"}));
    held_up(&server);
    drop(locking);
    serves_again(&server, &ada, 1);
}
