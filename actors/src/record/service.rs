//! The port through which actions reach the records.

use std::sync::Arc;

use async_trait::async_trait;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;
use skytrail_schema::record::Record;
use skytrail_schema::types::TypeDefinition;

use super::messages::{
    ChangeType, DeleteRecords, FetchRecords, ItemResults, QueryRecords, QueryReply, SaveRecords,
};

/// Saving, deleting and reading records.
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

    /// Changes a type's settings.
    ///
    /// # Errors
    /// Overload.
    async fn change_type(&self, command: ChangeType) -> Result<(), ApiError>;

    /// Returns all record types.
    fn definitions(&self) -> Vec<Arc<TypeDefinition>>;
}
