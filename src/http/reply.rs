//! The answer of an action in bytes: a result is serialized once, directly from its source.

use serde::Serialize;
use serde_json::Value as Json;
use skytrail_schema::code::ApiError;
use skytrail_schema::json;

/// The outcome of an action.
pub type Outcome = Result<Reply, ApiError>;

/// The body of a successful answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply(Vec<u8>);

impl Reply {
    /// Answers `{"result": …}`; without `result` if it is null.
    ///
    /// # Errors
    /// The result cannot be written as JSON.
    pub fn new(result: &impl Serialize) -> Outcome {
        Self::with_info(result, None::<&Json>)
    }

    /// Answers `{"result": …, "info": …}`; each is left out if null or absent.
    ///
    /// # Errors
    /// The result cannot be written as JSON.
    pub fn with_info(result: &impl Serialize, info: Option<&impl Serialize>) -> Outcome {
        let mut bytes = Vec::with_capacity(512);
        bytes.push(b'{');
        write_member(&mut bytes, "result", result)?;
        if let Some(info) = info {
            write_member(&mut bytes, "info", info)?;
        }
        bytes.extend_from_slice(b"}\n");
        Ok(Self(bytes))
    }

    /// Returns the bytes, with a newline at the end.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Returns the number of bytes.
    pub fn num_bytes(&self) -> usize {
        self.0.len()
    }

    /// Parses the body again, for callers that need a JSON value.
    ///
    /// # Errors
    /// The body is not JSON, which cannot happen.
    pub fn to_json(&self) -> Result<Json, ApiError> {
        json::from_slice(&self.0).map_err(|error| ApiError::unexpected(error.to_string()))
    }
}

fn write_member(bytes: &mut Vec<u8>, name: &str, value: &impl Serialize) -> Result<(), ApiError> {
    let start = bytes.len();
    if start > 1 {
        bytes.push(b',');
    }
    bytes.push(b'"');
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b"\":");
    let value_start = bytes.len();
    serde_json::to_writer(&mut *bytes, value)
        .map_err(|error| ApiError::unexpected(error.to_string()))?;
    if bytes.get(value_start..) == Some(b"null".as_slice()) {
        bytes.truncate(start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(outcome: Outcome) -> String {
        String::from_utf8(outcome.unwrap().into_bytes()).unwrap()
    }

    #[test]
    fn null_results_are_left_out_and_empty_ones_are_kept() {
        assert_eq!(text(Reply::new(&Json::Null)), "{}\n");
        for value in [json!(0), json!(false), json!(""), json!([]), json!({})] {
            let expected = format!("{{\"result\":{value}}}\n");
            assert_eq!(text(Reply::new(&value)), expected);
        }
        let info = json!({"count": 1});
        assert_eq!(
            text(Reply::with_info(&Json::Null, Some(&info))),
            "{\"info\":{\"count\":1}}\n"
        );
        assert_eq!(
            text(Reply::with_info(&json!([]), Some(&info))),
            "{\"result\":[],\"info\":{\"count\":1}}\n"
        );
    }
}
