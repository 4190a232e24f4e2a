//! `record:save`

use serde_json::{Map, Value as Json};
use skytrail_actors::record::messages::{
    ItemAccess, ItemError, Precondition, SaveItem, SaveRecords,
};
use skytrail_schema::acl::{Acl, AclError};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{RecordId, check_length};
use skytrail_schema::predicate::Predicate;
use skytrail_schema::predicate::parse::parse_predicate;

use super::{Call, Outcome, Reply, auth, request};

pub(super) async fn run(mut call: Call) -> Outcome {
    let is_atomic = request::flag(&call.body, "atomic")?;
    let keeps_access = request::flag(&call.body, "keep_access")?;
    let precondition = precondition(&call)?;
    let records = request::take_list(&mut call.body, "records")?;
    if records.is_empty() {
        let message = "expected list of record";
        return Err(ApiError::invalid_argument(message, &["records"]));
    }
    let object = |item| match item {
        Json::Object(object) => Ok(object),
        Json::Null => Ok(Map::new()),
        _ => Err(request::undecodable()),
    };
    let records: Vec<_> = records.into_iter().map(object).collect::<Result<_, _>>()?;
    let unsaid = if keeps_access {
        ItemAccess::Kept
    } else {
        ItemAccess::Unsaid
    };
    let items = records.into_iter().map(|object| parse(object, &unsaid));
    let items = items.collect();
    let name_limit = auth::name_limit(&call);
    let database = request::database(call.scope)?;
    let command = SaveRecords {
        context: call.context,
        database,
        items,
        is_atomic,
        precondition,
        name_limit,
    };
    let results = call.services.records.save(command).await?;
    Reply::new(&request::items(results))
}

/// Reads what must be true of each stored record.
fn precondition(call: &Call) -> Result<Precondition, ApiError> {
    let creates_only = request::flag(&call.body, "create_only")?;
    let predicate = match request::member(&call.body, "if") {
        None if creates_only => return Ok(Precondition::Absent),
        None => return Ok(Precondition::Nothing),
        Some(_) if creates_only => {
            let message = "a record cannot be new and match a condition";
            return Err(ApiError::invalid_argument(message, &["if", "create_only"]));
        }
        Some(Json::Array(items)) if items.is_empty() => Predicate::And(Vec::new()),
        Some(Json::Array(items)) => parse_predicate(items)?,
        Some(_) => {
            let message = "expecting \"if\" to be an array";
            return Err(ApiError::invalid_argument(message, &["if"]));
        }
    };
    call.services
        .settings
        .limits
        .check_predicate(&predicate, "if")?;
    if let Some(part) = predicate.find_beyond_record() {
        let message = format!("\"if\" can only look at the record itself, not at {part}");
        return Err(ApiError::invalid_argument(message, &["if"]));
    }
    Ok(Precondition::Matches(predicate))
}

fn parse(object: Map<String, Json>, unsaid: &ItemAccess) -> Result<SaveItem, ItemError> {
    let item = parse_object(object, unsaid).map_err(|error| ItemError { id: None, error })?;
    match refuse_id(&item.id) {
        None => Ok(item),
        Some(error) => Err(ItemError {
            id: Some(item.id),
            error,
        }),
    }
}

fn parse_object(object: Map<String, Json>, unsaid: &ItemAccess) -> Result<SaveItem, ApiError> {
    let missing = || ApiError::invalid_argument("missing required fields", &["id"]);
    let raw = object
        .get("_id")
        .and_then(Json::as_str)
        .ok_or_else(missing)?;
    let id = request::record_id(raw, "id")?;
    let access = Acl::from_wire(object.get("_access").unwrap_or(&Json::Null));
    let invalid = |error: AclError| {
        let message = match error {
            // v1's whole message.
            AclError::BadEntry { .. } => "invalid _access entry".to_owned(),
            _ => error.to_string(),
        };
        ApiError::invalid_argument(message, &["_access"])
    };
    Ok(SaveItem {
        id,
        access: access
            .map_err(invalid)?
            .map_or_else(|| unsaid.clone(), ItemAccess::Brought),
        fields: request::fields(object)?,
        restored: None,
    })
}

/// Refuses ids that are well-formed but cannot be a record's.
pub(super) fn refuse_id(id: &RecordId) -> Option<ApiError> {
    if id.record_type.is_reserved() {
        let message = format!(
            "record types that start with _ are reserved: {}",
            id.record_type
        );
        return Some(ApiError::new(Code::InvalidArgument, message));
    }
    let is_empty = |text: &str| text.is_empty();
    let key = check_length("a record's key", id.key.as_str());
    let kind = check_length("a record type's name", id.record_type.as_str());
    if let Err(refused) = key.and(kind) {
        return Some(refused);
    }
    match (is_empty(id.record_type.as_str()), is_empty(id.key.as_str())) {
        (true, _) => Some(ApiError::new(
            Code::InvalidArgument,
            "the record type is empty",
        )),
        (false, true) => Some(ApiError::unexpected("db.save: got empty record id")),
        (false, false) => None,
    }
}
