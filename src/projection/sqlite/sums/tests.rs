//! Tests checksums against SQLite itself: nothing that it does looks like damage, and all damage
//! does.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use skytrail_actors::store::RecordStore as _;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tempfile::TempDir;

use super::{Damage, Merger, PAGE_BYTES, PARTS, merge, part, seal, wal::Walk};
use crate::projection::sqlite::held::HeldFile;
use crate::projection::sqlite::{StoreOptions, open_writer, reader_options};

async fn find_damage(path: &Path) -> Option<Damage> {
    let store = HeldFile::open(path).unwrap();
    super::find_damage(path, &store, None).await.unwrap()
}

/// A store's file with a table to fill.
struct World {
    _folder: TempDir,
    path: PathBuf,
    conn: sqlx::SqliteConnection,
    _held: HeldFile,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let (mut conn, _held) = open_writer(&path, &StoreOptions::default()).await.unwrap();
        sqlx::query("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT, number REAL)")
            .execute(&mut conn)
            .await
            .unwrap();
        Self {
            _folder: folder,
            path,
            conn,
            _held,
        }
    }

    async fn fill(&mut self, rows: u32, text: &str) {
        let mut tx = self.conn.begin().await.unwrap();
        for number in 0..rows {
            sqlx::query("INSERT INTO t (text, number) VALUES (?, ?)")
                .bind(text)
                .bind(number)
                .execute(&mut *tx)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
    }

    async fn run(&mut self, sql: &'static str) {
        sqlx::query(sql).execute(&mut self.conn).await.unwrap();
    }

    /// Copies the files in their present state, as after a kill.
    fn copy(&self) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        for ending in PARTS.iter().filter(|ending| **ending != "-shm") {
            let _ = std::fs::copy(part(&self.path, ending), part(&path, ending));
        }
        (folder, path)
    }

    /// Creates a store at rest, with many pages.
    async fn at_rest() -> (TempDir, PathBuf) {
        let mut world = Self::new().await;
        world.run("CREATE INDEX i ON t (number)").await;
        world.fill(400, &"text ".repeat(60)).await;
        merge(&mut world.conn, &world.path).await.unwrap();
        world.conn.close().await.unwrap();
        (world._folder, world.path)
    }
}

#[tokio::test]
async fn what_sqlite_does_is_no_damage() {
    let mut world = World::new().await;
    let mut reader = reader_options(&world.path, &StoreOptions::default())
        .connect()
        .await
        .unwrap();
    let mut merger = Merger::new(&world.path, 30);
    for round in 0..12_u32 {
        world.fill(40, &"x".repeat(1 + 700 * round as usize)).await;
        if round == 3 {
            // An old reader prevents the write-ahead file from being merged completely.
            sqlx::raw_sql("BEGIN; SELECT count(*) FROM t;")
                .execute(&mut reader)
                .await
                .unwrap();
        }
        if round == 7 {
            sqlx::raw_sql("ROLLBACK")
                .execute(&mut reader)
                .await
                .unwrap();
        }
        if round % 2 == 1 {
            world.run("DELETE FROM t WHERE id % 3 = 0").await;
        }
        merger.go_on(&mut world.conn).await.unwrap();
        assert_eq!(find_damage(&world.path).await, None);
        let (_folder, copy) = world.copy();
        assert_eq!(find_damage(&copy).await, None, "{round}");
        let (mut reopened, _held) = open_writer(&copy, &StoreOptions::default()).await.unwrap();
        merge(&mut reopened, &copy).await.unwrap();
        reopened.close().await.unwrap();
        assert_eq!(find_damage(&copy).await, None, "{round}");
    }
}

#[tokio::test]
async fn the_write_ahead_file_stays_short() {
    let mut world = World::new().await;
    let mut merger = Merger::new(&world.path, 32);
    let mut num_merged = 0;
    for _ in 0..100 {
        world.fill(4, &"x".repeat(2000)).await;
        merger.go_on(&mut world.conn).await.unwrap();
        let row = sqlx::query("PRAGMA wal_checkpoint(NOOP)")
            .fetch_one(&mut world.conn)
            .await
            .unwrap();
        let (frames, merged): (u32, u32) = (row.get(1), row.get(2));
        assert!(frames - merged < 64, "{merged} of {frames} are merged");
        num_merged += u32::from(frames == merged);
    }
    assert!(num_merged >= 4, "merged {num_merged} times");
    assert_eq!(find_damage(&world.path).await, None);
}

#[tokio::test]
async fn frames_are_counted_as_sqlite_counts_them() {
    let mut world = World::new().await;
    let mut walk = Walk::default();
    for _ in 0..5 {
        world.fill(100, "some text").await;
        let row = sqlx::query("PRAGMA wal_checkpoint(NOOP)")
            .fetch_one(&mut world.conn)
            .await
            .unwrap();
        walk.go_on(&world.path).unwrap();
        let counted = walk.found().num_frames;
        let mut anew = Walk::default();
        anew.go_on(&world.path).unwrap();
        assert_eq!(walk.found(), anew.found());
        assert_eq!(row.get::<i64, _>(1), i64::from(counted));
        assert!(counted > 0);
    }
}

#[tokio::test]
async fn a_write_ahead_file_that_lost_what_was_merged_in_part_is_damage() {
    let mut world = World::new().await;
    world.fill(50, "before").await;
    let mut reader = reader_options(&world.path, &StoreOptions::default())
        .connect()
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM t;")
        .execute(&mut reader)
        .await
        .unwrap();
    world.fill(500, "behind").await;
    merge(&mut world.conn, &world.path).await.unwrap();
    world.fill(50, "never merged").await;
    let (_folder, copy) = world.copy();
    let frame = 24 + PAGE_BYTES;
    let wal = part(&copy, "-wal");
    let whole = std::fs::read(&wal).unwrap();
    for (at, is_damage) in [(32 + 2 * frame + 100, true), (whole.len() - 100, false)] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&wal, bytes).unwrap();
        let found = find_damage(&copy).await;
        assert_eq!(found.is_some(), is_damage, "byte {at}: {found:?}");
    }
    std::fs::remove_file(&wal).unwrap();
    assert!(find_damage(&copy).await.is_some());
}

#[tokio::test]
async fn what_belongs_together_is_missed() {
    let (_folder, path) = World::at_rest().await;
    let found = || find_damage(&path);
    let (store, sums) = (std::fs::read(&path).unwrap(), part(&path, "-sums"));
    let kept = std::fs::read(&sums).unwrap();

    std::fs::remove_file(&sums).unwrap();
    assert!(matches!(found().await, Some(Damage::Whole(_))));
    for length in [0, 10, kept.len() - 4] {
        std::fs::write(&sums, &kept[..length]).unwrap();
        assert!(found().await.is_some(), "{length} bytes of checksums");
    }
    std::fs::write(&sums, &kept).unwrap();
    for length in [store.len() - PAGE_BYTES, store.len() - 1, PAGE_BYTES] {
        std::fs::write(&path, &store[..length]).unwrap();
        assert!(found().await.is_some(), "{length} bytes");
    }
    let mut swapped = store.clone();
    swapped.copy_within(3 * PAGE_BYTES..4 * PAGE_BYTES, 5 * PAGE_BYTES);
    std::fs::write(&path, swapped).unwrap();
    assert_eq!(found().await, Some(Damage::Pages(vec![6])));
    std::fs::write(&path, store).unwrap();
    assert_eq!(found().await, None);
    seal(&path, &HeldFile::open(&path).unwrap()).await.unwrap();
    assert_eq!(found().await, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_flipped_bit_is_found(places in proptest::collection::vec(any::<prop::sample::Index>(), 40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, path) = World::at_rest().await;
            let store = std::fs::read(&path).unwrap();
            for place in places {
                let mut bytes = store.clone();
                let bit = place.index(bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, bytes).unwrap();
                let page = u32::try_from(bit / 8 / PAGE_BYTES).unwrap() + 1;
                let found = find_damage(&path).await;
                assert_eq!(found, Some(Damage::Pages(vec![page])), "bit {bit}");
            }
        });
    }
}

#[tokio::test]
async fn a_store_that_is_closed_opens_again_and_a_damaged_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records.sqlite");
    let options = StoreOptions::default();
    for _ in 0..3 {
        let store = crate::projection::SqlStore::open_file(&path, &options).await;
        store.unwrap().close().await.unwrap();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[2 * PAGE_BYTES + 77] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = crate::projection::SqlStore::open_file(&path, &options).await;
    let error = refused.err().unwrap();
    assert!(error.is_damage());
    assert!(
        error.to_string().contains("page 3 at offset 8192"),
        "{error}"
    );
}
