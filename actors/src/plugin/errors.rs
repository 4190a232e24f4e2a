//! Errors of plugin requests, as clients see them.

use serde_json::{Value as Json, json};
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::json::whole_number;

use super::protocol::Outcome;
use super::settings::TransportKind;

/// The maximum length of a plugin's error message.
const MAX_MESSAGE_BYTES: usize = 8 * 1024;

/// Why no worker can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// No worker is connected.
    NoWorker,
    /// The worker that had the request is gone.
    WorkerLost,
    /// Too many requests are queued.
    QueueFull,
    /// Deliveries to the plugin are paused.
    Paused,
}

/// Returns error 118, for a plugin that cannot answer.
pub(crate) fn unavailable(plugin: &str, why: Unavailable) -> ApiError {
    let (reason, message) = match why {
        Unavailable::NoWorker => ("no-worker", "no worker of the plugin is connected"),
        Unavailable::WorkerLost => ("worker-lost", "the plugin's worker was lost"),
        Unavailable::QueueFull => ("queue-full", "too many requests wait for the plugin"),
        Unavailable::Paused => ("paused", "deliveries to the plugin are paused"),
    };
    ApiError::new(Code::PluginUnavailable, message)
        .with_info("plugin", json!(plugin))
        .with_info("reason", json!(reason))
}

/// Returns the error of a request whose limit passed: 119, or v1's error on the transports of v1.
pub(crate) fn timed_out(plugin: &str, transport: TransportKind) -> ApiError {
    if transport != TransportKind::WebSocket {
        return ApiError::unexpected("Plugin time out");
    }
    late(plugin)
}

/// Returns error 119, for a plugin that took too long.
pub(crate) fn late(plugin: &str) -> ApiError {
    ApiError::new(Code::PluginTimeout, "the plugin did not answer in time")
        .with_info("plugin", json!(plugin))
        .with_info("reason", json!("deadline"))
}

/// Returns error 122, for a client whose own limit passed first.
pub(crate) fn response_timed_out() -> ApiError {
    ApiError::new(Code::ResponseTimeout, "Service taking too long to respond.")
}

/// Returns the refusal of a message to a worker that exceeds one side's size limit.
pub(crate) fn too_large(size: usize, limit: usize, own_limit: usize) -> ApiError {
    let whose = if limit < own_limit {
        "plugin"
    } else {
        "server"
    };
    let message = format!(
        "the message to the plugin has {size} bytes, more than the {whose}'s PLUGIN_MAX_MESSAGE of \
         {limit}"
    );
    ApiError::new(Code::BadRequest, message).with_status(413)
}

/// Returns the refusal of calls that nest too deeply.
pub(crate) fn too_deep() -> ApiError {
    ApiError::unexpected("Plugin exceeded max bounce count")
}

/// Turns a worker's answer into the result of the request.
pub(crate) fn result_of(outcome: Outcome, dev_mode: bool) -> Result<Json, ApiError> {
    match outcome {
        Outcome::Result(result) => Ok(result),
        Outcome::Error(error) | Outcome::Lost(error) | Outcome::Unreached(error) => {
            Err(plugin_error(&error, dev_mode))
        }
        Outcome::Malformed => Err(ApiError::unexpected(
            "Failed to parse plugin response: expected either result or error, which is an object",
        )),
    }
}

/// Passes on a plugin's own error. Its traceback is removed outside of development mode.
fn plugin_error(error: &Json, dev_mode: bool) -> ApiError {
    let code = error.get("code").and_then(code_number).unwrap_or_default();
    let message = error.get("message").and_then(Json::as_str);
    let message = match message {
        None | Some("") => "An unexpected error has occurred in the plugin.",
        Some(message) => cut(message),
    };
    let code = if code == 0 {
        Code::UnexpectedError
    } else {
        Code::from_number(code)
    };
    let mut api = ApiError::new(code, message);
    if let Some(info) = error.get("info").and_then(Json::as_object) {
        api.info.clone_from(info);
    }
    if !dev_mode {
        api.info.remove("trace");
    }
    api
}

fn code_number(code: &Json) -> Option<i64> {
    let whole = || whole_number(code).and_then(|code| i64::try_from(code).ok());
    code.as_i64().or_else(whole)
}

/// Returns an error's code if it is not a number, so that it does not count.
pub(crate) fn unreadable_code(outcome: &Outcome) -> Option<&Json> {
    let Outcome::Error(error) = outcome else {
        return None;
    };
    let code = error.get("code").filter(|code| !code.is_null())?;
    code_number(code).is_none().then_some(code)
}

fn cut(message: &str) -> &str {
    let end = message.floor_char_boundary(MAX_MESSAGE_BYTES);
    message.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: Json, dev_mode: bool) -> Json {
        result_of(Outcome::Error(json), dev_mode)
            .unwrap_err()
            .to_wire()
    }

    #[test]
    fn a_plugins_error_keeps_code_message_and_info() {
        assert_eq!(
            error(
                json!({"code": 108, "message": "no", "info": {"arguments": ["title"]}}),
                false
            ),
            json!({"name": "InvalidArgument", "code": 108, "message": "no",
                "info": {"arguments": ["title"]}})
        );
        assert_eq!(
            error(json!({"code": 77, "message": "x"}), false)["name"],
            "ErrorCode(77)"
        );
    }

    #[test]
    fn a_code_is_a_whole_number_in_any_form() {
        for code in [json!(108), json!(108.0)] {
            let outcome = Outcome::Error(json!({"code": code}));
            assert_eq!(unreadable_code(&outcome), None);
            assert_eq!(result_of(outcome, false).unwrap_err().code.number(), 108);
        }
        for code in [json!("108"), json!(1.5), json!([108])] {
            let outcome = Outcome::Error(json!({"code": code}));
            assert_eq!(unreadable_code(&outcome), Some(&code));
        }
        for error in [json!({}), json!({"code": null})] {
            assert_eq!(unreadable_code(&Outcome::Error(error)), None);
        }
    }

    #[test]
    fn what_is_missing_is_filled_in() {
        for odd in [
            json!({}),
            json!({"code": 0, "message": ""}),
            json!("text"),
            json!({"code": "1"}),
        ] {
            let error = error(odd, false);
            assert_eq!(error["code"], 10000);
            assert_eq!(
                error["message"],
                "An unexpected error has occurred in the plugin."
            );
        }
    }

    #[test]
    fn tracebacks_are_for_developers() {
        let traced = json!({"code": 10000, "message": "x", "info": {"trace": ["secret"], "a": 1}});
        assert_eq!(error(traced.clone(), false)["info"], json!({"a": 1}));
        assert_eq!(error(traced, true)["info"]["trace"], json!(["secret"]));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let long = "ä".repeat(MAX_MESSAGE_BYTES);
        let error = error(json!({"code": 1, "message": format!("x{long}")}), false);
        assert_eq!(
            error["message"].as_str().unwrap().len(),
            MAX_MESSAGE_BYTES - 1
        );
    }
}
