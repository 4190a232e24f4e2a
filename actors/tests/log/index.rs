//! How much of the journal is read for one of its events.

use std::sync::Arc;

use serde_json::json;
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::journal::JournalOptions;
use skytrail_actors::log::{EmbeddedLog, EventLog, OpenedLog};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::event::EventBody;
use skytrail_schema::positions::Positions;

use super::world::{blind, close, options, read_all};

const SEGMENT_BYTES: u64 = 1 << 20;

fn open(disk: &MemoryDisk) -> EmbeddedLog {
    let layout = JournalOptions {
        segment_bytes: SEGMENT_BYTES,
        step_bytes: 64 << 10,
        signed: None,
    };
    let opened = OpenedLog::on_disk(Arc::new(disk.clone()), layout).unwrap();
    opened
        .start(options().0, Vec::new(), Default::default())
        .unwrap()
}

/// Writes commits of some KiB until there are three sealed segments; returns the positions at which
/// these begin, and the last position.
async fn fill(disk: &MemoryDisk, log: &EmbeddedLog) -> Vec<u64> {
    loop {
        let mut decision = blind(log.head(), 0);
        if let EventBody::RecordCreated(state) = &mut decision.commit.events[0].body {
            let size = usize::try_from(log.head() % 7).unwrap() << 10;
            state
                .fields
                .insert("text".to_owned(), json!("x".repeat(size)));
        }
        log.append(decision).await.unwrap();
        let names = disk.list().unwrap();
        if names.len() > 3 {
            let begins = names.iter().map(|name| name[..20].parse().unwrap());
            return begins.collect();
        }
    }
}

/// Returns how many bytes are read for one event.
async fn cost(disk: &MemoryDisk, log: &EmbeddedLog, position: u64) -> u64 {
    let before = disk.num_read_bytes();
    let read = log.read_each(&[position]).await.unwrap();
    assert_eq!(read[0].first_position(), position);
    disk.num_read_bytes() - before
}

#[tokio::test]
async fn a_sealed_segment_is_walked_once_after_a_start() {
    let disk = MemoryDisk::default();
    let log = open(&disk);
    let begins = fill(&disk, &log).await;
    close(&log);

    let before = disk.num_read_bytes();
    let log = open(&disk);
    let at_start = disk.num_read_bytes() - before;
    assert!(at_start < SEGMENT_BYTES / 2, "{at_start}");
    let last = begins[1] - 1;
    let first_time = cost(&disk, &log, last).await;
    assert!(first_time < 2 * SEGMENT_BYTES, "{first_time}");
    for position in (1..=last).rev().step_by(16) {
        let cost = cost(&disk, &log, position).await;
        assert!(cost < SEGMENT_BYTES / 4, "{position}: {cost}");
    }
    // It does not matter how far another segment was walked.
    let half = (begins[1] + begins[2]) / 2;
    assert!(cost(&disk, &log, half).await < SEGMENT_BYTES);
    assert!(cost(&disk, &log, half - 1).await < SEGMENT_BYTES / 4);
    assert!(cost(&disk, &log, begins[2] - 1).await < SEGMENT_BYTES);
    read_all(&log).await;
    close(&log);
}

#[tokio::test]
async fn a_segment_that_was_written_here_is_not_walked() {
    let disk = MemoryDisk::default();
    let log = open(&disk);
    let begins = fill(&disk, &log).await;
    assert!(cost(&disk, &log, begins[2] - 1).await < SEGMENT_BYTES / 4);

    let positions: Positions = [3, begins[1] - 5].into_iter().collect();
    log.blank(&positions).await.unwrap();
    for position in (1..begins[1]).rev().step_by(16) {
        let cost = cost(&disk, &log, position).await;
        assert!(cost < SEGMENT_BYTES / 4, "{position}: {cost}");
    }
    read_all(&log).await;
    close(&log);
}
