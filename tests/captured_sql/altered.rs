//! Others change the tables of records: columns, types, rules. The events of the log are stored all
//! the same, or wait, and the server says what for.

use serde_json::{Value as Json, json};

use super::World;
use crate::support::eventually;

impl World {
    fn note(&self, predicate: &Json) -> Vec<Json> {
        self.ada.query("note", predicate.clone())
    }

    fn assert_no_faults(&self) {
        let faults = self.sql("SELECT reason FROM _faults");
        assert_eq!(faults, "");
    }
}

fn is(field: &str, value: Json) -> Json {
    json!(["eq", {"$type": "keypath", "$val": field}, value])
}

#[test]
fn a_column_of_others_makes_room_for_a_field_of_its_name() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql("ALTER TABLE note ADD COLUMN score double precision, ADD COLUMN other text");
    world.sql("UPDATE note SET score = 5");
    world.settled();
    world.ada.save("note/2", json!({"score": 7}));
    assert_eq!(world.note(&is("score", json!(7))).len(), 1);
    // The other column's value is in no event.
    assert_eq!(world.note(&is("score", json!(5))).len(), 0);
    let aside = world.sql("SELECT \"score~theirs\" FROM note WHERE _id = '1'");
    assert_eq!(aside, "5\n");
    let renamed = json!({"record_type": "note", "item_name": "score", "new_name": "other"});
    world.master.call("schema:rename", renamed).result();
    assert_eq!(world.note(&is("other", json!(7))).len(), 1);
    world.assert_no_faults();
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    assert_eq!(world.fetch("note/2")["other"], 7);
}

#[test]
fn a_column_that_must_have_a_value_is_relieved_of_that_until_all_rows_have_one() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "a", "n": 1}));
    world.applied();
    world.sql("ALTER TABLE note ALTER n SET NOT NULL");
    world.ada.save("note/2", json!({"text": "b"}));
    assert_eq!(world.note(&json!(null)).len(), 2);
    assert_eq!(world.sql("SELECT name FROM _lifted"), "n NOT NULL\n");
    world.assert_no_faults();
    world.ada.save("note/2", json!({"n": 2}));
    let nullable = "SELECT is_nullable FROM information_schema.columns \
        WHERE table_schema = 'app_myapp' AND table_name = 'note' AND column_name = 'n'";
    eventually("the constraint is back", || {
        (world.sql(nullable) == "NO\n").then_some(())
    });
    assert_eq!(world.sql("SELECT name FROM _lifted"), "");
}

#[test]
fn a_column_whose_type_others_made_too_narrow_gets_its_own_back() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "a", "n": 1}));
    world.applied();
    world.sql("ALTER TABLE note ALTER n TYPE smallint, ALTER text TYPE varchar(5)");
    let long = "longer than that";
    world.ada.save("note/2", json!({"text": long, "n": 1e9}));
    assert_eq!(world.note(&is("text", json!(long))).len(), 1);
    assert_eq!(world.fetch("note/2")["n"], 1e9);
    world.assert_no_faults();
}

#[test]
fn a_trigger_that_keeps_rows_back_is_named_and_nothing_is_skipped() {
    for (event, write) in [
        ("INSERT", "saved"),
        ("UPDATE", "changed"),
        ("DELETE", "deleted"),
    ] {
        let world = World::new();
        world.ada.save("note/1", json!({"n": 1}));
        world.applied();
        world.sql(&format!(
            "CREATE FUNCTION quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             RETURN NULL; END $$; CREATE TRIGGER hush BEFORE {event} ON note FOR EACH ROW \
             EXECUTE FUNCTION quiet()"
        ));
        match write {
            "saved" => drop(world.ada.save("note/2", json!({"n": 2}))),
            "changed" => drop(world.ada.save("note/1", json!({"n": 2}))),
            _ => {
                let deleted = world.ada.call("record:delete", json!({"ids": ["note/1"]}));
                assert_eq!(deleted.status, 200);
            }
        }
        let reason = eventually("the projector says what is wrong", || {
            let health = world.master.health();
            let reason = health["projector"]["reason"].as_str();
            reason.map(str::to_owned)
        });
        assert!(reason.contains("hush"), "{write}: {reason}");
        let asked = world
            .ada
            .call("record:query", json!({"record_type": "note"}));
        assert_eq!((asked.status, asked.code()), (503, 10002), "{write}");
        let said = asked.json()["error"]["message"].to_string();
        assert!(said.contains("changed the tables"), "{write}: {said}");
        world.sql("DROP TRIGGER hush ON note");
        eventually("the record store takes events again", || {
            (world.master.health()["projector"]["is_failing"] == false).then_some(())
        });
        let kept: Vec<Json> = world.note(&json!(null));
        let numbers = kept.iter().map(|note| note["n"].clone());
        let mut numbers: Vec<i64> = numbers.filter_map(|n| n.as_i64()).collect();
        numbers.sort_unstable();
        let expected: &[i64] = match write {
            "saved" => &[1, 2],
            "changed" => &[2],
            _ => &[],
        };
        assert_eq!(numbers, expected, "{write}");
        world.assert_no_faults();
    }
}

#[test]
fn a_field_goes_though_others_look_at_its_column() {
    let world = World::new();
    world
        .ada
        .save("note/1", json!({"text": "a", "n": 1, "m": 1}));
    world.applied();
    world.sql("CREATE VIEW public.seen AS SELECT _id, n FROM note");
    world.sql("ALTER TABLE note ADD CONSTRAINT once UNIQUE (m)");
    for field in ["n", "m"] {
        let deletion = json!({"record_type": "note", "item_name": field});
        world.master.call("schema:delete", deletion).result();
        let notes = world.note(&json!(null));
        assert_eq!(notes.len(), 1, "{field}");
        assert_eq!(notes[0].get(field), None);
    }
    // The value of the field is gone all the same.
    assert_eq!(world.sql("SELECT _id, n FROM public.seen"), "1|\n");
    world.ada.save("note/2", json!({"n": 2}));
    assert_eq!(world.note(&is("n", json!(2))).len(), 1);
    world.assert_no_faults();
}

#[test]
fn queries_go_on_when_others_change_the_type_of_a_column() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "a", "n": 1}));
    world.applied();
    // On every connection that reads.
    for _ in 0..40 {
        assert_eq!(world.note(&json!(null)).len(), 1);
    }
    world.sql("ALTER TABLE note ALTER text TYPE varchar(500)");
    for _ in 0..40 {
        let notes = world.note(&json!(null));
        assert_eq!(notes[0]["text"], "a");
    }
}

#[test]
fn a_fault_of_the_store_is_no_good_health() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    assert_eq!(world.master.health()["status"], "OK");
    // The name of one of the server's own constraints, which is not lifted as others are.
    world.sql("ALTER TABLE note ADD CONSTRAINT _small CHECK (n < 5)");
    world.ada.save("note/2", json!({"n": 20}));
    world.applied();
    let health = world.master.health();
    assert_eq!(health["projector"]["num_faults"], 1);
    assert_eq!(health["status"], "degraded");
}

#[test]
fn who_waits_for_a_store_that_cannot_go_on_is_told_so() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE 'not today'; END $$; CREATE TRIGGER never BEFORE INSERT ON note FOR EACH ROW \
         EXECUTE FUNCTION no()",
    );
    world.ada.save("note/2", json!({"n": 2}));
    let asked = world
        .ada
        .call("record:query", json!({"record_type": "note"}));
    assert_eq!((asked.status, asked.code()), (503, 10002));
    let said = asked.json()["error"]["message"].to_string();
    assert!(said.contains("does not accept what was saved"), "{said}");
    let reason = world.master.health()["projector"]["reason"].to_string();
    assert!(reason.contains("not today"), "{reason}");
    world.sql("DROP TRIGGER never ON note");
    eventually("the record store takes events again", || {
        (world.master.health()["projector"]["is_failing"] == false).then_some(())
    });
    assert_eq!(world.note(&json!(null)).len(), 2);
}

#[test]
fn a_record_waits_until_a_rule_of_others_is_gone() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql("CREATE RULE hush AS ON UPDATE TO note DO INSTEAD NOTHING");
    world.ada.save("note/2", json!({"n": 2}));
    let asked = world
        .ada
        .call("record:query", json!({"record_type": "note"}));
    let said = asked.json().to_string();
    assert!(said.contains("changed the tables"), "{said}");
    let reason = world.master.health()["projector"]["reason"].to_string();
    assert!(reason.contains("UPDATE rules"), "{reason}");
    world.sql("DROP RULE hush ON note");
    eventually("the record store takes events again", || {
        (world.master.health()["projector"]["is_failing"] == false).then_some(())
    });
    assert_eq!(world.note(&json!(null)).len(), 2);
    world.assert_no_faults();
}
