//! Erasing a field of all records of a type.

use std::collections::BTreeSet;

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{RecordId, TypeName};

use super::request::nothing;
use super::{EraseField, Eraser, NamedFiles, Refused};
use crate::context::RequestContext;
use crate::record::past;

/// Erases a field of every record that a type has or had, each like [`EraseField`].
#[derive(Clone, Debug)]
pub struct EraseTypeField {
    /// The caller: the master key, or an administrator.
    pub context: RequestContext,
    /// The type.
    pub record_type: TypeName,
    /// The field.
    pub field: String,
    /// The reason, which is kept in the log.
    pub why: String,
    /// Whether files that nothing else names are removed.
    pub with_files: bool,
}

/// The result of erasing a field of all records.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TypeErased {
    /// How many records had a value.
    pub num_records: u64,
    /// How many events lose their payloads.
    pub num_events: u64,
    /// The files that are removed, and those that stay.
    #[serde(flatten)]
    pub files: NamedFiles,
    /// Records whose field could not be erased, with the reasons.
    pub refused: Vec<Refused>,
    /// Whether it is already done everywhere.
    pub finished: bool,
}

impl Eraser {
    /// Erases a field of all records of a type; returns when it is gone, or when that takes too
    /// long. If it is interrupted, another call continues it.
    ///
    /// # Errors
    /// 110 if no record has or had the field; 111 for a temporal type.
    pub async fn field_of_type(&self, command: EraseTypeField) -> Result<TypeErased, ApiError> {
        let EraseTypeField {
            context,
            record_type,
            field,
            why,
            with_files,
        } = command;
        self.refuse_temporal(&record_type)?;
        let (mut done, mut requested) = (TypeErased::default(), Vec::new());
        for id in self.records_of_type(&record_type).await? {
            let one = EraseField {
                context: context.clone(),
                id: id.clone(),
                field: field.clone(),
                why: why.clone(),
                with_files,
            };
            match self.request_field(&one).await {
                Ok(erased) => requested.push(erased),
                Err(error) if error.code == Code::ResourceNotFound => {}
                Err(error) => done.refused.push(Refused {
                    record: id.to_string(),
                    message: error.message,
                    referred_by: None,
                }),
            }
        }
        if requested.is_empty() && done.refused.is_empty() {
            return Err(nothing(&format!("{field} of {record_type}")));
        }
        done.finished = true;
        for one in requested {
            done.num_records += 1;
            done.num_events += one.num_events;
            let one = self.await_end(one, &context).await?;
            done.finished &= one.finished;
            done.files.add(one.files);
        }
        done.files = done.files.told_to(&context.caller);
        Ok(done)
    }

    /// Lists the records of a type, including deleted ones.
    async fn records_of_type(&self, name: &TypeName) -> Result<BTreeSet<RecordId>, ApiError> {
        const BATCH_SIZE: usize = 1000;
        let head = self.env.log.head();
        self.env.applied.wait_for(head).await?;
        let types = self.env.model.get_types();
        let mut found = BTreeSet::new();
        let Some(definition) = types.iter().find(|it| it.name == *name) else {
            return Ok(found);
        };
        let mut after = 0;
        loop {
            let heads = self
                .env
                .store
                .scan(definition, None, after, BATCH_SIZE)
                .await?;
            let Some((last, _)) = heads.last() else { break };
            after = *last;
            found.extend(heads.into_iter().map(|(_, head)| head.record.id));
        }
        found.extend(past::deleted(&self.env, 1..=head, |it| it == name).await?);
        Ok(found)
    }
}
