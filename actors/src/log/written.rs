//! Commits, and a log that holds them, for tests of readers.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use skytrail_schema::chain::GENESIS;
use skytrail_schema::codec::{self, Seal, Sealing};
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, Event, EventBody, NewCommit, NewEvent, RecordState, Stream,
};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::journal::RawCommit;
use super::{AppendError, Decision, EventLog, ReadError, random_salt};

/// A log that is read three commits at a time.
pub(crate) struct Written(pub(crate) Vec<Arc<Commit>>);

#[async_trait]
impl EventLog for Written {
    async fn append(&self, _: Decision) -> Result<Arc<Commit>, AppendError> {
        Err(AppendError::Closed)
    }

    fn head(&self) -> u64 {
        self.0.last().map_or(0, |commit| commit.last_position())
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        watch::channel(self.head()).1
    }

    async fn read(&self, from: u64, _: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        let page = self
            .0
            .iter()
            .filter(|commit| commit.last_position() >= from);
        Ok(page.take(3).cloned().collect())
    }
}

/// Builds a commit at `first` with `num_events` events, each of a record `t/<position>`; its time
/// is `first` in microseconds.
pub(crate) fn commit(first: u64, num_events: u64) -> Arc<Commit> {
    let event = |position: u64| Event {
        position,
        stream: Stream::Record(RecordId::new("t", position.to_string())),
        version: 1,
        body: EventBody::RecordDeleted(ChangeStamp::default()),
        provenance: Vec::new(),
        payload_hash: [0; 32],
    };
    Arc::new(Commit {
        id: Uuid::from_u128(first.into()),
        time: Timestamp::from_micros(i64::try_from(first).unwrap()),
        epoch: 1,
        actor: Actor::default(),
        request_id: None,
        causation: None,
        sql: None,
        events: (first..first + num_events).map(event).collect(),
        chain: [0; 32],
    })
}

/// Like [`commit`], but one event with a string of this size.
pub(crate) fn with_text(first: u64, size: usize) -> Arc<Commit> {
    let mut made = Arc::unwrap_or_clone(commit(first, 1));
    let text = new_commit(first, &[size]).events.remove(0);
    made.events[0].body = text.body;
    Arc::new(made)
}

/// Builds a new commit: events of records `t/<first>` and so on, with strings of these sizes.
fn new_commit(first: u64, sizes: &[usize]) -> NewCommit {
    let event = |(size, at): (&usize, u64)| NewEvent {
        stream: Stream::Record(RecordId::new("t", at.to_string())),
        version: 1,
        body: EventBody::RecordCreated(RecordState {
            database: None,
            owner: None,
            access: None,
            created: None,
            updated: ChangeStamp::default(),
            fields: [("text".to_owned(), json!("x".repeat(*size)))].into(),
        }),
        provenance: Vec::new(),
        subject: None,
    };
    NewCommit {
        id: Uuid::from_u128(first.into()),
        actor: Actor::default(),
        request_id: None,
        causation: None,
        sql: None,
        events: sizes.iter().zip(first..).map(event).collect(),
    }
}

/// Appends commits of one event each.
pub(crate) async fn append_some(log: &dyn EventLog, count: u64) {
    for _ in 0..count {
        let head = log.head();
        let decision = Decision {
            commit: new_commit(head + 1, &[40]),
            read_position: head,
            reads: Vec::new(),
            writes: Vec::new(),
            sequences: Vec::new(),
        };
        log.append(decision).await.unwrap();
    }
}

/// Builds commits as they are stored, from `first` on: each has one event for each size, with a
/// string of that size.
pub(crate) fn stored(first: u64, commits: &[Vec<usize>]) -> Vec<RawCommit> {
    let (mut next, mut previous) = (first, GENESIS);
    let one = |sizes: &Vec<usize>| {
        let commit = new_commit(next, sizes);
        let encoded = codec::encode_events(Arc::new(commit), &Sealing::new(), random_salt);
        let seal = Seal {
            first_position: next,
            time: Timestamp::from_micros(1),
            epoch: 1,
        };
        let (bytes, commit) = codec::seal(encoded.unwrap(), seal, &previous).unwrap();
        (next, previous) = (commit.last_position() + 1, commit.chain);
        (seal.first_position, bytes)
    };
    commits.iter().map(one).collect()
}
