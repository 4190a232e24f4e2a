//! The number of events that may wait for the database is bounded: beyond it writes are refused.

use serde_json::json;

use super::{Account, await_health, compare, figure, refused, settings};
use crate::support::client::Client;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;

/// How many events may wait.
const BOUND: u64 = 50;

#[test]
fn writes_are_taken_up_to_the_bound_and_not_beyond() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let url = database.url();
    let bound = BOUND.to_string();
    let bound = ("STORE_LAG_EVENTS", bound.as_str());
    let server = TestServer::with(&[&settings(&url)[..], &[bound]].concat());
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    let mut account = Account::default();
    account.save(&ada, 20);
    await_health(&server);

    postgres.crash();
    account.save(&ada, BOUND);
    let error = account.try_save(&ada).unwrap_err();
    assert_eq!(error["code"], 10002, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("too far behind"), "{message}");
    let health = master.health();
    let lag = figure(&health, "/log/head") - figure(&health, "/projector/position");
    assert_eq!(lag, BOUND, "{health}");
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["log"]["is_store_behind"], true);
    // Records in memory are still returned; the answer for others says why it fails.
    let known = ada.call("record:fetch", json!({"ids": ["thing/1"]}));
    assert_eq!(known.status, 200, "{known:?}");
    refused(&ada);

    postgres.start_again();
    await_health(&server);
    account.save(&ada, 20);
    account.await_all(&ada);
    compare(server, &url);
}

#[test]
fn memory_for_what_waits_is_bounded() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let url = database.url();
    let bounds = [
        ("STORE_LAG_BYTES", "2000000"),
        ("HEAD_CACHE_BYTES", "100000"),
    ];
    let server = TestServer::with(&[&settings(&url)[..], &bounds].concat());
    let ada = Client::signed_up(&server, "ada");
    ada.save("page/0", json!({"text": "first"}));
    await_health(&server);

    postgres.crash();
    let mut num_taken = 0;
    let refused = loop {
        assert!(num_taken < 100, "nothing is refused");
        let page = json!({"_id": format!("page/{num_taken}"), "text": "x".repeat(100_000)});
        let answer = ada.call("record:save", json!({"records": [page]}));
        if answer.status == 200 && answer.json()["result"][0]["_type"] == "record" {
            num_taken += 1;
        } else {
            break answer.json();
        }
    };
    assert!(refused.to_string().contains("too far behind"), "{refused}");
    assert!((15..=25).contains(&num_taken), "{num_taken}");
    postgres.start_again();
    await_health(&server);
    ada.save("page/last", json!({"text": "there is room again"}));
    assert_eq!(ada.query("page", json!(null)).len(), num_taken + 1);
    compare(server, &url);
}
