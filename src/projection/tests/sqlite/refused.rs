//! Tests queries that the database refuses.

use serde_json::json;
use skytrail_actors::store::{NoHeads, RecordStore as _, Viewer};
use skytrail_schema::caller::Caller;
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::types::FieldType;

use super::query::{by, eq, find};
use super::world::*;

async fn is_answered(world: &World, query: &Query) -> bool {
    let viewer = Viewer {
        scope: &Scope::Public,
        caller: &Caller::default(),
    };
    world.store.query(query, &viewer, &NoHeads).await.is_ok()
}

#[tokio::test]
async fn what_is_refused_is_not_looked_at_for_an_index() {
    let mut world = World::new().await;
    let note = extend("note", &[("text", FieldType::String)]);
    let fields = json!({"text": "a"});
    world.run(vec![note, create("note/1", 1, fields)]).await;
    let mut query = find("note", Some(eq("text", json!("a"))));
    query.sort = vec![by("text", false); 3000];
    assert!(!is_answered(&world, &query).await);
    assert_eq!(world.store.stats.take_look().len(), 0);
    query.sort.truncate(1);
    assert!(is_answered(&world, &query).await);
    assert_eq!(world.store.stats.take_look().len(), 1);
}
