//! SQL and saves at the same time, while the server and the database are killed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use crate::erasure::busy::meanwhile;
use crate::plugin::worker::Worker;
use crate::plugin::{call, hook};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres};
use crate::support::server::TestServer;

/// How often something is killed.
const CYCLES: u32 = 6;
/// How many writes of each kind run concurrently per cycle.
const WRITES: u32 = 12;
const RECORDS: u32 = 3;

/// Increments a record by SQL; an acknowledged increment stays, whatever crashes.
fn count_up(database: &Database<'_>, number: u32) -> bool {
    let id = number % RECORDS;
    let sql = format!(
        "SET synchronous_commit = on; UPDATE app_myapp.note SET n = n + 1 WHERE _id = '{id}'"
    );
    database.try_sql(&sql).is_ok()
}

fn versions(master: &Client, record: &str) -> Vec<Json> {
    let listed = master.call("history:list", json!({"record": record, "limit": 1000}));
    listed.result()["versions"].as_array().unwrap().clone()
}

#[test]
fn what_sql_did_is_in_the_log_once_whatever_is_killed() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let settings = [("DATABASE_URL", &*database.url()), ("DATABASE_WAIT", "1")];
    let mut server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    for id in 0..RECORDS {
        ada.save(&format!("note/{id}"), json!({"n": 0, "m": 0}));
    }
    assert_eq!(ada.query("note", json!(null)).len(), RECORDS as usize);
    let (tried, done) = (AtomicU64::new(0), AtomicU64::new(0));
    for cycle in 0..CYCLES {
        let here = ada.at(&server);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..WRITES {
                    tried.fetch_add(1, Ordering::Relaxed);
                    let is_done = count_up(&database, number);
                    done.fetch_add(u64::from(is_done), Ordering::Relaxed);
                }
            });
            scope.spawn(|| {
                for number in 0..WRITES {
                    let id = format!("note/{}", number % RECORDS);
                    let record = json!({"_id": id, "m": cycle * 100 + number});
                    let _ = here.try_call("record:save", json!({"records": [record]}));
                }
            });
            // In the middle of it.
            eventually("some of it is done", || {
                let enough = u64::from(cycle * WRITES + WRITES / 3);
                (tried.load(Ordering::Relaxed) >= enough).then_some(())
            });
            match cycle % 2 {
                0 => server.kill(),
                _ => {
                    postgres.crash();
                    postgres.start_again();
                }
            }
        });
        if cycle % 2 == 0 {
            server.restart();
        }
    }
    let (ada, master) = (ada.at(&server), Client::master(&server));
    eventually("everything is taken in", || {
        let left = database
            .try_sql("SELECT count(*) FROM app_myapp._outbox")
            .ok()?;
        let query = ada.call("record:query", json!({"record_type": "note"}));
        (left == "0\n" && query.status == 200).then_some(())
    });
    let mut sum = 0;
    for id in 0..RECORDS {
        let versions = versions(&master, &format!("note/{id}"));
        let by_sql = versions.iter().filter(|it| it["actor"]["origin"] == "sql");
        let counts: Vec<u64> = by_sql
            .clone()
            .map(|it| it["record"]["n"].as_f64().unwrap() as u64)
            .collect();
        let all: Vec<u64> = (1..=counts.len() as u64).rev().collect();
        assert_eq!(counts, all, "each count once, in order");
        let transactions: BTreeSet<u64> = by_sql
            .map(|it| it["sql"]["transaction"].as_u64().unwrap())
            .collect();
        assert_eq!(transactions.len(), counts.len());
        sum += counts.len() as u64;
        let row = database.sql(&format!(
            "SELECT n, m FROM app_myapp.note WHERE _id = '{id}'"
        ));
        let last = &versions[0]["record"];
        assert_eq!(row, format!("{}|{}\n", last["n"], last["m"]));
    }
    let (tried, done) = (tried.into_inner(), done.into_inner());
    assert!(
        done <= sum && sum <= tried,
        "{done} were acknowledged, {sum} are there, of {tried}"
    );
    assert!(done > 0, "nothing was done");
    for table in ["_parked", "_faults"] {
        assert_eq!(
            database.sql(&format!("SELECT * FROM app_myapp.{table}")),
            ""
        );
    }
}

#[test]
fn a_save_and_sql_on_one_field_are_both_in_the_history() {
    let database = crate::support::postgres::shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"n": 0}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..=20 {
                database.sql(&format!("UPDATE app_myapp.note SET n = {n}"));
            }
        });
        for n in 101..=120 {
            ada.save("note/1", json!({"n": n}));
        }
    });
    eventually("everything is taken in", || {
        (database.sql("SELECT count(*) FROM app_myapp._outbox") == "0\n").then_some(())
    });
    ada.query("note", json!(null));
    let versions = versions(&master, "note/1");
    let seen: BTreeSet<u64> = versions
        .iter()
        .map(|it| it["record"]["n"].as_f64().unwrap() as u64)
        .collect();
    assert!(
        (1..=20).chain(101..=120).all(|n| seen.contains(&n)),
        "{seen:?}"
    );
    let row = database.sql("SELECT n FROM app_myapp.note");
    assert_eq!(row, format!("{}\n", versions[0]["record"]["n"]));
}

/// Each save could spoil what is decided of the row.
#[test]
fn what_sql_does_to_a_record_that_is_saved_without_a_pause_is_in_the_log() {
    let database = crate::support::postgres::shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"n": 0}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    meanwhile(&ada, "note/1", || {
        for n in 1..=20 {
            database.sql(&format!("UPDATE app_myapp.note SET n = {n}"));
            eventually("it is in the log", || {
                let versions = versions(&master, "note/1");
                let mut by_sql = versions.iter().filter(|it| it["actor"]["origin"] == "sql");
                by_sql.any(|it| it["record"]["n"] == n).then_some(())
            });
        }
    });
}

/// A save that was in its hook while SQL inserted a row with the same id. The row is refused for its
/// access list; until it leaves the outbox, the projector finds it there.
#[test]
fn a_record_that_is_created_while_a_row_is_refused_is_what_was_saved() {
    let postgres = Postgres::start().lasting();
    let database = postgres.database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url()), ("PLUGINS", "TEST")]);
    let points = json!({"hook": [hook("note", "beforeSave")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let ada = Client::signed_up(&server, "ada");
    let save = |id: &str| {
        let record = json!({"_id": id, "text": "saved"});
        call(&ada, "record:save", json!({"records": [record]}))
    };
    let first = save("note/1");
    let asked = worker.expect_request("note_beforeSave");
    worker.answer_record(&asked, &json!({}));
    first.join().unwrap().result();
    let saving = save("note/2");
    let asked = worker.expect_request("note_beforeSave");

    let mut inserting = database.session(
        "BEGIN; INSERT INTO app_myapp.note (_id, _database_id, _owner_id, _access, _created_at, \
         _updated_at, text) VALUES ('2', '', 'x', '{}', now(), now(), 'inserted')",
    );
    let mut holding = database.session("BEGIN");
    std::thread::scope(|scope| {
        // Waits for the insertion, and then comes first.
        let held = scope.spawn(|| holding.sql("LOCK TABLE app_myapp._outbox IN SHARE MODE"));
        let waiting = |mode: &str| {
            let locks =
                format!("SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = '{mode}'");
            eventually("somebody waits for the table", || {
                (database.sql(&locks) != "0\n").then_some(())
            });
        };
        waiting("ShareLock");
        inserting.sql("COMMIT");
        held.join().unwrap();
        // The decision is made, and the row about to leave the outbox.
        waiting("RowExclusiveLock");
    });
    worker.answer_record(&asked, &json!({}));
    assert_eq!(saving.join().unwrap().result()[0]["text"], "saved");
    eventually("the save is applied", || {
        let applied = "SELECT count(*) FROM app_myapp._history AS h, app_myapp._checkpoint AS c \
            WHERE h.position = c.position AND h.version = 1 AND h.position > 8";
        (database.sql(applied) == "1\n").then_some(())
    });
    holding.sql("COMMIT");
    eventually("everything is taken in", || {
        (database.sql("SELECT count(*) FROM app_myapp._outbox") == "0\n").then_some(())
    });
    assert_eq!(ada.query("note", json!(null)).len(), 2);
    let text = "SELECT text FROM app_myapp.note WHERE _id = '2'";
    assert_eq!(database.sql(text), "saved\n");
}
