//! The language as a whole: parsing, binding, evaluating.

mod properties;

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::bind::bind;
use super::evaluate::Nothing;
use super::parse::{parse_operand, parse_predicate, parse_sort};
use super::*;
use crate::code::ApiError;
use crate::id::{Database, RecordId, UserId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::types::{FieldType, TypeDefinition};
use crate::value::Value;

fn definition() -> TypeDefinition {
    let fields = [
        ("text", FieldType::String),
        ("name", FieldType::CaselessString),
        ("number", FieldType::Number),
        ("whole", FieldType::Integer),
        ("truth", FieldType::Boolean),
        ("time", FieldType::DateTime),
        ("json", FieldType::Json),
        ("note", FieldType::Reference("note".into())),
        ("friend", FieldType::Reference("user".into())),
        ("place", FieldType::Location),
        ("area", FieldType::Geometry),
    ];
    TypeDefinition {
        fields: fields.map(|(name, kind)| (name.to_owned(), kind)).into(),
        ..TypeDefinition::empty("thing".into())
    }
}

fn types() -> Vec<Arc<TypeDefinition>> {
    let note = TypeDefinition {
        fields: [("title".to_owned(), FieldType::String)].into(),
        ..TypeDefinition::empty("note".into())
    };
    vec![Arc::new(definition()), Arc::new(note)]
}

fn record(id: &str, fields: Json) -> Record {
    let Json::Object(fields) = fields else {
        panic!("not an object");
    };
    let value = |(name, wire)| (name, Value::from_wire(wire).unwrap());
    Record {
        id: RecordId::parse(id).unwrap(),
        database: Database::Public,
        owner: Some("owner".into()),
        access: None,
        created_at: Timestamp::from_micros(1_000_000),
        created_by: Some("owner".into()),
        updated_at: Timestamp::from_micros(2_000_000),
        updated_by: None,
        fields: fields.into_iter().map(value).collect(),
    }
}

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn date(text: &str) -> Json {
    json!({"$type": "date", "$date": text})
}

fn condition(wire: &Json) -> Result<Condition, ApiError> {
    let predicate = parse_predicate(wire.as_array().unwrap())?;
    bind(&predicate, &definition(), types().as_slice())
}

/// A world with one note, and relations of `me`.
struct World {
    note: Record,
}

impl Lookups for World {
    fn find_record(&self, id: &RecordId) -> Option<&Record> {
        (*id == self.note.id).then_some(&self.note)
    }

    fn is_related(&self, relation: Relation, from: &UserId, to: &UserId) -> bool {
        let pairs = [("me", "owner"), ("me", "u2"), ("u2", "me")];
        relation == Relation::Follow && pairs.contains(&(from.as_str(), to.as_str()))
    }
}

fn evaluate_as(user: Option<&str>, wire: &Json, fields: Json) -> Option<bool> {
    let world = World {
        note: record("note/a", json!({"title": "Tale"})),
    };
    let user = user.map(UserId::from);
    let context = Context {
        user: user.as_ref(),
        lookups: &world,
    };
    let condition = condition(wire).unwrap_or_else(|error| panic!("{wire}: {error}"));
    condition.evaluate(&record("thing/key", fields), context)
}

fn evaluate(wire: &Json, fields: Json) -> Option<bool> {
    evaluate_as(Some("me"), wire, fields)
}

fn refusal(wire: &Json) -> (i64, String) {
    let error = condition(wire).unwrap_err();
    (error.code.number(), error.message)
}

#[test]
fn malformed_predicates_are_refused_in_the_documented_words() {
    let place = json!({"$type": "geo", "$lng": 1, "$lat": 2});
    let relation = |name: &str, direction: &str| {
        let argument = json!({"$type": "relation", "$name": name, "$direction": direction});
        json!(["func", "userRelation", path("_owner"), argument])
    };
    let construct = |text: &str| format!("failed to construct query: {text}");
    let cases = [
        (
            json!([]),
            108,
            construct("got len(predicate) = 0, want at least 2"),
        ),
        (
            json!(["eq"]),
            108,
            construct("got len(predicate) = 1, want at least 2"),
        ),
        (
            json!([5, 6]),
            108,
            construct("got predicate[0]'s type = float64, want string"),
        ),
        (
            json!(["zz", 1, 2]),
            108,
            construct("unrecognized operator = zz"),
        ),
        (
            json!(["eq", 1]),
            108,
            construct("Expected number of expressions be 2, got 1"),
        ),
        (
            json!(["in", 1, 2, 3]),
            108,
            construct("Expected number of expressions be 2, got 3"),
        ),
        (
            json!(["and", ["eq", 1, 1], {}]),
            108,
            construct("got non-dict in subpredicate at 1"),
        ),
        (
            json!(["eq", path("text"), {"$type": "foo"}]),
            108,
            construct("unknown $type = foo"),
        ),
        (
            json!(["eq", ["func"], 1]),
            108,
            construct("runtime error: index out of range"),
        ),
        (
            relation("", "outward"),
            108,
            construct("empty relation name"),
        ),
        (
            json!(["func", "userDiscover", {}]),
            120,
            "functional predicate must contain functional expression".to_owned(),
        ),
        (
            json!(["func", "userRelation", path("_owner")]),
            120,
            "functional predicate must contain functional expression".to_owned(),
        ),
        (
            json!(["func", "distance", path("place"), place]),
            111,
            "unsupported function for functional predicate".to_owned(),
        ),
        (
            relation("_enemy", "outward"),
            111,
            "user relation predicate with \"_enemy\" relation is not supported".to_owned(),
        ),
        (
            json!(["eq", path("json"), {"a": 1}]),
            111,
            "equal comparison of map \"{\"a\":1}\" is not supported".to_owned(),
        ),
        (
            json!(["eq", path("json"), [1]]),
            111,
            "equal comparison of array \"[1]\" is not supported".to_owned(),
        ),
        (
            json!(["eq", path("x"), 1]),
            120,
            "keypath \"x\" does not exist".to_owned(),
        ),
        (
            json!(["eq", path("note.x"), 1]),
            120,
            "keypath \"note.x\" does not exist".to_owned(),
        ),
        (
            json!(["eq", path("text.x"), 1]),
            120,
            "field \"text\" in keypath \"text.x\" is not a reference".to_owned(),
        ),
        (
            json!(["eq", path("a.b.c"), 1]),
            120,
            "keypath \"a.b.c\" with more than 2 components is not supported".to_owned(),
        ),
    ];
    for (wire, code, message) in cases {
        assert_eq!(refusal(&wire), (code, message), "{wire}");
    }
}

#[test]
fn what_cannot_be_read_is_reported_before_what_is_not_supported() {
    let wire = json!(["and", ["func", "nothing"], ["zz", 1, 2]]);
    assert_eq!(refusal(&wire).0, 108);
    let wire = json!(["and", ["func", "nothing"], ["eq", [1], 2]]);
    assert_eq!(refusal(&wire).0, 120);
}

#[test]
fn comparisons_that_make_no_sense_are_refused() {
    let point = json!({"$type": "geo", "$lng": 1, "$lat": 2});
    let distance = |field: &str| json!(["func", "distance", path(field), point]);
    let cases = [
        json!(["eq", path("number"), "abc"]),
        json!(["gt", path("number"), true]),
        json!(["like", path("number"), "1%"]),
        json!(["like", path("text"), "a\\"]),
        json!(["eq", path("whole"), 1.5]),
        json!(["eq", path("json"), "x"]),
        json!(["neq", path("json"), {"a": 1}]),
        json!(["gt", path("text"), [1]]),
        json!(["gt", path("place"), point]),
        json!(["eq", path("area"), "x"]),
        json!(["eq", path("text"), path("number")]),
        json!(["in", path("text"), path("name")]),
        json!(["in", "a", ["a"]]),
        json!(["in", "a", path("text")]),
        json!(["in", path("text"), "a"]),
        json!(["in", path("number"), [1, "a"]]),
        json!(["in", distance("place"), [1]]),
        json!(["lt", distance("number"), 5]),
        json!(["lt", ["func", "distance", path("place")], 5]),
        json!(["lt", ["func", "nofunc", path("place"), point], 5]),
    ];
    for wire in cases {
        assert_eq!(refusal(&wire).0, 10_000, "{wire}");
    }
}

#[test]
fn operators_mean_what_the_specification_says() {
    let reference = json!({"$type": "ref", "$id": "note/a"});
    let fields = json!({
        "text": "Tale", "name": "Ann", "number": 2.5, "whole": 3, "truth": true,
        "time": date("2017-01-01T00:00:00Z"), "json": {"war": 1}, "note": reference,
        "friend": {"$type": "ref", "$id": "user/u2"},
    });
    let yes = [
        json!(["eq", path("text"), "Tale"]),
        json!(["eq", "Tale", path("text")]),
        json!(["neq", path("text"), "tale"]),
        json!(["gt", path("text"), "TALE"]),
        json!(["eq", path("name"), "ANN"]),
        json!(["in", path("name"), ["x", "aNN"]]),
        json!(["like", path("name"), "AN%"]),
        json!(["like", path("text"), "T_le"]),
        json!(["ilike", path("text"), "%TALE"]),
        json!(["eq", path("number"), "2.5"]),
        json!(["lte", path("number"), 2.5]),
        json!(["lt", path("number"), path("whole")]),
        json!(["eq", path("truth"), "yes"]),
        json!(["gte", path("time"), date("2017-01-01T08:00:00+08:00")]),
        json!(["eq", path("time"), "2017-01-01T00:00:00+08:00"]),
        json!(["in", "war", path("json")]),
        json!(["eq", path("json"), "{\"war\":1.0}"]),
        json!(["eq", path("note"), reference]),
        json!(["eq", path("note"), "a"]),
        json!(["eq", path("note.title"), "Tale"]),
        json!(["eq", path("_id"), "key"]),
        json!(["eq", path("_id"), {"$type": "ref", "$id": "other/key"}]),
        json!(["eq", path("_owner"), "owner"]),
        json!(["eq", path("_updated_by"), null]),
        json!(["neq", null, path("text")]),
        json!(["lt", path("_created_at"), path("_updated_at")]),
        json!(["eq", {"$type": "whatever", "$val": "text"}, "Tale"]),
        json!(["eq", 1, "1"]),
    ];
    for wire in yes {
        assert_eq!(evaluate(&wire, fields.clone()), Some(true), "{wire}");
    }
    let no = [
        json!(["eq", path("note"), "note/a"]),
        json!(["like", path("text"), "tale"]),
        json!(["like", path("text"), "Tal"]),
        json!(["in", "peace", path("json")]),
        json!(["in", path("text"), ["a", "b"]]),
        json!(["eq", path("text"), null]),
    ];
    for wire in no {
        assert_eq!(evaluate(&wire, fields.clone()), Some(false), "{wire}");
    }
}

#[test]
fn missing_values_make_comparisons_unknown() {
    let unknown = [
        json!(["eq", path("text"), "a"]),
        json!(["neq", path("text"), "a"]),
        json!(["not", ["eq", path("text"), "a"]]),
        json!(["like", path("text"), "%"]),
        json!(["in", path("text"), ["a"]]),
        json!(["in", "a", path("json")]),
        json!(["eq", path("note.title"), "a"]),
        json!(["gt", path("_id"), null]),
        json!(["in", path("_id"), []]),
        json!(["not", ["in", path("_id"), []]]),
        json!(["in", path("_id"), ["other", null]]),
    ];
    for wire in unknown {
        assert_eq!(evaluate(&wire, json!({})), None, "{wire}");
    }
    let dangling = json!({"note": {"$type": "ref", "$id": "note/gone"}});
    let wire = json!(["eq", path("note.title"), null]);
    assert_eq!(evaluate(&wire, dangling), Some(true));
    let wire = json!(["in", path("_id"), ["key", null]]);
    assert_eq!(evaluate(&wire, json!({})), Some(true));
}

#[test]
fn places_are_compared_by_distance_and_containment() {
    let point = |lng: f64, lat: f64| json!({"$type": "geo", "$lng": lng, "$lat": lat});
    let square = json!({"type": "Polygon", "coordinates": [
        [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]],
    ]});
    let fields = json!({
        "place": point(1.0, 1.0), "area": {"$type": "geojson", "$val": square},
    });
    let distance = json!(["func", "distance", path("place"), point(1.0, 1.0)]);
    let yes = [
        json!(["lt", distance, 0]),
        json!(["gt", 0, distance]),
        json!(["lte", distance, "0"]),
        json!(["eq", path("place"), point(1.0, 1.0)]),
        json!(["in", path("place"), path("area")]),
        json!(["in", point(1.0, 0.5), path("area")]),
        json!(["in", path("place"), {"$type": "geojson", "$val": square}]),
    ];
    for wire in yes {
        assert_eq!(evaluate(&wire, fields.clone()), Some(true), "{wire}");
    }
    let no = [
        json!(["gt", distance, 0]),
        json!(["in", point(0.0, 1.0), path("area")]),
        json!(["neq", path("place"), point(1.0, 1.0)]),
    ];
    for wire in no {
        assert_eq!(evaluate(&wire, fields.clone()), Some(false), "{wire}");
    }
    assert_eq!(evaluate(&json!(["lt", distance, 1]), json!({})), None);
}

#[test]
fn relations_are_those_of_the_one_who_asks_and_negate_plainly() {
    let related = |field: &str, direction: &str| {
        let argument = json!({"$type": "relation", "$name": "_follow", "$direction": direction});
        json!(["func", "userRelation", path(field), argument])
    };
    let fields = json!({"friend": {"$type": "ref", "$id": "user/u2"}});
    let cases = [
        (related("_owner", "outward"), true),
        (related("_owner", "inward"), false),
        (related("_owner_id", "mutual"), false),
        (related("friend", "mutual"), true),
        (json!(["not", related("_owner", "inward")]), true),
        (json!(["not", related("_updated_by", "outward")]), true),
    ];
    for (wire, expected) in cases {
        assert_eq!(evaluate(&wire, fields.clone()), Some(expected), "{wire}");
    }
    let wire = related("_owner", "outward");
    assert_eq!(evaluate_as(None, &wire, fields), Some(false));
}

#[test]
fn what_a_condition_looks_at_is_counted_before_it_is_looked_at() {
    let long = "x".repeat(1000);
    let fields = json!({
        "text": long, "name": long, "number": 1,
        "json": {"a": vec![long.clone(); 10]}, "place": {"$type": "geo", "$lng": 1, "$lat": 2},
        "note": {"$type": "ref", "$id": "note/a"},
    });
    let record = record("thing/key", fields);
    let world = World {
        note: self::record("note/a", json!({"title": long})),
    };
    let context = Context {
        user: None,
        lookups: &world,
    };
    let cost = |wire: &Json, most| {
        let condition = condition(wire).unwrap_or_else(|error| panic!("{wire}: {error}"));
        condition.cost(&record, context, most)
    };
    let like = |name: &str| json!(["like", path(name), "%a%"]);
    let ring = vec![json!([0, 0]); 100];
    let area = json!({"$type": "geojson", "$val": {"type": "Polygon", "coordinates": [ring]}});
    // The cost must lie between these numbers. The second is far below the cost of anything else
    // that could be counted.
    let cases = [
        (like("text"), 1000, 1100),
        (like("note.title"), 1000, 1100),
        (
            json!(["and", like("text"), ["not", like("name")]]),
            2000,
            2100,
        ),
        (
            json!(["or", ["eq", path("_id"), "key"], like("text")]),
            1000,
            1100,
        ),
        (json!(["eq", path("text"), "x"]), 1, 100),
        (json!(["eq", path("name"), "x"]), 1000, 1100),
        (json!(["eq", path("number"), 1]), 1, 100),
        (json!(["in", path("text"), ["x", "y", "z"]]), 3, 100),
        (json!(["in", path("name"), ["x", "y", "z"]]), 3000, 3100),
        (json!(["in", "a", path("json")]), 10_000, 11_000),
        (json!(["in", path("place"), area]), 1600, 2000),
        (
            json!(["func", "userRelation", path("_owner"),
            {"$type": "relation", "$name": "_follow", "$direction": "outward"}]),
            1,
            100,
        ),
    ];
    for (wire, least, most) in cases {
        let cost = cost(&wire, 1 << 40);
        assert!((least..most).contains(&cost), "{wire}: {cost}");
    }
    let many = vec![like("text"); 500];
    let many: Vec<Json> = [json!("or")].into_iter().chain(many).collect();
    let many = json!(many);
    assert!(cost(&many, 1 << 40) >= 500_000);
    let stopped = cost(&many, 10_000);
    assert!((10_001..12_000).contains(&stopped), "{stopped}");
}
