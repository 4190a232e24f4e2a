//! The database falls silent without closing connections: a network that drops packets.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{TIMEOUT, await_trouble, begin, compare, query, refused};
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::wire::Wire;

#[test]
fn a_network_that_drops_everything_for_a_while_is_outlived() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let wire = Wire::to(postgres.folder());
    let url = wire.url(database.name());
    let (server, ada, mut account) = begin(&url);
    account.await_all(&ada);

    wire.silence();
    account.save(&ada, 20);
    let why = refused(&ada);
    assert!(why.contains("try again"), "{why}");
    // Connections are accepted, and nothing arrives over them.
    let reason = await_trouble(&server);
    assert!(!reason.is_empty());
    account.save(&ada, 20);
    refused(&ada);
    wire.speak();
    account.await_all(&ada);
    compare(server, &database.url());
}

/// The existing connections lead nowhere, with their requests in flight. The server opens new ones,
/// and the locks of the old ones in the database are released.
#[test]
fn dead_connections_are_replaced() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let wire = Wire::to(postgres.folder());
    let url = wire.url(database.name());
    let (server, ada, mut account) = begin(&url);
    for round in 0..3 {
        // Whatever the projector is doing at that time, its transaction stays open in the database.
        account.save(&ada, 10);
        wire.delay(Duration::from_millis(20 * round));
        account.save(&ada, 10);
        wire.lose();
        wire.delay(Duration::ZERO);
        account.save(&ada, 10);
        eventually("reads are answered again", || {
            (query(&ada).status == 200).then_some(())
        });
        account.await_all(&ada);
    }
    compare(server, &database.url());
}

/// A reader that waits for an answer when everything falls silent gets an error in time.
#[test]
fn a_read_that_is_under_way_ends_in_time() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let wire = Wire::to(postgres.folder());
    let url = wire.url(database.name());
    let (server, ada, account) = begin(&url);
    account.await_all(&ada);
    let lock = "BEGIN; LOCK TABLE app_myapp.thing IN ACCESS EXCLUSIVE MODE";
    let locking = database.session(lock);
    let reader = std::thread::spawn({
        let ada = ada.clone();
        move || {
            let begun = Instant::now();
            let answer = ada.call("record:query", json!({"record_type": "thing"}));
            (answer, begun.elapsed())
        }
    });
    eventually("the read waits in the database", || {
        let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type='Lock'";
        (reader.is_finished() || postgres.sql(waiting) == "t\n").then_some(())
    });
    wire.silence();
    let (answer, time) = reader.join().unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(time < TIMEOUT, "{time:?}");
    drop(locking);
    wire.speak();
    account.await_all(&ada);
    compare(server, &database.url());
}
