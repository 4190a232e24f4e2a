//! Commits, and a log that has them, for tests of those who read.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::event::{Actor, Commit, Event, EventBody, Stream, Touch};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

use super::{AppendError, Decision, EventLog, ReadError};

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

    async fn read(&self, from: u64, _: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        let wanted = self
            .0
            .iter()
            .filter(|commit| commit.last_position() >= from);
        Ok(wanted.take(3).cloned().collect())
    }
}

/// Makes a commit of events at `first` and so many in all, each of a record `t/<position>`; its time
/// is `first` in microseconds.
pub(crate) fn commit(first: u64, num_events: u64) -> Arc<Commit> {
    let event = |position: u64| Event {
        position,
        stream: Stream::Record(RecordId::new("t", position.to_string())),
        version: 1,
        body: EventBody::RecordDeleted(Touch::default()),
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
