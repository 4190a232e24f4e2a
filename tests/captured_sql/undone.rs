//! What a transaction undoes itself changes nothing, whatever is saved meanwhile.

use serde_json::json;

use super::World;
use super::numbers::INSERTED;

/// A session with an open transaction that has done nothing in total.
const UPDATED_AND_BACK: &str = "BEGIN; UPDATE bill SET text = 'locked' WHERE _id = '1'; \
    UPDATE bill SET text = 'first' WHERE _id = '1'";

#[test]
fn a_save_outlasts_a_change_that_a_transaction_undoes_itself() {
    let mut world = World::new().with_bills(2);
    let mut session = world.session(UPDATED_AND_BACK);
    let saved = world.ada.save("bill/1", json!({"text": "paid"}));
    assert_eq!(saved["text"], "paid");
    world.held_up();
    session.sql("COMMIT");
    world.settled();
    assert_eq!(world.sql("SELECT text FROM bill WHERE _id = '1'"), "paid\n");
    assert_eq!(world.versions("bill/1").len(), 2);
    world.assert_rebuilt_alike();
    assert_eq!(world.fetch("bill/1")["text"], "paid");
}

#[test]
fn a_deletion_outlasts_a_change_that_a_transaction_undoes_itself() {
    let mut world = World::new().with_bills(2);
    let mut session = world.session(UPDATED_AND_BACK);
    let deleted = world
        .ada
        .call("record:delete", json!({"ids": ["bill/1"]}))
        .result();
    assert_eq!(deleted[0]["_type"], "record", "{deleted}");
    world.held_up();
    session.sql("COMMIT");
    world.settled();
    assert_eq!(world.sql("SELECT _id FROM bill"), "0\n");
    world.assert_rebuilt_alike();
}

#[test]
fn a_new_record_outlasts_a_row_that_a_transaction_inserts_and_deletes() {
    let mut world = World::new().with_bills(1);
    let mut session = world.session(&format!(
        "BEGIN; INSERT INTO bill {INSERTED} VALUES ('new', '', 'x', now(), now(), 'x'); \
         DELETE FROM bill WHERE _id = 'new'"
    ));
    let saved = world.ada.save("bill/new", json!({"text": "mine"}));
    assert_eq!(saved["text"], "mine");
    world.held_up();
    session.sql("COMMIT");
    world.settled();
    assert_eq!(
        world.sql("SELECT text FROM bill WHERE _id = 'new'"),
        "mine\n"
    );
    world.assert_rebuilt_alike();
    assert_eq!(world.fetch("bill/new")["text"], "mine");
}

#[test]
fn a_row_that_is_put_back_outlasts_one_that_a_transaction_inserts_and_deletes() {
    let mut world = World::new().with_bills(2);
    let places = world.places();
    let mut blocking = world.session("BEGIN; SELECT FROM bill WHERE _id = '1' FOR UPDATE");
    world.ada.save("bill/1", json!({"text": "saved"}));
    world.held_up();
    // Refused, since the note refers to it.
    world.sql("DELETE FROM bill WHERE _id = '0'");
    let mut session = world.session(&format!(
        "BEGIN; INSERT INTO bill {INSERTED} VALUES ('0', '', 'x', now(), now(), 'x'); \
         DELETE FROM bill WHERE _id = '0'"
    ));
    blocking.sql("ROLLBACK");
    world.held_up();
    session.sql("COMMIT");
    world.settled();
    assert_eq!(world.places(), places);
    world.ada.save("bill/0", json!({"text": "saved"}));
    world.applied();
    assert_eq!(
        world.sql("SELECT text FROM bill WHERE _id = '0'"),
        "saved\n"
    );
    assert_eq!(world.sql("SELECT * FROM _faults"), "");
    world.assert_rebuilt_alike();
}
