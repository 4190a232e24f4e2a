//! Names with U+0001, which marks what is escaped in the strings that the database has.

use std::process::Output;

use serde_json::json;

use super::World;
use crate::support::eventually;
use crate::support::server::TestServer;

/// A type and a field with such a name.
const TYPE: &str = "a\u{1}b";
const FIELD: &str = "f\u{1}g";

/// Returns the table of the type.
const TABLE: &str = "SELECT relname FROM pg_class WHERE relkind='r' AND relname LIKE 'a_b' \
    AND relnamespace=current_schema::regnamespace";

fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr];
    texts.map(|text| String::from_utf8_lossy(text)).concat()
}

impl World {
    fn with_odd_names() -> Self {
        let world = Self::new();
        world.ada.save("note/gone", json!({"text": "erased"}));
        world
            .ada
            .save(&format!("{TYPE}/1"), json!({FIELD: "saved", "n": 1}));
        world.applied();
        world
    }

    fn rebuild(&self, arguments: &[&str]) -> Output {
        let setting = format!("DATABASE_URL={}", self.database.url());
        let all = [&["--set", &setting, "rebuild"], arguments].concat();
        self.server.skytrail(&all)
    }

    /// Fails unless SQL gets into the log, and an erasure is carried out.
    fn assert_odd_names_work(&self, round: &str) {
        let table = self.sql(TABLE);
        let column = format!(
            "SELECT attname FROM pg_attribute WHERE attrelid='\"{}\"'::regclass \
             AND attname LIKE 'f_g'",
            table.trim_end()
        );
        let column = self.sql(&column);
        let (table, column) = (table.trim_end(), column.trim_end());
        let record = format!("{TYPE}/1");
        let before = self.fetch(&record)["n"].as_i64().unwrap();
        self.sql(&format!(
            "UPDATE \"{table}\" SET \"{column}\" = 'by sql in {round}', n = n + 1"
        ));
        // If this is written first, the change by SQL is put on the row again.
        self.ada.save(&record, json!({"m": round}));
        self.sql(&format!("UPDATE \"{table}\" SET n = n + 1"));
        self.settled();
        assert_eq!(
            self.sql("SELECT count(*), min(reason) FROM _parked"),
            "0|\n"
        );
        let record = self.fetch(&record);
        assert_eq!(record[FIELD], format!("by sql in {round}"), "{record}");
        assert_eq!(record["n"], before + 2, "{record}");
        assert_eq!(record["m"], round, "{record}");
        // Triggers that somebody dropped come back.
        self.sql(&format!("ALTER TABLE \"{table}\" DISABLE TRIGGER ALL"));
        eventually("the triggers are back", || {
            let off = "SELECT count(*) FROM pg_trigger WHERE tgenabled='D'";
            (self.sql(off) == "0\n").then_some(())
        });
        let request = json!({"record": "note/gone", "why": "asked for on paper"});
        self.ada.save("note/gone", json!({"text": round}));
        self.master.call("erase:record", request).result();
        eventually("it is erased", || {
            let listed = self.master.call("erase:list", json!({})).result();
            let listed = listed["erasures"].as_array().unwrap().clone();
            let is_done = listed.iter().all(|it| it["finished"] != false);
            is_done.then_some(())
        });
    }

    fn restart(&mut self) {
        self.server.restart();
        self.ada = self.ada.at(&self.server);
        self.master = self.master.at(&self.server);
    }
}

fn terminate(server: &mut TestServer) {
    assert!(server.terminate().success());
}

#[test]
fn a_type_can_have_any_name() {
    let mut world = World::with_odd_names();
    world.assert_odd_names_work("new");
    terminate(&mut world.server);
    let verified = world.rebuild(&["--verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
    let made = world.rebuild(&[]);
    assert!(made.status.success(), "{}", said(&made));
    world.restart();
    world.assert_odd_names_work("made anew");
}

/// Earlier versions gave tables and columns such names.
#[test]
fn a_store_from_before_has_such_names_until_it_is_made_anew() {
    let mut world = World::with_odd_names();
    terminate(&mut world.server);
    world.sql(
        r#"SET skytrail.own TO 'yes';
        DO $$ DECLARE found text; BEGIN
            FOR found IN SELECT relname FROM pg_class WHERE relkind='r' AND relname = U&'a\2401b' LOOP
                EXECUTE format('ALTER TABLE %I RENAME TO %I', found, U&'a\0001b');
            END LOOP;
            FOR found IN SELECT attname FROM pg_attribute WHERE attname = U&'f\2401g'
                AND attrelid = to_regclass(U&'"a\0001b"') LOOP
                EXECUTE format('ALTER TABLE %I RENAME %I TO %I', U&'a\0001b', found, U&'f\0001g');
            END LOOP;
        END $$;
        UPDATE _type SET columns = replace(columns, U&'f\2401g', 'f\u0001g'),
            table_name = replace(table_name, U&'a\2401b', U&'a\00011b');"#,
    );
    assert_eq!(world.sql(TABLE), format!("{TYPE}\n"));
    world.restart();
    world.assert_odd_names_work("old");
    terminate(&mut world.server);
    let made = world.rebuild(&[]);
    assert!(made.status.success(), "{}", said(&made));
    let verified = world.rebuild(&["--verify"]);
    assert!(verified.status.success(), "{}", said(&verified));
    world.restart();
    world.assert_odd_names_work("made anew");
}
