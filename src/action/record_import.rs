//! `record:import`: imports records from elsewhere with their owners, times and authors.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};
use skytrail_actors::import::{
    ImportOptions, ImportRecords, ImportedRecord, Outcome as Became, Planned, Said,
};
use skytrail_schema::acl::Acl;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::ChangeStamp;
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::time::Timestamp;

use super::{Call, Outcome, Reply, record_save, request, schema};

pub(super) async fn run(mut call: Call) -> Outcome {
    let options = ImportOptions {
        is_dry: request::flag(&call.body, "dry_run")?,
        updates: request::flag(&call.body, "update")?,
        revives: true,
    };
    let postpones = request::flag(&call.body, "postpone")?;
    let planned = Planned {
        types: schema::requested_types(&mut call.body)?,
        records: expected(&call)?,
    };
    if !options.is_dry && planned != Planned::default() {
        let message = "record_types and expected are only for a dry run";
        return Err(ApiError::invalid_argument(message, &["dry_run"]));
    }
    let records = request::take_list(&mut call.body, "records")?;
    if records.is_empty() {
        return Err(ApiError::invalid_argument("no records", &["records"]));
    }
    let by = call.context.caller.user.clone().unwrap_or_else(UserId::god);
    let now = ChangeStamp {
        at: call.services.clock.now(),
        by: Some(by),
    };
    let mut results = Vec::with_capacity(records.len());
    let mut parsed = Vec::with_capacity(records.len());
    for record in records {
        let id = record.get("_id").cloned().unwrap_or_default();
        let record = parse(record, &now);
        results.push((id, record.as_ref().err().cloned()));
        parsed.extend(record.ok());
    }
    let command = ImportRecords {
        context: call.context,
        records: parsed,
        options,
        postpones,
        planned,
    };
    let mut outcomes = call.services.records.import(command).await?.into_iter();
    let mut item = |(id, refused): (Json, Option<ApiError>)| {
        let refused = refused.map(|error| Became::Refused(error.message.to_string()));
        let became = refused.or_else(|| outcomes.next());
        let mut item = Map::new();
        if let Some(Became::Incomplete(otherwise)) = &became {
            let (otherwise, _) = describe(Became::clone(otherwise));
            item.insert("became".to_owned(), otherwise.into());
        }
        let (outcome, reason) = became.map_or(("refused", None), describe);
        item.insert("_id".to_owned(), id);
        item.insert("outcome".to_owned(), outcome.into());
        if let Some(reason) = reason {
            item.insert("reason".to_owned(), reason.into());
        }
        Json::from(item)
    };
    let items: Vec<Json> = results.into_iter().map(&mut item).collect();
    Reply::with_info(&items, Some(&json!({"dry_run": options.is_dry})))
}

/// Reads which records a dry run should assume to exist.
fn expected(call: &Call) -> Result<HashSet<RecordId>, ApiError> {
    let ids = request::texts(&call.body, "expected")?.unwrap_or_default();
    let ids = ids.iter().map(|id| request::record_id(id, "expected"));
    ids.collect()
}

/// Returns the outcome's name and the reason for it.
pub(super) fn describe(outcome: Became) -> (&'static str, Option<String>) {
    match outcome {
        Became::Added => ("added", None),
        Became::Incomplete(_) => ("incomplete", None),
        Became::Updated => ("updated", None),
        Became::Present => ("present", None),
        Became::Kept(reason) => ("kept", Some(reason)),
        Became::Refused(reason) => ("refused", Some(reason)),
    }
}

fn parse(record: Json, now: &ChangeStamp) -> Result<ImportedRecord, ApiError> {
    let Json::Object(record) = record else {
        return Err(request::wrong_type("records", "a list of objects"));
    };
    let missing = || request::missing(&["_id"]);
    let id = request::text(&record, "_id")?.ok_or_else(missing)?;
    let id = request::record_id(id, "id")?;
    if let Some(refusal) = record_save::refuse_id(&id) {
        return Err(refusal);
    }
    let invalid = |name: &str, why: String| ApiError::invalid_argument(why, &[name]);
    let user = |name: &str| Ok::<_, ApiError>(request::text(&record, name)?.map(UserId::from));
    let time = |name: &str| {
        let parse = |text| {
            let why = || invalid(name, format!("{name} is not a time (RFC 3339)"));
            Timestamp::parse(text).ok_or_else(why)
        };
        request::text(&record, name)?.map(parse).transpose()
    };
    let (created, updated) = (time("_created_at")?, time("_updated_at")?);
    let owner = user("_ownerID")?;
    // A user's record belongs to that user, whoever imports it.
    let belongs_to_user = id.record_type.is_user() && created.is_none();
    let owner = owner.or_else(|| belongs_to_user.then(|| UserId::from(id.key.as_str())));
    let is_said = Said {
        // A record with a creation time is complete: if it gives no owner, it has none.
        owner: owner.is_some() || created.is_some(),
        created: created.is_some(),
        updated: updated.is_some(),
    };
    let touch = |at: Option<Timestamp>, by: Option<UserId>| match at {
        Some(at) => ChangeStamp { at, by },
        None => now.clone(),
    };
    let access = record.get("_access").map(Acl::from_wire).transpose();
    Ok(ImportedRecord {
        database: match user("_database_id")? {
            Some(user) => Database::Private(user),
            None => Database::Public,
        },
        owner: match (is_said.owner, owner) {
            (true, owner) => owner,
            (false, _) => now.by.clone(),
        },
        access: access.map_err(|error| invalid("_access", error.to_string()))?,
        created: touch(created, user("_created_by")?),
        updated: touch(updated, user("_updated_by")?),
        is_said,
        id,
        fields: request::named_fields(record)?,
    })
}
