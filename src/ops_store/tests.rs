use std::io::{Seek as _, SeekFrom, Write as _};
use std::sync::Arc;

use serde_json::json;
use skytrail_actors::delivery::consumers::{ConsumerCheckpoint, Cursor, DeadLetter, Open};

use super::*;

fn checkpoint(read: u64) -> ConsumerCheckpoint {
    ConsumerCheckpoint {
        cursor: Cursor {
            read,
            open: vec![Open {
                position: read - 1,
                hook: "h".into(),
                attempts: 2,
            }],
            ..Cursor::default()
        },
        ..ConsumerCheckpoint::default()
    }
}

fn letter(position: u64) -> DeadLetter {
    DeadLetter {
        position,
        hook: "h".into(),
        record: format!("note/{position}"),
        attempts: 10,
        error: json!({"code": 1}),
        at: Timestamp::from_micros(5),
    }
}

/// Returns the letters that can be read.
fn letters(listed: Vec<ListedDeadLetter>) -> Vec<DeadLetter> {
    listed.into_iter().filter_map(|it| it.letter.ok()).collect()
}

fn change(read: u64, dead: &[u64], forgotten: &[u64]) -> ConsumerChange {
    let hook: Arc<str> = "h".into();
    ConsumerChange {
        checkpoint: checkpoint(read),
        dead: dead.iter().map(|position| letter(*position)).collect(),
        forgotten: forgotten
            .iter()
            .map(|position| (*position, Arc::clone(&hook)))
            .collect(),
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(1 << 50)
}

async fn open(path: &Path) -> OpsStore {
    OpsStore::open(path, now()).await.unwrap()
}

/// Copies what a killed process would leave behind. The files go to a folder of their own, since
/// the ops store that wrote them keeps them locked.
fn left_behind(path: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = entry.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[tokio::test]
async fn what_was_kept_is_there_after_a_loss_of_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ops.sqlite");
    let ops_store = open(&path).await;
    ops_store
        .save("A", &change(5, &[1, 2, 3], &[]))
        .await
        .unwrap();
    ops_store.save("A", &change(9, &[], &[2])).await.unwrap();
    ops_store.save("B", &change(7, &[4], &[])).await.unwrap();
    let killed = left_behind(&path);
    let ops_store = open(&killed.path().join("ops.sqlite")).await;
    let kept = ops_store.load().await.unwrap();
    assert_eq!(kept.consumers["A"], checkpoint(9));
    assert_eq!(kept.consumers["B"], checkpoint(7));
    assert!(!kept.is_lost && kept.damaged.is_empty());
    let listed = ops_store.list_dead_letters("A", None, 10).await.unwrap();
    assert_eq!(letters(listed), [letter(1), letter(3)]);
    let after = (1, "h".into());
    let listed = ops_store
        .list_dead_letters("A", Some(&after), 10)
        .await
        .unwrap();
    assert_eq!(letters(listed), [letter(3)]);
    assert_eq!(ops_store.count_dead_letters("A").await.unwrap(), 2);
    ops_store.forget("A").await.unwrap();
    assert_eq!(ops_store.count_dead_letters("A").await.unwrap(), 0);
    assert_eq!(ops_store.load().await.unwrap().consumers.len(), 1);
    ops_store.close().await;
    assert!(ops_store.save("A", &change(5, &[], &[])).await.is_err());
}

#[tokio::test]
async fn a_letter_that_is_newer_than_a_forgotten_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let ops_store = open(&folder.path().join("ops.sqlite")).await;
    ops_store.save("A", &change(5, &[1, 2], &[])).await.unwrap();
    ops_store
        .save("A", &change(5, &[1], &[1, 2]))
        .await
        .unwrap();
    let listed = ops_store.list_dead_letters("A", None, 10).await.unwrap();
    assert_eq!(letters(listed), [letter(1)]);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_loss_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ops.sqlite");
    let ops_store = open(&path).await;
    ops_store.save("A", &change(5, &[1], &[])).await.unwrap();
    ops_store.close().await;
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[7; 4096]).unwrap();
    drop(file);
    let ops_store = open(&path).await;
    let kept = ops_store.load().await.unwrap();
    assert!(kept.is_lost && kept.consumers.is_empty());
    assert!(folder.path().join("ops.damaged-1.sqlite").exists());
    ops_store.close().await;
    // The loss is still known at the next start, but not forever.
    let ops_store = open(&path).await;
    assert!(ops_store.load().await.unwrap().is_lost);
    ops_store.close().await;
    let later = Timestamp::from_micros(now().micros() + 31 * 24 * 3600 * 1_000_000);
    let ops_store = OpsStore::open(&path, later).await.unwrap();
    assert!(!ops_store.load().await.unwrap().is_lost);
}

#[tokio::test]
async fn a_row_that_is_not_what_was_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ops.sqlite");
    let ops_store = open(&path).await;
    ops_store.save("A", &change(5, &[], &[])).await.unwrap();
    ops_store.save("B", &change(5, &[], &[])).await.unwrap();
    let spoilt = "UPDATE consumer SET standing = replace(standing, '5', '6') WHERE name = 'A'";
    let mut held = ops_store.connection.lock().await;
    let connection = held.as_mut().unwrap();
    sqlx::query(spoilt).execute(connection).await.unwrap();
    drop(held);
    ops_store.close().await;
    let reopened = open(&path).await;
    let kept = reopened.load().await.unwrap();
    assert_eq!(kept.damaged, ["A"]);
    assert_eq!(kept.consumers.len(), 1);
}

#[tokio::test]
async fn a_letter_that_cannot_be_read_is_named_among_the_others_and_can_be_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let ops_store = open(&folder.path().join("ops.sqlite")).await;
    ops_store
        .save("A", &change(5, &[1, 2, 3, 4], &[]))
        .await
        .unwrap();
    let mut held = ops_store.connection.lock().await;
    for spoilt in [
        "UPDATE dead_letter SET letter = substr(letter, 1, 20) WHERE position = 2",
        "UPDATE dead_letter SET letter = x'ff00' WHERE position = 3",
    ] {
        let connection = held.as_mut().unwrap();
        sqlx::query(spoilt).execute(connection).await.unwrap();
    }
    drop(held);
    let listed = ops_store.list_dead_letters("A", None, 10).await.unwrap();
    let found = listed
        .iter()
        .map(|it| (it.id.0, &*it.id.1, it.letter.is_ok()));
    let expected = [
        (1, "h", true),
        (2, "h", false),
        (3, "h", false),
        (4, "h", true),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(listed[3].letter, Ok(letter(4)));
    assert!(matches!(&listed[1].letter, Err(why) if why.contains("EOF")));
    // A page can end with a damaged letter.
    let page = ops_store
        .list_dead_letters("A", Some(&listed[1].id), 1)
        .await;
    assert_eq!(page.unwrap(), &listed[2..3]);
    ops_store.save("A", &change(5, &[], &[2, 3])).await.unwrap();
    let remaining = ops_store.list_dead_letters("A", None, 10).await.unwrap();
    assert_eq!(letters(remaining), [letter(1), letter(4)]);
}
