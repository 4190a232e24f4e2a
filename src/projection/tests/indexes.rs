//! Tests automatic indexes.

use std::time::Duration;

use serde_json::json;
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::event::{EventBody, FieldDeletion, Stream};
use skytrail_schema::predicate::CompareOp;
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;

use super::query::{by, compare, eq, find};
use super::world::*;
use crate::projection::StoreOptions;
use crate::projection::index::{
    Access, IndexColumn, IndexEntry, IndexLimits, IndexState, IndexWish, shapes_of,
};
use crate::projection::sql::Sql;

const ROWS: usize = 3000;

fn limits() -> IndexLimits {
    IndexLimits {
        min_rows: 500,
        min_spent: Duration::ZERO,
        ..IndexLimits::default()
    }
}

async fn world(index_limits: IndexLimits) -> World {
    let mut world = World::with(StoreOptions {
        index_limits,
        ..StoreOptions::default()
    })
    .await;
    let fields = [
        ("room", FieldType::Reference("room".into())),
        ("title", FieldType::String),
        ("nick", FieldType::CaselessString),
        ("n", FieldType::Number),
    ];
    world.commit(vec![
        extend("room", &[("name", FieldType::String)]),
        extend("message", &fields),
    ]);
    let messages = (0..ROWS).map(|number| {
        let room = json!({"$type": "ref", "$id": format!("room/{}", number % 10)});
        let values = json!({"room": room, "title": format!("t{}", number % 100), "n": number,
            "nick": format!("N{number}")});
        create(&format!("message/{number}"), number as i64, values)
    });
    let messages = messages.collect();
    world.commit(messages);
    world.apply_all(100).await;
    world.place.analyze().await;
    world
}

fn of_room() -> Query {
    let mut query = find("message", Some(eq("room", json!("3"))));
    query.sort = vec![by("_created_at", true)];
    query.limit = Some(10);
    query
}

fn on(fields: &[&str]) -> IndexEntry {
    let columns = fields.iter().map(|field| IndexColumn::ascending(*field));
    IndexEntry::new("message".into(), columns.collect())
}

/// Returns whether a query uses an index that the store has created by itself.
fn uses_own(access: &Access) -> bool {
    access.uses.iter().any(|name| name.starts_with("_query_"))
}

fn day(number: i64) -> Timestamp {
    Timestamp::from_micros(number * 24 * 3600 * 1_000_000)
}

impl World {
    async fn run_query(&self, query: &Query) {
        self.keys(query).await;
    }

    async fn tend(&self, now: Timestamp) {
        self.store.tend_indexes(now).await.unwrap();
    }

    /// Returns the existing indexes, as `type field,field`.
    async fn built(&self) -> Vec<String> {
        let entries = self.store.list_indexes().await.unwrap().into_iter();
        let built = entries.filter(|entry| entry.state == IndexState::Built);
        built
            .map(|entry| {
                let columns: Vec<String> = entry
                    .columns
                    .into_iter()
                    .map(|column| column.field)
                    .collect();
                format!("{} {}", entry.record_type, columns.join(","))
            })
            .collect()
    }

    /// Returns the database's plan of a query.
    async fn plan(&self, query: &Query) -> Access {
        self.store.explain(query, None).await.unwrap()
    }
}

#[tokio::test]
async fn a_query_that_scans_gets_its_index() {
    let world = world(limits()).await;
    let mut by_number = find("message", Some(compare(CompareOp::Gt, "n", json!(2990))));
    by_number.sort = vec![by("n", true)];
    let cases = [
        (of_room(), "message room,_created_at"),
        (
            find("message", Some(eq("title", json!("t1")))),
            "message title",
        ),
        (
            find("message", Some(eq("nick", json!("n1")))),
            "message nick",
        ),
        (by_number, "message n"),
    ];
    for (query, index) in cases {
        let before = world.plan(&query).await;
        assert!(before.is_scanning, "{before:?}");
        let answer = world.keys(&query).await;
        world.tend(day(1)).await;
        assert!(
            world.built().await.iter().any(|built| built == index),
            "{index}"
        );
        let after = world.plan(&query).await;
        assert!(uses_own(&after) && !after.is_scanning, "{index}: {after:?}");
        assert_eq!(world.keys(&query).await, answer);
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_explained_does_not_stop_the_others() {
    let world = world(limits()).await;
    world.run_query(&of_room()).await;
    let query = find("message", Some(eq("title", json!("t1"))));
    let catalog = world.store.catalog.load_full();
    let layout = catalog.get(&query.record_type).unwrap();
    let bound = query.bind(&layout.definition, &*catalog).unwrap();
    let shapes = shapes_of(&query.record_type, &bound, &Scope::Public);
    let nowhere = || Some(Sql::new("SELECT 1 FROM nowhere").finish());
    let stats = &world.store.stats;
    stats.note(shapes, Duration::from_secs(1), nowhere);
    world.tend(day(1)).await;
    assert_eq!(world.built().await, ["message room,_created_at"]);
}

#[tokio::test]
async fn the_other_side_of_a_reference_is_indexed_too() {
    let mut world = world(limits()).await;
    let rooms = (0..ROWS).map(|number| {
        create(
            &format!("room/{number}"),
            1,
            json!({"name": format!("r{number}")}),
        )
    });
    world.run(rooms.collect()).await;
    world.place.analyze().await;
    let query = find("message", Some(eq("room.name", json!("r3"))));
    let answer = world.keys(&query).await;
    assert_eq!(answer.len(), ROWS / 10);
    world.tend(day(1)).await;
    assert!(world.built().await.contains(&"room name".to_owned()));
    let after = world.plan(&query).await;
    assert!(!after.is_scanning, "{after:?}");
    assert_eq!(world.keys(&query).await, answer);
}

#[tokio::test]
async fn small_tables_and_cheap_queries_get_none() {
    let few = world(IndexLimits {
        min_rows: 10_000,
        ..limits()
    })
    .await;
    few.run_query(&of_room()).await;
    few.tend(day(1)).await;
    assert!(few.built().await.is_empty());
    let cheap = world(IndexLimits {
        min_spent: Duration::from_secs(60),
        ..limits()
    })
    .await;
    cheap.run_query(&of_room()).await;
    cheap.tend(day(1)).await;
    assert!(cheap.built().await.is_empty());
    let keyed = world(limits()).await;
    keyed
        .run_query(&find("message", Some(eq("_id", json!("3")))))
        .await;
    keyed
        .run_query(&find("message", Some(eq("room", json!("3")))))
        .await;
    keyed.tend(day(1)).await;
    assert!(keyed.built().await.is_empty());
}

#[tokio::test]
async fn forbidden_indexes_are_not_built_and_dropped() {
    let world = world(limits()).await;
    let forbidden = IndexEntry {
        wish: IndexWish::Forbidden,
        ..on(&["room", "_created_at"])
    };
    world.place.set_index(forbidden.clone()).await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    assert!(world.built().await.is_empty());
    world.place.set_index(on(&["room", "_created_at"])).await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await, ["message room,_created_at"]);
    world.place.set_index(forbidden).await;
    world.tend(day(1)).await;
    assert!(world.built().await.is_empty());
    assert!(!uses_own(&world.plan(&of_room()).await));
}

#[tokio::test]
async fn the_number_is_bounded_and_idle_ones_make_room() {
    let world = world(IndexLimits {
        max_indexes: 1,
        ..limits()
    })
    .await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    let by_title = find("message", Some(eq("title", json!("t1"))));
    world.run_query(&by_title).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await, ["message room,_created_at"]);
    world.run_query(&by_title).await;
    world.tend(day(2)).await;
    assert_eq!(world.built().await, ["message title"]);
}

#[tokio::test]
async fn unused_ones_are_dropped_unless_pinned_or_declared() {
    let world = world(limits()).await;
    let declared = IndexEntry {
        wish: IndexWish::Declared,
        ..on(&["n", "title"])
    };
    world.place.set_index(declared).await;
    world
        .place
        .set_index(IndexEntry {
            is_pinned: true,
            state: IndexState::Wanted,
            ..on(&["nick"])
        })
        .await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await.len(), 3);
    world.run_query(&of_room()).await;
    world.tend(day(6)).await;
    world.tend(day(12)).await;
    assert_eq!(world.built().await.len(), 3);
    world.tend(day(13)).await;
    assert_eq!(world.built().await, ["message n,title", "message nick"]);
    let entries = world.place.list_indexes().await;
    let dropped = entries
        .iter()
        .find(|entry| entry.state == IndexState::None)
        .unwrap();
    assert_eq!(
        (dropped.num_uses, dropped.why.as_str()),
        (1, "no query used it any longer")
    );
}

#[tokio::test]
async fn the_time_in_which_no_server_runs_makes_no_index_unused() {
    let mut world = world(limits()).await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await.len(), 1);
    world.reopen().await;
    let later = |minutes: i64| Timestamp::from_micros(day(32).micros() + minutes * 60_000_000);
    world.tend(day(32)).await;
    world.tend(later(59)).await;
    assert_eq!(world.built().await.len(), 1, "it may still be used");
    world.tend(later(60)).await;
    assert!(world.built().await.is_empty());
}

#[tokio::test]
async fn a_wish_over_a_field_that_is_gone_stops_nothing() {
    let mut world = world(limits()).await;
    let declared = IndexEntry {
        wish: IndexWish::Declared,
        ..on(&["n", "title"])
    };
    let pinned = IndexEntry {
        is_pinned: true,
        state: IndexState::Wanted,
        ..on(&["nick", "n"])
    };
    world.place.set_index(declared).await;
    world.place.set_index(pinned).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await.len(), 2);
    let deletion = EventBody::TypeFieldDeleted(FieldDeletion {
        field: "n".to_owned(),
    });
    world
        .run(vec![(Stream::Type("message".into()), deletion)])
        .await;
    world.place.analyze().await;
    world.run_query(&of_room()).await;
    world.tend(day(1)).await;
    assert_eq!(world.built().await, ["message room,_created_at"]);
    // Nobody wants them any more.
    for fields in [["n", "title"], ["nick", "n"]] {
        world.place.set_index(on(&fields)).await;
    }
    let entries = world.place.list_indexes().await;
    let requested = entries
        .iter()
        .filter(|entry| entry.state == IndexState::Wanted);
    assert_eq!(requested.count(), 0, "{entries:?}");
}

#[tokio::test]
async fn a_new_store_gets_the_indexes_of_the_old_one() {
    let first = world(limits()).await;
    let forbidden = IndexEntry {
        wish: IndexWish::Forbidden,
        ..on(&["title"])
    };
    first.place.set_index(forbidden).await;
    first.run_query(&of_room()).await;
    first.tend(day(1)).await;
    let second = world(limits()).await;
    first.place.carry_over_indexes(&second.place).await;
    second
        .run_query(&find("message", Some(eq("title", json!("t1")))))
        .await;
    second.tend(day(2)).await;
    assert_eq!(second.built().await, ["message room,_created_at"]);
    second.store.close().await.unwrap();
}
