//! Disks that fail, fill up, are slow, or lose power.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::{
    AppendError, CommitObserver, EmbeddedLog, EventLog, LogOpenError, OpenedLog, Reserve,
};
use skytrail_actors::testkit::disk::{Faults, MemoryDisk};
use skytrail_schema::event::{Commit, EventBody};

use super::damage::{last_frame, last_segment};
use super::world::{SMALL, blind, close, fill, open, open_folder, options, read_all};

fn shared(disk: &MemoryDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_acknowledged_any_more() {
    let disk = MemoryDisk::default();
    let (options, doubts) = options();
    let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    let acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    assert_eq!(log.append(blind(100, 0)).await, Err(AppendError::Closed));
    disk.set_faults(Faults::default());
    assert_eq!(log.append(blind(101, 0)).await, Err(AppendError::Closed));
    assert_eq!(
        doubts.load(Ordering::SeqCst),
        1,
        "the process is told to end, once"
    );
    assert_eq!(log.head(), acknowledged.last().unwrap().last_position());
    close(&log);
    let log = open(&shared(&disk.lose_power(|_| false))).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

/// Pages stay in the cache if their flush failed, or if the process ended before it.
#[tokio::test]
async fn what_a_start_shows_outlives_a_power_cut() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    let acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        sync_fails: true,
        ..Faults::default()
    });
    let lost = (100..105).map(|number| log.append(blind(number, 0)));
    for result in futures_util::future::join_all(lost).await {
        assert_eq!(result, Err(AppendError::Closed));
    }
    close(&log);
    assert!(open(&shared(&disk)).is_err(), "it fails still");
    disk.set_faults(Faults::default());
    let log = open(&shared(&disk)).unwrap();
    let shown = read_all(&log).await;
    assert!(shown.len() > acknowledged.len());
    let after = disk.lose_power(|_| false);
    let reopened = open(&shared(&after)).unwrap();
    assert_eq!(read_all(&reopened).await, shown);
    close(&reopened);
    // Nor is there a gap before what is written after it.
    let next = log.append(blind(200, 0)).await.unwrap();
    close(&log);
    let log = open(&shared(&disk.lose_power(|_| false))).unwrap();
    assert_eq!(read_all(&log).await, [shown, vec![next]].concat());
    close(&log);
}

/// If the process ends between the renaming of a segment and the flush of the folder, the segment's
/// name is only in the cache.
#[tokio::test]
async fn a_start_makes_the_names_of_segments_durable() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    fill(&log, 100).await;
    close(&log);
    let unnamed = disk.with_names_unflushed();
    let log = open(&shared(&unnamed)).unwrap();
    let shown = read_all(&log).await;
    close(&log);
    let log = open(&shared(&unnamed.lose_power(|_| false))).unwrap();
    assert_eq!(read_all(&log).await, shown);
    close(&log);
}

#[tokio::test]
async fn a_full_disk_refuses_and_takes_again_when_there_is_space() {
    runs_full(io::ErrorKind::StorageFull).await;
}

#[tokio::test]
async fn who_has_used_up_his_quota_has_a_full_disk() {
    runs_full(io::ErrorKind::QuotaExceeded).await;
}

async fn runs_full(full: io::ErrorKind) {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    let mut acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        capacity: Some(0),
        full,
        ..Faults::default()
    });
    let refused = append_until_refused(&log, &mut acknowledged).await;
    assert_eq!(refused, AppendError::DiskFull);
    assert_eq!(read_all(&log).await, acknowledged, "reading goes on");
    disk.set_faults(Faults::default());
    acknowledged.push(log.append(blind(1, 1)).await.unwrap());
    close(&log);
    let log = open(&shared(&disk.lose_power(|_| false))).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

/// Appends until the log refuses it: the space that was written ahead still takes some commits.
async fn append_until_refused(
    log: &EmbeddedLog,
    acknowledged: &mut Vec<Arc<Commit>>,
) -> AppendError {
    let mut number = 100;
    loop {
        match log.append(blind(number, number)).await {
            Ok(commit) => acknowledged.push(commit),
            Err(error) => return error,
        }
        number += 1;
        assert!(number < 100_000, "nothing was refused");
    }
}

/// A new segment needs a file descriptor; without one nothing has been written.
#[tokio::test]
async fn a_log_without_file_descriptors_refuses_writes_and_goes_on_when_there_are_some() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    let mut acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        is_out_of_descriptors: true,
        ..Faults::default()
    });
    let refused = append_until_refused(&log, &mut acknowledged).await;
    assert_eq!(refused, AppendError::OutOfDescriptors);
    disk.set_faults(Faults::default());
    acknowledged.push(log.append(blind(1, 1)).await.unwrap());
    close(&log);
    let log = open(&shared(&disk.lose_power(|_| false))).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

/// A copy-on-write file system needs space even for what was written ahead.
#[tokio::test]
async fn a_write_that_was_refused_half_way_does_not_come_back() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    let mut acknowledged = fill(&log, 20).await;
    acknowledged.push(log.append(blind(100, 0)).await.unwrap());
    let frame = last_frame(&disk.bytes(&last_segment(&disk)));
    disk.set_faults(Faults {
        overwrites_take: Some(frame.len()),
        ..Faults::default()
    });
    assert_eq!(log.append(blind(101, 0)).await, Err(AppendError::DiskFull));
    for disk in [disk.lose_power(|_| false), disk.lose_power(|_| true)] {
        let log = open(&shared(&disk)).unwrap();
        assert_eq!(read_all(&log).await, acknowledged);
        close(&log);
    }
    disk.set_faults(Faults::default());
    let next = log.append(blind(102, 0)).await.unwrap();
    close(&log);
    let log = open(&shared(&disk.lose_power(|_| true))).unwrap();
    assert_eq!(read_all(&log).await, [acknowledged, vec![next]].concat());
    close(&log);
}

#[tokio::test]
async fn a_refused_write_that_cannot_be_taken_back_is_in_doubt() {
    let disk = MemoryDisk::default();
    let (options, doubts) = options();
    let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    let acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        overwrites_take: Some(100),
        sync_fails: true,
        ..Faults::default()
    });
    assert_eq!(log.append(blind(100, 0)).await, Err(AppendError::Closed));
    close(&log);
    assert_eq!(doubts.load(Ordering::SeqCst), 1);
    let log = open(&shared(&disk.lose_power(|_| true))).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

/// The next segment may exist after a crash then, so nothing more may be written to the one before
/// it.
#[tokio::test]
async fn a_segment_whose_name_finds_no_space_is_in_doubt() {
    let disk = MemoryDisk::default();
    let (options, doubts) = options();
    let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    let mut acknowledged = fill(&log, 20).await;
    disk.set_faults(Faults {
        folder_is_full: true,
        ..Faults::default()
    });
    // Too large for the segment, which still has room for less.
    let mut large = blind(100, 0);
    if let EventBody::RecordCreated(state) = &mut large.commit.events[0].body {
        let text = "x".repeat(usize::try_from(SMALL.segment_bytes).unwrap());
        state.fields.insert("text".to_owned(), text.into());
    }
    let refused = log.append(large).await;
    disk.set_faults(Faults::default());
    acknowledged.extend(log.append(blind(101, 0)).await);
    close(&log);
    let log = open(&shared(&disk)).unwrap();
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
    assert_eq!(refused, Err(AppendError::Closed));
    assert_eq!(doubts.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_slow_disk_acknowledges_late_and_sheds_what_does_not_fit() {
    let disk = MemoryDisk::default();
    let (mut options, _) = options();
    options.queue_decisions = 4;
    let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    let before = disk.num_syncs();
    disk.set_faults(Faults {
        sync_takes: Some(Duration::from_millis(100)),
        ..Faults::default()
    });
    let all = (0..64).map(|number| log.append(blind(number, number)));
    let results = futures_util::future::join_all(all).await;
    let shed = results
        .iter()
        .filter(|result| **result == Err(AppendError::Overloaded))
        .count();
    let taken = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(shed + taken, 64);
    assert!(shed > 0 && taken > 0, "shed={shed} taken={taken}");
    assert!(disk.num_syncs() > before);
    disk.set_faults(Faults::default());
    assert_eq!(read_all(&log).await.len(), taken);
    close(&log);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever part of the unflushed writes reaches the platter: everything acknowledged is there,
    /// complete and in order, and is followed by at most complete unacknowledged commits.
    #[test]
    fn a_power_cut_loses_nothing_that_was_acknowledged(
        count in 1_u64..60,
        kept in prop::collection::vec(any::<bool>(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let disk = MemoryDisk::default();
            let log = open(&shared(&disk)).unwrap();
            let acknowledged = fill(&log, count).await;
            disk.set_faults(Faults { sync_fails: true, ..Faults::default() });
            let lost = (0..5).map(|number| log.append(blind(number, number)));
            futures_util::future::join_all(lost).await;
            close(&log);
            let keep = |number: usize| kept.get(number).copied().unwrap_or_default();
            let log = open(&shared(&disk.lose_power(keep))).unwrap();
            let found = read_all(&log).await;
            assert!(found.len() >= acknowledged.len());
            assert_eq!(found[..acknowledged.len()], acknowledged);
            close(&log);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// However often the log ends in doubt, and whether the power fails then or only the process
    /// ends: whatever was once acknowledged or shown is shown by every later start.
    #[test]
    fn what_was_shown_once_is_shown_from_then_on(
        ends in prop::collection::vec((0_u64..30, any::<bool>(), any::<u64>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = MemoryDisk::default();
            let mut shown = Vec::new();
            for (count, loses_power, kept) in ends {
                let log = open(&shared(&disk)).unwrap();
                let found = read_all(&log).await;
                assert_eq!(found[..shown.len()], shown);
                shown = [found, fill(&log, count).await].concat();
                disk.set_faults(Faults { sync_fails: true, ..Faults::default() });
                let lost = (0..5).map(|number| log.append(blind(number, number)));
                futures_util::future::join_all(lost).await;
                close(&log);
                disk.set_faults(Faults::default());
                if loses_power {
                    disk = disk.lose_power(|number| kept >> (number % 64) & 1 == 1);
                }
            }
            let log = open(&shared(&disk)).unwrap();
            assert_eq!(read_all(&log).await[..shown.len()], shown);
            close(&log);
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However much of a refused write had been written, whatever is written after it, and whether
    /// the power fails then or only the process ends: a start shows what was acknowledged and
    /// nothing else.
    #[test]
    fn what_was_refused_is_never_shown(
        turns in prop::collection::vec((0_u64..20, 0_usize..3000, 1_u64..6, any::<bool>(), any::<u64>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = MemoryDisk::default();
            let mut acknowledged = Vec::new();
            for (count, taken, num_tried, loses_power, kept) in turns {
                let log = open(&shared(&disk)).unwrap();
                assert_eq!(read_all(&log).await, acknowledged);
                acknowledged.extend(fill(&log, count).await);
                disk.set_faults(Faults { overwrites_take: Some(taken), ..Faults::default() });
                let tried = (0..num_tried).map(|number| log.append(blind(number, number)));
                for result in futures_util::future::join_all(tried).await {
                    match result {
                        Ok(commit) => acknowledged.push(commit),
                        Err(error) => assert_eq!(error, AppendError::DiskFull),
                    }
                }
                disk.set_faults(Faults::default());
                acknowledged.extend(fill(&log, count % 3).await);
                acknowledged.sort_by_key(|commit| commit.first_position());
                close(&log);
                disk = disk.lose_power(|number| !loses_power || kept >> (number % 64) & 1 == 1);
            }
            let log = open(&shared(&disk)).unwrap();
            assert_eq!(read_all(&log).await, acknowledged);
            close(&log);
        });
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_the_first_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_folder(folder.path());
    let second = OpenedLog::open(folder.path(), SMALL);
    assert!(matches!(second.err(), Some(LogOpenError::InUse(_))));
    log.append(blind(1, 1)).await.unwrap();
    close(&log);
}

/// Records what it was told.
#[derive(Default)]
struct Witness(parking_lot::Mutex<Vec<u64>>);

impl CommitObserver for Witness {
    fn committed(&self, commits: &[Arc<Commit>]) {
        self.0
            .lock()
            .extend(commits.iter().map(|commit| commit.first_position()));
    }
}

#[tokio::test]
async fn observers_see_every_commit_once_in_order_and_before_it_is_acknowledged() {
    let disk = MemoryDisk::default();
    let witness = Arc::new(Witness::default());
    let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
    let observers = vec![Arc::clone(&witness) as Arc<dyn CommitObserver>];
    let log = Arc::new(
        opened
            .start(options().0, observers, Default::default())
            .unwrap(),
    );
    let appends = (0..200).map(|number| {
        let (log, witness) = (Arc::clone(&log), Arc::clone(&witness));
        tokio::spawn(async move {
            let commit = log.append(blind(number, number)).await.unwrap();
            assert!(witness.0.lock().contains(&commit.first_position()));
        })
    });
    for append in futures_util::future::join_all(appends).await {
        append.unwrap();
    }
    assert_eq!(*witness.0.lock(), (1..=200).collect::<Vec<_>>());
    close(&log);
}

#[tokio::test]
async fn without_its_reserve_a_log_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let reserve = Reserve::new(folder.path(), 1 << 20).unwrap();
    let file = folder.path().join("reserve");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 1 << 20);
    let (mut options, _) = options();
    let reserve = Arc::new(reserve);
    options.reserve = Some(Arc::clone(&reserve));
    let opened = OpenedLog::on_disk(shared(&MemoryDisk::default()), SMALL).unwrap();
    let log = opened
        .start(options, Vec::new(), Default::default())
        .unwrap();
    log.append(blind(1, 0)).await.unwrap();
    reserve.give_up();
    assert!(!file.exists() && log.state().is_disk_full);
    assert_eq!(log.append(blind(2, 0)).await, Err(AppendError::DiskFull));
    reserve.tend().unwrap();
    assert!(file.exists(), "there is space, so it is made again");
    log.append(blind(2, 0)).await.unwrap();
    // It was of no use, as with a quota that the free space does not show. So it waits.
    reserve.give_up();
    reserve.tend().unwrap();
    assert!(!file.exists(), "it was just made again, in vain");
    close(&log);
    let off = Reserve::new(folder.path(), 0).unwrap();
    assert!(off.is_held() && !file.exists());
}
