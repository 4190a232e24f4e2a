//! Tests that events become rows.

use serde_json::json;
use skytrail_actors::device::DeviceStore as _;
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::event::{DeviceKind, DeviceState, EventBody, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::types::FieldType;

use super::world::*;

fn every_type() -> Vec<(&'static str, FieldType)> {
    vec![
        ("text", FieldType::String),
        ("Text", FieldType::CaselessString),
        ("number", FieldType::Number),
        ("whole", FieldType::Integer),
        ("flag", FieldType::Boolean),
        ("json", FieldType::Json),
        ("time", FieldType::DateTime),
        ("file", FieldType::Asset),
        ("file~type", FieldType::String),
        ("other", FieldType::Reference("note".into())),
        ("place", FieldType::Location),
        ("area", FieldType::Geometry),
        ("rowid", FieldType::String),
        ("_id", FieldType::String),
        ("a\"b\0c?.'", FieldType::String),
    ]
}

fn every_value() -> serde_json::Value {
    json!({
        "text": "a\0b'\"; DROP TABLE note; --", "Text": "ÄöK", "number": 1.5, "whole": 7, "flag": true,
        "json": {"b": [1, 2.5, null], "a": {"$type": "date", "$date": "2015-04-10T09:35:20Z"}},
        "time": {"$type": "date", "$date": "2015-04-10T09:35:20.123456Z"},
        "file": {"$type": "asset", "$name": "x.png", "$content_type": "image/png"},
        "file~type": "mine",
        "other": {"$type": "ref", "$id": "note/1"},
        "place": {"$type": "geo", "$lng": 114.1501, "$lat": -22.2},
        "area": {"$type": "geojson", "$val": {"type": "Point", "coordinates": [1.5, 2]}},
        "rowid": "r", "_id": "i", "a\"b\0c?.'": "q",
    })
}

#[tokio::test]
async fn every_kind_of_value_comes_back() {
    let mut world = World::new().await;
    world.run(vec![extend("note", &every_type())]).await;
    world.run(vec![create("note/1", 1, every_value())]).await;
    world.run(vec![create("note/2", 2, json!({}))]).await;
    world
        .run(vec![patch("note/2", 3, every_value(), &[])])
        .await;
    world
        .run(vec![patch(
            "note/1",
            4,
            json!({"text": "x"}),
            &["Text", "file"],
        )])
        .await;
    world.assert_equal().await;
}

#[tokio::test]
async fn types_with_strange_names_are_told_apart() {
    let mut world = World::new().await;
    let names = [
        "note",
        "Note",
        "_type",
        "sqlite_master",
        "a\"b",
        "a\0b",
        "select",
        "colon:fever",
    ];
    for name in names {
        let field = [("f", FieldType::String), ("F", FieldType::Number)];
        world.run(vec![extend(name, &field)]).await;
        let id = format!("{name}/k");
        world
            .run(vec![create(&id, 1, json!({"f": name, "F": 2}))])
            .await;
    }
    world.assert_equal().await;
}

#[tokio::test]
async fn a_batch_of_many_events_of_one_record_is_one_state() {
    let mut world = World::new().await;
    world.commit(vec![extend("note", &[("n", FieldType::Number)])]);
    world.commit(vec![
        create("note/1", 1, json!({"n": 1})),
        patch("note/1", 2, json!({"n": 2}), &[]),
    ]);
    world.commit(vec![delete("note/1", 3)]);
    world.commit(vec![create("note/1", 4, json!({"n": 4}))]);
    world.commit(vec![replace("note/1", 5, json!({"n": 5}))]);
    world.commit(vec![create("note/2", 6, json!({})), delete("note/2", 7)]);
    world.commit(vec![extend("note", &[("m", FieldType::String)])]);
    world.commit(vec![patch("note/1", 8, json!({"m": "x"}), &["n"])]);
    world.apply_all(100).await;
    world.assert_equal().await;
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let mut world = World::new().await;
    world.commit(vec![extend("note", &[("n", FieldType::Number)])]);
    world.commit(vec![create("note/1", 1, json!({"n": 1}))]);
    world.commit(vec![patch("note/1", 2, json!({"n": 2}), &[])]);
    world.apply_all(2).await;
    world.apply_all(1).await;
    world.assert_equal().await;
}

#[tokio::test]
async fn an_event_at_fault_stops_nobody_else() {
    let mut world = World::new().await;
    world.commit(vec![extend("note", &[("n", FieldType::Number)])]);
    world.commit(vec![create("note/1", 1, json!({"n": 1}))]);
    world.commit(vec![patch("note/missing", 2, json!({"n": 2}), &[])]);
    world.commit(vec![create("unknown/1", 2, json!({}))]);
    world.heads.remove(&RecordId::parse("unknown/1").unwrap());
    world.commit(vec![patch("note/1", 2, json!({"n": 2}), &[])]);
    world.apply_all(100).await;
    world.assert_equal().await;
}

#[tokio::test]
async fn devices_without_an_address_are_found_by_age() {
    let mut world = World::new().await;
    for (name, token, second) in [("a", None, 1), ("b", Some("t"), 1), ("c", None, 9)] {
        let state = DeviceState {
            user: None,
            kind: DeviceKind::Ios,
            token: token.map(str::to_owned),
            topic: None,
            registered_at: now(second),
        };
        let stream = Stream::Device(name.into());
        world
            .run(vec![(stream, EventBody::DeviceRegistered(state))])
            .await;
    }
    let found = |second, limit| world.store.list_unreachable(now(second), limit);
    assert_eq!(found(9, 10).await.unwrap(), ["a".into()]);
    assert_eq!(found(10, 10).await.unwrap(), ["a".into(), "c".into()]);
    assert_eq!(found(10, 1).await.unwrap(), ["a".into()]);
    assert_eq!(world.store.find_devices("t").await.unwrap(), ["b".into()]);
}

#[tokio::test]
async fn the_positions_of_a_stream_are_found() {
    let mut world = World::new().await;
    world
        .run(vec![extend("note", &[("n", FieldType::Number)])])
        .await;
    world.run(vec![create("note/1", 1, json!({"n": 1}))]).await;
    world.run(vec![create("note/2", 1, json!({"n": 1}))]).await;
    world
        .run(vec![patch("note/1", 2, json!({"n": 2}), &[])])
        .await;
    world.run(vec![delete("note/1", 3)]).await;
    world.run(vec![create("note/1", 4, json!({"n": 1}))]).await;
    world
        .run(vec![patch("note/1", 5, json!({"n": 2}), &[])])
        .await;
    let stream = Stream::Record(RecordId::new("note", "1"));
    let mut full = Vec::new();
    for until in 1..=7 {
        let at = [(stream.clone(), until)];
        let found = world.store.find_full_states(&at).await.unwrap();
        full.extend(found);
    }
    assert_eq!(
        full,
        [None, Some(2), Some(2), Some(2), Some(5), Some(6), Some(6)]
    );
    let ranges = [(stream.clone(), 3..=6)];
    let listed = world.store.list_candidates(&ranges).await.unwrap();
    assert_eq!(listed, [4, 5, 6]);
    let other = Stream::Record(RecordId::new("note", "2"));
    let never = Stream::Record(RecordId::new("note", "3"));
    let at = [
        (other.clone(), 2),
        (stream.clone(), 4),
        (stream.clone(), 6),
        (never.clone(), 7),
    ];
    let found = world.store.find_full_states(&at).await.unwrap();
    assert_eq!(found, [None, Some(2), Some(6), None]);
    let streams = [stream.clone(), never.clone(), other.clone()];
    for (until, of_stream) in [(5, vec![2]), (7, vec![2, 6])] {
        let listed = world.store.list_creations(&streams, until).await.unwrap();
        assert_eq!(listed, [of_stream, vec![], vec![3]]);
    }
    let ranges = [(other, 1..=6), (stream, 4..=5), (never, 1..=7)];
    let listed = world.store.list_candidates(&ranges).await.unwrap();
    assert_eq!(listed, [3, 4, 5]);
}

/// Ids whose streams have the same hash, found among the hashes of 60 million random ones.
const OF_ONE_HASH: [&str; 2] = ["UF77R2Fg6O", "vjtk3wYNtc"];

#[tokio::test]
async fn of_streams_with_one_hash_all_is_found_that_is_wanted() {
    let mut world = World::new().await;
    world
        .run(vec![extend("note", &[("n", FieldType::Number)])])
        .await;
    let [one, other] = OF_ONE_HASH.map(|key| format!("note/{key}"));
    for (version, id) in [(1, &one), (2, &other)] {
        world.run(vec![create(id, version, json!({"n": 1}))]).await;
    }
    for version in 3..=6 {
        let id = if version % 2 == 0 { &other } else { &one };
        let change = patch(id, version, json!({"n": version}), &[]);
        world.run(vec![change]).await;
    }
    // One has 2, 4 and 6, the other 3, 5 and 7.
    let [one, other] = OF_ONE_HASH.map(|key| Stream::Record(RecordId::new("note", key)));
    for ranges in [
        [(one.clone(), 2..=2), (other.clone(), 7..=7)],
        [(other, 7..=7), (one, 2..=2)],
    ] {
        let listed = world.store.list_candidates(&ranges).await.unwrap();
        assert_eq!(listed, [2, 7]);
    }
}
