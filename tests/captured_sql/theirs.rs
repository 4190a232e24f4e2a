//! What other programs create in the app's schema is theirs: it stays where it is when the store is
//! rebuilt, and when something is erased.

use std::process::{Command, Stdio};

use serde_json::json;

use super::World;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

impl World {
    fn stop(&mut self) {
        assert!(self.server.terminate().success());
    }

    fn start(&mut self) {
        self.server.restart();
        self.ada = self.ada.at(&self.server);
        self.master = Client::master(&self.server);
    }

    /// Runs `skytrail rebuild` with further arguments; returns what it said.
    fn run_rebuild(&self, arguments: &[&str]) -> Result<String, String> {
        let setting = format!("DATABASE_URL={}", self.database.url());
        let arguments = [&["--set", &*setting, "rebuild"], arguments].concat();
        let output = self.server.skytrail(&arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        output.status.success().then_some(said.clone()).ok_or(said)
    }

    fn erase_record(&self, record: &str) {
        let body = json!({"record": record, "why": "asked for on paper"});
        let erased = self.master.call("erase:record", body).result();
        if erased["finished"] != true {
            eventually("it is erased", || {
                let listed = self.master.call("erase:list", json!({"limit": 20}));
                let listed = listed.result()["erasures"].as_array().unwrap().clone();
                let is_finished = listed.iter().all(|it| it["finished"] != false);
                is_finished.then_some(())
            });
        }
    }

    fn has_schema(&self, name: &str) -> bool {
        let sql = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{name}'");
        self.sql(&sql) == "1\n"
    }
}

/// What a plugin might create: tables with and without references, a partitioned one, a sequence,
/// an enum, functions, views, a trigger and an index on a record table, and rights.
const CREATED: &str = r#"
    CREATE TYPE mood AS ENUM ('good', 'bad');
    CREATE TABLE visit (id serial PRIMARY KEY, who text NOT NULL REFERENCES "user" (_id),
        note text REFERENCES note (_id) ON DELETE SET NULL, feeling mood);
    CREATE INDEX visit_feeling ON visit (feeling);
    CREATE TABLE _cms_version (version_num varchar(32) NOT NULL);
    INSERT INTO _cms_version VALUES ('3a1f');
    CREATE TABLE _captured (what text);
    INSERT INTO _captured VALUES ('a fish');
    CREATE TABLE et (at integer, what text) PARTITION BY RANGE (at);
    CREATE TABLE et_1 PARTITION OF et FOR VALUES FROM (0) TO (10);
    CREATE SEQUENCE tickets START 100;
    CREATE TABLE kind (name text PRIMARY KEY);
    INSERT INTO kind VALUES ('open');
    ALTER TABLE note ADD CONSTRAINT of_kind FOREIGN KEY (kind) REFERENCES kind (name);
    CREATE VIEW visitor AS SELECT v.id, u.username, n.text FROM visit AS v
        JOIN "user" AS u ON u._id = v.who LEFT JOIN note AS n ON n._id = v.note;
    CREATE VIEW last_visitor AS SELECT max(id) AS id FROM visitor;
    CREATE MATERIALIZED VIEW notes AS SELECT _id, text FROM note;
    CREATE UNIQUE INDEX notes_id ON notes (_id);
    CREATE FUNCTION visits() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM visit';
    CREATE FUNCTION all_notes() RETURNS SETOF note LANGUAGE sql AS 'SELECT * FROM note';
    CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO et VALUES (1, NEW._id); RETURN NULL; END $$;
    CREATE TRIGGER counted AFTER INSERT ON note FOR EACH ROW EXECUTE FUNCTION count_up();
    CREATE INDEX note_text ON note (text);
    REVOKE EXECUTE ON FUNCTION all_notes() FROM PUBLIC;
    GRANT USAGE ON SCHEMA app_myapp TO PUBLIC;
    GRANT SELECT ON visit, visitor, note, notes TO PUBLIC
"#;

/// Uses all of it; this is the `number`-th time.
fn assert_all_is_there(world: &World, number: u32) {
    let inserted = world.sql(
        "INSERT INTO visit (who, note, feeling) SELECT _id, '1', 'good' FROM \"user\" RETURNING id",
    );
    // Each time one number is lost to the row that is refused.
    assert_eq!(inserted, format!("{}\n", 2 * number - 1));
    assert_eq!(world.sql("SELECT visits()"), format!("{number}\n"));
    let last = "SELECT username, text FROM visitor JOIN last_visitor USING (id)";
    assert_eq!(world.sql(last), "ada|kept\n");
    let stranger = world.try_sql("INSERT INTO visit (who) VALUES ('nobody')");
    assert!(stranger.unwrap_err().contains("visit_who_fkey"));
    assert_eq!(world.sql("SELECT * FROM _cms_version"), "3a1f\n");
    // Stores of formats 2 and 3 have a table of the server with this name.
    assert_eq!(world.sql("SELECT * FROM _captured"), "a fish\n");
    assert_eq!(
        world.sql("SELECT nextval('tickets')"),
        format!("{}\n", 99 + number)
    );
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, text";
    world.sql(&format!(
        "INSERT INTO note ({columns}) VALUES ('new{number}', '', 'ada', now(), now(), 'by sql')"
    ));
    world.sql("REFRESH MATERIALIZED VIEW CONCURRENTLY notes");
    for counted in ["et", "et_1"] {
        let sql = format!("SELECT count(*) FROM {counted}");
        assert_eq!(world.sql(&sql), format!("{number}\n"));
    }
    for notes in ["note", "notes", "all_notes()"] {
        let sql = format!("SELECT count(*) FROM {notes} WHERE text = 'by sql'");
        assert_eq!(world.sql(&sql), format!("{number}\n"), "{notes}");
    }
    for object in ["visit_feeling", "note_text", "notes_id"] {
        let sql = format!("SELECT to_regclass('app_myapp.{object}')");
        assert_eq!(world.sql(&sql), format!("{object}\n"));
    }
    let granted = "SELECT string_agg(t, ',') FROM unnest(ARRAY['visit', 'visitor', 'note', 'notes']) AS t \
        WHERE has_table_privilege('pg_monitor', t, 'SELECT')";
    assert_eq!(world.sql(granted), "visit,visitor,note,notes\n");
    let may_use = "SELECT has_schema_privilege('pg_monitor', 'app_myapp', 'USAGE')";
    assert_eq!(world.sql(may_use), "t\n");
    let may_call = "SELECT has_function_privilege('pg_monitor', f, 'EXECUTE') \
        FROM unnest(ARRAY['visits()', 'all_notes()']) AS f";
    assert_eq!(world.sql(may_call), "t\nf\n");
    // Nothing of it is tied to what is kept of the previous store.
    world.sql("DELETE FROM kind WHERE name = 'done'; INSERT INTO kind VALUES ('done')");
}

#[test]
fn what_plugins_created_survives_rebuilds_and_an_erasure() {
    let mut world = World::new();
    let record = json!({"text": "kept", "kind": "open"});
    world.ada.save("note/1", record);
    world
        .ada
        .save("note/2", json!({"text": "gone", "kind": "open"}));
    world.applied();
    world.sql(CREATED);
    assert_all_is_there(&world, 1);
    world.settled();
    let said = world.run_rebuild(&["--verify"]).unwrap();
    assert!(said.contains("equals the log"), "{said}");
    for number in [2, 3] {
        world.stop();
        let said = world.run_rebuild(&[]).unwrap();
        assert!(said.contains("rebuilt from"), "{said}");
        // The new store is closed to other programs until a server uses it.
        world.start();
        assert_all_is_there(&world, number);
        world.settled();
    }
    assert!(world.has_schema("app_myapp~old"));
    world.erase_record("note/2");
    assert!(!world.has_schema("app_myapp~old"));
    assert_all_is_there(&world, 4);
    // The server knows all its own objects: none was taken for another program's.
    let aside = "SELECT count(*) FROM pg_class WHERE relname LIKE '%~theirs%'";
    assert_eq!(world.sql(aside), "0\n");
    world.settled();
    eventually("the constraint is back", || {
        let found = "SELECT count(*) FROM pg_constraint WHERE conname = 'of_kind'";
        (world.sql(found) == "1\n").then_some(())
    });
    let refused = world.try_sql("UPDATE note SET kind = 'unknown' WHERE _id = '1'");
    assert!(refused.unwrap_err().contains("of_kind"));
    let said = world.run_rebuild(&["--verify"]).unwrap();
    assert!(said.contains("equals the log"), "{said}");
    let other = shared().database(&[]);
    let said = world.run_rebuild(&["--to", &other.url()]).unwrap();
    assert!(said.contains("app_myapp.visit"), "{said}");
    assert_eq!(world.sql("SELECT visits()"), "4\n");
}

#[test]
fn what_belongs_to_another_role_stays_its_own() {
    let database = shared().database(&[]);
    let [role, chat] = ["server", "chat"].map(|name| format!("{}_{name}", database.name()));
    database.sql(&format!(
        "CREATE ROLE {role} LOGIN; CREATE ROLE {chat} LOGIN; GRANT ALL ON DATABASE {} TO {role}",
        database.name()
    ));
    let url = database
        .url()
        .replacen("://postgres", &format!("://{role}"), 1);
    let server = TestServer::with(&[("DATABASE_URL", &url), ("DATABASE_WAIT", "1")]);
    let mut world = World {
        ada: Client::signed_up(&server, "ada"),
        master: Client::master(&server),
        database,
        server,
    };
    world.applied();
    world.sql(&format!(
        "GRANT USAGE, CREATE ON SCHEMA app_myapp TO {chat}; GRANT SELECT, REFERENCES ON \"user\" TO {chat}"
    ));
    let path = "SET search_path TO app_myapp;";
    let as_chat = |world: &World, sql: &str| world.database.sql_as(&chat, &format!("{path} {sql}"));
    as_chat(
        &world,
        "CREATE TABLE line (id serial PRIMARY KEY, who text REFERENCES \"user\" (_id), \
         friend text REFERENCES \"user\" (_id)); \
         INSERT INTO line (who) SELECT _id FROM \"user\"; CREATE TABLE book (x text)",
    );
    // The server may not rename it, so the record waits.
    world.ada.save("book/1", json!({"title": "ours"}));
    eventually("the projector says what is wrong", || {
        let reason = world.master.health()["projector"]["reason"].to_string();
        reason
            .contains("another program has created book")
            .then_some(())
    });
    as_chat(&world, "ALTER TABLE book RENAME TO pages");
    eventually("the record is stored", || {
        (world.sql("SELECT count(*) FROM pg_class WHERE relname = 'book'") == "1\n").then_some(())
    });
    assert_eq!(world.ada.query("book", json!(null)).len(), 1);
    world.stop();
    let setting = format!("DATABASE_URL={url}");
    let output = world.server.skytrail(&["--set", &setting, "rebuild"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{output:?}");
    for name in ["line_who_fkey", "line_friend_fkey"] {
        assert!(said.contains(name), "{said}");
    }
    // As an earlier version left it: the server may neither move the tables nor change them.
    world.sql(&format!(
        "GRANT USAGE, CREATE ON SCHEMA \"app_myapp~old\" TO {chat}; \
         GRANT REFERENCES ON \"app_myapp~old\".book TO {chat}"
    ));
    as_chat(
        &world,
        "SET search_path TO \"app_myapp~old\"; \
         CREATE TABLE stray (book text REFERENCES book (_id)); \
         CREATE TABLE stray2 (book text REFERENCES book (_id))",
    );
    world.start();
    let said = world.server.output();
    assert!(
        said.contains("stray of another program stays in the schema app_myapp~old"),
        "{said}"
    );
    assert!(said.contains("stray2_book_fkey"), "{said}");
    as_chat(
        &world,
        "DROP TABLE \"app_myapp~old\".stray, \"app_myapp~old\".stray2",
    );
    as_chat(
        &world,
        "INSERT INTO line (who) SELECT _id FROM \"user\"; \
         ALTER TABLE line ADD CONSTRAINT line_who_fkey FOREIGN KEY (who) REFERENCES \"user\" (_id)",
    );
    assert_eq!(world.sql("SELECT id FROM app_myapp.line"), "1\n2\n");
    world.ada.save("note/1", json!({"text": "gone"}));
    world.erase_record("note/1");
    assert!(!world.has_schema("app_myapp~old"));
    assert_eq!(world.sql("SELECT id FROM app_myapp.line"), "1\n2\n");
}

#[test]
fn a_reference_to_what_the_log_does_not_have_is_lifted_and_its_row_stays() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"text": "kept"}));
    world.applied();
    world.stop();
    // As in a store that is damaged: a row that no event wrote.
    world.sql(
        "SET skytrail.own TO 'yes'; CREATE TABLE mark (id serial, note text REFERENCES note (_id)); \
         INSERT INTO note (_id, _database_id, _owner_id, _created_at, _updated_at) \
         VALUES ('9', '', 'ada', now(), now()); INSERT INTO mark (note) VALUES ('1'), ('9')",
    );
    // The new table does not have the column that SQL added.
    world.sql(
        "ALTER TABLE note ADD COLUMN extra text; CREATE VIEW extras AS SELECT _id, extra FROM note; \
         CREATE INDEX note_extra ON note (extra); GRANT SELECT ON extras TO PUBLIC",
    );
    // Another role's views stay its own, and run with its rights.
    let reader = format!("{}_reader", world.database.name());
    world.sql(&format!(
        "CREATE ROLE {reader}; GRANT USAGE ON SCHEMA app_myapp TO {reader}; \
         GRANT SELECT ON note TO {reader}; ALTER VIEW extras OWNER TO {reader}; \
         CREATE MATERIALIZED VIEW readers AS SELECT DISTINCT current_user::text AS who FROM note; \
         CREATE MATERIALIZED VIEW extra_readers AS \
         SELECT DISTINCT extra, current_user::text AS who FROM note; \
         ALTER MATERIALIZED VIEW readers OWNER TO {reader}; \
         ALTER MATERIALIZED VIEW extra_readers OWNER TO {reader}"
    ));
    let owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relname IN \
        ('extras', 'readers', 'extra_readers') AND relnamespace = 'app_myapp'::regnamespace";
    let said = world.run_rebuild(&[]).unwrap();
    for name in ["mark_note_fkey", "extras", "note_extra", "extra_readers"] {
        assert!(said.contains(name), "{said}");
    }
    assert_eq!(world.sql("SELECT who FROM readers"), format!("{reader}\n"));
    assert_eq!(world.sql("SELECT note FROM mark ORDER BY id"), "1\n9\n");
    world.start();
    let lifted = "SELECT name FROM _lifted ORDER BY name";
    let names = "index note_extra\nmark_note_fkey\nmaterialized view extra_readers\nview extras\n";
    assert_eq!(world.sql(lifted), names);
    // They outlive another rebuild.
    world.stop();
    world.run_rebuild(&[]).unwrap();
    assert_eq!(world.sql(lifted), names);
    world.start();
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    eventually("the view and the index are back", || {
        (world.sql(lifted) == "mark_note_fkey\n").then_some(())
    });
    assert_eq!(world.sql("SELECT extra FROM extras"), "\n");
    assert_eq!(
        world.sql("SELECT who FROM extra_readers"),
        format!("{reader}\n")
    );
    assert_eq!(world.sql(owners), format!("{reader}\n"));
    let may_read = "SELECT has_table_privilege('pg_monitor', 'extras', 'SELECT')";
    assert_eq!(world.sql(may_read), "t\n");
    world.sql("DELETE FROM mark WHERE note = '9'");
    eventually("the constraint is back", || {
        let found = "SELECT count(*) FROM pg_constraint WHERE conname = 'mark_note_fkey'";
        (world.sql(found) == "1\n").then_some(())
    });
    let refused = world.try_sql("INSERT INTO mark (note) VALUES ('9')");
    assert!(refused.unwrap_err().contains("mark_note_fkey"));
}

#[test]
fn a_table_that_inherits_from_a_record_table_keeps_its_rows() {
    let mut world = World::new();
    world.ada.save("album/1", json!({"title": "kept"}));
    world
        .ada
        .save("note/1", json!({"text": "kept", "album": "1"}));
    world
        .ada
        .save("note/2", json!({"text": "gone", "album": "1"}));
    world.applied();
    world.stop();
    // The foreign key is between two of the server's tables.
    world.sql(
        "SET skytrail.own TO 'yes'; \
         ALTER TABLE note ADD CONSTRAINT in_album FOREIGN KEY (album) REFERENCES album (_id); \
         ALTER TABLE album ENABLE ROW LEVEL SECURITY; CREATE TABLE note_archive () INHERITS (note); \
         INSERT INTO note_archive SELECT * FROM ONLY note WHERE _id = '1'",
    );
    let said = world.run_rebuild(&[]).unwrap();
    for what in ["note_archive still inherits", "album has row security"] {
        assert!(said.contains(what), "{said}");
    }
    let secured = "SELECT relname FROM pg_class WHERE relrowsecurity \
        AND relnamespace = 'app_myapp'::regnamespace";
    assert_eq!(world.sql(secured), "album\n");
    world.start();
    world.erase_record("note/2");
    assert_eq!(world.sql("SELECT text FROM note_archive"), "kept\n");
    let left = "SELECT count(*) FROM ONLY \"app_myapp~old\".note";
    assert_eq!(world.sql(left), "0\n");
    let album = "SELECT to_regclass('\"app_myapp~old\".album')";
    assert_eq!(world.sql(album), "\n");
    world.stop();
    let said = world.run_rebuild(&[]).unwrap_err();
    assert!(
        said.contains("inheriting table app_myapp.note_archive"),
        "{said}"
    );
    world.sql("ALTER TABLE note_archive NO INHERIT \"app_myapp~old\".note, INHERIT note");
    world.run_rebuild(&[]).unwrap();
    assert_eq!(world.sql("SELECT text FROM note_archive"), "kept\n");
}

/// A table that was created like a record table has its default, which counts rows.
#[test]
fn numbers_that_other_tables_have_are_not_given_again_after_a_rebuild() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"text": "kept"}));
    world.applied();
    world.sql(
        "CREATE TABLE note_copy (LIKE note INCLUDING ALL); \
         ALTER TABLE note_copy ADD UNIQUE (_row); \
         CREATE TABLE ticket (n bigint PRIMARY KEY DEFAULT nextval('_captured_row'), what text)",
    );
    let fill = |world: &World, round: u32| {
        let values = format!("'{round}', '', 'o', now(), 'o', now(), 'o'");
        world.sql(&format!(
            "INSERT INTO ticket (what) VALUES ('{round}'); \
             INSERT INTO note_copy (_id, _database_id, _owner_id, _created_at, _created_by, \
             _updated_at, _updated_by) VALUES ({values})"
        ));
    };
    let count = "SELECT count(DISTINCT n) FROM (SELECT n FROM ticket UNION ALL \
        SELECT _row FROM note_copy) AS all_of_them";
    fill(&world, 0);
    for round in 1..3 {
        world.stop();
        let said = world.run_rebuild(&[]).unwrap();
        assert!(!said.contains("default"), "{said}");
        world.start();
        fill(&world, round);
        assert_eq!(world.sql(count), format!("{}\n", 2 * round + 2));
    }
}

/// Earlier versions left the tables of plugins in the schema of the old store.
#[test]
fn what_an_earlier_version_left_in_the_old_schema_is_brought_back_or_kept_there() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"text": "a secret"}));
    world.applied();
    world.stop();
    world.run_rebuild(&[]).unwrap();
    world.sql(
        r#"SET search_path TO "app_myapp~old", public;
        CREATE TABLE et_x1 (id serial PRIMARY KEY, who text REFERENCES "user" (_id));
        INSERT INTO et_x1 (who) SELECT _id FROM "user";
        CREATE VIEW seen AS SELECT u.username FROM et_x1 JOIN "user" AS u ON u._id = who;
        CREATE FUNCTION seen_by() RETURNS text LANGUAGE sql AS 'SELECT username FROM seen';
        CREATE TABLE et_x2 (what text); INSERT INTO et_x2 VALUES ('first');
        CREATE TABLE app_myapp.et_x2 (what text)"#,
    );
    world.start();
    world.sql("INSERT INTO et_x1 (who) SELECT _id FROM \"user\"");
    assert_eq!(world.sql("SELECT id FROM et_x1"), "1\n2\n");
    assert_eq!(world.sql("SELECT seen_by()"), "ada\n");
    let stranger = world.try_sql("INSERT INTO et_x1 (who) VALUES ('nobody')");
    assert!(stranger.unwrap_err().contains("et_x1_who_fkey"));
    let said = world.server.output();
    assert!(said.contains("et_x1") && said.contains("et_x2"), "{said}");
    // An erasure empties what is the server's, and drops nothing that is not.
    world.erase_record("note/1");
    let kept = "SELECT what FROM \"app_myapp~old\".et_x2";
    assert_eq!(world.sql(kept), "first\n");
    let own = "SELECT to_regclass('\"app_myapp~old\".note')";
    assert_eq!(world.sql(own), "\n");
    world.stop();
    let said = world.run_rebuild(&[]).unwrap_err();
    assert!(said.contains("et_x2"), "{said}");
    assert_eq!(world.sql(kept), "first\n");
    world.sql("DROP TABLE \"app_myapp~old\".et_x2");
    world.run_rebuild(&[]).unwrap();
    world.start();
    assert_eq!(world.sql("SELECT id FROM et_x1"), "1\n2\n");
}

#[test]
fn a_table_or_view_with_the_name_of_a_new_record_type_makes_room() {
    let mut world = World::new();
    world.sql(
        "CREATE TABLE book (_id text NOT NULL UNIQUE, title text); \
         INSERT INTO book VALUES ('b1', 'theirs'); CREATE TABLE \"book~theirs\" (x text); \
         CREATE VIEW report AS SELECT _id FROM \"user\"; CREATE TYPE paper AS ENUM ('a4'); \
         CREATE TABLE shelf (id text); CREATE INDEX page ON shelf (id)",
    );
    for record in ["book/1", "report/1", "paper/1", "page/1"] {
        assert_eq!(
            world.ada.save(record, json!({"title": "ours"}))["title"],
            "ours"
        );
        let record_type = record.trim_end_matches("/1");
        assert_eq!(world.ada.query(record_type, json!(null)).len(), 1);
        let found = world.sql(&format!("SELECT title FROM {record_type}"));
        assert_eq!(found, "ours\n");
    }
    assert_eq!(world.sql("SELECT title FROM \"book~theirs~2\""), "theirs\n");
    assert_eq!(world.sql("SELECT count(*) FROM \"report~theirs\""), "1\n");
    assert_eq!(world.sql("SELECT 'a4'::\"paper~theirs\""), "a4\n");
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
    let said = world.server.output();
    let warned = said.lines().filter(|line| line.contains("~theirs"));
    assert_eq!(
        warned.filter(|line| line.contains("WARN")).count(),
        4,
        "{said}"
    );
    // A store in which an earlier version could not create the table.
    world.stop();
    world.sql(
        "SET skytrail.own TO 'yes'; DROP TABLE paper; DELETE FROM _type WHERE name = 'paper'; \
         CREATE TABLE paper (id text); INSERT INTO paper VALUES ('theirs')",
    );
    let said = world.run_rebuild(&[]).unwrap();
    assert!(said.contains("paper~theirs"), "{said}");
    world.start();
    assert_eq!(world.ada.query("paper", json!(null)).len(), 1);
    assert_eq!(world.sql("SELECT id FROM \"paper~theirs~2\""), "theirs\n");
    assert_eq!(world.sql("SELECT title FROM \"book~theirs~2\""), "theirs\n");
}

/// Holds up whatever drops the schema that was filled, which is near the end of the switch.
const STOP: &str = "CREATE FUNCTION public.stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF current_setting('search_path') NOT LIKE '%~%' \
    THEN PERFORM pg_advisory_xact_lock(4712); END IF; END $$; \
    CREATE EVENT TRIGGER stop ON ddl_command_start WHEN TAG IN ('DROP SCHEMA') \
    EXECUTE FUNCTION public.stop()";

#[test]
fn a_command_that_is_killed_in_the_switch_has_changed_nothing() {
    let mut world = World::new();
    world
        .ada
        .save("note/1", json!({"text": "kept", "kind": "open"}));
    world.applied();
    world.sql(CREATED);
    assert_all_is_there(&world, 1);
    world.sql("UPDATE note SET _access = '5' WHERE _id = '1'");
    world.settled();
    let parked = "SELECT key FROM _parked";
    assert_eq!(world.sql(parked), "1\n");
    world.stop();
    world.database.sql(STOP);
    let role = world.sql("SELECT current_user");
    let place = (role.trim(), world.database.name());
    let lock = shared().session(place, "SELECT pg_advisory_lock(4712)");
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"))
        .env_clear()
        .env("DATA_DIR", world.server.data_dir())
        .env("DATABASE_URL", world.database.url())
        .arg("rebuild")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = "FROM pg_locks WHERE locktype = 'advisory' AND objid = 4712 AND NOT granted \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("the command is in the switch", || {
        (world.sql(&format!("SELECT count(*) {waiting}")) == "1\n").then_some(())
    });
    command.kill().unwrap();
    command.wait().unwrap();
    world.sql(&format!("SELECT pg_terminate_backend(pid) {waiting}"));
    drop(lock);
    world.sql("DROP EVENT TRIGGER stop");
    assert!(!world.has_schema("app_myapp~old"));
    assert_eq!(world.sql("SELECT visits()"), "1\n");
    assert_eq!(world.sql(parked), "1\n");
    world.run_rebuild(&[]).unwrap();
    assert_eq!(world.sql(parked), "1\n");
    world.start();
    assert_all_is_there(&world, 2);
}

#[test]
fn a_rebuild_repairs_a_store_of_which_something_was_dropped() {
    let mut world = World::new();
    for dropped in ["TABLE note", "TABLE _checkpoint", "FUNCTION _put_back"] {
        world.ada.save("note/1", json!({"text": "kept"}));
        world.applied();
        world.stop();
        world.sql(&format!(
            "CREATE TABLE IF NOT EXISTS mine (who text REFERENCES \"user\" (_id)); \
             INSERT INTO mine SELECT _id FROM \"user\"; DROP {dropped}"
        ));
        world.run_rebuild(&[]).unwrap();
        world.start();
        assert_eq!(world.ada.query("note", json!(null)).len(), 1, "{dropped}");
    }
    assert_eq!(world.sql("SELECT count(*) FROM mine"), "3\n");
    let stranger = world.try_sql("INSERT INTO mine VALUES ('nobody')");
    assert!(stranger.unwrap_err().contains("mine_who_fkey"));
    let aside = "SELECT count(*) FROM pg_class WHERE relname LIKE '%~theirs%'";
    assert_eq!(world.sql(aside), "0\n");
}
