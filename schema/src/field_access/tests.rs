//! Field access: wire form, evaluation, queries.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::caller::{Caller, KeyKind};
use crate::id::{Database, RecordId};
use crate::query::Query;
use crate::record::Record;
use crate::time::Timestamp;
use crate::types::{FieldType, TypeDefinition};
use crate::value::Value;

/// An entry that allows the uses named in `flags`: w, r, c, d.
fn entry(record_type: &str, field: &str, role: &str, flags: &str) -> FieldAccessEntry {
    FieldAccessEntry {
        record_type: record_type.to_owned(),
        record_field: field.to_owned(),
        user_role: FieldUserRole::parse(role).unwrap(),
        writable: flags.contains('w'),
        readable: flags.contains('r'),
        comparable: flags.contains('c'),
        discoverable: flags.contains('d'),
    }
}

fn rules(entries: &[(&str, &str, &str, &str)]) -> FieldRules {
    let entries = entries
        .iter()
        .map(|(of, field, role, flags)| entry(of, field, role, flags));
    FieldRules::new(&FieldAccess(entries.collect()))
}

fn user(id: &str) -> Caller {
    Caller {
        user: Some(id.into()),
        ..Caller::default()
    }
}

fn master() -> Caller {
    Caller {
        key: KeyKind::Master,
        ..Caller::default()
    }
}

fn record(owner: &str, fields: Json) -> Record {
    let fields = fields.as_object().cloned().unwrap();
    let value = |(name, wire)| (name, Value::from_wire(wire).unwrap());
    Record {
        id: RecordId::new("note", "1"),
        database: Database::Public,
        owner: Some(owner.into()),
        access: None,
        created_at: Timestamp::from_micros(0),
        created_by: Some("maker".into()),
        updated_at: Timestamp::from_micros(0),
        updated_by: None,
        fields: fields.into_iter().map(value).collect(),
    }
}

#[test]
fn entries_come_back_sorted() {
    let wire = FieldAccess(vec![
        entry("*", "*", "_public", "r"),
        entry("note", "*", "_any_user", "r"),
        entry("note", "b", "_public", ""),
        entry("note", "b", "_role:z", "wrcd"),
        entry("note", "b", "_role:a", "w"),
        entry("note", "b", "_owner", "w"),
    ]);
    let unsorted: Vec<Json> = wire.0.iter().map(FieldAccessEntry::to_wire).collect();
    let access = FieldAccess::from_wire(&unsorted).unwrap();
    let roles: Vec<String> = access
        .0
        .iter()
        .map(|entry| {
            format!(
                "{}.{} {}",
                entry.record_type, entry.record_field, entry.user_role
            )
        })
        .collect();
    assert_eq!(
        roles,
        [
            "note.b _owner",
            "note.b _role:a",
            "note.b _role:z",
            "note.b _public",
            "note.* _any_user",
            "*.* _public",
        ]
    );
    assert_eq!(
        FieldAccess::from_wire(access.to_wire().as_array().unwrap()),
        Ok(access)
    );
}

#[test]
fn malformed_and_double_entries_are_refused() {
    let good = entry("note", "a", "_public", "r").to_wire();
    let with = |name: &str, value: Json| {
        let mut entry = good.clone();
        entry[name] = value;
        entry
    };
    let bad = [
        json!({"record_type": "note"}),
        json!("x"),
        with("record_type", json!("")),
        with("record_field", json!("")),
        with("user_role", json!("_whatever")),
        with("user_role", json!("_role")),
        with("user_role", json!("_public:z")),
        with("user_role", json!("_owner:x")),
        with("readable", json!(1)),
    ];
    for entry in bad {
        let error = FieldAccess::from_wire(&[entry]).unwrap_err();
        assert_eq!(
            (error.code.number(), error.message.as_str()),
            (108, "invalid access entry")
        );
    }
    let twice = FieldAccess::from_wire(&[good.clone(), good]).unwrap_err();
    assert_eq!(twice.code.number(), 10_000);
}

#[test]
fn only_the_most_specific_group_counts() {
    let rules = rules(&[
        ("note", "a", "_role:editor", "r"),
        ("note", "*", "_any_user", "r"),
        ("*", "a", "_public", "r"),
        ("*", "b", "_public", ""),
        ("other", "*", "_public", "r"),
    ]);
    let may = |of: &str, field: &str, caller: &Caller| {
        rules.allows(FieldUse::Read, (of, field), caller, None)
    };
    let editor = Caller {
        roles: ["editor".into()].into(),
        ..user("u")
    };
    assert!(may("note", "a", &editor));
    assert!(
        !may("note", "a", &user("u")),
        "a less specific group is not asked"
    );
    assert!(may("note", "b", &user("u")));
    assert!(!may("note", "b", &Caller::default()));
    assert!(!may("third", "b", &user("u")));
    assert!(may("third", "c", &Caller::default()), "no group at all");
    assert!(
        may("note", "_created_by", &Caller::default()),
        "system fields are open"
    );
    assert!(may("third", "b", &master()));
}

#[test]
fn in_a_group_the_first_rule_about_the_caller_decides() {
    let rules = rules(&[
        ("note", "a", "_public", "wr"),
        ("note", "a", "_any_user", ""),
        ("note", "a", "_field:editors", "r"),
        ("note", "a", "_field:_created_by", "r"),
        ("note", "a", "_user_id:special", "w"),
        ("note", "a", "_owner", "wr"),
    ]);
    let note = record(
        "owner",
        json!({
            "editors": ["e1"], "ref": {"$type": "ref", "$id": "user/e2"},
        }),
    );
    let may =
        |field_use, caller: &Caller, record| rules.allows(field_use, ("note", "a"), caller, record);
    let cases = [
        ("owner", true, true),
        ("special", false, true),
        ("e1", true, false),
        ("maker", true, false),
        ("e2", false, false),
    ];
    for (id, reads, writes) in cases {
        assert_eq!(may(FieldUse::Read, &user(id), Some(&note)), reads, "{id}");
        assert_eq!(may(FieldUse::Write, &user(id), Some(&note)), writes, "{id}");
    }
    assert!(may(FieldUse::Read, &Caller::default(), Some(&note)));
    assert!(
        !may(FieldUse::Read, &user("owner"), None),
        "no record, no owner"
    );
}

#[test]
fn hidden_fields_are_removed_and_unwritable_changes_found() {
    let rules = rules(&[
        ("note", "secret", "_any_user", ""),
        ("note", "count", "_field:editors", "wr"),
        ("note", "editors", "_public", ""),
    ]);
    let stored = record(
        "o",
        json!({"secret": 1, "count": 2, "editors": ["u"], "free": 3}),
    );
    let mut seen = stored.clone();
    rules.hide_unreadable(&user("u"), &mut seen);
    assert_eq!(seen.fields.keys().collect::<Vec<_>>(), ["count", "free"]);
    let mut seen = stored.clone();
    rules.hide_unreadable(&master(), &mut seen);
    assert_eq!(seen, stored);

    let changed = record(
        "o",
        json!({"secret": 1.0, "count": 5, "free": null, "new": 1}),
    );
    let denied =
        |caller: &Caller| rules.find_unwritable(caller, &stored, (&changed, &changed.fields));
    // A field that a caller cannot see is refused when it is sent, even unchanged: otherwise its
    // value could be guessed.
    assert_eq!(denied(&user("u")), ["editors", "secret"]);
    assert_eq!(denied(&user("x")), ["count", "editors", "secret"]);
    assert_eq!(denied(&master()), [""; 0]);
}

fn types() -> Vec<Arc<TypeDefinition>> {
    let of = |name: &str, fields: &[(&str, FieldType)]| {
        let fields = fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), kind.clone()));
        Arc::new(TypeDefinition {
            fields: fields.collect(),
            ..TypeDefinition::empty(name.into())
        })
    };
    let number = FieldType::Number;
    let user = FieldType::Reference("user".into());
    vec![
        of(
            "note",
            &[
                ("d", number.clone()),
                ("c", number.clone()),
                ("n", number),
                ("who", user),
            ],
        ),
        of("user", &[("username", FieldType::CaselessString)]),
    ]
}

#[test]
fn queries_are_refused_by_the_use_they_make_of_a_field() {
    let rules = rules(&[
        ("note", "d", "_public", "rd"),
        ("note", "c", "_public", "c"),
        ("note", "n", "_public", ""),
        ("user", "username", "_any_user", "rcd"),
    ]);
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    let check = |parameters: Json| {
        let mut parameters = parameters.as_object().cloned().unwrap();
        parameters.insert("record_type".into(), "note".into());
        let query = Query::parse(&parameters).unwrap();
        let refusal = rules.check_query(&query, &Caller::default(), types().as_slice());
        assert_eq!(
            rules.check_query(&query, &master(), types().as_slice()),
            Ok(())
        );
        refusal
            .err()
            .map(|error| (error.code.number(), error.message))
    };
    let denied = |field: &str, needed: &str| {
        let text = "due to Field ACL, need to be";
        Some((
            124,
            format!("Cannot query on field \"{field}\" {text} {needed}"),
        ))
    };
    let both = "discoverable or comparable";
    let predicates = [
        (json!(["eq", path("d"), 1]), None),
        (
            json!(["and", ["in", path("d"), [1]], ["eq", path("c"), 1]]),
            None,
        ),
        (json!(["gt", path("d"), 1]), denied("d", "comparable")),
        (
            json!(["not", ["eq", path("d"), 1]]),
            denied("d", "comparable"),
        ),
        (
            json!(["or", ["eq", path("c"), 1], ["eq", path("d"), 1]]),
            denied("d", "comparable"),
        ),
        (json!(["gt", path("c"), 1]), None),
        (json!(["eq", path("n"), 1]), denied("n", both)),
        (
            json!(["eq", path("who.username"), "a"]),
            denied("username", both),
        ),
        (json!(["eq", path("_owner"), "a"]), None),
        (
            json!(["eq", path("d.x"), 1]),
            Some((
                120,
                "field \"d\" in keypath \"d.x\" is not a reference".to_owned(),
            )),
        ),
    ];
    for (predicate, expected) in predicates {
        assert_eq!(
            check(json!({"predicate": predicate})),
            expected,
            "{predicate}"
        );
    }
    let sort = |field: &str| check(json!({"sort": [[path(field), "asc"]]}));
    assert_eq!(sort("d"), denied("d", "comparable"));
    assert_eq!(sort("c"), None);
    let include = |field: &str| check(json!({"include": {"x": path(field)}}));
    assert_eq!(include("c"), denied("c", "readable"));
    assert_eq!(include("d"), None);
}

#[test]
fn a_new_app_guards_names_and_addresses() {
    let rules = FieldRules::new(&FieldAccess::installed(&AuthKeys::default()));
    let may = |field_use, caller: &Caller| {
        let own = Record {
            id: RecordId::new("user", "u"),
            ..record("u", json!({}))
        };
        rules.allows(field_use, ("user", "username"), caller, Some(&own))
    };
    for field_use in [FieldUse::Read, FieldUse::Compare, FieldUse::Discover] {
        assert!(may(field_use, &user("other")));
        assert!(!may(field_use, &Caller::default()));
    }
    assert!(may(FieldUse::Write, &user("u")));
    assert!(!may(FieldUse::Write, &user("other")));
}

/// The evaluation as the specification describes it, step by step.
fn model(
    entries: &[FieldAccessEntry],
    field_use: FieldUse,
    (of, field): (&str, &str),
    caller: &Caller,
    record: &Record,
) -> bool {
    for (group_type, group_field) in [(of, field), (of, "*"), ("*", field), ("*", "*")] {
        let is_in = |entry: &&FieldAccessEntry| {
            entry.record_type == group_type && entry.record_field == group_field
        };
        let group: Vec<_> = entries.iter().filter(is_in).collect();
        if group.is_empty() {
            continue;
        }
        for kind in ["_owner", "_user_id:", "_any_user", "_public"] {
            for entry in &group {
                let role = entry.user_role.to_string();
                let id = caller.user.as_ref().map(ToString::to_string);
                let matches = match kind {
                    "_owner" => id.is_some() && caller.user == record.owner,
                    "_user_id:" => Some(role.clone()) == id.map(|id| kind.to_owned() + &id),
                    "_any_user" => id.is_some(),
                    _ => true,
                };
                if role.starts_with(kind) && matches {
                    return match field_use {
                        FieldUse::Read => entry.readable,
                        FieldUse::Write => entry.writable,
                        FieldUse::Compare => entry.comparable,
                        FieldUse::Discover => entry.discoverable || entry.comparable,
                    };
                }
            }
        }
        return false;
    }
    true
}

proptest! {
    #[test]
    fn evaluation_agrees_with_the_specification(
        entries in prop::collection::btree_map(
            (
                prop::sample::select(vec!["note", "other", "*"]),
                prop::sample::select(vec!["a", "b", "*"]),
                prop::sample::select(vec!["_owner", "_user_id:u", "_any_user", "_public"]),
            ),
            "[wrcd]{0,3}",
            0..8,
        ),
        id in prop::option::of(prop::sample::select(vec!["u", "owner"])),
        field_use in prop::sample::select(vec![
            FieldUse::Read, FieldUse::Write, FieldUse::Compare, FieldUse::Discover,
        ]),
        field in prop::sample::select(vec!["a", "b", "c"]),
    ) {
        let entries: Vec<_> = entries
            .iter()
            .map(|((of, field, role), flags)| entry(of, field, role, flags))
            .collect();
        let caller = id.map_or_else(Caller::default, user);
        let note = record("owner", json!({}));
        let rules = FieldRules::new(&FieldAccess(entries.clone()));
        prop_assert_eq!(
            rules.allows(field_use, ("note", field), &caller, Some(&note)),
            model(&entries, field_use, ("note", field), &caller, &note)
        );
    }
}

/// Sorted, as they are stored.
fn access(entries: &[(&str, &str, &str, &str)]) -> FieldAccess {
    let mut entries: Vec<_> = entries
        .iter()
        .map(|(of, field, role, flags)| entry(of, field, role, flags))
        .collect();
    entries.sort_by(FieldAccessEntry::compare);
    FieldAccess(entries)
}

#[test]
fn rules_follow_a_field_that_is_renamed() {
    let others = [
        ("page", "x", "_field:x", "wcd"),
        ("*", "x", "_public", "wcd"),
    ];
    let of_note = [
        ("note", "x", "_public", "wcd"),
        ("note", "y", "_field:x", "wcd"),
        // Rules for a field that existed once, or that never did.
        ("note", "z", "_owner", "wrcd"),
        ("note", "z", "_public", "wrcd"),
    ];
    let before = access(&[&others[..], &of_note].concat());
    let renamed = before.with_renamed_field("note", "x", "z");
    let of_note = [
        ("note", "y", "_field:z", "wcd"),
        ("note", "z", "_public", "wcd"),
    ];
    assert_eq!(renamed, Some(access(&[&others[..], &of_note].concat())));
    assert_eq!(before.with_renamed_field("note", "w", "v"), None);
    // A field without rules gets those for its new name.
    assert_eq!(before.with_renamed_field("note", "w", "z"), None);
}

#[test]
fn what_is_said_of_a_field_of_any_type_is_said_of_a_renamed_one() {
    let any = [
        ("*", "x", "_owner", "r"),
        ("*", "x", "_public", ""),
        ("*", "y", "_public", "wrcd"),
        ("*", "*", "_any_user", "rcd"),
    ];
    let before = access(&any);
    let with = |own: &[_]| Some(access(&[&any[..], own].concat()));
    let hidden = [("note", "z", "_owner", "r"), ("note", "z", "_public", "")];
    assert_eq!(before.with_renamed_field("note", "x", "z"), with(&hidden));
    // Rules for all fields cover any name except one that has rules of its own.
    assert_eq!(before.with_renamed_field("note", "a", "b"), None);
    let only = [("note", "y", "_any_user", "rcd")];
    assert_eq!(before.with_renamed_field("note", "a", "y"), with(&only));
    // A type with rules for all its fields ignores the rules for any type.
    let own = access(&[&any[..], &[("note", "*", "_public", "wrcd")]].concat());
    assert_eq!(own.with_renamed_field("note", "x", "z"), None);
}

#[test]
fn a_rule_for_all_types_names_users_by_the_new_name() {
    let any = [
        ("*", "x", "_public", "r"),
        ("*", "*", "_field:f", "rcd"),
        ("*", "*", "_public", ""),
    ];
    let own = [
        ("note", "x", "_public", "r"),
        ("note", "*", "_field:g", "rcd"),
        ("note", "*", "_public", ""),
    ];
    let renamed = access(&any).with_renamed_field("note", "f", "g");
    assert_eq!(renamed, Some(access(&[any, own].concat())));
}

#[test]
fn a_rename_lets_nobody_say_that_he_is_verified() {
    let any = [
        ("*", "*", "_field:f", "wr"),
        ("*", IS_VERIFIED, "_public", "wr"),
    ];
    let renamed = access(&any).with_renamed_field("user", "f", "g").unwrap();
    let rules = FieldRules::new(&renamed).guarding_verified(true);
    let of = ("user", IS_VERIFIED);
    assert!(rules.allows(FieldUse::Read, of, &user("u"), None));
    assert!(!rules.allows(FieldUse::Write, of, &user("u"), None));
}
