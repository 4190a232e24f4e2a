//! Who may connect as a plugin: the checks before the upgrade.

use actix_web::HttpRequest;
use actix_web::http::header::{HOST, HeaderMap, HeaderName, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use serde_json::json;
use skytrail_actors::plugin::protocol::SUBPROTOCOL;
use skytrail_schema::caller::KeyKind;
use skytrail_schema::code::{ApiError, Code};

use crate::config::Keys;

/// Refuses whoever is no plugin. The key is taken from the header alone, so that it does not end
/// up in logs of addresses.
///
/// # Errors
/// 103 (HTTP 401) without the master key, 102 (403) with the client's or from a foreign web page,
/// 107 (426) without a subprotocol that the server speaks.
pub(super) fn check(request: &HttpRequest, keys: &Keys) -> Result<(), ApiError> {
    let headers = request.headers();
    check_key(text(headers, &super::API_KEY), keys)?;
    check_origin(headers)?;
    check_protocol(headers)
}

/// Returns the refusal of a worker for whom there is no place at present.
pub(super) fn no_place() -> ApiError {
    ApiError::new(
        Code::PluginUnavailable,
        "no place for another worker at present",
    )
}

fn check_key(key: Option<&str>, keys: &Keys) -> Result<(), ApiError> {
    match keys.kind_of(key.unwrap_or_default()) {
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

/// A browser names the page that it acts for; only pages of this very server may.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = text(headers, &HOST).unwrap_or_default();
    if is_same_host(origin, host) {
        Ok(())
    } else {
        let message = "plugins do not connect from other web pages";
        Err(ApiError::new(Code::PermissionDenied, message))
    }
}

fn is_same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, rest)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" | "ws" => ":80",
        "https" | "wss" => ":443",
        _ => return false,
    };
    let bare = |name: &str| {
        let name = name.trim_end_matches('/').to_ascii_lowercase();
        name.strip_suffix(default_port)
            .map_or(name.clone(), str::to_owned)
    };
    !host.is_empty() && bare(rest) == bare(host)
}

fn check_protocol(headers: &HeaderMap) -> Result<(), ApiError> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if offered.any(|name| name.trim() == SUBPROTOCOL) {
        return Ok(());
    }
    let error = ApiError::new(Code::BadRequest, "no known subprotocol was offered");
    Err(error
        .with_info("supported", json!([SUBPROTOCOL]))
        .with_status(426))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_servers_own_pages_are_its_pages() {
        let same = [
            ("http://127.0.0.1:3000", "127.0.0.1:3000"),
            ("http://Example.com", "example.com"),
            ("https://example.com:443", "example.com"),
            ("ws://example.com:80/", "example.com"),
        ];
        for (origin, host) in same {
            assert!(is_same_host(origin, host), "{origin} {host}");
        }
        let foreign = [
            ("http://evil.com", "example.com"),
            ("http://example.com:8080", "example.com"),
            ("http://example.com.evil.com", "example.com"),
            ("null", "example.com"),
            ("file://", ""),
            ("http://", ""),
        ];
        for (origin, host) in foreign {
            assert!(!is_same_host(origin, host), "{origin} {host}");
        }
    }
}
