//! Sequence fields of types whose records are erased: no number is assigned twice, and a rebuilt
//! store has the same numbers.

use serde_json::{Value as Json, json};

use super::said;
use crate::support::client::Client;
use crate::support::postgres;
use crate::support::server::TestServer;

/// A server whose store is a file or a database.
struct World {
    server: TestServer,
    /// Where commands find the store as well.
    url: String,
}

impl World {
    fn new(url: &str) -> Self {
        Self {
            server: TestServer::with(&[("DATABASE_URL", url)]),
            url: format!("DATABASE_URL={url}"),
        }
    }

    /// Rebuilds the store, after checking that a store built from the log is the same.
    fn rebuild(&mut self) {
        assert!(self.server.terminate().success());
        for command in [&["rebuild", "--verify"][..], &["rebuild"]] {
            let arguments = [&["--set", &self.url][..], command].concat();
            let output = self.server.skytrail(&arguments);
            assert!(output.status.success(), "{}", said(&output));
        }
        self.server.restart();
    }
}

fn erase(master: &Client, ids: &[&str]) {
    for id in ids {
        let body = json!({"record": id, "why": "asked for"});
        let erased = master.call("erase:record", body).result();
        assert_eq!(erased["finished"], true, "{erased}");
    }
}

/// Returns the records' numbers, by id.
fn numbers(master: &Client) -> Vec<(String, Json)> {
    let anything = json!(["neq", {"$type": "keypath", "$val": "_id"}, ""]);
    let number_of = |note: &Json| (note["_id"].to_string(), note["number"].clone());
    let mut numbers: Vec<_> = master
        .query("note", anything)
        .iter()
        .map(number_of)
        .collect();
    numbers.sort_by(|one, other| one.0.cmp(&other.0));
    numbers
}

/// Saves a record, and returns the number that it gets.
fn save(master: &Client, id: &str) -> Json {
    master.save(id, json!({"text": id}))["number"].clone()
}

fn add_field(master: &Client) {
    let fields = json!([{"name": "number", "type": "sequence"}]);
    let types = json!({"note": {"fields": fields}});
    let body = json!({"record_types": types});
    master.call("schema:create", body).result();
}

/// A new sequence field numbers the existing records; some were erased before, and some are erased
/// later.
fn check_what_the_field_found(mut world: World) {
    let master = Client::master(&world.server);
    // The oldest records have the greatest ids.
    for id in ["note/9", "note/8", "note/7", "note/6", "note/5"] {
        save(&master, id);
    }
    erase(&master, &["note/9"]);
    add_field(&master);
    let found = numbers(&master);
    assert_eq!(found.len(), 4);
    erase(&master, &["note/7"]);
    let kept = numbers(&master);
    world.rebuild();
    let master = master.at(&world.server);
    assert_eq!(numbers(&master), kept);

    // No record has the greatest number any more, and nothing remains of the one that had it.
    erase(&master, &["note/8", "note/6", "note/5"]);
    world.rebuild();
    let next = save(&master.at(&world.server), "note/1");
    let is_new = |(_, number): &(String, Json)| *number != next;
    assert!(found.iter().all(is_new), "{next} was given: {found:?}");
}

/// Records saved after the field was added carry their numbers, which are erased with them.
fn check_what_the_field_gave(mut world: World) {
    let master = Client::master(&world.server);
    add_field(&master);
    let ids = ["note/1", "note/2", "note/3", "note/4"];
    let mut given: Vec<Json> = ids.iter().map(|id| save(&master, id)).collect();
    erase(&master, &["note/3", "note/4"]);
    world.rebuild();
    let master = master.at(&world.server);
    for id in ["note/5", "note/6"] {
        let next = save(&master, id);
        assert!(!given.contains(&next), "{next} was given: {given:?}");
        given.push(next);
    }
}

#[test]
fn records_that_a_sequence_field_found_keep_their_numbers_when_some_are_erased() {
    check_what_the_field_found(World::new(""));
}

#[test]
fn numbers_of_erased_records_are_not_given_again() {
    check_what_the_field_gave(World::new(""));
}

#[test]
fn postgresql_keeps_numbers_as_well_when_records_are_erased() {
    for check in [check_what_the_field_found, check_what_the_field_gave] {
        let database = postgres::shared().database(&[]);
        check(World::new(&database.url()));
    }
}
