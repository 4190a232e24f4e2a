//! The database is slow: its answers take long, or other sessions hold locks.

use std::time::Duration;

use super::{await_health, begin, compare, lag, query, refused};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::wire::Wire;

#[test]
fn answers_that_take_long_hold_up_only_who_needs_them() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let wire = Wire::to(postgres.folder());
    let url = wire.url(database.name());
    let (server, ada, mut account) = begin(&url);
    await_health(&server);

    // Slow enough to fall behind, but fast enough that something gets through.
    wire.delay(Duration::from_millis(150));
    let is_behind = |_| {
        account.save(&ada, 100);
        lag(&server) > 0
    };
    assert!((0..3).any(is_behind), "nothing was slow");
    account.await_all(&ada);

    // So slow that reads give up before their answer.
    wire.delay(Duration::from_millis(2500));
    account.save(&ada, 20);
    let why = refused(&ada);
    assert!(why.contains("try again"), "{why}");
    account.save(&ada, 20);

    wire.delay(Duration::ZERO);
    account.await_all(&ada);
    compare(server, &database.url());
}

#[test]
fn locks_of_others_hold_up_only_who_needs_what_is_locked() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let url = database.url();
    let (server, ada, mut account) = begin(&url);
    account.await_all(&ada);

    let lock = "BEGIN; LOCK TABLE app_myapp.thing IN ACCESS EXCLUSIVE MODE";
    let locking = database.session(lock);
    // Nothing waits for the projector: the statement itself takes too long.
    let why = refused(&ada);
    assert!(why.contains("takes too long"), "{why}");
    account.save(&ada, 50);
    assert!(lag(&server) > 0, "nothing was locked");
    let answer = query(&ada);
    assert_eq!(answer.status, 503, "{answer:?}");
    // Requests that need nothing locked are answered, and health reports that the store is held up.
    let master = Client::master(&server);
    eventually("the health is told", || {
        (master.health()["status"] == "degraded").then_some(())
    });
    drop(locking);
    account.await_all(&ada);
    compare(server, &url);
}
