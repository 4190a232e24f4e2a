//! Decide and apply: the state that a writer sees is the state that the log gives back, whether all
//! of it is read or only its tail on top of a snapshot; and both are what a plain model says.

mod strategies;

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use skytrail_schema::acl::Acl;
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::chain;
use skytrail_schema::code::ApiError;
use skytrail_schema::codec::{self, NoKeys, Seal, Sealing};
use skytrail_schema::event::{
    Actor, Commit, DefaultAccess, Event, EventBody, FieldDeletion, FieldRename, NewCommit,
    SNAPSHOT_EVERY, Stream,
};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{AssetName, Database, RecordId, TypeName, UserId};
use skytrail_schema::record::{Fields, Head};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::{Asset, Value};
use uuid::Uuid;

use self::strategies::{Request, all_ids, any_request};
use super::apply::head_after;
use super::apply::{self, Folded};
use super::decide::{DecisionInputs, Plan, new_files, new_references};
use super::draft::{self, DraftContext};
use super::messages::{ItemAccess, SaveItem};
use super::migrate;
use super::write_model::WriteModel;
use crate::log::{CommitObserver, ConflictKey};
use crate::store::Snapshot;

/// Definitions by name, and heads by id.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    types: BTreeMap<TypeName, TypeDefinition>,
    heads: BTreeMap<RecordId, Head>,
}

impl State {
    fn definition(&self, name: &TypeName) -> TypeDefinition {
        let definition = self.types.get(name).cloned();
        definition.unwrap_or_else(|| TypeDefinition::empty(name.clone()))
    }

    fn apply(&mut self, event: &Event) {
        match &event.stream {
            Stream::Record(id) => match apply::record(self.heads.get(id), id, event) {
                Folded::Known(Some(head)) => drop(self.heads.insert(id.clone(), head)),
                Folded::Known(None) => drop(self.heads.remove(id)),
                Folded::Unknown => panic!("a patch without the state before: {event:?}"),
            },
            Stream::Type(name) => {
                let before = self.definition(name);
                let records = self.heads.values_mut().map(|head| &mut head.record);
                records
                    .filter(|record| record.id.record_type == *name)
                    .for_each(|record| apply::reshape(record, &event.body));
                let definition = apply::record_type(&before, event);
                self.types.insert(name.clone(), definition);
            }
            other => panic!("unexpected stream {other}"),
        }
    }

    fn replay<'a>(mut self, commits: impl IntoIterator<Item = &'a Arc<Commit>>) -> Self {
        for event in commits.into_iter().flat_map(|commit| &commit.events) {
            self.apply(event);
        }
        self
    }

    fn snapshot(&self, checkpoint: u64) -> Snapshot {
        Snapshot {
            checkpoint,
            types: self.types.values().cloned().collect(),
            ..Snapshot::default()
        }
    }
}

/// A server without disk, network and hooks.
struct World {
    model: WriteModel,
    /// The state as acknowledgements showed it.
    acknowledged: State,
    /// The log: its bytes, and its commits as observers saw them.
    bytes: Vec<Vec<u8>>,
    commits: Vec<Arc<Commit>>,
    sequences: BTreeMap<(TypeName, String), i64>,
    position: u64,
    now: i64,
    default_access: Option<Acl>,
    /// What the records must be, maintained independently.
    expected: BTreeMap<RecordId, Expected>,
}

/// What a record must be.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    fields: Fields,
    owner: String,
    access: Option<Acl>,
    created_at: i64,
    updated_at: i64,
    updated_by: String,
}

impl From<&Head> for Expected {
    fn from(head: &Head) -> Self {
        let record = &head.record;
        let text = |user: &Option<UserId>| user.as_ref().map(ToString::to_string);
        assert_eq!(record.created_by, record.owner);
        Self {
            fields: record.fields.clone(),
            owner: text(&record.owner).unwrap_or_default(),
            access: record.access.clone(),
            created_at: record.created_at.micros(),
            updated_at: record.updated_at.micros(),
            updated_by: text(&record.updated_by).unwrap_or_default(),
        }
    }
}

impl World {
    fn new() -> Self {
        Self {
            model: WriteModel::new(&Snapshot::default(), 1 << 20),
            acknowledged: State::default(),
            bytes: Vec::new(),
            commits: Vec::new(),
            sequences: BTreeMap::new(),
            position: 0,
            now: 1_700_000_000_000_000,
            default_access: None,
            expected: BTreeMap::new(),
        }
    }

    fn run(&mut self, request: &Request) {
        self.now += 1_000;
        match request {
            Request::Save { items, user } => self.save(items, user),
            Request::Delete { id } => self.delete(id),
            Request::DefaultAccess { access } => {
                let mut plan = Plan::default();
                let definition = self.model.get_type(&"note".into());
                self.default_access = Some(access.clone());
                let access = access.clone();
                let body = EventBody::TypeDefaultAccessSet(DefaultAccess { access });
                plan.change_type(&definition, body);
                self.commit(plan, "u1");
            }
            Request::ChangeField { field, new_name } => self.change_field(field, *new_name),
        }
    }

    fn change_field(&mut self, field: &str, new_name: Option<&str>) {
        let name = TypeName::from("note");
        let definition = self.model.get_type(&name);
        let is_taken = new_name.is_some_and(|new| definition.fields.contains_key(new));
        if !definition.fields.contains_key(field) || is_taken {
            return;
        }
        let body = match new_name {
            Some(new_name) => EventBody::TypeFieldRenamed(FieldRename {
                from: field.to_owned(),
                to: new_name.to_owned(),
            }),
            None => EventBody::TypeFieldDeleted(FieldDeletion {
                field: field.to_owned(),
            }),
        };
        let mut plan = Plan::default();
        plan.change_type(&definition, body);
        self.commit(plan, "u1");
        let last = self.sequences.remove(&(name.clone(), field.to_owned()));
        if let (Some(last), Some(new_name)) = (last, new_name) {
            self.sequences
                .insert((name.clone(), new_name.to_owned()), last);
        }
        let of_type = self
            .expected
            .iter_mut()
            .filter(|(id, _)| id.record_type == name);
        for (_, expected) in of_type {
            let value = expected.fields.remove(field);
            if let (Some(value), Some(new_name)) = (value, new_name) {
                expected.fields.insert(new_name.to_owned(), value);
            }
        }
    }

    fn save(&mut self, items: &[SaveItem], user: &str) {
        let records = items.iter().map(|item| (&item.id, &item.fields));
        let definition_of = |name: &TypeName| self.model.get_type(name);
        let Ok(needed) = migrate::extensions(records, definition_of, true) else {
            return;
        };
        let mut plan = Plan::default();
        for (name, extension) in needed {
            let definition = self.model.get_type(&name);
            plan.change_type(&definition, EventBody::TypeExtended(extension));
        }
        self.commit(plan, user);

        let caller = Caller {
            key: KeyKind::Client,
            user: Some(user.into()),
            ..Caller::default()
        };
        let mut plan = Plan::default();
        let mut saved = Vec::new();
        for item in items {
            if self.decide(item, &caller, &mut plan).is_ok() {
                saved.push(item);
            }
        }
        let before = self.acknowledged.heads.clone();
        self.commit(plan, user);
        for item in saved {
            self.remember(item, before.get(&item.id), user);
        }
        self.number_expected();
    }

    fn decide(&self, item: &SaveItem, caller: &Caller, plan: &mut Plan) -> Result<(), ApiError> {
        let definition = self.model.get_type(&item.id.record_type);
        let at = DraftContext {
            caller,
            database: &Database::Public,
            definition: &definition,
            now: Timestamp::from_micros(self.now),
        };
        let cached = self.model.get_heads(std::slice::from_ref(&item.id));
        let cached = cached.heads.into_iter().next().flatten();
        let original = cached.unwrap_or_else(|| self.stored_head(&item.id));
        let draft = draft::make(item, original, at)?;
        let draft = draft::guard_fields((draft, item), &FieldRules::default(), at, false)?;
        let exists = |id: &RecordId| self.acknowledged.heads.contains_key(id);
        let targets = new_references(&draft).into_iter().filter(exists);
        let inputs = DecisionInputs {
            existing: targets.collect(),
            files: new_files(&draft).into_iter().collect(),
            ..DecisionInputs::default()
        };
        plan.save(&draft, &definition, &inputs)
    }

    /// The model: an item is merged over what was stored when the request arrived, and of several
    /// copies the last wins.
    ///
    /// But a copy that leaves the access list as it was then does not undo what an earlier copy
    /// changed.
    fn remember(&mut self, item: &SaveItem, stored: Option<&Head>, user: &str) {
        let stored = stored.map(Expected::from);
        let is_note = item.id.record_type.as_str() == "note";
        let default = self.default_access.clone().filter(|_| is_note);
        let new = Expected {
            owner: user.to_owned(),
            created_at: self.now,
            ..Expected::default()
        };
        let expected = self.expected.entry(item.id.clone()).or_insert(new);
        expected.updated_at = self.now;
        expected.updated_by = user.to_owned();
        let stored = stored.unwrap_or_default();
        let brought = match &item.access {
            ItemAccess::Brought(access) => Some(access.clone()),
            ItemAccess::Unsaid | ItemAccess::Kept => None,
        };
        let access = brought.or(default);
        if access.is_some() && access != stored.access {
            expected.access = access;
        }
        for (name, value) in stored.fields.iter().chain(&item.fields) {
            match value {
                Value::Null => drop(expected.fields.remove(name)),
                Value::Sequence => {}
                value => drop(expected.fields.insert(name.clone(), value.clone())),
            }
        }
    }

    fn delete(&mut self, id: &RecordId) {
        let Some(head) = self.acknowledged.heads.get(id).cloned() else {
            return;
        };
        let mut plan = Plan::default();
        let definition = self.model.get_type(&id.record_type);
        plan.delete(&head, &definition, Timestamp::from_micros(self.now), None);
        self.commit(plan, "u2");
        self.expected.remove(id);
    }

    /// Does the log's part: numbers, positions, bytes, observers.
    fn commit(&mut self, plan: Plan, user: &str) {
        if plan.events.is_empty() {
            return;
        }
        let mut events = plan.events;
        for request in &plan.sequences {
            let event = &mut events[request.event];
            let Stream::Record(id) = &event.stream else {
                panic!("only records have sequences");
            };
            let counter = (id.record_type.clone(), request.field.clone());
            let counter = self.sequences.entry(counter).or_default();
            *counter = request
                .explicit
                .map_or(*counter + 1, |number| number.max(*counter));
            let number = request.explicit.unwrap_or(*counter);
            let field = request.field.clone();
            match &mut event.body {
                EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
                    state.fields.insert(field, number.into())
                }
                EventBody::RecordChanged(patch) => patch.set.insert(field, number.into()),
                other => panic!("no fields in {other:?}"),
            };
        }
        let new = NewCommit {
            id: Uuid::from_u128(u128::from(self.position)),
            actor: Actor {
                user: Some(user.into()),
                ..Actor::default()
            },
            request_id: None,
            causation: None,
            sql: None,
            events,
        };
        let encoded = codec::encode_events(Arc::new(new), &Sealing::new(), || [9; 16]).unwrap();
        let seal = Seal {
            first_position: self.position + 1,
            time: Timestamp::from_micros(self.now),
            epoch: 1,
        };
        let (bytes, commit) = codec::seal(encoded, seal, &chain::GENESIS).unwrap();
        let commit = Arc::new(commit);
        self.position = commit.last_position();
        self.model.committed(&[Arc::clone(&commit)]);
        self.acknowledge(&commit);
        self.bytes.push(bytes);
        self.commits.push(commit);
    }

    /// Applies what a reply to the writer would show.
    fn acknowledge(&mut self, commit: &Arc<Commit>) {
        let before = self.acknowledged.clone();
        for event in &commit.events {
            match &event.stream {
                Stream::Record(id) => {
                    let head = before.heads.get(id).cloned().map(Arc::new);
                    match head_after(head, id, &commit.events) {
                        Some(head) => self.acknowledged.heads.insert(id.clone(), (*head).clone()),
                        None => self.acknowledged.heads.remove(id),
                    };
                }
                _ => self.acknowledged.apply(event),
            }
        }
    }

    /// Copies the numbers that the log gave into the model.
    fn number_expected(&mut self) {
        for (name, field) in self.sequences.keys() {
            let heads = self.acknowledged.heads.iter();
            for (id, head) in heads.filter(|(id, _)| id.record_type == *name) {
                let number = head.record.fields.get(field).cloned();
                if let (Some(number), Some(expected)) = (number, self.expected.get_mut(id)) {
                    expected.fields.insert(field.clone(), number);
                }
            }
        }
    }

    fn field(&self, id: &str, name: &str) -> Value {
        let id = RecordId::parse(id).unwrap();
        let head = self.acknowledged.heads.get(&id);
        let value = head.and_then(|head| head.record.fields.get(name));
        value.cloned().unwrap_or(Value::Null)
    }

    /// The store's answer for records that the write model does not know. It numbers nothing.
    fn stored_head(&self, id: &RecordId) -> Option<Arc<Head>> {
        self.acknowledged.heads.get(id).cloned().map(Arc::new)
    }

    fn state_of_model(&self, model: &WriteModel) -> State {
        let ids: Vec<RecordId> = all_ids();
        let cached = model.get_heads(&ids);
        let heads = ids.into_iter().zip(cached.heads);
        State {
            types: model
                .get_types()
                .iter()
                .map(|definition| (definition.name.clone(), TypeDefinition::clone(definition)))
                .collect(),
            heads: heads
                .filter_map(|(id, head)| {
                    let head = head.unwrap_or_else(|| self.stored_head(&id));
                    Some((id, Head::clone(&*head?)))
                })
                .collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn live_replayed_and_resumed_states_are_equal(
        requests in prop::collection::vec(any_request(), 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        requests.iter().for_each(|request| world.run(request));

        // What writers were told is the live state.
        let acknowledged = &world.acknowledged;
        prop_assert_eq!(&world.state_of_model(&world.model), acknowledged);

        // The log's bytes give back the commits that observers saw, and from them the state.
        let read = world.bytes.iter().map(|bytes| codec::decode_commit(bytes, &NoKeys).map(Arc::new));
        let read: Vec<_> = read.collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&read, &world.commits);
        prop_assert_eq!(&State::default().replay(&read), acknowledged);

        // So does a snapshot with the tail after it, folded or observed.
        let cut = cut.index(read.len() + 1);
        let (early, late) = read.split_at(cut);
        let snapshot = State::default().replay(early);
        prop_assert_eq!(&snapshot.clone().replay(late), acknowledged);
        let checkpoint = early.last().map_or(0, |commit| commit.last_position());
        let resumed = WriteModel::new(&snapshot.snapshot(checkpoint), 1 << 20);
        for id in all_ids() {
            let head = snapshot.heads.get(&id).cloned().map(Arc::new);
            resumed.keep_head(id, head, checkpoint);
        }
        resumed.committed(late);
        prop_assert_eq!(&world.state_of_model(&resumed), acknowledged);

        // And the model has the same records.
        let heads = acknowledged.heads.iter();
        let heads = heads.map(|(id, head)| (id.clone(), Expected::from(head)));
        prop_assert_eq!(heads.collect::<BTreeMap<_, _>>(), world.expected);
    }

    #[test]
    fn streams_are_dense_and_full_states_never_far_apart(
        requests in prop::collection::vec(any_request(), 40..100),
    ) {
        let mut world = World::new();
        requests.iter().for_each(|request| world.run(request));
        let mut versions: BTreeMap<String, u32> = BTreeMap::new();
        let mut patches: BTreeMap<String, u32> = BTreeMap::new();
        for event in world.commits.iter().flat_map(|commit| &commit.events) {
            let stream = event.stream.to_string();
            let before = versions.get(&stream).copied().unwrap_or(0);
            prop_assert_eq!(event.version, before + 1, "{}", stream);
            let is_end = matches!(event.body, EventBody::RecordDeleted(_));
            // A record that is created again starts anew.
            versions.insert(stream.clone(), if is_end { 0 } else { event.version });
            let is_patch = matches!(event.body, EventBody::RecordChanged(_));
            let num_patches = patches.entry(stream).or_default();
            *num_patches = if is_patch { *num_patches + 1 } else { 0 };
            prop_assert!(*num_patches < SNAPSHOT_EVERY);
        }
    }
}

#[test]
fn a_decision_names_what_it_rests_on() {
    let mut world = World::new();
    let item = |id: &str, fields: Fields| SaveItem {
        id: RecordId::parse(id).unwrap(),
        access: ItemAccess::Unsaid,
        fields,
        restored: None,
    };
    let target = RecordId::parse("page/a").unwrap();
    let fields = Fields::from_iter([("reference".to_owned(), Value::Reference(target.clone()))]);
    let (page, note) = (item("page/a", Fields::new()), item("note/a", fields));
    world.run(&Request::Save {
        items: vec![page, note.clone()],
        user: "u1",
    });
    let definition = world.model.get_type(&"note".into());
    assert_eq!(
        definition.fields.get("reference"),
        Some(&FieldType::Reference("page".into()))
    );

    let caller = Caller {
        user: Some("u1".into()),
        ..Caller::default()
    };
    let other = SaveItem {
        id: RecordId::parse("note/b").unwrap(),
        ..note
    };
    let mut plan = Plan::default();
    world.decide(&other, &caller, &mut plan).unwrap();
    for key in [
        ConflictKey::record(&other.id),
        ConflictKey::record_type(&"note".into()),
        ConflictKey::existence(&target),
    ] {
        assert!(plan.reads.contains(&key));
    }
    for key in [
        ConflictKey::record(&other.id),
        ConflictKey::existence(&other.id),
        ConflictKey::references(&target),
    ] {
        assert!(plan.writes.contains(&key));
    }
}

/// Any number of records can get the same file at the same time.
#[test]
fn saves_that_name_the_same_file_do_not_wait_for_each_other() {
    let mut world = World::new();
    let photo = Value::Asset(Box::new(Asset {
        name: "photo".to_owned(),
        content_type: None,
        url: None,
    }));
    let item = |id: &str| SaveItem {
        id: RecordId::parse(id).unwrap(),
        access: ItemAccess::Unsaid,
        fields: Fields::from_iter([("photo".to_owned(), photo.clone())]),
        restored: None,
    };
    // Otherwise both would extend the type.
    world.run(&Request::Save {
        items: vec![item("note/first")],
        user: "u1",
    });
    let caller = Caller {
        user: Some("u1".into()),
        ..Caller::default()
    };
    let [one, other] = ["note/a", "note/b"].map(|id| {
        let mut plan = Plan::default();
        world.decide(&item(id), &caller, &mut plan).unwrap();
        plan
    });
    assert!(one.reads.is_disjoint(&other.writes));
    // An erasure of the file sees them, and they see it.
    let name = AssetName::from("photo");
    assert!(one.writes.contains(&ConflictKey::uses_of_file(&name)));
    let file = ConflictKey::stream(&Stream::Asset(name));
    assert!(one.reads.contains(&file));
}

/// A client can ask for the last number of 32 bits and leave none to others.
#[test]
fn a_number_beyond_what_may_be_asked_for_is_in_nobodys_way() {
    let mut world = World::new();
    let save = |id: &str, fields: Vec<(&str, Value)>| {
        let item = SaveItem {
            id: RecordId::parse(id).unwrap(),
            access: ItemAccess::Unsaid,
            restored: None,
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        };
        Request::Save {
            items: vec![item],
            user: "u1",
        }
    };
    let last = Value::Number(f64::from(i32::MAX));
    world.run(&save("note/a", vec![("n", Value::Sequence)]));
    world.run(&save("note/b", vec![("n", last)]));
    world.run(&save(
        "note/c",
        vec![("text", Value::String("new".to_owned()))],
    ));
    let text = || Value::String("changed".to_owned());
    let number = world.field("note/c", "n");
    assert_eq!(number, Value::Number(f64::from(i32::MAX) + 1.0));
    // Unchanged, and sent along.
    world.run(&save("note/c", vec![("text", text())]));
    assert_eq!(world.field("note/c", "text"), text());
    world.run(&save("note/c", vec![("n", number), ("more", text())]));
    assert_eq!(world.field("note/c", "more"), text());
    let too_large = Value::Number(f64::from(i32::MAX) + 2.0);
    world.run(&save("note/d", vec![("n", too_large)]));
    assert!(
        !world
            .acknowledged
            .heads
            .contains_key(&RecordId::parse("note/d").unwrap())
    );
}
