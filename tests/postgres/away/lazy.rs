//! Applying events does not wait for the database's disk, so a crash takes back what readers have
//! seen.

use super::{Account, compare, figure, settings};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::run;
use crate::support::postgres::Postgres;
use crate::support::server::TestServer;

#[test]
fn what_a_crash_takes_back_is_applied_again() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let url = database.url();
    let lazy = ("DATABASE_SYNCHRONOUS_COMMIT", "off");
    let mut server = TestServer::with(&[&settings(&url)[..], &[lazy]].concat());
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 20);
    account.await_all(&ada);
    database.sql("UPDATE app_myapp.thing SET n = n WHERE _id = '1'");

    // From here on only transactions that wait for the disk are written to it.
    let writer = "SELECT pid FROM pg_stat_activity WHERE backend_type='walwriter'";
    let writer = postgres.sql(writer);
    run("kill", &["-STOP", writer.trim()]).unwrap();
    account.save(&ada, 40);
    account.await_all(&ada);
    let head = figure(&Client::master(&server).health(), "/log/head");
    let position = "SELECT position FROM app_myapp._checkpoint";
    assert_eq!(database.sql(position).trim(), head.to_string());
    postgres.crash();
    postgres.start_again();
    let left: u64 = database.sql(position).trim().parse().unwrap();
    assert!(left < head, "{left}: the crash took nothing back");
    // No older state is returned, whoever asks first.
    eventually("it is noticed", || {
        let answer = ada.try_call("record:query", serde_json::json!({"record_type": "thing"}));
        match answer {
            Ok(answer) if answer.status == 200 => {
                account.check(&answer.result());
                None
            }
            _ => (server.output().matches("skytrail: ready on").count() == 2).then_some(()),
        }
    });
    server.await_start(2);
    let ada = ada.at(&server);
    account.await_all(&ada);
    account.save(&ada, 20);
    account.await_all(&ada);
    compare(server, &url);
}
