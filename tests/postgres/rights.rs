//! The server's role lacks a permission, or an object is missing: that is not the fault of the
//! saved records.

use serde_json::{Value as Json, json};

use crate::door::{figure, scrape};
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
    // The log still accepts writes.
    ada.save("note/3", json!({"n": 3}));
    eventually("a query says why it fails", || {
        let asked = ada.call("record:query", json!({"record_type": "note"}));
        assert_eq!((asked.status, asked.code()), (503, 10002));
        let said = asked.json()["error"]["message"].to_string();
        said.contains("does not let the server write").then_some(())
    });

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

/// Creates a role for the server; returns its name and the address with it.
fn role_for(database: &Database<'_>, suffix: &str) -> (String, String) {
    let (name, url) = (database.name(), database.url());
    let role = format!("{name}_{suffix}");
    database.sql(&format!(
        "CREATE ROLE \"{role}\" LOGIN; GRANT ALL ON DATABASE \"{name}\" TO \"{role}\""
    ));
    let url = url.replacen("://postgres", &format!("://{role}"), 1);
    (role, url)
}

/// Ends all sessions of a role.
fn end_sessions(database: &Database<'_>, role: &str) {
    database.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='{role}'"
    ));
}

/// Waits until a request is refused with this sentence, and checks the rest of the refusal.
fn await_refusal(client: &Client, (action, payload): (&str, Json), sentence: &str) {
    let refused = eventually(sentence, || {
        let answer = client.call(action, payload.clone());
        let json = answer.json();
        let message = json["error"]["message"].as_str().unwrap_or_default();
        message.contains(sentence).then_some(answer)
    });
    assert_eq!((refused.status, refused.code()), (503, 10002), "{action}");
    assert!(refused.header("retry-after").is_some(), "{action}");
}

/// Checks what an operator sees while reads fail.
fn check_told(server: &TestServer, cause: &str) {
    let health = Client::master(server).health();
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = health["reasons"].to_string();
    assert!(
        reasons.contains("cannot be read") && reasons.contains(cause),
        "{reasons}"
    );
    assert_eq!(figure(&scrape(server), "skytrail_store_unreadable"), 1.0);
}

#[test]
fn a_role_that_may_not_log_in_is_told_of_and_may_return() {
    let database = shared().database(&[]);
    let (role, url) = role_for(&database, "barred");
    let mut server = TestServer::with(&[("DATABASE_URL", &url), ("DATABASE_WAIT", "1")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    // Nothing is in memory afterwards.
    server.restart();
    let anonymous = Client::anonymous(&server);
    let master = Client::master(&server);
    database.sql(&format!("ALTER ROLE \"{role}\" NOLOGIN"));
    end_sessions(&database, &role);
    let log_in = |name: &str| json!({"auth_data": {"username": name}, "password": "secret"});
    for (client, action, payload) in [
        (&master, "record:query", json!({"record_type": "note"})),
        (&master, "record:fetch", json!({"ids": ["note/1"]})),
        (&anonymous, "auth:login", log_in("ada")),
        (&anonymous, "auth:signup", log_in("bob")),
    ] {
        await_refusal(client, (action, payload), "does not let the server in");
    }
    check_told(&server, "not permitted to log in");

    database.sql(&format!("ALTER ROLE \"{role}\" LOGIN"));
    eventually("queries are answered again", || {
        let answer = master.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then_some(())
    });
    eventually("nothing is wrong any more", || {
        (master.health()["status"] == "OK").then_some(())
    });
    assert_eq!(figure(&scrape(&server), "skytrail_store_unreadable"), 0.0);
}

#[test]
fn a_right_to_read_or_connect_that_was_taken_away_is_told() {
    let database = shared().database(&[]);
    let (role, url) = role_for(&database, "reader");
    let server = TestServer::with(&[("DATABASE_URL", &url), ("DATABASE_WAIT", "1")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    ada.save("other/1", json!({"n": 1}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let query = || ("record:query", json!({"record_type": "note"}));
    let answered = || {
        eventually("queries are answered again", || {
            let (action, payload) = query();
            (ada.call(action, payload).status == 200).then_some(())
        });
    };
    let sentence = "does not let the server read";

    let table = "SELECT ON app_myapp.note";
    database.sql(&format!("REVOKE {table} FROM \"{role}\""));
    await_refusal(&ada, query(), sentence);
    check_told(&server, "permission denied");
    assert_eq!(ada.query("other", json!(null)).len(), 1);
    // A mistake in a query is still the query's.
    let payload = json!({"record_type": "other", "predicate":
        ["eq", {"$type": "keypath", "$val": "missing"}, 1]});
    let mistaken = ada.call("record:query", payload);
    assert_ne!(mistaken.status, 503, "{}", mistaken.json());
    database.sql(&format!("GRANT {table} TO \"{role}\""));
    answered();

    let connect = format!("CONNECT ON DATABASE \"{}\"", database.name());
    database.sql(&format!("REVOKE {connect} FROM PUBLIC, \"{role}\""));
    end_sessions(&database, &role);
    await_refusal(&ada, query(), "does not let the server in");
    check_told(&server, "permission denied for database");
    database.sql(&format!("GRANT {connect} TO PUBLIC, \"{role}\""));
    answered();
}

#[test]
fn tables_that_were_renamed_or_dropped_are_told() {
    let database = shared().database(&[]);
    let settings = [("DATABASE_URL", &*database.url()), ("DATABASE_WAIT", "1")];
    let mut server = TestServer::with(&settings);
    let mut ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 0}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    let query = || ("record:query", json!({"record_type": "note"}));
    let sentence = "lacks tables";

    database.sql(&rename("note", "TO elsewhere"));
    await_refusal(&ada, query(), sentence);
    check_told(&server, "does not exist");
    database.sql(&rename("elsewhere", "TO note"));
    eventually("queries are answered again", || {
        let (action, payload) = query();
        (ada.call(action, payload).status == 200).then_some(())
    });

    let name = database.name();
    let drop_schema = || drop(database.sql("DROP SCHEMA app_myapp CASCADE"));
    let create_again = || {
        shared().sql(&format!("DROP DATABASE \"{name}\" WITH (FORCE)"));
        shared().sql(&format!("CREATE DATABASE \"{name}\""));
    };
    for (n, empty) in [(1, &drop_schema as &dyn Fn()), (2, &create_again)] {
        // From here on it is in memory, so it can be saved without the database.
        ada.save("note/1", json!({"n": 0}));
        assert_eq!(ada.query("note", json!(null))[0]["n"], 0);
        empty();
        await_refusal(&ada, query(), sentence);
        check_told(&server, "restart the server");
        ada.save("note/1", json!({"n": n}));
        assert!(server.terminate().success());
        server.restart();
        ada = ada.at(&server);
        assert_eq!(ada.query("note", json!(null))[0]["n"], n);
    }
}
