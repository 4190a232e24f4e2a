//! Large or endless changes by SQL: they delay nothing else, and do not fill up the memory.

use std::time::Duration;

use serde_json::json;

use super::World;
use crate::support::postgres::Postgres;
use crate::support::{eventually, eventually_within};

const COLUMNS: &str = "_id, _database_id, _owner_id, _created_at, _updated_at, text";

/// Returns how many statements have looked something up in the history since the last call.
fn lookups(world: &World) -> u64 {
    let count = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements \
                 WHERE query LIKE '%FROM _history WHERE%'; SELECT pg_stat_statements_reset()";
    world.sql(count).trim().parse().unwrap()
}

impl World {
    /// Starts with a note and a page, and a change by SQL. In a shared server, the erasures of other
    /// tests would wait for the long transactions of these.
    fn with_two_types() -> Self {
        Self::with_two_types_in(Postgres::start().lasting())
    }

    fn with_two_types_in(postgres: &'static Postgres) -> Self {
        let world = Self::in_database(postgres.database(&[]));
        world.ada.save("note/1", json!({"n": 1, "text": "saved"}));
        world.ada.save("page/1", json!({"n": 1, "text": "saved"}));
        world.applied();
        world.sql("UPDATE note SET n = 2; UPDATE page SET n = 2");
        world.settled();
        world
    }

    fn num_waiting(&self) -> u64 {
        let count = self.sql("SELECT count(*) FROM _outbox");
        count.trim().parse().unwrap()
    }

    /// Returns the peak memory of the server, in bytes.
    fn peak_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.server.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() << 10
    }
}

#[test]
fn a_large_transaction_of_one_type_does_not_hold_up_another() {
    let world = World::with_two_types();
    world.sql(&format!(
        "INSERT INTO page ({COLUMNS}) SELECT 'p' || i, '', 'ada', now(), now(), 'text ' || i \
         FROM generate_series(1, 30000) AS i"
    ));
    world.sql("UPDATE page SET n = 3 WHERE _id = '1'");
    assert_eq!(world.fetch("note/1")["n"], 2);
    assert_eq!(world.ada.query("note", json!(null)).len(), 1);
    let saved = world.ada.save("note/1", json!({"text": "again"}));
    assert_eq!(saved["text"], "again", "{saved}");
    assert!(world.num_waiting() > 0, "it was over before anybody asked");
    // A change after it waits for it.
    world.sql("UPDATE note SET n = 3");
    eventually("some of it is taken in", || {
        (world.num_waiting() < 27_000).then_some(())
    });
}

/// Records that are not in memory are loaded from the log together, not one by one.
#[test]
fn a_large_change_of_records_that_are_not_in_memory_takes_few_lookups() {
    const ROWS: usize = 300;
    let postgres = Postgres::start_with("-c shared_preload_libraries=pg_stat_statements").lasting();
    let mut world = World::in_database(postgres.database(&["pg_stat_statements"]));
    for first in (0..ROWS).step_by(100) {
        let records: Vec<_> = (first..first + 100)
            .map(|n| json!({"_id": format!("page/{n}"), "n": 1, "text": "saved"}))
            .collect();
        world.ada.call("record:save", json!({ "records": records }));
    }
    world.applied();
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = world.master.at(&world.server);
    lookups(&world);
    world.sql("UPDATE page SET n = n + 1");
    world.settled();
    let changed = world.sql("SELECT count(*) FROM page WHERE n = 2 AND text = 'saved'");
    assert_eq!(changed, format!("{ROWS}\n"));
    let lookups = lookups(&world);
    assert!(lookups < 60, "{lookups} statements for {ROWS} rows");
    assert_eq!(world.versions("page/299").len(), 2);
}

/// Nothing can be imported, so requests wait in vain.
#[test]
fn the_health_says_that_requests_are_refused() {
    let postgres = Postgres::start().lasting();
    let world = World::with_two_types_in(postgres);
    let lock = "BEGIN; LOCK TABLE app_myapp._outbox IN ACCESS EXCLUSIVE MODE";
    let locking = world.database.session(lock);
    let refused = world
        .ada
        .call("record:query", json!({"record_type": "note"}));
    assert_eq!((refused.status, refused.code()), (503, 10000));
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("import of SQL changes"), "{message}");
    let health = world.master.health();
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("changes made by SQL"), "{reasons}");
    drop(locking);
    eventually("all is well again", || {
        (world.master.health()["status"] == "OK").then_some(())
    });
    assert_eq!(world.ada.query("note", json!(null)).len(), 1);
}

#[test]
fn who_asks_while_sql_goes_on_waits_for_what_was_there() {
    let world = World::with_two_types();
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            // In an explicit transaction, COMMIT would be refused. The pauses keep what waits small
            // on a busy machine.
            world.database.sql(
                "DO $$ DECLARE late timestamptz := clock_timestamp() + interval '2 min'; \
                 BEGIN FOR i IN 1..1000000 LOOP \
                 UPDATE app_myapp.page SET n = n + 1; COMMIT; PERFORM pg_sleep(0.01); \
                 EXIT WHEN to_regclass('public.enough') IS NOT NULL OR clock_timestamp() > late; \
                 END LOOP; END $$",
            )
        });
        eventually("it goes on", || {
            (world.sql("SELECT n > 2 FROM page") == "t\n").then_some(())
        });
        let page = world.fetch("page/1");
        let note = world.fetch("note/1");
        let saved = world.ada.save("note/1", json!({"text": "again"}));
        assert!(!changing.is_finished(), "it was over before anybody asked");
        world.sql("CREATE TABLE public.enough ()");
        assert!(page["n"].as_u64().unwrap() > 2, "{page}");
        assert_eq!(note["n"], 2, "{note}");
        assert_eq!(saved["text"], "again", "{saved}");
    });
}

#[test]
fn large_rows_are_taken_in_a_few_at_a_time() {
    const ROWS: usize = 48;
    let world = World::with_two_types();
    let before = world.peak_bytes();
    world.sql(&format!(
        "INSERT INTO page ({COLUMNS}) SELECT 'p' || i, '', 'ada', now(), now(), \
         repeat(md5(i::text), 32768) FROM generate_series(1, {ROWS}) AS i"
    ));
    // 48 MiB, in an unoptimised build.
    eventually_within(Duration::from_secs(120), "it is taken in", || {
        (world.num_waiting() == 0).then_some(())
    });
    let grown = (world.peak_bytes() - before) >> 20;
    println!("{grown} MiB for {ROWS} MiB of rows");
    assert!(grown < 150, "{grown} MiB");
    let page = world.fetch("page/p48");
    assert_eq!(page["text"].as_str().map(str::len), Some(1 << 20));
    assert_eq!(world.sql("SELECT count(*) FROM _parked"), "0\n");
}
