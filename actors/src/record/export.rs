//! All records of a type as of one moment, from all databases, page by page.
//!
//! Pages are made by keys: each has the records between two keys, as they were then. Records that
//! exist today are folded back. Those that were deleted since are named by the log. The log is
//! asked after the keys were listed, so that no record is missed in between. A page that reaches
//! the maximum bytes of an answer ends early. Nothing is kept between pages: a caller that
//! continues from the last key at the same position gets all records of one moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use skytrail_schema::code::ApiError;
use skytrail_schema::id::{RecordId, RecordKey};
use skytrail_schema::query::Scope;
use skytrail_schema::record::{Head, Record};

use super::as_of::{Looking, look_up_relations, types_at};
use super::env::RecordEnv;
use super::messages::{ExportPage, ExportRecords, QueryRecords};
use super::page_bytes::{BatchSize, PageBytes};
use super::past;

/// Builds a page; see the module's overview.
///
/// # Errors
/// Those of a query; 108 for a moment in the future; the log cannot be read.
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
        lookups: look_up_relations(env, &query, bound.condition.as_ref()).await?,
        bound: &bound,
    };
    let present = env.definition(&name);
    let keys = env.store.list_keys(&present, after.as_ref(), limit).await?;
    let is_last = keys.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    let mut next = keys.last().cloned().filter(|_| !is_last);
    let mut keys: BTreeSet<RecordKey> = keys.into_iter().collect();
    let since = position + 1..=env.applied.position();
    let gone = past::deleted(env, since, |it| *it == name).await?;
    keys.extend(gone.into_iter().map(|id| id.key).filter(|key| {
        after.as_ref().is_none_or(|after| key > after)
            && next.as_ref().is_none_or(|next| key <= next)
    }));
    let keys: Vec<RecordKey> = keys.into_iter().collect();
    let mut remaining = keys.as_slice();
    let mut batch_size = BatchSize::at_most(512);
    let mut room = PageBytes::new(env.max_page_bytes, "limit");
    let mut records: Vec<Record> = Vec::new();
    'page: while !remaining.is_empty() {
        let some;
        (some, remaining) = remaining.split_at(batch_size.size().min(remaining.len()));
        let heads = env.store.load_heads(&present, some).await?;
        let absent = some.iter().zip(&heads).filter(|(_, head)| head.is_none());
        let absent = absent.map(|(key, _)| RecordId::new(name.clone(), key.clone()));
        let absent: Vec<RecordId> = absent.collect();
        let here = heads.into_iter().flatten().collect();
        let mut seen = looking.back_from(here).await?;
        seen.extend(looking.find(&absent).await?);
        batch_size.adapt_to(seen.iter().map(|seen| &seen.then.record));
        let mut kept = looking.keep_matches(seen).await?;
        kept.sort_by(|left, right| left.record.id.key.cmp(&right.record.id.key));
        for Head { record, .. } in kept {
            // The first record always has room, so that a caller that continues makes progress.
            if room.take(&record).is_err()
                && let Some(last) = records.last()
            {
                next = Some(last.id.key.clone());
                break 'page;
            }
            records.push(record);
        }
    }
    Ok(ExportPage {
        records,
        position,
        definition: Some(Arc::clone(definition)),
        next,
    })
}
