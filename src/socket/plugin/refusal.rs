//! Who may connect as a plugin: the checks before the upgrade.

use actix_web::HttpRequest;
use actix_web::http::header::{HeaderMap, HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use serde_json::json;
use skytrail_actors::plugin::protocol::SUBPROTOCOL;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};

use crate::http::origins::is_same_origin;
use crate::services::Services;

/// Refuses clients that are not plugins. The key is only read from the header, so that it does not
/// end up in logs of addresses.
///
/// # Errors
/// 103 (HTTP 401) without the master key, 102 (403) with the client's key or from a foreign web
/// page, 107 (426) without a subprotocol that the server supports.
pub(super) fn check(request: &HttpRequest, services: &Services) -> Result<(), ApiError> {
    let headers = request.headers();
    let key = text(headers, &super::API_KEY).filter(|key| !key.is_empty());
    check_key(key.and_then(|key| services.kind_of_key(key)))?;
    check_origin(headers)?;
    check_protocol(headers)
}

/// Returns the error for a worker for which there is no room at present.
pub(super) fn no_place() -> ApiError {
    ApiError::new(Code::PluginUnavailable, "no place for another worker now")
}

fn check_key(kind: Option<KeyKind>) -> Result<(), ApiError> {
    match kind {
        Some(KeyKind::Master) => Ok(()),
        Some(_) => {
            let message = "plugins connect with the master key";
            Err(ApiError::new(Code::PermissionDenied, message))
        }
        None => {
            let message = "the master key is missing or wrong";
            Err(ApiError::new(Code::AccessKeyNotAccepted, message))
        }
    }
}

/// A browser names the page that it acts for; only this server's own pages may connect.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    if !headers.contains_key(ORIGIN) || is_same_origin(headers) {
        Ok(())
    } else {
        let message = "plugins cannot connect from other web pages";
        Err(ApiError::new(Code::PermissionDenied, message))
    }
}

fn check_protocol(headers: &HeaderMap) -> Result<(), ApiError> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if offered.any(|name| name.trim() == SUBPROTOCOL) {
        return Ok(());
    }
    let error = ApiError::new(Code::BadRequest, "no supported subprotocol was offered");
    Err(error
        .with_info("supported", json!([SUBPROTOCOL]))
        .with_status(426))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
