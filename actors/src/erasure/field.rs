//! Erasing one field of a record, and the events that carried it.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{ErasureRequest, ErasureScope, EventBody, Stream};
use skytrail_schema::id::{RecordId, TypeName};
use skytrail_schema::positions::Positions;
use skytrail_schema::record::{Fields, Head};
use skytrail_schema::value::Value;

use super::request::nothing;
use super::{Erased, Eraser};
use crate::context::RequestContext;
use crate::log::ConflictKey;
use crate::record::attempt::{Outcome, retry_in_turn};
use crate::record::decide::Plan;
use crate::record::messages::{ItemAccess, Precondition, SaveItem, SaveRecords};

/// Erases a field of a record: its value and all earlier ones. The events that carried a value lose
/// their whole payload; the record keeps the rest of its present state.
#[derive(Clone, Debug)]
pub struct EraseField {
    /// The caller: the master key, or an administrator.
    pub context: RequestContext,
    /// The record.
    pub id: RecordId,
    /// The field.
    pub field: String,
    /// The reason, which is kept in the log.
    pub why: String,
    /// Whether files that nothing else names are removed.
    pub with_files: bool,
}

impl Eraser {
    /// Erases a field; returns when it is gone, or when that takes too long. If the field has a
    /// value, an ordinary save removes it first.
    ///
    /// # Errors
    /// Those of a save; 110 if there is nothing to erase; 111 for a temporal type; 102 for another
    /// user's private record.
    pub async fn field(&self, command: EraseField) -> Result<Erased, ApiError> {
        let requested = self.request_field(&command).await?;
        let erased = self.await_end(requested, &command.context).await?;
        Ok(erased.told_to(&command.context))
    }

    /// Like [`Eraser::field`], but does not wait for the end.
    pub(super) async fn request_field(&self, command: &EraseField) -> Result<Erased, ApiError> {
        let turn = self.hold_up(&command.id, &command.context);
        retry_in_turn(turn, |_| self.try_request_field(command)).await
    }

    /// Refuses temporal types: what the store keeps of their past cannot be told apart.
    pub(super) fn refuse_temporal(&self, name: &TypeName) -> Result<(), ApiError> {
        if self.env.definition(name).intervals_since.is_none() {
            return Ok(());
        }
        let message = format!(
            "{name} is temporal: turn that off (schema:temporal), erase, then turn it on again"
        );
        Err(ApiError::new(Code::NotSupported, message))
    }

    async fn try_request_field(&self, command: &EraseField) -> Result<Outcome<Erased>, ApiError> {
        let EraseField {
            context,
            id,
            field,
            why,
            with_files,
        } = command;
        let (until, head) = self.load_checked(id, context).await?;
        self.refuse_temporal(&id.record_type)?;
        let has_value = |head: &&Arc<Head>| {
            let value = head.record.fields.get(field);
            value.is_some_and(|value| !value.is_null())
        };
        if let Some(head) = head.as_ref().filter(has_value) {
            let fields = Fields::from_iter([(field.clone(), Value::Null)]);
            let item = SaveItem {
                id: id.clone(),
                access: ItemAccess::Kept,
                fields,
                restored: None,
            };
            self.save(context, item, head.record.database.clone())
                .await?;
            return Ok(Outcome::Conflict);
        }
        let stream = Stream::Record(id.clone());
        let names = self.names_of(&id.record_type, field).await?;
        let carries = |body: &EventBody| match body {
            EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
                names.iter().any(|name| state.fields.contains_key(name))
            }
            EventBody::RecordChanged(patch) => {
                names.iter().any(|name| patch.set.contains_key(name))
            }
            _ => false,
        };
        let found = self.in_stream(&stream, until, |event| carries(&event.body));
        let positions: Positions = found.await?.into_iter().collect();
        if positions.is_empty() {
            return Err(nothing(&format!("{field} of {id}")));
        }
        let mut plan = Plan::default();
        if let Some(head) = &head {
            plan.repeat(head, &self.env.definition(&id.record_type));
        }
        let sought = with_files.then(|| positions.iter().collect());
        let scope = ErasureScope::Field {
            record: stream,
            field: field.clone(),
        };
        let request = ErasureRequest::new(scope, why.clone(), positions);
        let read = (until, vec![ConflictKey::record(id)]);
        self.request((plan, request), sought, read, context).await
    }

    async fn save(
        &self,
        context: &RequestContext,
        item: SaveItem,
        database: skytrail_schema::id::Database,
    ) -> Result<(), ApiError> {
        let (id, field) = (item.id.clone(), item.fields.iter().next());
        let field = field.map(|(name, _)| name.clone()).unwrap_or_default();
        let saved = self.records.save(SaveRecords {
            context: context.clone(),
            database,
            items: vec![Ok(item)],
            is_atomic: false,
            precondition: Precondition::Nothing,
            name_limit: None,
        });
        for result in saved.await? {
            let record = result.map_err(|item| item.error)?;
            if record.fields.get(&field).is_some_and(|it| !it.is_null()) {
                let message = format!("a hook prevents {field} of {id} from being erased");
                return Err(ApiError::new(Code::PermissionDenied, message));
            }
        }
        Ok(())
    }

    /// Returns all names that a field has had, including the present one.
    async fn names_of(&self, name: &TypeName, field: &str) -> Result<BTreeSet<String>, ApiError> {
        let mut names = BTreeSet::from([field.to_owned()]);
        let stream = Stream::Type(name.clone());
        let until = self.env.applied.position();
        let mut back = self.env.streams().back(&stream, until);
        while let Some((_, event)) = back.next().await? {
            if let EventBody::TypeFieldRenamed(change) = &event.body
                && names.contains(&change.to)
            {
                names.insert(change.from.clone());
            }
        }
        Ok(names)
    }
}
