//! Rows that others write by SQL, in a server with its records in PostgreSQL, get into the log like
//! any other write.

mod altered;
mod asked;
mod bulk;
mod erased;
mod heard;
mod left;
mod locks;
mod names;
mod numbers;
mod parked;
mod plugins;
mod races;
mod random;
mod returning;
mod theirs;
mod triggers;
mod undone;
mod unreadable;
mod upgraded;
mod values;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Session, shared};
use crate::support::server::TestServer;

/// A server with a database, and a client with the master key.
struct World {
    database: Database<'static>,
    server: TestServer,
    ada: Client,
    master: Client,
}

impl World {
    fn new() -> Self {
        Self::in_database(shared().database(&[]))
    }

    fn in_database(database: Database<'static>) -> Self {
        let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
        Self {
            ada: Client::signed_up(&server, "ada"),
            master: Client::master(&server),
            database,
            server,
        }
    }

    /// Runs SQL in the app's schema, not as the server.
    fn sql(&self, sql: &str) -> String {
        let path = "SET search_path TO app_myapp, public;";
        self.database.sql(&format!("{path} {sql}"))
    }

    /// Like [`World::sql`], but returns the error.
    fn try_sql(&self, sql: &str) -> Result<String, String> {
        let path = "SET search_path TO app_myapp, public;";
        self.database.try_sql(&format!("{path} {sql}"))
    }

    /// Waits until everything saved is in its table.
    fn applied(&self) {
        self.ada
            .call("record:query", json!({"record_type": "user"}));
    }

    /// Opens a session in the app's schema that stays open.
    fn session(&self, sql: &str) -> Session {
        let path = "SET search_path TO app_myapp, public;";
        self.database.session(&format!("{path} {sql}"))
    }

    /// Waits until a lock holds up the store.
    fn held_up(&self) {
        eventually("the store waits for a lock", || {
            let waiting = "SELECT count(*) > 0 FROM pg_stat_activity \
                WHERE datname = current_database() AND wait_event_type = 'Lock'";
            (self.sql(waiting) == "t\n").then_some(())
        });
    }

    fn versions(&self, record: &str) -> Vec<Json> {
        let listed = self
            .master
            .call("history:list", json!({"record": record, "limit": 1000}));
        listed.result()["versions"].as_array().unwrap().clone()
    }

    fn fetch(&self, record: &str) -> Json {
        let found = self.ada.call("record:fetch", json!({"ids": [record]}));
        found.result()[0].clone()
    }

    /// Waits until no change is left to import.
    fn settled(&self) {
        eventually("the outbox is empty", || {
            (self.sql("SELECT count(*) FROM _outbox") == "0\n").then_some(())
        });
        self.applied();
    }
}

#[test]
fn rows_that_are_written_by_sql_are_versions_of_their_records() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "saved", "n": 1}));
    world.applied();
    world.sql("UPDATE note SET n = n + 1, _updated_at = now() WHERE _id = '1'");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
    assert_eq!(
        world
            .ada
            .query("note", json!(["eq", {"$type": "keypath", "$val": "n"}, 2]))
            .len(),
        1
    );
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, text";
    world.sql(&format!(
        "INSERT INTO note ({columns}) VALUES ('2', '', 'ada', now(), now(), 'inserted')"
    ));
    world.settled();
    assert_eq!(world.fetch("note/2")["text"], "inserted");
    world.sql("DELETE FROM note WHERE _id = '1'");
    world.settled();
    assert_eq!(world.fetch("note/1")["code"], 110);

    let versions = world.versions("note/1");
    let kinds: Vec<&str> = versions
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["record.deleted", "record.changed", "record.created"]
    );
    let changed = &versions[1];
    assert_eq!(changed["actor"]["origin"], "sql");
    assert_eq!(changed["sql"]["role"], "postgres");
    assert!(changed["sql"]["transaction"].as_u64().unwrap() > 0);
    let key = format!("MASTER_KEY={}", crate::support::server::MASTER_KEY);
    let address = ["--server", world.server.base_url.as_str()];
    let printed = [
        [&["--set", &key, "history", "list", "note/1"][..], &address].concat(),
        [
            &["--set", &key, "log", "search", "--origin", "sql"][..],
            &address,
        ]
        .concat(),
        vec!["log", "tail"],
    ];
    for arguments in printed {
        let printed = world.server.skytrail(&arguments).stdout;
        let printed = String::from_utf8(printed).unwrap();
        let lines = printed
            .lines()
            .filter(|line| line.contains("record.changed") && !line.contains("record/user/"));
        let lines: Vec<&str> = lines.collect();
        assert!(!lines.is_empty(), "{printed}");
        for line in lines {
            assert!(line.contains("sql role postgres"), "{line}");
        }
    }
    let earlier = json!({"ids": ["note/1"], "as_of": changed["position"]});
    let earlier = world.master.call("record:fetch", earlier).result();
    assert_eq!(earlier[0]["n"], 2);
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
    assert_eq!(world.sql("SELECT count(*) FROM _parked"), "0\n");
}

#[test]
fn rows_of_a_temporal_type_can_be_written_by_sql() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "saved"}));
    let body = json!({"type": "note", "temporal": true});
    world.master.call("schema:temporal", body).result();
    world.applied();
    let before = world.versions("note/1")[0]["position"].as_u64().unwrap() + 1;
    let columns = "_id, _database_id, _owner_id, _created_at, _updated_at, text";
    world.sql(&format!(
        "INSERT INTO note ({columns}) VALUES ('2', '', 'ada', now(), now(), 'two'), \
         ('3', '', 'ada', now(), now(), 'three')"
    ));
    world.settled();
    for record in ["note/2", "note/3"] {
        world.master.call(
            "record:save",
            json!({"records": [{"_id": record, "text": "saved"}]}),
        );
    }
    let saved = json!(["eq", {"$type": "keypath", "$val": "text"}, "saved"]);
    assert_eq!(world.ada.query("note", saved).len(), 3);
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
    let body = json!({"record_type": "note", "as_of": before});
    let then = world.ada.call("record:query", body).result();
    assert_eq!(then.as_array().unwrap().len(), 1, "{then}");
}

#[test]
fn a_transaction_is_a_commit_whatever_role_ran_it() {
    let world = World::new();
    world.ada.save("room/1", json!({"n": 0}));
    world.ada.save(
        "note/1",
        json!({"n": 0, "room": {"$type": "ref", "$id": "room/1"}}),
    );
    world.applied();
    world.sql(
        "DROP ROLE IF EXISTS chat; CREATE ROLE chat; GRANT USAGE ON SCHEMA app_myapp TO chat; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON note, room TO chat",
    );
    // The login role counts, not the role that it acts as.
    world.sql(
        "SET ROLE chat; BEGIN; UPDATE note SET n = 1; UPDATE note SET n = n + 1; \
         INSERT INTO room (_id, _database_id, _owner_id, _created_at, _updated_at, n) \
         VALUES ('2', '', 'ada', now(), now(), 7); \
         UPDATE note SET room = '2'; COMMIT",
    );
    world.sql("BEGIN; UPDATE note SET n = 50; ROLLBACK");
    world.settled();
    let note = &world.versions("note/1")[0];
    let room = &world.versions("room/2")[0];
    assert_eq!(note["commit"], room["commit"]);
    assert_eq!(note["sql"], room["sql"]);
    assert_eq!(note["record"]["n"], 2);
    assert_eq!(note["record"]["room"]["$id"], "room/2");
    assert_eq!(world.versions("note/1").len(), 2);
    world.sql("REASSIGN OWNED BY chat TO postgres; DROP OWNED BY chat; DROP ROLE chat");
}

#[test]
fn whoever_asks_behind_sql_is_told_what_it_did() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 0}));
    world.applied();
    // From the first change on the server knows that others write.
    world.sql("UPDATE note SET n = 1");
    world.settled();
    for n in 2..30 {
        world.sql(&format!("UPDATE note SET n = {n}"));
        assert_eq!(world.fetch("note/1")["n"], n);
        let saved = world.ada.save("note/1", json!({"m": n}));
        assert_eq!(saved["n"], n);
    }
    assert_eq!(world.versions("note/1").len(), 1 + 29 + 28);
}

#[test]
fn what_cannot_be_an_event_is_parked_and_the_record_stays_what_it_was() {
    let world = World::new();
    world.ada.save("room/1", json!({"n": 1}));
    world.ada.save(
        "note/1",
        json!({"n": 1, "room": {"$type": "ref", "$id": "room/1"}}),
    );
    world.ada.save(
        "note/2",
        json!({"n": 1, "room": {"$type": "ref", "$id": "room/1"}}),
    );
    world.applied();
    world.sql("ALTER TABLE note ADD COLUMN extra text");
    world.sql(
        "UPDATE note SET room = 'nowhere' WHERE _id = '1'; UPDATE note SET n = 5 WHERE _id = '2'",
    );
    world.sql("UPDATE note SET n = 6, extra = 'x' WHERE _id = '2'");
    world.sql("UPDATE note SET _access = '5' WHERE _id = '1'");
    world.sql("DELETE FROM room");
    world.sql("DELETE FROM \"user\"");
    let system = "_id, _database_id, _owner_id, _created_at, _updated_at, room";
    world.sql(&format!(
        "INSERT INTO note ({system}) VALUES ('3', '', 'ada', now(), now(), 'nowhere')"
    ));
    world.settled();
    assert_eq!(world.fetch("note/1")["room"]["$id"], "room/1");
    assert_eq!(world.fetch("note/2")["n"], 6);
    assert_eq!(world.fetch("room/1")["n"], 1);
    assert_eq!(world.fetch("note/3")["code"], 110);
    let rows = "SELECT _id, n, room, _access IS NULL FROM note ORDER BY _id";
    assert_eq!(world.sql(rows), "1|1|1|t\n2|6|1|t\n");
    assert_eq!(world.sql("SELECT _id FROM room"), "1\n");
    assert_eq!(world.sql("SELECT count(*) FROM \"user\""), "1\n");
    let parked = world.sql("SELECT table_name, reason FROM _parked ORDER BY id");
    let parked: Vec<&str> = parked.lines().collect();
    let expected = [
        "note|the referenced record room/nowhere does not exist",
        "note|no field has the columns extra",
        "note|_access does not hold an access list",
        "room|note/",
        "user|users cannot be deleted by SQL",
        "note|the referenced record room/nowhere does not exist",
    ];
    assert_eq!(parked.len(), expected.len(), "{parked:?}");
    for (parked, expected) in parked.iter().zip(expected) {
        assert!(parked.starts_with(expected), "{parked} is not {expected}");
    }
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
    // The log repeats the record's state.
    assert_eq!(world.versions("note/1")[0]["kind"], "record.replaced");
}

#[test]
fn the_servers_own_tables_are_closed_and_nothing_goes_uncaptured() {
    let world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    for (sql, what) in [
        ("UPDATE _auth SET version = 0", "UPDATE of \"_auth\""),
        ("DELETE FROM _history", "DELETE of \"_history\""),
        (
            "INSERT INTO _relation VALUES (1, 'a', 'b')",
            "INSERT of \"_relation\"",
        ),
        ("TRUNCATE note", "TRUNCATE of \"note\""),
        (
            "INSERT INTO _role VALUES ('device') ON CONFLICT DO NOTHING",
            "INSERT of \"_role\"",
        ),
        ("UPDATE _role SET id = 'x'", "UPDATE of \"_role\""),
        ("DELETE FROM _follow", "DELETE of \"_relation\""),
    ] {
        let said = world.try_sql(sql).unwrap_err();
        assert!(said.contains(&format!("does not take {what}")), "{said}");
    }
    assert_eq!(world.fetch("note/1")["n"], 1);
    // What the docs say of generated columns and of views.
    for (sql, code) in [
        ("UPDATE _auth SET password = 'x'", "428C9"),
        ("UPDATE _auth SET disabled = true", "428C9"),
        (
            "INSERT INTO _auth (id, password) VALUES ('a', 'b')",
            "428C9",
        ),
        ("INSERT INTO _auth (id) VALUES ('a')", "0A000"),
        ("INSERT INTO _auth_role VALUES ('a', 'b')", "55000"),
        ("DELETE FROM _user", "55000"),
        ("SELECT 1 FROM _record_creation", "42P01"),
        ("SELECT 1 FROM _record_field_access", "42P01"),
        ("SELECT 1 FROM _password_history", "42P01"),
    ] {
        let said = world.try_sql(&format!(
            "DO $do$ BEGIN EXECUTE $sql${sql}$sql$; \
             EXCEPTION WHEN OTHERS THEN RAISE EXCEPTION 'state %', SQLSTATE; END $do$"
        ));
        let said = said.unwrap_err();
        assert!(said.contains(&format!("state {code}")), "{sql}: {said}");
    }
}

#[test]
fn roles_can_be_referred_to_as_in_v1() {
    let world = World::new();
    let roles = json!({"roles": ["device", "staff"]});
    world.master.call("role:default", roles).result();
    world.applied();
    world.sql("CREATE TABLE theirs (role text REFERENCES _role (id)); CREATE TABLE more (role text REFERENCES _role)");
    world.sql("INSERT INTO theirs VALUES ('device'); INSERT INTO more VALUES ('staff')");
    assert!(
        world
            .try_sql("INSERT INTO theirs VALUES ('nobody')")
            .is_err()
    );
    let roles = json!({"roles": ["device"]});
    world.master.call("role:admin", roles).result();
    world.applied();
    let found = world.sql(
        "SELECT id, by_default, is_admin FROM _role WHERE id IN ('device', 'staff') ORDER BY id",
    );
    assert_eq!(found, "device|t|t\nstaff|t|f\n");
}

#[test]
fn a_store_from_before_gets_roles_that_can_be_referred_to() {
    let mut world = World::new();
    let roles = json!({"roles": ["device"]});
    world.master.call("role:default", roles).result();
    world.applied();
    assert!(world.server.terminate().success());
    world.sql(ROLES_OF_BEFORE);
    world.sql(PLACES_OF_BEFORE);
    world.sql("SET skytrail.own TO 'yes'; DROP TABLE _numbered; UPDATE _checkpoint SET format = 7");
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = Client::master(&world.server);
    let roles = json!({"roles": ["staff"]});
    world.master.call("role:admin", roles).result();
    world.applied();
    world.sql("CREATE TABLE theirs (role text REFERENCES _role (id))");
    world.sql("INSERT INTO theirs VALUES ('device'), ('staff')");
}

#[test]
fn what_a_plugin_makes_unique_is_so_for_saves() {
    let world = World::new();
    let channel = |id: &str, client: &Client| {
        let record = json!({"_id": format!("user_channel/{id}"), "name": id});
        let body = json!({"database_id": "_private", "records": [record]});
        client.call("record:save", body).result()[0].clone()
    };
    assert_eq!(channel("one", &world.ada)["name"], "one");
    world.applied();
    world.sql("ALTER TABLE user_channel ADD CONSTRAINT user_channel_database_id_key UNIQUE (_database_id)");
    eventually("the server knows of it", || {
        let schema = world.sql("SELECT definition FROM _type WHERE name = 'user_channel'");
        schema.contains("_database_id").then_some(())
    });
    assert_eq!(channel("two", &world.ada)["code"], 109);
    let bob = Client::signed_up(&world.server, "bob");
    assert_eq!(channel("three", &bob)["name"], "three");
    assert_eq!(channel("three", &bob)["name"], "three");
    assert_eq!(channel("four", &bob)["code"], 109);
    world.applied();
    assert_eq!(world.sql("SELECT count(*) FROM user_channel"), "2\n");
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

#[test]
fn what_a_constraint_makes_unique_is_so_until_the_constraint_is_dropped() {
    let world = World::new();
    let unique = |fields: &[&str], are_unique: bool| {
        let body = json!({"type": "note", "fields": fields, "unique": are_unique});
        world.master.call("schema:unique", body)
    };
    let await_sets = |wanted: Json| {
        eventually("the sets are as the constraints say", || {
            let settings = world.master.call("schema:settings", json!({})).result();
            (settings["record_types"]["note"]["unique"] == wanted).then_some(())
        });
    };
    world
        .ada
        .save("note/1", json!({"text": "a", "n": 1, "m": 1}));
    unique(&["n", "text"], true).result();
    world.applied();
    // In another order it is the same set.
    world.sql("ALTER TABLE note ADD CONSTRAINT theirs UNIQUE (text, n)");
    world.sql("ALTER TABLE note ADD CONSTRAINT later UNIQUE (m)");
    await_sets(json!([["n", "text"], ["m"]]));

    let refused = unique(&["text", "n"], false);
    assert_eq!(refused.code(), 108, "{}", refused.json());
    let message = refused.json()["error"]["message"].to_string();
    assert!(message.contains("drop it first"), "{message}");
    world.sql("ALTER TABLE note DROP CONSTRAINT theirs");
    let left = unique(&["text", "n"], false).result();
    assert_eq!(left["unique"], json!([["m"]]));
    world.sql("ALTER TABLE note ADD CONSTRAINT latest UNIQUE (n)");
    await_sets(json!([["m"], ["n"]]));
}

#[test]
fn a_constraint_that_does_not_fit_the_log_is_lifted_until_it_does() {
    let world = World::new();
    world.ada.save("note/1", json!({"text": "a", "n": 1}));
    world.ada.save("note/2", json!({"text": "b", "n": 2}));
    world.applied();
    world.sql("ALTER TABLE note ADD CONSTRAINT small CHECK (n < 10)");
    assert_eq!(world.ada.save("note/2", json!({"n": 20}))["n"], 20);
    world.applied();
    assert_eq!(world.sql("SELECT n FROM note WHERE _id = '2'"), "20\n");
    assert_eq!(world.sql("SELECT name FROM _lifted"), "small\n");
    world.ada.save("note/2", json!({"n": 3}));
    eventually("the constraint is back", || {
        let there = "SELECT count(*) FROM pg_constraint WHERE conname = 'small'";
        (world.sql(there) == "1\n").then_some(())
    });
    assert_eq!(world.sql("SELECT count(*) FROM _faults"), "0\n");
}

/// The constraint that identified actors up to format 4.
const ACTORS_OF_BEFORE: &str = "SET skytrail.own TO 'yes'; \
    ALTER TABLE _actor DROP CONSTRAINT _actor_once, ADD UNIQUE (actor)";

/// The column of `_role` that format 8 made an ordinary one.
const ROLES_OF_BEFORE: &str = "SET skytrail.own TO 'yes'; ALTER TABLE _role DROP id; \
    ALTER TABLE _role ADD id text COLLATE \"C\" GENERATED ALWAYS AS (name) STORED";

/// Up to format 9 the places of deleted rows were in the outbox.
const PLACES_OF_BEFORE: &str =
    "SET skytrail.own TO 'yes'; DROP TABLE _place; DROP FUNCTION _keep_place CASCADE";

#[test]
fn a_store_from_before_takes_sql_in_from_now_on() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    assert!(world.server.terminate().success());
    world.sql(
        "SET skytrail.own TO 'yes'; ALTER TABLE note ALTER _row DROP DEFAULT; \
         ALTER TABLE \"user\" ALTER _row DROP DEFAULT; \
         DROP FUNCTION _capture, _refuse, _put_back, _next_row, _closed CASCADE; \
         DROP SEQUENCE _captured_row; DROP TABLE _outbox, _parked, _lifted, _lost, _numbered; \
         UPDATE _checkpoint SET format = 1",
    );
    world.sql(ACTORS_OF_BEFORE);
    world.sql(ROLES_OF_BEFORE);
    world.sql(PLACES_OF_BEFORE);
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = Client::master(&world.server);
    world.sql("UPDATE note SET n = 2");
    world.settled();
    assert_eq!(world.fetch("note/1")["n"], 2);
}

/// The outbox had one mark for all its rows, which commits contain.
#[test]
fn what_waited_in_a_store_from_before_is_taken_in_once() {
    let mut world = World::new();
    world.ada.save("note/1", json!({"n": 1}));
    world.applied();
    world.sql("UPDATE note SET n = 2");
    world.settled();
    assert!(world.server.terminate().success());
    world.sql("UPDATE note SET n = 3");
    world.sql(
        "SET skytrail.own TO 'yes'; CREATE TABLE _captured (outbox uuid NOT NULL); \
         INSERT INTO _captured VALUES (gen_random_uuid()); ALTER TABLE _outbox DROP mark; \
         DROP TABLE _lost, _numbered; \
         UPDATE _checkpoint SET format = 3",
    );
    world.sql(ACTORS_OF_BEFORE);
    world.sql(ROLES_OF_BEFORE);
    world.sql(PLACES_OF_BEFORE);
    let one = world.sql("SELECT outbox FROM _captured");
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.master = Client::master(&world.server);
    world.settled();
    let versions = world.versions("note/1");
    let numbers: Vec<&Json> = versions.iter().map(|it| &it["record"]["n"]).collect();
    assert_eq!(numbers, [3, 2, 1]);
    assert_eq!(versions[0]["sql"]["outbox"], one.trim());
    assert_ne!(versions[1]["sql"]["outbox"], one.trim());
}

/// Up to format 9 the outbox had the places of deleted rows.
#[test]
fn a_row_that_is_put_back_in_a_store_from_before_keeps_its_place() {
    let mut world = World::new().with_bills(2);
    let places = world.places();
    assert!(world.server.terminate().success());
    world.sql("DELETE FROM bill WHERE _id = '0'");
    world.sql(PLACES_OF_BEFORE);
    world.sql("SET skytrail.own TO 'yes'; UPDATE _checkpoint SET format = 9");
    world.server.restart();
    world.ada = world.ada.at(&world.server);
    world.settled();
    // The deletion is refused, since a note refers to the bill.
    assert_eq!(world.places(), places);
}
