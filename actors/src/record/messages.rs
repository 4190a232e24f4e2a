//! What record actors are asked, and what they answer.

use async_trait::async_trait;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use skytrail_schema::acl::Acl;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Retention;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{Database, RecordId, RecordKey, RoleName, TypeName, UserId};
use skytrail_schema::predicate::Predicate;
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::types::{FieldType, TypeDefinition};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::history::Restored;
use super::past::Moment;
use crate::context::RequestContext;

/// One well-formed item of a save.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveItem {
    /// The record.
    pub id: RecordId,
    /// What happens to the record's access list.
    pub access: ItemAccess,
    /// The fields that it brings; `Null` clears one.
    pub fields: Fields,
    /// The earlier state that it restores, if any: its access list and, if the record no longer
    /// exists, its owner and creation.
    pub restored: Option<Arc<Restored>>,
}

/// What a save says about a record's access list. A new record without one gets its type's default.
#[derive(Clone, Debug, PartialEq)]
pub enum ItemAccess {
    /// The list becomes this one.
    Brought(Acl),
    /// The client says nothing: as in v1, an existing record gets its type's default, if there is
    /// one.
    Unsaid,
    /// The list stays: the save does not concern access. So do the server's own saves, and those of
    /// clients that say so.
    Kept,
}

impl ItemAccess {
    /// Returns the access list after the save, given the type's `default`.
    pub fn after(&self, stored: Option<&Record>, default: Option<&Acl>) -> Option<Acl> {
        let kept = stored.and_then(|record| record.access.as_ref());
        let access = match self {
            Self::Brought(access) => Some(access),
            Self::Kept if stored.is_some() => kept,
            Self::Kept | Self::Unsaid => default.or(kept),
        };
        access.cloned()
    }
}

/// An item that failed: the error, and the record if its id is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemError {
    /// The record, if the id could be parsed and the answer names it.
    pub id: Option<RecordId>,
    /// What went wrong.
    pub error: ApiError,
}

/// The outcome of each item of a batch, in request order.
pub type ItemResults<T> = Vec<Result<T, ItemError>>;

/// Saves records. Replies when the commit is durable and synchronous after-hooks have answered.
#[derive(Clone, Debug)]
pub struct SaveRecords {
    /// The request's context.
    pub context: RequestContext,
    /// Where new records go, and where existing ones must be.
    pub database: Database,
    /// The items; those that could not be parsed keep their place.
    pub items: ItemResults<SaveItem>,
    /// All or nothing.
    pub is_atomic: bool,
    /// What must be true of each stored record.
    pub precondition: Precondition,
    /// Bounds how many names of users the save can find out; `None` for the server's own saves.
    pub name_limit: Option<Arc<dyn NameLimit>>,
}

/// Bounds how often saves can find out which names are taken: unique values of user records, such as
/// mail addresses that nobody else may see.
#[async_trait]
pub trait NameLimit: fmt::Debug + Send + Sync {
    /// Counts an attempt to give a user another name; waits if only attempts in progress, which may be
    /// given back, leave no room for it.
    ///
    /// # Errors
    /// 429 after too many attempts.
    async fn admit(&self) -> Result<Box<dyn NameAttempt>, ApiError>;
}

/// An attempt to give a user another name.
pub trait NameAttempt: Send {
    /// Gives it back, because it found out nothing: the name was free.
    fn give_back(&mut self);
}

/// What a save requires of each record as it is stored before the save and its hooks.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    Nothing,
    /// The record does not exist.
    Absent,
    /// The record exists and matches; the predicate does not look beyond the record.
    Matches(Predicate),
}

/// Deletes records. Replies as [`SaveRecords`] does.
#[derive(Clone, Debug)]
pub struct DeleteRecords {
    /// The request's context.
    pub context: RequestContext,
    /// Where the records must be.
    pub database: Database,
    /// The records.
    pub ids: Vec<RecordId>,
    /// Who must own the records, if not anybody: others are not found.
    pub owner: Option<UserId>,
    /// All or nothing.
    pub is_atomic: bool,
    /// Whether the caller's roles count, and not those that the user has by now.
    pub has_kept_roles: bool,
}

/// Fetches records by id, as of the last acknowledged write.
#[derive(Clone, Debug)]
pub struct FetchRecords {
    /// The request's context.
    pub context: RequestContext,
    /// Where the records must be.
    pub scope: Scope,
    /// The records.
    pub ids: Vec<RecordId>,
    /// The moment; `None` for now.
    pub as_of: Option<Moment>,
}

/// Queries records; sees everything that was acknowledged before.
#[derive(Clone, Debug)]
pub struct QueryRecords {
    /// The request's context.
    pub context: RequestContext,
    /// Where to look.
    pub scope: Scope,
    /// The query.
    pub query: Query,
    /// The moment; `None` for now.
    pub as_of: Option<Moment>,
}

/// Reads a page of all records of a type, from all databases, whoever may see them.
#[derive(Clone, Debug)]
pub struct ExportRecords {
    /// The request's context.
    pub context: RequestContext,
    /// The type, and the condition.
    pub query: Query,
    /// The moment; `None` for now.
    pub as_of: Option<Moment>,
    /// The key after which the page begins.
    pub after: Option<RecordKey>,
    /// How many records are looked at.
    pub limit: u32,
}

/// A page of records as they were at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportPage {
    /// The records, by key.
    pub records: Vec<Record>,
    /// The position of the moment.
    pub position: u64,
    /// The type as it was; `None` if it did not exist.
    pub definition: Option<Arc<TypeDefinition>>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<RecordKey>,
}

/// A record in an answer, with the values that were eagerly loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The record, without what the caller may not read.
    pub head: Arc<Head>,
    /// What `include` added, by name.
    pub transient: BTreeMap<String, Transient>,
}

/// A value under `_transient`.
#[derive(Clone, Debug, PartialEq)]
pub enum Transient {
    /// A record, or null if it is missing or may not be read. Everything that includes it shares
    /// it.
    Record(Option<Arc<Head>>),
    /// A computed or constant value.
    Value(serde_json::Value),
}

impl Serialize for Transient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Record(head) => {
                let record = head.as_ref().map(|head| &head.record);
                record.serialize(serializer)
            }
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

/// Writes the record, with the included values under `_transient`.
impl Serialize for Found {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(None)?;
        self.head.record.write_members(&mut object)?;
        if !self.transient.is_empty() {
            object.serialize_entry("_transient", &self.transient)?;
        }
        object.end()
    }
}

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryReply {
    /// The page.
    pub records: Vec<Found>,
    /// The number of all matches, if asked for.
    pub count: Option<u64>,
}

/// Changes a type's settings or creates the type. Replies when durable.
#[derive(Clone, Debug)]
pub struct ChangeType {
    /// The request's context.
    pub context: RequestContext,
    /// The type.
    pub name: TypeName,
    /// What to change.
    pub change: TypeChange,
}

/// A change to a type's settings.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeChange {
    /// The access list of records that bring none.
    DefaultAccess(Acl),
    /// Whether the store keeps past states of the type's records, with their intervals.
    Intervals(bool),
    /// How much of the records' past is kept.
    Retention(Retention),
    /// Whether records are personal to their owners, sealed with the owners' keys.
    Personal(bool),
    /// The roles that may create records; with none, every signed-in user may.
    CreationRoles(BTreeSet<RoleName>),
    /// Renames a field; the rules of access to it follow.
    RenameField {
        /// The name until now.
        from: String,
        /// The name from now on.
        to: String,
    },
    /// Deletes a field, with its values.
    DeleteField(String),
    /// Whether the values of these fields are unique together.
    Unique(Vec<String>, bool),
}

/// Creates types and gives them fields, all or nothing. Replies when durable.
#[derive(Clone, Debug)]
pub struct CreateTypes {
    /// The request's context.
    pub context: RequestContext,
    /// The fields that the types shall have, by type.
    pub types: BTreeMap<TypeName, BTreeMap<String, FieldType>>,
}

/// Sets the rules of access to fields, all of them. Replies when durable.
#[derive(Clone, Debug)]
pub struct SetFieldAccess {
    /// The request's context.
    pub context: RequestContext,
    /// The rules.
    pub access: FieldAccess,
}
