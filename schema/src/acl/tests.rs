//! Access lists: their wire form, and their evaluation against an independent model.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::caller::KeyKind;
use crate::id::{Database, RecordId};
use crate::record::Record;
use crate::time::Timestamp;

fn record(owner: Option<&str>, access: Option<Acl>) -> Record {
    Record {
        id: RecordId::new("note", "1"),
        database: Database::Public,
        owner: owner.map(UserId::from),
        access,
        created_at: Timestamp::from_micros(0),
        created_by: None,
        updated_at: Timestamp::from_micros(0),
        updated_by: None,
        fields: Default::default(),
    }
}

fn caller(key: KeyKind, user: Option<&str>, roles: &[&str]) -> Caller {
    Caller {
        key,
        user: user.map(UserId::from),
        roles: roles.iter().copied().map(RoleName::from).collect(),
        ..Caller::default()
    }
}

/// Decides who may do what from the wire form of the list alone, without the types under test.
fn model(wire: &Json, wants_write: bool, owner: Option<&str>, caller: &Caller) -> bool {
    let user = caller.user.as_ref().map(UserId::as_str);
    let Some(entries) = wire.as_array() else {
        return true;
    };
    let grants = |entry: &Json| {
        let is_enough = !wants_write || entry["level"] == "write";
        let names_user = user.is_some() && entry["user_id"].as_str() == user;
        let role = entry["role"].as_str();
        let names_role = role.is_some_and(|role| caller.roles.contains(role));
        is_enough && (entry["public"] == true || names_user || names_role)
    };
    caller.key == KeyKind::Master || (user.is_some() && user == owner) || entries.iter().any(grants)
}

fn names() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["a", "b", "c"]))
}

/// A target that an entry can name. An empty name matches nobody.
fn target() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(vec!["a", "b", "c", ""]))
}

fn entry() -> impl Strategy<Value = Json> {
    let level = prop::sample::select(vec!["read", "write"]);
    let public = prop::option::of(any::<bool>());
    (level, target(), target(), target(), public).prop_filter_map(
        "an entry names someone",
        |(level, relation, role, user, public)| {
            let mut entry = json!({"level": level, "unknown": 1});
            let texts = [("relation", relation), ("role", role), ("user_id", user)];
            for (name, text) in texts {
                if let Some(text) = text {
                    entry[name] = text.into();
                }
            }
            if let Some(public) = public {
                entry["public"] = public.into();
            }
            let names_someone = relation.or(role).or(user).is_some() || public.is_some();
            names_someone.then_some(entry)
        },
    )
}

proptest! {
    #[test]
    fn evaluation_agrees_with_the_model(
        entries in prop::option::of(prop::collection::vec(entry(), 0..4)),
        owner in names(),
        user in names(),
        roles in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..3),
        key in prop::sample::select(vec![KeyKind::None, KeyKind::Client, KeyKind::Master]),
        level in prop::sample::select(vec![Level::Read, Level::Write]),
    ) {
        let wire = entries.map_or(Json::Null, Json::from);
        let access = Acl::from_wire(&wire).unwrap();
        let caller = caller(key, user, &roles);
        let expected = model(&wire, level == Level::Write, owner, &caller);
        prop_assert_eq!(caller.may(level, &record(owner, access)), expected);
    }

    #[test]
    fn the_wire_form_comes_back_and_grants_the_same(
        entries in prop::collection::vec(entry(), 0..4),
        user in names(),
    ) {
        let access = Acl::from_wire(&Json::from(entries)).unwrap().unwrap();
        let wire = access.to_wire();
        let stored = serde_json::from_str(&serde_json::to_string(&access).unwrap()).unwrap();
        prop_assert_eq!(&access, &stored);
        let caller = caller(KeyKind::Client, user, &["a"]);
        let again = Acl::from_wire(&wire).unwrap().unwrap();
        prop_assert_eq!(&access, &again);
        for level in [Level::Read, Level::Write] {
            prop_assert_eq!(access.grants(level, &caller), again.grants(level, &caller));
        }
    }

    #[test]
    fn writing_includes_reading(
        entries in prop::option::of(prop::collection::vec(entry(), 0..4)),
        owner in names(),
        user in names(),
    ) {
        let wire = entries.map_or(Json::Null, Json::from);
        let record = record(owner, Acl::from_wire(&wire).unwrap());
        let caller = caller(KeyKind::Client, user, &["a"]);
        prop_assert!(caller.may(Level::Read, &record) || !caller.may(Level::Write, &record));
    }
}

#[test]
fn malformed_lists_are_refused() {
    assert_eq!(Acl::from_wire(&Json::Null), Ok(None));
    assert_eq!(Acl::from_wire(&json!({})), Err(AclError::NotAnArray));
    let good = json!({"level": "read", "public": true});
    for (entry, fault) in [
        (json!({"public": true}), "level"),
        (json!({"level": "create", "public": true}), "level"),
        (json!({"level": "read"}), "user_id"),
        (json!({"level": "read", "public": 1}), "user_id"),
        (json!("read"), "object"),
    ] {
        let error = Acl::from_wire(&json!([good, entry]))
            .unwrap_err()
            .to_string();
        let begins = error.starts_with("invalid _access entry: _access[1] ");
        assert!(begins && error.contains(fault), "{error}");
    }
}

#[test]
fn answers_carry_only_what_is_set() {
    let wire = json!([
        {"level": "read", "public": false},
        {"level": "write", "user_id": "u", "role": "", "other": 1},
        {"level": "read", "relation": "friend"},
    ]);
    let expected = json!([
        {"level": "read", "public": false},
        {"level": "write", "user_id": "u"},
        {"level": "read", "relation": "friend"},
    ]);
    assert_eq!(Acl::from_wire(&wire).unwrap().unwrap().to_wire(), expected);
}
