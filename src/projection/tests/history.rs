//! Tests random histories: the live store, a rebuilt one and the fold in memory are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use skytrail_actors::erasure::Holder as _;
use skytrail_actors::record::apply as fold;
use skytrail_actors::store::RecordStore as _;
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{
    Blank, CreationRoles, DefaultAccess, DeviceKind, DeviceState, ErasureRequest, ErasureScope,
    Event, EventBody, FieldDeletion, FieldRename, Intervals, NoDetails, RelationTarget, RoleFlags,
    SavedSubscription, Stream, TaskClaim, TaskEnd, TaskSchedule, TaskTrigger, TypeExtension,
    UserPatch, UserState,
};
use skytrail_schema::id::{Database, DeviceId, RecordId, TaskId, TypeName};
use skytrail_schema::positions::Positions;
use skytrail_schema::predicate::Relation;
use skytrail_schema::record::Head;
use skytrail_schema::subscription::Subscription;
use skytrail_schema::types::FieldType;
use uuid::Uuid;

use super::check_rebuilt;
use super::world::*;
use crate::projection::StoreOptions;

const TYPES: [&str; 4] = ["note", "Note", "a\"b\0'; DROP TABLE _type; --", "_auth"];

/// Names of fields; the database takes some of them for the same.
const FIELDS: [&str; 8] = [
    "text",
    "Text",
    "TEXT~2",
    "json\"]",
    "_id",
    "file",
    "file~type",
    "n'\0",
];

/// Types of fields.
const KINDS: [fn() -> FieldType; 10] = [
    || FieldType::String,
    || FieldType::CaselessString,
    || FieldType::Number,
    || FieldType::Sequence,
    || FieldType::Boolean,
    || FieldType::Json,
    || FieldType::DateTime,
    || FieldType::Asset,
    || FieldType::Reference("note".into()),
    || FieldType::Location,
];

#[derive(Clone, Debug)]
enum Step {
    Extend(usize, Vec<(usize, usize)>, bool),
    Rename(usize, usize, usize),
    DeleteField(usize, usize),
    Save(usize, u8, Vec<(usize, u8)>, bool),
    Replace(usize, u8, Vec<(usize, u8)>),
    Delete(usize, u8),
    Setting(usize, u8),
    User(u8, u8),
    Relate(u8, u8, bool),
    Device(u8, u8),
    Subscribe(u8, u8, bool),
    Task(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = 0..TYPES.len();
    let values = || prop::collection::vec((0..FIELDS.len(), any::<u8>()), 0..5);
    let fields = || prop::collection::vec((0..FIELDS.len(), 0..KINDS.len()), 0..5);
    let key = 0..6_u8;
    prop_oneof![
        3 => (kind.clone(), fields(), any::<bool>())
            .prop_map(|(kind, fields, unique)| Step::Extend(kind, fields, unique)),
        1 => (kind.clone(), 0..FIELDS.len(), 0..FIELDS.len())
            .prop_map(|(kind, from, to)| Step::Rename(kind, from, to)),
        1 => (kind.clone(), 0..FIELDS.len())
            .prop_map(|(kind, field)| Step::DeleteField(kind, field)),
        12 => (kind.clone(), key.clone(), values(), any::<bool>())
            .prop_map(|(kind, key, values, access)| Step::Save(kind, key, values, access)),
        2 => (kind.clone(), key.clone(), values())
            .prop_map(|(kind, key, values)| Step::Replace(kind, key, values)),
        4 => (kind.clone(), key.clone()).prop_map(|(kind, key)| Step::Delete(kind, key)),
        3 => (kind, any::<u8>()).prop_map(|(kind, what)| Step::Setting(kind, what)),
        1 => (0..3_u8, any::<u8>()).prop_map(|(user, what)| Step::User(user, what)),
        1 => (0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(from, to, add)| Step::Relate(from, to, add)),
        1 => (0..3_u8, any::<u8>()).prop_map(|(device, what)| Step::Device(device, what)),
        1 => (0..3_u8, 0..3_u8, any::<bool>())
            .prop_map(|(device, id, add)| Step::Subscribe(device, id, add)),
        1 => (0..3_u8, any::<u8>()).prop_map(|(task, what)| Step::Task(task, what)),
    ]
}

fn value(kind: &FieldType, seed: u8) -> Json {
    if seed.is_multiple_of(5) {
        return Json::Null;
    }
    match kind {
        FieldType::Number => json!(f64::from(seed) / 3.0),
        FieldType::Sequence => json!(seed),
        FieldType::Boolean => json!(seed.is_multiple_of(2)),
        FieldType::Json => json!([seed, {"a'\0": null}]),
        FieldType::DateTime => json!({"$type": "date", "$date": now(seed.into())}),
        FieldType::Asset if seed.is_multiple_of(2) => json!({"$type": "asset", "$name": "a"}),
        FieldType::Asset => json!({"$type": "asset", "$name": "a", "$content_type": "b"}),
        FieldType::Reference(_) => json!({"$type": "ref", "$id": format!("note/k{}", seed % 6)}),
        FieldType::Location => json!({"$type": "geo", "$lng": 1.1, "$lat": seed}),
        _ => json!(format!("É\0\"'{seed}")),
    }
}

impl World {
    fn values(&self, kind: usize, values: &[(usize, u8)]) -> Json {
        let definition = self.types.get(TYPES[kind]);
        let mut object = serde_json::Map::new();
        for (field, seed) in values {
            let name = FIELDS[*field];
            if let Some(kind) = definition.and_then(|definition| definition.fields.get(name)) {
                object.insert(name.to_owned(), value(kind, *seed));
            }
        }
        Json::Object(object)
    }

    /// Counts the records that new sequence fields number.
    fn numbered(
        &self,
        name: &TypeName,
        fields: &BTreeMap<String, FieldType>,
    ) -> BTreeMap<String, i64> {
        let definition = self.types.get(name);
        let is_new = |field: &str| {
            definition.is_none_or(|definition| !definition.fields.contains_key(field))
        };
        let records = self.heads.keys().filter(|id| id.record_type == *name);
        let num_records = records.count() as i64;
        let new = fields
            .iter()
            .filter(|(field, kind)| **kind == FieldType::Sequence && is_new(field));
        new.map(|(field, _)| (field.clone(), num_records)).collect()
    }

    /// Erases the past of records that are deleted. For others, erases the past before the point
    /// where they are stored again.
    async fn erase(&mut self, picks: &[bool]) {
        let mut pick = picks.iter().copied().cycle();
        let (mut until, mut again) = (BTreeMap::new(), Vec::new());
        for id in self.places.keys().filter(|_| pick.next() == Some(true)) {
            let Some(head) = self.heads.get(id) else {
                until.insert(Stream::Record(id.clone()), u64::MAX);
                continue;
            };
            if self.types[&id.record_type].intervals_since.is_none() {
                until.insert(Stream::Record(id.clone()), head.position + 1);
                again.push(repeat(head));
            }
        }
        for event in again {
            self.run(vec![event]).await;
        }
        let is_erased = |event: &Event| {
            let is_old = |until: &u64| event.position < *until;
            let is_deletion = matches!(event.body, EventBody::RecordDeleted(_));
            until.get(&event.stream).is_some_and(is_old) && !is_deletion
        };
        let events = self.log.iter().flat_map(|commit| &commit.events);
        let erased = events.filter(|event| is_erased(event));
        let positions: Positions = erased.map(|event| event.position).collect();
        let mut counters: BTreeMap<TypeName, BTreeMap<String, i64>> = BTreeMap::new();
        for (name, field, last) in self.store.load_snapshot().await.unwrap().sequences {
            counters.entry(name).or_default().insert(field, last);
        }
        let request = ErasureRequest {
            counters,
            ..ErasureRequest::new(ErasureScope::Events, String::new(), positions.clone())
        };
        let stream = Stream::Erasure(Uuid::from_u128(1));
        self.run(vec![(stream, EventBody::ErasureRequested(request))])
            .await;
        self.store.forget(&positions).await.unwrap();
        for commit in &mut self.log {
            for event in &mut Arc::make_mut(commit).events {
                if positions.contains(event.position) {
                    let kind = event.body.kind();
                    event.body = EventBody::Erased(Blank { kind, by: None });
                }
            }
        }
    }

    /// Commits a step if it makes sense at this point.
    fn take(&mut self, step: &Step) {
        let second = self.log.len() as i64 / 3;
        let id = |kind: usize, key: u8| format!("{}/k{key}", TYPES[kind]);
        let exists =
            |world: &Self, id: &str| world.heads.contains_key(&RecordId::parse(id).unwrap());
        let is_created = |kind: usize| {
            let definition = self.types.get(TYPES[kind]);
            definition.is_some_and(|definition| definition.is_created)
        };
        match step {
            Step::Extend(kind, fields, unique) => {
                let fields = fields.iter();
                let fields: BTreeMap<String, FieldType> = fields
                    .map(|(name, kind)| (FIELDS[*name].to_owned(), KINDS[*kind]()))
                    .collect();
                let numbered = self.numbered(&TYPES[*kind].into(), &fields);
                let unique = if *unique {
                    vec![vec!["text".to_owned(), "Text".to_owned()]]
                } else {
                    vec![]
                };
                let body = TypeExtension {
                    fields,
                    unique,
                    numbered,
                    ..TypeExtension::default()
                };
                self.commit(vec![(
                    Stream::Type(TYPES[*kind].into()),
                    EventBody::TypeExtended(body),
                )]);
            }
            Step::Rename(kind, from, to) => {
                let (from, to) = (FIELDS[*from].to_owned(), FIELDS[*to].to_owned());
                let definition = self.types.get(TYPES[*kind]);
                if definition.is_some_and(|definition| definition.fields.contains_key(&to)) {
                    return;
                }
                let body = EventBody::TypeFieldRenamed(FieldRename { from, to });
                self.commit(vec![(Stream::Type(TYPES[*kind].into()), body)]);
            }
            Step::DeleteField(kind, field) => {
                let field = FIELDS[*field].to_owned();
                let body = EventBody::TypeFieldDeleted(FieldDeletion { field });
                self.commit(vec![(Stream::Type(TYPES[*kind].into()), body)]);
            }
            Step::Save(kind, key, values, access) if is_created(*kind) => {
                let id = id(*kind, *key);
                let values = self.values(*kind, values);
                let mut event = if exists(self, &id) {
                    let unset = if *access {
                        vec!["text", "file"]
                    } else {
                        vec![]
                    };
                    let mut set = values;
                    unset
                        .iter()
                        .for_each(|field| drop(set.as_object_mut().unwrap().remove(*field)));
                    let fields_now = &self.types[TYPES[*kind]].fields;
                    let unset: Vec<&str> = unset
                        .into_iter()
                        .filter(|field| fields_now.contains_key(*field))
                        .collect();
                    patch(&id, second, set, &unset)
                } else {
                    create(&id, second, values)
                };
                let acl = Acl::from_wire(&json!([{"role": "r'", "level": "read"}])).unwrap();
                match &mut event.1 {
                    EventBody::RecordChanged(patch) if *access => patch.access = acl,
                    EventBody::RecordCreated(state) if *access => {
                        state.database = Some("u1".into())
                    }
                    _ => {}
                }
                self.commit(vec![event]);
            }
            Step::Replace(kind, key, values) if exists(self, &id(*kind, *key)) => {
                let values = self.values(*kind, values);
                self.commit(vec![replace(&id(*kind, *key), second, values)]);
            }
            Step::Delete(kind, key) if exists(self, &id(*kind, *key)) => {
                self.commit(vec![delete(&id(*kind, *key), second)]);
            }
            Step::Setting(kind, what) => self.set(*kind, *what),
            Step::User(user, what) => {
                let stream = Stream::User(format!("u{user}").into());
                let body = if what.is_multiple_of(2) {
                    EventBody::UserCreated(UserState {
                        password_hash: Some(what.to_string()),
                        ..UserState::default()
                    })
                } else {
                    EventBody::UserChanged(UserPatch {
                        roles_added: [format!("r{what}").into()].into(),
                        ..UserPatch::default()
                    })
                };
                self.commit(vec![(stream, body)]);
            }
            Step::Relate(from, to, add) => {
                let target = RelationTarget {
                    to: format!("u{to}").into(),
                };
                let body = if *add {
                    EventBody::RelationAdded(target)
                } else {
                    EventBody::RelationRemoved(target)
                };
                let stream = Stream::Relation(Relation::Friend, format!("u{from}").into());
                self.commit(vec![(stream, body)]);
            }
            Step::Device(device, what) => self.change_device(*device, *what, second),
            Step::Subscribe(device, id, add) => self.subscribe(*device, *id, *add),
            Step::Task(task, what) => self.change_task(*task, *what, second),
            _ => {}
        }
    }

    fn change_device(&mut self, device: u8, what: u8, second: i64) {
        let id = DeviceId::from(format!("d{device}"));
        let exists = self.devices.contains_key(&id);
        let body = match what % 4 {
            0 if exists => EventBody::DeviceUnregistered(touch(second, "u1")),
            1 if exists => {
                self.devices.remove(&id);
                EventBody::DeviceDeleted(touch(second, "u1"))
            }
            _ => {
                self.devices.entry(id.clone()).or_default();
                EventBody::DeviceRegistered(DeviceState {
                    user: Some(format!("u{what}").into()),
                    kind: DeviceKind::BaiduAndroid,
                    token: what.is_multiple_of(3).then(|| "'\0".to_owned()),
                    topic: None,
                    registered_at: now(second),
                })
            }
        };
        self.commit(vec![(Stream::Device(id), body)]);
    }

    fn change_task(&mut self, task: u8, what: u8, second: i64) {
        let stream = Stream::Task(TaskId::new("p\"'", format!("mod/\0{task}")));
        let claim = TaskClaim {
            due: now(second),
            trigger: TaskTrigger::Manual,
        };
        let end = TaskEnd {
            due: now(second),
            at: now(second + 1),
            error: what.is_multiple_of(2).then_some(119),
        };
        let schedule = TaskSchedule {
            spec: "@daily".to_owned(),
            zone: "Europe/Berlin".to_owned(),
            since: now(second),
        };
        let bodies = match what % 6 {
            0 => vec![EventBody::TaskScheduled(schedule)],
            1 => vec![EventBody::TaskPaused(NoDetails {})],
            2 => vec![EventBody::TaskResumed(NoDetails {})],
            3 => vec![EventBody::TaskClaimed(claim)],
            4 => vec![EventBody::TaskDropped(NoDetails {})],
            _ => vec![EventBody::TaskClaimed(claim), EventBody::TaskEnded(end)],
        };
        let events = bodies.into_iter().map(|body| (stream.clone(), body));
        self.commit(events.collect());
    }

    fn subscribe(&mut self, device: u8, id: u8, is_addition: bool) {
        let device = DeviceId::from(format!("d{device}"));
        let database = Database::from_stored(if id == 0 { "u1" } else { "" });
        let wire = json!({
            "id": format!("s'{id}"), "type": "query", "query": {"record_type": "note", "limit": id},
            "notification_info": {"aps": {"sound": "s"}},
        });
        let subscription = Subscription::from_wire(&wire, database).unwrap();
        let key = subscription.key.clone();
        let Some(subscriptions) = self.devices.get_mut(&device) else {
            return;
        };
        let body = if is_addition {
            subscriptions.insert(key, subscription.clone());
            EventBody::SubscriptionSaved(SavedSubscription {
                subscriber: None,
                subscription,
            })
        } else if subscriptions.remove(&key).is_some() {
            EventBody::SubscriptionDeleted(key)
        } else {
            return;
        };
        self.commit(vec![(Stream::Subscriptions(device), body)]);
    }

    fn set(&mut self, kind: usize, what: u8) {
        let stream = Stream::Type(TYPES[kind].into());
        let roles = CreationRoles {
            roles: [format!("r{what}").into()].into(),
        };
        let intervals = Intervals {
            are_kept: what % 8 < 6,
        };
        let (stream, body) = match what % 4 {
            0 => (
                stream,
                EventBody::TypeDefaultAccessSet(DefaultAccess {
                    access: Acl(vec![]),
                }),
            ),
            1 => (stream, EventBody::TypeCreationRolesSet(roles)),
            2 => (stream, EventBody::TypeIntervalsSet(intervals)),
            _ => {
                let flags = RoleFlags {
                    by_default: what.is_multiple_of(2),
                    is_admin: false,
                };
                (Stream::Role("r".into()), EventBody::RoleDefined(flags))
            }
        };
        self.commit(vec![(stream, body)]);
    }
}

/// Stores a record again as it is.
fn repeat(head: &Head) -> (Stream, EventBody) {
    let record = &head.record;
    let body = EventBody::RecordReplaced(fold::state_of(record));
    (Stream::Record(record.id.clone()), body)
}

/// Fills another store, which is closed and reopened in between.
async fn check_filled_in_two(world: &mut World, cut: &prop::sample::Index) {
    world.store.close().await.unwrap();
    world.place = super::Place::new();
    world.reopen().await;
    let (first, rest) = world.log.split_at(cut.index(world.log.len()));
    world.store.apply(first).await.unwrap();
    world.store.close().await.unwrap();
    world.store = world.place.open(&StoreOptions::default()).await;
    world.store.apply(rest).await.unwrap();
    world.assert_equal().await;
    assert_eq!(world.faults().await, [""; 0]);
}

async fn run(steps: Vec<Step>, batches: Vec<usize>, erased: Vec<bool>, cut: prop::sample::Index) {
    let mut world = World::new().await;
    world.commit(vec![extend("note", &[])]);
    for step in &steps {
        world.take(step);
    }
    let mut rest = world.log.as_slice();
    for size in batches.iter().cycle() {
        let (batch, remainder) = rest.split_at((*size).min(rest.len()));
        world.store.apply(batch).await.unwrap();
        rest = remainder;
        if rest.is_empty() {
            break;
        }
    }
    world.assert_equal().await;
    assert_eq!(world.faults().await, [""; 0]);
    world.erase(&erased).await;
    world.assert_equal().await;
    check_rebuilt(&mut world).await;
    world.assert_equal().await;
    check_filled_in_two(&mut world, &cut).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(48), ..ProptestConfig::default() })]

    #[test]
    fn live_rebuilt_and_folded_are_the_same(
        steps in prop::collection::vec(step(), 1..120),
        batches in prop::collection::vec(1..40_usize, 1..8),
        erased in prop::collection::vec(any::<bool>(), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, batches, erased, cut));
    }
}
