//! The port through which actions reach the records.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Record;

use crate::import::Outcome;

use super::history::{Change, ListVersions, RestoreRecord, VersionPage};
use super::messages::{
    ChangeType, CreateTypes, DeleteRecords, ExportPage, ExportRecords, FetchRecords, ImportRecords,
    ItemResults, QueryRecords, QueryReply, SaveRecords, SetFieldAccess,
};
use super::past::Moment;
use super::readers::Readers;

/// Saving, deleting and reading records; their types.
#[async_trait]
pub trait RecordService: Send + Sync + 'static {
    /// Saves; one result per item, in request order.
    ///
    /// # Errors
    /// Whatever fails the request as a whole: 114, 115 for an atomic one, overload.
    async fn save(&self, command: SaveRecords) -> Result<ItemResults<Record>, ApiError>;

    /// Deletes; one result per id, in request order.
    ///
    /// # Errors
    /// 115 for an atomic request, overload.
    async fn delete(&self, command: DeleteRecords) -> Result<ItemResults<RecordId>, ApiError>;

    /// Fetches; one result per id, in request order.
    ///
    /// # Errors
    /// The store failed.
    async fn fetch(&self, command: FetchRecords) -> Result<ItemResults<Record>, ApiError>;

    /// Queries.
    ///
    /// # Errors
    /// 120 and 124 for a query that the type's fields or the caller's rights do not allow.
    async fn query(&self, command: QueryRecords) -> Result<QueryReply, ApiError>;

    /// Reads a page of all records of a type.
    ///
    /// # Errors
    /// As [`RecordService::query`].
    async fn export(&self, command: ExportRecords) -> Result<ExportPage, ApiError>;

    /// Takes records over; one outcome per record, in request order. No hook is asked or told.
    ///
    /// # Errors
    /// 114 when a value does not fit its field; overload.
    async fn import(&self, command: ImportRecords) -> Result<Vec<Outcome>, ApiError>;

    /// Lists the versions of a record.
    ///
    /// # Errors
    /// 110 for a record that never was, 102 for a history that the caller may not see.
    async fn history(&self, command: ListVersions) -> Result<VersionPage, ApiError>;

    /// Says what the event at a position changed of a record, whoever may see it.
    ///
    /// # Errors
    /// 108 for a position where nothing happened to the record.
    async fn changes_at(
        &self,
        id: &RecordId,
        position: u64,
    ) -> Result<BTreeMap<String, Change>, ApiError>;

    /// Finds out who could read a record at a moment.
    ///
    /// # Errors
    /// 108 for a moment that is not yet.
    async fn readers(&self, id: &RecordId, at: Moment) -> Result<Readers, ApiError>;

    /// Brings a record back to what it was.
    ///
    /// # Errors
    /// As [`RecordService::history`], and whatever a save of it says; 110 when it was not there then.
    async fn restore(&self, command: RestoreRecord) -> Result<Record, ApiError>;

    /// Changes a type's settings or one of its fields.
    ///
    /// # Errors
    /// 110 for a field that is not there, or whose new name is taken; overload.
    async fn change_type(&self, command: ChangeType) -> Result<(), ApiError>;

    /// Makes types and gives them fields.
    ///
    /// # Errors
    /// 114 for a field that is there with another type, or that refers to a missing type.
    async fn create_types(&self, command: CreateTypes) -> Result<(), ApiError>;

    /// Returns all types with their fields, as clients and plugins see them.
    fn schema(&self) -> Json;

    /// Sets the rules of access to fields.
    ///
    /// # Errors
    /// Overload.
    async fn set_field_access(&self, command: SetFieldAccess) -> Result<(), ApiError>;

    /// Returns the rules of access to fields.
    fn field_access(&self) -> FieldAccess;
}
