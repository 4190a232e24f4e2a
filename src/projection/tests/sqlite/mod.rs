//! Tests in a file.

#[path = "../accounts.rs"]
mod accounts;
#[path = "../agreement.rs"]
mod agreement;
#[path = "../apply.rs"]
mod apply;
#[path = "../history.rs"]
mod history;
#[path = "../indexes.rs"]
mod indexes;
mod large;
#[path = "../pages.rs"]
mod pages;
#[path = "../past.rs"]
mod past;
#[path = "../past_indexes.rs"]
mod past_indexes;
#[path = "../query.rs"]
mod query;
mod refused;
mod turns;
#[path = "../world.rs"]
mod world;

use std::path::PathBuf;

use skytrail_actors::store::RecordStore as _;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};
use tempfile::TempDir;

use self::world::World;
use crate::projection::index::{
    IndexEntry, StorePlace, carry_over_indexes, list_indexes, set_index,
};
use crate::projection::rebuild::{rebuild, switch};
use crate::projection::{SqlStore, StoreOptions, digest};

/// How many of a test's cases are run.
fn cases(number: u32) -> u32 {
    number
}

/// Where a store is.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("records.db")
    }

    /// A file does without what the planner does not know.
    async fn analyze(&self) {}

    async fn list_indexes(&self) -> Vec<IndexEntry> {
        let path = self.path();
        list_indexes(StorePlace::File(&path)).await.unwrap()
    }

    async fn set_index(&self, entry: IndexEntry) {
        let path = self.path();
        set_index(StorePlace::File(&path), entry).await.unwrap();
    }

    async fn carry_over_indexes(&self, to: &Self) {
        let (from, to) = (self.path(), to.path());
        let (from, to) = (StorePlace::File(&from), StorePlace::File(&to));
        carry_over_indexes(from, to).await.unwrap();
    }

    async fn open(&self, options: &StoreOptions) -> SqlStore {
        SqlStore::open_file(&self.path(), options).await.unwrap()
    }

    async fn ask(&self, sql: &'static str) -> Vec<String> {
        let options = SqliteConnectOptions::new().filename(self.path());
        let mut conn = options.read_only(true).connect().await.unwrap();
        let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
        rows.iter().map(|row| row.try_get(0).unwrap()).collect()
    }
}

/// Returns a store's tables and indexes, each with the statement that created it.
async fn schema(place: &Place) -> Vec<String> {
    let made = place.ask("SELECT name || ': ' || coalesce(sql, '') FROM sqlite_schema ORDER BY 1");
    let made = made.await.into_iter();
    let in_one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    made.map(in_one_line).collect()
}

/// Asserts that a store made anew from the log is the same, table by table and row by row; then
/// replaces the store by it.
async fn check_rebuilt(world: &mut World) {
    world.store.close().await.unwrap();
    let (current, new) = (world.place.path(), world.place.path().with_extension("new"));
    let mut read = |from: u64, _: usize| {
        Ok(world
            .log
            .iter()
            .filter(|commit| commit.last_position() >= from)
            .take(7)
            .cloned()
            .collect())
    };
    let until = world.log.last().map_or(0, |commit| commit.last_position());
    rebuild((&new, false), until, &mut read, &mut |_| {})
        .await
        .unwrap();
    let (live, rebuilt) = (digest(&current).await.unwrap(), digest(&new).await.unwrap());
    assert_eq!(live, rebuilt);
    let expected = schema(&world.place).await;
    switch(&new, &current).unwrap();
    assert_eq!(schema(&world.place).await, expected);
    world.reopen().await;
}
