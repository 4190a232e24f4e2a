//! Stores that lack an erasure while transactions are open in the database.

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres, Session, shared};
use crate::support::server::TestServer;

/// Text that occurs only in what is erased.
const CANARY: &str = "canary-behind-5d20c7a1";

/// Opens a transaction that may see all rows there are.
fn report(postgres: &'static Postgres, database: &str) -> Session {
    let begin = "SET application_name TO 'the nightly report'; \
                 BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
    postgres.session(("postgres", database), begin)
}

fn erase(master: &Client, record: &str) {
    let body = json!({"record": record, "why": "asked for on paper"});
    master.call("erase:record", body).result();
    eventually("it is erased", || {
        let listed = master.call("erase:list", json!({})).result();
        (listed["erasures"][0]["finished"] != false).then_some(())
    });
}

#[test]
fn a_store_is_filled_while_transactions_of_other_databases_are_open() {
    let postgres = Postgres::start().lasting();
    let (other, database) = (postgres.database(&[]), postgres.database(&[]));
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/gone", json!({"text": CANARY}));
    master.save("note/1", json!({"text": "stays"}));
    erase(&master, "note/gone");
    let open = report(postgres, other.name());
    let moved = server.skytrail(&["rebuild", "--to", &database.url()]);
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!(database.sql("SELECT _id FROM app_myapp.note"), "1\n");
    let verified = ["--set", &format!("DATABASE_URL={}", database.url())];
    let verified = server.skytrail(&[&verified[..], &["rebuild", "--verify"]].concat());
    assert!(verified.status.success(), "{verified:?}");
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
    drop(open);
}

/// Starts a server, erases a record, and puts the database back to before that. Returns the server,
/// stopped, and a transaction that is open in the database.
fn put_back(postgres: &'static Postgres, database: &Database<'_>) -> (TestServer, Session) {
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    master.save("note/gone", json!({"text": CANARY}));
    master.save("note/1", json!({"text": "stays"}));
    assert!(server.terminate().success());
    let name = database.name();
    postgres.sql(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));
    server.restart();
    erase(&master.at(&server), "note/gone");
    assert!(server.terminate().success());
    postgres.sql(&format!("DROP DATABASE {name}"));
    postgres.sql(&format!("ALTER DATABASE {name}_copy RENAME TO {name}"));
    assert!(!database.relations_with(CANARY).is_empty());
    (server, report(postgres, name))
}

/// The copy of the database has the request, and still all that it names.
#[test]
fn a_database_from_between_the_request_and_the_end_of_an_erasure_is_rewritten() {
    let postgres = Postgres::start().lasting();
    let database = postgres.database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    master.save("note/gone", json!({"text": CANARY}));
    master.save("note/1", json!({"text": "stays"}));
    let name = database.name();
    let open = report(postgres, name);
    std::thread::scope(|scope| {
        let body = json!({"record": "note/gone", "why": "asked for on paper"});
        // The server stops before it answers.
        scope.spawn(|| master.try_call("erase:record", body).is_ok());
        await_waiting(&master);
        assert!(server.terminate().success());
    });
    drop(open);
    postgres.sql(&format!("CREATE DATABASE {name}_copy TEMPLATE {name}"));
    server.restart();
    eventually("it is erased", || {
        let health = Client::master(&server).health();
        (health["erasures"]["num_open"] == 0).then_some(())
    });
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
    assert!(server.terminate().success());
    postgres.sql(&format!("DROP DATABASE {name}"));
    postgres.sql(&format!("ALTER DATABASE {name}_copy RENAME TO {name}"));
    assert!(!database.relations_with(CANARY).is_empty());
    server.restart();
    eventually("what was erased is nowhere", || {
        database.relations_with(CANARY).is_empty().then_some(())
    });
    eventually("all is well again", || {
        (Client::master(&server).health()["status"] == "OK").then_some(())
    });
    assert_eq!(database.sql("SELECT count(*) FROM app_myapp._lost"), "0\n");
}

/// A rebuild keeps the old store, unless that is from before an erasure.
#[test]
fn a_rebuild_drops_a_store_that_lacks_an_erasure() {
    let postgres = Postgres::start().lasting();
    let database = postgres.database(&[]);
    let (server, open) = put_back(postgres, &database);
    drop(open);
    let url = format!("DATABASE_URL={}", database.url());
    let rebuild = || {
        let rebuilt = server.skytrail(&["--set", &url, "rebuild"]);
        assert!(rebuilt.status.success(), "{rebuilt:?}");
        String::from_utf8(rebuilt.stdout).unwrap()
    };
    let kept = "the old store is kept in";
    let told = rebuild();
    assert!(!told.contains(kept) && told.contains("erased"), "{told}");
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
    let old = "SELECT count(*) FROM pg_namespace WHERE nspname = 'app_myapp~old'";
    assert_eq!(database.sql(old), "0\n");
    assert!(rebuild().contains(kept));
    assert_eq!(database.sql(old), "1\n");
}

/// Waits until the health says that an erasure waits for a transaction.
fn await_waiting(master: &Client) {
    eventually("the health names who is waited for", || {
        let health = master.health();
        let reasons = health["reasons"].to_string();
        (health["status"] == "degraded" && reasons.contains("the nightly report, role postgres"))
            .then_some(())
    });
}

/// The database is restored to an older copy, and is being dumped at the next start.
#[test]
fn a_server_starts_while_a_transaction_is_open_in_a_database_that_lacks_an_erasure() {
    let postgres = Postgres::start().lasting();
    let database = postgres.database(&[]);
    let (mut server, open) = put_back(postgres, &database);
    server.restart();
    let master = Client::master(&server);
    let past = "SELECT count(*) FROM app_myapp.note WHERE _id = 'gone'";
    assert_eq!(database.sql(past), "0\n");
    assert_eq!(master.query("note", json!(null)).len(), 1);
    await_waiting(&master);
    // A new erasure does not end earlier than that.
    master.save("note/2", json!({"text": format!("{CANARY} again")}));
    let body = json!({"record": "note/2", "why": "asked for on paper"});
    master.call("erase:record", body).result();
    drop(open);
    eventually("all is well again", || {
        (master.health()["status"] == "OK").then_some(())
    });
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
}

/// The same, and the server is stopped and killed while it waits.
#[test]
fn a_database_that_lacks_an_erasure_is_rewritten_however_often_the_server_ends() {
    let postgres = Postgres::start().lasting();
    let database = postgres.database(&[]);
    let (mut server, open) = put_back(postgres, &database);
    server.restart();
    await_waiting(&Client::master(&server));
    server.kill();
    server.restart();
    await_waiting(&Client::master(&server));
    assert!(server.terminate().success());
    server.restart();
    let master = Client::master(&server);
    await_waiting(&master);
    drop(open);
    eventually("all is well again", || {
        (master.health()["status"] == "OK").then_some(())
    });
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
    // It is done once.
    assert_eq!(database.sql("SELECT count(*) FROM app_myapp._lost"), "0\n");
}

/// Creates a table of a role in which an autovacuum has so much to do, so slowly, that it does not end.
fn vacuum_slowly(database: &Database<'_>, role: &str, table: &str) {
    database.sql_as(
        role,
        &format!(
            "CREATE TABLE {table} (n integer, text text) WITH (autovacuum_vacuum_threshold = 1, \
             autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_threshold = 2000000000, \
             autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1); \
             INSERT INTO {table} SELECT n, repeat('y', 800) FROM generate_series(1, 20000) AS n; \
             DELETE FROM {table} WHERE n % 2 = 0"
        ),
    );
    eventually("it is vacuumed", || {
        is_vacuumed(database, table).then_some(())
    });
}

fn is_vacuumed(database: &Database<'_>, table: &str) -> bool {
    let vacuums = "SELECT count(*) FROM pg_stat_progress_vacuum \
                   WHERE datname = current_database() AND relid = ";
    database.sql(&format!("{vacuums}'{table}'::regclass")) == "1\n"
}

/// The server's role sees of an autovacuum neither what it is nor what it does.
#[test]
fn an_erasure_does_not_wait_for_an_autovacuum() {
    let postgres = Postgres::start_with("-c autovacuum_naptime=1s").lasting();
    let database = postgres.database(&[]);
    let name = database.name();
    database.sql(&format!(
        "CREATE ROLE app LOGIN; ALTER DATABASE {name} OWNER TO app"
    ));
    let url = database.url().replace("postgres@", "app@");
    let server = TestServer::with(&[("DATABASE_URL", &url)]);
    let master = Client::master(&server);
    master.save("note/gone", json!({"text": CANARY}));
    master.save("note/1", json!({"text": "stays"}));
    database.sql("CREATE SCHEMA other AUTHORIZATION app");
    // One elsewhere, and one that holds a table that is rewritten.
    vacuum_slowly(&database, "app", "other.big");
    vacuum_slowly(&database, "app", "app_myapp.big");
    erase(&master, "note/gone");
    assert!(is_vacuumed(&database, "other.big"));
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
}

/// Whose devices there are is found in the store, which also knows who did something for whom.
#[test]
fn a_user_is_gone_from_devices_that_others_have_now() {
    let database = shared().database(&[]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let register = |user: &Client, id: Option<&Json>, token: &str| {
        let body = json!({"id": id, "type": "ios", "device_token": token});
        user.call("device:register", body).result()["id"].clone()
    };
    let device = register(&ada, None, CANARY);
    for (who, name) in [(&ada, "by-her"), (&master, "for-her")] {
        let predicate = json!(["eq", {"$type": "keypath", "$val": "text"}, CANARY]);
        let query = json!({"record_type": "note", "predicate": predicate});
        let subscription = json!({"id": name, "type": "query", "query": query});
        let body = json!({"device_id": device, "subscriptions": [subscription]});
        who.call("subscription:save", body).result();
    }
    register(&bob, Some(&device), "his-token");
    let erase = |user: &Client| {
        let body = json!({"user": user.user, "why": "asked for on paper"});
        let erased = master.call("erase:user", body).result();
        erased["num_events"].as_u64().unwrap()
    };
    let without_devices = erase(&Client::signed_up(&server, "cyd"));
    // One registration, two subscriptions.
    assert_eq!(erase(&ada), without_devices + 3);
    eventually("she is erased", || {
        let listed = master.call("erase:list", json!({})).result();
        (listed["erasures"][0]["finished"] != false).then_some(())
    });
    assert_eq!(database.relations_with(CANARY), Vec::<String>::new());
    let address = format!("DATABASE_URL={}", database.url());
    for check in [["log", "verify"], ["rebuild", "--verify"]] {
        let checked = server.skytrail(&[&["--set", &address], &check[..]].concat());
        assert!(checked.status.success(), "{checked:?}");
    }
}
