//! The database fails in the ways in which databases do. Writes continue as long as the log can
//! take them, reads say what they cannot do, and finally everything is there.

mod bounded;
mod crowded;
mod failover;
mod full;
mod hooked;
mod lazy;
mod live;
mod silent;
mod slow;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::postgres::shared;
use crate::support::server::TestServer;

/// The error code when the database is unavailable.
const AWAY: i64 = 10_002;
/// How long a request may take, with these tests' settings, that waits for the store to catch up
/// and then for the database.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The database settings of these tests' servers.
fn settings(url: &str) -> [(&str, &str); 3] {
    [
        ("DATABASE_URL", url),
        ("DATABASE_WAIT", "2"),
        ("DATABASE_STATEMENT_TIMEOUT", "2"),
    ]
}

/// Starts a server on the database, with a user and their first records.
fn begin(url: &str) -> (TestServer, Client, Account) {
    let server = TestServer::with(&settings(url));
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    account.save(&ada, 20);
    (server, ada, account)
}

/// What was acknowledged: the number in each record only grows.
#[derive(Default)]
struct Account {
    next: u64,
    acknowledged: BTreeMap<String, u64>,
}

impl Account {
    /// Saves some records one after the other; each must be acknowledged.
    fn save(&mut self, client: &Client, count: u64) {
        for _ in 0..count {
            self.try_save(client)
                .unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Saves the next record; fails with the error if it is refused.
    fn try_save(&mut self, client: &Client) -> Result<(), Json> {
        self.next += 1;
        let key = (self.next % 20).to_string();
        let record = json!({"_id": format!("thing/{key}"), "n": self.next});
        let answer = client.call("record:save", json!({"records": [record]}));
        let answer = answer.json();
        let result = &answer["result"][0];
        if result["_type"] == "record" {
            self.acknowledged.insert(key, self.next);
            return Ok(());
        }
        let refused = if result.is_null() {
            &answer["error"]
        } else {
            result
        };
        Err(refused.clone())
    }

    /// Waits until queries are answered with everything acknowledged. A refused save may have been
    /// stored all the same.
    fn await_all(&self, client: &Client) {
        eventually("everything is there", || {
            let body = json!({"record_type": "thing", "limit": 1000});
            let answer = client.call("record:query", body);
            (answer.status == 200).then(|| self.check(&answer.result()))
        });
    }

    fn check(&self, found: &Json) {
        let found: BTreeMap<&str, u64> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|thing| {
                let id = thing["_id"].as_str().unwrap();
                let key = id.strip_prefix("thing/").unwrap();
                (key, thing["n"].as_u64().unwrap())
            })
            .collect();
        for (key, n) in &self.acknowledged {
            let there = found.get(key.as_str());
            assert!(
                there.is_some_and(|there| there >= n),
                "{key}: {n} {found:?}"
            );
        }
    }
}

/// Queries all records, and checks that the answer arrives in time.
fn query(client: &Client) -> Answer {
    let begun = Instant::now();
    let answer = client.call("record:query", json!({"record_type": "thing"}));
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    answer
}

/// Queries, which must fail; returns why.
fn refused(client: &Client) -> String {
    let answer = query(client);
    assert_eq!((answer.status, answer.code()), (503, AWAY), "{answer:?}");
    assert!(answer.header("Retry-After").is_some(), "{answer:?}");
    let error = answer.json()["error"]["message"].clone();
    error.as_str().unwrap().to_owned()
}

fn figure(health: &Json, path: &str) -> u64 {
    let found = health.pointer(path).and_then(Json::as_u64);
    found.unwrap_or_else(|| panic!("no {path}: {health}"))
}

/// Returns how many events the store has not applied yet.
fn lag(server: &TestServer) -> u64 {
    let health = Client::master(server).health();
    figure(&health, "/log/head") - figure(&health, "/projector/position")
}

/// Waits until health reports that the store takes no events; returns why.
fn await_trouble(server: &TestServer) -> String {
    eventually("health says that the store takes no events", || {
        let health = Client::master(server).health();
        if health["status"] != "degraded" || health["projector"]["is_failing"] != true {
            return None;
        }
        health["projector"]["reason"].as_str().map(str::to_owned)
    })
}

fn await_health(server: &TestServer) {
    eventually("all is well", || {
        let health = Client::master(server).health();
        (health["status"] == "OK" && lag(server) == 0).then_some(())
    });
}

/// Stops the server, and compares its store with one built from the log.
fn compare(mut server: TestServer, url: &str) {
    await_health(&server);
    assert!(server.terminate().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().args(["rebuild", "--verify"]);
    command
        .env("DATA_DIR", server.data_dir())
        .env("APP_NAME", "myapp")
        .env("DATABASE_URL", url);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// For example while an operator restores it from a dump.
#[test]
fn a_database_that_is_not_there_is_waited_for() {
    let database = shared().database(&[]);
    let (_server, ada, mut account) = begin(&database.url());
    let name = database.name();
    let elsewhere = |sql: &str| drop(shared().sql(sql));
    elsewhere(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
    elsewhere(&format!(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'"
    ));
    elsewhere(&format!("ALTER DATABASE {name} RENAME TO {name}_away"));
    let body = json!({"record_type": "thing"});
    eventually("it is known to be gone", || {
        let answer = ada.call("record:query", body.clone());
        if answer.status == 200 {
            return None;
        }
        assert_eq!(answer.code(), AWAY, "{}", answer.json());
        let said = answer.json().to_string();
        said.contains("cannot be reached").then_some(())
    });
    account.save(&ada, 20);
    elsewhere(&format!("ALTER DATABASE {name}_away RENAME TO {name}"));
    elsewhere(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    account.await_all(&ada);
}
