//! What holds for all predicates and records.

use super::*;

fn any_json() -> impl Strategy<Value = Json> {
    let word = prop_oneof![
        Just("and"),
        Just("not"),
        Just("eq"),
        Just("in"),
        Just("like"),
        Just("func"),
        Just("distance"),
        Just("userRelation"),
        Just("text"),
        Just("note.title"),
        Just("asc"),
        Just(""),
        Just("\\"),
        Just("geo"),
        Just("ref"),
        Just("date"),
        Just("a/b"),
    ];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        word.clone().prop_map(Json::from),
    ];
    let name = prop_oneof![
        Just("$type"),
        Just("$val"),
        Just("$lng"),
        Just("$lat"),
        Just("$id"),
        Just("$date"),
        Just("$name"),
        Just("$direction"),
        Just("x"),
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        prop_oneof![
            3 => (word.clone(), prop::collection::vec(inner.clone(), 0..4)).prop_map(
                |(word, rest)| {
                    let items = std::iter::once(Json::from(word)).chain(rest);
                    Json::Array(items.collect())
                }
            ),
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            2 => prop::collection::btree_map(name.clone(), inner, 0..4).prop_map(|map| {
                Json::Object(map.into_iter().map(|(name, value)| (name.into(), value)).collect())
            }),
        ]
    })
}

/// Conditions whose values are known, unknown, or depend on the record.
fn any_condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        Just(json!(["eq", path("text"), "a"])),
        Just(json!(["gt", path("number"), 0])),
        Just(json!(["eq", path("number"), null])),
        Just(json!(["in", path("text"), ["a", null]])),
        Just(json!(["in", path("text"), []])),
        Just(json!(["like", path("text"), "%b%"])),
        Just(json!(["in", "a", path("json")])),
    ];
    let leaf = leaf.prop_map(|wire| condition(&wire).unwrap());
    leaf.prop_recursive(3, 16, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::And),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::Or),
            inner.prop_map(|part| Condition::Not(Box::new(part))),
        ]
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    let text = prop::option::of(prop_oneof![Just("a"), Just("b"), Just("abc")]);
    let number = prop::option::of(-1..2_i32);
    let json = prop::option::of(prop_oneof![Just(json!(["a"])), Just(json!({"b": 1}))]);
    (text, number, json).prop_map(|(text, number, json)| {
        let fields = json!({"text": text, "number": number, "json": json});
        let mut record = record("thing/key", fields);
        record.fields.retain(|_, value| !value.is_null());
        record
    })
}

/// Predicates with equalities, also of values that the columns take in another form, or not at all.
fn any_predicate() -> impl Strategy<Value = Json> {
    let columns = [
        "text",
        "name",
        "number",
        "whole",
        "truth",
        "time",
        "json",
        "note",
        "place",
        "area",
        "_id",
        "_owner_id",
        "_created_at",
        "_access",
        "note.title",
        "missing",
    ];
    let literals = [
        json!("a"),
        json!("A"),
        json!("1"),
        json!(1),
        json!(-0.0),
        json!(0),
        json!(true),
        json!("key"),
        json!("owner"),
        json!("{\"a\":1}"),
        json!("1970-01-01T00:00:01Z"),
        date("1970-01-01T00:00:01Z"),
        json!({"$type": "ref", "$id": "note/a"}),
        json!({"$type": "geo", "$lng": 1, "$lat": 2}),
        Json::Null,
    ];
    let column = || prop::sample::select(columns.to_vec()).prop_map(path);
    let literal = || prop::sample::select(literals.to_vec());
    let list = prop::collection::vec(literal(), 0..3);
    let leaf = prop_oneof![
        4 => (column(), literal()).prop_map(|(column, literal)| json!(["eq", column, literal])),
        1 => (column(), literal()).prop_map(|(column, literal)| json!(["eq", literal, column])),
        1 => (column(), column()).prop_map(|(left, right)| json!(["eq", left, right])),
        2 => (column(), list).prop_map(|(column, list)| json!(["in", column, list])),
        1 => (column(), literal()).prop_map(|(column, literal)| json!(["gte", column, literal])),
        1 => (column(), literal()).prop_map(|(column, literal)| json!(["neq", column, literal])),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let parts = || prop::collection::vec(inner.clone(), 1..3);
        let of =
            |operator: &str, parts: Vec<Json>| Json::from([vec![json!(operator)], parts].concat());
        prop_oneof![
            parts().prop_map(move |parts| of("and", parts)),
            parts().prop_map(move |parts| of("or", parts)),
            inner.clone().prop_map(|part| json!(["not", part])),
        ]
    })
}

/// Records with something in many columns.
fn any_full_record() -> impl Strategy<Value = Record> {
    let one = |values: Vec<Json>| prop::option::of(prop::sample::select(values));
    let fields = (
        one(vec![json!("a"), json!("A"), json!("1"), json!("true")]),
        one(vec![json!("a"), json!("A"), json!("1")]),
        one(vec![json!(1), json!(0), json!(-0.0)]),
        any::<bool>(),
        one(vec![date("1970-01-01T00:00:01Z")]),
        one(vec![json!({"a": 1}), json!(["a"])]),
        one(vec![json!({"$type": "ref", "$id": "note/a"})]),
        one(vec![json!({"$type": "geo", "$lng": 1, "$lat": 2})]),
    );
    fields.prop_map(|(text, name, number, truth, time, json, note, place)| {
        let fields = json!({"text": text, "name": name, "number": number, "whole": number,
            "truth": truth, "time": time, "json": json, "note": note, "place": place});
        let mut record = record("thing/key", fields);
        record.fields.retain(|_, value| !value.is_null());
        record
    })
}

fn not(condition: &Condition) -> Condition {
    Condition::Not(Box::new(condition.clone()))
}

proptest! {
    #[test]
    fn parsing_and_binding_never_panic(wire in any_json()) {
        let _ = parse_operand(&wire);
        let _ = parse_sort(&wire);
        if let Some(items) = wire.as_array()
            && let Ok(predicate) = parse_predicate(items)
            && let Ok(condition) = bind(&predicate, &definition(), types().as_slice())
        {
            let context = Context { user: None, lookups: &Nothing };
            let _ = condition.evaluate(&record("thing/key", json!({"text": "a"})), context);
        }
    }

    #[test]
    fn negation_follows_de_morgan_and_cancels_itself(
        parts in prop::collection::vec(any_condition(), 1..4),
        record in any_record(),
    ) {
        let context = Context { user: None, lookups: &Nothing };
        let value = |condition: Condition| condition.evaluate(&record, context);
        let negated: Vec<_> = parts.iter().map(not).collect();
        let all = Condition::And(parts.clone());
        let any = Condition::Or(parts.clone());
        prop_assert_eq!(value(not(&all)), value(Condition::Or(negated.clone())));
        prop_assert_eq!(value(not(&any)), value(Condition::And(negated)));
        prop_assert_eq!(value(not(&not(&all))), value(all.clone()));
        // Unknown stays unknown: a record never matches both a condition and its negation.
        let both = [value(all.clone()), value(not(&all))];
        prop_assert!(both == [None, None] || both.contains(&Some(false)));
    }

    #[test]
    fn a_record_that_matches_has_all_that_is_necessary(
        wire in any_predicate(),
        records in prop::collection::vec(any_full_record(), 1..8),
    ) {
        let predicate = parse_predicate(wire.as_array().unwrap()).unwrap();
        let Ok(condition) = bind(&predicate, &definition(), types().as_slice()) else {
            return Ok(());
        };
        let necessities = predicate.necessities();
        let context = Context { user: None, lookups: &Nothing };
        for record in &records {
            if condition.evaluate(record, context) == Some(true) {
                let has = |(column, form): &FieldForm| {
                    CellForm::read(record, column).as_ref() == Some(form)
                };
                let has_all = necessities.iter().all(|any| any.iter().any(has));
                prop_assert!(has_all, "{wire}: {necessities:?}");
            }
        }
    }
}
