//! Tests the indexes of tables that are too large for automatic ones.

use std::time::Duration;

use serde_json::json;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;

use super::query::{eq, find};
use super::world::*;
use crate::projection::StoreOptions;
use crate::projection::index::{IndexColumn, IndexEntry, IndexLimits, IndexState, IndexWish};

#[tokio::test]
async fn an_index_that_a_large_table_needs_is_listed_and_built_when_declared() {
    let mut world = World::with(StoreOptions {
        index_limits: IndexLimits {
            min_rows: 10,
            max_rows: 50,
            min_spent: Duration::ZERO,
            ..IndexLimits::default()
        },
        ..StoreOptions::default()
    })
    .await;
    world.commit(vec![extend("message", &[("title", FieldType::String)])]);
    let titled = |number: i64| {
        let title = json!({"title": format!("t{number}")});
        create(&format!("message/{number}"), number, title)
    };
    world.commit((0..50).map(titled).collect());
    world.apply_all(100).await;
    let query = find("message", Some(eq("title", json!("t3"))));
    let day = Timestamp::from_micros(24 * 3600 * 1_000_000);
    for _ in 0..2 {
        world.keys(&query).await;
        world.store.tend_indexes(day).await.unwrap();
        let listed = world.store.list_indexes().await.unwrap();
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert_eq!(listed[0].state, IndexState::None);
        let why = "the type has 50 records or more: skytrail index declare message title";
        assert!(listed[0].why.ends_with(why), "{listed:?}");
    }
    let columns = vec![IndexColumn::ascending("title")];
    let declared = IndexEntry {
        wish: IndexWish::Declared,
        ..IndexEntry::new("message".into(), columns)
    };
    world.place.set_index(declared).await;
    world.store.tend_indexes(day).await.unwrap();
    let listed = world.store.list_indexes().await.unwrap();
    assert_eq!(listed[0].state, IndexState::Built, "{listed:?}");
}
