//! Deciding: turns drafts into events, with the keys that the decision rests on. Pure.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{
    ChangeStamp, EventBody, NewEvent, RecordPatch, SNAPSHOT_EVERY, Stream,
};
use skytrail_schema::id::{AssetName, RecordId, UserId};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;
use skytrail_schema::width::{check_key, check_row};

use super::apply;
use super::draft::{Draft, taken};
use super::unique_value::{UniqueValue, values_beside};
use crate::log::{ConflictKey, MAX_NUMBER, SequenceRequest};

/// Events and what they rest on, while they are collected.
#[derive(Debug, Default)]
pub struct Plan {
    /// The events.
    pub events: Vec<NewEvent>,
    /// Keys read.
    pub reads: HashSet<ConflictKey>,
    /// Keys written.
    pub writes: HashSet<ConflictKey>,
    /// Sequence fields that need a number.
    pub sequences: Vec<SequenceRequest>,
    /// Records as the plan leaves them; `None` for deleted ones.
    state: HashMap<RecordId, Option<Head>>,
    /// Unique values that the plan itself takes.
    taken: HashMap<UniqueValue, RecordId>,
}

/// What the store knows about other records that a draft depends on.
#[derive(Debug, Default)]
pub struct DecisionInputs {
    /// Referenced records that exist.
    pub existing: HashSet<RecordId>,
    /// Files that are known.
    pub files: HashSet<AssetName>,
    /// Unique values, with the records that have them.
    pub owners: HashMap<UniqueValue, RecordId>,
    /// Whether sequence numbers can be as large as any that a server gives by itself, because a
    /// server gave these before (restores, imports). Numbers that clients ask for have 32 bits.
    pub are_numbers_given: bool,
}

/// Returns the records that a draft newly refers to.
pub fn new_references(draft: &Draft) -> Vec<RecordId> {
    let before = draft.original.as_ref().map(|head| &head.record.fields);
    let is_new =
        |name: &str, value: &Value| before.and_then(|fields| fields.get(name)) != Some(value);
    let referred = |(name, value): (&String, &Value)| match value {
        Value::Reference(id) if is_new(name, value) => Some(id.clone()),
        _ => None,
    };
    draft.record.fields.iter().filter_map(referred).collect()
}

/// Returns the files that a draft newly names.
pub fn new_files(draft: &Draft) -> Vec<AssetName> {
    let named = |(_, value): (&String, &Value)| match value {
        Value::Asset(asset) => Some(asset.name.as_str().into()),
        _ => None,
    };
    new_values(draft).filter_map(named).collect()
}

/// Returns the files that a draft newly names, at any depth.
fn named_files(draft: &Draft) -> Vec<AssetName> {
    let mut names = Vec::new();
    for (_, value) in new_values(draft) {
        value.see_assets(&mut |name| names.push(name.into()));
    }
    names
}

/// Returns the values that the stored record does not have under the same names, with their names.
fn new_values(draft: &Draft) -> impl Iterator<Item = (&String, &Value)> {
    let before = draft.original.as_ref().map(|head| &head.record.fields);
    let is_new = move |(name, value): &(&String, &Value)| {
        before.and_then(|fields| fields.get(name.as_str())) != Some(*value)
    };
    draft.record.fields.iter().filter(is_new)
}

impl Plan {
    /// Decides a save: adds its events, or refuses it and leaves the plan unchanged.
    ///
    /// # Errors
    /// 108 for a fraction in a whole-number field and for more values than a row takes, 109 for a
    /// unique value that another record has, 10000 for a reference to a record that does not exist
    /// or an unknown file.
    pub fn save(
        &mut self,
        draft: &Draft,
        definition: &TypeDefinition,
        inputs: &DecisionInputs,
    ) -> Result<(), ApiError> {
        let id = &draft.record.id;
        check_values(draft, definition, inputs)?;
        let before = draft.original.as_ref().map(|head| &head.record);
        check_row(&draft.record, before, definition)?;
        check_key(&draft.record)?;
        check_files(draft, inputs)?;
        for name in named_files(draft) {
            // An erasure that has already looked up who names the file has to look again. A save
            // that comes after the erasure is decided again, and no longer finds the file. Saves
            // that name the same file do not wait for each other.
            self.writes.insert(ConflictKey::uses_of_file(&name));
            self.reads.insert(ConflictKey::stream(&Stream::Asset(name)));
        }
        let references = new_references(draft);
        self.check_references(&references, inputs)?;
        // With several drafts of one record, a later one can return to the stored values.
        let values = values_beside(draft, self.current(draft), definition);
        self.check_unique(id, &values, definition, inputs)?;

        self.reads.insert(ConflictKey::record(id));
        self.reads
            .insert(ConflictKey::record_type(&definition.name));
        self.writes.insert(ConflictKey::record(id));
        for target in references {
            self.reads.insert(ConflictKey::existence(&target));
            self.writes.insert(ConflictKey::references(&target));
        }
        for (value, _) in values {
            self.reads.insert(value.key());
            self.writes.insert(value.key());
            self.taken.insert(value, id.clone());
        }
        self.give_up_values(draft, definition);
        self.push_save(draft, definition);
        Ok(())
    }

    /// Like [`Plan::save`], but writes the resulting record in full.
    ///
    /// # Errors
    /// Those of [`Plan::save`].
    pub fn save_whole(
        &mut self,
        draft: &Draft,
        definition: &TypeDefinition,
        inputs: &DecisionInputs,
    ) -> Result<(), ApiError> {
        self.save(draft, definition, inputs)?;
        let Some(event) = self.events.last_mut() else {
            return Ok(());
        };
        if let EventBody::RecordChanged(_) | EventBody::RecordReplaced(_) = event.body {
            let mut record = draft.record.clone();
            record.fields.retain(|_, value| !value.is_null());
            event.body = EventBody::RecordReplaced(apply::state_of(&record));
            if let Some(Some(head)) = self.state.get_mut(&draft.record.id) {
                head.record = record;
            }
        }
        Ok(())
    }

    /// Decides a deletion. References to the record must have been looked up at the decision's read
    /// position.
    pub fn delete(
        &mut self,
        head: &Head,
        definition: &TypeDefinition,
        now: Timestamp,
        by: Option<UserId>,
    ) {
        let id = &head.record.id;
        for key in [ConflictKey::record(id), ConflictKey::references(id)] {
            self.reads.insert(key);
        }
        let population = ConflictKey::population(&id.record_type);
        for key in [
            ConflictKey::record(id),
            ConflictKey::existence(id),
            population,
        ] {
            self.writes.insert(key);
        }
        for (value, _) in UniqueValue::of(&head.record, definition) {
            self.writes.insert(value.key());
        }
        self.events.push(NewEvent {
            stream: Stream::Record(id.clone()),
            version: head.version + 1,
            body: EventBody::RecordDeleted(ChangeStamp { at: now, by }),
            provenance: Vec::new(),
            subject: None,
        });
        self.state.insert(id.clone(), None);
    }

    /// Writes a record's present state again in full, so that nothing builds on earlier events.
    pub fn repeat(&mut self, head: &Head, definition: &TypeDefinition) {
        let record = &head.record;
        self.reads
            .insert(ConflictKey::record_type(&definition.name));
        let body = EventBody::RecordReplaced(apply::state_of(record));
        self.push(Stream::Record(record.id.clone()), head.version + 1, body);
        if let Some(event) = self.events.last_mut() {
            event.subject = subject_of(record, definition);
        }
    }

    /// Returns a record as the plan leaves it; `None` if the plan deletes it or does not contain
    /// it.
    pub fn record(&self, id: &RecordId) -> Option<&Record> {
        let head = self.state.get(id)?.as_ref()?;
        Some(&head.record)
    }

    /// Whether a record exists after the plan; `None` if the plan does not contain it.
    pub fn leaves(&self, id: &RecordId) -> Option<bool> {
        self.state.get(id).map(Option::is_some)
    }

    fn check_references(
        &self,
        targets: &[RecordId],
        inputs: &DecisionInputs,
    ) -> Result<(), ApiError> {
        let exists = |id: &RecordId| match self.state.get(id) {
            Some(state) => state.is_some(),
            None => inputs.existing.contains(id),
        };
        match targets.iter().find(|id| !exists(id)) {
            None => Ok(()),
            Some(id) => Err(ApiError::unexpected(format!(
                "the referenced record {id} does not exist"
            ))),
        }
    }

    fn check_unique(
        &self,
        id: &RecordId,
        values: &[(UniqueValue, Vec<&str>)],
        definition: &TypeDefinition,
        inputs: &DecisionInputs,
    ) -> Result<(), ApiError> {
        let has = |owner: &RecordId, value: &UniqueValue| match self.state.get(owner) {
            None => true,
            Some(None) => false,
            Some(Some(head)) => {
                let mut has = UniqueValue::of(&head.record, definition).into_iter();
                has.any(|(other, _)| other == *value)
            }
        };
        let is_free = |(value, _): &(UniqueValue, Vec<&str>)| {
            let owner = self.taken.get(value).or_else(|| inputs.owners.get(value));
            owner.is_none_or(|owner| owner == id || !has(owner, value))
        };
        match values.iter().find(|value| !is_free(value)) {
            None => Ok(()),
            // As v1 answers.
            Some(_) if id.record_type.is_user() => Err(taken()),
            Some((_, fields)) => Err(taken().with_info("arguments", json!(fields))),
        }
    }

    fn give_up_values(&mut self, draft: &Draft, definition: &TypeDefinition) {
        let Some(head) = &draft.original else { return };
        for (value, _) in UniqueValue::of(&head.record, definition) {
            self.writes.insert(value.key());
        }
    }

    /// Returns the record that a draft is saved over: as the plan leaves it, or as it is stored.
    fn current<'a>(&'a self, draft: &'a Draft) -> Option<&'a Head> {
        match self.state.get(&draft.record.id) {
            Some(decided) => decided.as_ref(),
            None => draft.original.as_deref(),
        }
    }

    fn push_save(&mut self, draft: &Draft, definition: &TypeDefinition) {
        let id = &draft.record.id;
        let before = self.current(draft).cloned();
        let (version, body) = match &before {
            None => {
                self.writes.insert(ConflictKey::existence(id));
                self.writes.insert(ConflictKey::population(&id.record_type));
                let mut record = draft.record.clone();
                record.fields.retain(|_, value| !value.is_null());
                (1, EventBody::RecordCreated(apply::state_of(&record)))
            }
            Some(current) => {
                let patch = difference(draft, &current.record);
                (current.version + 1, EventBody::RecordChanged(patch))
            }
        };
        let event = NewEvent {
            stream: Stream::Record(id.clone()),
            version,
            body,
            provenance: draft.provenance.clone(),
            subject: subject_of(&draft.record, definition),
        };
        self.number_sequences(draft, definition);
        // Its position in the log is not known yet.
        let mut head = match apply::body(before.as_ref(), id, &event.body, (version, 0)) {
            apply::Folded::Known(head) => head,
            apply::Folded::Unknown => None,
        };
        // A patch cannot say that the access list is gone.
        let stored_access =
            (draft.original.as_deref()).and_then(|head| head.record.access.as_ref());
        let loses_access = draft.record.access.is_none() && stored_access.is_some();
        if let Some(head) = &mut head
            && loses_access
        {
            head.record.access = None;
        }
        let is_due = version.is_multiple_of(SNAPSHOT_EVERY) && version > 1;
        let event = match &head {
            Some(head) if is_due || loses_access => NewEvent {
                body: EventBody::RecordReplaced(apply::state_of(&head.record)),
                ..event
            },
            _ => event,
        };
        self.state.insert(id.clone(), head);
        self.events.push(event);
    }

    /// Numbers sequence fields: a new record gets a number in every sequence field that it does not
    /// set; a number that is set moves the counter. A later draft of a new record gets other numbers:
    /// those that the first one gets are not known yet.
    fn number_sequences(&mut self, draft: &Draft, definition: &TypeDefinition) {
        let existence = ConflictKey::existence(&draft.record.id);
        let is_stored = !self.writes.contains(&existence);
        let before = draft.original.as_ref().filter(|_| is_stored);
        let before = before.map(|head| &head.record.fields);
        for field in definition.sequence_fields() {
            let value = draft.record.fields.get(field);
            let explicit = match value {
                Some(Value::Number(number)) => Some(whole(*number)),
                _ => None,
            };
            let is_unchanged = before.is_some_and(|fields| fields.get(field) == value);
            let is_missing_on_update = before.is_some() && explicit.is_none();
            if !is_unchanged && !is_missing_on_update {
                self.number(field, explicit);
            }
        }
    }
}

/// Returns the user whose key seals the record's events: its owner, if the type is personal.
fn subject_of(record: &Record, definition: &TypeDefinition) -> Option<UserId> {
    record.owner.clone().filter(|_| definition.is_personal)
}

/// Returns what a draft changes in the fields and the access list of the current record. It cannot
/// say that the access list is gone.
fn difference(draft: &Draft, current: &Record) -> RecordPatch {
    let record = &draft.record;
    let mut patch = RecordPatch {
        updated: ChangeStamp {
            at: record.updated_at,
            by: record.updated_by.clone(),
        },
        ..RecordPatch::default()
    };
    for (name, value) in &record.fields {
        match (value.is_null(), current.fields.get(name)) {
            (true, _) => {
                patch.unset.insert(name.clone());
            }
            (false, Some(current)) if current == value => {}
            (false, _) => {
                patch.set.insert(name.clone(), value.to_wire());
            }
        }
    }
    // An access list that an earlier draft of the record has just set stays if this one does not
    // mention it.
    let stored = draft.original.as_ref().map(|head| &head.record);
    if record.access != stored.and_then(|stored| stored.access.clone()) {
        patch.access.clone_from(&record.access);
    }
    patch
}

/// Refuses values that their fields do not accept. A value that is already stored is not checked.
fn check_values(
    draft: &Draft,
    definition: &TypeDefinition,
    inputs: &DecisionInputs,
) -> Result<(), ApiError> {
    let record = &draft.record;
    for (name, value) in new_values(draft) {
        match (definition.fields.get(name), value) {
            (_, Value::Null) => {}
            (None, _) => {
                return Err(ApiError::unexpected(format!(
                    "type {} has no field {name:?}",
                    definition.name
                )));
            }
            (Some(FieldType::Sequence), Value::Number(number)) if inputs.are_numbers_given => {
                check_whole((record, name), *number, MAX_NUMBER)?;
            }
            (Some(FieldType::Integer | FieldType::Sequence), Value::Number(number)) => {
                check_whole((record, name), *number, i32::MAX.into())?;
            }
            (Some(field), value) => check_type(record, name, field, value)?,
        }
    }
    Ok(())
}

fn check_files(draft: &Draft, inputs: &DecisionInputs) -> Result<(), ApiError> {
    let mut new = new_files(draft).into_iter();
    match new.find(|name| !inputs.files.contains(name)) {
        None => Ok(()),
        Some(name) => Err(ApiError::unexpected(format!(
            "no file named {:?}",
            name.as_str()
        ))),
    }
}

fn check_whole((record, name): (&Record, &str), number: f64, max: i64) -> Result<(), ApiError> {
    if number.fract() != 0.0 {
        let message = format!(
            "failed to save {}: field {name:?} takes whole numbers only",
            record.id
        );
        return Err(ApiError::new(Code::InvalidArgument, message));
    }
    if whole(number).unsigned_abs() > max.unsigned_abs() {
        return Err(ApiError::unexpected(format!(
            "field {name:?} is out of range: it takes numbers up to {max}"
        )));
    }
    Ok(())
}

fn check_type(
    record: &Record,
    name: &str,
    field: &FieldType,
    value: &Value,
) -> Result<(), ApiError> {
    let fits = FieldType::of(value).is_none_or(|derived| field.is_compatible(&derived));
    if fits {
        return Ok(());
    }
    let message = format!(
        "failed to save {}: field {name:?} takes {}",
        record.id,
        field.wire_name()
    );
    Err(ApiError::new(Code::InvalidArgument, message))
}

fn whole(number: f64) -> i64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; numbers are checked to be whole and below 2^53"
    )]
    let whole = number as i64;
    whole
}
