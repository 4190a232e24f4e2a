//! Rows of the outbox that cannot be read: they do not hold up the others.

use serde_json::{Value as Json, json};

use super::World;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

impl World {
    fn parked_rows(&self) -> Vec<Json> {
        let body = json!({"limit": 100});
        let listed = self.master.call("captured:list", body).result();
        listed.as_array().unwrap().clone()
    }
}

/// Its text is longer than the database's longest string, which it does not notice before somebody
/// reads it.
const TOO_LONG: &str = "(SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 8500))";

#[test]
fn a_row_that_cannot_be_read_is_parked_and_the_others_are_taken_in() {
    let world = World::new();
    let number = json!({"fields": [{"name": "number", "type": "sequence"}]});
    world.ada.save("note/1", json!({"n": 1, "data": {"a": 1}}));
    let types = json!({"record_types": {"note": number}});
    world.master.call("schema:create", types).result();
    world.ada.save("note/2", json!({"n": 1, "data": {"a": 1}}));
    world.ada.save("room/1", json!({"n": 1}));
    world.applied();
    let numbered = world.fetch("note/1")["number"].clone();
    assert!(numbered.is_number());
    world.sql(&format!(
        "BEGIN; UPDATE note SET n = 2 WHERE _id = '2'; \
         UPDATE note SET n = 2, data = {TOO_LONG} WHERE _id = '1'; COMMIT"
    ));
    world.sql("UPDATE room SET n = 2");
    // The database takes seconds to find out.
    eventually("the row is parked", || {
        (world.sql("SELECT count(*) FROM _parked") == "1\n").then_some(())
    });
    world.settled();
    assert_eq!(world.fetch("room/1")["n"], 2);
    assert_eq!(world.fetch("note/2")["n"], 2);
    // The row is as the log has it again.
    let note = world.fetch("note/1");
    assert_eq!([&note["n"], &note["data"]], [&json!(1), &json!({"a": 1})]);
    assert_eq!(note["number"], numbered);
    assert_eq!(world.ada.query("note", json!(null)).len(), 2);

    let parked = world.parked_rows();
    assert_eq!(parked.len(), 1, "{parked:?}");
    let reason = parked[0]["reason"].as_str().unwrap();
    assert!(reason.contains("cannot be read"), "{reason}");
    assert_eq!(parked[0]["record"], "note/1");
    assert_eq!(parked[0]["after"], json!(null));
    assert_eq!(world.sql("SELECT after -> 'n' FROM _parked"), "2\n");
    let all = json!({"all": true});
    world.master.call("captured:discard", all).result();
    assert_eq!(world.parked_rows(), [json!(null); 0]);
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

#[test]
fn what_others_put_into_the_outbox_themselves_is_parked() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql(
        "INSERT INTO _outbox (transaction, role, at, table_name, key, before, after) \
         SELECT pg_current_xact_id()::text::bigint, 'chat', now(), 'note', '1', before, '{}' \
         FROM unnest(ARRAY['5', '{\"_row\": 1e30}']::jsonb[]) AS t (before)",
    );
    world.sql("UPDATE note SET n = 2");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
    let parked = world.parked_rows();
    let reasons: Vec<_> = parked.iter().map(|it| it["reason"].to_string()).collect();
    let are_unreadable = reasons.iter().any(|it| it.contains("cannot be read"));
    assert!(are_unreadable, "{reasons:?}");
}

#[test]
fn a_table_that_cannot_be_compared_is_stored_in_full() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.ada.save("room/1", json!({"n": 1}));
    world.applied();
    world.sql("CREATE DOMAIN app_myapp.positive AS integer; ALTER TABLE note ADD extra positive");
    world.sql("SET skytrail.own TO 'yes'; UPDATE note SET extra = 0");
    // Does not hold for the row that is there: its values cannot be given to it again.
    world.sql("ALTER DOMAIN positive ADD CHECK (VALUE > 0) NOT VALID");
    world.sql("UPDATE note SET n = 2");
    world.sql("UPDATE room SET n = 2");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
    assert_eq!(world.fetch("room/1")["n"], 2);
    assert_eq!(world.versions("note/1")[0]["kind"], "record.replaced");
    assert_eq!(world.parked_rows(), [json!(null); 0]);
}

#[test]
fn a_row_that_cannot_be_read_because_of_a_lock_is_read_later() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &*database.url())]);
    let mut world = World {
        ada: Client::signed_up(&server, "ada"),
        master: Client::master(&server),
        database,
        server,
    };
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    assert!(world.server.terminate().success());
    world.server.set("DATABASE_STATEMENT_TIMEOUT", "1");
    world.sql("UPDATE note SET n = 2");
    let lock = "BEGIN; LOCK TABLE app_myapp.note IN ACCESS EXCLUSIVE MODE";
    let session = world.database.session(lock);
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = Client::master(&world.server);
    eventually("the row cannot be read", || {
        (world.master.health()["captured"]["is_failing"] == true).then_some(())
    });
    assert_eq!(world.sql("SELECT count(*) FROM _outbox"), "1\n");
    drop(session);
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
    assert_eq!(world.versions("note/1")[0]["kind"], "record.changed");
    assert_eq!(world.parked_rows(), [json!(null); 0]);
}

/// All that a transaction did to a row is parked, not only the last of it.
#[test]
fn what_is_parked_of_a_row_is_all_that_the_transaction_did_to_it() {
    let world = World::new();
    world.ada.save("room/1", json!({"n": 1}));
    let room = json!({"$type": "ref", "$id": "room/1"});
    world.ada.save("note/1", json!({"n": 1, "room": room}));
    world.applied();
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, n, room";
    world.sql(&format!(
        "BEGIN; UPDATE note SET n = 2 WHERE _id = '1'; \
         UPDATE note SET room = 'later' WHERE _id = '1'; \
         INSERT INTO note ({columns}) VALUES ('2', '', 'ada', now(), now(), 1, 'later'); \
         UPDATE note SET n = 3 WHERE _id = '2'; COMMIT"
    ));
    world.settled();
    let parked = world.parked_rows();
    assert_eq!(parked.len(), 2, "{parked:?}");
    let row = |key: &str| parked.iter().find(|row| row["key"] == key).unwrap();
    assert_eq!(row("1")["before"]["n"], 1);
    assert_eq!(row("1")["after"]["n"], 2);
    assert_eq!(row("2")["before"], json!(null));
    world.ada.save("room/later", json!({"n": 1}));
    let all = json!({"all": true});
    let retried = world.master.call("captured:retry", all).result();
    assert_eq!(retried["parked"], json!([]), "{retried}");
    for (note, n) in [("note/1", 2), ("note/2", 3)] {
        let found = world.fetch(note);
        assert_eq!(found["n"], n, "{found}");
        assert_eq!(found["room"]["$id"], "room/later", "{found}");
    }
}
