//! Serializability: random concurrent histories, checked against what each decision believed.
//!
//! Every decision notes what it read. The log's order is the order of the commits. So a history is
//! serializable if each decision, replayed in that order, would have read the same.

use std::collections::HashMap;
use std::sync::Arc;

use rand::RngExt;
use serde_json::{Value as Json, json};
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::{ConflictKey, Decision, EmbeddedLog, EventLog};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, EventBody, NewCommit, NewEvent, RecordState, Stream,
};
use skytrail_schema::id::{RecordId, TypeName};
use uuid::Uuid;

use super::world::{SOME_BYTES, close, is_conflict, open_with_recent, read_all};

/// A store of numbers, as a fold of the log: what decisions read.
#[derive(Clone, Debug, Default, PartialEq)]
struct Registers {
    numbers: HashMap<String, i64>,
    names: HashMap<String, String>,
}

impl Registers {
    fn apply(&mut self, commit: &Commit) {
        for event in &commit.events {
            let Stream::Record(id) = &event.stream else {
                continue;
            };
            let EventBody::RecordCreated(state) = &event.body else {
                continue;
            };
            let key = id.key.to_string();
            if let Some(number) = state.fields.get("number").and_then(Json::as_i64) {
                self.numbers.insert(key.clone(), number);
            }
            if let Some(name) = state.fields.get("name").and_then(Json::as_str) {
                self.names.insert(name.to_owned(), key);
            }
        }
    }
}

fn register(key: &str) -> ConflictKey {
    ConflictKey::record(&RecordId::new("t", key))
}

fn name_key(name: &str) -> ConflictKey {
    ConflictKey::unique(&TypeName::new("t"), &["name", name])
}

fn event(key: &str, fields: Json) -> NewEvent {
    let fields = fields.as_object().unwrap().clone().into_iter().collect();
    let state = RecordState {
        database: None,
        owner: None,
        access: None,
        created: None,
        updated: ChangeStamp::default(),
        fields,
    };
    NewEvent {
        stream: Stream::Record(RecordId::new("t", key)),
        version: 1,
        body: EventBody::RecordCreated(state),
        provenance: Vec::new(),
        subject: None,
    }
}

fn commit_of(events: Vec<NewEvent>, read_position: u64, keys: Vec<ConflictKey>) -> Decision {
    Decision {
        commit: NewCommit {
            id: Uuid::now_v7(),
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events,
        },
        read_position,
        reads: keys.clone(),
        writes: keys,
        sequences: Vec::new(),
    }
}

async fn state_at_head(log: &EmbeddedLog) -> (u64, Registers) {
    let mut registers = Registers::default();
    let mut position = 0;
    for commit in read_all(log).await {
        registers.apply(&commit);
        position = commit.last_position();
    }
    (position, registers)
}

/// Moves money between two accounts, as often as it takes.
async fn transfer(log: Arc<EmbeddedLog>, from: String, to: String, amount: i64) {
    loop {
        let (position, state) = state_at_head(&log).await;
        let (a, b) = (state.numbers[&from], state.numbers[&to]);
        let events = vec![
            event(&from, json!({"number": a - amount})),
            event(&to, json!({"number": b + amount})),
        ];
        let keys = vec![register(&from), register(&to)];
        let appended = log.append(commit_of(events, position, keys)).await;
        if !is_conflict(&appended) {
            appended.unwrap();
            return;
        }
    }
}

/// Takes a name if it is free; returns whether it was.
async fn claim(log: Arc<EmbeddedLog>, key: String, name: String) -> bool {
    loop {
        let (position, state) = state_at_head(&log).await;
        if state.names.contains_key(&name) {
            return false;
        }
        let events = vec![event(&key, json!({"name": name}))];
        let appended = log
            .append(commit_of(events, position, vec![name_key(&name)]))
            .await;
        if !is_conflict(&appended) {
            appended.unwrap();
            return true;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sums_are_conserved_and_names_have_one_owner() {
    for _ in 0..3 {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let log = Arc::new(open_with_recent(&disk, SOME_BYTES).unwrap());
        let accounts: Vec<String> = (0..4).map(|number| format!("account {number}")).collect();
        let start = accounts
            .iter()
            .map(|key| event(key, json!({"number": 100})))
            .collect();
        log.append(commit_of(start, 0, Vec::new())).await.unwrap();
        let mut tasks = Vec::new();
        for number in 0..60 {
            let (from, to) = {
                let mut random = rand::rng();
                let from = random.random_range(0..accounts.len());
                (
                    from,
                    (from + random.random_range(1..accounts.len())) % accounts.len(),
                )
            };
            let (from, to) = (accounts[from].clone(), accounts[to].clone());
            tasks.push(tokio::spawn(transfer(
                Arc::clone(&log),
                from,
                to,
                number % 7,
            )));
        }
        let claims = (0..40).map(|number| {
            let name = format!("name {}", number % 5);
            tokio::spawn(claim(Arc::clone(&log), format!("claimer {number}"), name))
        });
        let claims: Vec<_> = claims.collect();
        for task in tasks {
            task.await.unwrap();
        }
        let mut winners = 0;
        for claim in claims {
            winners += usize::from(claim.await.unwrap());
        }
        assert_eq!(winners, 5, "each name was taken once");
        // At every point of the log, not only at its end.
        let mut state = Registers::default();
        for commit in read_all(&log).await {
            state.apply(&commit);
            assert_eq!(state.numbers.values().sum::<i64>(), 400);
        }
        close(&log);
    }
}

/// A reference from one record to another races with the other's deletion: one of them loses.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reference_never_outlives_its_target() {
    let target = RecordId::new("t", "target");
    for _ in 0..50 {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let log = Arc::new(open_with_recent(&disk, SOME_BYTES).unwrap());
        let create = commit_of(vec![event("target", json!({}))], 0, Vec::new());
        let position = log.append(create).await.unwrap().last_position();
        let mut refer = commit_of(vec![event("referrer", json!({}))], position, Vec::new());
        refer.reads = vec![ConflictKey::existence(&target)];
        refer.writes = vec![ConflictKey::references(&target)];
        let mut delete = commit_of(
            vec![event("target", json!({"gone": true}))],
            position,
            Vec::new(),
        );
        delete.reads = vec![ConflictKey::references(&target)];
        delete.writes = vec![ConflictKey::existence(&target)];
        let (refer_log, delete_log) = (Arc::clone(&log), Arc::clone(&log));
        let refer = tokio::spawn(async move { refer_log.append(refer).await });
        let delete = tokio::spawn(async move { delete_log.append(delete).await });
        let (referred, deleted) = (refer.await.unwrap(), delete.await.unwrap());
        assert!(
            referred.is_ok() != deleted.is_ok(),
            "exactly one of them wins"
        );
        assert!(is_conflict(&referred) != is_conflict(&deleted));
        close(&log);
    }
}

/// The check itself must be able to fail: two decisions that do not say what they read are both
/// accepted, and the sum is lost.
#[tokio::test]
async fn decisions_that_hide_their_reads_lose_the_sum() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let log = open_with_recent(&disk, SOME_BYTES).unwrap();
    let start = ["a", "b", "c"].map(|key| event(key, json!({"number": 100})));
    log.append(commit_of(start.to_vec(), 0, Vec::new()))
        .await
        .unwrap();
    let (position, state) = state_at_head(&log).await;
    for to in ["b", "c"] {
        let events = vec![
            event("a", json!({"number": state.numbers["a"] - 10})),
            event(to, json!({"number": state.numbers[to] + 10})),
        ];
        let hidden = commit_of(events, position, Vec::new());
        log.append(hidden).await.unwrap();
    }
    let (_, state) = state_at_head(&log).await;
    assert_ne!(state.numbers.values().sum::<i64>(), 300);
    close(&log);
}
