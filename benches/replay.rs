//! How long does it take to open a log, and to read all of it again?

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench stops at the first surprise"
)]

#[path = "support/commit.rs"]
mod commit;
#[path = "support/log.rs"]
mod log;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::join_all;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::{EventLog, LogOptions, OpenedLog};

const NUM_EVENTS: u64 = 200_000;
const PER_COMMIT: usize = 10;
const READ_EVENTS: usize = 512;

fn replay(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fill(folder.path());
    let mut group = criterion.benchmark_group("replay");
    group.sample_size(10);
    group.bench_function("open", |bencher| {
        bencher.iter(|| OpenedLog::open(folder.path(), JournalOptions::default()).unwrap());
    });
    let opened = OpenedLog::open(folder.path(), JournalOptions::default()).unwrap();
    let segments = opened.segments();
    group.throughput(Throughput::Elements(NUM_EVENTS));
    group.bench_function("read_all", |bencher| {
        bencher.iter(|| {
            let mut next = 1;
            while next <= NUM_EVENTS {
                let commits = segments.read(next, READ_EVENTS).unwrap();
                next = commits.last().unwrap().last_position() + 1;
            }
        });
    });
    group.finish();
}

fn fill(folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let options = LogOptions::new(log::clock(), Arc::new(|doubt| panic!("{doubt}")));
    let opened = OpenedLog::open(folder, JournalOptions::default()).unwrap();
    let embedded = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    runtime.block_on(async {
        while embedded.head() < NUM_EVENTS {
            let decisions = (0..100).map(|_| log::decision(PER_COMMIT, embedded.head()));
            for appended in join_all(decisions.map(|decision| embedded.append(decision))).await {
                appended.unwrap();
            }
        }
    });
    embedded.close(Duration::from_secs(30));
}

criterion_group!(benches, replay);
criterion_main!(benches);
