//! A load of creates, updates, deletions and batches that records what was acknowledged, and a
//! checker that compares a server with that record.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value as Json, json};

use super::client::Client;

const WRITERS: u64 = 4;
const TYPES: [&str; 3] = ["single", "left", "right"];

/// What is known of one record: the last acknowledged number (`None` after a deletion), and the
/// number of a write that is in flight or got no answer.
#[derive(Clone, Debug, Default)]
struct Known {
    acknowledged: Option<i64>,
    in_doubt: Option<Option<i64>>,
}

/// The load and its journal. Both live outside the server, so they survive what it does not.
#[derive(Default)]
pub struct Load {
    known: Mutex<BTreeMap<String, Known>>,
    counter: AtomicU64,
}

impl Load {
    /// Creates the record types.
    pub fn prepare(client: &Client) {
        for record_type in TYPES {
            let id = format!("{record_type}/seed");
            client.save(&id, json!({"number": 0}));
            let answer = client.call("record:delete", json!({"ids": [id]}));
            assert_eq!(answer.status, 200);
        }
    }

    /// Runs the load until `writes` further writes have begun, then calls `end`, which must end the
    /// server: the writers stop when they get no answer.
    pub fn run(&self, client: &Client, writes: u64, end: impl FnOnce()) {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Set on a failure below as well, so that no writer runs for ever.
            let _ending = super::SetOnDrop(&is_over);
            for writer in 0..WRITERS {
                let is_over = &is_over;
                scope.spawn(move || self.write(client, writer, is_over));
            }
            let goal = self.counter.load(Ordering::SeqCst) + writes;
            super::eventually("the load goes on", || {
                (self.counter.load(Ordering::SeqCst) >= goal).then_some(())
            });
            end();
        });
    }

    /// Writes until the server is gone or refuses.
    fn write(&self, client: &Client, writer: u64, is_over: &AtomicBool) {
        while !is_over.load(Ordering::SeqCst) {
            let number = self.counter.fetch_add(1, Ordering::SeqCst);
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
                self.begin(id, (!is_deletion).then_some(value));
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
                    ids.iter().for_each(|id| self.acknowledge(id));
                }
                _ => return,
            }
        }
    }

    fn begin(&self, id: &str, number: Option<i64>) {
        let mut known = self.known.lock().unwrap();
        known.entry(id.to_owned()).or_default().in_doubt = Some(number);
    }

    fn acknowledge(&self, id: &str) {
        let mut known = self.known.lock().unwrap();
        let known = known.get_mut(id).unwrap();
        known.acknowledged = known.in_doubt.take().unwrap();
    }

    /// Returns how many records were acknowledged and not deleted.
    pub fn num_acknowledged(&self) -> usize {
        let known = self.known.lock().unwrap();
        let there = known.values().filter(|known| known.acknowledged.is_some());
        there.count()
    }

    /// Compares the server with the journal, and settles the writes that were in doubt.
    pub fn check(&self, client: &Client, when: &str) {
        let wrong = self.compare(client);
        assert!(wrong.is_empty(), "{when}: {wrong:#?}");
    }

    /// Like [`Load::check`], but returns the differences.
    pub fn compare(&self, client: &Client) -> Vec<String> {
        let mut found: BTreeMap<String, i64> = BTreeMap::new();
        for record_type in TYPES {
            for record in client.query(record_type, json!(null)) {
                let id = record["_id"].as_str().unwrap().to_owned();
                found.insert(id, record["number"].as_i64().unwrap());
            }
        }
        let mut wrong = Vec::new();
        let mut known = self.known.lock().unwrap();
        for (id, known) in known.iter_mut() {
            let number = found.get(id).copied();
            if number != known.acknowledged && known.in_doubt != Some(number) {
                wrong.push(format!("{id} is {number:?}, known was {known:?}"));
            }
            *known = Known {
                acknowledged: number,
                in_doubt: None,
            };
        }
        let unknown = found.keys().filter(|id| !known.contains_key(*id));
        wrong.extend(unknown.map(|id| format!("{id}: nobody wrote this")));
        for (id, number) in found.iter().filter(|(id, _)| id.starts_with("left/")) {
            if found.get(&id.replace("left/", "right/")) != Some(number) {
                wrong.push(format!("half a batch at {id}"));
            }
        }
        wrong
    }
}
