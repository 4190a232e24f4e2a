//! The server's role lacks a permission, or an object is missing: that is not the fault of the
//! saved records.

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

/// Takes a permission or an object away, saves, and gives it back; then all records are there.
fn take_and_give_back(database: &Database<'_>, url: &str, taken: &str, given: &str, told: &str) {
    let mut server = TestServer::with(&[("DATABASE_URL", url), ("DATABASE_WAIT", "1")]);
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    ada.save("note/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    database.sql(taken);
    ada.save("note/2", json!({"n": 2}));
    let health = eventually("the projector says what is wrong", || {
        let health = master.health();
        (health["projector"]["is_failing"] == true).then_some(health)
    });
    assert_eq!(health["status"], "degraded");
    let reason = health["projector"]["reason"].as_str().unwrap();
    assert!(reason.contains(told), "{reason}");
    // The log still accepts writes, and a query says why it fails.
    ada.save("note/3", json!({"n": 3}));
    let asked = ada.call("record:query", json!({"record_type": "note"}));
    assert_eq!((asked.status, asked.code()), (503, 10002));
    let said = asked.json()["error"]["message"].to_string();
    assert!(said.contains("does not let the server write"), "{said}");

    database.sql(given);
    eventually("the record store takes events again", || {
        (master.health()["projector"]["is_failing"] == false).then_some(())
    });
    assert!(server.terminate().success());
    server.restart();
    let ids = json!({"ids": ["note/1", "note/2", "note/3"]});
    let found = ada.at(&server).call("record:fetch", ids).result();
    for n in 1..=3 {
        assert_eq!(found[n - 1]["n"], n, "{found}");
    }
    let faults = database.sql("SELECT count(*) FROM app_myapp._faults");
    assert_eq!(faults, "0\n");
}

#[test]
fn a_record_waits_for_the_right_to_store_it() {
    let database = shared().database(&[]);
    let role = format!("{}_server", database.name());
    database.sql(&format!(
        "CREATE ROLE \"{role}\" LOGIN; GRANT ALL ON DATABASE \"{}\" TO \"{role}\"",
        database.name()
    ));
    let table = "INSERT ON app_myapp.note";
    take_and_give_back(
        &database,
        &database
            .url()
            .replacen("://postgres", &format!("://{role}"), 1),
        &format!("REVOKE {table} FROM \"{role}\""),
        &format!("GRANT {table} TO \"{role}\""),
        "permission denied",
    );
}

fn rename(from: &str, to: &str) -> String {
    format!("ALTER TABLE app_myapp.{from} RENAME {to}")
}

#[test]
fn a_record_waits_for_its_table() {
    let database = shared().database(&[]);
    let (taken, given) = (
        rename("note", "TO elsewhere"),
        rename("elsewhere", "TO note"),
    );
    take_and_give_back(&database, &database.url(), &taken, &given, "does not exist");
}

#[test]
fn a_record_waits_for_its_column() {
    let database = shared().database(&[]);
    let (taken, given) = (
        rename("note", "COLUMN n TO other"),
        rename("note", "COLUMN other TO n"),
    );
    take_and_give_back(&database, &database.url(), &taken, &given, "does not exist");
}
