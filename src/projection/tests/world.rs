//! A store in a place of its own, and commits to feed it with.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use skytrail_actors::device::DeviceStore as _;
use skytrail_actors::record::apply as fold;
use skytrail_actors::store::RecordStore as _;
use skytrail_actors::task::TaskState;
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, Event, EventBody, RecordPatch, RecordState, Stream, TypeExtension,
};
use skytrail_schema::id::{DeviceId, RecordId, TaskId, TypeName, UserId};
use skytrail_schema::record::Head;
use skytrail_schema::subscription::{Subscription, SubscriptionKey};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;
use uuid::Uuid;

use super::Place;
use crate::projection::{SqlStore, StoreOptions};

/// A store, the log that fed it, and the fold of that log.
pub(crate) struct World {
    pub(super) place: Place,
    pub(crate) store: SqlStore,
    pub(crate) log: Vec<Arc<Commit>>,
    pub(crate) heads: BTreeMap<RecordId, Head>,
    pub(crate) types: BTreeMap<TypeName, TypeDefinition>,
    /// The subscriptions of devices.
    pub(crate) devices: BTreeMap<DeviceId, BTreeMap<SubscriptionKey, Subscription>>,
    pub(crate) tasks: BTreeMap<TaskId, TaskState>,
    versions: BTreeMap<Stream, u32>,
    /// The positions where records were created.
    pub(super) places: BTreeMap<RecordId, u64>,
    /// The numbers that records got from new fields, by the position of the event and their place.
    numbers: BTreeMap<(u64, u64), i64>,
    next_position: u64,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(StoreOptions::default()).await
    }

    pub(crate) async fn with(options: StoreOptions) -> Self {
        let place = Place::new();
        let store = place.open(&options).await;
        Self {
            place,
            store,
            log: Vec::new(),
            heads: BTreeMap::new(),
            types: BTreeMap::new(),
            devices: BTreeMap::new(),
            tasks: BTreeMap::new(),
            versions: BTreeMap::new(),
            places: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_position: 1,
        }
    }

    /// Opens the store again.
    pub(crate) async fn reopen(&mut self) {
        self.store = self.place.open(&StoreOptions::default()).await;
    }

    /// Appends a commit of these events and folds it; it is not applied yet.
    pub(crate) fn commit(&mut self, bodies: Vec<(Stream, EventBody)>) -> Arc<Commit> {
        let events = bodies.into_iter().map(|(stream, body)| {
            let version = self.versions.entry(stream.clone()).or_default();
            *version += 1;
            let position = self.next_position;
            self.next_position += 1;
            Event {
                position,
                stream,
                version: *version,
                body,
                provenance: Vec::new(),
                payload_hash: [0; 32],
            }
        });
        let commit = Arc::new(Commit {
            id: Uuid::from_u128(self.log.len() as u128),
            events: events.collect(),
            time: now(self.log.len() as i64),
            epoch: 1,
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            chain: [0; 32],
        });
        for event in &commit.events {
            self.fold(event);
            if let Stream::Task(id) = &event.stream {
                let task = self.tasks.entry(id.clone()).or_default();
                task.apply(event, commit.time);
            }
        }
        self.log.push(Arc::clone(&commit));
        commit
    }

    fn fold(&mut self, event: &Event) {
        match &event.stream {
            Stream::Record(id) => {
                if let EventBody::RecordCreated(_) = &event.body {
                    self.places.insert(id.clone(), event.position);
                }
                match fold::record(self.heads.get(id), id, event) {
                    fold::Folded::Known(Some(head)) => {
                        self.heads.insert(id.clone(), head);
                    }
                    fold::Folded::Known(None) | fold::Folded::Unknown => {
                        self.heads.remove(id);
                    }
                }
            }
            Stream::Type(name) => {
                let empty = TypeDefinition::empty(name.clone());
                let before = self.types.get(name).unwrap_or(&empty).clone();
                let definition = fold::record_type(&before, event);
                let heads = self.heads.values_mut().map(|head| &mut head.record);
                heads
                    .filter(|record| record.id.record_type == *name)
                    .for_each(|record| fold::reshape(record, &event.body));
                for field in definition.sequence_fields() {
                    let is_new = !before.fields.contains_key(field);
                    if is_new && !fold::reshapes(&event.body) {
                        self.number(name, field, event);
                    }
                }
                self.types.insert(name.clone(), definition);
            }
            _ => {}
        }
    }

    /// Numbers the records of a type that has received a sequence field.
    fn number(&mut self, name: &TypeName, field: &str, event: &Event) {
        let is_by_place = match &event.body {
            EventBody::TypeExtended(extension) => extension.numbered.contains_key(field),
            _ => false,
        };
        let heads = self.heads.values_mut();
        let mut heads: Vec<&mut Head> = heads
            .filter(|head| head.record.id.record_type == *name)
            .collect();
        heads.sort_by_key(|head| (head.record.created_at, head.record.id.key.clone()));
        if is_by_place {
            heads.sort_by_key(|head| self.places.get(&head.record.id));
        }
        for (index, head) in heads.into_iter().enumerate() {
            let at = (event.position, self.places[&head.record.id]);
            self.numbers.insert(at, index as i64 + 1);
            let number = Value::Number(index as f64 + 1.0);
            head.record.fields.insert(field.to_owned(), number);
        }
    }

    /// Applies everything that was committed, in batches of `size`.
    pub(crate) async fn apply_all(&self, size: usize) {
        for batch in self.log.chunks(size) {
            self.store.apply(batch).await.unwrap();
        }
    }

    /// Commits and applies.
    pub(crate) async fn run(&mut self, bodies: Vec<(Stream, EventBody)>) {
        let commit = self.commit(bodies);
        self.store.apply(&[commit]).await.unwrap();
    }

    /// Returns what the store could not apply, except for users.
    pub(crate) async fn faults(&self) -> Vec<String> {
        let sql = "SELECT reason FROM _faults WHERE stream NOT LIKE 'user/%'";
        self.place.ask(sql).await
    }

    /// Asserts that the store holds exactly the fold.
    pub(crate) async fn assert_equal(&self) {
        let snapshot = self.store.load_snapshot().await.unwrap();
        assert_eq!(snapshot.checkpoint, self.next_position - 1);
        let stored: BTreeMap<_, _> = snapshot
            .types
            .into_iter()
            .map(|definition| (definition.name.clone(), definition))
            .collect();
        assert_eq!(stored, self.types);
        let subscribed = self.store.load_subscriptions().await.unwrap();
        let subscribed = subscribed
            .into_iter()
            .flat_map(|device| device.subscriptions);
        let expected = self.devices.values().flat_map(BTreeMap::values).cloned();
        assert_eq!(subscribed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let tasks = self.store.load_tasks().await.unwrap();
        assert_eq!(tasks.into_iter().collect::<BTreeMap<_, _>>(), self.tasks);
        let at: Vec<_> = self.numbers.keys().copied().collect();
        let numbers = self.numbers.values().copied().map(Some);
        let kept = self.store.load_numbers(&at).await.unwrap();
        assert_eq!(kept, numbers.collect::<Vec<_>>());
        for definition in self.types.values() {
            let of_type: Vec<_> = self
                .heads
                .iter()
                .filter(|(id, _)| id.record_type == definition.name)
                .collect();
            let count = self.store.count_records(definition).await.unwrap();
            assert_eq!(count, of_type.len() as u64, "{:?}", definition.name);
            let keys: Vec<_> = of_type.iter().map(|(id, _)| id.key.clone()).collect();
            let loaded = self.store.load_heads(definition, &keys).await.unwrap();
            for ((id, head), loaded) in of_type.iter().zip(loaded) {
                assert_eq!(loaded.as_ref(), Some(*head), "{id}");
            }
        }
    }
}

/// Returns the time `second` seconds after the tests began.
pub(crate) fn now(second: i64) -> Timestamp {
    Timestamp::from_micros(1_500_000_000_000_000 + second * 1_000_000)
}

/// Returns a touch by `user`.
pub(crate) fn touch(second: i64, user: &str) -> ChangeStamp {
    ChangeStamp {
        at: now(second),
        by: Some(UserId::from(user)),
    }
}

pub(crate) fn fields(json: Json) -> BTreeMap<String, Json> {
    serde_json::from_value(json).unwrap()
}

pub(crate) fn extend(name: &str, fields: &[(&str, FieldType)]) -> (Stream, EventBody) {
    let fields = fields
        .iter()
        .map(|(field, kind)| ((*field).to_owned(), kind.clone()));
    let extension = TypeExtension {
        fields: fields.collect(),
        ..TypeExtension::default()
    };
    (
        Stream::Type(name.into()),
        EventBody::TypeExtended(extension),
    )
}

pub(crate) fn state(second: i64, owner: &str, access: Option<Acl>, json: Json) -> RecordState {
    RecordState {
        database: None,
        owner: Some(owner.into()),
        access,
        created: None,
        updated: touch(second, owner),
        fields: fields(json),
    }
}

pub(crate) fn create(id: &str, second: i64, json: Json) -> (Stream, EventBody) {
    (
        Stream::Record(RecordId::parse(id).unwrap()),
        EventBody::RecordCreated(state(second, "u1", None, json)),
    )
}

pub(crate) fn replace(id: &str, second: i64, json: Json) -> (Stream, EventBody) {
    (
        Stream::Record(RecordId::parse(id).unwrap()),
        EventBody::RecordReplaced(state(second, "u1", None, json)),
    )
}

pub(crate) fn patch(id: &str, second: i64, set: Json, unset: &[&str]) -> (Stream, EventBody) {
    let patch = RecordPatch {
        set: fields(set),
        unset: unset.iter().map(|field| (*field).to_owned()).collect(),
        access: None,
        updated: touch(second, "u2"),
    };
    (
        Stream::Record(RecordId::parse(id).unwrap()),
        EventBody::RecordChanged(patch),
    )
}

pub(crate) fn delete(id: &str, second: i64) -> (Stream, EventBody) {
    (
        Stream::Record(RecordId::parse(id).unwrap()),
        EventBody::RecordDeleted(touch(second, "u1")),
    )
}
