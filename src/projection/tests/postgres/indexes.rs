//! Tests what only indexes in a server need.

use std::time::Duration;

use serde_json::json;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;

use super::query::{eq, find};
use super::world::*;
use crate::projection::StoreOptions;
use crate::projection::index::{IndexLimits, IndexState, IndexWish};

async fn world() -> World {
    let index_limits = IndexLimits {
        min_rows: 500,
        min_spent: Duration::ZERO,
        ..IndexLimits::default()
    };
    let mut world = World::with(StoreOptions {
        index_limits,
        ..StoreOptions::default()
    })
    .await;
    world
        .run(vec![extend("note", &[("text", FieldType::String)])])
        .await;
    let notes = (0..1000).map(|number| {
        let text = json!({"text": format!("t{number}")});
        create(&format!("note/{number}"), number, text)
    });
    world.run(notes.collect()).await;
    world
}

const INDEXES: &str = "SELECT c.relname::text FROM pg_class AS c JOIN pg_index AS i \
    ON i.indexrelid=c.oid WHERE c.relname LIKE '\\_query\\_%' AND indisvalid \
    AND c.relnamespace=to_regnamespace(quote_ident(current_schema))";

async fn tend(world: &World) {
    let query = find("note", Some(eq("text", json!("t7"))));
    assert_eq!(world.keys(&query).await.len(), 1);
    let day = Timestamp::from_micros(24 * 3600 * 1_000_000);
    world.store.tend_indexes(day).await.unwrap();
}

#[tokio::test]
async fn a_value_that_is_too_long_for_an_index_is_stored_and_the_index_goes() {
    let mut world = world().await;
    tend(&world).await;
    assert_eq!(world.place.ask(INDEXES).await.len(), 1);
    // A value that cannot be compressed.
    let mut seed = 1_u64;
    let text = (0..4000).map(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'!' + u8::try_from((seed >> 33) % 90).unwrap())
    });
    let text: String = text.collect();
    world
        .run(vec![create("note/long", 5000, json!({"text": text}))])
        .await;
    let found = find("note", Some(eq("text", json!(text))));
    assert_eq!(world.keys(&found).await, ["long"]);
    assert!(
        world
            .place
            .ask("SELECT reason FROM _faults")
            .await
            .is_empty()
    );
    // It does not return.
    tend(&world).await;
    assert!(world.place.ask(INDEXES).await.is_empty());
    let entries = world.store.list_indexes().await.unwrap();
    let entry = entries.first().unwrap();
    assert_eq!(
        (entry.wish, entry.state, entry.why.as_str()),
        (
            IndexWish::Forbidden,
            IndexState::None,
            "some values are too long for it"
        )
    );
    // Nor when somebody declares it: it cannot be created.
    let mut lifted = entry.clone();
    lifted.wish = IndexWish::Declared;
    world.place.set_index(lifted).await;
    tend(&world).await;
    let entries = world.store.list_indexes().await.unwrap();
    assert_eq!(entries.first().unwrap().wish, IndexWish::Forbidden);
    assert!(world.place.ask(INDEXES).await.is_empty());
}

#[tokio::test]
async fn what_a_crash_left_half_made_is_dropped_and_made_again() {
    let world = world().await;
    tend(&world).await;
    let made = world.place.ask(INDEXES).await;
    // As a crash leaves it before and after it is valid: not recorded, or not valid.
    world
        .place
        .ask("UPDATE _index SET state='none', name=NULL RETURNING type")
        .await;
    world
        .place
        .ask("UPDATE pg_index SET indisvalid=false WHERE indexrelid IN (SELECT oid FROM pg_class \
              WHERE relname LIKE '\\_query\\_%' AND relnamespace=to_regnamespace(quote_ident(current_schema))) \
              RETURNING indexrelid::text")
        .await;
    assert!(world.place.ask(INDEXES).await.is_empty());
    tend(&world).await;
    tend(&world).await;
    assert_eq!(world.place.ask(INDEXES).await, made);
    assert_eq!(
        world
            .store
            .list_indexes()
            .await
            .unwrap()
            .first()
            .unwrap()
            .state,
        IndexState::Built
    );
}
