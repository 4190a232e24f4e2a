//! Random requests over few enough records and users that they collide.

use proptest::prelude::*;
use skytrail_schema::acl::{AccessEntry, Acl, Level};
use skytrail_schema::id::RecordId;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::{Asset, Point, Value};

use crate::record::messages::{ItemAccess, SaveItem};

/// One request.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Save {
        items: Vec<SaveItem>,
        user: &'static str,
    },
    Delete {
        id: RecordId,
    },
    DefaultAccess {
        access: Acl,
    },
    /// Renames a field of `note`, or deletes it.
    ChangeField {
        field: &'static str,
        new_name: Option<&'static str>,
    },
}

pub(super) fn all_ids() -> Vec<RecordId> {
    ["note/a", "note/b", "page/a"]
        .iter()
        .filter_map(|id| RecordId::parse(id))
        .collect()
}

fn any_id() -> impl Strategy<Value = RecordId> {
    // Mostly one record, so that its stream gets long enough for full states.
    prop_oneof![4 => Just(0_usize), 1 => Just(1), 1 => Just(2)]
        .prop_map(|index| all_ids().swap_remove(index))
}

fn any_access() -> impl Strategy<Value = Acl> {
    let user = prop::sample::select(vec!["u1", "u2"]);
    // Everyone may write, so that most saves succeed.
    prop::option::of(user).prop_map(|user| {
        Acl(vec![AccessEntry {
            relation: None,
            role: None,
            level: Level::Write,
            user_id: user.map(Into::into),
            public: true,
        }])
    })
}

fn any_item() -> impl Strategy<Value = SaveItem> {
    let null = || Just(Value::Null);
    let number = prop_oneof![
        Just(0.1),
        Just(-3.0),
        Just(1e21),
        any::<i32>().prop_map(f64::from)
    ];
    let number = prop_oneof![null(), number.prop_map(Value::Number)];
    let text = prop_oneof![null(), "[a-cé]{0,3}".prop_map(Value::String)];
    let json = prop_oneof![
        null(),
        Just(Value::Json(
            serde_json::json!({"a": [1, 2.5, {"$type": "ref", "$id": "x/y"}]})
        )),
        Just(Value::Json(serde_json::json!([]))),
    ];
    let time = prop_oneof![
        null(),
        (0..4_000_000_000_000_000_i64).prop_map(|at| Value::Date(Timestamp::from_micros(at))),
    ];
    let place =
        (-180.0..180.0, -90.0..90.0).prop_map(|(lng, lat)| Value::Location(Point { lng, lat }));
    let reference = any_id().prop_map(Value::Reference);
    let order = prop_oneof![
        Just(Value::Sequence),
        (1_i32..50).prop_map(|n| Value::Number(n.into()))
    ];
    // The decision knows no files, so this one is always refused.
    let file = Just(Value::Asset(Box::new(Asset {
        name: "a.png".into(),
        content_type: None,
        url: None,
    })));
    let field = prop_oneof![
        4 => number.prop_map(|value| ("number", value)),
        3 => text.prop_map(|value| ("text", value)),
        2 => json.prop_map(|value| ("json", value)),
        2 => time.prop_map(|value| ("time", value)),
        1 => place.prop_map(|value| ("place", value)),
        1 => reference.prop_map(|value| ("reference", value)),
        1 => order.prop_map(|value| ("order", value)),
        1 => file.prop_map(|value| ("file", value)),
    ];
    let fields = prop::collection::vec(field, 0..4);
    (any_id(), prop::option::weighted(0.2, any_access()), fields).prop_map(
        |(id, access, fields)| SaveItem {
            id,
            access: access.map_or(ItemAccess::Unsaid, ItemAccess::Brought),
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            restored: None,
        },
    )
}

fn any_field() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "number",
        "text",
        "json",
        "reference",
        "order",
        "spare",
    ])
}

pub(super) fn any_request() -> impl Strategy<Value = Request> {
    let user = prop::sample::select(vec!["u1", "u2"]);
    prop_oneof![
        30 => (prop::collection::vec(any_item(), 1..4), user)
            .prop_map(|(items, user)| Request::Save { items, user }),
        1 => any_id().prop_map(|id| Request::Delete { id }),
        1 => any_access().prop_map(|access| Request::DefaultAccess { access }),
        2 => (any_field(), prop::option::of(any_field()))
            .prop_map(|(field, new_name)| Request::ChangeField { field, new_name }),
    ]
}
