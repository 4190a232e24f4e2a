//! A database that takes no writes.

use serde_json::json;

use crate::support::client::Client;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;
use crate::support::wire::Wire;
use crate::support::eventually;

/// An address that names both.
fn url_of(first: &Postgres, second: &Postgres) -> String {
    let place = |server: &Postgres| server.folder().to_string_lossy().replace('/', "%2F");
    let (first, second) = (place(first), place(second));
    format!("postgres://postgres@{first},{second}/postgres")
}

#[test]
fn a_primary_that_takes_no_writes_is_passed_over() {
    let (first, second) = (Postgres::start(), Postgres::start());
    first.sql("ALTER DATABASE postgres SET default_transaction_read_only TO on");
    let server = TestServer::with(&[("DATABASE_URL", &url_of(&first, &second))]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "kept"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    assert_eq!(second.sql("SELECT text FROM app_myapp.note"), "kept\n");
}

#[test]
fn a_primary_that_takes_no_writes_any_more_is_left_for_the_next() {
    let first = Postgres::start();
    let between = Wire::to(first.folder());
    let second = first.standby(between.port());
    let url = url_of(&first, &second);
    let server = TestServer::with(&[("DATABASE_URL", &url), ("DATABASE_WAIT", "1")]);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "before"}));
    assert_eq!(ada.query("note", json!(null)).len(), 1);
    first.await_standby(&second);
    first.sql("ALTER SYSTEM SET default_transaction_read_only TO on");
    first.sql("SELECT pg_reload_conf()");
    eventually("it takes no writes", || {
        (first.sql("SHOW default_transaction_read_only") == "on\n").then_some(())
    });
    second.promote();
    ada.save("note/2", json!({"text": "after"}));
    eventually("the other one is used", || {
        let answer = ada.call("record:query", json!({"record_type": "note"}));
        (answer.status == 200).then(|| assert_eq!(answer.result().as_array().unwrap().len(), 2))
    });
    assert_eq!(second.sql("SELECT count(*) FROM app_myapp.note"), "2\n");
    assert_eq!(first.sql("SELECT count(*) FROM app_myapp.note"), "1\n");
}
