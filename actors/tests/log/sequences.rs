//! Numbers of sequence fields: no two records have the same number, whoever assigns it, and a
//! refused decision takes none.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use skytrail_actors::log::{
    AppendError, ConflictKey, Decision, EmbeddedLog, EventLog, SequenceRequest,
};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::event::{Commit, EventBody};
use skytrail_schema::id::TypeName;

use super::world::{close, decision, is_conflict, open, read_all};

/// One decision's new records: each has the number that it asks for, or is to get one.
type Batch = Vec<Option<i64>>;

fn number_key(number: i64) -> ConflictKey {
    ConflictKey::unique(&TypeName::new("t"), &["n", &number.to_string()])
}

/// A decision that creates a record for each member of a batch, and rests on the numbers being
/// free.
fn create(first_key: u64, batch: &[Option<i64>], read_position: u64) -> Decision {
    let keys: Vec<_> = batch.iter().flatten().copied().map(number_key).collect();
    let mut all = decision(0, 0, read_position, &keys, &keys);
    all.commit.events.clear();
    for (event, explicit) in batch.iter().enumerate() {
        let mut created = decision(first_key + event as u64, 0, 0, &[], &[]);
        let mut new = created.commit.events.remove(0);
        if let (EventBody::RecordCreated(state), Some(number)) = (&mut new.body, explicit) {
            state.fields.insert("n".to_owned(), json!(number));
        }
        all.commit.events.push(new);
        all.sequences.push(SequenceRequest {
            event,
            field: "n".to_owned(),
            explicit: *explicit,
        });
    }
    all
}

/// Returns the numbers that a commit assigns, by key.
fn numbers(commit: &Commit) -> Vec<(String, i64)> {
    let number = |event: &skytrail_schema::event::Event| match &event.body {
        EventBody::RecordCreated(state) => {
            let number = state.fields.get("n").and_then(Json::as_i64);
            Some((event.stream.to_string(), number?))
        }
        _ => None,
    };
    commit.events.iter().filter_map(number).collect()
}

/// Returns the head, and the numbers that are taken at it.
async fn taken(log: &EmbeddedLog) -> (u64, HashSet<i64>) {
    let commits = read_all(log).await;
    let numbers = commits.iter().flat_map(|commit| numbers(commit));
    let head = commits.last().map_or(0, |commit| commit.last_position());
    (head, numbers.map(|(_, number)| number).collect())
}

/// Leaves out those that ask for a number that another record has.
fn allowed(batch: &Batch, taken: &HashSet<i64>) -> Batch {
    let mut seen = taken.clone();
    let is_free = |number: &Option<i64>| number.is_none_or(|number| seen.insert(number));
    batch.iter().copied().filter(is_free).collect()
}

async fn run(rounds: Vec<Vec<Batch>>) {
    let log = open(&(Arc::new(MemoryDisk::default()) as _)).unwrap();
    let mut next_key = 0;
    let mut expected = BTreeMap::new();
    for round in rounds {
        // All decisions of a round know the same.
        let (head, known) = taken(&log).await;
        let mut waiting: Vec<Batch> = round.iter().map(|it| allowed(it, &known)).collect();
        let mut knowing = (head, known);
        loop {
            waiting.retain(|batch| !batch.is_empty());
            let decisions = waiting.iter().map(|batch| {
                let key = next_key;
                next_key += batch.len() as u64;
                for (offset, number) in batch.iter().enumerate() {
                    expected.insert(format!("record/t/{}", key + offset as u64), *number);
                }
                (key, create(key, batch, knowing.0))
            });
            let (keys, decisions): (Vec<u64>, Vec<_>) = decisions.unzip();
            let appended = decisions.into_iter().map(|decision| log.append(decision));
            let appended = futures_util::future::join_all(appended).await;
            let mut refused = Vec::new();
            for ((batch, result), key) in waiting.iter().zip(&appended).zip(keys) {
                if is_conflict(result) {
                    refused.push(batch.clone());
                    for offset in 0..batch.len() as u64 {
                        expected.remove(&format!("record/t/{}", key + offset));
                    }
                } else {
                    result.as_ref().unwrap();
                }
            }
            if refused.is_empty() {
                break;
            }
            knowing = taken(&log).await;
            waiting = refused
                .iter()
                .map(|batch| allowed(batch, &knowing.1))
                .collect();
        }
    }
    let mut owners: BTreeMap<i64, String> = BTreeMap::new();
    let mut found = 0;
    for (id, number) in read_all(&log).await.iter().flat_map(|it| numbers(it)) {
        found += 1;
        let other = owners.insert(number, id.clone());
        assert_eq!(other, None, "{number} is {id}'s, too");
        let assigned = expected[&id];
        assert!(assigned.is_none_or(|assigned| assigned == number), "{id}");
    }
    assert_eq!(found, expected.len());
    close(&log);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_records_have_the_same_number(
        rounds in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(prop::option::of(1_i64..24), 1..5), 1..5),
            1..6,
        ),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(rounds));
    }
}

#[tokio::test]
async fn automatic_numbers_pass_over_what_the_same_decision_asks_for() {
    let log = open(&(Arc::new(MemoryDisk::default()) as _)).unwrap();
    let batch = [None, None, Some(2), None, Some(4)];
    let commit = log.append(create(0, &batch, 0)).await.unwrap();
    let given: Vec<_> = numbers(&commit).into_iter().map(|(_, n)| n).collect();
    assert_eq!(given, [1, 3, 2, 5, 4]);
    close(&log);
}

const LAST: i64 = (1 << 53) - 1;

#[tokio::test]
async fn behind_the_last_number_there_is_none() {
    let log = open(&(Arc::new(MemoryDisk::default()) as _)).unwrap();
    let last = create(0, &[Some(LAST - 1), None], 0);
    let commit = log.append(last).await.unwrap();
    assert_eq!(numbers(&commit)[1].1, LAST);
    let refused = log.append(create(10, &[None], 0)).await;
    let used_up = AppendError::UsedUp {
        field: "n".to_owned(),
        max: LAST,
    };
    assert_eq!(refused, Err(used_up));
    close(&log);
}

#[tokio::test]
async fn a_refused_decision_takes_no_number() {
    let log = open(&(Arc::new(MemoryDisk::default()) as _)).unwrap();
    let appended = [
        create(0, &[None], 0),
        create(10, &[None, Some(LAST), None], 0),
        create(20, &[None], 0),
    ];
    let appended = appended.map(|decision| log.append(decision));
    let [before, refused, after] = appended;
    let (before, refused, after) = futures_util::future::join3(before, refused, after).await;
    assert!(matches!(refused, Err(AppendError::UsedUp { .. })));
    let given = [before, after].map(|commit| commit.map(|commit| numbers(&commit)[0].1));
    assert_eq!(given, [Ok(1), Ok(2)]);
    close(&log);
}
