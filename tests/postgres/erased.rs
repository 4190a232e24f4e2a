//! Stores that lack an erasure while transactions are open in the database.

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres, Session};
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
