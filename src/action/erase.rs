//! `erase:record`, `erase:event`, `erase:field`, `erase:user`, `erase:list`; `log:compact`

use serde_json::{Value as Json, json};
use skytrail_actors::erasure::{EraseEvent, EraseField, EraseRecord, EraseTypeField, EraseUser};
use skytrail_actors::log::{Erasure, Erasures};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{ErasureScope, RefusedRecord, Stream};

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
    let all = call.services.eraser.erasures();
    let last = all.last(limit);
    let erasures: Json = last.iter().map(|it| to_wire(all, it)).collect();
    Reply::new(&json!({"erasures": erasures}))
}

fn to_wire(erasures: &Erasures, erasure: &Erasure) -> Json {
    let mut json = json!({
        "erasure": erasure.stream,
        "position": erasure.mark.position,
        "at": erasure.mark.at,
        "by": erasure.mark.by,
        "why": erasure.mark.why,
        "scope": erasure.request.scope,
        "num_events": erasure.request.positions.len(),
        "num_keys": erasure.request.keys.len(),
        "files": erasure.request.files,
        "finished": erasure.is_finished(),
    });
    if let Some(part_of) = erasure.request.part_of {
        json["part_of"] = part_of.into();
    }
    if erasure.request.records.is_some() {
        let of_record = |it: &&Erasure| matches!(it.request.scope, ErasureScope::Record(_));
        let parts = erasures.parts_of(erasure.mark.position);
        json["num_records"] = parts.iter().filter(of_record).count().into();
    }
    if let Some(end) = erasure.end.as_ref().filter(|end| end.num_refused > 0) {
        json["num_refused"] = end.num_refused.into();
        json["refused"] = end.refused.iter().map(refused_to_wire).collect();
    }
    json
}

fn refused_to_wire(refused: &RefusedRecord) -> Json {
    let id = |stream: &Stream| match stream {
        Stream::Record(id) => id.to_string(),
        other => other.to_string(),
    };
    let mut json = json!({"record": id(&refused.record), "code": refused.code});
    if let Some(referrer) = &refused.referred_by {
        json["referred_by"] = id(referrer).into();
    }
    json
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
