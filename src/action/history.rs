//! `history:list`, `history:restore`

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use skytrail_actors::record::history::{
    Change, HistoryRight, ListVersions, MAX_PAGE, RestoreRecord, Version,
};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::EventKind;
use skytrail_schema::id::RecordId;

use super::{Call, Outcome, Reply, request};

/// How many versions a page has by default.
const PAGE: u64 = 50;

pub(super) async fn list(call: Call) -> Outcome {
    let right = right_of(&call)?;
    let id = record(&call)?;
    let limit = request::whole_number(&call.body, "limit")?.unwrap_or(PAGE);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if limit == 0 || limit > MAX_PAGE {
        let message = format!("limit should be from 1 to {MAX_PAGE}");
        return Err(ApiError::invalid_argument(message, &["limit"]));
    }
    let command = ListVersions {
        right,
        id,
        until: request::moment(&call.body, "until")?,
        after: request::moment(&call.body, "after")?,
        user: request::text(&call.body, "user")?.map(Into::into),
        kinds: kinds(&call)?,
        limit,
        context: call.context,
    };
    let page = call.services.records.history(command).await?;
    let versions: Json = page.versions.iter().map(to_wire).collect();
    Reply::new(&json!({"versions": versions, "next": page.next}))
}

pub(super) async fn restore(call: Call) -> Outcome {
    let right = right_of(&call)?;
    let id = record(&call)?;
    let moment = request::moment(&call.body, "as_of")?;
    let missing = || request::missing(&["as_of"]);
    let command = RestoreRecord {
        right,
        id,
        as_of: moment.ok_or_else(missing)?,
        context: call.context,
    };
    let restored = call.services.records.restore(command).await?;
    Reply::new(&restored)
}

fn record(call: &Call) -> Result<RecordId, ApiError> {
    let raw = request::text(&call.body, "record")?.filter(|raw| !raw.is_empty());
    let missing = || request::missing(&["record"]);
    request::record_id(raw.ok_or_else(missing)?, "record")
}

/// Returns whose histories the caller may see.
fn right_of(call: &Call) -> Result<HistoryRight, ApiError> {
    let (services, caller) = (&call.services, &call.context.caller);
    if caller.is_master() {
        return Ok(HistoryRight::All);
    }
    if services.accounts.is_admin(&caller.roles) {
        return Ok(HistoryRight::Public);
    }
    let types = &services.settings.history_for_owners;
    if record(call).is_ok_and(|id| types.contains(&id.record_type)) {
        return Ok(HistoryRight::Own);
    }
    let message = "no permission to perform this action";
    Err(ApiError::new(Code::PermissionDenied, message).with_status(401))
}

fn kinds(call: &Call) -> Result<Option<BTreeSet<EventKind>>, ApiError> {
    let Some(names) = request::texts(&call.body, "kinds")? else {
        return Ok(None);
    };
    let kind = |name: String| {
        let known = EventKind::ALL.iter().find(|kind| kind.name() == name);
        known.copied().ok_or_else(|| {
            let message = format!("{name:?} is not a kind of event, such as record.changed");
            ApiError::invalid_argument(message, &["kinds"])
        })
    };
    names
        .into_iter()
        .map(kind)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn to_wire(version: &Version) -> Json {
    let Version {
        commit,
        event,
        record,
        changes,
    } = version;
    let change = |(name, change): (&String, &Change)| {
        let sides = [("before", &change.before), ("after", &change.after)];
        let sides = sides
            .into_iter()
            .filter_map(|(side, value)| Some((side, value.clone()?)));
        (name.clone(), sides.collect::<BTreeMap<_, _>>())
    };
    let mut shown = json!({
        "position": event.position,
        "version": event.version,
        "kind": event.body.kind().name(),
        "time": commit.time,
        "actor": commit.actor,
        "request_id": commit.request_id,
        "commit": commit.id,
        "causation": commit.causation,
        "hooks": event.provenance,
        "record": record,
        "changes": changes.iter().map(change).collect::<BTreeMap<_, _>>(),
    });
    if let (Some(source), Some(members)) = (&commit.sql, shown.as_object_mut()) {
        members.insert("sql".to_owned(), json!(source));
    }
    if let (Some(by), Some(members)) = (event.body.erased(), shown.as_object_mut()) {
        members.insert("erased".to_owned(), json!(by));
    }
    shown
}
