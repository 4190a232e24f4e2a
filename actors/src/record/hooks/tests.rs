use proptest::prelude::*;
use skytrail_schema::acl::{AccessEntry, Level};
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::record::Head;

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
        left_out: Default::default(),
    }
}

/// Runs hooks with these answers over a draft; returns the final fields, and what each hook
/// changed.
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
fn a_marker_in_the_place_of_what_the_client_sent_is_as_if_it_had_not_sent_it() {
    let marker = json!({"seq": {"$type": "seq"}});
    let create = draft(&json!({"seq": 5000}), None);
    let (fields, changed) = run(create, std::slice::from_ref(&marker));
    assert_eq!(fields, json!({}));
    assert_eq!(changed, [names(&["seq"])]);
    let update = draft(&json!({"seq": 5000}), Some(&json!({"seq": 7})));
    let (fields, _) = run(update, &[marker]);
    assert_eq!(fields, json!({"seq": 7}));
}

#[test]
fn numbers_inside_json_keep_what_a_plugins_language_cannot_carry() {
    let precise = json!({"js": {"id": 1_234_567_890_123_456_789_u64, "list": [9_007_199_254_740_993_u64, 1.5]}});
    let rounded =
        json!({"js": {"id": 1.234_567_890_123_456_8e18, "list": [9_007_199_254_740_992_u64, 1.5]}});
    let update = draft(&precise, Some(&precise));
    let (fields, changed) = run(update, std::slice::from_ref(&rounded));
    assert_eq!(fields, precise);
    assert_eq!(changed, [names(&[])]);
    let as_javascript_writes = json!({"js": {"id": 1_234_567_890_123_456_800_u64, "list": [9_007_199_254_740_992_u64, 1.5]}});
    let (fields, _) = run(draft(&precise, None), &[as_javascript_writes]);
    assert_eq!(fields, precise);
    // What the plugin has changed counts as its change.
    let one_more = json!({"js": {"id": 1_234_567_890_123_456_790_u64, "list": [1.5]}});
    let (fields, _) = run(draft(&precise, None), std::slice::from_ref(&one_more));
    assert_eq!(fields, one_more);
    let next = json!({"js": {"id": 1_234_567_890_123_456_790_u64, "list": [9_007_199_254_740_993_u64, 1.5]}});
    let (fields, _) = run(draft(&precise, None), std::slice::from_ref(&next));
    assert_eq!(fields, next);
    let other = json!({"js": {"id": 7, "list": []}});
    let (fields, changed) = run(draft(&precise, None), std::slice::from_ref(&other));
    assert_eq!(fields, other);
    assert_eq!(changed, [names(&["js"])]);
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

fn any_answer() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[a-z/1]{0,8}".prop_map(Json::from),
        prop::sample::select(vec!["note/1", "ref", "date", "2020-01-01T00:00:00Z"])
            .prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = vec![
            "_id",
            "_access",
            "_ownerID",
            "_created_at",
            "_transient",
            "$type",
            "$id",
            "$date",
            "title",
            "",
        ];
        let name = prop::sample::select(names).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(name, inner, 0..6)
                .prop_map(|members| Json::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Any answer of a hook is either this record, with the server's own metadata, or fails with
    /// 10000.
    #[test]
    fn every_answer_is_taken_or_refused(mut answer in any_answer(), is_this in any::<bool>()) {
        if let (true, Some(members)) = (is_this, answer.as_object_mut()) {
            members.insert("_id".to_owned(), json!("note/1"));
        }
        let stored = json!({"title": "old"});
        let mut draft = draft(&json!({"title": "new", "n": 1}), Some(&stored));
        let before = draft.record.clone();
        match parse_answer(&answer, &before) {
            Err(error) => prop_assert_eq!(error.code.number(), 10000),
            Ok(parsed) => {
                prop_assert_eq!(&answer["_id"], "note/1");
                take_over(&mut draft, parsed);
                restore(&mut draft);
                let after = draft.record;
                prop_assert!(after.fields.get("title").is_some());
                let is_own = |(name, _): (&String, &Value)| name.is_empty() || name.starts_with('_');
                prop_assert!(!after.fields.iter().any(is_own));
                prop_assert_eq!((after.owner, after.created_at), (before.owner, before.created_at));
            }
        }
    }
}
