//! Stores that a command fills next to the one in use: the remains of a killed command are removed,
//! and a store that is being filled stays.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Session, shared};
use crate::support::server::TestServer;

const LEFT: &str = "SELECT count(*) FROM pg_namespace WHERE nspname='app_myapp~verify'";

/// Makes any session that drops the schema filled by `rebuild --verify` wait for a lock.
const STOP: &str = "CREATE FUNCTION public.stop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
    IF current_setting('search_path') LIKE '%~verify%' \
    AND EXISTS (SELECT FROM pg_namespace WHERE nspname='app_myapp~verify') \
    THEN PERFORM pg_advisory_xact_lock(4711); END IF; END $$; \
    CREATE EVENT TRIGGER stop ON ddl_command_start WHEN TAG IN ('DROP SCHEMA') \
    EXECUTE FUNCTION public.stop()";

/// The sessions that wait for it.
const WAITING: &str = "FROM pg_locks WHERE locktype='advisory' AND objid=4711 AND NOT granted \
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";

/// A `rebuild --verify` that has filled its schema and is held there.
struct Stopped<'a> {
    database: &'a Database<'a>,
    command: Child,
    lock: Option<Session>,
    /// The number of advisory locks before it began.
    held_before: String,
}

/// The number of advisory locks in the database; the running server has one of them.
const HELD: &str = "SELECT count(*) FROM pg_locks WHERE locktype='advisory' AND granted \
    AND database=(SELECT oid FROM pg_database WHERE datname=current_database())";

impl<'a> Stopped<'a> {
    fn start(server: &TestServer, database: &'a Database<'a>) -> Self {
        database.sql(STOP);
        let held_before = database.sql(HELD);
        let role = database.sql("SELECT current_user");
        let place = (role.trim(), database.name());
        let lock = shared().session(place, "SELECT pg_advisory_lock(4711)");
        let command = Command::new(env!("CARGO_BIN_EXE_skytrail"))
            .env_clear()
            .env("DATA_DIR", server.data_dir())
            .env("DATABASE_URL", database.url())
            .args(["rebuild", "--verify"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the schema is filled", || {
            (database.sql(&format!("SELECT count(*) {WAITING}")) == "1\n").then_some(())
        });
        assert_eq!(database.sql(LEFT), "1\n");
        Self {
            database,
            command,
            lock: Some(lock),
            held_before,
        }
    }

    /// Kills the command, and waits until the database has noticed.
    fn kill(mut self) {
        self.command.kill().unwrap();
        self.command.wait().unwrap();
        // Otherwise the session would still do what it was waiting to do.
        self.database
            .sql(&format!("SELECT pg_terminate_backend(pid) {WAITING}"));
        self.go_on();
        eventually("the database knows", || {
            (self.database.sql(HELD) == self.held_before).then_some(())
        });
        assert_eq!(self.database.sql(LEFT), "1\n");
    }

    fn go_on(&mut self) {
        self.lock = None;
        self.database.sql("DROP EVENT TRIGGER stop");
    }
}

fn with_note(database: &Database<'_>) -> (TestServer, Client) {
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    master.save("note/1", json!({"text": "secret"}));
    assert_eq!(master.query("note", json!(null)).len(), 1);
    (server, master)
}

#[test]
fn a_start_drops_what_a_killed_command_has_left_beside_the_store() {
    let database = shared().database(&[]);
    let (mut server, _) = with_note(&database);
    Stopped::start(&server, &database).kill();
    server.restart();
    assert_eq!(database.sql(LEFT), "0\n");
}

#[test]
fn an_erasure_reaches_what_a_killed_command_has_left_beside_the_store() {
    let database = shared().database(&[]);
    let (server, master) = with_note(&database);
    Stopped::start(&server, &database).kill();
    let held = database.sql("SELECT text FROM \"app_myapp~verify\".note");
    assert_eq!(held, "secret\n");
    let body = json!({"record": "note/1", "why": "a test"});
    let erased = master.call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(database.sql(LEFT), "0\n");
}

#[test]
fn what_a_command_is_filling_stays_and_an_erasure_waits_for_it() {
    let database = shared().database(&[]);
    let (mut server, master) = with_note(&database);
    let mut stopped = Stopped::start(&server, &database);
    server.restart();
    assert_eq!(database.sql(LEFT), "1\n");
    let master = master.at(&server);
    let erased = std::thread::scope(|scope| {
        let body = json!({"record": "note/1", "why": "a test"});
        let erasing = scope.spawn(|| master.call("erase:record", body).result());
        eventually("the erasure has met it", || {
            let said = "a command that fills a store next to this one";
            server.output().contains(said).then_some(())
        });
        stopped.go_on();
        assert!(stopped.command.wait().unwrap().success());
        erasing.join().unwrap()
    });
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(database.sql(LEFT), "0\n");
}

#[test]
fn a_store_whose_name_is_as_long_as_the_database_takes_is_not_taken_for_one_beside() {
    let database = shared().database(&[]);
    let app = "a".repeat(63 - "app_".len());
    let settings = [("DATABASE_URL", &*database.url()), ("APP_NAME", &app)];
    let mut server = TestServer::with(&settings);
    let master = Client::master(&server);
    master.save("note/1", json!({"text": "kept"}));
    assert_eq!(master.query("note", json!(null)).len(), 1);
    let data_dir = server.data_dir();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.env_clear().env("DATA_DIR", &data_dir);
        command.envs(settings).args(arguments).output().unwrap()
    };
    let verified = run(&["rebuild", "--verify"]);
    let notes = || database.try_sql(&format!("SELECT text FROM app_{app}.note"));
    assert_eq!(notes().as_deref(), Ok("kept\n"));
    assert!(verified.status.success(), "{verified:?}");
    assert!(server.terminate().success());
    let rebuilt = run(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    assert_eq!(notes().as_deref(), Ok("kept\n"));
    server.restart();
    assert_eq!(master.at(&server).query("note", json!(null)).len(), 1);
}
