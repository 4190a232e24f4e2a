//! Values that SQL can write and no record can hold.

use std::process::Output;

use serde_json::{Value as Json, json};

use super::World;

/// JSON that the database accepts and the server cannot read: a number, and too many brackets.
const UNREADABLE: [&str; 3] = [
    r#"'{"a":1e400}'"#,
    "(repeat('[',127)||repeat(']',127))::jsonb",
    "(repeat('[',300)||repeat(']',300))::jsonb",
];

impl World {
    fn with_a_note() -> Self {
        let world = Self::new();
        world
            .ada
            .save("note/1", json!({"text": "saved", "n": 1, "j": {"a": 1}}));
        world.applied();
        world
    }

    fn list_parked(&self) -> Vec<Json> {
        let listed = self.master.call("captured:list", json!({})).result();
        listed.as_array().unwrap().clone()
    }

    /// Fails unless saves, queries and further SQL work, and the store equals the log.
    fn assert_all_goes_on(&self) {
        let saved = self.ada.save("note/1", json!({"text": "again"}));
        assert_eq!(saved["text"], "again", "{saved}");
        self.sql("UPDATE note SET n = n + 1 WHERE _id = '1'");
        self.settled();
        let found = self.ada.query("note", json!(null));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0]["n"], 2);
        assert_eq!(self.sql("SELECT count(*) FROM _faults"), "0\n");
        let output = self.verify();
        assert!(output.status.success(), "{output:?}");
    }

    /// Compares the store with the log.
    fn verify(&self) -> Output {
        let setting = format!("DATABASE_URL={}", self.database.url());
        let arguments = ["--set", &setting, "rebuild", "--verify"];
        self.server.skytrail(&arguments)
    }
}

#[test]
fn json_that_cannot_be_read_is_parked_and_everything_goes_on() {
    let world = World::with_a_note();
    for (index, unreadable) in UNREADABLE.iter().enumerate() {
        world.sql(&format!("UPDATE note SET j = {unreadable}, n = 7"));
        world.settled();
        let parked = world.list_parked();
        assert_eq!(parked.len(), index + 1, "{unreadable}: {parked:?}");
        let last = &parked[index];
        let reason = last["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("column \"j\" has no valid json"),
            "{reason}"
        );
        assert_eq!(last["before"]["j"], json!({"a": 1}));
        assert_eq!(last["after"]["n"], 7);
        let written = world.sql(&format!("SELECT {unreadable}::jsonb"));
        assert_eq!(last["after"]["j"], written.trim(), "as a text");
        assert_eq!(
            world.ada.query("note", json!(null))[0]["j"],
            json!({"a": 1})
        );
        assert_eq!(world.fetch("note/1")["n"], 1);
    }
    // They can be retried, and stay as they were.
    for row in world.list_parked() {
        let ids = json!({"ids": [row["id"]]});
        let retried = world.master.call("captured:retry", ids).result();
        let again = retried["parked"].as_array().unwrap();
        assert_eq!(again.len(), 1, "{retried}");
        assert_eq!(again[0]["after"]["j"], row["after"]["j"]);
    }
    world.assert_all_goes_on();
}

#[test]
fn what_only_the_database_tells_apart_is_put_back() {
    let world = World::with_a_note();
    world
        .ada
        .save("note/1", json!({"j": null, "k": {"a": 1.5}}));
    world.applied();
    for change in ["j = 'null'", "k = '{\"a\": 1.50}'"] {
        world.sql(&format!("UPDATE note SET {change}"));
        world.settled();
    }
    assert_eq!(
        world.sql("SELECT j IS NULL, k FROM note"),
        "t|{\"a\": 1.5}\n"
    );
    assert_eq!(world.list_parked(), Vec::<Json>::new());
    assert_eq!(world.fetch("note/1")["k"], json!({"a": 1.5}));
    // A change that is undone again gives no version.
    let num_versions = world.versions("note/1").len();
    world.sql("BEGIN; UPDATE note SET n = n + 1; UPDATE note SET n = n - 1; COMMIT");
    world.settled();
    assert_eq!(world.versions("note/1").len(), num_versions);
    world.assert_all_goes_on();
}

/// As above, but another column changes with it, or the row is new: the record gets a version.
#[test]
fn what_only_the_database_tells_apart_is_put_back_beside_a_change() {
    let world = World::with_a_note();
    world
        .ada
        .save("note/1", json!({"j": null, "k": {"a": 1.5}, "zero": 0}));
    world.applied();
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, j, k, n";
    let values = "'2', '', 'ada', now(), now(), 'null', '{\"a\": 1.50}', 0";
    let changes = [
        "UPDATE note SET j = 'null', n = n + 1",
        "UPDATE note SET k = '{\"a\": 1.50}', n = n + 1",
        "BEGIN; UPDATE note SET j = 'null'; UPDATE note SET n = n + 1; COMMIT",
        "BEGIN; UPDATE note SET k = '{\"a\": 1.50}', n = n + 1; UPDATE note SET text = 'x'; COMMIT",
        "UPDATE note SET _access = 'null', n = n + 1",
        "UPDATE note SET zero = -zero, n = n + 1",
        &format!("INSERT INTO note ({columns}) VALUES ({values})"),
    ];
    for change in changes {
        world.sql(change);
        world.settled();
        let odd = "SELECT count(*) FROM note WHERE j IS NOT NULL OR _access IS NOT NULL \
                   OR k::text <> '{\"a\": 1.5}' OR zero::text <> '0'";
        assert_eq!(world.sql(odd), "0\n", "{change}");
    }
    assert_eq!(world.list_parked(), Vec::<Json>::new());
    assert_eq!(world.fetch("note/1")["n"], 7);
    world.sql("DELETE FROM note WHERE _id = '2'; UPDATE note SET n = 1");
    world.settled();
    world.assert_all_goes_on();
}

/// A caseless field has a second column, which others cannot change.
#[test]
fn what_no_field_is_alone_in_is_put_back_beside_a_change() {
    let world = World::with_a_note();
    world.sql("UPDATE \"user\" SET \"username~folded\" = 'other', last_login_at = '2020-01-01'");
    world.settled();
    let folded = world.sql("SELECT \"username~folded\", last_login_at FROM \"user\"");
    assert_eq!(folded, "ada|2020-01-01 00:00:00\n");
    let output = world.verify();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_only_the_database_tells_apart_is_a_difference_to_the_log() {
    let world = World::with_a_note();
    world
        .ada
        .save("note/1", json!({"j": null, "k": {"a": 1.5}}));
    world.applied();
    for odd in ["j = 'null'", "k = '{\"a\": 1.50}'"] {
        world.sql(&format!("SET skytrail.own TO 'yes'; UPDATE note SET {odd}"));
        let output = world.verify();
        assert!(!output.status.success(), "{odd}: {output:?}");
        world.sql("SET skytrail.own TO 'yes'; UPDATE note SET j = NULL, k = '{\"a\": 1.5}'");
        let output = world.verify();
        assert!(output.status.success(), "{odd}: {output:?}");
    }
}

#[test]
fn numbers_that_would_come_back_as_others_are_parked() {
    let world = World::with_a_note();
    let numbers = [
        "12345678901234567.89",
        "0.1000000000000000055511151231257827",
        "18446744073709551617",
        "1e-400",
    ];
    for (index, number) in numbers.iter().enumerate() {
        world.sql(&format!(
            "UPDATE note SET j = '{{\"amount\": [{number}]}}', n = 7"
        ));
        world.settled();
        let parked = world.list_parked();
        assert_eq!(parked.len(), index + 1, "{number}: {parked:?}");
        let reason = parked[index]["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("column \"j\" has no valid json"),
            "{reason}"
        );
        assert_eq!(world.fetch("note/1")["j"], json!({"a": 1}), "{number}");
        assert_eq!(world.sql("SELECT j FROM note"), "{\"a\": 1}\n", "{number}");
    }
    let exact = json!({"many": [0.1, 1.5, 1e300, 5e-324, 9007199254740993_u64, -3, "1e-400"]});
    world.sql(&format!("UPDATE note SET j = '{exact}'"));
    world.settled();
    assert_eq!(world.list_parked().len(), numbers.len());
    assert_eq!(world.fetch("note/1")["j"], exact);
    world.assert_all_goes_on();
}

#[test]
fn a_save_goes_on_while_unreadable_json_waits_in_the_outbox() {
    let world = World::with_a_note();
    // It is not imported for now.
    world.sql("SET skytrail.own TO 'yes'; ALTER TABLE _outbox RENAME mark TO hidden");
    for unreadable in UNREADABLE {
        world.sql(&format!("UPDATE note SET j = {unreadable}"));
    }
    world.sql(
        "ALTER TABLE note ADD COLUMN twice double precision GENERATED ALWAYS AS (n * 2) STORED",
    );
    world.sql(
        "ALTER TABLE note ADD COLUMN short text; UPDATE note SET short = 'x', n = 1; \
               ALTER TABLE note DROP COLUMN short",
    );
    assert_eq!(world.ada.save("note/1", json!({"m": 3}))["m"], 3);
    let found = world.ada.query("note", json!(null));
    assert_eq!((found.len(), &found[0]["m"]), (1, &json!(3)), "{found:?}");
    world.sql("SET skytrail.own TO 'yes'; ALTER TABLE _outbox RENAME hidden TO mark");
    world.settled();
    assert_eq!(world.fetch("note/1")["j"], json!({"a": 1}));
    world.sql("ALTER TABLE note DROP COLUMN twice");
    world.assert_all_goes_on();
}

#[test]
fn a_strangers_column_that_cannot_be_read_is_no_hindrance() {
    let world = World::with_a_note();
    world.sql("ALTER TABLE note ADD COLUMN big numeric; UPDATE note SET big = 1e400, text = 'sql'");
    world.settled();
    assert_eq!(world.fetch("note/1")["text"], "sql");
    let parked = world.list_parked();
    assert_eq!(parked.len(), 1, "{parked:?}");
    assert_eq!(parked[0]["columns"], json!(["big"]));
    assert!(
        parked[0]["after"]["big"]
            .as_str()
            .unwrap()
            .starts_with("10")
    );
    // Values in columns that others own cannot come from the log.
    world.sql("ALTER TABLE note DROP COLUMN big");
    world.assert_all_goes_on();
}

#[test]
fn a_store_with_unreadable_json_parked_can_be_made_anew() {
    let mut world = World::with_a_note();
    world.sql(&format!("UPDATE note SET j = {}", UNREADABLE[0]));
    world.settled();
    let before = world.sql("SELECT before, after FROM _parked");
    assert!(world.server.terminate().success());
    world.sql(&format!("UPDATE note SET j = {}", UNREADABLE[0]));
    let setting = format!("DATABASE_URL={}", world.database.url());
    let output = world.server.skytrail(&["--set", &setting, "rebuild"]);
    assert!(output.status.success(), "{output:?}");
    let after = world.sql("SELECT before, after FROM _parked ORDER BY id LIMIT 1");
    assert_eq!(after, before);
    assert_eq!(world.sql("SELECT count(*) FROM _parked"), "2\n");
}

#[test]
fn what_a_request_could_not_bring_is_parked() {
    let world = World::with_a_note();
    world.ada.save(
        "note/1",
        json!({"g": {"$type": "geojson", "$val": {"type": "Point"}}}),
    );
    world.applied();
    let long = "repeat('x', 1025)";
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, text";
    let writes = [
        "UPDATE note SET j = '5'".to_owned(),
        r#"UPDATE note SET j = '"text"'"#.to_owned(),
        r#"UPDATE note SET j = '{"$type":"date","$date":"xx"}'"#.to_owned(),
        r#"UPDATE note SET j = '{"a":[{"$type":"date","$date":"xx"}]}'"#.to_owned(),
        r#"UPDATE note SET j = '{"$type":"date","$date":"2026-01-01T00:00:00Z"}'"#.to_owned(),
        "UPDATE note SET g = '7'".to_owned(),
        format!("UPDATE note SET _owner_id = {long}"),
        format!("UPDATE note SET _updated_by = {long}"),
        format!("INSERT INTO note ({columns}) VALUES ({long}, '', 'ada', now(), now(), 'x')"),
        format!("INSERT INTO note ({columns}) VALUES ('2', '', {long}, now(), now(), 'x')"),
        format!("INSERT INTO note ({columns}) VALUES ('', '', 'ada', now(), now(), 'x')"),
    ];
    for (index, sql) in writes.iter().enumerate() {
        world.sql(sql);
        world.settled();
        assert_eq!(world.list_parked().len(), index + 1, "{sql}");
        let row = "SELECT _id, j, g, _owner_id = _created_by, _updated_by = _created_by FROM note";
        let row = world.sql(row);
        assert_eq!(row, "1|{\"a\": 1}|{\"type\": \"Point\"}|t|t\n", "{sql}");
    }
    let found = world.ada.query("note", json!(null));
    assert_eq!(found.len(), 1, "{found:?}");
    world.assert_all_goes_on();
}

/// Its row has a position: the one of the record before.
#[test]
fn a_record_that_gets_an_impossible_id_is_deleted() {
    let world = World::with_a_note();
    world.ada.save("note/2", json!({"n": 1}));
    world.applied();
    world.sql("UPDATE note SET _id = '' WHERE _id = '1'");
    world.sql("UPDATE note SET _id = repeat('x', 1025) WHERE _id = '2'");
    world.settled();
    assert_eq!(world.fetch("note/1")["code"], 110);
    assert_eq!(world.ada.query("note", json!(null)).len(), 0);
    assert_eq!(world.sql("SELECT count(*) FROM note"), "0\n");
    assert_eq!(world.list_parked().len(), 2);
}
