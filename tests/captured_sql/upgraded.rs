//! A start that upgrades a store while others use its tables.

use std::time::Duration;

use serde_json::Value as Json;

use super::{PLACES_OF_BEFORE, World};
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres};

/// How `_capture` was in format 9.
const CAPTURE_OF_BEFORE: &str =
    include_str!("../../src/projection/postgres/migrations/0006_channel.sql");

impl World {
    /// A stopped server, whose store has format 9: it had no trigger `_keep_place`.
    fn of_before() -> Self {
        let database = Postgres::start().lasting().database(&[]);
        let mut world = Self::in_database(database).with_bills(2);
        assert!(world.server.terminate().success());
        world.sql(PLACES_OF_BEFORE);
        world.sql("SET skytrail.own TO 'yes'; UPDATE _checkpoint SET format = 9");
        world.sql(CAPTURE_OF_BEFORE);
        world
    }
}

/// Waits until a session waits for a table, or none does.
fn await_waiting(database: &Database<'_>, is_waiting: bool) {
    let count = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'relation'";
    let expected = if is_waiting { "t\n" } else { "f\n" };
    eventually("the start waits for a table, or gives way", || {
        (database.sql(count) == expected).then_some(())
    });
}

/// Waits until a session has waited for a table longer than the start does at first.
fn await_long_wait(database: &Database<'_>) {
    let count = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
        AND query LIKE 'LOCK TABLE%' AND clock_timestamp() - query_start > '1.2 s'";
    eventually("the start waits longer each time", || {
        (database.sql(count) == "t\n").then_some(())
    });
}

#[test]
fn a_start_does_not_wait_for_readers_nor_end_them() {
    let mut world = World::of_before();
    let mut reader = world.session("BEGIN; SELECT count(*) FROM bill");
    world.server.restart();
    assert_eq!(reader.sql("SELECT count(*) FROM note"), ["1"]);
    assert_eq!(reader.sql("SELECT count(*) FROM \"user\""), ["1"]);
}

/// The places of the rows that the writer has taken away are read by the upgrade, and not taken for
/// those of others when the writer goes on.
#[test]
fn a_start_waits_for_writers_and_hinders_nobody() {
    let mut world = World::of_before();
    let places = world.places();
    let mut writer = world.session(
        "BEGIN; DELETE FROM bill WHERE _id = '0'; UPDATE bill SET _id = 'x' WHERE _id = '1'",
    );
    let (server, database) = (&mut world.server, &world.database);
    std::thread::scope(|scope| {
        let starting = scope.spawn(move || server.restart());
        await_waiting(database, true);
        let count = "SET statement_timeout TO '20s'; SELECT count(*) FROM app_myapp.note";
        assert_eq!(database.sql(count), "1\n");
        assert_eq!(database.sql(&count.replace("note", "bill")), "2\n");
        await_waiting(database, false);
        await_long_wait(database);
        // The start has no other table, for which PostgreSQL would have to end one of both.
        let write = "UPDATE note SET _updated_at = now() RETURNING _id";
        assert_eq!(writer.sql(write), ["1"]);
        assert_eq!(writer.sql("DELETE FROM bill RETURNING _id"), ["x"]);
        writer.sql("COMMIT");
        starting.join().unwrap();
    });
    let said = world.server.output();
    let warned = said
        .lines()
        .find(|line| line.contains("upgraded when its tables are free"));
    let warned = warned.unwrap_or_else(|| panic!("{said}"));
    for part in ["WARN", "psql", "table=\"bill\""] {
        assert!(warned.contains(part), "{warned}");
    }
    world.ada = world.ada.at(&world.server);
    world.settled();
    // One deletion is refused, since a note refers to the bill.
    let (first, _) = places.split_once('\n').unwrap();
    eventually(
        "that bill is there again, and only it has a place that is kept",
        || {
            let kept = world.sql("SELECT key FROM _place WHERE table_name = 'bill'");
            (world.places().trim() == first && kept == "0\n").then_some(())
        },
    );
}

/// Each writer ends when another one has written, so the table is never free.
#[test]
fn a_start_gets_its_turn_among_writers_that_relieve_each_other() {
    let mut world = World::of_before();
    let (server, database) = (&mut world.server, &world.database);
    let write = |bill: usize| {
        let key = bill % 2;
        let write = format!("BEGIN; UPDATE app_myapp.bill SET text = 'sql' WHERE _id = '{key}'");
        database.session(&write)
    };
    let mut writer = write(0);
    std::thread::scope(|scope| {
        let starting = scope.spawn(move || server.restart());
        await_waiting(database, true);
        for bill in 1..4 {
            let next = write(bill);
            writer.sql("COMMIT");
            writer = next;
        }
        // The next one begins behind the start, as soon as that waits longer than at first.
        await_long_wait(database);
        let next = scope.spawn(|| write(4).sql("COMMIT"));
        writer.sql("COMMIT");
        starting.join().unwrap();
        next.join().unwrap();
    });
    world.ada = world.ada.at(&world.server);
    world.settled();
    assert_eq!(world.fetch("bill/0")["text"], "sql");
}

/// Meanwhile, SQL writes to tables of which some are upgraded and others are not.
#[test]
fn a_start_that_is_killed_in_its_upgrade_is_made_up_for() {
    let mut world = World::of_before();
    let delete_and_insert = |table: &str, key: &str| {
        format!(
            "DELETE FROM {table} WHERE _id = '{key}'; \
             INSERT INTO {table} (_id, _database_id, _owner_id, _created_at, _updated_at) \
             VALUES ('{key}', '', 'ada', now(), now())"
        )
    };
    let places = world.places();
    let writer = world.session("BEGIN; UPDATE bill SET text = 'sql' WHERE _id = '0'");
    world
        .server
        .start_and_kill_after("serve", Duration::from_secs(4));
    let kept = "SELECT count(*) FROM pg_trigger \
        WHERE tgname = '_keep_place' AND tgrelid = 'bill'::regclass";
    assert_eq!(world.sql(kept), "0\n");
    drop(writer);
    for (table, key) in [("note", "1"), ("bill", "1")] {
        world.sql(&format!("BEGIN; {}; COMMIT", delete_and_insert(table, key)));
    }
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = world.master.at(&world.server);
    world.settled();
    assert_eq!(world.fetch("bill/1")["text"], Json::Null);
    assert_eq!(world.fetch("note/1")["bill"], Json::Null);
    world.sql(&format!(
        "BEGIN; {}; COMMIT",
        delete_and_insert("bill", "0")
    ));
    world.settled();
    assert_eq!(world.places(), places);
    world.assert_rebuilt_alike();
}
