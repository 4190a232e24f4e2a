//! The database crashes and comes back, repeatedly.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::postgres::{Database, Postgres};
use crate::support::server::TestServer;

/// How often it crashes.
const CYCLES: u32 = 50;
/// How many records there are.
const RECORDS: u32 = 20;

/// What was tried, and what was acknowledged: the number in each record only grows.
#[derive(Default)]
struct Account {
    next: u64,
    acknowledged: BTreeMap<String, u64>,
    num_refused: u32,
    num_saved_in_the_dark: u32,
}

impl Account {
    /// Saves a record; only success and "try again" are allowed.
    fn save(&mut self, ada: &Client, is_dark: bool) {
        self.next += 1;
        let id = format!("thing/{}", self.next % u64::from(RECORDS));
        let record = json!({"_id": id, "n": self.next});
        let answer = ada.call("record:save", json!({"records": [record]}));
        let error = match answer.status {
            200 => answer.json()["result"][0]["code"].as_i64(),
            _ => Some(answer.code()),
        };
        match error {
            None => {
                self.acknowledged.insert(id, self.next);
                self.num_saved_in_the_dark += u32::from(is_dark);
            }
            Some(10002) => self.num_refused += 1,
            other => panic!("{other:?} {}: {}", answer.status, answer.json()),
        }
    }

    /// Compares what PostgreSQL holds with what was acknowledged. A refused save may have been
    /// stored all the same.
    fn check(&self, database: &Database<'_>) -> Result<(), String> {
        let rows = database.sql("SELECT 'thing/' || _id, n::bigint FROM app_myapp.thing");
        let rows: BTreeMap<&str, u64> = rows
            .lines()
            .map(|row| row.split_once('|').unwrap())
            .map(|(id, n)| (id, n.parse().unwrap()))
            .collect();
        for (id, n) in &self.acknowledged {
            match rows.get(id.as_str()) {
                Some(found) if found >= n => {}
                found => return Err(format!("{id}: {n} was acknowledged, {found:?} is there")),
            }
        }
        Ok(())
    }
}

fn applied(server: &TestServer) -> Option<()> {
    let health = Client::master(server).health();
    let number = |path: &str| health.pointer(path).and_then(Json::as_u64);
    let (position, head) = (number("/projector/position")?, number("/log/head")?);
    (position >= head).then_some(())
}

#[test]
fn nothing_is_lost_when_the_database_crashes_fifty_times() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let settings = [("DATABASE_URL", &*database.url()), ("DATABASE_WAIT", "1")];
    let server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    let mut account = Account::default();
    for _ in 0..RECORDS {
        account.save(&ada, false);
    }
    for _ in 0..CYCLES {
        account.save(&ada, false);
        postgres.crash();
        for _ in 0..3 {
            account.save(&ada, true);
        }
        postgres.start_again();
    }
    let query = json!({"record_type": "thing", "count": true});
    eventually("queries are answered again", || {
        let answer = ada.call("record:query", query.clone());
        (answer.status == 200).then_some(())
    });
    account.save(&ada, false);
    eventually("the store has caught up", || applied(&server));
    account.check(&database).unwrap();
    let faults = database.sql("SELECT count(*) FROM app_myapp._faults");
    assert_eq!(faults, "0\n");
    let history = "SELECT count(*) = max(position) FROM app_myapp._history";
    assert_eq!(database.sql(history), "t\n");
    assert!(account.num_saved_in_the_dark > 0, "no write went on");
}

#[test]
fn reads_say_that_the_database_is_away() {
    let postgres = Postgres::start();
    let database = postgres.database(&[]);
    let settings = [("DATABASE_URL", &*database.url()), ("DATABASE_WAIT", "1")];
    let server = TestServer::with(&settings);
    let ada = Client::signed_up(&server, "ada");
    ada.save("thing/1", json!({"n": 1}));
    assert_eq!(ada.query("thing", json!(null)).len(), 1);
    postgres.crash();
    let answer = ada.call("record:query", json!({"record_type": "thing"}));
    assert_eq!(
        (answer.status, answer.code()),
        (503, 10002),
        "{}",
        answer.json()
    );
    postgres.start_again();
    eventually("queries are answered again", || {
        let answer = ada.call("record:query", json!({"record_type": "thing"}));
        (answer.status == 200).then_some(())
    });
}
