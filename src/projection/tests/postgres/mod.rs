//! Tests in a server.

#[path = "../accounts.rs"]
mod accounts;
#[path = "../agreement.rs"]
mod agreement;
#[path = "../apply.rs"]
mod apply;
#[path = "../history.rs"]
mod history;
mod indexes;
mod layout;
#[path = "../indexes.rs"]
mod own_indexes;
#[path = "../pages.rs"]
mod pages;
#[path = "../past.rs"]
mod past;
#[path = "../past_indexes.rs"]
mod past_indexes;
#[path = "../query.rs"]
mod query;
#[path = "../wide.rs"]
mod wide;
#[path = "../world.rs"]
mod world;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skytrail_actors::store::RecordStore as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use self::world::World;
use super::support::server::{Database, shared};
use crate::projection::index::{
    IndexEntry, StorePlace, carry_over_indexes, list_indexes, set_index,
};
use crate::projection::{ServerOptions, SqlStore, StoreOptions};

/// How many of a test's cases are run: creating a schema for each takes longer than the case
/// itself.
pub(super) fn cases(number: u32) -> u32 {
    number / 4
}

/// Where a store is: in a schema of its own.
pub(super) struct Place {
    url: String,
    app: String,
}

impl Place {
    fn new() -> Self {
        static DATABASE: OnceLock<Database<'_>> = OnceLock::new();
        Self::within(DATABASE.get_or_init(|| shared().database(&[])))
    }

    pub(super) fn within(database: &Database<'_>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            url: database.url(),
            app: format!("world_{number}"),
        }
    }

    fn place(&self) -> StorePlace<'_> {
        StorePlace::Server {
            url: &self.url,
            app: &self.app,
        }
    }

    /// Does what the server does by itself sooner or later. Tables of other tests are left alone: a
    /// statement for all tables would wait for their indexes, and these would wait for it.
    async fn analyze(&self) {
        let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
                      WHERE schemaname = current_schema()";
        let tables = self.ask(tables).await.join(",");
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let sql = sqlx::raw_sql(AssertSqlSafe(format!("ANALYZE {tables}")));
        sql.execute(&mut conn).await.unwrap();
    }

    async fn list_indexes(&self) -> Vec<IndexEntry> {
        list_indexes(self.place()).await.unwrap()
    }

    async fn set_index(&self, entry: IndexEntry) {
        set_index(self.place(), entry).await.unwrap();
    }

    async fn carry_over_indexes(&self, to: &Self) {
        let carried = carry_over_indexes(self.place(), to.place());
        carried.await.unwrap();
    }

    pub(super) async fn open(&self, options: &StoreOptions) -> SqlStore {
        let options = ServerOptions {
            synchronous_commit: true,
            app: self.app.clone(),
            max_readers: 4,
            max_wait: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(60),
            index_limits: options.index_limits,
        };
        SqlStore::open_server(&self.url, &options).await.unwrap()
    }

    pub(super) async fn ask(&self, sql: &'static str) -> Vec<String> {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let schema = format!("SET search_path TO \"app_{}\", public", self.app);
        let schema = sqlx::raw_sql(AssertSqlSafe(schema));
        schema.execute(&mut conn).await.unwrap();
        let rows = sqlx::query(sql).fetch_all(&mut conn).await.unwrap();
        rows.iter().map(|row| row.try_get(0).unwrap()).collect()
    }
}

/// Opens the store again, which must not have lost anything.
async fn check_rebuilt(world: &mut World) {
    world.store.close().await.unwrap();
    world.reopen().await;
}
