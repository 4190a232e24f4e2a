//! Saving records, step by step:
//!
//! 1. extend the types by what the records bring (in a commit of its own, as v1 does it outside of
//!    any transaction),
//! 2. read the stored records at a known position and make drafts: access, merge, default access,
//!    and what the save requires of the records that it replaces,
//! 3. run the before-save hooks, with no lock held; then make the drafts of those records that the
//!    request names again, on what has become of their earlier copies, and so on,
//! 4. decide the events and what they rest on,
//! 5. append; on a conflict go back to 1,
//! 6. wait for the answers of synchronous after-save hooks: these are called from the log, see
//!    [`crate::delivery::consumers`].
//!
//! A record that fails in a step is left out of later ones. The others go on, unless the save is
//! atomic.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::join_all;
use skytrail_schema::caller::Caller;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Event, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::types::TypeDefinition;
use tokio::sync::Mutex;

use super::apply::heads_after;
use super::attempt::{Outcome, commit_announced, retry_in_turn};
use super::before::{self, Decided};
use super::decide::{self, DecisionInputs, Plan};
use super::draft::{self, Draft, DraftContext};
use super::env::{Heads, RecordEnv, Rights};
use super::messages::{ItemError, ItemResults, NameLimit, Precondition, SaveItem, SaveRecords};
use super::page_bytes::PageBytes;
use super::turns::Turns;
use super::types;
use super::unique_value::{UniqueValue, new_unique_values};
use crate::context::Cause;
use crate::delivery::consumers::CommitAnswers;
use crate::log::ConflictKey;

mod precondition;
mod refusals;

use refusals::{
    check_answer, fail_whole_if_atomic, new_user, refuse_erased, refuse_erased_past,
    refuse_malformed_atomic, spread_failures,
};
pub(super) use refusals::{fail_whole, failed};

/// For each item: a draft, or why there is none.
pub(crate) type Drafts = Vec<Result<Draft, ItemError>>;

/// One item of a request, or why there is none.
type SaveSlot = Result<SaveItem, ItemError>;

/// Returns what a record is saved on.
type Base<'a> = dyn Fn(&RecordId) -> Option<Arc<Head>> + 'a;

/// The context of one save, the same in every attempt.
struct Saving<'a> {
    env: &'a RecordEnv,
    command: &'a SaveRecords,
    /// The cause of whatever the save's hooks store.
    cause: Cause,
    /// What the hooks decided in an attempt that was overtaken. If only their own writes overtook
    /// it, the next attempt takes the decision over instead of running them again.
    decided: Mutex<Option<Decided<Drafts>>>,
}

/// Saves records; see the module's overview.
///
/// # Errors
/// Whatever fails the request as a whole.
pub async fn save(
    env: &RecordEnv,
    turns: &Turns,
    mut command: SaveRecords,
) -> Result<ItemResults<Record>, ApiError> {
    refuse_malformed_atomic(&command)?;
    let brought = command.items.iter_mut().flatten();
    env.assets
        .complete(brought.map(|item| &mut item.fields))
        .await?;
    let saving = Saving {
        env,
        command: &command,
        cause: Cause::begin(),
        decided: Mutex::new(None),
    };
    let ids = command.items.iter().flatten().map(|item| &item.id);
    let turn = turns.take(&command.context, ids);
    let saved = retry_in_turn(turn, |_| attempt(&saving)).await?;
    let env = env.for_caller(&command.context.caller);
    Ok(finish_save(&env, saved).await)
}

/// The outcome of a save, before after-hooks.
struct Saved {
    /// For each item: the record as stored.
    results: ItemResults<Arc<Head>>,
    /// The answers of the after-hooks.
    commit_answers: CommitAnswers,
    /// The caller, with the rights that the save was decided with.
    caller: Caller,
}

async fn attempt(saving: &Saving<'_>) -> Result<Outcome<Saved>, ApiError> {
    let Saving { env, command, .. } = saving;
    let items = command.items.iter().flatten();
    let ids: Vec<RecordId> = items.clone().map(|item| item.id.clone()).collect();
    let request = command.context.request.id();
    env.fences.records.pass(&ids, Some(request)).await;
    // In every attempt: a field may have been renamed since the last one.
    let brought = items.map(|item| (&item.id, &item.fields));
    types::extend_by(env, brought, &command.context).await?;
    let names: BTreeSet<&TypeName> = ids.iter().map(|id| &id.record_type).collect();
    let types: Vec<_> = names.into_iter().map(|name| env.definition(name)).collect();
    let heads = load_heads(env, &ids).await?;
    let rights = env.rights_of(&command.context.caller).await?;
    let decided = saving.take_decided(&ids, heads.position).await;
    let (decided, decided_at) = match decided {
        Some(Decided { what, position }) => (Some(what), position),
        None => (None, heads.position),
    };
    let base = (&heads, types.as_slice());
    let Some(mut drafts) = draft_all(saving, base, &rights, decided).await? else {
        return Ok(Outcome::Conflict);
    };
    let heads = if before::are_hooked(env, &drafts) {
        read_again(env, (&ids, &types, &rights), heads).await?
    } else {
        heads
    };
    refuse_erased_past(env, command, &mut drafts).await;
    let mut inputs = load_inputs(env, &drafts, &heads).await?;
    inputs.are_numbers_given = command
        .items
        .iter()
        .flatten()
        .any(|item| item.restored.is_some());
    let mut plan = Plan::default();
    plan.reads.extend(rights.keys());
    let new_users = drafts.iter().flatten().filter_map(new_user);
    let new_users = new_users.map(|user| ConflictKey::stream(&Stream::User(user)));
    plan.reads.extend(new_users);
    if command.precondition != Precondition::Nothing {
        // Those that were refused, too: the answer is then true at the position of the commit.
        plan.reads.extend(ids.iter().map(ConflictKey::record));
    }
    decide_all(env, command, &mut drafts, (&mut plan, &inputs)).await?;
    if drafts.iter().any(Result::is_err) && have_been_reshaped(env, &types) {
        // Records with the old fields were checked against the new ones.
        return Ok(Outcome::Conflict);
    }
    fail_whole_if_atomic(command, &drafts)?;
    check_answer(env, &drafts, &plan)?;
    let decided = Decided {
        what: drafts.clone(),
        position: decided_at,
    };
    let outcome = commit_plan(env, command, (drafts, rights.caller), plan, &heads).await?;
    if matches!(outcome, Outcome::Conflict) {
        *saving.decided.lock().await = Some(decided);
    }
    Ok(outcome)
}

/// Makes all drafts and lets the hooks change or refuse them, or applies what the hooks have
/// `decided` already. Returns `None` if a field was renamed or deleted meanwhile.
///
/// A record that the request names again is saved on top of its earlier copy, as a request of its
/// own would save it after that one: access, `if` and hooks are about what the earlier copy has
/// become. If that was refused, it does not count.
async fn draft_all(
    saving: &Saving<'_>,
    (heads, types): (&Heads, &[Arc<TypeDefinition>]),
    rights: &Rights,
    decided: Option<Drafts>,
) -> Result<Option<Drafts>, ApiError> {
    let Saving { env, command, .. } = saving;
    // Only the save's own hooks have written since the records were checked: that was before hooks.
    let required = match &decided {
        Some(_) => &Precondition::Nothing,
        None => &command.precondition,
    };
    let required = precondition::Bound::new(env, (required, command), rights);
    let repeated = find_repeated(&command.items);
    let mut earlier = HashMap::new();
    let mut room = room(env);
    let mut decided = decided.map(Vec::into_iter);
    let mut all = Drafts::with_capacity(command.items.len());
    for items in split_at_repeats(&command.items) {
        let base = |id: &RecordId| earlier.get(id).or_else(|| heads.get(id)).cloned();
        let mut drafts = make_drafts(env, (command, items), (&base, &required), rights);
        required
            .check(&rights.caller, &command.database, &mut drafts)
            .await;
        refuse_erased(env, &mut drafts).await?;
        if drafts.iter().any(Result::is_err) && have_been_reshaped(env, types) {
            // Records with the old fields were checked against a predicate with the new ones.
            return Ok(None);
        }
        fail_whole_if_atomic(command, &drafts)?;
        match &mut decided {
            Some(decided) => rebase(decided, &mut drafts),
            None => before::run(env, command, &mut drafts, &saving.cause).await?,
        }
        fail_whole_if_atomic(command, &drafts)?;
        for draft in drafts.iter().flatten() {
            if repeated.contains(&draft.record.id) {
                let head = draft.outcome();
                room.take(&head.record)?;
                earlier.insert(draft.record.id.clone(), Arc::new(head));
            }
        }
        all.append(&mut drafts);
    }
    Ok(Some(all))
}

/// Decides the drafts, in order.
///
/// # Errors
/// Those of the limit of names.
async fn decide_all(
    env: &RecordEnv,
    command: &SaveRecords,
    drafts: &mut Drafts,
    (plan, inputs): (&mut Plan, &DecisionInputs),
) -> Result<(), ApiError> {
    // Whatever was built on a refused draft is refused with it.
    let mut refused: HashMap<RecordId, ApiError> = HashMap::new();
    for slot in drafts {
        let Ok(draft) = slot else { continue };
        if let Some(error) = refused.get(&draft.record.id) {
            *slot = Err(failed(&draft.record.id, error.clone()));
            continue;
        }
        let definition = env.definition(&draft.record.id.record_type);
        // Refuses the whole save, with a status that clients know: they try it again later.
        let mut attempt = match name_limit(command, draft, &definition) {
            Some(limit) => Some(limit.admit().await?),
            None => None,
        };
        let saved = plan.save(draft, &definition, inputs);
        let is_taken = matches!(&saved, Err(error) if error.code == Code::Duplicated);
        if let Some(attempt) = attempt.as_mut().filter(|_| !is_taken) {
            attempt.give_back();
        }
        if let Err(error) = saved {
            let id = draft.record.id.clone();
            *slot = Err(failed(&id, error.clone()));
            refused.insert(id, error);
        }
    }
    Ok(())
}

/// Splits a request so that no part names a record twice.
fn split_at_repeats(items: &[SaveSlot]) -> Vec<&[SaveSlot]> {
    let mut parts = Vec::new();
    let mut remaining = items;
    while !remaining.is_empty() {
        let mut seen = HashSet::new();
        let ids = remaining.iter().map(|slot| slot.as_ref().ok());
        let ids = ids.map(|item| item.map(|item| &item.id));
        let new = ids.take_while(|id| id.is_none_or(|id| seen.insert(id)));
        let length = new.count();
        let (part, others) = remaining.split_at(length);
        parts.push(part);
        remaining = others;
    }
    parts
}

/// Finds the records that a request names more than once.
fn find_repeated(items: &[SaveSlot]) -> HashSet<&RecordId> {
    let mut seen = HashSet::new();
    let ids = items.iter().flatten().map(|item| &item.id);
    ids.filter(|id| !seen.insert(*id)).collect()
}

impl Saving<'_> {
    /// Takes what the hooks decided in the last attempt, if that still counts.
    async fn take_decided(&self, ids: &[RecordId], position: u64) -> Option<Decided<Drafts>> {
        let decided = self.decided.lock().await.take()?;
        let own = (&self.command.context, &self.cause);
        decided.if_it_counts(self.env, own, ids, position).await
    }
}

/// Returns the limit that applies to a draft: only if it gives a user another name.
fn name_limit<'a>(
    command: &'a SaveRecords,
    draft: &Draft,
    definition: &TypeDefinition,
) -> Option<&'a dyn NameLimit> {
    let limit = command.name_limit.as_deref()?;
    let is_named = definition.name.is_user() && !new_unique_values(draft, definition).is_empty();
    is_named.then_some(limit)
}

/// Loads the records to be saved. Each copy of a record has its own draft and answer, so a short
/// request could ask for any number of bytes.
async fn load_heads(env: &RecordEnv, ids: &[RecordId]) -> Result<Heads, ApiError> {
    env.load_heads_within(ids, room(env)).await
}

fn room(env: &RecordEnv) -> PageBytes {
    PageBytes::new(env.max_page_bytes, "records")
}

/// Reads the records once more, after their hooks.
///
/// If the records, their types and the caller's rights are still as the hooks saw them, the save
/// can rest on the present position: a hook may have created what the save names, in a request of
/// its own that cannot be told from others.
async fn read_again(
    env: &RecordEnv,
    (ids, types, rights): (&[RecordId], &[Arc<TypeDefinition>], &Rights),
    before: Heads,
) -> Result<Heads, ApiError> {
    if env.model.position() == before.position {
        return Ok(before);
    }
    let now = load_heads(env, ids).await?;
    let position_of = |heads: &Heads, id| heads.get(id).map(|head| head.position);
    let mut ids = ids.iter();
    let mut types = types.iter();
    let are_same = ids.all(|id| position_of(&before, id) == position_of(&now, id))
        && types.all(|definition| env.definition(&definition.name) == *definition)
        && env.rights_of(&rights.caller).await? == *rights;
    Ok(if are_same { now } else { before })
}

/// Whether a field of one of the types has been renamed or deleted meanwhile.
fn have_been_reshaped(env: &RecordEnv, types: &[Arc<TypeDefinition>]) -> bool {
    let mut types = types.iter();
    types.any(|before| env.definition(&before.name).reshaped != before.reshaped)
}

/// Applies what was decided to the records as they are now, to as many as there are.
fn rebase(decided: &mut std::vec::IntoIter<Result<Draft, ItemError>>, drafts: &mut Drafts) {
    // In this order, so that what is decided about others is left for them.
    for (slot, decided) in drafts.iter_mut().zip(decided) {
        match (decided, slot) {
            (Ok(decided), Ok(draft)) => draft.take_over(decided),
            (Err(failed), slot) => *slot = Err(failed),
            (Ok(_), Err(_)) => {}
        }
    }
}

/// Commits what is left of the plan and reads the outcome from the commit.
async fn commit_plan(
    env: &RecordEnv,
    command: &SaveRecords,
    (drafts, caller): (Drafts, Caller),
    plan: Plan,
    heads: &Heads,
) -> Result<Outcome<Saved>, ApiError> {
    let (commit, commit_answers) = if plan.events.is_empty() {
        (None, CommitAnswers::default())
    } else {
        let ids = drafts.iter().flatten().map(|draft| &draft.record.id);
        let originals = ids.filter_map(|id| Some((id.clone(), Arc::clone(heads.get(id)?))));
        let originals = originals.collect();
        let (plan, context) = ((plan, heads.position), &command.context);
        match commit_announced(env, plan, originals, (context, context)).await? {
            Outcome::Done((commit, commit_answers)) => (Some(commit), commit_answers),
            Outcome::Conflict => return Ok(Outcome::Conflict),
        }
    };
    let events = commit.iter().flat_map(|commit| &commit.events);
    let mut results = results_of(drafts, heads, events);
    if command.precondition == Precondition::Nothing {
        spread_failures(&mut results);
    }
    Ok(Outcome::Done(Saved {
        results,
        commit_answers,
        caller,
    }))
}

/// Returns the record of every slot as the events leave it: one head for all slots of a record.
fn results_of<'a>(
    drafts: Drafts,
    stored: &Heads,
    events: impl Iterator<Item = &'a Event>,
) -> ItemResults<Arc<Head>> {
    let ids = drafts.iter().flatten().map(|draft| &draft.record.id);
    let stored = ids.map(|id| (id.clone(), stored.get(id).cloned()));
    let heads = heads_after(stored.collect(), events);
    let result_of = |slot: Result<Draft, ItemError>| {
        let id = slot?.record.id;
        heads.get(&id).cloned().ok_or_else(|| {
            let message = format!("failed to fetch record id = {id}");
            failed(&id, ApiError::unexpected(message))
        })
    };
    drafts.into_iter().map(result_of).collect()
}

/// Makes the drafts of some items.
fn make_drafts(
    env: &RecordEnv,
    (command, items): (&SaveRecords, &[SaveSlot]),
    (base, required): (&Base<'_>, &precondition::Bound),
    Rights { caller, rules }: &Rights,
) -> Drafts {
    let now = env.clock.now();
    let make = |slot: &SaveSlot| {
        let item = slot.as_ref().map_err(Clone::clone)?;
        let definition = env.definition(&item.id.record_type);
        let at = DraftContext {
            caller,
            database: &command.database,
            definition: &definition,
            now,
        };
        let stored = base(&item.id);
        let is_here = |head: &Arc<Head>| head.record.database == command.database;
        let original = required
            .original(&item.id.record_type, stored.clone().filter(is_here))
            .map_err(|error| failed(&item.id, error))?;
        // Checked last, so that a caller who may not create records learns nothing about other
        // databases.
        let refuse_elsewhere = |draft: Draft| match &stored {
            Some(_) if draft.original.is_none() => Err(required.refuse_existing()),
            _ => Ok(draft),
        };
        draft::make(item, original, at)
            .and_then(|draft| draft::guard_fields((draft, item), rules, at, command.is_atomic))
            .and_then(refuse_elsewhere)
            .map_err(|error| failed(&item.id, error))
    };
    items.iter().map(make).collect()
}

/// Looks up what the drafts depend on in addition to themselves.
pub(crate) async fn load_inputs(
    env: &RecordEnv,
    drafts: &Drafts,
    heads: &Heads,
) -> Result<DecisionInputs, ApiError> {
    let mut inputs = DecisionInputs::default();
    let targets: Vec<_> = drafts
        .iter()
        .flatten()
        .flat_map(decide::new_references)
        .collect();
    if !targets.is_empty() {
        inputs.existing = env.find_existing(&targets).await?;
    }
    let files: Vec<_> = drafts
        .iter()
        .flatten()
        .flat_map(decide::new_files)
        .collect();
    inputs.files = env.assets.load(&files).await?.into_keys().collect();
    for draft in drafts.iter().flatten() {
        let definition = env.definition(&draft.record.id.record_type);
        for (value, fields) in new_unique_values(draft, &definition) {
            env.applied.wait_for(heads.position).await?;
            let pairs = fields
                .iter()
                .filter_map(|field| Some((*field, UniqueValue::part(&draft.record, field)?)));
            let pairs: Vec<_> = pairs.collect();
            let pairs: Vec<_> = pairs.iter().map(|(field, value)| (*field, value)).collect();
            if let Some(key) = env.store.find_by_fields(&definition, &pairs).await? {
                let owner = RecordId {
                    record_type: definition.name.clone(),
                    key,
                };
                inputs.owners.insert(value, owner);
            }
        }
    }
    Ok(inputs)
}

/// Waits for the answers of synchronous after-hooks, for all records concurrently.
async fn finish_save(env: &RecordEnv, mut saved: Saved) -> ItemResults<Record> {
    let rules = env.model.get_field_rules();
    let results = saved.results.into_iter().map(|result| {
        let answered = result.as_ref().ok().map(|head| {
            let event_answers = saved.commit_answers.take(&head.record.id);
            event_answers.all_ok(&env.applied, head.position)
        });
        (result, answered)
    });
    let answers = results.map(|(result, answered)| async {
        let head = result?;
        if let Some(answered) = answered {
            answered
                .await
                .map_err(|error| failed(&head.record.id, error))?;
        }
        let mut record = head.record.clone();
        rules.hide_unreadable(&saved.caller, &mut record);
        env.assets.sign(&mut record);
        Ok(record)
    });
    join_all(answers.collect::<Vec<_>>()).await
}

#[cfg(test)]
mod tests;
