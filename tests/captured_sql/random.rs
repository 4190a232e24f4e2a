//! Random saves and random SQL by another role at the same time, while the server is killed
//! repeatedly.
//!
//! Every acknowledged write is in the log once, or is parked with a reason, and the tables equal
//! the log, with the places and the numbers of the records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::number;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

const ROUNDS: u64 = 3;
/// How many writes each writer tries per round.
const WRITES: usize = 25;
const RECORDS: usize = 5;

/// The outcomes of a writer's writes; each write has a unique mark.
#[derive(Default)]
struct Told {
    acknowledged: BTreeSet<String>,
    /// Writes without an answer.
    unknown: BTreeSet<String>,
}

fn key(rng: &mut StdRng) -> String {
    format!("r{}", rng.random_range(0..RECORDS))
}

/// Saves marks in `saved`, and sometimes deletes.
fn save(client: &Client, rng: &mut StdRng, name: &str, told: &Mutex<Told>) {
    for number in 0..WRITES {
        let id = format!("note/{}", key(rng));
        if rng.random_range(0..6) == 0 {
            let _ = client.try_call("record:delete", json!({"ids": [id]}));
            continue;
        }
        let mark = format!("{name}-{number}");
        let record = json!({"_id": id, "saved": mark});
        let answer = client.try_call("record:save", json!({"records": [record]}));
        let is_done = answer.is_ok_and(|answer| answer.json()["result"][0]["saved"] == mark);
        let mut told = told.lock().unwrap();
        match is_done {
            true => told.acknowledged.insert(mark),
            false => told.unknown.insert(mark),
        };
    }
}

/// Leaves a transaction open for a while, so that saves run into its locks.
const STAYS_OPEN: &str = "DO $$ BEGIN PERFORM pg_sleep(0.03); END $$;";

/// Inserts and updates rows with marks in `by_sql`, one or two at once, deletes some, and undoes
/// some of it in the same transaction.
fn run_sql(database: &Database<'_>, rng: &mut StdRng, name: &str, told: &Mutex<Told>) {
    for number in 0..WRITES {
        let mark = format!("{name}-{number}");
        let (one, other) = (key(rng), key(rng));
        let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, by_sql";
        let update = |key: &str| {
            format!("UPDATE note SET by_sql = '{mark}' WHERE _id = '{key}' RETURNING _id;")
        };
        let delete = format!("DELETE FROM note WHERE _id = '{one}';");
        let insert = format!(
            "INSERT INTO note ({columns}) VALUES ('{one}', '', 'x', now(), now(), '{mark}') \
             ON CONFLICT DO NOTHING"
        );
        let insert_and_delete = format!("{insert}; {delete} {STAYS_OPEN}");
        let sql = match rng.random_range(0..14) {
            0 => delete,
            1 | 2 => format!("{insert} RETURNING _id"),
            4 | 5 => format!(
                "UPDATE note SET saved = 'x' || saved WHERE _id = '{one}'; \
                 UPDATE note SET saved = substr(saved, 2) WHERE _id = '{one}'; {STAYS_OPEN}"
            ),
            6 => format!("{insert}; DELETE FROM note WHERE by_sql = '{mark}'; {STAYS_OPEN}"),
            7 => format!("{delete} {insert} RETURNING _id; {STAYS_OPEN}"),
            8 => format!("{delete} COMMIT; BEGIN; {insert_and_delete} COMMIT"),
            9 => format!("{delete} {insert}; COMMIT; BEGIN; {delete} {STAYS_OPEN} COMMIT"),
            // In a fixed order, or they could deadlock.
            3 if one < other => update(&one) + &update(&other),
            _ => update(&one),
        };
        let path = "SET search_path TO app_myapp; SET synchronous_commit TO on;";
        // All in one transaction.
        let done = database.try_sql_as("writer", &format!("{path} {sql}"));
        let mut told = told.lock().unwrap();
        match done {
            Ok(rows) if rows.is_empty() => {}
            Ok(_) => drop(told.acknowledged.insert(mark)),
            Err(error) => {
                println!("{mark}: {error}");
                told.unknown.insert(mark);
            }
        }
    }
}

fn versions(master: &Client, record: &str) -> Vec<Json> {
    let listed = master.call("history:list", json!({"record": record, "limit": 1000}));
    let listed = listed.json()["result"]["versions"].clone();
    let mut versions = listed.as_array().cloned().unwrap_or_default();
    versions.reverse();
    versions
}

/// Returns the history of a record as text, for debugging.
fn history(number: usize, versions: &[Json]) -> String {
    let line = |version: &Json| {
        let by = version["sql"]["until"].as_u64();
        let by = by.map_or_else(|| "saved".to_owned(), |number| format!("by sql {number}"));
        format!(
            "r{number} {} {} {by}: {}\n",
            version["position"], version["kind"], version["changes"]
        )
    };
    versions.iter().map(line).collect()
}

/// Reads a record's versions, and counts how often each mark was written.
fn look_through(versions: &[Json], marks: &mut BTreeMap<String, usize>) {
    let mut last_number = 0;
    for version in versions {
        let changes = &version["changes"];
        let is_by_sql = version["actor"]["origin"] == "sql";
        // A record that is stored again unchanged has no changes.
        let mut is_marked = |field: &str| {
            let mark = changes[field]["after"].as_str();
            if let Some(mark) = mark {
                *marks.entry(mark.to_owned()).or_default() += 1;
            }
            mark.is_some()
        };
        let (is_saved, is_sql) = (is_marked("saved"), is_marked("by_sql"));
        if is_by_sql {
            assert!(!is_saved, "SQL changes its own columns only: {version}");
            // The changes of a record arrive in the order in which they were captured.
            let number = version["sql"]["until"].as_u64().unwrap();
            assert!(number > last_number, "{version}");
            last_number = number;
        } else {
            assert!(!is_sql, "a save changes its own fields only: {version}");
        }
    }
}

#[test]
fn saves_and_sql_at_once_lose_nothing_silently() {
    let seed = number("SKYTRAIL_SEED", 2024);
    println!("seed {seed}");
    let database = shared().database(&[]);
    let setting = format!("DATABASE_URL={}", database.url());
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let mut ada = Client::signed_up(&server, "ada");
    ada.save("note/other", json!({"saved": "", "by_sql": ""}));
    for number in 0..RECORDS {
        ada.save(&format!("note/r{number}"), json!({"saved": "first"}));
    }
    // Their deletion is refused.
    for number in 0..2 {
        let note = json!({"$type": "ref", "$id": format!("note/r{number}")});
        ada.save(&format!("reply/{number}"), json!({"note": note}));
    }
    ada.query("note", json!(null));
    database.sql(
        "CREATE ROLE writer LOGIN; GRANT USAGE ON SCHEMA app_myapp TO writer; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON app_myapp.note TO writer",
    );
    let (saved, by_sql) = (Mutex::<Told>::default(), Mutex::<Told>::default());
    for round in 0..ROUNDS {
        let num_done = || {
            let count = |told: &Mutex<Told>| told.lock().unwrap().acknowledged.len();
            (count(&saved), count(&by_sql))
        };
        let before = num_done();
        std::thread::scope(|scope| {
            let mut writers = Vec::new();
            for writer in 0..2 {
                let random = move || StdRng::seed_from_u64(seed * 1000 + round * 10 + writer);
                let (ada, saved, by_sql, database) = (&ada, &saved, &by_sql, &database);
                let name = format!("save{round}{writer}");
                writers.push(scope.spawn(move || save(ada, &mut random(), &name, saved)));
                let name = format!("sql{round}{writer}");
                writers.push(scope.spawn(move || run_sql(database, &mut random(), &name, by_sql)));
            }
            let number = json!([{"name": format!("no{round}"), "type": "sequence"}]);
            let body = json!({"record_types": {"note": {"fields": number}}});
            let master = Client::master(&server);
            scope.spawn(move || drop(master.try_call("schema:create", body)));
            eventually("some of it is done", || {
                let now = num_done();
                let is_some = now.0 >= before.0 + WRITES / 5 && now.1 > before.1 + WRITES / 3;
                (is_some || writers.iter().all(|it| it.is_finished())).then_some(())
            });
            server.kill();
        });
        server.restart();
        ada = ada.at(&server);
    }
    let master = Client::master(&server);
    eventually("everything is taken in", || {
        let left = database.sql("SELECT count(*) FROM app_myapp._outbox");
        let is_told = ada.call("record:query", json!({"record_type": "note"}));
        (left == "0\n" && is_told.status == 200).then_some(())
    });
    let mut marks = BTreeMap::new();
    let (mut rows, mut told) = (String::new(), String::new());
    for number in 0..RECORDS {
        let versions = versions(&master, &format!("note/r{number}"));
        look_through(&versions, &mut marks);
        told += &history(number, &versions);
        let last = versions.last().map(|version| &version["record"]);
        if let Some(record) = last.filter(|record| !record.is_null()) {
            let text = |field: &str| record[field].as_str().unwrap_or("").to_owned();
            rows += &format!("r{number}|{}|{}\n", text("saved"), text("by_sql"));
        }
    }
    let found = "SELECT _id, saved, by_sql FROM app_myapp.note WHERE _id <> 'other' ORDER BY _id";
    let found = database.sql(found);
    assert_eq!(
        found,
        rows,
        "the tables are what the log says\n{told}{}",
        database.sql(
            "SELECT id, key, before->>'by_sql', after->>'by_sql', reason FROM app_myapp._parked"
        )
    );
    let parked = master
        .call("captured:list", json!({"limit": 1000}))
        .result();
    let parked: Vec<&Json> = parked.as_array().unwrap().iter().collect();
    for row in &parked {
        assert!(!row["reason"].as_str().unwrap().is_empty());
    }
    let is_parked = |mark: &str| {
        let mut parked = parked.iter();
        parked.any(|row| row["after"]["by_sql"] == mark)
    };
    let (saved, by_sql) = (saved.into_inner().unwrap(), by_sql.into_inner().unwrap());
    marks.remove("first");
    for mark in &saved.acknowledged {
        assert_eq!(marks.get(mark), Some(&1), "{mark}");
    }
    for mark in &by_sql.acknowledged {
        let num_rows = marks.get(mark).copied().unwrap_or(0);
        assert!(num_rows <= 2, "{mark} is there {num_rows} times");
        assert!(num_rows > 0 || is_parked(mark), "{mark} is nowhere");
    }
    for mark in &saved.unknown {
        assert!(marks.get(mark).is_none_or(|times| *times == 1), "{mark}");
    }
    println!(
        "{} saves, {} by sql, {} parked",
        saved.acknowledged.len(),
        by_sql.acknowledged.len(),
        parked.len()
    );
    assert!(saved.acknowledged.len() >= 15 && by_sql.acknowledged.len() > 20);
    for table in ["_faults", "_lifted"] {
        let left = database.sql(&format!("SELECT * FROM app_myapp.{table}"));
        assert_eq!(left, "", "{table}");
    }
    let output = server.skytrail(&["--set", &setting, "rebuild", "--verify"]);
    assert!(output.status.success(), "{output:?}");
    database.sql("DROP OWNED BY writer; DROP ROLE writer");
}
