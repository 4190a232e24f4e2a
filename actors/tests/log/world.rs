//! Logs for tests, and decisions to append.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::{
    AppendError, ConflictKey, Decision, EmbeddedLog, EventLog, LogOpenError, LogOptions, OpenedLog,
};
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, EventBody, NewCommit, NewEvent, RecordState, Stream,
};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

/// Small segments, so that tests have several.
pub const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 16 << 10,
    step_bytes: 4 << 10,
    signed: None,
};

/// So few bytes in memory that readers find a part of the tail there and the rest in the files.
pub const SOME_BYTES: usize = 4 << 10;

/// How often some log reported that it is in doubt.
pub type Doubts = Arc<AtomicU64>;

pub fn options() -> (LogOptions, Doubts) {
    let doubts = Doubts::default();
    let (clock, counter) = (AtomicI64::new(1), Arc::clone(&doubts));
    let now = move || Timestamp::from_micros(clock.fetch_add(1, Ordering::Relaxed));
    let on_fatal = move |_: &str| {
        counter.fetch_add(1, Ordering::SeqCst);
    };
    let mut options = LogOptions::new(Arc::new(now), Arc::new(on_fatal));
    // What is read here is what the files have.
    options.recent_bytes = 0;
    (options, doubts)
}

pub fn open(disk: &Arc<dyn Disk>) -> Result<EmbeddedLog, LogOpenError> {
    open_with_recent(disk, 0)
}

/// As [`open`], with so many bytes of the tail in memory.
pub fn open_with_recent(
    disk: &Arc<dyn Disk>,
    recent_bytes: usize,
) -> Result<EmbeddedLog, LogOpenError> {
    let opened = OpenedLog::on_disk(Arc::clone(disk), SMALL)?;
    let options = LogOptions {
        recent_bytes,
        ..options().0
    };
    Ok(opened
        .start(options, Vec::new(), Default::default())
        .unwrap())
}

pub fn open_folder(folder: &Path) -> EmbeddedLog {
    let opened = OpenedLog::open(folder, SMALL).unwrap();
    opened
        .start(options().0, Vec::new(), Default::default())
        .unwrap()
}

/// A decision that creates a record with a number, whatever exists already.
pub fn blind(key: u64, number: u64) -> Decision {
    decision(key, number, 0, &[], &[])
}

pub fn decision(
    key: u64,
    number: u64,
    read_position: u64,
    reads: &[ConflictKey],
    writes: &[ConflictKey],
) -> Decision {
    let state = RecordState {
        database: None,
        owner: None,
        access: None,
        created: None,
        updated: ChangeStamp::default(),
        fields: [("number".to_owned(), json!(number))].into(),
    };
    let event = NewEvent {
        stream: Stream::Record(RecordId::new("t", key.to_string())),
        version: 1,
        body: EventBody::RecordCreated(state),
        provenance: Vec::new(),
        subject: None,
    };
    Decision {
        commit: NewCommit {
            id: Uuid::now_v7(),
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events: vec![event],
        },
        read_position,
        reads: reads.to_vec(),
        writes: writes.to_vec(),
        sequences: Vec::new(),
    }
}

/// Appends numbered commits, some of them together, and returns what was acknowledged.
pub async fn fill(log: &EmbeddedLog, count: u64) -> Vec<Arc<Commit>> {
    let mut acknowledged = Vec::new();
    for start in (0..count).step_by(8) {
        let group = (start..count.min(start + 8)).map(|number| log.append(blind(number, number)));
        for commit in futures_util::future::join_all(group).await {
            acknowledged.push(commit.unwrap());
        }
    }
    acknowledged.sort_by_key(|commit| commit.first_position());
    acknowledged
}

/// Reads everything, in order; read one by one from the end, the events are the same.
pub async fn read_all(log: &EmbeddedLog) -> Vec<Arc<Commit>> {
    let mut all: Vec<Arc<Commit>> = Vec::new();
    loop {
        let from = all.last().map_or(1, |commit| commit.last_position() + 1);
        let more = log.read(from, 100).await.unwrap();
        if more.is_empty() {
            break;
        }
        all.extend(more);
    }
    let events = all.iter().flat_map(|commit| {
        let events = commit.events.iter();
        events.map(move |event| (event.position, Arc::clone(commit)))
    });
    // Only some of them, because there are tests that read thousands of logs.
    let one_in = all.len() / 32 + 1;
    let (mut positions, mut expected): (Vec<u64>, Vec<_>) = events.step_by(one_in).unzip();
    positions.reverse();
    expected.reverse();
    assert_eq!(log.read_each(&positions).await.unwrap(), expected);
    // Far beyond the head, because others may write meanwhile.
    positions.push(log.head() + 1_000_000);
    assert!(log.read_each(&positions).await.is_err());
    all
}

pub fn close(log: &EmbeddedLog) {
    log.close(Duration::from_secs(10));
}

pub fn is_conflict<T>(result: &Result<T, AppendError>) -> bool {
    matches!(result, Err(AppendError::Conflict { .. }))
}
