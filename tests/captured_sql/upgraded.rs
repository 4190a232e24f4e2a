//! A start that upgrades a store while others use its tables.

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

#[test]
fn a_start_does_not_wait_for_readers_nor_end_them() {
    let mut world = World::of_before();
    let mut reader = world.session("BEGIN; SELECT count(*) FROM bill");
    world.server.restart();
    assert_eq!(reader.sql("SELECT count(*) FROM note"), ["1"]);
    assert_eq!(reader.sql("SELECT count(*) FROM \"user\""), ["1"]);
}

/// What the writer does is also read by the upgrade: the place of the row that it deletes.
#[test]
fn a_start_waits_for_writers_and_hinders_nobody() {
    let mut world = World::of_before();
    let places = world.places();
    // The upgrade takes the tables in the order of their names.
    let mut writer = world.session("BEGIN; UPDATE note SET _updated_at = now()");
    let (server, database) = (&mut world.server, &world.database);
    std::thread::scope(|scope| {
        let starting = scope.spawn(move || server.restart());
        await_waiting(database, true);
        let count = "SET statement_timeout TO '20s'; SELECT count(*) FROM app_myapp.bill";
        assert_eq!(database.sql(count), "2\n");
        assert_eq!(database.sql(&count.replace("bill", "note")), "1\n");
        await_waiting(database, false);
        await_waiting(database, true);
        let deleted = writer.sql("DELETE FROM bill WHERE _id = '0' RETURNING _id");
        assert_eq!(deleted, ["0"]);
        await_waiting(database, true);
        writer.sql("COMMIT");
        starting.join().unwrap();
    });
    let said = world.server.output();
    let warned = said
        .lines()
        .find(|line| line.contains("upgraded when its tables are free"));
    let warned = warned.unwrap_or_else(|| panic!("{said}"));
    assert!(
        warned.contains("WARN") && warned.contains("psql"),
        "{warned}"
    );
    world.ada = world.ada.at(&world.server);
    world.settled();
    // The deletion is refused, since a note refers to the bill.
    assert_eq!(world.places(), places);
}
