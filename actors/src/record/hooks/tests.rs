use skytrail_schema::acl::{AccessEntry, Level};
use skytrail_schema::id::{Database, RecordId, UserId};

use super::*;

fn record(fields: &Json) -> Record {
    let fields = fields.as_object().unwrap().iter();
    Record {
        id: RecordId::new("note", "1"),
        database: Database::Public,
        owner: Some(UserId::from("ada")),
        access: None,
        created_at: Timestamp::from_micros(1),
        created_by: Some(UserId::from("ada")),
        updated_at: Timestamp::from_micros(2),
        updated_by: Some(UserId::from("ada")),
        fields: fields
            .map(|(name, value)| (name.clone(), Value::from_wire(value.clone()).unwrap()))
            .collect(),
    }
}

fn draft(fields: &Json, stored: Option<&Json>) -> Draft {
    let head = |fields| {
        Arc::new(Head {
            version: 1,
            position: 1,
            record: record(fields),
        })
    };
    Draft {
        record: record(fields),
        original: stored.map(head),
        provenance: Vec::new(),
    }
}

/// Runs hooks with these answers over a draft; returns the fields in the end, and what each changed.
fn run(mut draft: Draft, answers: &[Json]) -> (Json, Vec<BTreeSet<String>>) {
    let mut changed = Vec::new();
    for answer in answers {
        let mut answer = answer.clone();
        answer["_id"] = json!("note/1");
        let answer = parse_answer(&answer, &draft.record).unwrap();
        changed.push(take_over(&mut draft, answer));
    }
    restore(&mut draft);
    let fields = draft.record.fields.iter();
    let wire = fields.map(|(name, value)| (name.clone(), value.to_wire()));
    (Json::Object(wire.collect()), changed)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_field_that_is_left_out_keeps_its_stored_value() {
    let update = draft(
        &json!({"title": "new", "n": 1, "kept": true}),
        Some(&json!({"title": "old", "n": 1, "kept": true})),
    );
    let (fields, changed) = run(update, &[json!({"n": 2})]);
    assert_eq!(fields, json!({"title": "old", "n": 2, "kept": true}));
    assert_eq!(changed, [names(&["n", "title"])]);
}

#[test]
fn a_field_that_is_left_out_of_a_new_record_is_not_stored() {
    let create = draft(&json!({"title": "new", "n": 1}), None);
    let (fields, changed) = run(create, &[json!({"title": "better"})]);
    assert_eq!(fields, json!({"title": "better"}));
    assert_eq!(changed, [names(&["n", "title"])]);
}

#[test]
fn null_clears() {
    let update = draft(&json!({"a": 1}), Some(&json!({"a": 1})));
    let (fields, _) = run(update, &[json!({"a": null, "never_there": null})]);
    assert_eq!(fields, json!({"a": null}));
}

#[test]
fn null_clears_what_an_earlier_hook_left_out() {
    let update = draft(&json!({"a": 1}), Some(&json!({"a": 1})));
    let (fields, _) = run(update, &[json!({}), json!({"a": null})]);
    assert_eq!(fields, json!({"a": null}));
}

#[test]
fn each_hook_sees_the_one_before() {
    let create = draft(&json!({"n": 1}), None);
    let (fields, changed) = run(create, &[json!({"n": 2, "m": 1}), json!({"n": 2, "m": 2})]);
    assert_eq!(fields, json!({"n": 2, "m": 2}));
    assert_eq!(changed, [names(&["m", "n"]), names(&["m"])]);
}

#[test]
fn markers_are_no_values() {
    let update = draft(&json!({"seq": 7}), Some(&json!({"seq": 7})));
    let answer = json!({"seq": {"$type": "seq"}, "odd": {"$type": "unknown"}});
    let (fields, changed) = run(update, &[answer]);
    assert_eq!(fields, json!({"seq": 7}));
    assert_eq!(changed, [names(&[])]);
}

#[test]
fn access_may_be_changed_and_null_means_the_old_list() {
    let list = json!([{"level": "read", "public": true}]);
    let mut update = draft(&json!({}), Some(&json!({})));
    let answer = json!({"_id": "note/1", "_access": list});
    let answer = parse_answer(&answer, &update.record).unwrap();
    assert_eq!(take_over(&mut update, answer), names(&["_access"]));
    let public = AccessEntry {
        relation: None,
        role: None,
        level: Level::Read,
        user_id: None,
        public: true,
    };
    assert_eq!(update.record.access, Some(Acl(vec![public])));
    let answer = parse_answer(&json!({"_id": "note/1", "_access": null}), &update.record).unwrap();
    take_over(&mut update, answer);
    assert_eq!(update.record.access, None);
}

#[test]
fn what_is_no_record_or_another_one_is_refused() {
    let bad = [
        json!(null),
        json!("text"),
        json!({}),
        json!({"_id": "note/2"}),
        json!({"_id": "note/1", "_access": {}}),
        json!({"_id": "note/1", "_access": [{}]}),
        json!({"_id": "note/1", "_ownerID": 1}),
        json!({"_id": "note/1", "_created_by": []}),
        json!({"_id": "note/1", "_created_at": "yesterday"}),
        json!({"_id": "note/1", "_updated_at": 1}),
        json!({"_id": "note/1", "a": {"$type": "blob"}}),
    ];
    let record = record(&json!({}));
    for answer in bad {
        let refused = parse_answer(&answer, &record).err();
        assert_eq!(
            refused.map(|error| error.code.number()),
            Some(10000),
            "{answer}"
        );
    }
    let metadata =
        json!({"_id": "note/1", "_ownerID": "eve", "_created_at": "2020-01-01T00:00:00Z"});
    assert!(parse_answer(&metadata, &record).is_ok());
}
