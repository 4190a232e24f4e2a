//! `kill -9` under load, again and again: what was acknowledged is there, whole, every time.
//!
//! `SKYTRAIL_CRASH_CYCLES` sets the number of kills; 50 by default.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::server::TestServer;

const WRITERS: u64 = 4;

/// What is known of one record: the last acknowledged number, `None` when its deletion was, and
/// the number of a write that is under way or got no answer.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: Option<i64>,
    in_doubt: Option<Option<i64>>,
}

/// The checker's journal: outside of the server, so that it survives what the server does not.
#[derive(Default)]
struct Journal(Mutex<BTreeMap<String, Known>>);

impl Journal {
    fn begin(&self, id: &str, number: Option<i64>) {
        self.0
            .lock()
            .unwrap()
            .entry(id.to_owned())
            .or_default()
            .in_doubt = Some(number);
    }

    fn acknowledge(&self, id: &str) {
        let mut known = self.0.lock().unwrap();
        let known = known.get_mut(id).unwrap();
        known.acknowledged = known.in_doubt.take().unwrap();
    }
}

/// Writes until the server is gone: creates, updates, deletes, and batches of two that agree.
fn write(client: &Client, writer: u64, journal: &Journal, counter: &AtomicU64) {
    loop {
        let number = counter.fetch_add(1, Ordering::SeqCst);
        let value = i64::try_from(number).unwrap();
        let slot = number % 7;
        let ids = match number % 5 {
            0 => vec![
                format!("left/{writer}-{slot}"),
                format!("right/{writer}-{slot}"),
            ],
            _ => vec![format!("single/{writer}-{slot}")],
        };
        let is_deletion = number % 11 == 3 && ids.len() == 1;
        for id in &ids {
            journal.begin(id, (!is_deletion).then_some(value));
        }
        let answer = if is_deletion {
            client.try_call("record:delete", json!({"ids": ids}))
        } else {
            let records: Vec<Json> = ids
                .iter()
                .map(|id| json!({"_id": id, "number": value}))
                .collect();
            client.try_call("record:save", json!({"records": records, "atomic": true}))
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                ids.iter().for_each(|id| journal.acknowledge(id));
            }
            _ => return,
        }
    }
}

/// Holds what the server has against the journal, and settles what was in doubt.
fn check(client: &Client, journal: &Journal, cycle: u64) {
    let mut found: BTreeMap<String, i64> = BTreeMap::new();
    for record_type in ["single", "left", "right"] {
        for record in client.query(record_type, json!(null)) {
            let id = record["_id"].as_str().unwrap().to_owned();
            found.insert(id, record["number"].as_i64().unwrap());
        }
    }
    let mut known = journal.0.lock().unwrap();
    for (id, known) in known.iter_mut() {
        let number = found.get(id).copied();
        let is_right = number == known.acknowledged || known.in_doubt == Some(number);
        assert!(
            is_right,
            "cycle {cycle}: {id} is {number:?}, known was {known:?}"
        );
        *known = Known {
            acknowledged: number,
            in_doubt: None,
        };
    }
    for (id, number) in found.iter().filter(|(id, _)| id.starts_with("left/")) {
        let twin = found.get(&id.replace("left/", "right/"));
        assert_eq!(twin, Some(number), "cycle {cycle}: half a batch at {id}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long to run is the caller's choice"
)]
fn cycles() -> u64 {
    std::env::var("SKYTRAIL_CRASH_CYCLES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(50)
}

#[test]
fn killed_again_and_again_it_keeps_what_it_acknowledged() {
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "writer");
    let (journal, counter) = (Journal::default(), AtomicU64::new(0));
    for cycle in 0..cycles() {
        let client = client.at(&server);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (client, journal, counter) = (&client, &journal, &counter);
                scope.spawn(move || write(client, writer, journal, counter));
            }
            let before = counter.load(Ordering::SeqCst);
            let goal = before + 20 + (cycle * 37) % 180;
            crate::support::eventually("the load goes on", || {
                (counter.load(Ordering::SeqCst) >= goal).then_some(())
            });
            server.kill();
        });
        if cycle % 4 == 0 {
            // A quarter of the kills hit the start and the recovery.
            server.start_and_kill_after(Duration::from_millis(cycle % 40));
        }
        server.restart();
        check(&client.at(&server), &journal, cycle);
    }
    assert!(server.terminate().success());
}
