//! Another database server takes over.

use serde_json::json;

use super::{Account, await_health, begin, compare, figure, query, settings};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;
use crate::support::wire::Wire;

/// A primary and its standby, which replicates over a wire.
struct Pair {
    primary: Postgres,
    standby: Postgres,
    between: Wire,
}

impl Pair {
    /// Starts both; the database is `postgres`.
    fn start() -> Self {
        // Autovacuum would use transaction numbers that a test expects.
        let primary = Postgres::start_with("-c autovacuum=off");
        let between = Wire::to(primary.folder());
        let standby = primary.standby(between.port());
        Self {
            primary,
            standby,
            between,
        }
    }

    /// An address that names both.
    fn url(&self) -> String {
        let place = |server: &Postgres| server.folder().to_string_lossy().replace('/', "%2F");
        let (primary, standby) = (place(&self.primary), place(&self.standby));
        format!("postgres://postgres@{primary},{standby}/postgres")
    }
}

fn head(server: &TestServer) -> u64 {
    figure(&Client::master(server).health(), "/log/head")
}

#[test]
fn a_standby_that_has_everything_takes_over_while_the_server_runs() {
    let pair = Pair::start();
    let url = pair.url();
    let server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 40);
    await_health(&server);
    pair.primary.await_standby(&pair.standby);

    pair.primary.crash();
    account.save(&ada, 20);
    let answer = query(&ada);
    assert_eq!(answer.status, 503, "{answer:?}");
    pair.standby.promote();
    account.await_all(&ada);
    account.save(&ada, 20);
    account.await_all(&ada);
    let starts = server.output().matches("skytrail: ready on").count();
    assert_eq!(starts, 1, "it did not have to start again");
    compare(server, &url);
}

/// With no writes, readers are the first to find the server that took over.
#[test]
fn readers_find_the_server_that_took_over() {
    let pair = Pair::start();
    let url = pair.url();
    let (server, ada, account) = begin(&url);
    account.await_all(&ada);
    pair.primary.await_standby(&pair.standby);
    pair.primary.crash();
    // A standby is not read, because it may lag.
    assert_eq!(query(&ada).status, 503);
    pair.standby.promote();
    account.await_all(&ada);
    compare(server, &url);
}

/// The standby has not received the last changes. Acknowledged events are in the log, and the new
/// primary gets them from there, once. So it does with the changes by SQL that the log had
/// imported.
#[test]
fn what_a_standby_never_got_is_applied_again() {
    let pair = Pair::start();
    // One address, behind which the servers are switched.
    let front = Wire::to(pair.primary.folder());
    let url = front.url("postgres");
    let mut server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 40);
    await_health(&server);
    pair.primary.await_standby(&pair.standby);

    pair.between.silence();
    account.save(&ada, 40);
    account.await_all(&ada);
    let applied = head(&server);
    let written = "UPDATE app_myapp.thing SET n = n + 1000 WHERE _id = '0'";
    pair.primary.sql(written);
    // The server hears of the first change by SQL with a delay.
    eventually("it is taken in", || (head(&server) > applied).then_some(()));
    let counted = account.acknowledged["0"] + 1000;
    account.acknowledged.insert("0".to_owned(), counted);
    account.await_all(&ada);
    let head_before = head(&server);
    // Some more that no database has received.
    pair.primary.crash();
    account.save(&ada, 1);
    pair.standby.promote();
    front.lead_to(pair.standby.folder());
    server.await_start(2);
    let ada = ada.at(&server);
    account.await_all(&ada);
    assert_eq!(
        head(&server),
        head_before + 1,
        "nothing is in the log twice"
    );
    let history = "SELECT count(*) = max(position) FROM app_myapp._history";
    assert_eq!(pair.standby.sql(history), "t\n");
    account.save(&ada, 20);
    account.await_all(&ada);
    compare(server, &url);
}

/// A transaction by SQL is in the log but not on the standby. There another transaction gets the
/// same numbers, and must not be mistaken for it.
#[test]
fn numbers_that_come_again_do_not_hide_what_sql_has_changed() {
    let pair = Pair::start();
    let front = Wire::to(pair.primary.folder());
    let mut server = TestServer::with(&settings(&front.url("postgres")));
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 20);
    await_health(&server);
    pair.primary.await_standby(&pair.standby);
    pair.between.silence();
    let add = |number: u64, key: &str| {
        format!(
            "UPDATE app_myapp.thing SET n = n + {number} WHERE _id = '{key}' \
             RETURNING pg_current_xact_id(), \
             pg_sequence_last_value(pg_get_serial_sequence('app_myapp._outbox', 'id')) IS NULL"
        )
    };
    let applied = head(&server);
    let lost = pair.primary.sql(&add(1000, "0"));
    eventually("it is taken in", || (head(&server) > applied).then_some(()));
    account.acknowledged.insert("0".to_owned(), 1020);
    account.await_all(&ada);

    pair.primary.crash();
    pair.standby.promote();
    let number = lost.split('|').next().unwrap();
    pair.standby.sql(&format!(
        "DO $$ BEGIN WHILE pg_snapshot_xmax(pg_current_snapshot()) < '{number}'::xid8 LOOP \
         PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
    ));
    assert_eq!(pair.standby.sql(&add(5000, "1")), lost);
    front.lead_to(pair.standby.folder());
    server.await_start(2);
    account.await_all(&ada.at(&server));
    eventually("nothing waits", || {
        let waiting = "SELECT count(*) FROM app_myapp._outbox";
        (pair.standby.sql(waiting) == "0\n").then_some(())
    });
    let told = Client::master(&server).call("history:list", json!({"record": "thing/1"}));
    assert_eq!(told.result()["versions"][0]["record"]["n"], 5001);
    compare(server, &front.url("postgres"));
}

#[test]
fn a_standby_that_is_behind_is_noticed_by_readers_alone() {
    let pair = Pair::start();
    let url = pair.url();
    let mut server = TestServer::with(&settings(&url));
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 20);
    await_health(&server);
    pair.primary.await_standby(&pair.standby);
    pair.between.silence();
    account.save(&ada, 20);
    account.await_all(&ada);
    pair.primary.crash();
    pair.standby.promote();
    // No older state is returned, whoever asks first.
    eventually("it is noticed", || {
        let answer = ada.try_call("record:query", json!({"record_type": "thing"}));
        match answer {
            Ok(answer) if answer.status == 200 => {
                account.check(&answer.result());
                None
            }
            _ => (server.output().matches("skytrail: ready on").count() == 2).then_some(()),
        }
    });
    server.await_start(2);
    account.await_all(&ada.at(&server));
    compare(server, &url);
}
