//! Reads the members of a request, with the errors that clients know.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use skytrail_actors::log::{InvalidTimeline, Timeline};
use skytrail_actors::record::messages::ItemError;
use skytrail_actors::record::past::Moment;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::id::{Database, RecordId, RoleName, UserId, check_length};
use skytrail_schema::json;
use skytrail_schema::query::Scope;
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;
use skytrail_schema::value::Value;

/// Returns a member; null counts as absent.
pub(super) fn member<'a>(body: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    body.get(name).filter(|value| !value.is_null())
}

/// What a member of the wrong type should be.
const BOOLEAN: &str = "true or false";
const STRING: &str = "a string";
const WHOLE_NUMBER: &str = "a whole number that is not negative";
const LIST: &str = "a list";
const STRINGS: &str = "a list of strings";
const OBJECT: &str = "an object";

/// Returns v1's error for a member of the wrong JSON type, which does not name the member.
pub(super) fn undecodable() -> ApiError {
    ApiError::new(Code::BadRequest, "fails to decode the request payload")
}

/// Returns the error for a member of the wrong JSON type. [`as_v1`] turns it into v1's.
pub(super) fn wrong_type(name: &str, expected: &str) -> ApiError {
    let message = format!("{name} should be {expected}");
    ApiError::new(Code::BadRequest, message).with_info("arguments", [name].as_slice().into())
}

/// Returns the error for members that are required and absent.
pub(super) fn missing(names: &[&str]) -> ApiError {
    ApiError::invalid_argument(format!("missing {}", names.join(", ")), names)
}

/// Returns an error of one of v1's actions as v1 has it.
pub(super) fn as_v1(error: ApiError) -> ApiError {
    // A plugin's errors stay as they are.
    let name = error
        .info
        .get("arguments")
        .and_then(|names| names.get(0)?.as_str());
    let is_own = name.is_some_and(|name| {
        let all = [BOOLEAN, STRING, WHOLE_NUMBER, LIST, STRINGS, OBJECT];
        all.iter()
            .any(|expected| wrong_type(name, expected) == error)
    });
    if is_own { undecodable() } else { error }
}

/// Reads a boolean; absent means false.
pub(super) fn flag(body: &Map<String, Json>, name: &str) -> Result<bool, ApiError> {
    let wrong = || wrong_type(name, BOOLEAN);
    member(body, name).map_or(Ok(false), |value| value.as_bool().ok_or_else(wrong))
}

/// Reads whether files are erased together with the data that names them: yes, unless the body says
/// otherwise.
pub(super) fn with_files(body: &Map<String, Json>) -> Result<bool, ApiError> {
    Ok(member(body, "files").is_none() || flag(body, "files")?)
}

/// Reads a string.
pub(crate) fn text<'a>(
    body: &'a Map<String, Json>,
    name: &str,
) -> Result<Option<&'a str>, ApiError> {
    member(body, name)
        .map(|value| value.as_str().ok_or_else(|| wrong_type(name, STRING)))
        .transpose()
}

/// Reads a non-negative whole number.
pub(super) fn whole_number(body: &Map<String, Json>, name: &str) -> Result<Option<u64>, ApiError> {
    let Some(value) = member(body, name) else {
        return Ok(None);
    };
    let wrong = || wrong_type(name, WHOLE_NUMBER);
    json::whole_number(value).map(Some).ok_or_else(wrong)
}

/// Reads a point in the past: a position of the log, or a time (RFC 3339).
pub(crate) fn moment(body: &Map<String, Json>, name: &str) -> Result<Option<Moment>, ApiError> {
    let Some(value) = member(body, name) else {
        return Ok(None);
    };
    let moment = match value {
        Json::String(text) => Timestamp::parse(text).map(Moment::Time),
        _ => whole_number(body, name)?.map(Moment::Position),
    };
    let message = || format!("{name} should be a position of the log or a time (RFC 3339)");
    let moment = moment.ok_or_else(|| ApiError::invalid_argument(message(), &[name]));
    moment.map(Some)
}

/// Reads a point in time.
pub(super) fn time(body: &Map<String, Json>, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let wrong =
        || ApiError::invalid_argument(format!("{name} should be a time (RFC 3339)"), &[name]);
    text(body, name)?
        .map(|text| Timestamp::parse(text).ok_or_else(wrong))
        .transpose()
}

/// Reads the timeline that a position belongs to.
pub(crate) fn timeline(body: &Map<String, Json>) -> Result<Option<Timeline>, ApiError> {
    let wrong = |error: InvalidTimeline| {
        ApiError::invalid_argument(format!("timeline: {error}"), &["timeline"])
    };
    text(body, "timeline")?
        .map(|text| text.parse().map_err(wrong))
        .transpose()
}

/// Reads a list; `None` if absent.
pub(super) fn list<'a>(
    body: &'a Map<String, Json>,
    name: &str,
) -> Result<Option<&'a Vec<Json>>, ApiError> {
    member(body, name)
        .map(|value| value.as_array().ok_or_else(|| wrong_type(name, LIST)))
        .transpose()
}

/// Removes a list; empty if absent.
pub(super) fn take_list(body: &mut Map<String, Json>, name: &str) -> Result<Vec<Json>, ApiError> {
    match body.remove(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::Array(items)) => Ok(items),
        Some(_) => Err(wrong_type(name, LIST)),
    }
}

/// Reads a list of strings; `None` if absent.
pub(super) fn texts(body: &Map<String, Json>, name: &str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(items) = list(body, name)? else {
        return Ok(None);
    };
    let wrong = || wrong_type(name, STRINGS);
    let text = |item: &Json| item.as_str().map(str::to_owned).ok_or_else(wrong);
    items.iter().map(text).collect::<Result<_, _>>().map(Some)
}

/// Removes an object; empty if absent.
pub(super) fn take_object(
    body: &mut Map<String, Json>,
    name: &str,
) -> Result<Map<String, Json>, ApiError> {
    match body.remove(name) {
        None | Some(Json::Null) => Ok(Map::new()),
        Some(Json::Object(object)) => Ok(object),
        Some(_) => Err(wrong_type(name, OBJECT)),
    }
}

/// Converts names to roles.
pub(super) fn roles<C: FromIterator<RoleName>>(names: Vec<String>) -> Result<C, ApiError> {
    let role = |name: String| {
        check_length("a role's name", &name)?;
        Ok(RoleName::from(name))
    };
    names.into_iter().map(role).collect()
}

/// Converts ids to users.
pub(super) fn users(ids: Vec<String>) -> Vec<UserId> {
    ids.into_iter().map(UserId::from).collect()
}

/// Parses fields from wire values. Names that are empty or start with `_` are skipped: they belong
/// to the server. As in v1, an error does not name the field.
pub(super) fn fields(object: Map<String, Json>) -> Result<Fields, ApiError> {
    parse_fields(object, |_, error| error)
}

/// Parses fields as [`fields`] does; an error names the field.
pub(super) fn named_fields(object: Map<String, Json>) -> Result<Fields, ApiError> {
    parse_fields(object, |name, error| {
        ApiError::invalid_argument(format!("{name}: {}", error.message), &[name])
    })
}

fn parse_fields(
    object: Map<String, Json>,
    name_in: impl Fn(&str, ApiError) -> ApiError,
) -> Result<Fields, ApiError> {
    let own = object
        .into_iter()
        .filter(|(name, _)| !name.is_empty() && !name.starts_with('_'));
    let field = |(name, value): (String, Json)| {
        check_length("a field's name", &name)?;
        let value = wire_value(value).map_err(|error| name_in(&name, error))?;
        Ok((name, value))
    };
    own.map(field).collect()
}

/// Parses a wire value.
pub(super) fn wire_value(value: Json) -> Result<Value, ApiError> {
    let invalid = |error: skytrail_schema::value::ValueError| {
        ApiError::new(Code::InvalidArgument, error.to_string())
    };
    Value::from_wire(value).map_err(invalid)
}

/// Parses a full record id, with the same error message as `record:save` and `record:delete`.
pub(super) fn record_id(raw: &str, argument: &str) -> Result<RecordId, ApiError> {
    RecordId::parse(raw).ok_or_else(|| {
        let message =
            format!(r#"record: "_id" should be of format '{{type}}/{{id}}', got "{raw}""#);
        ApiError::invalid_argument(message, &[argument])
    })
}

/// Returns the one database to write to; the union of all databases cannot be written.
pub(super) fn database(scope: Scope) -> Result<Database, ApiError> {
    match scope {
        Scope::Public => Ok(Database::Public),
        Scope::Private(user) => Ok(Database::Private(user)),
        Scope::Union => {
            let message = "modifying the selected database is not supported";
            Err(ApiError::new(Code::NotSupported, message))
        }
    }
}

/// Prepares the results of a batch for encoding, each in its place.
pub(super) fn items<T: Serialize>(
    results: impl IntoIterator<Item = Result<T, ItemError>>,
) -> Vec<Item<T>> {
    let item = |result: Result<T, ItemError>| match result {
        Ok(done) => Item::Done(done),
        Err(ItemError {
            id: Some(id),
            error,
        }) => Item::Failed(error.to_item(Some(&id))),
        Err(ItemError { id: None, error }) => Item::Failed(error.to_item(None)),
    };
    results.into_iter().map(item).collect()
}

/// One item of a batch's result.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Item<T> {
    Done(T),
    Failed(Json),
}
