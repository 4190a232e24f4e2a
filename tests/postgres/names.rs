//! Types and fields that are named as what the server's own SQL names (`records/names`), also when
//! others change their rows by SQL.

use std::process::Output;

use serde_json::{Value as Json, json};

use crate::records::names::{NAMES, use_all};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

/// Runs SQL in the app's schema.
fn sql(database: &Database<'_>, sql: &str) -> String {
    database.sql(&format!("SET search_path TO app_myapp, public; {sql}"))
}

fn await_outbox(server: &TestServer, database: &Database<'_>) {
    eventually("the outbox is empty", || {
        let num_rows = sql(database, "SELECT count(*) FROM _outbox");
        (num_rows == "0\n").then_some(())
    });
    let parked = sql(database, "SELECT table_name, reason FROM _parked");
    assert_eq!(parked, "", "{}", server.output());
}

/// Returns a type's table.
fn table_of(database: &Database<'_>, record_type: &str) -> String {
    let found = format!("SELECT quote_ident(table_name) FROM _type WHERE name='{record_type}'");
    let found = sql(database, &found);
    format!("app_myapp.{}", found.trim_end())
}

#[test]
fn types_and_fields_can_have_the_names_of_our_own_sql() {
    let database = shared().database(&["citext", "postgis"]);
    let settings = [("DATABASE_URL", &*database.url())];
    let mut server = TestServer::with(&settings);
    use_all(&server);
    assert!(server.terminate().success());
    let verified = verify(&server, &database);
    assert!(verified.status.success(), "{verified:?}");
    server.restart();
    let ada = Client::signed_up(&server, "bob");
    let master = Client::master(&server);
    for name in NAMES {
        let table = table_of(&database, name);
        sql(&database, &format!("UPDATE {table} SET n = n + 100"));
    }
    sql(&database, "UPDATE odd SET num = num + 100, t = 'by SQL'");
    sql(&database, "UPDATE odd SET num = num + 100");
    await_outbox(&server, &database);
    for name in NAMES {
        // The store writes these, and puts what is in the outbox on them again.
        ada.save(&format!("{name}/9"), json!({"n": 1}));
        let table = table_of(&database, name);
        sql(
            &database,
            &format!("UPDATE {table} SET n = n + 1 WHERE _id = '2'"),
        );
        master.save(&format!("{name}/2"), json!({"text": "saved"}));
        sql(
            &database,
            &format!("UPDATE {table} SET n = n + 1 WHERE _id = '2'"),
        );
        let found = ada.call("record:fetch", json!({"ids": [format!("{name}/2")]}));
        let found = found.result();
        assert_eq!(found[0]["n"], 114, "{name}: {found}");
        assert_eq!(found[0]["text"], "saved", "{name}: {found}");
    }
    let found = ada.query("odd", json!(null));
    let mut numbers: Vec<&Json> = found.iter().map(|it| &it["num"]).collect();
    numbers.sort_by_key(|number| number.as_i64());
    assert_eq!(numbers, [201, 202, 203]);
    assert!(found.iter().all(|it| it["t"] == "by SQL"), "{found:?}");
    await_outbox(&server, &database);
    assert_eq!(sql(&database, "SELECT count(*) FROM _faults"), "0\n");
    assert!(server.terminate().success());
    let verified = verify(&server, &database);
    let said = String::from_utf8(verified.stderr).unwrap();
    let differences = said.lines().skip(1);
    // SQL can leave wrong versions in the tables of the past.
    let others: Vec<&str> = differences.filter(|it| !it.contains("_past_")).collect();
    assert_eq!(others, [""; 0]);
}

fn verify(server: &TestServer, database: &Database<'_>) -> Output {
    let setting = format!("DATABASE_URL={}", database.url());
    server.skytrail(&["--set", &setting, "rebuild", "--verify"])
}

/// A field of that name must not be taken for its whole row.
#[test]
fn a_difference_is_found_whatever_the_fields_are_called() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &*database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"t": "same", "other": "in the log"}));
    assert!(server.terminate().success());
    assert!(verify(&server, &database).status.success());
    sql(
        &database,
        "SET skytrail.own TO 'yes'; UPDATE note SET other = 'not in the log'",
    );
    assert!(!verify(&server, &database).status.success());
}
