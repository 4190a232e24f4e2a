//! `erase:record`, `erase:event`, `erase:field`, `erase:user`, `erase:list`; `log:compact`

use serde::Serialize;
use serde_json::json;
use skytrail_actors::erasure::{EraseEvent, EraseField, EraseRecord, EraseTypeField, EraseUser};
use skytrail_actors::log::{Erasure, Erasures};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{Actor, ErasureScope, RefusedRecord, Stream};
use skytrail_schema::id::AssetName;
use skytrail_schema::time::Timestamp;

use super::audit::{find_user, user_id};
use super::{Call, Outcome, Reply, request};

/// How many erasures are listed by default, and at most.
const LISTED: (u64, u64) = (50, 1000);
/// How long a reason can be.
const MAX_WHY: usize = 1000;

pub(super) async fn record(call: Call) -> Outcome {
    let raw = required(&call, "record")?;
    let command = EraseRecord {
        id: request::record_id(&raw, "record")?,
        why: why(&call)?,
        with_files: request::with_files(&call.body)?,
        context: call.context,
    };
    Reply::new(&call.services.eraser.record(command).await?)
}

pub(super) async fn event(call: Call) -> Outcome {
    let position = request::whole_number(&call.body, "position")?;
    let missing = || request::missing(&["position"]);
    let command = EraseEvent {
        position: position.ok_or_else(missing)?,
        why: why(&call)?,
        with_files: request::with_files(&call.body)?,
        context: call.context,
    };
    Reply::new(&call.services.eraser.event(command).await?)
}

pub(super) async fn field(call: Call) -> Outcome {
    let record_type = request::text(&call.body, "type")?;
    if record_type.is_some() && request::member(&call.body, "record").is_some() {
        // A type's field is erased from all its records, and for good.
        let message = "expected either record or type";
        return Err(ApiError::invalid_argument(message, &["record", "type"]));
    }
    if let Some(name) = record_type {
        let command = EraseTypeField {
            record_type: name.into(),
            field: required(&call, "field")?,
            why: why(&call)?,
            with_files: request::with_files(&call.body)?,
            context: call.context,
        };
        return Reply::new(&call.services.eraser.field_of_type(command).await?);
    }
    let raw = required(&call, "record")?;
    let command = EraseField {
        id: request::record_id(&raw, "record")?,
        field: required(&call, "field")?,
        why: why(&call)?,
        with_files: request::with_files(&call.body)?,
        context: call.context,
    };
    Reply::new(&call.services.eraser.field(command).await?)
}

pub(super) async fn user(call: Call) -> Outcome {
    let text = required(&call, "user")?;
    let named = find_user(&call.services, &text).await?;
    let is_named = named.is_some();
    let command = EraseUser {
        // A user who has already been deleted may have left data under their id.
        user: named.unwrap_or_else(|| user_id(&text)),
        with_records: request::flag(&call.body, "records")?,
        with_files: request::with_files(&call.body)?,
        why: why(&call)?,
        context: call.context,
    };
    match call.services.eraser.user(command).await {
        Err(error) if error.code == Code::ResourceNotFound && !is_named => {
            let message = format!("no user {text:?}, by id or by name: {}", error.message);
            Err(ApiError::new(Code::ResourceNotFound, message))
        }
        erased => Reply::new(&erased?),
    }
}

pub(super) async fn compact(call: Call) -> Outcome {
    Reply::new(&call.services.eraser.compact(&call.context).await?)
}

pub(super) async fn list(call: Call) -> Outcome {
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(LISTED.0);
    let limit = usize::try_from(limit.clamp(1, LISTED.1)).unwrap_or(usize::MAX);
    let before = request::whole_number(&call.body, "before")?.unwrap_or(u64::MAX);
    let part_of = request::whole_number(&call.body, "part_of")?;
    let all = call.services.eraser.erasures();
    if let Some(position) = part_of {
        let is_of_user = |erasure: &Erasure| matches!(erasure.request.scope, ErasureScope::User(_));
        if !all.get(position).as_ref().is_some_and(is_of_user) {
            let message = format!("no erasure of a user was requested at {position}");
            return Err(ApiError::new(Code::ResourceNotFound, message));
        }
    }
    let last = all.last_before(before, part_of, limit);
    let erasures: Vec<Listed<'_>> = last.iter().map(|it| to_wire(all, it)).collect();
    Reply::new(&json!({"erasures": erasures}))
}

/// An erasure as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    erasure: &'a Stream,
    position: u64,
    at: Timestamp,
    by: &'a Actor,
    why: &'a str,
    scope: &'a ErasureScope,
    num_events: u64,
    num_keys: usize,
    files: &'a [AssetName],
    finished: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_records: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_refused: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Vec<ListedRefused>>,
}

#[derive(Serialize)]
struct ListedRefused {
    record: String,
    code: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    referred_by: Option<String>,
}

fn to_wire<'a>(erasures: &Erasures, erasure: &'a Erasure) -> Listed<'a> {
    let Erasure { mark, request, .. } = erasure;
    let count = |_| erasures.count_records_of(mark.position);
    let num_records = request.records.map(count);
    let end = erasure.end.as_ref().filter(|end| end.num_refused > 0);
    Listed {
        erasure: &erasure.stream,
        position: mark.position,
        at: mark.at,
        by: &mark.by,
        why: &mark.why,
        scope: &request.scope,
        num_events: request.positions.len(),
        num_keys: request.keys.len(),
        files: &request.files,
        finished: erasure.is_finished(),
        part_of: request.part_of,
        num_records,
        num_refused: end.map(|end| end.num_refused),
        refused: end.map(|end| end.refused.iter().map(refused_to_wire).collect()),
    }
}

fn refused_to_wire(refused: &RefusedRecord) -> ListedRefused {
    let id = |stream: &Stream| match stream {
        Stream::Record(id) => id.to_string(),
        other => other.to_string(),
    };
    ListedRefused {
        record: id(&refused.record),
        code: refused.code,
        referred_by: refused.referred_by.as_ref().map(id),
    }
}

fn why(call: &Call) -> Result<String, ApiError> {
    let why = required(call, "why")?;
    if why.len() > MAX_WHY {
        let message = format!("a reason can have at most {MAX_WHY} bytes");
        return Err(ApiError::invalid_argument(message, &["why"]));
    }
    Ok(why)
}

fn required(call: &Call, name: &str) -> Result<String, ApiError> {
    let text = request::text(&call.body, name)?.filter(|text| !text.is_empty());
    let missing = || request::missing(&[name]);
    text.map(str::to_owned).ok_or_else(missing)
}
