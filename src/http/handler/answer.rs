//! Turns a plugin's answer to a request into a response that can be sent.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};
use skytrail_schema::code::ApiError;
use skytrail_schema::json;

/// Fields that concern one connection, or that follow from the body: only the server sets them.
const OWN_FIELDS: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A plugin's answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    status: StatusCode,
    fields: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

/// Parses an answer.
///
/// # Errors
/// 10000 for an answer that cannot be sent: a status that does not end a request, a field that is
/// not a list of strings or whose name or value is not allowed in a head, a body that is not
/// base64.
pub(super) fn parse(result: Json) -> Result<Answer, ApiError> {
    let mut result = json::into_object(result)
        .map_err(|other| bad(&format!("is not an object, but {}", json::type_of(&other))))?;
    Ok(Answer {
        status: status(&result)?,
        fields: fields(result.remove("header"))?,
        body: body(result.get("body"))?,
    })
}

impl Answer {
    /// Builds the response.
    pub(super) fn into_response(self) -> HttpResponse {
        let has_body = !matches!(
            self.status,
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
        );
        let mut builder = HttpResponse::build(self.status);
        for field in self.fields {
            builder.append_header(field);
        }
        if has_body {
            builder.body(self.body)
        } else {
            builder.finish()
        }
    }
}

/// Reads the status. A status below 200 announces another answer, and none would follow.
fn status(result: &Map<String, Json>) -> Result<StatusCode, ApiError> {
    let received = result.get("status");
    let status = received.and_then(json::whole_number);
    let status = status.and_then(|status| u16::try_from(status).ok());
    let status = status.filter(|status| *status >= 200);
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    status.ok_or_else(|| {
        let received = received.map(|received| format!(", not {}", beginning(received)));
        let received = received.unwrap_or_default();
        bad(&format!("needs a status from 200 to 999{received}"))
    })
}

/// Returns the beginning of a value's text.
fn beginning(value: &Json) -> String {
    const MAX_CHARS: usize = 40;
    value.to_string().chars().take(MAX_CHARS).collect()
}

fn fields(header: Option<Json>) -> Result<Vec<(HeaderName, HeaderValue)>, ApiError> {
    let header = match header {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(header) => json::into_object(header).map_err(|other| {
            let other = json::type_of(&other);
            bad(&format!("needs an object as its header, not {other}"))
        })?,
    };
    let own = own_fields(&header);
    let mut fields = Vec::new();
    for (name, values) in &header {
        let values = match values {
            Json::Null => continue,
            Json::Array(values) => values,
            other => {
                let other = json::type_of(other);
                return Err(bad(&format!(
                    "needs a list of strings as {name:?}, not {other}"
                )));
            }
        };
        let parsed = HeaderName::from_bytes(name.trim().as_bytes());
        let parsed = parsed.map_err(|_| bad(&format!("has an invalid header name {name:?}")))?;
        let is_own = own.iter().any(|own| own.eq_ignore_ascii_case(name.trim()));
        for value in values {
            let text = value.as_str();
            let text = text.ok_or_else(|| {
                let other = json::type_of(value);
                bad(&format!("needs strings in {name:?}, not {other}"))
            })?;
            let value = field_value(text);
            let value = value.ok_or_else(|| bad(&format!("has control characters in {name:?}")))?;
            if !is_own {
                fields.push((parsed.clone(), value));
            }
        }
    }
    Ok(fields)
}

/// Returns the names of fields that are not passed on, including those that `Connection` names.
fn own_fields(header: &Map<String, Json>) -> Vec<&str> {
    let connection = header
        .iter()
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("connection"))
        .filter_map(|(_, values)| values.as_array())
        .flatten()
        .filter_map(Json::as_str);
    let named = connection.flat_map(|value| value.split(',')).map(str::trim);
    OWN_FIELDS.iter().copied().chain(named).collect()
}

/// Builds a field's value. Line breaks, which some base64 encoders append, become spaces as in v1.
fn field_value(text: &str) -> Option<HeaderValue> {
    let line = text.replace(['\r', '\n'], " ");
    HeaderValue::from_bytes(line.trim().as_bytes()).ok()
}

fn body(body: Option<&Json>) -> Result<Vec<u8>, ApiError> {
    let text = match body {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::String(text)) => text,
        Some(other) => {
            let other = json::type_of(other);
            return Err(bad(&format!("needs base64 as its body, not {other}")));
        }
    };
    // Some base64 encoders break lines.
    let decoded = if text.contains(['\r', '\n']) {
        STANDARD.decode(text.replace(['\r', '\n'], ""))
    } else {
        STANDARD.decode(text)
    };
    decoded.map_err(|error| bad(&format!("needs base64 as its body: {error}")))
}

fn bad(what: &str) -> ApiError {
    ApiError::unexpected(format!("the plugin's answer to the request {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use skytrail_schema::code::Code;

    use super::*;

    type Shown = (u16, Vec<(String, String)>, Vec<u8>);

    fn shown(result: Json) -> Result<Shown, String> {
        let answer = parse(result).map_err(|error| error.message)?;
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let fields = answer.fields.iter();
        let fields = fields.map(|(name, value)| (name.to_string(), text(value)));
        Ok((answer.status.as_u16(), fields.collect(), answer.body))
    }

    #[test]
    fn an_answer_is_taken_as_it_is() {
        let answer = json!({"status": 201, "body": "AAH/gA==", "more": 1, "header":
            {"Content-Type": ["text/plain"], "Set-Cookie": ["a=1", "b=2\n"], "X-None": []}});
        let fields = [
            ("content-type", "text/plain"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let bytes = vec![0, 1, 0xff, 0x80];
        assert_eq!(shown(answer), Ok((201, fields.to_vec(), bytes)));
        for empty in [
            json!({"status": 999}),
            json!({"status": 999, "header": null, "body": null}),
            json!({"status": 999, "header": {"X-A": null}, "body": "\n"}),
            // As PHP writes an empty object, and as others write whole numbers.
            json!({"status": 999.0, "header": []}),
        ] {
            assert_eq!(shown(empty), Ok((999, Vec::new(), Vec::new())));
        }
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let answer = json!({"status": 200, "header": {
            "connection": ["close, X-Mine"], "CONTENT-LENGTH": ["1000"], "Keep-Alive": ["1"],
            "Transfer-Encoding": ["chunked"], "Upgrade": ["h2c"], "x-mine": ["1"], "X-Kept": ["1"]}});
        let kept = vec![("x-kept".to_owned(), "1".to_owned())];
        assert_eq!(shown(answer), Ok((200, kept, Vec::new())));
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        let cases = [
            (json!(null), "is not an object, but null"),
            (json!({}), "needs a status"),
            (json!({"status": 99}), "needs a status"),
            (json!({"status": 101}), "needs a status"),
            (json!({"status": 1000}), "needs a status"),
            (json!({"status": 200.5}), "needs a status"),
            (
                json!({"status": "404"}),
                "needs a status from 200 to 999, not \"404\"",
            ),
            (
                json!({"status": 200, "header": ["A: b"]}),
                "needs an object as its header, not a list",
            ),
            (
                json!({"status": 200, "header": {"A": "b"}}),
                "needs a list of strings as \"A\", not a string",
            ),
            (
                json!({"status": 200, "header": {"A": [1]}}),
                "needs strings in \"A\", not a number",
            ),
            (
                json!({"status": 200, "header": {"a b": ["c"]}}),
                "header name \"a b\"",
            ),
            (
                json!({"status": 200, "header": {"A": ["\u{0}"]}}),
                "control characters in \"A\"",
            ),
            (
                json!({"status": 200, "body": 1}),
                "base64 as its body, not a number",
            ),
            (json!({"status": 200, "body": "a"}), "needs base64"),
            (json!({"status": 200, "body": "a-_b"}), "needs base64"),
        ];
        for (answer, message) in cases {
            let refused = shown(answer.clone()).unwrap_err();
            assert!(refused.contains(message), "{answer}: {refused}");
        }
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            (-5i64..1100).prop_map(Json::from),
            any::<String>().prop_map(Json::from),
            "[A-Za-z-]{1,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = prop_oneof![
                prop::sample::select(vec!["status", "header", "body", "Connection"])
                    .prop_map(str::to_owned),
                any::<String>()
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                prop::collection::btree_map(name, inner, 0..5)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_answer_can_be_sent_or_is_refused(
            mut answer in any_json(),
            status in prop::option::of(0u64..1200),
            header in prop::option::of(any_json()),
        ) {
            if let Some(members) = answer.as_object_mut() {
                members.extend(status.map(|status| ("status".to_owned(), status.into())));
                members.extend(header.map(|header| ("header".to_owned(), header)));
            }
            match parse(answer) {
                Ok(answer) => {
                    prop_assert!((200..=999).contains(&answer.status.as_u16()));
                    let is_own = |(name, _): &(HeaderName, HeaderValue)| {
                        OWN_FIELDS.contains(&name.as_str())
                    };
                    prop_assert!(!answer.fields.iter().any(is_own));
                    answer.into_response();
                }
                Err(error) => prop_assert_eq!(error.code, Code::UnexpectedError),
            }
        }
    }
}
