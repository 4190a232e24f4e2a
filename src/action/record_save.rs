//! `record:save`

use serde_json::{Map, Value as Json};
use skytrail_actors::record::messages::{ItemError, SaveItem, SaveRecords};
use skytrail_schema::acl::{Acl, AclError};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::RecordId;

use super::{Call, Outcome, request};

pub(super) async fn run(call: Call) -> Outcome {
    let is_atomic = request::flag(&call.body, "atomic")?;
    let records = request::list(&call.body, "records")?.filter(|records| !records.is_empty());
    let records = records
        .ok_or_else(|| ApiError::invalid_argument("expected list of record", &["records"]))?;
    if records
        .iter()
        .any(|item| !item.is_object() && !item.is_null())
    {
        return Err(request::undecodable());
    }
    let items = records.iter().map(parse).collect();
    let database = request::database(call.scope)?;
    let command = SaveRecords {
        context: call.context,
        database,
        items,
        is_atomic,
    };
    let results = call.services.records.save(command).await?;
    Ok(request::items(results, |record| Json::Object(record.to_wire())).into())
}

fn parse(item: &Json) -> Result<SaveItem, ItemError> {
    let nothing = Map::new();
    let item = parse_object(item.as_object().unwrap_or(&nothing));
    let item = item.map_err(|error| ItemError { id: None, error })?;
    match refuse_id(&item.id) {
        None => Ok(item),
        Some(error) => Err(ItemError {
            id: Some(item.id),
            error,
        }),
    }
}

fn parse_object(object: &Map<String, Json>) -> Result<SaveItem, ApiError> {
    let missing = || ApiError::invalid_argument("missing required fields", &["id"]);
    let raw = object
        .get("_id")
        .and_then(Json::as_str)
        .ok_or_else(missing)?;
    let id = request::record_id(raw, "id")?;
    let access = Acl::from_wire(object.get("_access").unwrap_or(&Json::Null));
    let invalid = |error: AclError| ApiError::invalid_argument(error.to_string(), &["_access"]);
    Ok(SaveItem {
        id,
        access: access.map_err(invalid)?,
        fields: request::fields(object)?,
    })
}

/// Refuses ids that have the form of one and cannot be a record's.
fn refuse_id(id: &RecordId) -> Option<ApiError> {
    if id.record_type.is_reserved() {
        let message = format!(
            "record types that start with _ are reserved: {}",
            id.record_type
        );
        return Some(ApiError::new(Code::InvalidArgument, message));
    }
    let is_empty = |text: &str| text.is_empty();
    match (is_empty(id.record_type.as_str()), is_empty(id.key.as_str())) {
        (true, _) => Some(ApiError::new(
            Code::InvalidArgument,
            "the record type is empty",
        )),
        (false, true) => Some(ApiError::unexpected("db.save: got empty record id")),
        (false, false) => None,
    }
}
