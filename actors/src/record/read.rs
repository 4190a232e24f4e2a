//! Fetching and querying: from memory if it has the records, otherwise from the store, including
//! everything that was acknowledged before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use skytrail_schema::acl::Level;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{Database, RecordId, TypeName};
use skytrail_schema::predicate::{KeyPath, Operand};
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::{Point, Value, number_to_wire};

use super::as_of;
use super::draft::no_permission;
use super::env::{Heads, RecordEnv};
use super::included::{Included, Room};
use super::messages::{
    FetchRecords, Found, ItemError, ItemResults, QueryRecords, QueryReply, Transient,
};
use super::page_bytes::{BatchSize, PageBytes};
use super::past::{self, Moment};
use super::past_rules;
use crate::store::Viewer;

/// How many times something is read again because rules or names of fields changed meanwhile.
const MAX_ATTEMPTS: usize = 10;

/// Fetches records by id.
///
/// # Errors
/// The store failed.
pub async fn fetch(
    env: &RecordEnv,
    command: FetchRecords,
) -> Result<ItemResults<Record>, ApiError> {
    let caller = &command.context.caller;
    under_steady_rules(env, caller, || async {
        if let Some(moment) = command.as_of {
            return fetch_past(env, &command, moment).await;
        }
        let room = PageBytes::new(env.max_page_bytes, "ids");
        let heads = env.load_heads_within(&command.ids, room).await?;
        // Rules hide nothing under a name that they do not know, so they are read afterwards.
        Ok(pick(env, &command, &heads, &env.model.get_field_rules()))
    })
    .await
}

/// Picks the records that were asked for, as far as the caller may see them.
fn pick(
    env: &RecordEnv,
    command: &FetchRecords,
    heads: &Heads,
    rules: &FieldRules,
) -> ItemResults<Record> {
    let caller = &command.context.caller;
    let find = |id: &RecordId| {
        let head = heads
            .get(id)
            .filter(|head| is_in(&head.record.database, &command.scope));
        let error = match head {
            None => not_found(),
            Some(head) if caller.may(Level::Read, &head.record) => {
                let head = visible(rules, caller, Arc::clone(head), None);
                let mut record = head.record.clone();
                env.assets.sign(&mut record);
                return Ok(record);
            }
            Some(_) => no_permission(),
        };
        Err(ItemError {
            id: Some(id.clone()),
            error,
        })
    };
    command.ids.iter().map(find).collect()
}

/// Computes an answer that depends on today's rules of access to fields, and does so again if the
/// rules or the names of fields changed meanwhile: then the answer, even a refusal, must not be
/// judged by the old rules.
pub(super) async fn under_steady_rules<T, F>(
    env: &RecordEnv,
    caller: &Caller,
    answer: impl Fn() -> F,
) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    let (_, mut named) = env.model.get_named_rules();
    for _ in 0..MAX_ATTEMPTS {
        let answered = answer().await;
        let (_, after) = env.model.get_named_rules();
        if caller.is_master() || named.is_same(&after) {
            return answered;
        }
        named = after;
    }
    Err(ApiError::overloaded("the record store"))
}

/// Fetches records as they were at a moment.
///
/// A caller sees a state if they could see it then and can see the record today. For a deleted
/// record, its last state decides, whatever was created under its id since. The same holds for
/// fields, followed through their renames.
async fn fetch_past(
    env: &RecordEnv,
    command: &FetchRecords,
    moment: Moment,
) -> Result<ItemResults<Record>, ApiError> {
    let position = moment.find(env, "as_of").await?;
    let caller = &command.context.caller;
    let mut types: Vec<&TypeName> = command.ids.iter().map(|id| &id.record_type).collect();
    types.sort();
    types.dedup();
    let rules = past_rules::of_both_times(env, caller, &types, position).await?;
    let mut room = PageBytes::new(env.max_page_bytes, "ids");
    let mut batch_size = BatchSize::at_most(512);
    let mut results = Vec::new();
    let mut remaining = command.ids.as_slice();
    while !remaining.is_empty() {
        let some;
        (some, remaining) = remaining.split_at(batch_size.size().min(remaining.len()));
        let was = past::records_at(env, some, position).await?.into_iter();
        let was = was.map(|was| was.filter(|it| is_in(&it.database, &command.scope)));
        let was: Vec<Option<Record>> = was.collect();
        let there: Vec<&Record> = was.iter().flatten().collect();
        batch_size.adapt_to(there.iter().copied());
        let last = past::last_states_of(env, &there, position).await?;
        let mut last = last.into_iter();
        for (id, was) in some.iter().zip(was) {
            let last = was.as_ref().and_then(|_| last.next().flatten());
            let may_read = |record: &Record| caller.may(Level::Read, record);
            let result = match (was, last) {
                (None, _) => Err(not_found()),
                (Some(mut record), Some(last)) if may_read(&record) && may_read(&last) => {
                    room.take(&record)?;
                    rules.hide_unseen(caller, &mut record, Some(&last));
                    env.assets.sign(&mut record);
                    Ok(record)
                }
                _ => Err(no_permission()),
            };
            results.push(result.map_err(|error| ItemError {
                id: Some(id.clone()),
                error,
            }));
        }
    }
    Ok(results)
}

fn not_found() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "record not found")
}

/// Runs a query and loads what it includes.
///
/// # Errors
/// 120 for paths that the type does not have, 124 for fields that the caller must not look at; the
/// store failed.
pub async fn query(env: &RecordEnv, command: QueryRecords) -> Result<QueryReply, ApiError> {
    let caller = &command.context.caller;
    under_steady_rules(env, caller, || async {
        if let Some(moment) = command.as_of {
            return as_of::query(env, &command, moment).await;
        }
        let (position, named) = env.model.get_named_rules();
        env.applied.wait_for(position.max(env.log.head())).await?;
        let (found, count) = answer(env, &command, &named.rules).await?;
        Ok(reply(env, found, count))
    })
    .await
}

/// Asks the store, and adds what the query includes.
async fn answer(
    env: &RecordEnv,
    command: &QueryRecords,
    rules: &FieldRules,
) -> Result<(Vec<Found>, Option<u64>), ApiError> {
    let viewer = Viewer {
        scope: &command.scope,
        caller: &command.context.caller,
    };
    let definitions = involved(env, &command.query.record_type);
    rules.check_query(&command.query, viewer.caller, definitions.as_slice())?;
    let heads = env.model.as_ref();
    let answer = env.store.query(&command.query, &viewer, heads).await?;
    let look = FoundView {
        query: &command.query,
        viewer,
        rules,
        today: None,
    };
    let found = look.bring(env, answer.records).await?;
    Ok((found, answer.count))
}

/// Builds the answer; files get their addresses.
pub(super) fn reply(env: &RecordEnv, found: Vec<Found>, count: Option<u64>) -> QueryReply {
    let mut signed = Included::new();
    let found = found.into_iter();
    QueryReply {
        records: found.map(|it| it.signed(env, &mut signed)).collect(),
        count,
    }
}

/// A caller's view of what a query found.
#[derive(Clone, Copy)]
pub(crate) struct FoundView<'a> {
    /// The query.
    pub(crate) query: &'a Query,
    /// The caller, and where they look.
    pub(crate) viewer: Viewer<'a>,
    /// The rules for fields.
    pub(crate) rules: &'a FieldRules,
    /// For a view of the past: the records that they see as these are today or were last.
    pub(crate) today: Option<&'a HashMap<RecordId, Arc<Record>>>,
}

impl FoundView<'_> {
    /// Adds what the query includes, as of now, and leaves out what the caller may not see or did
    /// not ask for. Files have no addresses yet.
    pub(crate) async fn bring(
        &self,
        env: &RecordEnv,
        heads: Vec<Arc<Head>>,
    ) -> Result<Vec<Found>, ApiError> {
        let definition = env.definition(&self.query.record_type);
        let ids = self.included_ids(&definition, &heads);
        let mut included = env.load_heads(&ids).await?.by_id;
        included.retain(|_, head| may_find(&self.viewer, &head.record));
        let included = (included, env.max_included_bytes);
        self.bring_from(included, &definition, heads)
    }

    /// Like [`FoundView::bring`], but as of the position at which the records were found: what is
    /// included can have changed since, or be ahead of the store.
    pub(crate) async fn bring_as_of(
        &self,
        env: &RecordEnv,
        heads: Vec<Arc<Head>>,
        position: u64,
    ) -> Result<Vec<Found>, ApiError> {
        let definition = env.definition(&self.query.record_type);
        let mut ids = self.included_ids(&definition, &heads);
        let mut included = env.load_heads(&ids).await?.by_id;
        let is_from_before = |head: &Arc<Head>| head.position <= position;
        ids.retain(|id| !included.get(id).is_some_and(is_from_before));
        let before = env.load_each_from_log(&ids, position).await?;
        for (id, head) in ids.into_iter().zip(before) {
            match head {
                Some(head) => included.insert(id, Arc::new(head)),
                None => included.remove(&id),
            };
        }
        included.retain(|_, head| may_find(&self.viewer, &head.record));
        self.bring_from((included, env.max_included_bytes), &definition, heads)
    }

    /// Like [`FoundView::bring`], but with included records that are already loaded, and the
    /// maximum bytes that they may add. The caller may see these records.
    pub(super) fn bring_from(
        &self,
        (mut included, max_bytes): (Included, usize),
        definition: &TypeDefinition,
        heads: Vec<Arc<Head>>,
    ) -> Result<Vec<Found>, ApiError> {
        for head in included.values_mut() {
            *head = self.visible(Arc::clone(head));
        }
        let mut room = Room::new(&included, max_bytes);
        let found = heads.into_iter().map(|head| {
            let mut transient = self.transient_of(definition, &head.record, &included);
            self.hide_unreadable(&head.record, &mut transient);
            room.take(&transient)?;
            let today = self.today_of(&head.record);
            let head = self.cut(head, today);
            Ok(Found { head, transient })
        });
        found.collect()
    }

    /// Leaves out the fields that the caller may not see and those that they did not ask for. For a
    /// past state, the record as it is `today` also decides.
    pub(crate) fn cut(&self, head: Arc<Head>, today: Option<&Record>) -> Arc<Head> {
        let head = visible(self.rules, self.viewer.caller, head, today);
        select(head, self.query.desired_keys.as_deref())
    }

    fn visible(&self, head: Arc<Head>) -> Arc<Head> {
        let today = self.today_of(&head.record);
        visible(self.rules, self.viewer.caller, head, today)
    }

    fn today_of(&self, record: &Record) -> Option<&Record> {
        let today = self.today?.get(&record.id)?;
        Some(today)
    }

    /// Returns every record that an `include` of the query names.
    pub(super) fn included_ids(
        &self,
        definition: &TypeDefinition,
        records: &[Arc<Head>],
    ) -> Vec<RecordId> {
        let paths = self.query.include.values().filter_map(path_of);
        let paths: Vec<_> = paths.collect();
        let ids = records.iter().flat_map(|record| {
            let paths = paths.iter();
            paths.filter_map(|path| target(definition, &record.record, path))
        });
        let mut ids: Vec<RecordId> = ids.collect();
        ids.sort();
        ids.dedup();
        ids
    }

    fn transient_of(
        &self,
        definition: &TypeDefinition,
        record: &Record,
        included: &Included,
    ) -> BTreeMap<String, Transient> {
        let bring = |operand: &Operand| match operand {
            Operand::Path(_) => {
                let id = path_of(operand).and_then(|path| target(definition, record, path));
                let head = id.and_then(|id| included.get(&id));
                Some(Transient::Record(head.cloned()))
            }
            Operand::Literal(value) => Some(Transient::Value(value.to_wire())),
            Operand::Distance { field, from } => distance(&record.fields, field, *from)
                .map(|metres| Transient::Value(number_to_wire(metres))),
        };
        let named = |(name, operand): (&String, &Operand)| Some((name.clone(), bring(operand)?));
        self.query.include.iter().filter_map(named).collect()
    }

    /// Hides what came from fields that the caller must not see in this particular record: the
    /// query was checked for fields in general, but some rules depend on the record.
    fn hide_unreadable(&self, record: &Record, transient: &mut BTreeMap<String, Transient>) {
        for (name, operand) in &self.query.include {
            let field = match operand {
                Operand::Distance { field, .. } => Some(field.as_str()),
                operand => path_of(operand),
            };
            let is_hidden = field.is_some_and(|field| {
                let (caller, today) = (self.viewer.caller, self.today_of(record));
                !self.rules.allows_seeing(field, caller, record, today)
            });
            if is_hidden {
                match operand {
                    Operand::Distance { .. } => drop(transient.remove(name)),
                    _ => drop(transient.insert(name.clone(), Transient::Record(None))),
                }
            }
        }
    }
}

impl Found {
    /// Gives files their addresses. Included records with files are kept in `signed`, so that all
    /// that include the same record share it.
    pub(crate) fn signed(mut self, env: &RecordEnv, signed: &mut Included) -> Self {
        for value in self.transient.values_mut() {
            if let Transient::Record(Some(head)) = value {
                let signed_head = signed.entry(head.record.id.clone());
                let signed_head =
                    signed_head.or_insert_with(|| env.assets.sign_head(Arc::clone(head)));
                *head = Arc::clone(signed_head);
            }
        }
        let head = env.assets.sign_head(self.head);
        Self { head, ..self }
    }
}

/// Returns the queried type and the types that its references name.
pub(crate) fn involved(env: &RecordEnv, name: &TypeName) -> Vec<Arc<TypeDefinition>> {
    let definition = env.definition(name);
    let mut all = vec![Arc::clone(&definition)];
    for field in definition.fields.values() {
        if let FieldType::Reference(target) = field
            && all.iter().all(|known| known.name != *target)
        {
            all.push(env.definition(target));
        }
    }
    all
}

pub(super) fn is_in(database: &Database, scope: &Scope) -> bool {
    match (scope, database) {
        (Scope::Union, _) | (Scope::Public, Database::Public) => true,
        (Scope::Private(user), Database::Private(owner)) => user == owner,
        _ => false,
    }
}

/// Leaves out the fields that the caller may not see. For a past state, these include those that
/// they may not see in the record as it is today.
fn visible(
    rules: &FieldRules,
    caller: &Caller,
    mut head: Arc<Head>,
    today: Option<&Record>,
) -> Arc<Head> {
    if rules.may_hide(caller, &head.record.id.record_type) {
        rules.hide_unseen(caller, &mut Arc::make_mut(&mut head).record, today);
    }
    head
}

fn select(head: Arc<Head>, desired: Option<&[String]>) -> Arc<Head> {
    let Some(desired) = desired else { return head };
    let mut head = Arc::unwrap_or_clone(head);
    head.record.fields.retain(|name, _| desired.contains(name));
    Arc::new(head)
}

fn path_of(operand: &Operand) -> Option<&str> {
    match operand {
        Operand::Path(KeyPath(parts)) => match parts.as_slice() {
            [field] => Some(field),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the record that a path with one component leads to.
fn target(definition: &TypeDefinition, record: &Record, path: &str) -> Option<RecordId> {
    let user = match path {
        "_owner_id" => record.owner.as_ref(),
        "_created_by" => record.created_by.as_ref(),
        "_updated_by" => record.updated_by.as_ref(),
        field => {
            let is_reference =
                matches!(definition.fields.get(field), Some(FieldType::Reference(_)));
            return match record.fields.get(field) {
                Some(Value::Reference(id)) if is_reference => Some(id.clone()),
                _ => None,
            };
        }
    };
    user.map(RecordId::user)
}

/// Whether the caller may see a record in a query; a private database has no access lists.
pub(super) fn may_read(caller: &Caller, scope: &Scope, record: &Record) -> bool {
    matches!(scope, Scope::Private(_)) || caller.may(Level::Read, record)
}

/// Whether a query may return a record to the caller.
pub(crate) fn may_find(viewer: &Viewer<'_>, record: &Record) -> bool {
    is_in(&record.database, viewer.scope) && may_read(viewer.caller, viewer.scope, record)
}

fn distance(fields: &Fields, field: &str, from: Point) -> Option<f64> {
    match fields.get(field) {
        Some(Value::Location(point)) => Some(point.metres_to(from)),
        _ => None,
    }
}
