//! `asset:put`

use serde_json::{Map, Value as Json, json};
use skytrail_schema::asset::{MAX_CONTENT_TYPE_BYTES, MAX_FILE_NAME_BYTES, is_content_type};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::AssetState;
use skytrail_schema::id::AssetName;
use skytrail_schema::value::Asset;
use uuid::Uuid;

use super::{Call, Outcome, Reply};
use crate::asset::escape_path;

pub(super) async fn run(call: Call) -> Outcome {
    let Call {
        services,
        context,
        body,
        ..
    } = call;
    let name = body.get("filename").and_then(Json::as_str);
    let name = new_name(name.unwrap_or_default())?;
    let content_type = body.get("content-type").and_then(Json::as_str);
    let content_type = content_type.ok_or_else(|| missing("content-type", "content type"))?;
    check_content_type(content_type)?;
    let size = size(&body).ok_or_else(|| missing("content-size", "content size"))?;
    let max_bytes = services.files.limits.max_bytes;
    if size > max_bytes {
        return Err(too_large(max_bytes));
    }
    let state = AssetState {
        content_type: content_type.to_owned(),
        size,
    };
    let asset = Asset {
        url: services.files.urls.url_of(name.as_str()),
        content_type: Some(state.content_type.clone()),
        name: name.to_string(),
    };
    services.assets.check_place(&name).await?;
    services.assets.register(&name, state, &context).await?;
    // Escaped: clients use the address unchanged, and not every name can be sent that way.
    let action = format!("/files/{}", escape_path(name.as_str()));
    Reply::new(&json!({"asset": asset.to_wire(), "post-request": {"action": action}}))
}

fn size(body: &Map<String, Json>) -> Option<u64> {
    let size = body.get("content-size")?.as_f64()?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "v1 truncates, too; what is below 0 is 0"
    )]
    let whole = size as u64;
    Some(whole)
}

fn missing(argument: &str, what: &str) -> ApiError {
    let message = format!("Missing {what} or {what} is invalid");
    ApiError::invalid_argument(message, &[argument])
}

/// Returns a name that no other file has.
///
/// # Errors
/// See [`bad_name`].
pub fn new_name(raw: &str) -> Result<AssetName, ApiError> {
    AssetName::unique(raw, Uuid::new_v4()).ok_or_else(|| bad_name(raw))
}

/// Returns the error (108) for a file's name that no store accepts.
pub fn bad_name(raw: &str) -> ApiError {
    let last = raw.rsplit('/').next().unwrap_or_default();
    let size = last.len();
    if size <= MAX_FILE_NAME_BYTES {
        return missing("filename", "filename");
    }
    let message = format!("filename has {size} bytes, at most {MAX_FILE_NAME_BYTES} are allowed");
    ApiError::invalid_argument(message, &["filename"])
}

/// Checks that a media type can be stored.
///
/// # Errors
/// 108 if it cannot.
pub fn check_content_type(text: &str) -> Result<(), ApiError> {
    if is_content_type(text) {
        return Ok(());
    }
    let message = if text.len() > MAX_CONTENT_TYPE_BYTES {
        let size = text.len();
        format!("content-type has {size} bytes, at most {MAX_CONTENT_TYPE_BYTES} are allowed")
    } else {
        "content-type has characters that a header cannot hold".to_owned()
    };
    Err(ApiError::invalid_argument(message, &["content-type"]))
}

/// Returns the error for a file above the limit.
pub fn too_large(max_bytes: u64) -> ApiError {
    let message = format!("the file is larger than {max_bytes} bytes");
    ApiError::new(Code::AssetSizeTooLarge, message).with_status(413)
}
