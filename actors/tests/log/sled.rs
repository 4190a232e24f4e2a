//! The sled store behind the journal: destroyed, damaged, differing.

use std::path::Path;
use std::time::{Duration, Instant};

use skytrail_actors::log::{EmbeddedLog, EventLog};
use skytrail_schema::codec;

use super::world::{blind, close, fill, open_folder, read_all};

fn sled_position(log: &EmbeddedLog) -> u64 {
    log.state().sled.map_or(0, |sled| sled.position)
}

async fn until_sled_has(log: &EmbeddedLog, position: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while sled_position(log) < position {
        assert!(Instant::now() < deadline, "sled did not get to {position}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_follows_and_answers() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_folder(folder.path());
    let acknowledged = fill(&log, 300).await;
    until_sled_has(&log, log.head()).await;
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_sled_is_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = open_folder(folder.path());
    let acknowledged = fill(&log, 300).await;
    until_sled_has(&log, log.head()).await;
    close(&log);
    drop(log);
    std::fs::remove_dir_all(folder.path().join("sled")).unwrap();
    let log = open_folder(folder.path());
    assert_eq!(
        read_all(&log).await,
        acknowledged,
        "also while it is being built"
    );
    until_sled_has(&log, log.head()).await;
    assert_eq!(read_all(&log).await, acknowledged);
    close(&log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sled_of_another_log_is_set_aside_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    for (path, count) in [(folder.path(), 50), (other.path(), 20)] {
        let log = open_folder(path);
        fill(&log, count).await;
        until_sled_has(&log, log.head()).await;
        close(&log);
    }
    std::fs::remove_dir_all(folder.path().join("sled")).unwrap();
    std::fs::rename(other.path().join("sled"), folder.path().join("sled")).unwrap();
    let log = open_folder(folder.path());
    until_sled_has(&log, 50).await;
    assert_eq!(log.state().sled.unwrap().num_rebuilds, 1);
    assert_eq!(read_all(&log).await.len(), 50);
    assert!(
        folder.path().join("sled.damaged").exists(),
        "nothing is deleted"
    );
    close(&log);
}

/// Opens the store of a closed log, changes it, and closes it. Sled's own threads may hold the file
/// a little longer.
fn change_store(folder: &Path, change: impl FnOnce(&sled::Db)) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let store = loop {
        match sled::open(folder.join("sled")) {
            Err(sled::Error::Io(error)) if Instant::now() < deadline => {
                assert!(error.to_string().contains("acquire lock"), "{error}");
                std::thread::yield_now();
            }
            opened => break opened.unwrap(),
        }
    };
    change(&store);
    store.flush().unwrap();
}

/// Returns how many values there are, and how many of them are plain commits.
fn count_values(folder: &Path) -> (usize, usize) {
    let mut counted = (0, 0);
    change_store(folder, |store| {
        let plain = |value: &sled::IVec| codec::check_commit(value, None).is_ok();
        let values = store.iter().values().map(Result::unwrap);
        let values: Vec<_> = values.collect();
        counted = (values.len(), values.iter().filter(|it| plain(it)).count());
    });
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn small_commits_share_values_also_when_they_come_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    // After closing and opening again, they are put into the same chunk.
    for _ in 0..10 {
        let log = open_folder(folder.path());
        acknowledged.extend(fill(&log, 3).await);
        until_sled_has(&log, log.head()).await;
        assert_eq!(read_all(&log).await, acknowledged);
        close(&log);
    }
    let (num_values, num_plain) = count_values(folder.path());
    assert!(num_values <= 2, "{num_values} values");
    assert_eq!(num_plain, 0);
}

/// A value that sled considers intact but that is not what was stored: the last one, which is
/// checked at the start, or the first one, which a reader meets.
///
/// Or one that another version of this program stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_value_is_found_and_sled_is_built_again() {
    for (is_last, is_other_format) in [(false, false), (true, false), (true, true)] {
        let folder = tempfile::tempdir().unwrap();
        let log = open_folder(folder.path());
        let acknowledged = fill(&log, 200).await;
        until_sled_has(&log, log.head()).await;
        close(&log);
        drop(log);
        change_store(folder.path(), |store| {
            let found = if is_last { store.last() } else { store.first() };
            let (key, value) = found.unwrap().unwrap();
            let mut value = value.to_vec();
            let changed = if is_other_format { 1 } else { value.len() / 2 };
            value[changed] ^= 1;
            store.insert(key, value).unwrap();
        });
        let log = open_folder(folder.path());
        let rebuilds = || log.state().sled.unwrap().num_rebuilds;
        let deadline = Instant::now() + Duration::from_secs(30);
        while rebuilds() == 0 {
            assert!(Instant::now() < deadline, "it was not noticed");
            assert_eq!(read_all(&log).await, acknowledged);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until_sled_has(&log, log.head()).await;
        assert_eq!(read_all(&log).await, acknowledged);
        assert_eq!(rebuilds(), 1);
        close(&log);
    }
}

/// Flips bits all over sled's files; whatever sled does with them, answers are right and in time.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_sled_files_give_no_wrong_answer() {
    for seed in 0..8_u64 {
        let folder = tempfile::tempdir().unwrap();
        let log = open_folder(folder.path());
        let acknowledged = fill(&log, 200).await;
        until_sled_has(&log, log.head()).await;
        close(&log);
        drop(log);
        damage(&folder.path().join("sled"), seed);
        let log = open_folder(folder.path());
        let reading = tokio::time::timeout(Duration::from_secs(60), read_all(&log));
        assert_eq!(reading.await.expect("no hang"), acknowledged, "seed {seed}");
        log.append(blind(1, 1)).await.unwrap();
        close(&log);
    }
}

fn damage(folder: &Path, seed: u64) {
    let path = folder.join("db");
    let mut bytes = std::fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for step in 0..20 {
        let at = (seed * 7919 + step * 104_729) as usize * 31 % used;
        bytes[at] ^= 1 << (step % 8);
    }
    std::fs::write(path, bytes).unwrap();
}
