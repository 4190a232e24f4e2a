//! `record:import`: what a client asks to import.

use skytrail_schema::code::ApiError;

use super::{ImportOptions, ImportedRecord, Importer, Outcome, Planned};
use crate::context::RequestContext;
use crate::record::records::Records;

/// Imports records with the values that are given.
#[derive(Clone, Debug)]
pub struct ImportRecords {
    /// The request's context.
    pub context: RequestContext,
    /// The records.
    pub records: Vec<ImportedRecord>,
    /// How to import them.
    pub options: ImportOptions,
    /// Whether references to records that do not exist yet are left out.
    pub postpones: bool,
    /// What a dry run treats as existing, in addition to what exists.
    pub planned: Planned,
}

impl Records {
    /// Imports records; returns one outcome per record, in request order. No hook runs.
    ///
    /// # Errors
    /// 114 if a value does not fit its field; overload.
    pub async fn import(&self, command: ImportRecords) -> Result<Vec<Outcome>, ApiError> {
        let importer =
            Importer::new(self.env().clone(), command.options).on_behalf(command.context);
        importer
            .planning(command.planned)?
            .partial_records(command.records, command.postpones)
            .await
    }
}
