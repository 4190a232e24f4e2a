//! Stores in PostgreSQL that another version made: see also `lifecycle/upgrade`.

use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::{Database, shared};
use crate::support::server::TestServer;

/// A stopped server with a record, whose store was changed by this SQL.
fn ended<'a>(sql: &str) -> (TestServer, Client, Database<'a>) {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"number": 1}));
    assert!(server.terminate().success());
    assert!(
        !server.output().contains("is upgraded"),
        "{}",
        server.output()
    );
    database.sql(&format!("SET skytrail.own TO 'yes'; {sql}"));
    (server, ada, database)
}

#[test]
fn a_store_of_a_newer_version_is_refused_until_it_is_made_anew() {
    let (mut server, ada, database) = ended(
        "ALTER TABLE app_myapp._history ADD later integer; UPDATE app_myapp._checkpoint SET format = 99",
    );
    let url = format!("DATABASE_URL={}", database.url());
    let run = |server: &TestServer, arguments: &[&str]| {
        let output = server.skytrail(&[&["--set", &url], arguments].concat());
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let said = server.try_restart().unwrap_err();
    let is_clear = said.contains("format=99") && said.contains("skytrail rebuild");
    assert!(is_clear, "{said}");
    let (is_same, said) = run(&server, &["rebuild", "--verify"]);
    let is_clear = said.contains("format=99") && said.contains("skytrail rebuild");
    assert!(!is_same && is_clear, "{said}");
    let (is_made, said) = run(&server, &["rebuild"]);
    assert!(is_made && said.contains("app_myapp~old"), "{said}");
    let (is_same, said) = run(&server, &["rebuild", "--verify"]);
    assert!(is_same, "{said}");
    server.restart();
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
}

#[test]
fn a_start_says_through_which_formats_it_brings_a_store() {
    let (mut server, ada, database) = ended("");
    let format_of = || -> u32 {
        let said = database.sql("SELECT format FROM app_myapp._checkpoint");
        said.trim().parse().unwrap()
    };
    let present = format_of();
    database.sql(
        "SET skytrail.own TO 'yes'; DROP TABLE app_myapp._lost, app_myapp._numbered, app_myapp._place; \
         DROP FUNCTION app_myapp._keep_place CASCADE; ALTER TABLE app_myapp._role DROP id; \
         ALTER TABLE app_myapp._role ADD id text GENERATED ALWAYS AS (name) STORED; \
         UPDATE app_myapp._checkpoint SET format = 5",
    );
    server.restart();
    let said = server.output();
    let steps = said
        .lines()
        .filter(|line| line.contains("record store is upgraded"));
    let steps: Vec<&str> = steps.collect();
    assert_eq!(steps.len(), (5..present).count(), "{said}");
    for (step, from) in steps.iter().zip(5..present) {
        let formats = format!("from={from} to={}", from + 1);
        assert!(step.contains("INFO") && step.contains(&formats), "{step}");
    }
    assert_eq!(format_of(), present);
    assert_eq!(ada.at(&server).query("note", json!(null)).len(), 1);
}

/// Up to format 8 the numbers that records got from a new sequence field were only in the records.
#[test]
fn a_store_from_before_gets_the_numbers_that_its_records_had() {
    let database = shared().database(&[]);
    let mut server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let master = Client::master(&server);
    for id in ["bill/1", "bill/2"] {
        master.save(id, json!({"text": "first"}));
    }
    let fields = json!([{"name": "no", "type": "sequence"}]);
    let body = json!({"record_types": {"bill": {"fields": fields}}});
    master.call("schema:create", body).result();
    let read = master.call("log:read", json!({"limit": 1})).json();
    master.save("bill/2", json!({"text": "changed"}));
    assert!(server.terminate().success());
    database.sql(
        "SET skytrail.own TO 'yes'; DROP TABLE app_myapp._numbered, app_myapp._place; \
         DROP FUNCTION app_myapp._keep_place CASCADE; UPDATE app_myapp._checkpoint SET format = 8; \
         UPDATE app_myapp._type SET definition = definition::jsonb - 'numbered' \
         WHERE name = 'bill'",
    );
    server.restart();
    let body = json!({"ids": ["bill/2"], "as_of": read["info"]["head"]});
    let then = master.at(&server).call("record:fetch", body).result();
    assert_eq!(then[0]["no"], 2);
    assert!(server.terminate().success());
    let url = format!("DATABASE_URL={}", database.url());
    let output = server.skytrail(&["--set", &url, "rebuild", "--verify"]);
    assert!(output.status.success(), "{output:?}");
}
