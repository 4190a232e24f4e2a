//! The bodies of messages: workers' calls, and the errors that they get instead of an answer.

use serde_json::{Map, Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json;

/// Parses a worker's call. It has the master key's rights whatever key it carries, like a call
/// without a key.
///
/// # Errors
/// The answer to an invalid call.
pub(super) fn payload(body: &[u8]) -> Result<Map<String, Json>, Vec<u8>> {
    let refuse = |message: String| Err(refusal(&ApiError::new(Code::BadRequest, message)));
    let mut members = match json::from_slice(body) {
        Ok(Json::Object(members)) => members,
        Ok(_) => return refuse("a call should be an object".to_owned()),
        Err(error) => return refuse(format!("a call should be an object: {error}")),
    };
    match members.remove("payload") {
        Some(Json::Object(mut payload)) => {
            payload.remove("api_key");
            Ok(payload)
        }
        _ => refuse("payload should be an object".to_owned()),
    }
}

/// Serializes a refusal like an action's answer.
pub(super) fn refusal(error: &ApiError) -> Vec<u8> {
    format!("{}\n", json!({"error": error.to_wire()})).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_lose_their_key() {
        let body = br#"{"method":"POST","payload":{"action":"a","api_key":"k","x":1}}"#;
        let payload = payload(body).unwrap();
        assert_eq!(Json::Object(payload), json!({"action": "a", "x": 1}));
    }

    #[test]
    fn what_is_no_call_is_refused() {
        for odd in ["", "no JSON", "[]", "{}", r#"{"payload": 1}"#, "\u{0}"] {
            let refusal: Json =
                serde_json::from_slice(&payload(odd.as_bytes()).unwrap_err()).unwrap();
            assert_eq!(refusal["error"]["code"], 107, "{odd}");
        }
    }
}
