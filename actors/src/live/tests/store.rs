//! A log and a record store that are a few lines long: the store folds the log up to where it has
//! "applied" it, and every read waits for the schedule to let it through.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use skytrail_schema::event::{
    Actor, AssetState, Commit, Event, EventBody, EventKind, Service, Stream, UserState,
};
use skytrail_schema::id::{AssetName, RecordId, RecordKey, TypeName, UserId};
use skytrail_schema::predicate::evaluate::Lookups;
use skytrail_schema::predicate::{Context, Relation};
use skytrail_schema::query::Query;
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::outbox::Entry;
use crate::asset::{AssetCatalog, AssetUrls};
use crate::capture::CaptureGate;
use crate::clock::ManualClock;
use crate::delivery::consumers::Consumers;
use crate::log::{AppendError, Decision, EventLog, ReadError};
use crate::plugin::PluginGate;
use crate::projector::AppliedSender;
use crate::record::apply::{self, Folded};
use crate::record::env::RecordEnv;
use crate::record::fence::Fences;
use crate::record::read::may_find;
use crate::record::write_model::WriteModel;
use crate::store::{
    HeadSource, QueryAnswer, RecordStore, Referrers, RelatedPage, Snapshot, SnapshotAnswer,
    StoreError, UnavailableReason, Viewer,
};

/// What was committed.
#[derive(Default)]
pub(crate) struct ModelLog(pub(super) Mutex<Vec<Arc<Commit>>>);

impl ModelLog {
    pub(crate) fn commit(&self, events: Vec<(Stream, EventBody)>) -> Arc<Commit> {
        let mut commits = self.0.lock();
        let all = commits
            .iter()
            .flat_map(|commit: &Arc<Commit>| &commit.events);
        let mut all: Vec<Event> = all.cloned().collect();
        let num_before = all.len();
        for (stream, body) in events {
            let of_stream = all.iter().filter(|event| event.stream == stream);
            let version = u32::try_from(of_stream.count()).unwrap() + 1;
            all.push(Event {
                position: all.len() as u64 + 1,
                stream,
                version,
                body,
                provenance: Vec::new(),
                payload_hash: [0; 32],
            });
        }
        let commit = Arc::new(Commit {
            id: Uuid::nil(),
            time: Timestamp::from_micros(0),
            epoch: 1,
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events: all.split_off(num_before),
            chain: [0; 32],
        });
        commits.push(Arc::clone(&commit));
        commit
    }

    fn events(&self, from: u64, until: u64) -> Vec<Event> {
        let commits = self.0.lock();
        let events = commits.iter().flat_map(|commit| &commit.events);
        let page = events.filter(|event| (from..=until).contains(&event.position));
        page.cloned().collect()
    }
}

#[async_trait]
impl EventLog for ModelLog {
    async fn append(&self, _: Decision) -> Result<Arc<Commit>, AppendError> {
        Err(AppendError::Closed)
    }

    fn head(&self) -> u64 {
        let commits = self.0.lock();
        commits.last().map_or(0, |commit| commit.last_position())
    }

    fn watch_head(&self) -> watch::Receiver<u64> {
        watch::channel(self.head()).1
    }

    async fn read(&self, from: u64, _: usize) -> Result<Vec<Arc<Commit>>, ReadError> {
        let commits = self.0.lock();
        let page = commits.iter().filter(|it| it.last_position() >= from);
        Ok(page.take(3).cloned().collect())
    }
}

/// Where reads wait until the schedule lets them through.
#[derive(Default)]
pub(super) struct Gate {
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    is_away: AtomicBool,
}

impl Gate {
    async fn pass(&self) -> Result<(), StoreError> {
        let (open, opened) = oneshot::channel();
        self.waiting.lock().push(open);
        let _ = opened.await;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable(
                UnavailableReason::Unreachable,
                "the schedule",
            ));
        }
        Ok(())
    }

    /// Whether reads that are let through fail from now on.
    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    pub(super) fn num_waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    pub(super) fn release(&self, place: usize) {
        let _ = self.waiting.lock().remove(place).send(());
    }
}

/// The state as of a position.
pub(super) struct Past {
    pub(super) heads: HashMap<RecordId, Head>,
    types: HashMap<TypeName, TypeDefinition>,
    users: HashMap<UserId, (u32, UserState)>,
}

#[derive(Default)]
pub(crate) struct ModelStore {
    pub(crate) log: Arc<ModelLog>,
    pub(crate) applied: AppliedSender,
    pub(super) gate: Gate,
    /// What SQL has changed.
    pub(super) outbox: Mutex<Vec<Entry>>,
}

impl ModelStore {
    /// Returns what works with the store, and keeps so many bytes in memory.
    pub(crate) fn env(
        self: &Arc<Self>,
        max_bytes: usize,
        urls: Arc<dyn AssetUrls>,
        plugins: Arc<dyn PluginGate>,
    ) -> RecordEnv {
        let applied = self.applied.subscribe();
        let model = Arc::new(WriteModel::new(&Snapshot::default(), max_bytes));
        RecordEnv {
            log: Arc::clone(&self.log) as _,
            store: Arc::clone(self) as _,
            model: Arc::clone(&model),
            applied: applied.clone(),
            assets: AssetCatalog {
                store: Arc::clone(self) as _,
                model,
                applied,
                urls,
                erasures: Arc::default(),
            },
            plugins,
            consumers: Consumers::default(),
            captured: CaptureGate::default(),
            fences: Fences::default(),
            clock: Arc::new(ManualClock::default()),
            max_included_bytes: 1 << 20,
            max_page_bytes: 1 << 20,
        }
    }

    fn position(&self) -> u64 {
        self.applied.position()
    }

    fn creations(&self, stream: &Stream, until: u64) -> Vec<u64> {
        let events = self.log.events(1, until).into_iter().filter(|event| {
            event.stream == *stream && event.body.kind() == EventKind::RecordCreated
        });
        events.map(|event| event.position).collect()
    }

    /// The log up to what is applied, and what SQL has done since.
    pub(super) fn rows(&self) -> Past {
        let mut rows = self.past();
        let outbox = self.outbox.lock();
        let waiting = outbox.iter();
        for entry in waiting.filter(|entry| entry.is_waiting(self.position())) {
            entry.put_on(&mut rows.heads);
        }
        rows
    }

    fn past(&self) -> Past {
        let mut past = Past {
            heads: HashMap::new(),
            types: HashMap::new(),
            users: HashMap::new(),
        };
        for event in self.log.events(1, self.position()) {
            past.take(&event);
        }
        past
    }
}

impl Past {
    fn definition(&self, name: &TypeName) -> TypeDefinition {
        let definition = self.types.get(name).cloned();
        definition.unwrap_or_else(|| TypeDefinition::empty(name.clone()))
    }

    fn take(&mut self, event: &Event) {
        match &event.stream {
            Stream::Record(id) => match apply::record(self.heads.get(id), id, event) {
                Folded::Known(Some(head)) => drop(self.heads.insert(id.clone(), head)),
                Folded::Known(None) => drop(self.heads.remove(id)),
                Folded::Unknown => panic!("a change of a record that is not there"),
            },
            Stream::Type(name) => {
                let definition = apply::record_type(&self.definition(name), event);
                self.types.insert(name.clone(), definition);
                let its = self.heads.values_mut();
                for head in its.filter(|head| head.record.id.record_type == *name) {
                    apply::reshape(&mut head.record, &event.body);
                }
            }
            Stream::User(id) => {
                if let Folded::Known(Some(user)) = apply::user(self.users.get(id), event) {
                    self.users.insert(id.clone(), user);
                }
            }
            _ => {}
        }
    }
}

/// The records that a condition may look into.
struct Seen<'a>(&'a Past, &'a Viewer<'a>);

impl Lookups for Seen<'_> {
    fn find_record(&self, id: &RecordId) -> Option<&Record> {
        let record = self.0.heads.get(id).map(|head| &head.record);
        record.filter(|record| self.1.may_look_into(record))
    }

    fn is_related(&self, _: Relation, _: &UserId, _: &UserId) -> bool {
        false
    }
}

fn not_modelled<T>() -> Result<T, StoreError> {
    Err(StoreError::Failed("not modelled".to_owned()))
}

#[async_trait]
impl RecordStore for ModelStore {
    async fn load_snapshot(&self) -> Result<Snapshot, StoreError> {
        not_modelled()
    }

    async fn load_heads(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Head>>, StoreError> {
        self.gate.pass().await?;
        let past = self.past();
        let id = |key: &RecordKey| RecordId::new(definition.name.clone(), key.clone());
        Ok(keys
            .iter()
            .map(|key| past.heads.get(&id(key)).cloned())
            .collect())
    }

    async fn query_at(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        (captured_types, max_captured): (&[TypeName], usize),
    ) -> Result<SnapshotAnswer, StoreError> {
        self.gate.pass().await?;
        let past = self.rows();
        let definition = past.definition(&query.record_type);
        let types: Vec<_> = past.types.values().cloned().map(Arc::new).collect();
        let condition = query.bind(&definition, types.as_slice())?.condition;
        let lookups = Seen(&past, viewer);
        let context = Context {
            user: viewer.caller.user.as_ref(),
            lookups: &lookups,
        };
        let finds = |head: &&Head| {
            let record = &head.record;
            let is_so = |condition: &skytrail_schema::predicate::Condition| {
                condition.evaluate(record, context) == Some(true)
            };
            record.id.record_type == query.record_type
                && may_find(viewer, record)
                && condition.as_ref().is_none_or(is_so)
        };
        let found = past.heads.values().filter(finds);
        let mut records: Vec<_> = found.cloned().map(Arc::new).collect();
        records.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        let answer = QueryAnswer {
            records,
            count: None,
        };
        let position = self.position();
        let outbox = self.outbox.lock();
        let waiting = outbox.iter().filter(|entry| entry.is_waiting(position));
        let ids: BTreeSet<&RecordId> = waiting.flat_map(Entry::ids).collect();
        let captured = ids
            .into_iter()
            .filter(|id| captured_types.contains(&id.record_type));
        Ok(SnapshotAnswer {
            position,
            answer,
            captured: captured.take(max_captured).cloned().collect(),
        })
    }

    async fn find_full_states(&self, at: &[(Stream, u64)]) -> Result<Vec<Option<u64>>, StoreError> {
        self.gate.pass().await?;
        let is_full = |event: &Event, stream: &Stream| {
            use EventBody::{RecordCreated, RecordDeleted, RecordReplaced};
            let body = &event.body;
            event.stream == *stream
                && matches!(
                    body,
                    RecordCreated(_) | RecordReplaced(_) | RecordDeleted(_)
                )
        };
        let find = |(stream, until): &(Stream, u64)| {
            assert!(*until <= self.position(), "asked for what is not applied");
            let events = self.log.events(1, *until);
            let last = events.iter().rfind(|event| is_full(event, stream));
            last.map(|event| event.position)
        };
        Ok(at.iter().map(find).collect())
    }

    async fn list_creations(
        &self,
        streams: &[Stream],
        until: u64,
    ) -> Result<Vec<Vec<u64>>, StoreError> {
        self.gate.pass().await?;
        let streams = streams.iter();
        Ok(streams.map(|it| self.creations(it, until)).collect())
    }

    async fn load_numbers(&self, at: &[(u64, u64)]) -> Result<Vec<Option<i64>>, StoreError> {
        assert!(at.is_empty());
        Ok(Vec::new())
    }

    async fn list_candidates(
        &self,
        ranges: &[(Stream, RangeInclusive<u64>)],
    ) -> Result<Vec<u64>, StoreError> {
        self.gate.pass().await?;
        let is_in_range = |event: &Event| {
            let mut ranges = ranges.iter();
            ranges.any(|(stream, range)| {
                // As if the fifth event's stream had the hash of all others.
                (event.stream == *stream || event.position == 5) && range.contains(&event.position)
            })
        };
        let its = self.log.events(1, u64::MAX).into_iter().filter(is_in_range);
        Ok(its.map(|event| event.position).collect())
    }

    async fn load_users(
        &self,
        ids: &[UserId],
    ) -> Result<Vec<Option<(u32, UserState)>>, StoreError> {
        self.gate.pass().await?;
        let past = self.past();
        Ok(ids.iter().map(|id| past.users.get(id).cloned()).collect())
    }

    async fn list_by_fields(
        &self,
        _: &TypeDefinition,
        _: &[(&str, &Value)],
        _: &RecordKey,
    ) -> Result<Vec<RecordKey>, StoreError> {
        not_modelled()
    }

    async fn find_by_fields(
        &self,
        _: &TypeDefinition,
        _: &[(&str, &Value)],
    ) -> Result<Option<RecordKey>, StoreError> {
        not_modelled()
    }

    async fn find_shared(
        &self,
        _: &TypeDefinition,
        _: &[String],
    ) -> Result<Option<[RecordKey; 2]>, StoreError> {
        not_modelled()
    }

    async fn find_referrers(
        &self,
        _: &[RecordId],
        _: &[Arc<TypeDefinition>],
    ) -> Result<Referrers, StoreError> {
        not_modelled()
    }

    async fn list_keys(
        &self,
        _: &TypeDefinition,
        _: Option<&RecordKey>,
        _: u32,
    ) -> Result<Vec<RecordKey>, StoreError> {
        not_modelled()
    }

    async fn count_records(&self, _: &TypeDefinition) -> Result<u64, StoreError> {
        not_modelled()
    }

    async fn query(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        _: &dyn HeadSource,
    ) -> Result<QueryAnswer, StoreError> {
        let answer = self.query_at(query, viewer, (&[], 0)).await?;
        Ok(answer.answer)
    }

    async fn query_as_of(
        &self,
        _: &Query,
        _: &Viewer<'_>,
        _: &dyn HeadSource,
        _: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError> {
        self.gate.pass().await?;
        Ok(None)
    }

    async fn list_candidates_before(
        &self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        let ranges = [(stream.clone(), 1..=until)];
        let mut positions = self.list_candidates(&ranges).await?;
        positions.reverse();
        positions.truncate(limit);
        Ok(positions)
    }

    async fn list_positions_of_kind(
        &self,
        kind: EventKind,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        self.gate.pass().await?;
        let events = self.log.events(from, until).into_iter();
        let its = events.filter(|event| event.body.kind() == kind);
        Ok(its.map(|event| event.position).collect())
    }

    async fn list_positions_of_user(
        &self,
        _user: &UserId,
        kinds: &[EventKind],
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        self.gate.pass().await?;
        let events = self.log.events(1, until).into_iter();
        let its = events.filter(|event| kinds.contains(&event.body.kind()));
        Ok(its.map(|event| event.position).collect())
    }

    async fn scan(
        &self,
        definition: &TypeDefinition,
        owner: Option<&UserId>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Head)>, StoreError> {
        self.gate.pass().await?;
        let rows = self.past().heads.into_iter().filter_map(|(id, head)| {
            let is_owned = owner.is_none_or(|owner| head.record.owner.as_ref() == Some(owner));
            let is_its = id.record_type == definition.name && is_owned;
            let created = self.creations(&Stream::Record(id), self.position());
            is_its.then_some((i64::try_from(*created.last()?).ok()?, head))
        });
        let mut rows: Vec<_> = rows.filter(|(row, _)| *row > after).collect();
        rows.sort_by_key(|(row, _)| *row);
        rows.truncate(limit);
        Ok(rows)
    }

    async fn find_linked(&self, _: &Service, _: &str) -> Result<Option<UserId>, StoreError> {
        not_modelled()
    }

    async fn load_assets(
        &self,
        _: &[AssetName],
    ) -> Result<Vec<Option<(u32, AssetState)>>, StoreError> {
        not_modelled()
    }

    async fn list_assets(
        &self,
        _: Option<&AssetName>,
        _: u32,
    ) -> Result<Vec<AssetName>, StoreError> {
        not_modelled()
    }

    async fn load_relations(
        &self,
        _: Relation,
        _: &UserId,
        _: &[UserId],
    ) -> Result<(u32, BTreeSet<UserId>), StoreError> {
        not_modelled()
    }

    async fn list_related(&self, _: &RelatedPage) -> Result<(Vec<UserId>, u64), StoreError> {
        not_modelled()
    }

    async fn apply(&self, _: &[Arc<Commit>]) -> Result<(), StoreError> {
        not_modelled()
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
