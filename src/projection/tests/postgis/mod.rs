//! Tests in a server with PostGIS: everything that involves places.

#[path = "../agreement.rs"]
mod agreement;
#[path = "../apply.rs"]
mod apply;
#[path = "../query.rs"]
mod query;
#[path = "../wide.rs"]
mod wide;
#[path = "../world.rs"]
mod world;

use std::sync::OnceLock;

use super::postgres::{self, cases};
use super::support::server::{Database, shared};
use crate::projection::{SqlStore, StoreOptions};

/// Where a store is: in a schema of its own.
struct Place(postgres::Place);

impl Place {
    fn new() -> Self {
        static DATABASE: OnceLock<Database<'_>> = OnceLock::new();
        let database = DATABASE.get_or_init(|| shared().database(&["postgis"]));
        Self(postgres::Place::within(database))
    }

    async fn open(&self, options: &StoreOptions) -> SqlStore {
        self.0.open(options).await
    }

    async fn ask(&self, sql: &'static str) -> Vec<String> {
        self.0.ask(sql).await
    }
}
