//! Payloads that are removed from the log's files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::journal::Segments;
use skytrail_actors::log::{
    AppendError, Decision, EmbeddedLog, Erasures, EventLog, LogOptions, OpenedLog,
};
use skytrail_actors::testkit::disk::{Faults, MemoryDisk};
use skytrail_schema::event::{
    Actor, Commit, ErasureRequest, ErasureScope, EventBody, NewCommit, NewEvent, Stream,
};
use skytrail_schema::id::UserId;
use skytrail_schema::positions::Positions;
use uuid::Uuid;

use super::world::{
    SMALL, SOME_BYTES, blind, close, fill, open, open_with_recent, options, read_all,
};

fn shared(disk: &MemoryDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn request(positions: &Positions) -> Decision {
    let why = "a test".to_owned();
    let request = ErasureRequest::new(ErasureScope::Events, why, positions.clone());
    let body = EventBody::ErasureRequested(request);
    Decision {
        commit: NewCommit {
            id: Uuid::now_v7(),
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events: vec![NewEvent {
                stream: Stream::Erasure(Uuid::now_v7()),
                version: 1,
                body,
                provenance: Vec::new(),
                subject: None,
            }],
        },
        read_position: 0,
        reads: Vec::new(),
        writes: Vec::new(),
        sequences: Vec::new(),
    }
}

fn blank_positions(commits: &[Arc<Commit>]) -> BTreeSet<u64> {
    let events = commits.iter().flat_map(|commit| &commit.events);
    let blank = events.filter(|event| event.body.erased().is_some());
    blank.map(|event| event.position).collect()
}

async fn erase(log: &EmbeddedLog, positions: &Positions) {
    log.append(request(positions)).await.unwrap();
    log.blank(positions).await.unwrap();
}

#[tokio::test]
async fn a_blank_that_no_erasure_names_is_found() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    fill(&log, 200).await;
    let positions: Positions = [7, 8, 120].into_iter().collect();
    log.blank(&positions).await.unwrap();
    let refused = Segments::open(&shared(&disk))
        .unwrap()
        .verify(&BTreeMap::new(), |_| {});
    let said = refused.unwrap_err().to_string();
    assert!(
        said.contains("position=7") && said.contains("no erasure names it"),
        "{said}"
    );
    log.append(request(&[7, 120].into_iter().collect()))
        .await
        .unwrap();
    let refused = Segments::open(&shared(&disk))
        .unwrap()
        .verify(&BTreeMap::new(), |_| {});
    assert!(refused.unwrap_err().to_string().contains("position=8"));
    log.append(request(&[8].into_iter().collect()))
        .await
        .unwrap();
    let report = Segments::open(&shared(&disk))
        .unwrap()
        .verify(&BTreeMap::new(), |_| {})
        .unwrap();
    assert_eq!(report.num_erased, 3);
    close(&log);
}

#[tokio::test]
async fn what_is_to_be_erased_is_shown_blank_before_it_is_gone() {
    // In the files, partly in memory, and all in memory.
    for recent_bytes in [0, SOME_BYTES, 1 << 20] {
        let disk = MemoryDisk::default();
        let log = open_with_recent(&shared(&disk), recent_bytes).unwrap();
        fill(&log, 20).await;
        for positions in [[3, 19], [19, 20]] {
            let erasure = request(&positions.into_iter().collect());
            log.append(erasure).await.unwrap();
        }
        let shown = read_all(&log).await;
        assert_eq!(blank_positions(&shown), [3, 19, 20].into());
        let mark = |index: usize| shown[index].events[0].body.erased().unwrap().unwrap();
        assert_eq!(mark(2).why.as_str(), "a test");
        // An event that is erased twice names the first erasure.
        let by = [2, 18, 19].map(|index| mark(index).position);
        assert_eq!(by, [21, 21, 22], "{recent_bytes} bytes in memory");
        close(&log);
    }
}

/// A request that finds no space has no effect: the next one names the same key.
#[tokio::test]
async fn an_erasure_that_finds_no_space_leaves_the_user_his_key() {
    let (disk, folder) = (MemoryDisk::default(), tempfile::tempdir().unwrap());
    let opened = OpenedLog::on_disk_with_keys(shared(&disk), SMALL, folder.path()).unwrap();
    let log = opened
        .start(options().0, Vec::new(), Default::default())
        .unwrap();
    let user = UserId::from("ada");
    let mut about = blind(1, 0);
    about.commit.events[0].subject = Some(user.clone());
    log.append(about.clone()).await.unwrap();
    let key = log.key_of(&user).unwrap();

    let mut erasure = request(&[1].into_iter().collect());
    if let EventBody::ErasureRequested(request) = &mut erasure.commit.events[0].body {
        request.keys = vec![key];
        // More than is written ahead.
        request.why = "x".repeat(2 * usize::try_from(SMALL.step_bytes).unwrap());
    }
    disk.set_faults(Faults {
        capacity: Some(0),
        ..Faults::default()
    });
    assert_eq!(
        log.append(erasure.clone()).await,
        Err(AppendError::DiskFull)
    );
    assert_eq!(log.key_of(&user), Some(key));
    disk.set_faults(Faults::default());
    log.append(about.clone()).await.unwrap();
    assert_eq!(log.key_of(&user), Some(key));

    log.append(erasure).await.unwrap();
    assert_eq!(log.key_of(&user), None);
    log.append(about).await.unwrap();
    assert_ne!(log.key_of(&user), Some(key));
    close(&log);
}

/// The process may end between an erasure and the destruction of its keys.
#[tokio::test]
async fn from_an_erasure_on_nothing_is_sealed_with_its_keys_also_after_a_start() {
    let (disk, folder) = (MemoryDisk::default(), tempfile::tempdir().unwrap());
    let open = |erasures: Arc<Erasures>| {
        let opened = OpenedLog::on_disk_with_keys(shared(&disk), SMALL, folder.path()).unwrap();
        let options = LogOptions {
            erasures,
            ..options().0
        };
        opened
            .start(options, Vec::new(), Default::default())
            .unwrap()
    };
    let log = open(Arc::default());
    let user = UserId::from("ada");
    let mut about = blind(1, 0);
    about.commit.events[0].subject = Some(user.clone());
    log.append(about.clone()).await.unwrap();
    let key = log.key_of(&user).unwrap();
    let mut erasure = request(&[1].into_iter().collect());
    if let EventBody::ErasureRequested(request) = &mut erasure.commit.events[0].body {
        request.keys = vec![key];
    }
    let asked = log.append(erasure).await.unwrap();
    close(&log);

    let erasures = Arc::<Erasures>::default();
    erasures.learn(&asked, &asked.events[0]);
    let log = open(erasures);
    log.append(about).await.unwrap();
    let other = log.key_of(&user).unwrap();
    assert_ne!(other, key);
    close(&log);
}

/// A rewrite that finds no space leaves everything as it is, and is done once there is some.
#[tokio::test]
async fn a_full_disk_holds_an_erasure_up_and_harms_nothing() {
    let disk = MemoryDisk::default();
    let log = open(&shared(&disk)).unwrap();
    let acknowledged = fill(&log, 200).await;
    let positions: Positions = (20..30).collect();
    log.append(request(&positions)).await.unwrap();
    disk.set_faults(Faults {
        capacity: Some(0),
        ..Faults::default()
    });
    assert!(log.blank(&positions).await.is_err());
    let names = disk.list().unwrap();
    let report = Segments::open(&shared(&disk))
        .unwrap()
        .verify(&BTreeMap::new(), |_| {})
        .unwrap();
    assert_eq!((report.num_erased, report.num_events), (0, 201));
    disk.set_faults(Faults::default());
    log.blank(&positions).await.unwrap();
    let report = Segments::open(&shared(&disk))
        .unwrap()
        .verify(&BTreeMap::new(), |_| {})
        .unwrap();
    assert_eq!((report.num_erased, report.num_events), (10, 201));
    assert!(disk.list().unwrap().len() >= names.len());
    let next = log.append(blind(1, 1)).await.unwrap();
    assert!(next.first_position() > acknowledged.len() as u64);
    close(&log);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is erased, in however many steps, and wherever the power fails in between: what was
    /// named is blank, and the rest is what was acknowledged.
    ///
    /// Positions and chain are unchanged, and the log can be written again.
    #[test]
    fn what_is_left_is_what_was_there(
        first in prop::collection::btree_set(1_u64..=300, 1..40),
        second in prop::collection::btree_set(1_u64..=300, 1..40),
        loses_power in any::<bool>(),
        unflushed in any::<u64>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = MemoryDisk::default();
            let mut log = open(&shared(&disk)).unwrap();
            let mut acknowledged = fill(&log, 300).await;
            for positions in [&first, &second] {
                erase(&log, &positions.iter().copied().collect()).await;
                if loses_power {
                    close(&log);
                    disk = disk.lose_power(|number| unflushed >> (number % 64) & 1 == 1);
                    log = open(&shared(&disk)).unwrap();
                }
                acknowledged.push(log.append(blind(900, 1)).await.unwrap());
            }
            close(&log);
            let segments = Segments::open(&shared(&disk)).unwrap();
            let report = segments.verify(&BTreeMap::new(), |_| {}).unwrap();
            let named = &first | &second;
            prop_assert_eq!(report.num_erased, named.len() as u64);
            let opened = OpenedLog::on_disk(shared(&disk), SMALL).unwrap();
            let log = opened.start(options().0, Vec::new(), Default::default()).unwrap();
            let found = read_all(&log).await;
            prop_assert_eq!(blank_positions(&found), named.clone());
            for commit in &acknowledged {
                let mut same = found.iter().filter(|it| it.id == commit.id);
                let same = same.next().unwrap();
                prop_assert_eq!((same.chain, same.time), (commit.chain, commit.time));
                for (left, was) in same.events.iter().zip(&commit.events) {
                    prop_assert_eq!(left.payload_hash, was.payload_hash);
                    prop_assert!(named.contains(&was.position) || left == was);
                }
            }
            close(&log);
            Ok(())
        })?;
    }
}
