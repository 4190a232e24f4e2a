//! All records of a type as of one moment, of all databases, a page after the other.
//!
//! Pages are made by keys: each has the records between two keys, as they were then. Records that
//! are there today are folded back; those that were deleted since are named by the log, which is
//! asked after the records were read, so that none is missed between the two. Nothing is kept
//! between pages, and who goes on from the last key at the same position has all of one moment.

use std::collections::HashSet;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventKind, Stream};
use skytrail_schema::id::{RecordId, RecordKey, TypeName};
use skytrail_schema::query::Scope;
use skytrail_schema::record::Record;

use super::as_of::{Around, Looking, types_at};
use super::env::RecordEnv;
use super::messages::{ExportPage, ExportRecords, QueryRecords};
use super::past;

/// Makes a page; see the module's overview.
///
/// # Errors
/// Those of a query; 108 for a moment that is not yet; the log cannot be read.
pub(super) async fn page(env: &RecordEnv, command: ExportRecords) -> Result<ExportPage, ApiError> {
    let position = match command.as_of {
        Some(moment) => moment.find(env, "as_of").await?,
        None => {
            let position = env.model.position();
            env.applied.wait_for(position).await?;
            position
        }
    };
    let name = command.query.record_type.clone();
    let types = types_at(env, &name, position).await?;
    let Some(definition) = types.first().filter(|it| it.is_created) else {
        return Ok(ExportPage {
            records: Vec::new(),
            position,
            definition: None,
            next: None,
        });
    };
    let bound = command.query.bind(definition, types.as_slice())?;
    let (after, limit) = (command.after, command.limit);
    let query = QueryRecords {
        context: command.context,
        scope: Scope::Public,
        query: command.query,
        as_of: None,
    };
    let mut looking = Looking {
        env,
        command: &query,
        position,
        types: &types,
        around: Around::load(env, &query, bound.condition.as_ref()).await?,
        bound: &bound,
    };
    let present = env.definition(&name);
    let keys = env.store.list_keys(&present, after.as_ref(), limit).await?;
    let is_last = keys.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    let next = keys.last().cloned().filter(|_| !is_last);
    let heads = env.store.load_heads(&present, &keys).await?;
    let mut seen = looking
        .back_from(heads.into_iter().flatten().collect())
        .await?;
    let known: HashSet<RecordKey> = keys.into_iter().collect();
    let mut gone = Vec::new();
    for key in deleted_since(env, &name, position).await? {
        let is_here = after.as_ref().is_none_or(|after| key > *after)
            && next.as_ref().is_none_or(|next| key <= *next);
        if is_here && !known.contains(&key) {
            gone.push(RecordId {
                record_type: name.clone(),
                key,
            });
        }
    }
    seen.extend(looking.find(&gone).await?);
    let heads = looking.keep_matches(seen).await?;
    let mut records: Vec<Record> = heads.into_iter().map(|head| head.record).collect();
    records.sort_by(|left, right| left.id.key.cmp(&right.id.key));
    Ok(ExportPage {
        records,
        position,
        definition: Some(Arc::clone(definition)),
        next,
    })
}

/// Lists the keys of a type's records that were deleted behind a position.
async fn deleted_since(
    env: &RecordEnv,
    name: &TypeName,
    position: u64,
) -> Result<HashSet<RecordKey>, ApiError> {
    let until = env.applied.position();
    let kind = EventKind::RecordDeleted;
    let positions = env
        .store
        .list_positions_of_kind(kind, position + 1, until)
        .await?;
    let mut keys = HashSet::new();
    for position in positions {
        let (_, event) = past::read(env, position).await?;
        if let Stream::Record(id) = event.stream
            && id.record_type == *name
        {
            keys.insert(id.key);
        }
    }
    Ok(keys)
}
