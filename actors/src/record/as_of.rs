//! Queries over records and types as they were at a past moment.
//!
//! If the store keeps the past states of a type's records with their intervals, the store answers.
//! Otherwise:
//!
//! 1. A record that was not written since then has not changed: the store has it. One that was
//!    written since is folded from the log ([`super::past`]). So are records that were deleted
//!    since; the log names them. The more recent the moment, the less there is to fold.
//! 2. Types are folded in the same way: fields have the names that they had then. If a field was
//!    renamed or deleted since, every record is folded.
//! 3. The condition is evaluated in memory, with the targets of references as of the same moment,
//!    by the evaluator that tests compare the store's SQL with.
//!
//! A caller sees a state if they could see it then and can see the record today. For a deleted
//! record, its last state decides, whatever was created under its id since. The same holds for
//! fields, followed through their renames ([`super::past_rules`]). Roles are today's, and so are
//! relations between users.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::vec;

use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Stream;
use skytrail_schema::field_access::FieldRules;
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::predicate::{Condition, Context, Direction, LookedUp};
use skytrail_schema::query::{BoundQuery, Page};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::env::RecordEnv;
use super::included::Included;
use super::messages::{QueryRecords, QueryReply};
use super::page_bytes::{BatchSize, PageBytes};
use super::past::{self, Moment, Walk};
use super::past_rules::{self, PastRules};
use super::{apply, read};
use crate::evaluation::Evaluation;
use crate::store::{QueryAnswer, RelatedPage, Viewer};

/// How many records are looked at together.
const MAX_BATCH: usize = 512;

/// A record as it was then, and the same record as it is now or as it was last.
pub(super) struct Seen {
    pub(super) then: Head,
    today: Arc<Record>,
}

impl Seen {
    /// Whether somebody may see both states: what was hidden then stays hidden, and what is hidden
    /// now is hidden in the past, too.
    fn is_for(&self, may_see: impl Fn(&Record) -> bool) -> bool {
        may_see(&self.then.record) && may_see(&self.today)
    }
}

/// The rows of today's records, by id and time of creation.
type Rows = HashMap<(RecordId, Timestamp), i64>;

/// A query of the past while it runs.
pub(super) struct Looking<'a> {
    pub(super) env: &'a RecordEnv,
    pub(super) command: &'a QueryRecords,
    pub(super) position: u64,
    /// The type and those that its records refer to, as they were then.
    pub(super) types: &'a [Arc<TypeDefinition>],
    pub(super) bound: &'a BoundQuery,
    /// What the condition depends on in addition to the record.
    pub(super) lookups: LookedUp,
}

/// Runs a query as of a moment.
///
/// # Errors
/// Those of a query; 108 for a moment in the future; the log cannot be read.
pub(super) async fn query(
    env: &RecordEnv,
    command: &QueryRecords,
    moment: Moment,
) -> Result<QueryReply, ApiError> {
    let position = moment.find(env, "as_of").await?;
    let name = &command.query.record_type;
    let types = types_at(env, name, position).await?;
    let caller = &command.context.caller;
    let names: Vec<&TypeName> = types.iter().map(|it| &it.name).collect();
    let rules = past_rules::of_both_times(env, caller, &names, position).await?;
    rules.check_query(&command.query, caller, types.as_slice())?;
    let Some(definition) = types.first().filter(|it| it.is_created) else {
        return Ok(QueryReply {
            records: Vec::new(),
            count: command.query.count.then_some(0),
        });
    };
    let bound = command.query.bind(definition, types.as_slice())?;
    let mut looking = Looking {
        env,
        command,
        position,
        types: &types,
        lookups: look_up_relations(env, command, bound.condition.as_ref()).await?,
        bound: &bound,
    };
    let QueryAnswer { records, count } = looking.find_all(definition).await?;
    let look = read::FoundView {
        query: &command.query,
        viewer: looking.viewer(),
        rules: &rules,
        today: None,
    };
    let mut today = HashMap::new();
    if rules.may_hide(caller, name) {
        today = looking.find_today(&records).await?;
    }
    let mut included = Included::new();
    let ids = look.included_ids(definition, &records);
    let ids: Vec<RecordId> = ids.into_iter().collect();
    for seen in looking.find(&ids).await? {
        if seen.is_for(|record| read::may_find(&look.viewer, record)) {
            let id = &seen.then.record.id;
            today.insert(id.clone(), seen.today);
            included.insert(id.clone(), Arc::new(seen.then));
        }
    }
    let look = read::FoundView {
        today: Some(&today),
        ..look
    };
    let included = (included, env.max_included_bytes);
    let found = look.bring_from(included, definition, records)?;
    Ok(read::reply(env, found, count))
}

impl Looking<'_> {
    /// Finds the records of the page, and counts all matches if asked to.
    async fn find_all(&mut self, definition: &TypeDefinition) -> Result<QueryAnswer, ApiError> {
        let query = &self.command.query;
        if !self.lookups.has_references() {
            let (viewer, moment) = (self.viewer(), (self.position, definition));
            let heads = self.env.model.as_ref();
            let kept = self.env.store.query_as_of(query, &viewer, heads, moment);
            if let Some(answer) = kept.await? {
                return Ok(answer);
            }
        }
        let mut page = Page::new(query, self.bound, false);
        let mut room = PageBytes::new(self.env.max_page_bytes, "limit");
        let scanned = self.scan(definition, (&mut page, &mut room)).await?;
        self.look_at_deleted(&scanned, (&mut page, &mut room))
            .await?;
        let (heads, count) = page.finish();
        let records = heads.into_iter().map(Arc::new).collect();
        Ok(QueryAnswer { records, count })
    }

    fn viewer(&self) -> Viewer<'_> {
        Viewer {
            scope: &self.command.scope,
            caller: &self.command.context.caller,
        }
    }

    /// Looks at all records that exist today. Returns their ids.
    async fn scan(
        &mut self,
        definition: &TypeDefinition,
        (page, room): (&mut Page<'_>, &mut PageBytes),
    ) -> Result<HashSet<RecordId>, ApiError> {
        let present = self.env.definition(&definition.name);
        // A record that was restored since had another row before. Rows that SQL created have
        // numbers after all positions of the log.
        let since = self.position + 1..=self.env.applied.position();
        let is_later = |row: i64| u64::try_from(row).is_ok_and(|row| since.contains(&row));
        let (mut scanned, mut after) = (HashSet::new(), 0);
        let mut batch_size = BatchSize::at_most(MAX_BATCH);
        loop {
            let batch = self
                .env
                .store
                .scan(&present, None, after, batch_size.size())
                .await?;
            let Some((last, _)) = batch.last() else {
                return Ok(scanned);
            };
            after = *last;
            batch_size.adapt_to(batch.iter().map(|(_, head)| &head.record));
            scanned.extend(batch.iter().map(|(_, head)| head.record.id.clone()));
            let rows = batch.iter().filter(|(row, _)| !is_later(*row));
            let rows = rows.map(|(row, head)| {
                let record = &head.record;
                ((record.id.clone(), record.created_at), *row)
            });
            let rows = rows.collect();
            let today = batch.into_iter().map(|(_, head)| head).collect();
            let seen = self.back_from(today).await?;
            self.add_matches(seen, &rows, (page, room)).await?;
        }
    }

    /// Looks at the records that existed then and have been deleted since.
    async fn look_at_deleted(
        &mut self,
        scanned: &HashSet<RecordId>,
        (page, room): (&mut Page<'_>, &mut PageBytes),
    ) -> Result<(), ApiError> {
        let name = &self.command.query.record_type;
        let since = self.position + 1..=self.env.applied.position();
        let gone = past::deleted(self.env, since, |it| it == name).await?;
        let ids: Vec<RecordId> = gone
            .into_iter()
            .filter(|id| !scanned.contains(id))
            .collect();
        let mut remaining = ids.as_slice();
        let mut batch_size = BatchSize::at_most(MAX_BATCH);
        while !remaining.is_empty() {
            let some;
            (some, remaining) = remaining.split_at(batch_size.size().min(remaining.len()));
            let seen = self.find(some).await?;
            batch_size.adapt_to(seen.iter().map(|seen| &seen.then.record));
            self.add_matches(seen, &Rows::new(), (page, room)).await?;
        }
        Ok(())
    }

    /// Goes back in time from records as they are today.
    pub(super) async fn back_from(&self, today: Vec<Head>) -> Result<Vec<Seen>, ApiError> {
        let is_as_it_was = |head: &Head| {
            head.position <= self.position && !self.is_reshaped(&head.record.id.record_type)
        };
        let written = today.iter().filter(|head| !is_as_it_was(head));
        let mut walks = self.walk_each(written.map(|head| &head.record.id)).await?;
        let (mut seen, mut gone) = (Vec::new(), Vec::new());
        for mut head in today {
            if is_as_it_was(&head) {
                let today = Arc::new(head.record.clone());
                self.remove_later_numbers(&mut head.record);
                seen.push(Seen { then: head, today });
                continue;
            }
            let Some(then) = walks.next().and_then(Walk::into_head) else {
                continue;
            };
            if past::is_same(&then.record, &head.record) {
                let today = Arc::new(head.record);
                seen.push(Seen { then, today });
            } else {
                gone.push(then);
            }
        }
        seen.extend(self.find_last(gone).await?);
        Ok(seen)
    }

    /// Finds records by their ids, whether or not they exist today.
    pub(super) async fn find(&self, ids: &[RecordId]) -> Result<Vec<Seen>, ApiError> {
        let heads = self.env.load_heads(ids).await?;
        let here = ids.iter().filter_map(|id| heads.get(id));
        let mut seen = self
            .back_from(here.map(|head| Head::clone(head)).collect())
            .await?;
        let gone = ids.iter().filter(|id| heads.get(id).is_none());
        let gone = self.walk_each(gone).await?;
        let gone = gone.filter_map(Walk::into_head).collect();
        seen.extend(self.find_last(gone).await?);
        Ok(seen)
    }

    async fn walk_each(
        &self,
        ids: impl Iterator<Item = &RecordId>,
    ) -> Result<vec::IntoIter<Walk>, ApiError> {
        let at: Vec<_> = ids.map(|id| (id.clone(), self.position)).collect();
        Ok(Walk::begin_each(self.env, &at).await?.into_iter())
    }

    /// Finds the last states of records that no longer exist.
    async fn find_last(&self, gone: Vec<Head>) -> Result<Vec<Seen>, ApiError> {
        let then: Vec<&Record> = gone.iter().map(|then| &then.record).collect();
        let last = past::last_states_of(self.env, &then, self.position).await?;
        let seen = gone.into_iter().zip(last).map(|(then, last)| {
            let today = Arc::new(last.unwrap_or_else(|| then.record.clone()));
            Seen { then, today }
        });
        Ok(seen.collect())
    }

    /// Finds the records of a page as they are today, or as they were last.
    async fn find_today(
        &self,
        page: &[Arc<Head>],
    ) -> Result<HashMap<RecordId, Arc<Record>>, ApiError> {
        let then: Vec<&Record> = page.iter().map(|head| &head.record).collect();
        let last = past::last_states_of(self.env, &then, self.position).await?;
        let found = then.iter().zip(last);
        let found = found.filter_map(|(then, last)| Some((then.id.clone(), Arc::new(last?))));
        Ok(found.collect())
    }

    /// Whether a type's fields were renamed or deleted since, as far as is known.
    fn is_reshaped(&self, name: &TypeName) -> bool {
        let present = self.env.definition(name);
        let mut types = self.types.iter();
        types.all(|then| then.name != *name || then.reshaped != present.reshaped)
    }

    /// Removes the numbers that a record has got since, because its type got a sequence field: no
    /// event of the record says so.
    fn remove_later_numbers(&self, record: &mut Record) {
        let present = self.env.definition(&record.id.record_type);
        let last = present.numbered.last();
        if last.is_none_or(|last| *last <= self.position) {
            return;
        }
        let mut types = self.types.iter();
        let then = types.find(|then| then.name == record.id.record_type);
        let is_later = |name: &String| {
            let is_number = present.fields.get(name) == Some(&FieldType::Sequence);
            is_number && then.is_some_and(|then| !then.fields.contains_key(name))
        };
        record.fields.retain(|name, _| !is_later(name));
    }

    /// Adds the records that match and that the caller may see. `rows` has the rows that are known.
    async fn add_matches(
        &mut self,
        mut seen: Vec<Seen>,
        rows: &Rows,
        (page, room): (&mut Page<'_>, &mut PageBytes),
    ) -> Result<(), ApiError> {
        let (scope, caller) = (&self.command.scope, &self.command.context.caller);
        seen.retain(|seen| {
            read::is_in(&seen.then.record.database, scope)
                && seen.is_for(|record| read::may_read(caller, scope, record))
        });
        let matches = self.keep_matches(seen).await?;
        for found in self.place(matches, rows).await? {
            room.add(page, found)?;
        }
        Ok(())
    }

    /// Finds the row of each match: from `rows`, otherwise from the log.
    async fn place(&self, matches: Vec<Head>, rows: &Rows) -> Result<Vec<(i64, Head)>, ApiError> {
        let row_of = |record: &Record| rows.get(&(record.id.clone(), record.created_at)).copied();
        let elsewhere = matches.iter().map(|head| &head.record);
        let elsewhere = elsewhere.filter(|record| row_of(record).is_none());
        let elsewhere: Vec<RecordId> = elsewhere.map(|record| record.id.clone()).collect();
        let created = past::last_creations(self.env, &elsewhere, self.position).await?;
        let mut created = created.into_iter();
        let placed = matches.into_iter().map(|head| {
            let row = row_of(&head.record).or_else(|| i64::try_from(created.next()?).ok());
            (row.unwrap_or(i64::MAX), head)
        });
        Ok(placed.collect())
    }

    /// Keeps the records that fulfil the condition, whoever may see them.
    pub(super) async fn keep_matches(&mut self, seen: Vec<Seen>) -> Result<Vec<Head>, ApiError> {
        self.look_up_records(&seen).await?;
        let context = Context {
            user: self.command.context.caller.user.as_ref(),
            lookups: &self.lookups,
        };
        let mut evaluation = Evaluation::new(self.bound.condition.as_ref());
        let mut kept = Vec::new();
        for Seen { then, .. } in seen {
            if evaluation.matches(&then.record, context).await? {
                kept.push(then);
            }
        }
        Ok(kept)
    }

    /// Looks up the targets of a batch's references. They replace those of the batch before.
    async fn look_up_records(&mut self, seen: &[Seen]) -> Result<(), ApiError> {
        let then = seen.iter().map(|seen| &seen.then.record);
        let targets: Vec<RecordId> = self.lookups.targets(then).into_iter().collect();
        let mut found = self.find(&targets).await?;
        found.retain(|seen| seen.is_for(|record| self.viewer().may_look_into(record)));
        let found = found.into_iter().map(|seen| seen.then.record);
        self.lookups.set_records(found);
        Ok(())
    }
}

/// Returns a type and the types that its references name, as they were at a position.
///
/// Also returns the rules that applied then to a caller without the master key. The store must have
/// applied the position.
///
/// # Errors
/// The store or the log cannot be read.
pub(crate) async fn terms_at(
    env: &RecordEnv,
    name: &TypeName,
    position: u64,
) -> Result<(Vec<Arc<TypeDefinition>>, Arc<FieldRules>), ApiError> {
    let types = types_at(env, name, position).await?;
    let names: Vec<&TypeName> = types.iter().map(|it| &it.name).collect();
    let rules = PastRules::load(env, &Caller::default(), &names, position).await?;
    Ok((types, rules.at(position)))
}

/// Folds a type and the types that its references name, as they were at a position.
pub(super) async fn types_at(
    env: &RecordEnv,
    name: &TypeName,
    position: u64,
) -> Result<Vec<Arc<TypeDefinition>>, ApiError> {
    let definition = type_at(env, name, position).await?;
    let targets = definition.fields.values().filter_map(|field| match field {
        FieldType::Reference(target) => Some(target.clone()),
        _ => None,
    });
    // Owners and creators are users.
    let mut targets: BTreeSet<TypeName> = targets.chain([TypeName::user()]).collect();
    targets.remove(name);
    let mut types = vec![Arc::new(definition)];
    for target in targets {
        types.push(Arc::new(type_at(env, &target, position).await?));
    }
    Ok(types)
}

/// Returns a type as it was at a position.
///
/// # Errors
/// The store or the log cannot be read.
pub(super) async fn type_at(
    env: &RecordEnv,
    name: &TypeName,
    position: u64,
) -> Result<TypeDefinition, ApiError> {
    let present = env.definition(name);
    if present.position <= position {
        return Ok(TypeDefinition::clone(&present));
    }
    let stream = Stream::Type(name.clone());
    let since = position + 1..=env.applied.position();
    if !env.streams().may_have(&stream, since).await? {
        return Ok(TypeDefinition::clone(&present));
    }
    let mut definition = TypeDefinition::empty(name.clone());
    for (_, event) in env.streams().read(&stream, 1..=position).await? {
        definition = apply::record_type(&definition, &event);
    }
    Ok(definition)
}

/// Looks up the caller's relations that a condition asks for.
pub(super) async fn look_up_relations(
    env: &RecordEnv,
    command: &QueryRecords,
    condition: Option<&Condition>,
) -> Result<LookedUp, ApiError> {
    let me = command.context.caller.user.as_ref();
    let mut lookups = LookedUp::new(condition, me.cloned());
    let Some(me) = me else { return Ok(lookups) };
    for relation in condition.into_iter().flat_map(Condition::relations) {
        for direction in [Direction::Outward, Direction::Inward] {
            let page = RelatedPage {
                relation,
                direction,
                user: me.clone(),
                limit: None,
                offset: 0,
            };
            let (users, _) = env.store.list_related(&page).await?;
            lookups.add_related((relation, direction), users);
        }
    }
    Ok(lookups)
}
