//! The keys of subjects, next to a log that is sealed with them.

use std::path::Path;
use std::sync::Arc;

use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::{EmbeddedLog, EventLog as _, KEYRING_FILE, LogOpenError, OpenedLog};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::id::UserId;

use super::world::{SMALL, blind, close, fill, options};

fn open(disk: &MemoryDisk, folder: &Path) -> Result<EmbeddedLog, LogOpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let opened = OpenedLog::on_disk_with_keys(disk, SMALL, folder)?;
    let started = opened.start(options().0, Vec::new(), Default::default());
    Ok(started.unwrap())
}

async fn append_about(log: &EmbeddedLog, number: u64, user: &str) {
    let mut about = blind(number, number);
    about.commit.events[0].subject = Some(UserId::from(user));
    log.append(about).await.unwrap();
}

/// With fewer keys than the log is sealed with, numbers would be assigned twice.
#[tokio::test]
async fn a_log_whose_keys_are_lost_does_not_open_and_the_file_stays_as_it_is() {
    let (disk, folder) = (MemoryDisk::default(), tempfile::tempdir().unwrap());
    let file = folder.path().join(KEYRING_FILE);
    let log = open(&disk, folder.path()).unwrap();
    append_about(&log, 1, "ada").await;
    let only_ada = std::fs::read(&file).unwrap();
    append_about(&log, 2, "bob").await;
    // The events that need keys are far back and in other segments.
    fill(&log, 5000).await;
    close(&log);
    let whole = std::fs::read(&file).unwrap();
    assert!(only_ada.len() < whole.len());

    for lost in [None, Some(Vec::new()), Some(vec![0; whole.len()])] {
        match &lost {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        // A second attempt is refused again.
        for _ in 0..2 {
            let refused = open(&disk, folder.path()).err().unwrap().to_string();
            assert!(
                refused.contains(KEYRING_FILE) && refused.contains("backup"),
                "{refused}"
            );
        }
        let left = std::fs::read(&file).unwrap_or_default();
        assert_eq!(left, lost.unwrap_or_default());
    }
    std::fs::write(&file, &whole).unwrap();
    let log = open(&disk, folder.path()).unwrap();
    append_about(&log, 3, "bob").await;
    close(&log);
    // An older version of the file, without a key for a user who was active lately.
    std::fs::write(&file, &only_ada).unwrap();
    let refused = open(&disk, folder.path()).err().unwrap().to_string();
    assert!(refused.contains("key 2"), "{refused}");
    std::fs::write(&file, &whole).unwrap();
    close(&open(&disk, folder.path()).unwrap());
}

#[tokio::test]
async fn a_log_that_has_nothing_sealed_opens_without_keys() {
    let (disk, folder) = (MemoryDisk::default(), tempfile::tempdir().unwrap());
    let log = open(&disk, folder.path()).unwrap();
    fill(&log, 20).await;
    close(&log);
    std::fs::remove_file(folder.path().join(KEYRING_FILE)).unwrap();
    let log = open(&disk, folder.path()).unwrap();
    append_about(&log, 1, "ada").await;
    close(&log);
    close(&open(&disk, folder.path()).unwrap());
}
