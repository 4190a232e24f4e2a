//! `record:save`

use serde_json::{Map, Value as Json};
use skytrail_actors::record::messages::{ItemError, SaveItem, SaveRecords};
use skytrail_schema::acl::{Acl, AclError};
use skytrail_schema::code::{ApiError, Code};

use super::{Call, Outcome, request};

pub(super) async fn run(call: Call) -> Outcome {
    let is_atomic = request::flag(&call.body, "atomic")?;
    let records = request::list(&call.body, "records")?.filter(|records| !records.is_empty());
    let records = records
        .ok_or_else(|| ApiError::invalid_argument("expected list of record", &["records"]))?;
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
    let object = match item {
        Json::Object(object) => object,
        _ => &nothing,
    };
    parse_object(object).map_err(|error| ItemError { id: None, error })
}

fn parse_object(object: &Map<String, Json>) -> Result<SaveItem, ApiError> {
    let missing = || ApiError::invalid_argument("missing required fields", &["id"]);
    let raw = object
        .get("_id")
        .and_then(Json::as_str)
        .ok_or_else(missing)?;
    let id = request::record_id(raw, "id")?;
    let access = Acl::from_wire(object.get("_access").unwrap_or(&Json::Null));
    let access = access
        .map_err(|error: AclError| ApiError::invalid_argument(error.to_string(), &["_access"]))?;
    let fields = request::fields(object)?;
    if id.record_type.is_reserved()
        || id.record_type.as_str().is_empty()
        || id.key.as_str().is_empty()
    {
        let message = format!("{id} is not a record: the type is reserved, or a part is empty");
        return Err(ApiError::new(Code::InvalidArgument, message));
    }
    Ok(SaveItem { id, access, fields })
}
