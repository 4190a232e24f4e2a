//! What SQL locks while its transaction is open: nothing but the rows that it writes.

use serde_json::json;

use super::World;
use super::numbers::INSERTED;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::Postgres;

impl World {
    /// A server with bills that SQL has deleted and inserted again.
    fn with_bills_put_back(num_bills: usize) -> Self {
        let database = Postgres::start().lasting().database(&[]);
        let world = Self::in_database(database).with_bills(num_bills);
        let places = world.places();
        let values: Vec<String> = (0..num_bills).map(|key| values(&key.to_string())).collect();
        let inserted = values.join(", ");
        world.sql(&format!(
            "BEGIN; DELETE FROM bill; INSERT INTO bill {INSERTED} VALUES {inserted}; COMMIT"
        ));
        world.settled();
        assert_eq!(world.places(), places);
        world
    }

    fn await_rows(&self, sql: &str, rows: &str) {
        eventually("the store has applied it", || {
            (self.sql(sql) == rows).then_some(())
        });
    }
}

fn values(key: &str) -> String {
    format!("('{key}', '', 'ada', now(), now(), 'inserted')")
}

fn upsert(key: &str) -> String {
    let values = values(key);
    format!("INSERT INTO bill {INSERTED} VALUES {values} ON CONFLICT DO NOTHING RETURNING _id")
}

#[test]
fn an_insertion_that_inserts_nothing_holds_up_nothing() {
    assert_holds_up_nothing(World::with_bills_put_back(3));
}

/// In format 10 a place was locked before the insertion.
#[test]
fn neither_does_it_in_a_store_from_before() {
    let mut world = World::with_bills_put_back(3);
    assert!(world.server.terminate().success());
    let of_before = include_str!("../../src/projection/postgres/migrations/0010_places.sql");
    let (_, functions) = of_before.split_once("CREATE FUNCTION").unwrap();
    world.sql(&format!(
        "SET skytrail.own TO 'yes'; UPDATE _checkpoint SET format = 10; \
         CREATE OR REPLACE FUNCTION {functions}"
    ));
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = Client::master(&world.server);
    assert_holds_up_nothing(world);
}

fn assert_holds_up_nothing(mut world: World) {
    let mut open = world.session(&format!("BEGIN; {}", upsert("1")));
    let deleted = json!({"ids": ["bill/1"]});
    world.master.call("record:delete", deleted).result();
    world.master.save("bill/2", json!({"text": "saved"}));
    let rows = "SELECT _id, text FROM bill WHERE _id <> '0'";
    world.await_rows(rows, "2|saved\n");
    open.sql("COMMIT");
    world.assert_rebuilt_alike();
}

#[test]
fn an_insertion_that_waits_for_a_row_does_not_hinder_its_deletion() {
    let mut world = World::with_bills_put_back(3);
    let mut other = world.session("BEGIN; UPDATE bill SET text = 'changed' WHERE _id = '1'");
    std::thread::scope(|scope| {
        let inserting = scope.spawn(|| world.try_sql(&upsert("1")));
        world.held_up();
        other.sql("DELETE FROM bill WHERE _id = '1'");
        other.sql("COMMIT");
        assert_eq!(inserting.join().unwrap(), Ok("1\n".to_owned()));
    });
    world.settled();
    world.assert_places_are_the_logs("the insertion");
    world.assert_rebuilt_alike();
}

/// The row would otherwise count as the record's when a field numbers the records.
#[test]
fn a_row_that_is_inserted_while_the_log_deletes_its_record_gets_a_place_of_its_own() {
    let mut world = World::with_bills_put_back(4);
    // After our own trigger, which looks for the place.
    world.sql(
        "CREATE FUNCTION public.hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$; \
         CREATE TRIGGER hold BEFORE INSERT OR UPDATE OF _id ON bill FOR EACH ROW \
         WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes') \
         EXECUTE FUNCTION public.hold()",
    );
    let renamed = "UPDATE bill SET _id = '2' WHERE _id = '3' RETURNING _id".to_owned();
    for (key, sql) in [("1", upsert("1")), ("2", renamed)] {
        let found = format!("SELECT _row >= 4611686018427387904 FROM bill WHERE _id = '{key}'");
        std::thread::scope(|scope| {
            let mut holding = world.session("BEGIN; SELECT pg_advisory_xact_lock(1)");
            let writing = scope.spawn(|| world.sql(&format!("BEGIN; {sql}; {found}; COMMIT")));
            world.held_up();
            let deleted = json!({"ids": [format!("bill/{key}")]});
            world.master.call("record:delete", deleted).result();
            world.await_rows(&found, "");
            holding.sql("COMMIT");
            assert_eq!(writing.join().unwrap(), format!("{key}\nt\n"));
        });
        world.settled();
        world.assert_places_are_the_logs(&sql);
    }
    world.sql("DROP FUNCTION public.hold CASCADE");
    world.assert_rebuilt_alike();
}

/// Others who lock rows again and again leave a large transaction no chance, but small ones.
#[test]
fn what_only_small_transactions_can_apply_is_applied_by_such() {
    let mut world = World::with_bills_put_back(1);
    world.sql(
        "CREATE FUNCTION public.lock_many() RETURNS trigger LANGUAGE plpgsql AS $$ \
         DECLARE num_rows int := coalesce(nullif(current_setting('theirs.rows', true), ''), '0'); \
         BEGIN IF num_rows >= 8 THEN RAISE lock_not_available; END IF; \
         PERFORM set_config('theirs.rows', (num_rows + 1)::text, true); RETURN NEW; END $$; \
         CREATE TRIGGER lock_many BEFORE INSERT ON bill FOR EACH ROW \
         EXECUTE FUNCTION public.lock_many()",
    );
    let mut holding = world.session("BEGIN; SELECT 1 FROM bill WHERE _id = '0' FOR UPDATE");
    world.ada.save("bill/0", json!({"text": "saved"}));
    world.held_up();
    for number in 1..=120 {
        world
            .ada
            .save(&format!("bill/{number}"), json!({"text": "saved"}));
    }
    holding.sql("COMMIT");
    world.await_rows("SELECT count(*) FROM bill WHERE text = 'saved'", "121\n");
    world.sql("DROP FUNCTION public.lock_many CASCADE");
    world.assert_rebuilt_alike();
}
