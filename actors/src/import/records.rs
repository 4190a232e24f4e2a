//! Files and records.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use skytrail_schema::acl::Acl;
use skytrail_schema::asset::content_type_or_unknown;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{AssetState, ChangeStamp, EventBody, Stream};
use skytrail_schema::id::{AssetName, Database, RecordId, TypeName, UserId};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::value::Value;

use super::{Importer, Outcome, belongs_to_other_user, deleted_here, too_long};
use crate::record::attempt::{Outcome as Attempt, retry_on_conflict};
use crate::record::decide::{DecisionInputs, Plan};
use crate::record::draft::Draft;
use crate::record::env::Heads;
use crate::record::messages::ItemError;
use crate::record::save::{self, Drafts};
use crate::record::{migrate, types};

/// A record that may be given only in part.
#[derive(Clone, Debug)]
pub struct ImportedRecord {
    /// The record.
    pub id: RecordId,
    /// The database that it belongs to.
    pub database: Database,
    /// Its fields; fields that are not named stay as they are, `Null` clears one.
    pub fields: Fields,
    /// Its owner; by default the user on whose behalf the import runs.
    pub owner: Option<UserId>,
    /// Its access list; by default the type's.
    pub access: Option<Option<Acl>>,
    /// When and by whom it was created; by default now, by that user.
    pub created: ChangeStamp,
    /// When and by whom it was changed; likewise.
    pub updated: ChangeStamp,
    /// Which of the owner, creation and last change above were given; for the others, what is here
    /// counts.
    pub is_said: Said,
}

/// What was given of a record in addition to its fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its owner.
    pub owner: bool,
    /// Its creation.
    pub created: bool,
    /// Its last change.
    pub updated: bool,
}

impl ImportedRecord {
    /// Returns the whole record: what was not given is as it is here.
    fn complete(self, head: Option<&Record>, default_access: Option<Acl>) -> Record {
        let mut record = Record {
            id: self.id,
            database: self.database,
            owner: self.owner,
            access: self.access.clone().unwrap_or(default_access),
            created_at: self.created.at,
            created_by: self.created.by,
            updated_at: self.updated.at,
            updated_by: self.updated.by,
            fields: self.fields,
        };
        if let Some(here) = head {
            for (name, value) in &here.fields {
                if !record.fields.contains_key(name) {
                    record.fields.insert(name.clone(), value.clone());
                }
            }
            if self.access.is_none() {
                record.access.clone_from(&here.access);
            }
            if !self.is_said.owner {
                record.owner.clone_from(&here.owner);
            }
            if !self.is_said.created {
                record.created_at = here.created_at;
                record.created_by.clone_from(&here.created_by);
            }
        }
        record.fields.retain(|_, value| !value.is_null());
        if let Some(here) = head.filter(|_| !self.is_said.updated) {
            let (at, by) = (record.updated_at, record.updated_by.clone());
            record.updated_at = here.updated_at;
            record.updated_by.clone_from(&here.updated_by);
            // Adding references that were left out before does not count as a change.
            if !lacks_references(here, &record) {
                record.updated_at = at;
                record.updated_by = by;
            }
        }
        record
    }
}

impl Importer {
    /// Imports records, possibly partial, of any types; types get the fields that are missing.
    ///
    /// # Errors
    /// 114 if a value does not fit its field; the log or the store failed.
    pub async fn partial_records(
        &self,
        mut records: Vec<ImportedRecord>,
        postpones: bool,
    ) -> Result<Vec<Outcome>, ApiError> {
        // Media types are those of the files, as in the records that are here.
        let fields = records.iter_mut().map(|record| &mut record.fields);
        self.env.assets.complete(fields).await?;
        let brought = records.iter().map(|it| (&it.id, &it.fields));
        if self.options.is_dry {
            let definition_of = |name: &TypeName| self.definition(name);
            for (name, extension) in migrate::extensions(brought, definition_of, true)? {
                self.plan_extension(&name, &extension);
            }
        } else {
            types::extend_by(&self.env, brought, &self.context).await?;
        }
        let ids: Vec<RecordId> = records.iter().map(|it| it.id.clone()).collect();
        let heads = self.env.load_heads(&ids).await?;
        let is_held_back = |record: &ImportedRecord| {
            let here = heads.get(&record.id).map(|head| &head.record);
            let is_as_new = here.is_some_and(|here| here.updated_at >= record.updated.at);
            let is_opened =
                here.is_some_and(|here| record.access == Some(None) && here.access.is_some());
            self.options.updates && record.is_said.updated && is_as_new && !is_opened
        };
        let held_back: Vec<bool> = records.iter().map(is_held_back).collect();
        let whole = records.into_iter().map(|record| {
            let head = heads.get(&record.id).map(|head| &head.record);
            let head = head.filter(|here| !belongs_to_other_user(here));
            let default = self
                .definition(&record.id.record_type)
                .default_access
                .clone();
            record.complete(head, default)
        });
        // Of several records with one id the last counts, once those before it are here.
        let mut batches: Vec<Vec<Record>> = vec![Vec::new()];
        let mut seen: HashMap<RecordId, ()> = HashMap::new();
        for record in whole {
            if seen.insert(record.id.clone(), ()).is_some() {
                seen.clear();
                seen.insert(record.id.clone(), ());
                batches.push(Vec::new());
            }
            if let Some(last) = batches.last_mut() {
                last.push(record);
            }
        }
        let mut outcomes = Vec::with_capacity(ids.len());
        for batch in batches {
            outcomes.extend(self.records(batch, postpones).await?);
        }
        for (outcome, is_held_back) in outcomes.iter_mut().zip(held_back) {
            if let (Outcome::Kept(reason), true) = (outcome, is_held_back) {
                reason.push_str("; without _updated_at it would be imported");
            }
        }
        Ok(outcomes)
    }

    /// Imports what is known of files; somebody else sees to their bytes.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn assets(
        &self,
        assets: Vec<(AssetName, AssetState)>,
    ) -> Result<Vec<Outcome>, ApiError> {
        let position = self.read_position().await?;
        let names: Vec<AssetName> = assets.iter().map(|(name, _)| name.clone()).collect();
        let existing = self.env.assets.load(&names).await?;
        let mut plan = Plan::default();
        let assets = assets.into_iter().map(|(name, mut state)| {
            state.content_type = content_type_or_unknown(state.content_type);
            (name, state)
        });
        let mut take = |(name, state): (AssetName, AssetState)| match existing.get(&name) {
            _ if self.env.assets.erasures.has_file(&name) => {
                Outcome::Kept("it was erased here".to_owned())
            }
            Some((_, here)) if *here == state => Outcome::Present,
            Some(_) => Outcome::Kept("a file with this name exists here".to_owned()),
            None => {
                plan.push(Stream::Asset(name), 1, EventBody::AssetRegistered(state));
                Outcome::Added
            }
        };
        let outcomes = assets.map(&mut take).collect();
        self.append(plan, position).await?;
        Ok(outcomes)
    }

    /// Imports records, all of one type.
    ///
    /// With `postpones`, references to records that are not here yet are left out at first. The
    /// same records must then be imported once more, after everything else. That is for types that
    /// refer to each other, or to themselves. Without it, such a record is refused.
    ///
    /// # Errors
    /// The log or the store failed.
    pub async fn records(
        &self,
        mut records: Vec<Record>,
        postpones: bool,
    ) -> Result<Vec<Outcome>, ApiError> {
        self.env
            .assets
            .complete(records.iter_mut().map(|record| &mut record.fields))
            .await?;
        let mut outcomes = Vec::with_capacity(records.len());
        let mut waiting = vec![records];
        while let Some(batch) = waiting.pop() {
            let imported = retry_on_conflict(None, |_| self.batch(&batch, postpones));
            match imported.await {
                Ok(done) => outcomes.extend(done),
                // The batch is too large for one commit.
                Err(error) if error.code == Code::InvalidArgument && batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second.to_vec(), first.to_vec()]);
                }
                Err(error) if error.code == Code::InvalidArgument => {
                    outcomes.push(Outcome::Refused(error.message.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(outcomes)
    }

    async fn batch(
        &self,
        records: &[Record],
        postpones: bool,
    ) -> Result<Attempt<Vec<Outcome>>, ApiError> {
        let position = self.read_position().await?;
        let ids: Vec<RecordId> = records.iter().map(|record| record.id.clone()).collect();
        let heads = self.env.load_heads(&ids).await?;
        let mut drafts: Drafts = Vec::new();
        let mut outcomes = Vec::with_capacity(records.len());
        for record in records {
            let (draft, outcome) = self.draft(record, heads.get(&record.id)).await?;
            // A record without a draft has its outcome already.
            drafts.push(draft.ok_or_else(|| ItemError {
                id: None,
                error: ApiError::unexpected("no draft"),
            }));
            outcomes.push(outcome);
        }
        let inputs = self.load_inputs(&drafts, &heads).await?;
        let mut plan = Plan::default();
        for (slot, outcome) in drafts.iter_mut().zip(&mut outcomes) {
            let Ok(draft) = slot else { continue };
            if postpones && leave_out_missing(draft, &plan, &inputs) {
                *outcome = Outcome::Incomplete(Box::new(outcome.clone()));
            }
            let definition = self.definition(&draft.record.id.record_type);
            let owner = |head: &Arc<Head>| head.record.owner == draft.record.owner;
            let saved = match draft.original.as_ref().is_none_or(owner) {
                true => plan.save(draft, &definition, &inputs),
                // A partial change does not contain the owner.
                false => plan.save_whole(draft, &definition, &inputs),
            };
            if let Err(error) = saved {
                *outcome = Outcome::Refused(error.message.to_string());
            }
        }
        let done = self.try_append(plan, position).await?;
        if let Some(expected) = &mut *self.expected.write() {
            let drafts = drafts.iter().flatten().zip(&outcomes);
            let brought = drafts.filter(|(_, it)| !matches!(it, Outcome::Refused(_)));
            expected.extend(brought.map(|(draft, _)| draft.record.id.clone()));
        }
        Ok(done.map(|()| outcomes))
    }

    /// Decides what becomes of a record; without a draft nothing has to be done.
    async fn draft(
        &self,
        record: &Record,
        head: Option<&Arc<Head>>,
    ) -> Result<(Option<Draft>, Outcome), ApiError> {
        let draft = |outcome| {
            let draft = Draft {
                record: with_cleared(record, head),
                original: head.cloned(),
                provenance: Vec::new(),
                left_out: Default::default(),
            };
            Ok((Some(draft), outcome))
        };
        if let Some(refused) = has_long_id(record) {
            return Ok((None, refused));
        }
        // The type was refused. In a dry run, a type may be missing that would be created.
        if !self.options.is_dry && !self.definition(&record.id.record_type).is_created {
            let reason = "its type does not exist here".to_owned();
            return Ok((None, Outcome::Refused(reason)));
        }
        let Some(head) = head else {
            if self.was_here(&Stream::Record(record.id.clone())).await? {
                return Ok((None, deleted_here()));
            }
            return draft(Outcome::Added);
        };
        let here = &head.record;
        if here.database != record.database {
            let reason = "a record with this id is in another database here".to_owned();
            return Ok((None, Outcome::Refused(reason)));
        }
        if here == record {
            return Ok((None, Outcome::Present));
        }
        if belongs_to_other_user(here) && !belongs_to_other_user(record) {
            return draft(Outcome::Updated);
        }
        if lacks_references(here, record) {
            return draft(Outcome::Present);
        }
        let is_newer = record.updated_at > here.updated_at;
        // A change cannot remove an access list.
        let is_opened = record.access.is_none() && here.access.is_some();
        if self.options.updates && is_newer && !is_opened {
            return draft(Outcome::Updated);
        }
        let reason = match record.updated_at.cmp(&here.updated_at) {
            Ordering::Greater if self.options.updates => {
                "it has an access list here, but none in the source"
            }
            Ordering::Greater => "it was changed later in the source",
            Ordering::Equal => {
                "it differs but is not newer: the record here has the same _updated_at"
            }
            Ordering::Less => "it was changed here",
        };
        Ok((None, Outcome::Kept(reason.to_owned())))
    }

    async fn load_inputs(
        &self,
        drafts: &Drafts,
        heads: &Heads,
    ) -> Result<DecisionInputs, ApiError> {
        let mut inputs = save::load_inputs(&self.env, drafts, heads).await?;
        inputs.are_numbers_given = true;
        if !self.options.is_dry {
            return Ok(inputs);
        }
        // What would have been imported before counts as here.
        if let Some(expected) = &*self.expected.read() {
            inputs.existing.extend(expected.iter().cloned());
        } else {
            for draft in drafts.iter().flatten() {
                for value in draft.record.fields.values() {
                    match value {
                        Value::Reference(id) => drop(inputs.existing.insert(id.clone())),
                        Value::Asset(asset) => {
                            inputs.files.insert(asset.name.as_str().into());
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(inputs)
    }
}

/// Refuses a record that contains an id that is too long.
fn has_long_id(record: &Record) -> Option<Outcome> {
    let private = match &record.database {
        Database::Private(user) => Some(user),
        Database::Public => None,
    };
    let users = [&record.owner, &record.created_by, &record.updated_by];
    let users = users.into_iter().filter_map(Option::as_ref).chain(private);
    let mut refused = users.filter_map(|user| too_long("a user's id", user.as_str()));
    too_long("a record's key", record.id.key.as_str()).or_else(|| refused.next())
}

/// Returns the record with nulls for the fields that only the record here has.
fn with_cleared(record: &Record, head: Option<&Arc<Head>>) -> Record {
    let mut record = record.clone();
    for name in head.iter().flat_map(|head| head.record.fields.keys()) {
        if !record.fields.contains_key(name) {
            record.fields.insert(name.clone(), Value::Null);
        }
    }
    record
}

/// Whether a record here equals the one at the source, except for references that were left out.
fn lacks_references(here: &Record, there: &Record) -> bool {
    let mut completed = here.clone();
    for (name, value) in &there.fields {
        if matches!(value, Value::Reference(_)) && !completed.fields.contains_key(name) {
            completed.fields.insert(name.clone(), value.clone());
        }
    }
    completed == *there
}

/// Removes references to missing records from a draft; returns whether there were any.
fn leave_out_missing(draft: &mut Draft, plan: &Plan, inputs: &DecisionInputs) -> bool {
    let is_there = |id: &RecordId| plan.leaves(id).unwrap_or(inputs.existing.contains(id));
    let before = draft.original.as_ref().map(|head| &head.record.fields);
    // A record can refer to itself once it is here.
    let is_missing = |(name, value): &(&String, &Value)| match value {
        Value::Reference(id) => {
            before.and_then(|fields| fields.get(name.as_str())) != Some(*value) && !is_there(id)
        }
        _ => false,
    };
    let missing = draft.record.fields.iter().filter(is_missing);
    let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
    for name in &missing {
        // The present value is not the one that will follow.
        match before.and_then(|fields| fields.get(name)) {
            Some(_) => draft.record.fields.insert(name.clone(), Value::Null),
            None => draft.record.fields.remove(name),
        };
    }
    !missing.is_empty()
}
