//! The model of saves and deletions.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::model::{
    Entry, Model, NO_ACCESS, NO_CREATION, NO_FIELDS, NO_TARGET, NOT_FOUND, READ_ONLY, REFERRED,
    Rec, Refusal, Scope, TAKEN, USER_STAYS, Use, Viewer, within,
};

/// A record as a request sends it, without the members that the server must ignore.
#[derive(Clone, Debug)]
pub struct Sent {
    pub kind: String,
    pub key: String,
    pub access: Option<Vec<Entry>>,
    pub fields: BTreeMap<String, Json>,
}

/// The expected outcome of one item of a batch.
#[derive(Clone, Debug)]
pub enum Outcome {
    Record(Map<String, Json>),
    Deleted,
    Failed(Refusal),
}

/// A failure of a whole request.
#[derive(Clone, Debug)]
pub enum Whole {
    Refused(Refusal),
    /// Of an atomic one: by id, what is known to be wrong.
    Atomic(BTreeMap<String, Refusal>),
}

pub type Batch = Result<Vec<(String, Outcome)>, Whole>;

impl Model {
    pub fn save(&mut self, viewer: &Viewer, scope: &Scope, sent: &[Sent], atomic: bool) -> Batch {
        let database = writable(scope)?;
        let drafts: Vec<_> = sent
            .iter()
            .map(|item| (item.id(), self.draft(viewer, &database, item, atomic)))
            .collect();
        fail_if_atomic(&drafts, atomic)?;
        let mut after = self.records.clone();
        let write = |(id, draft): (String, Result<Rec, Refusal>)| {
            let written = draft.and_then(|record| write(&mut after, record));
            (id, written)
        };
        let written: Vec<_> = drafts.into_iter().map(write).collect();
        fail_if_atomic(&written, atomic)?;
        self.records = after;
        let outcome = |written: Result<Rec, Refusal>| match written {
            Ok(record) => Outcome::Record(self.shown(viewer, &record)),
            Err(refusal) => Outcome::Failed(refusal),
        };
        Ok(written
            .into_iter()
            .map(|(id, it)| (id, outcome(it)))
            .collect())
    }

    /// Returns the record as the save would leave it, if the caller may do so.
    fn draft(
        &self,
        viewer: &Viewer,
        database: &str,
        sent: &Sent,
        atomic: bool,
    ) -> Result<Rec, Refusal> {
        let me = viewer.user.clone().unwrap();
        let stored = self.record(&sent.kind, &sent.key);
        let stored = stored.filter(|record| record.database == database);
        let settings = self.kind(&sent.kind);
        let may_create = viewer.master
            || settings.creation.is_empty()
            || !settings.creation.is_disjoint(&viewer.roles);
        // Only users themselves create their record.
        let may_create = may_create && (viewer.master || sent.kind != "user" || sent.key == me);
        let mut record = match stored {
            Some(record) if self.may(viewer, true, record) => record.clone(),
            Some(_) => return Err(NO_ACCESS),
            None if !may_create => return Err(NO_CREATION),
            None => sent.blank(database, &me),
        };
        let before = record.clone();
        let mut denied = false;
        for (field, value) in &sent.fields {
            let is_same = before.fields.get(field).unwrap_or(&Json::Null) == value;
            let may_see = self.field(viewer, Use::Read, (&sent.kind, field), Some(&before));
            // Nobody may guess a value that they cannot see.
            if is_same && may_see {
                continue;
            }
            if !self.field(viewer, Use::Write, (&sent.kind, field), Some(&before)) {
                denied = true;
            } else if value.is_null() {
                record.fields.remove(field);
            } else {
                record.fields.insert(field.clone(), value.clone());
            }
        }
        if denied && atomic {
            return Err(NO_FIELDS);
        }
        record.access = sent.access.clone().or(settings.default).or(record.access);
        record.updated_by = me;
        let is_elsewhere = stored.is_none() && self.record(&sent.kind, &sent.key).is_some();
        if is_elsewhere { Err(TAKEN) } else { Ok(record) }
    }

    /// Signs a user up: a record of type `user`, owned by itself.
    pub fn sign_up(
        &mut self,
        is_master: bool,
        id: &str,
        profile: &BTreeMap<String, Json>,
    ) -> Result<Rec, Refusal> {
        let viewer = Viewer {
            master: is_master,
            user: Some(id.to_owned()),
            roles: self.default_roles.clone(),
        };
        let sent = Sent {
            kind: "user".into(),
            key: id.into(),
            access: None,
            fields: profile.clone(),
        };
        let mut record = sent.blank("", id);
        let before = record.clone();
        for (field, value) in profile.iter().filter(|(_, value)| !value.is_null()) {
            if self.field(&viewer, Use::Write, ("user", field), Some(&before)) {
                record.fields.insert(field.clone(), value.clone());
            }
        }
        record.access = self.kind("user").default;
        write(&mut self.records, record)
    }

    pub fn delete(
        &mut self,
        viewer: &Viewer,
        scope: &Scope,
        ids: &[(String, String)],
        atomic: bool,
    ) -> Batch {
        writable(scope)?;
        let mut deletions: Vec<_> = ids
            .iter()
            .map(|id| (named(id), self.deletion(viewer, scope, id)))
            .collect();
        fail_if_atomic(&deletions, atomic)?;
        // In the given order: a record does not block its own deletion, nor do records deleted
        // before it.
        let mut after = self.records.clone();
        for ((target, deletion), id) in &mut deletions.iter_mut().zip(ids) {
            let refers = |record: &Rec| {
                record
                    .fields
                    .get("r")
                    .is_some_and(|it| it["$id"] == *target)
            };
            if deletion.is_err() {
                continue;
            }
            let Some(record) = after.remove(id) else {
                continue;
            };
            if after.values().any(refers) {
                after.insert(id.clone(), record);
                *deletion = Err(REFERRED);
            }
        }
        fail_if_atomic(&deletions, atomic)?;
        self.records = after;
        let outcome = |deletion: Result<(), Refusal>| match deletion {
            Ok(()) => Outcome::Deleted,
            Err(refusal) => Outcome::Failed(refusal),
        };
        Ok(deletions
            .into_iter()
            .map(|(id, it)| (id, outcome(it)))
            .collect())
    }

    fn deletion(
        &self,
        viewer: &Viewer,
        scope: &Scope,
        id: &(String, String),
    ) -> Result<(), Refusal> {
        let record = self.records.get(id).filter(|record| within(scope, record));
        match record {
            _ if id.0 == "user" => Err(USER_STAYS),
            None => Err(NOT_FOUND),
            Some(record) if self.may(viewer, true, record) => Ok(()),
            Some(_) => Err(NO_ACCESS),
        }
    }

    pub fn fetch(&self, viewer: &Viewer, scope: &Scope, id: &(String, String)) -> Outcome {
        let record = self.records.get(id).filter(|record| within(scope, record));
        match record {
            None => Outcome::Failed(NOT_FOUND),
            Some(record) if self.may(viewer, false, record) => {
                Outcome::Record(self.shown(viewer, record))
            }
            Some(_) => Outcome::Failed(NO_ACCESS),
        }
    }
}

impl Sent {
    fn id(&self) -> String {
        format!("{}/{}", self.kind, self.key)
    }

    fn blank(&self, database: &str, me: &str) -> Rec {
        Rec {
            kind: self.kind.clone(),
            key: self.key.clone(),
            database: database.to_owned(),
            owner: me.to_owned(),
            created_by: me.to_owned(),
            updated_by: me.to_owned(),
            access: None,
            fields: BTreeMap::new(),
        }
    }
}

fn named(id: &(String, String)) -> String {
    format!("{}/{}", id.0, id.1)
}

fn writable(scope: &Scope) -> Result<String, Whole> {
    match scope {
        Scope::Public => Ok(String::new()),
        Scope::Private(user) => Ok(user.clone()),
        Scope::Union => Err(Whole::Refused(READ_ONLY)),
    }
}

/// Stores a record. Keys are unique across databases, user names are unique among users, and a
/// reference needs its target.
fn write(records: &mut BTreeMap<(String, String), Rec>, record: Rec) -> Result<Rec, Refusal> {
    let id = (record.kind.clone(), record.key.clone());
    let old = records.get(&id);
    let reference = record.fields.get("r");
    let is_new = reference != old.and_then(|old| old.fields.get("r"));
    if let Some(target) = reference
        .filter(|_| is_new)
        .and_then(|it| it["$id"].as_str())
    {
        let (kind, key) = target.split_once('/').unwrap();
        if !records.contains_key(&(kind.to_owned(), key.to_owned())) {
            return Err(NO_TARGET);
        }
    }
    let name = record.fields.get("username");
    let mut others = records
        .values()
        .filter(|other| other.kind == "user" && other.key != record.key);
    if record.kind == "user"
        && name.is_some()
        && others.any(|other| other.fields.get("username") == name)
    {
        return Err(TAKEN);
    }
    records.insert(id, record.clone());
    Ok(record)
}

fn fail_if_atomic<T>(results: &[(String, Result<T, Refusal>)], atomic: bool) -> Result<(), Whole> {
    let failed = results
        .iter()
        .filter_map(|(id, result)| Some((id.clone(), result.as_ref().err()?.clone())));
    let failed: BTreeMap<_, _> = failed.collect();
    if atomic && !failed.is_empty() {
        Err(Whole::Atomic(failed))
    } else {
        Ok(())
    }
}
