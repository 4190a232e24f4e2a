//! Tests that the table of the past gets the same indexes as that of the present.

use std::time::Duration;

use serde_json::json;
use skytrail_actors::store::{NoHeads, RecordStore as _, Viewer};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::event::{EventBody, FieldDeletion, FieldRename, Intervals, Stream};
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;

use super::query::{by, eq, find, keys_of};
use super::world::*;
use crate::projection::StoreOptions;
use crate::projection::index::{IndexColumn, IndexEntry, IndexLimits, IndexState, IndexWish};

const ROWS: i64 = 2000;

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
    let fields = [("room", FieldType::String), ("n", FieldType::Number)];
    world.run(vec![extend("message", &fields)]).await;
    let messages = (0..ROWS).map(|number| {
        let values = json!({"room": format!("r{}", number % 20), "n": number});
        create(&format!("message/{number}"), number, values)
    });
    world.run(messages.collect()).await;
    world
}

fn newest(field: &str) -> Query {
    let mut query = find("message", Some(eq(field, json!("r3"))));
    query.sort = vec![by("_created_at", true)];
    query.limit = Some(10);
    query
}

fn keep(are_kept: bool) -> Vec<(Stream, EventBody)> {
    let body = EventBody::TypeIntervalsSet(Intervals { are_kept });
    vec![(Stream::Type("message".into()), body)]
}

impl World {
    async fn tend_past(&self) {
        let day = Timestamp::from_micros(24 * 3600 * 1_000_000);
        // The first call creates an index, the second its counterpart over the past.
        self.store.tend_indexes(day).await.unwrap();
        self.store.tend_indexes(day).await.unwrap();
    }

    /// Changes every record, so that all of them have a past; returns the position before the
    /// changes.
    async fn change_all(&mut self, field: &str) -> u64 {
        let position = self.log.last().unwrap().last_position();
        let changes = (0..ROWS).map(|number| {
            let room = json!({field: format!("r{}", (number + 1) % 20)});
            patch(&format!("message/{number}"), ROWS + number, room, &[])
        });
        let changes = changes.collect();
        self.run(changes).await;
        position
    }

    async fn keys_as_of(&self, query: &Query, position: u64) -> Vec<String> {
        let caller = Caller {
            key: KeyKind::Master,
            ..Caller::default()
        };
        let viewer = Viewer {
            scope: &Scope::Public,
            caller: &caller,
        };
        let moment = (position, &self.types[&query.record_type]);
        let answer = self.store.query_as_of(query, &viewer, &NoHeads, moment);
        keys_of(&answer.await.unwrap().unwrap())
    }

    /// Returns what is known of the indexes: their first field, whether they exist, and whether
    /// they have a counterpart over the past.
    async fn listed(&self) -> Vec<(String, bool, bool)> {
        let entries = self.store.list_indexes().await.unwrap().into_iter();
        let listed = entries.map(|entry| {
            let is_built = entry.state == IndexState::Built;
            (entry.columns[0].field.clone(), is_built, entry.has_past)
        });
        listed.collect()
    }

    async fn uses_past_index(&self, query: &Query, position: u64) -> bool {
        let access = self.store.explain(query, Some(position)).await.unwrap();
        let is_of_past = |name: &String| name.starts_with("_asof_");
        access.uses.iter().any(is_of_past) && !access.is_scanning
    }
}

#[tokio::test]
async fn the_past_gets_the_index_of_the_present_and_follows_it() {
    let mut world = world().await;
    world.keys(&newest("room")).await;
    world.tend_past().await;
    assert_eq!(world.listed().await, [("room".to_owned(), true, false)]);

    // The past is kept, then not, and then again.
    for round in 0..2 {
        world.run(keep(true)).await;
        world.tend_past().await;
        let listed = world.listed().await;
        assert_eq!(listed, [("room".to_owned(), true, true)], "{round}");
        world.run(keep(false)).await;
        world.tend_past().await;
        let listed = world.listed().await;
        assert_eq!(listed, [("room".to_owned(), true, false)], "{round}");
    }
    world.run(keep(true)).await;
    let before = world.keys(&newest("room")).await;
    let position = world.change_all("room").await;
    assert_eq!(world.keys_as_of(&newest("room"), position).await, before);
    assert!(!world.uses_past_index(&newest("room"), position).await);
    world.tend_past().await;
    assert!(world.uses_past_index(&newest("room"), position).await);
    assert_eq!(world.keys_as_of(&newest("room"), position).await, before);
    let entry = world.store.list_indexes().await.unwrap().remove(0);
    let of_past = world.keys_as_of(&newest("room"), position).await;
    world.tend_past().await;
    let used = world.store.list_indexes().await.unwrap().remove(0);
    assert_eq!(used.num_uses - entry.num_uses, 2, "each once");
    assert_eq!(of_past, before);

    // The field is renamed, and then deleted.
    let rename = EventBody::TypeFieldRenamed(FieldRename {
        from: "room".to_owned(),
        to: "place".to_owned(),
    });
    world
        .run(vec![(Stream::Type("message".into()), rename)])
        .await;
    world.tend_past().await;
    assert_eq!(world.listed().await, [("place".to_owned(), true, true)]);
    let before = world.keys(&newest("place")).await;
    let position = world.change_all("place").await;
    assert!(world.uses_past_index(&newest("place"), position).await);
    assert_eq!(world.keys_as_of(&newest("place"), position).await, before);
    let delete = EventBody::TypeFieldDeleted(FieldDeletion {
        field: "place".to_owned(),
    });
    world
        .run(vec![(Stream::Type("message".into()), delete)])
        .await;
    world.tend_past().await;
    assert!(world.listed().await.is_empty());
    assert_eq!(world.faults().await, [""; 0]);
}

#[tokio::test]
async fn who_asks_about_the_past_only_gets_its_index_and_a_forbidden_one_goes_from_both() {
    let mut world = world().await;
    world.run(keep(true)).await;
    let position = world.change_all("room").await;
    world.place.analyze().await;
    let then = world.keys_as_of(&newest("room"), position).await;
    world.tend_past().await;
    assert_eq!(world.listed().await, [("room".to_owned(), true, true)]);
    assert!(world.uses_past_index(&newest("room"), position).await);
    assert_eq!(world.keys_as_of(&newest("room"), position).await, then);

    let columns = ["room", "_created_at"].map(IndexColumn::ascending);
    let forbidden = IndexEntry {
        wish: IndexWish::Forbidden,
        ..IndexEntry::new("message".into(), columns.into())
    };
    world.place.set_index(forbidden).await;
    world.tend_past().await;
    assert_eq!(world.listed().await, [("room".to_owned(), false, false)]);
    assert!(!world.uses_past_index(&newest("room"), position).await);
    assert_eq!(world.keys_as_of(&newest("room"), position).await, then);
}
