//! The places of rows, and the numbers that records get from a new sequence field: SQL changes
//! neither, and a store that is rebuilt from the log has the same ones.

use serde_json::{Value as Json, json};

use super::World;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::Postgres;

/// What the log requires of every row that SQL inserts.
pub(super) const INSERTED: &str = "(_id, _database_id, _owner_id, _created_at, _updated_at, text)";

impl World {
    /// A server with bills, and a note that refers to the first of them.
    pub(super) fn with_bills(self, num_bills: usize) -> Self {
        let bills: Vec<Json> = (0..num_bills)
            .map(|number| json!({"_id": format!("bill/{number}"), "text": "first"}))
            .collect();
        for some in bills.chunks(100) {
            let saved = self.ada.call("record:save", json!({"records": some}));
            saved.result();
        }
        let first = json!({"$type": "ref", "$id": "bill/0"});
        self.ada.save("note/1", json!({"bill": first}));
        self.settled();
        self
    }

    /// The ids of the bills, each with its place, in their order.
    pub(super) fn places(&self) -> String {
        self.sql("SELECT _id, _row FROM bill ORDER BY _row")
    }

    fn add_number(&self) {
        let fields = json!([{"name": "no", "type": "sequence"}]);
        let body = json!({"record_types": {"bill": {"fields": fields}}});
        eventually("the field is added", || {
            let added = self.master.call("schema:create", body.clone());
            (added.status == 200).then_some(())
        });
    }

    /// Fails unless each bill's place is the position at which the log created it.
    pub(super) fn assert_places_are_the_logs(&self, after: &str) {
        for line in self.places().lines() {
            let (key, place) = line.split_once('|').unwrap();
            let versions = self.versions(&format!("bill/{key}"));
            let created = versions.iter().find(|it| it["kind"] == "record.created");
            let created = created.map(|it| it["position"].to_string());
            assert_eq!(created.as_deref(), Some(place), "bill/{key} after {after}");
        }
    }

    /// The keys of the bills, each with its number, in the order of creation.
    fn numbers(&self) -> Vec<(String, Json)> {
        let body = json!({"record_type": "bill"});
        let found = self.master.call("record:query", body).result();
        let found = found.as_array().unwrap().iter();
        let number = |it: &Json| {
            let id = it["_id"].as_str().unwrap().trim_start_matches("bill/");
            (id.to_owned(), it["no"].clone())
        };
        found.map(number).collect()
    }

    /// Fails unless the store is as the log says, and a rebuild changes nothing.
    pub(super) fn assert_rebuilt_alike(&mut self) {
        let before = (self.places(), self.numbers());
        assert!(self.server.terminate().success());
        let setting = format!("DATABASE_URL={}", self.database.url());
        for command in [&["rebuild", "--verify"][..], &["rebuild"]] {
            let arguments = [&["--set", &setting][..], command].concat();
            let output = self.server.skytrail(&arguments);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}");
        }
        self.server.restart();
        self.master = Client::master(&self.server);
        self.ada = self.ada.at(&self.server);
        assert_eq!((self.places(), self.numbers()), before);
    }
}

fn numbered(expected: &[(&str, i64)]) -> Vec<(String, Json)> {
    let expected = expected.iter();
    expected
        .map(|(key, number)| ((*key).to_owned(), json!(number)))
        .collect()
}

#[test]
fn a_row_that_is_put_back_keeps_its_place() {
    let mut world = World::new().with_bills(3);
    let places = world.places();
    let delete = "DELETE FROM bill WHERE _id = '0';";
    let insert = format!("INSERT INTO bill {INSERTED} VALUES ('0', '', 'ada', now(), now(), 'x');");
    for sql in [
        delete.to_owned(),
        format!("BEGIN; {delete} {insert} COMMIT"),
        "UPDATE bill SET _row = 1 WHERE _id = '2'".to_owned(),
        "UPDATE bill SET _id = 'other' WHERE _id = '0'".to_owned(),
    ] {
        world.sql(&sql);
        world.settled();
        world.sql("DELETE FROM bill WHERE _id = 'other'");
        world.settled();
        assert_eq!(world.places(), places, "{sql}");
    }
    // The row may be back before it is inserted.
    world.sql(delete);
    let _ = world.try_sql(&insert);
    world.settled();
    assert_eq!(world.places(), places);
    world.add_number();
    assert_eq!(world.numbers(), numbered(&[("0", 1), ("1", 2), ("2", 3)]));
    world.assert_rebuilt_alike();
}

#[test]
fn ids_that_move_between_rows_leave_the_places_alone() {
    let mut world = World::new().with_bills(6);
    world.sql("UPDATE bill SET text = _id");
    world.settled();
    let named =
        |from: &str, to: &str| format!("UPDATE bill SET _id = '{to}' WHERE _id = '{from}';");
    let swap = named("0", "x") + &named("1", "0") + &named("x", "1");
    let turn = named("1", "x") + &named("2", "1") + &named("3", "2") + &named("x", "3");
    let all_up = named("5", "6") + &named("4", "5") + &named("3", "4") + &named("2", "3");
    let taken = "DELETE FROM bill WHERE _id = '1';".to_owned() + &named("3", "1");
    for sql in [swap, turn, all_up, taken] {
        world.sql(&format!("BEGIN; {sql} COMMIT"));
        world.settled();
        world.assert_places_are_the_logs(&sql);
    }
    world.add_number();
    world.assert_rebuilt_alike();
}

#[test]
fn a_place_outlasts_the_import_of_the_deletion_that_has_it() {
    let mut world = World::new().with_bills(3);
    let places = world.places();
    let delete = "DELETE FROM bill WHERE _id = '0'";
    let insert = format!("INSERT INTO bill {INSERTED} VALUES ('0', '', 'ada', now(), now(), 'x')");
    let mut blocking = world.session("BEGIN; SELECT FROM bill WHERE _id = '2' FOR UPDATE");
    world.ada.save("bill/2", json!({"text": "saved"}));
    world.held_up();
    world.sql(&format!("BEGIN; {delete}; {insert}; COMMIT"));
    let mut deleting = world.session(&format!("BEGIN; {delete}"));
    blocking.sql("ROLLBACK");
    // Behind the import of the first transaction.
    world.held_up();
    deleting.sql("COMMIT");
    world.settled();
    assert_eq!(world.places(), places);
    world.add_number();
    assert_eq!(world.numbers(), numbered(&[("0", 1), ("1", 2), ("2", 3)]));
    world.assert_rebuilt_alike();
}

#[test]
fn a_deletion_that_is_retried_changes_no_place() {
    let mut world = World::new().with_bills(2);
    let places = world.places();
    // Refused each time, since the note refers to it. Several, so that some are still in the outbox
    // when others are applied.
    for _ in 0..10 {
        world.sql("DELETE FROM bill WHERE _id = '0'");
        world.settled();
    }
    let all = json!({"all": true});
    let retried = world.master.call("captured:retry", all).result();
    world.settled();
    assert_eq!(world.places(), places, "{retried}");
    world.assert_rebuilt_alike();
}

#[test]
fn records_that_sql_deleted_before_get_no_number() {
    let mut world = World::new().with_bills(100);
    world.sql("DELETE FROM bill WHERE _id::int NOT BETWEEN 0 AND 3");
    world.add_number();
    assert_eq!(
        world.numbers(),
        numbered(&[("0", 1), ("1", 2), ("2", 3), ("3", 4)])
    );
    assert_eq!(world.ada.save("bill/new", json!({"text": "new"}))["no"], 5);
    world.settled();
    world.assert_rebuilt_alike();
}

#[test]
fn what_sql_does_meanwhile_changes_no_number() {
    let postgres = Postgres::start().lasting();
    let mut world = World::in_database(postgres.database(&[])).with_bills(6);
    let mut other = world.database.session(&format!(
        "SET search_path TO app_myapp; BEGIN; DELETE FROM bill WHERE _id IN ('0', '1'); \
         UPDATE bill SET text = 'other' WHERE _id = '2'; \
         UPDATE bill SET _id = 'other' WHERE _id = '3'; \
         DELETE FROM bill WHERE _id = '4'; \
         INSERT INTO bill {INSERTED} VALUES ('4', '', 'ada', now(), now(), 'x'), \
         ('sql', '', 'ada', now(), now(), 'x')"
    ));
    world.add_number();
    // The log has the field, and the store waits for the table.
    other.sql("COMMIT");
    world.settled();
    let numbers = world.numbers();
    // One cannot be deleted, since the note refers to it.
    for (key, number) in [("0", 1), ("2", 3), ("5", 6)] {
        let expected = (key.to_owned(), json!(number));
        assert!(numbers.contains(&expected), "{key}: {numbers:?}");
    }
    assert!(numbers.iter().all(|(key, _)| key != "1"), "{numbers:?}");
    let new = ["other", "sql"].map(|key| numbers.iter().find(|it| it.0 == key).unwrap().1.clone());
    let saved = world.ada.save("bill/new", json!({"text": "new"}))["no"].clone();
    let mut all = vec![new[0].as_i64(), new[1].as_i64(), saved.as_i64()];
    all.sort_unstable();
    assert_eq!(all, [Some(7), Some(8), Some(9)], "{numbers:?}");
    world.settled();
    world.assert_rebuilt_alike();
}

#[test]
fn a_row_that_is_deleted_and_inserted_unchanged_is_what_it_was() {
    let mut world = World::new().with_bills(2);
    let (places, before) = (world.places(), world.fetch("bill/1"));
    let columns = "_id, _database_id, _owner_id, _access, _created_at, _created_by, _updated_at, \
         _updated_by, text";
    for columns in ["*", columns] {
        let into = if columns == "*" {
            String::new()
        } else {
            format!("({columns})")
        };
        world.sql(&format!(
            "BEGIN; CREATE TEMP TABLE aside AS SELECT {columns} FROM bill WHERE _id = '1'; \
             DELETE FROM bill WHERE _id = '1'; \
             INSERT INTO bill {into} SELECT * FROM aside; COMMIT"
        ));
        world.settled();
        assert_eq!(world.places(), places, "{columns}");
        assert_eq!(world.fetch("bill/1"), before, "{columns}");
        assert_eq!(world.sql("SELECT reason FROM _parked"), "", "{columns}");
    }
    world.assert_rebuilt_alike();
}
