//! `audit:changes`, `audit:readers`, `audit:refusals`

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::events::{Direction, Found, PageRequest};
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{EventFilter, Stream};
use skytrail_schema::id::UserId;
use skytrail_schema::json::Members;

use super::log::params;
use super::{Call, Outcome, Reply, request};
use crate::auth::refusals::RefusalFilter;
use crate::services::Services;

/// How many rows a page has by default, and at most.
const ROWS: (u64, u64) = (100, 1000);

/// As [`ROWS`], for changes: each record must be folded.
const CHANGES: (u64, u64) = (50, 200);

/// Answers who could read a record at a point in time.
pub(super) async fn readers(call: Call) -> Outcome {
    let missing = |name| request::missing(&[name]);
    let record = request::text(&call.body, "record")?.filter(|raw| !raw.is_empty());
    let id = request::record_id(record.ok_or_else(|| missing("record"))?, "record")?;
    let at = request::moment(&call.body, "at")?.ok_or_else(|| missing("at"))?;
    Reply::new(&call.services.records.readers(&id, at).await?)
}

/// Answers what a user did, and which changes to records that caused, earliest first.
pub(super) async fn changes(call: Call) -> Outcome {
    let (reader, records) = (&call.services.events, &call.services.records);
    let user = user(&call.services, named(&call)?).await?;
    let range = params::range(reader, &call.body).await?;
    let page_request = PageRequest {
        filter: EventFilter {
            user: Some(user.clone()),
            ..EventFilter::default()
        },
        from: request::whole_number(&call.body, "from")?,
        range,
        direction: Direction::Forwards,
        limit: usize::try_from(limit(&call.body, CHANGES)?).unwrap_or(usize::MAX),
    };
    let page = reader.page(&page_request).await?;
    let mut acts = Vec::new();
    for found in &page.events {
        let mut act = shown(found);
        let stream = act.get("stream").and_then(Json::as_str);
        if let Some(Stream::Record(id)) = stream.and_then(Stream::parse) {
            let changes = records.changes_at(&id, found.position).await?;
            let changes = changes.iter().map(|(name, change)| {
                let sides = [("before", &change.before), ("after", &change.after)];
                let sides = sides
                    .into_iter()
                    .filter_map(|(side, it)| Some((side, it.clone()?)));
                (name.clone(), json!(sides.collect::<BTreeMap<_, _>>()))
            });
            act.insert("changes".to_owned(), Json::Object(changes.collect()));
            act.insert("record".to_owned(), id.to_string().into());
            act.remove("payload");
        }
        acts.push(act);
    }
    let mut info = json!({"user": user, "head": page.head});
    if let (Some(next), Some(info)) = (page.next, info.as_object_mut()) {
        info.insert("next".to_owned(), next.into());
    }
    Reply::with_info(&acts, Some(&info))
}

fn named(call: &Call) -> Result<&str, ApiError> {
    let text = request::text(&call.body, "user")?.filter(|text| !text.is_empty());
    text.ok_or_else(|| request::missing(&["user"]))
}

/// Finds the user whose actions are searched for, by id, by name or by mail address. A text that
/// matches no current user is taken as an id: the log still has the actions of deleted users.
/// `user/<id>` is always an id, and needs no store.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn user(services: &Services, text: &str) -> Result<UserId, ApiError> {
    if let Some(id) = text.strip_prefix("user/") {
        return Ok(id.into());
    }
    let found = find_user(services, text).await?;
    Ok(found.unwrap_or_else(|| user_id(text)))
}

/// Parses a user's id, which may be given as the id of their record or the name of their stream.
pub(crate) fn user_id(text: &str) -> UserId {
    text.strip_prefix("user/").unwrap_or(text).into()
}

/// Finds a user by id, by name or by mail address. The id of an erased user stays theirs, whoever
/// has chosen it as a name since; so does `user/<id>` of a deleted one.
pub(crate) async fn find_user(services: &Services, text: &str) -> Result<Option<UserId>, ApiError> {
    let (id, accounts) = (user_id(text), &services.accounts);
    if accounts.load_user(&id).await?.is_some() {
        return Ok(Some(id));
    }
    if text.starts_with("user/") || accounts.refuse_erased(&id).is_err() {
        return Ok(None);
    }
    accounts.find_named(text).await
}

fn shown(found: &Found) -> Map<String, Json> {
    let shown: Members = serde_json::from_str(found.json.get()).unwrap_or_default();
    shown.0
}

fn limit(body: &Map<String, Json>, (default, most): (u64, u64)) -> Result<u64, ApiError> {
    let limit = request::whole_number(body, "limit")?.unwrap_or(default);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    let message = format!("limit should be from 1 to {most}");
    Err(ApiError::invalid_argument(message, &["limit"]))
}

pub(super) async fn refusals(call: Call) -> Outcome {
    let body = &call.body;
    let limit = limit(body, ROWS)?;
    let before = request::whole_number(body, "before")?;
    let before = before.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
    let filter = RefusalFilter {
        user: request::text(body, "user")?.map(Into::into),
        since: request::time(body, "since")?,
        until: request::time(body, "until")?,
        before,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    let rows = call.services.refusals.list(&filter).await?;
    let is_full = rows.len() as u64 == limit;
    let next = rows.last().filter(|_| is_full).map(|last| last.number);
    Reply::with_info(&rows, next.map(|next| json!({"next": next})).as_ref())
}
