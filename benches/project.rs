//! How many events a second can the record store take in, so many with each transaction?
//!
//! Each batch is a committed transaction with its checkpoint and its history; the file is not
//! flushed with every one, as the log has everything.

#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

#[path = "support/commit.rs"]
mod commit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use skytrail::projection::{SqlStore, StoreOptions};
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::chain;
use skytrail_schema::codec::{Seal, encode_events, seal};
use skytrail_schema::event::{Commit, EventBody, NewCommit, NewEvent, Stream, TypeExtension};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;

const NUM_EVENTS: usize = 50_000;

fn project(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut next_position = 1;
    let mut log = vec![take(message_type(), &mut next_position)];
    log.extend((0..NUM_EVENTS).map(|_| take(commit::commit(1), &mut next_position)));

    let mut group = criterion.benchmark_group("project");
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .throughput(Throughput::Elements(NUM_EVENTS as u64));
    for per_batch in [16, 64, 512, 4096] {
        group.bench_function(BenchmarkId::new("per_batch", per_batch), |bencher| {
            bencher.iter_custom(|times| {
                let fill_one = |_| runtime.block_on(fill(&log, per_batch));
                (0..times).map(fill_one).sum()
            });
        });
    }
    group.finish();
}

/// Applies the log to a fresh store.
async fn fill(log: &[Arc<Commit>], per_batch: usize) -> Duration {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("records.db");
    let options = StoreOptions::default();
    let store = SqlStore::open_file(&path, &options).await.unwrap();
    let begun = Instant::now();
    for batch in log.chunks(per_batch) {
        store.apply(batch).await.unwrap();
    }
    let elapsed = begun.elapsed();
    store.close().await.unwrap();
    elapsed
}

/// Commits as the log would.
fn take(commit: NewCommit, next_position: &mut u64) -> Arc<Commit> {
    let at = Seal {
        first_position: *next_position,
        time: Timestamp::from_micros(1_500_000_000_000_000),
        epoch: 1,
    };
    let encoded = encode_events(Arc::new(commit), || [7; 16]).unwrap();
    let (_, commit) = seal(encoded, at, &chain::GENESIS).unwrap();
    *next_position = commit.last_position() + 1;
    Arc::new(commit)
}

fn message_type() -> NewCommit {
    let fields = [
        ("body", FieldType::String),
        ("room", FieldType::String),
        ("count", FieldType::Number),
    ];
    let extension = TypeExtension {
        fields: fields
            .map(|(name, kind)| (name.to_owned(), kind))
            .into_iter()
            .collect(),
        unique: Vec::new(),
    };
    NewCommit {
        events: vec![NewEvent {
            stream: Stream::Type("message".into()),
            version: 1,
            body: EventBody::TypeExtended(extension),
            provenance: Vec::new(),
        }],
        ..commit::commit(0)
    }
}

criterion_group!(benches, project);
criterion_main!(benches);
