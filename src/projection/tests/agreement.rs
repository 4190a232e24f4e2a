//! Tests that the store and the evaluation in memory agree on the same conditions.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value as Json, json};
use skytrail_schema::event::{EventBody, RelationTarget, Stream};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::predicate::parse::parse_predicate;
use skytrail_schema::predicate::{Context, Lookups, Relation};
use skytrail_schema::query::Scope;
use skytrail_schema::record::Record;
use skytrail_schema::types::FieldType;

use super::query::{find, keys_of, user};
use super::world::*;

const FIELDS: [&str; 10] = [
    "text", "name", "number", "whole", "truth", "time", "json", "note", "place", "area",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec![
            "", "a", "A", "ab", "aB%", "_", "k", "\u{212a}", "İ", "ß", "é", "É", "*[?", "\\", "1"
        ])
        .prop_map(str::to_owned),
        // What the databases cannot have in strings, or do not have as it is.
        select(vec![
            "a\0b", "\0", "\u{1}", "a\u{1}b", "\0é1", "%0", "0_", "%1%", "_b", "__", "a%b"
        ])
        .prop_map(str::to_owned),
        "[a-cA-C%_é]{0,4}",
    ]
}

fn number() -> impl Strategy<Value = Json> {
    select(vec![
        json!(-1.5),
        json!(0),
        json!(1),
        json!(2),
        json!(1e15),
        json!(0.1),
    ])
}

fn point() -> impl Strategy<Value = Json> + Clone {
    let lat = select(vec![-90.0, 0.0, 1.0, 1.001, 60.0, 89.9, 95.0]);
    let lng = select(vec![-180.0, -179.9, 0.0, 0.001, 100.0, 179.9, 190.0]);
    (lng, lat).prop_map(|(lng, lat)| json!({"$type": "geo", "$lng": lng, "$lat": lat}))
}

fn time() -> impl Strategy<Value = Json> {
    select(vec![
        "2017-07-14T02:40:01Z",
        "2017-07-14T02:40:02Z",
        "2001-01-01T00:00:00.5Z",
    ])
    .prop_map(|text| json!({"$type": "date", "$date": text}))
}

fn tree() -> impl Strategy<Value = Json> {
    select(vec![
        json!([]),
        json!(["a", 1]),
        json!([1]),
        json!({"a": 1}),
        json!({"A": "a"}),
        json!(["1", {"a": 1}]),
    ])
}

fn area() -> impl Strategy<Value = Json> {
    select(vec![
        json!({"type": "Point", "coordinates": [0, 0]}),
        json!({"type": "Polygon", "coordinates": [[[-1, -1], [1, -1], [1, 2], [-1, 2], [-1, -1]]]}),
    ])
    .prop_map(|shape| json!({"$type": "geojson", "$val": shape}))
}

fn note() -> impl Strategy<Value = Json> {
    select(vec!["note/1", "note/2", "note/none"]).prop_map(|id| json!({"$type": "ref", "$id": id}))
}

fn optional(value: impl Strategy<Value = Json>) -> impl Strategy<Value = Json> {
    prop_oneof![1 => Just(Json::Null), 3 => value]
}

fn thing() -> impl Strategy<Value = Json> {
    let whole = select(vec![json!(0), json!(1), json!(2)]);
    let first = (
        optional(text().prop_map(Json::from)),
        optional(text().prop_map(Json::from)),
        optional(number()),
        optional(whole),
        optional(any::<bool>().prop_map(Json::from)),
    );
    let second = (
        optional(time()),
        optional(tree()),
        optional(note()),
        optional(point()),
        optional(area()),
    );
    (first, second).prop_map(|((a, b, c, d, e), (f, g, h, i, j))| {
        let values = [a, b, c, d, e, f, g, h, i, j];
        Json::Object(
            FIELDS
                .iter()
                .map(|name| (*name).to_owned())
                .zip(values)
                .collect(),
        )
    })
}

fn path() -> impl Strategy<Value = Json> {
    let system = [
        "_id",
        "_owner",
        "_created_at",
        "_updated_by",
        "note.title",
        "note._id",
    ];
    let names: Vec<&str> = FIELDS.into_iter().chain(system).collect();
    select(names).prop_map(|name| json!({"$type": "keypath", "$val": name}))
}

fn literal() -> impl Strategy<Value = Json> {
    prop_oneof![
        Just(Json::Null),
        text().prop_map(Json::from),
        number(),
        any::<bool>().prop_map(Json::from),
        time(),
        note(),
        point(),
        Just(json!("[1]")),
        Just(json!("u1")),
    ]
}

/// A pattern that is longer than the database is asked to search for, but also matches short
/// strings.
fn long_pattern() -> impl Strategy<Value = Json> {
    let start = select(vec!["", "a", "%", "%b", "_"]);
    (start, text(), 100..120usize, text()).prop_map(|(start, piece, num_runs, end)| {
        json!(format!("{start}{}%{piece}%{end}", "%".repeat(num_runs)))
    })
}

fn leaf() -> impl Strategy<Value = Json> {
    let operator = select(vec!["eq", "neq", "gt", "lt", "gte", "lte", "like", "ilike"]);
    let pattern = select(vec!["like", "ilike"]);
    let distance = point()
        .prop_map(|from| json!(["func", "distance", {"$type": "keypath", "$val": "place"}, from]));
    let metres = select(vec![
        json!(0),
        json!(200),
        json!(111_000),
        json!(7_000_000),
        json!(3e7),
    ]);
    let near = select(vec!["lt", "lte", "gt", "gte"]);
    let relation = (
        select(vec!["_owner", "_created_by"]),
        select(vec!["inward", "outward", "mutual"]),
    );
    prop_oneof![
        6 => (operator.clone(), path(), literal()).prop_map(|(op, path, value)| json!([op, path, value])),
        1 => (operator.clone(), literal(), path()).prop_map(|(op, value, path)| json!([op, value, path])),
        1 => (operator, path(), path()).prop_map(|(op, left, right)| json!([op, left, right])),
        1 => (pattern, path(), long_pattern()).prop_map(|(op, path, pattern)| json!([op, path, pattern])),
        2 => (path(), prop::collection::vec(literal(), 0..4)).prop_map(|(path, list)| json!(["in", path, list])),
        1 => text().prop_map(|text| json!(["in", text, {"$type": "keypath", "$val": "json"}])),
        1 => area().prop_map(|area| json!(["in", {"$type": "keypath", "$val": "place"}, area])),
        1 => (near.clone(), distance.clone(), metres.clone()).prop_map(|(op, left, right)| json!([op, left, right])),
        1 => (near, metres, distance).prop_map(|(op, left, right)| json!([op, left, right])),
        1 => relation.prop_map(|(field, direction)| json!(["func", "userRelation",
            {"$type": "keypath", "$val": field},
            {"$type": "relation", "$name": "_follow", "$direction": direction}])),
    ]
}

fn predicate() -> impl Strategy<Value = Json> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        let parts = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            (select(vec!["and", "or"]), parts).prop_map(|(op, parts)| {
                Json::Array(std::iter::once(json!(op)).chain(parts).collect())
            }),
            inner.prop_map(|part| json!(["not", part])),
        ]
    })
}

/// The fold of the log, as conditions see it.
struct Fold<'a>(&'a World);

impl Lookups for Fold<'_> {
    fn find_record(&self, id: &RecordId) -> Option<&Record> {
        self.0.heads.get(id).map(|head| &head.record)
    }

    fn is_related(&self, _: Relation, from: &UserId, to: &UserId) -> bool {
        RELATIONS.contains(&(from.as_str(), to.as_str()))
    }
}

const RELATIONS: [(&str, &str); 3] = [("me", "u1"), ("u2", "me"), ("u1", "me")];

async fn world(things: Vec<Json>) -> World {
    let mut world = World::new().await;
    let fields = [
        ("text", FieldType::String),
        ("name", FieldType::CaselessString),
        ("number", FieldType::Number),
        ("whole", FieldType::Integer),
        ("truth", FieldType::Boolean),
        ("time", FieldType::DateTime),
        ("json", FieldType::Json),
        ("note", FieldType::Reference("note".into())),
        ("place", FieldType::Location),
        ("area", FieldType::Geometry),
    ];
    let mut events = vec![
        extend("note", &[("title", FieldType::String)]),
        extend("thing", &fields),
        create("note/1", 1, json!({"title": "a"})),
        create("note/2", 1, json!({})),
    ];
    for (number, thing) in things.into_iter().enumerate() {
        let mut set = fields_of(thing);
        let id = RecordId::new("thing", number.to_string());
        let body = state(
            number as i64,
            ["u1", "u2", "u3"][number % 3],
            None,
            json!({}),
        );
        set.retain(|_, value| !value.is_null());
        let state = skytrail_schema::event::RecordState {
            fields: set,
            ..body
        };
        events.push((Stream::Record(id), EventBody::RecordCreated(state)));
    }
    for (from, to) in RELATIONS {
        let target = RelationTarget { to: to.into() };
        let stream = Stream::Relation(Relation::Follow, from.into());
        events.push((stream, EventBody::RelationAdded(target)));
    }
    world.run(events).await;
    world
}

fn fields_of(json: Json) -> std::collections::BTreeMap<String, Json> {
    fields(json)
}

async fn check(world: &World, wire: &Json) {
    let Ok(parsed) = parse_predicate(wire.as_array().unwrap()) else {
        return;
    };
    let definition = &world.types["thing"];
    let types: Vec<std::sync::Arc<_>> = world
        .types
        .values()
        .cloned()
        .map(std::sync::Arc::new)
        .collect();
    let caller = user("me", &[]);
    let mut query = find("thing", Some(parsed));
    let bound = match query.bind(definition, types.as_slice()) {
        Ok(bound) => bound,
        Err(refusal) => {
            let error = world
                .query_as(&caller, &Scope::Public, &query)
                .await
                .unwrap_err();
            assert_eq!(error.to_string(), refusal.to_string(), "{wire}");
            return;
        }
    };
    let fold = Fold(world);
    let context = Context {
        user: caller.user.as_ref(),
        lookups: &fold,
    };
    let condition = bound.condition.unwrap();
    let matching = world.heads.values().filter(|head| {
        head.record.id.record_type.as_str() == "thing"
            && condition.evaluate(&head.record, context) == Some(true)
    });
    let expected: BTreeSet<String> = matching
        .map(|head| head.record.id.key.to_string())
        .collect();
    for limit in [None, Some(200)] {
        query.limit = limit;
        query.count = limit.is_some();
        let answer = world
            .query_as(&caller, &Scope::Public, &query)
            .await
            .unwrap();
        let found: BTreeSet<String> = keys_of(&answer).into_iter().collect();
        assert_eq!(found, expected, "{wire}\n{condition:?}");
        assert_eq!(answer.count, limit.map(|_| expected.len() as u64), "{wire}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(32), ..ProptestConfig::default() })]

    #[test]
    fn the_store_and_the_evaluator_agree(
        things in prop::collection::vec(thing(), 1..40),
        predicates in prop::collection::vec(predicate(), 40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world(things).await;
            for wire in &predicates {
                check(&world, wire).await;
            }
        });
    }
}

/// Strings that the databases cannot have as they are, and some that look like what they have.
const ODD: [&str; 20] = [
    "",
    "a",
    "ab",
    "a\0b",
    "a\0",
    "\0",
    "\0\0",
    "b\0%",
    "\0é1",
    "\u{1}",
    "a\u{1}",
    "a\u{1}b",
    "\u{1}0",
    "0",
    "\\u0000\0\\",
    "\"\0\n\u{e000}",
    // SQLite takes each for the others.
    "a\u{fffd}",
    "a\u{fffe}",
    "a\u{ffff}",
    "\u{fffe}\u{ffff}\0",
];

#[tokio::test]
async fn patterns_see_every_character() {
    let things = ODD.map(|text| json!({"text": text, "name": text}));
    let world = world(things.into()).await;
    let patterns = [
        "",
        "a",
        "A",
        "_",
        "__",
        "___",
        "____",
        "%",
        "%_",
        "a%",
        "A%",
        "%a",
        "%b",
        "%b%",
        "%B",
        "a_",
        "A_",
        "a_b",
        "A_B",
        "%_b",
        "%0",
        "%0%",
        "%1",
        "%1%",
        "_0",
        "\u{1}",
        "_\u{1}",
        "\u{1}_",
        "%\u{1}%",
        "%\\%%",
        "%é%",
        "_É%",
        "%\\\\u0%",
        "%\u{e000}",
        "%\n_",
        "a\0%",
        "%\0b",
        "%\u{fffd}",
        "a%\u{fffe}",
        "_\u{ffff}",
        "\u{fffe}%",
        "%\u{ffff}%",
        "a\u{fffd}%",
    ];
    for pattern in patterns {
        for operator in ["like", "ilike"] {
            for field in ["text", "name"] {
                let leaf = json!([operator, {"$type": "keypath", "$val": field}, pattern]);
                check(&world, &leaf).await;
                check(&world, &json!(["not", leaf])).await;
            }
        }
    }
}
