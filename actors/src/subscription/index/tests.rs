//! The index after any events equals the one that is built from what is left, and finds whatever
//! matches a change.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use skytrail_schema::caller::Caller;
use skytrail_schema::event::{Actor, ChangeStamp, DeviceKind, DeviceState};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::RecordId;
use skytrail_schema::predicate::Context;
use skytrail_schema::predicate::evaluate::Nothing;
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;
use uuid::Uuid;

use super::*;
use crate::subscription::matching::match_condition;

const TYPES: [&str; 3] = ["note", "page", "room"];

#[derive(Clone, Debug)]
enum Step {
    Save(u8, u8, usize, Json, bool),
    Delete(u8, u8, bool),
    Register(u8, u8),
    Unregister(u8),
    Forget(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0_u8..3;
    let id = || 0_u8..3;
    prop_oneof![
        4 => (device(), id(), 0..TYPES.len(), predicate(), any::<bool>()).prop_map(
            |(device, id, kind, predicate, private)| {
                Step::Save(device, id, kind, predicate, private)
            }
        ),
        2 => (device(), id(), any::<bool>())
            .prop_map(|(device, id, private)| Step::Delete(device, id, private)),
        1 => (device(), 0_u8..3).prop_map(|(device, user)| Step::Register(device, user)),
        1 => device().prop_map(Step::Unregister),
        1 => device().prop_map(Step::Forget),
    ]
}

fn eq(field: &str, value: impl Into<Json>) -> Json {
    json!(["eq", {"$type": "keypath", "$val": field}, value.into()])
}

/// Null for no predicate.
fn predicate() -> impl Strategy<Value = Json> {
    let name = || prop::sample::select(vec!["a", "A", "b", "1"]);
    let leaf = prop_oneof![
        name().prop_map(|value| eq("name", value)),
        name().prop_map(|value| eq("title", value)),
        (0..2).prop_map(|value| eq("n", value)),
        Just(eq("n", "1")),
        Just(eq("name", Json::Null)),
        Just(eq("_owner_id", "u0")),
        Just(eq("missing", 1)),
        prop::collection::vec(name(), 0..3)
            .prop_map(|list| json!(["in", {"$type": "keypath", "$val": "name"}, list])),
        (0..2).prop_map(|value| json!(["gt", {"$type": "keypath", "$val": "n"}, value])),
    ];
    let tree = leaf.prop_recursive(2, 6, 2, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            two.clone()
                .prop_map(|(left, right)| json!(["and", left, right])),
            two.prop_map(|(left, right)| json!(["or", left, right])),
            inner.prop_map(|part| json!(["not", part])),
        ]
    });
    prop_oneof![1 => Just(Json::Null), 6 => tree]
}

fn record() -> impl Strategy<Value = Record> {
    let name = || prop::option::of(prop::sample::select(vec!["a", "A", "b", "1"]));
    let number = prop::option::of(0..2_i32);
    (name(), name(), number).prop_map(|(name, title, number)| {
        let named = json!({"name": name, "title": title, "n": number});
        let fields = named.as_object().unwrap().iter();
        let there = fields.filter(|(_, value)| !value.is_null());
        let value = |(name, wire): (&String, &Json)| {
            (name.clone(), Value::from_wire(wire.clone()).unwrap())
        };
        Record {
            fields: there.map(value).collect(),
            ..bare()
        }
    })
}

/// A record without fields.
fn bare() -> Record {
    Record {
        id: RecordId::parse("note/1").unwrap(),
        database: Database::Public,
        owner: Some("u0".into()),
        access: None,
        created_at: Timestamp::from_micros(0),
        created_by: None,
        updated_at: Timestamp::from_micros(0),
        updated_by: None,
        fields: Fields::new(),
    }
}

fn types() -> Vec<Arc<TypeDefinition>> {
    let fields = [
        ("name", FieldType::String),
        ("title", FieldType::CaselessString),
        ("n", FieldType::Number),
    ];
    vec![Arc::new(TypeDefinition {
        fields: fields.map(|(name, kind)| (name.to_owned(), kind)).into(),
        ..TypeDefinition::empty("note".into())
    })]
}

/// Whether one of the states matches, judged without the index.
fn matches(query: &Query, states: &[&Record]) -> bool {
    let (caller, rules) = (Caller::default(), FieldRules::default());
    let Some(condition) = match_condition(query, &caller, &rules, &types()) else {
        return false;
    };
    let context = Context {
        user: None,
        lookups: &Nothing,
    };
    let mut states = states.iter();
    states.any(|state| condition.evaluate(state, context) == Some(true))
}

fn database(is_private: bool) -> Database {
    if is_private {
        Database::Private("u0".into())
    } else {
        Database::Public
    }
}

fn subscription(id: u8, kind: usize, predicate: &Json, is_private: bool) -> Subscription {
    let mut query = json!({"record_type": TYPES[kind]});
    if !predicate.is_null() {
        query["predicate"] = predicate.clone();
    }
    let wire = json!({"id": format!("s{id}"), "type": "query", "query": query});
    Subscription::from_wire(&wire, database(is_private)).unwrap()
}

/// What devices subscribe to, worked out by other means.
#[derive(Default)]
struct Model(BTreeMap<DeviceId, (Option<UserId>, BTreeMap<SubscriptionKey, Subscription>)>);

impl Model {
    fn take(&mut self, step: &Step) -> (Stream, EventBody) {
        let id = |device: &u8| DeviceId::from(format!("d{device}"));
        let user = |number: u8| Some(UserId::from(format!("u{number}")));
        match step {
            Step::Save(device, number, kind, predicate, is_private) => {
                let subscription = subscription(*number, *kind, predicate, *is_private);
                let device_entry = self
                    .0
                    .entry(id(device))
                    .or_insert((user(9), BTreeMap::new()));
                let key = subscription.key.clone();
                device_entry.1.insert(key, subscription.clone());
                let subscriber = device_entry.0.clone();
                let saved = SavedSubscription {
                    subscriber,
                    subscription,
                };
                let stream = Stream::Subscriptions(id(device));
                (stream, EventBody::SubscriptionSaved(saved))
            }
            Step::Delete(device, number, is_private) => {
                let key = subscription(*number, 0, &Json::Null, *is_private).key;
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.1.remove(&key);
                }
                (
                    Stream::Subscriptions(id(device)),
                    EventBody::SubscriptionDeleted(key),
                )
            }
            Step::Register(device, number) => {
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.0 = user(*number);
                }
                let state = DeviceState {
                    user: user(*number),
                    kind: DeviceKind::Ios,
                    token: None,
                    topic: None,
                    registered_at: Timestamp::from_micros(0),
                };
                (
                    Stream::Device(id(device)),
                    EventBody::DeviceRegistered(state),
                )
            }
            Step::Unregister(device) => {
                if let Some(device_entry) = self.0.get_mut(&id(device)) {
                    device_entry.0 = None;
                }
                let body = EventBody::DeviceUnregistered(ChangeStamp::default());
                (Stream::Device(id(device)), body)
            }
            Step::Forget(device) => {
                self.0.remove(&id(device));
                let body = EventBody::DeviceDeleted(ChangeStamp::default());
                (Stream::Device(id(device)), body)
            }
        }
    }

    fn stored(&self) -> Vec<SubscribedDevice> {
        let device =
            |(id, (user, device_entry)): (&DeviceId, &(Option<UserId>, BTreeMap<_, _>))| {
                SubscribedDevice {
                    id: id.clone(),
                    user: user.clone(),
                    version: 1,
                    subscriptions: device_entry.values().cloned().collect(),
                }
            };
        self.0.iter().map(device).collect()
    }
}

fn commit(position: u64, (stream, body): (Stream, EventBody)) -> Arc<Commit> {
    Arc::new(Commit {
        id: Uuid::from_u128(position.into()),
        time: Timestamp::from_micros(0),
        epoch: 1,
        actor: Actor::default(),
        request_id: None,
        causation: None,
        sql: None,
        events: vec![Event {
            position,
            stream,
            version: 1,
            body,
            provenance: Vec::new(),
            payload_hash: [0; 32],
        }],
        chain: [0; 32],
    })
}

/// Everything that a subscription's owner could notice, in order.
fn seen(index: &Subscriptions) -> Vec<String> {
    let mut seen = vec![format!("{} {}", index.len(), index.is_empty())];
    for name in TYPES {
        let found = index.candidates(&name.into(), &[], u64::MAX);
        let found = found.iter().map(|it| {
            let (user, database) = (it.user.as_ref(), &it.database);
            format!("{name} {database:?} {} {user:?} {}", it.device, it.id)
        });
        seen.extend(found);
    }
    for device in 0..3 {
        let device = DeviceId::from(format!("d{device}"));
        for is_private in [false, true] {
            let (user, listed) = index.list(&device, &database(is_private));
            seen.extend(listed.iter().map(|it| format!("{device} {it:?}")));
            for it in listed {
                let found = index.get(&device, &it.key);
                assert_eq!(found, Some((user.clone(), it)));
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn what_events_left_is_what_is_loaded(steps in prop::collection::vec(step(), 0..40)) {
        let (index, mut model) = (Subscriptions::default(), Model::default());
        for (position, step) in (1..).zip(&steps) {
            index.committed(&[commit(position, model.take(step))]);
        }
        let loaded = Subscriptions::new(model.stored());
        prop_assert_eq!(seen(&index), seen(&loaded));
    }

    /// Every state before and after counts, and subscriptions come in the same order as without the
    /// index.
    #[test]
    fn the_index_leaves_out_only_what_does_not_match(
        steps in prop::collection::vec(step(), 0..40),
        changes in prop::collection::vec((record(), prop::option::of(record()), any::<bool>()), 1..6),
    ) {
        let (index, mut model) = (Subscriptions::default(), Model::default());
        for (position, step) in (1..).zip(&steps) {
            index.committed(&[commit(position, model.take(step))]);
        }
        for (mut after, mut before, is_private) in changes {
            after.database = database(is_private);
            if let Some(before) = &mut before {
                before.database = database(is_private);
            }
            let states: Vec<&Record> = [&after].into_iter().chain(&before).collect();
            let expected: Vec<(DeviceId, String)> = model
                .stored()
                .iter()
                .flat_map(|device| device.subscriptions.iter().map(|it| (&device.id, it)))
                .filter(|(_, it)| it.key.database == after.database)
                .filter_map(|(device, it)| Some((device.clone(), it, it.parse_query()?)))
                .filter(|(_, _, query)| query.record_type == "note".into())
                .filter(|(_, _, query)| matches(query, &states))
                .map(|(device, it, _)| (device, it.key.id.clone()))
                .collect();
            let candidates = index.candidates(&"note".into(), &states, u64::MAX);
            let found: Vec<(DeviceId, String)> = candidates
                .into_iter()
                .filter(|it| matches(&it.query, &states))
                .map(|it| (it.device, it.id))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn subscriptions_with_an_equality_are_found_by_it() {
    let (index, mut model) = (Subscriptions::default(), Model::default());
    let saves = (0_u8..100).map(|number| {
        let predicate = json!(["and", eq("n", 1), eq("name", format!("r{number}"))]);
        Step::Save(0, number, 0, predicate, false)
    });
    for (position, step) in (1..).zip(saves) {
        index.committed(&[commit(position, model.take(&step))]);
    }
    let named = |name: &str| {
        let value = |value: Json| Value::from_wire(value).unwrap();
        let fields = [("n", value(json!(1))), ("name", value(json!(name)))];
        Record {
            fields: fields
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
            ..bare()
        }
    };
    let (after, before) = (named("r7"), named("r8"));
    let found = index.candidates(&"note".into(), &[&after, &before], u64::MAX);
    let found: BTreeSet<&str> = found.iter().map(|it| it.id.as_str()).collect();
    // The first one is listed under the number that all of them share.
    assert!(found.is_superset(&["s7", "s8"].into()), "{found:?}");
    assert!(found.len() <= 4, "{found:?}");
}

#[test]
fn changes_from_before_do_not_concern_a_subscription() {
    let index = Subscriptions::default();
    let event = Model::default().take(&Step::Save(0, 0, 0, Json::Null, false));
    index.committed(&[commit(7, event)]);
    let at = |position| index.candidates(&"note".into(), &[&bare()], position).len();
    assert_eq!([at(6), at(7), at(8)], [0, 0, 1]);
}
