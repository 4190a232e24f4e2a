//! How long does it take to encode a commit to bytes and decode it?

#![expect(clippy::unwrap_used, reason = "a bench stops at the first surprise")]

#[path = "support/commit.rs"]
mod commit;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use skytrail_schema::chain;
use skytrail_schema::codec::{
    NoKeys, Seal, Sealing, decode_commit, encode_events, peek, seal, verify_chain,
};
use skytrail_schema::time::Timestamp;

const SEAL: Seal = Seal {
    first_position: 1,
    time: Timestamp::from_micros(1),
    epoch: 1,
};

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    for num_records in [1, 100] {
        let commit = Arc::new(commit::commit(num_records));
        let encoded = encode_events(Arc::clone(&commit), &Sealing::new(), || [7; 16]).unwrap();
        let (bytes, _) = seal(encoded.clone(), SEAL, &chain::GENESIS).unwrap();
        group.throughput(Throughput::Elements(num_records as u64));
        group.bench_function(BenchmarkId::new("encode_events", num_records), |bencher| {
            bencher
                .iter(|| encode_events(Arc::clone(&commit), &Sealing::new(), || [7; 16]).unwrap());
        });
        group.bench_function(BenchmarkId::new("seal", num_records), |bencher| {
            // A commit without other references, as the committer gets it.
            let fresh = || {
                encode_events(
                    Arc::new(commit::commit(num_records)),
                    &Sealing::new(),
                    || [7; 16],
                )
            };
            bencher.iter_batched(
                || fresh().unwrap(),
                |encoded| seal(encoded, SEAL, &chain::GENESIS).unwrap(),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("peek", num_records), |bencher| {
            bencher.iter(|| peek(black_box(&bytes)).unwrap());
        });
        group.bench_function(BenchmarkId::new("decode", num_records), |bencher| {
            bencher.iter(|| decode_commit(black_box(&bytes), &NoKeys).unwrap());
        });
        group.bench_function(BenchmarkId::new("verify", num_records), |bencher| {
            bencher.iter(|| verify_chain(black_box(&bytes), &chain::GENESIS, &NoKeys).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);
