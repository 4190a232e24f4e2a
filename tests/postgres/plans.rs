//! Statements whose plans do not depend on what PostgreSQL guesses.

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;

/// PostgreSQL plans a statement that is repeated without looking at its values.
#[test]
fn a_record_is_found_in_a_long_history_without_reading_all_of_it() {
    const CALLS: u64 = 10;
    let settings = "-c shared_preload_libraries=pg_stat_statements \
                    -c plan_cache_mode=force_generic_plan";
    let postgres = Postgres::start_with(settings).lasting();
    let database = postgres.database(&["pg_stat_statements"]);
    let server = TestServer::with(&[("DATABASE_URL", &database.url())]);
    let ada = Client::signed_up(&server, "ada");
    let master = Client::master(&server);
    ada.save("note/1", json!({"n": 1}));
    for first in (0..20_000).step_by(1000) {
        let records: Vec<_> = (first..first + 1000)
            .map(|n| json!({"_id": format!("page/{n}"), "n": n}))
            .collect();
        ada.call("record:save", json!({ "records": records }));
    }
    eventually("everything is in the record store", || {
        let count = database.sql("SELECT count(*) >= 20000 FROM app_myapp._history");
        (count == "t\n").then_some(())
    });
    database.sql("ANALYZE app_myapp._history; SELECT pg_stat_statements_reset()");
    for _ in 0..CALLS {
        let history = master.call("history:list", json!({"record": "note/1"}));
        let versions = &history.result()["versions"];
        assert_eq!(versions.as_array().map(Vec::len), Some(1), "{versions}");
    }
    let blocks = "SELECT sum(calls), sum(shared_blks_hit + shared_blks_read) \
                  FROM pg_stat_statements WHERE query LIKE '%FROM _history WHERE%'";
    let found = database.sql(blocks);
    let (calls, blocks) = found.trim().split_once('|').unwrap();
    let (calls, blocks): (u64, u64) = (calls.parse().unwrap(), blocks.parse().unwrap());
    assert!(calls >= CALLS, "{calls}");
    // The whole history has hundreds of blocks.
    assert!(blocks < 10 * calls, "{blocks} blocks by {calls} statements");
}
