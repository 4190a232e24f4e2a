//! Tests how reads share the connections.

use std::time::Duration;

use serde_json::json;
use skytrail_actors::store::RecordStore as _;
use tokio::time::timeout;

use super::query::find;
use super::world::*;
use crate::projection::StoreOptions;

#[tokio::test]
async fn queries_leave_a_connection_to_those_who_look_something_up() {
    let mut world = World::with(StoreOptions {
        num_readers: 2,
        ..StoreOptions::default()
    })
    .await;
    world
        .run(vec![extend("note", &[]), create("note/1", 1, json!({}))])
        .await;
    let note = world.types.values().next().unwrap().clone();
    let running = world.store.occupy().await;
    let all = find("note", None);
    let mut next = Box::pin(world.keys(&all));
    assert!(timeout(Duration::ZERO, &mut next).await.is_err());
    let keys = ["1".into()];
    let found = world.store.load_heads(&note, &keys);
    let found = timeout(Duration::from_secs(60), found)
        .await
        .unwrap()
        .unwrap();
    assert!(found[0].is_some());
    drop(running);
    assert_eq!(next.await, ["1"]);
}
