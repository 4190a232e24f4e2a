//! A request in the form that plugins receive.

use actix_web::HttpRequest;
use actix_web::http::header::{HOST, HeaderMap, TRANSFER_ENCODING};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

/// Encodes a request with its decoded path and its body.
pub(super) fn param(request: &HttpRequest, path: &str, body: &[u8]) -> Json {
    let query = request.query_string();
    let query = (!query.is_empty()).then(|| ("query_string".to_owned(), query.into()));
    let members = [
        ("status", 0.into()),
        ("method", request.method().as_str().into()),
        ("header", header(request.headers()).into()),
        // Never null: v1's runtimes fail on null.
        ("body", STANDARD.encode(body).into()),
        ("path", path.into()),
    ];
    let members = members.map(|(name, value)| (name.to_owned(), value));
    Json::Object(members.into_iter().chain(query).collect())
}

/// Encodes the head's fields, each with all of its values. `Host` is left out, as v1's server does;
/// `Transfer-Encoding` is left out because the body is no longer chunked.
fn header(headers: &HeaderMap) -> Map<String, Json> {
    let mut written = Map::new();
    for name in headers.keys() {
        if *name == HOST || *name == TRANSFER_ENCODING {
            continue;
        }
        let values = headers.get_all(name);
        let values: Json = values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect();
        written.insert(canonical(name.as_str()), values);
    }
    written
}

/// Returns a name in the form in which v1 passes it to plugins: `X-Skygear-Api-Key`.
fn canonical(name: &str) -> String {
    let mut is_first = true;
    let letter = |letter: char| {
        let written = if is_first {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        };
        is_first = letter == '-';
        written
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_told_as_v1_tells_it() {
        let request = TestRequest::put()
            .uri("/web/a%20b?x=%20&x=2")
            .append_header(("host", "here"))
            .append_header(("x-skygear-api-key", "k"))
            .append_header(("x-multi", "a"))
            .append_header(("X-MULTI", "b"))
            .append_header(("etag", b"\xff".as_slice()))
            .to_http_request();
        assert_eq!(
            param(&request, "/web/a b", b"\x00\x01\xff\x80"),
            json!({
                "status": 0, "method": "PUT", "path": "/web/a b", "query_string": "x=%20&x=2",
                "header": {"X-Skygear-Api-Key": ["k"], "X-Multi": ["a", "b"], "Etag": ["\u{fffd}"]},
                "body": "AAH/gA==",
            })
        );
    }

    #[test]
    fn what_is_empty_is_left_out_or_an_empty_text() {
        let request = TestRequest::get().uri("/web?").to_http_request();
        assert_eq!(
            param(&request, "/web", b""),
            json!({"status": 0, "method": "GET", "path": "/web", "header": {}, "body": ""})
        );
    }
}
