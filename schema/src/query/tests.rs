//! Parameters of `record:query`, and sorting.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::code::{ApiError, Code};
use crate::id::{Database, RecordId};
use crate::record::Record;
use crate::time::Timestamp;
use crate::types::{FieldType, TypeDefinition};
use crate::value::Value;

fn parse(wire: Json) -> Result<Query, ApiError> {
    let Json::Object(parameters) = wire else {
        panic!("not an object");
    };
    Query::parse(&parameters)
}

fn path(name: &str) -> Json {
    json!({"$type": "keypath", "$val": name})
}

fn definition() -> TypeDefinition {
    let fields = [
        ("n", FieldType::Number),
        ("s", FieldType::String),
        ("at", FieldType::Location),
        ("city", FieldType::Reference("city".into())),
        ("area", FieldType::Geometry),
    ];
    TypeDefinition {
        fields: fields.map(|(name, kind)| (name.to_owned(), kind)).into(),
        ..TypeDefinition::empty("t".into())
    }
}

fn bind(wire: Json) -> Result<BoundQuery, ApiError> {
    let types: &[Arc<TypeDefinition>] = &[];
    parse(wire)?.bind(&definition(), types)
}

#[test]
fn parameters_are_refused_in_the_documented_words_and_order() {
    let construct = |text: &str| format!("failed to construct query: {text}");
    let cases = [
        (json!({}), 108, "recordType cannot be empty".to_owned()),
        (
            json!({"record_type": 5}),
            108,
            "recordType cannot be empty".to_owned(),
        ),
        (
            json!({"record_type": "t", "predicate": {}, "sort": 1}),
            108,
            "expecting \"predicate\" to be an array".to_owned(),
        ),
        (
            json!({"record_type": "t", "sort": "n"}),
            108,
            "expecting \"sort\" to be an array".to_owned(),
        ),
        (
            json!({"record_type": "t", "sort": ["n"]}),
            108,
            construct("got len(sort descriptor) = 0, want 2"),
        ),
        (
            json!({"record_type": "t", "sort": [["n", "asc"]]}),
            108,
            construct("sort does not support literal"),
        ),
        (
            json!({"record_type": "t", "sort": [[path("n"), 1]]}),
            108,
            construct("empty sort order in sort descriptor"),
        ),
        (
            json!({"record_type": "t", "sort": [[path("n"), "up"]]}),
            108,
            construct("unknown sort order: up"),
        ),
        (
            json!({"record_type": "t", "desired_keys": [1]}),
            108,
            "unexpected value in desired_keys".to_owned(),
        ),
        (
            json!({"record_type": "t", "desired_keys": ["x"]}),
            10_000,
            "unexpected key \"x\"".to_owned(),
        ),
        (
            json!({"record_type": "t", "sort": [[path("x"), "asc"]]}),
            10_000,
            "cannot sort by \"x\"".to_owned(),
        ),
        (
            json!({"record_type": "t", "sort": [[path("city.name"), "asc"]]}),
            10_000,
            "cannot sort by \"city.name\"".to_owned(),
        ),
    ];
    for (wire, code, message) in cases {
        let error = bind(wire.clone()).unwrap_err();
        assert_eq!(
            (error.code.number(), error.message),
            (code, message),
            "{wire}"
        );
    }
}

#[test]
fn absent_and_null_parameters_mean_the_defaults() {
    let plain = parse(json!({"record_type": "t"})).unwrap();
    let odd = json!({
        "record_type": "t", "predicate": [], "sort": null, "include": null, "desired_keys": null,
        "count": null, "limit": null, "offset": -3, "page": 2,
    });
    assert_eq!(parse(odd).unwrap(), plain);
    assert_eq!((plain.limit, plain.offset, plain.count), (None, 0, false));
}

#[test]
fn parameters_of_the_wrong_type_are_refused_by_name() {
    for (name, value) in [
        ("include", json!([])),
        ("count", json!("false")),
        ("limit", json!("1")),
        ("offset", json!("1")),
    ] {
        let error = parse(json!({"record_type": "t", name: value})).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{name}");
        assert!(error.message.contains(name), "{}", error.message);
    }
}

#[test]
fn limits_are_cut_to_whole_numbers() {
    let limit = |value: Json| parse(json!({"record_type": "t", "limit": value})).map(|q| q.limit);
    assert_eq!(limit(json!(2.9)), Ok(Some(2)));
    assert_eq!(limit(json!(0)), Ok(Some(0)));
    assert_eq!(limit(json!(-0.5)), Ok(Some(0)));
    assert_eq!(limit(json!(1e300)), Ok(Some(u64::MAX)));
    assert!(limit(json!(-1)).is_err());
}

#[test]
fn desired_keys_that_come_again_say_nothing() {
    let keys = json!(["s", "n", "s", "s"]);
    let query = parse(json!({"record_type": "t", "desired_keys": keys})).unwrap();
    assert_eq!(query.desired_keys.unwrap(), ["n", "s"]);
}

#[test]
fn includes_bring_records_distances_and_constants() {
    let point = json!({"$type": "geo", "$lng": 1, "$lat": 2});
    let query = bind(json!({"record_type": "t", "include": {
        "city": path("city"), "owner": path("_owner"), "none": path("n"), "far": path("a.b"),
        "way": ["func", "distance", path("at"), point], "one": 1,
    }}));
    let include = query.unwrap().include;
    let is_record = |name: &str, of: &str| matches!(&include[name], BoundInclude::Record(via) if via.target.as_str() == of);
    assert!(is_record("city", "city") && is_record("owner", "user"));
    assert_eq!(include["none"], BoundInclude::Constant(Json::Null));
    assert_eq!(include["far"], BoundInclude::Constant(Json::Null));
    assert_eq!(include["one"], BoundInclude::Constant(json!(1)));
    assert!(matches!(include["way"], BoundInclude::Distance { .. }));
}

fn record(key: &str, n: Option<f64>, s: &str) -> Record {
    let mut fields = crate::record::Fields::from_iter([("s".to_owned(), Value::String(s.into()))]);
    fields.extend(n.map(|n| ("n".to_owned(), Value::Number(n))));
    Record {
        id: RecordId::new("t", key),
        database: Database::Public,
        owner: None,
        access: None,
        created_at: Timestamp::from_micros(0),
        created_by: None,
        updated_at: Timestamp::from_micros(0),
        updated_by: None,
        fields,
    }
}

#[test]
fn nulls_come_last_ascending_and_first_descending() {
    let records = [
        record("1", Some(1.0), "apple"),
        record("2", Some(3.0), "Banana"),
        record("3", None, "x"),
        record("4", Some(3.0), "apple"),
    ];
    let sorted = |sort: Json| {
        let query = bind(json!({"record_type": "t", "sort": sort})).unwrap();
        let mut sorted: Vec<&Record> = records.iter().collect();
        sorted.sort_by(|left, right| query.compare(left, right));
        let keys = sorted.iter().map(|record| record.id.key.to_string());
        keys.collect::<String>()
    };
    assert_eq!(
        sorted(json!([[path("n"), "asc"], [path("s"), "asc"]])),
        "1243"
    );
    assert_eq!(
        sorted(json!([[path("n"), "desc"], [path("_id"), "desc"]])),
        "3421"
    );
    assert_eq!(sorted(json!([])), "1234");
}

proptest! {
    #[test]
    fn parsing_never_panics(
        names in prop::collection::btree_map(
            prop_oneof![
                Just("record_type"), Just("predicate"), Just("sort"), Just("include"),
                Just("desired_keys"), Just("count"), Just("limit"), Just("offset"),
            ],
            prop_oneof![
                Just(json!(null)), Just(json!("t")), Just(json!([])), Just(json!({})),
                Just(json!([[]])), Just(json!(["eq", 1])), any::<f64>().prop_map(Json::from),
                any::<u64>().prop_map(Json::from), Just(json!({"a": ["func"]})),
            ],
            0..8,
        )
    ) {
        let parameters = names.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let _ = Query::parse(&parameters);
    }
}
