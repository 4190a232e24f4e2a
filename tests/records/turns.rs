//! Queries that take long leave room for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::door::{figure, scrape};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

#[test]
fn a_quick_query_does_not_wait_for_the_slow_ones_of_another_user() {
    leave_room(&TestServer::start());
}

#[test]
fn neither_does_it_in_postgresql() {
    let database = shared().database(&[]);
    let url = database.url();
    leave_room(&TestServer::with(&[
        ("DATABASE_URL", url.as_str()),
        ("DATABASE_CONNECTIONS", "4"),
    ]));
}

fn leave_room(server: &TestServer) {
    let (ada, bea) = (
        Client::signed_up(server, "ada"),
        Client::signed_up(server, "bea"),
    );
    let text = "a".repeat(100_000);
    for batch in 0..10 {
        let page =
            |number: usize| json!({"_id": format!("page/{}", batch * 10 + number), "text": text});
        let records: Vec<_> = (0..10).map(page).collect();
        ada.call("record:save", json!({"records": records}))
            .result();
    }
    bea.save("note/1", json!({"n": 1}));
    let quick = json!({"record_type": "note", "limit": 5});
    bea.call("record:query", quick.clone()).result();

    // The database compares nearly the whole pattern at every character of each text.
    let pattern = format!("%{}b%", "a".repeat(90));
    let path = json!({"$type": "keypath", "$val": "text"});
    let slow = json!({"record_type": "page", "limit": 5, "predicate": ["like", path, pattern]});
    let num_slow = 4 * std::thread::available_parallelism().map_or(2, usize::from);
    let num_answered = Arc::new(AtomicUsize::new(0));
    for _ in 0..num_slow {
        let (ada, slow, num_answered) = (ada.clone(), slow.clone(), Arc::clone(&num_answered));
        // They need not end: the server ends before them.
        std::thread::spawn(move || {
            let _ = ada.try_call("record:query", slow);
            num_answered.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("all have arrived", || {
        let running = figure(&scrape(server), "skytrail_requests_running");
        (running >= num_slow as f64).then_some(())
    });
    let found = bea.call("record:query", quick).result();
    let num_answered = num_answered.load(Ordering::Relaxed);
    assert_eq!(found[0]["n"], 1);
    assert!(num_answered < num_slow / 2, "{num_answered} of {num_slow}");
    let waiting = "skytrail_store_queries{state=\"waiting\"}";
    let waiting = figure(&scrape(server), waiting);
    assert!(waiting > 0.0, "{waiting}");
}
