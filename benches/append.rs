//! How many commits per second become durable through the committer, with a number of them in
//! flight?
//!
//! Each one is in the journal and flushed (`fdatasync`) when its append answers; sled follows.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench stops at the first surprise"
)]

#[path = "support/commit.rs"]
mod commit;
#[path = "support/log.rs"]
mod log;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use skytrail_actors::log::disk::RealDisk;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::{Decision, EmbeddedLog, EventLog, LogOptions, OpenedLog};

fn append(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let opened = open(folder.path());
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(5));
    for in_flight in [1, 16, 64] {
        group.bench_function(BenchmarkId::new("in_flight", in_flight), |bencher| {
            bencher.iter_custom(|times| runtime.block_on(append_times(&opened, in_flight, times)));
        });
    }
    group.finish();
    opened.close(Duration::from_secs(10));
}

/// What sealing costs a sign-up: the user's own key is made durable first.
fn sign_up(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut group = criterion.benchmark_group("sign_up");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group.measurement_time(Duration::from_secs(5));
    for is_sealed in [false, true] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let disk = Arc::new(RealDisk::new(folder.path()).unwrap());
        let journal = JournalOptions::default();
        let opened = match is_sealed {
            true => OpenedLog::on_disk_with_keys(disk, journal, folder.path()),
            false => OpenedLog::on_disk(disk, journal),
        };
        let opened = start(opened.unwrap());
        let how = if is_sealed { "sealed" } else { "plain" };
        for in_flight in [1, 16] {
            group.bench_function(BenchmarkId::new(how, in_flight), |bencher| {
                let make = || log::deciding(commit::sign_up(), opened.head());
                bencher.iter_custom(|times| {
                    runtime.block_on(append_each(&opened, (in_flight, times), make))
                });
            });
        }
        opened.close(Duration::from_secs(10));
    }
    group.finish();
}

/// Appends `times` commits of one record, `in_flight` at a time.
async fn append_times(embedded: &Arc<EmbeddedLog>, in_flight: u64, times: u64) -> Duration {
    let make = || log::decision(1, embedded.head());
    append_each(embedded, (in_flight, times), make).await
}

/// Appends `times` decisions, `in_flight` at a time.
async fn append_each(
    embedded: &Arc<EmbeddedLog>,
    (in_flight, times): (u64, u64),
    make: impl Fn() -> Decision,
) -> Duration {
    let done = AtomicU64::new(0);
    let begun = Instant::now();
    join_all((0..in_flight).map(|_| async {
        while done.fetch_add(1, Ordering::Relaxed) < times {
            embedded.append(make()).await.unwrap();
        }
    }))
    .await;
    begun.elapsed()
}

fn open(folder: &std::path::Path) -> Arc<EmbeddedLog> {
    start(OpenedLog::open(folder, JournalOptions::default()).unwrap())
}

fn start(opened: OpenedLog) -> Arc<EmbeddedLog> {
    let options = LogOptions::new(log::clock(), Arc::new(|doubt| panic!("{doubt}")));
    Arc::new(
        opened
            .start(options, Vec::new(), Default::default())
            .unwrap(),
    )
}

criterion_group!(benches, append, sign_up);
criterion_main!(benches);
