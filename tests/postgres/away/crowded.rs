//! Other programs use up all connections of the database.

use super::{Account, await_trouble, compare, refused, settings};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Postgres, Session, shared};
use crate::support::server::TestServer;

/// Takes all remaining connections, as a plugin with too large a pool does.
fn take_all(postgres: &Postgres, database: &str) -> Vec<Session> {
    let mut sessions = Vec::new();
    while let Ok(session) = postgres.try_session(("chat", database), "SELECT 1") {
        sessions.push(session);
    }
    sessions
}

#[test]
fn a_database_with_fewer_connections_than_the_server_takes_is_warned_of() {
    let database = shared().database(&[]);
    let start = |connections: &str| {
        let settings = [
            ("DATABASE_URL", database.url()),
            ("DATABASE_CONNECTIONS", connections.to_owned()),
        ];
        let settings = settings
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        let server = TestServer::with(&settings);
        let output = server.output();
        let line = output.lines().find(|line| line.contains("max_connections"));
        line.map(str::to_owned)
    };
    assert_eq!(start("16"), None);
    let line = start("400").unwrap_or_default();
    assert!(
        line.contains("WARN") && line.contains("DATABASE_CONNECTIONS"),
        "{line}"
    );
}

#[test]
fn a_plugin_that_takes_all_connections_is_named_as_the_reason() {
    let postgres = Postgres::start_with("-c max_connections=12");
    let database = postgres.database(&[]);
    database.sql("CREATE ROLE skytrail LOGIN; CREATE ROLE chat LOGIN");
    database.sql("GRANT CREATE ON DATABASE test_0 TO skytrail; CREATE EXTENSION citext");
    let url = database.url().replace("postgres@", "skytrail@");
    let server =
        TestServer::with(&[&settings(&url)[..], &[("DATABASE_CONNECTIONS", "4")]].concat());
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 20);
    account.await_all(&ada);

    // The server's connections are lost, and others are faster.
    let mut taken = take_all(&postgres, database.name());
    let lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='skytrail'";
    eventually("others have all connections", || {
        postgres.sql(lost);
        taken.extend(take_all(&postgres, database.name()));
        let left = "SELECT count(*) FROM pg_stat_activity WHERE usename='skytrail'";
        (postgres.sql(left) == "0\n").then_some(())
    });
    account.save(&ada, 20);
    // The first reason may be the broken connection.
    eventually("health names the reason", || {
        let reason = await_trouble(&server);
        reason.contains("remaining connection slots").then_some(())
    });
    let why = refused(&ada);
    assert!(why.contains("no free connection"), "{why}");
    account.save(&ada, 20);

    drop(taken);
    account.await_all(&ada);
    compare(server, &url);
}
