//! The job of a transport: it brings a request to the plugin and returns the answer.

use std::future::pending;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};
use skytrail_actors::plugin::TransportKind;
use skytrail_actors::plugin::protocol::{CallMessage, Outcome};
use tokio::sync::watch;

/// A request to a plugin. Serialized, it is v1's envelope.
#[derive(Debug, Serialize)]
pub(super) struct Envelope {
    /// Unique among the plugin's requests.
    #[serde(skip)]
    pub(super) id: String,
    /// The plugin's own call that caused it.
    #[serde(skip)]
    pub(super) parent: Option<String>,
    /// How many calls of plugins it is nested in.
    #[serde(skip)]
    pub(super) depth: u32,
    /// `op`, `hook`, `event`, …
    pub(super) kind: String,
    /// The point.
    pub(super) name: String,
    /// The content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) param: Option<Box<RawValue>>,
    /// The circumstances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<Box<RawValue>>,
}

/// The result of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// The plugin answered, even if with nonsense.
    Given(Outcome),
    /// No caller wanted it any more.
    Cancelled,
    /// The plugin may have received the request, and gave no answer.
    Lost {
        /// Why there is no answer.
        why: String,
        /// Whether the plugin is gone, too, as far as known.
        is_gone: bool,
    },
    /// There was nothing to receive the request.
    NotThere(String),
}

/// What a transport reports unasked.
#[derive(Debug)]
pub(super) enum Notice {
    /// The plugin asks for an action.
    Call(CallMessage),
    /// The plugin was away and is back: it must be initialised again.
    Back,
}

/// A transport to a plugin.
#[async_trait]
pub(super) trait Transport: Send + Sync + 'static {
    /// Returns its kind.
    fn kind(&self) -> TransportKind;

    /// Returns how many requests it takes at once.
    fn window(&self) -> u64;

    /// Brings a request to the plugin and waits for the answer. It is dropped when no caller waits
    /// any more; deadlines are the caller's.
    async fn request(&self, envelope: &Envelope) -> Answer;

    /// Waits for what the plugin says unasked. It can be dropped at any time, and must not lose
    /// anything then.
    async fn notice(&self) -> Notice {
        pending().await
    }

    /// Returns how many workers share its requests, where that is known.
    fn crew(&self) -> Option<watch::Receiver<usize>> {
        None
    }

    /// Takes the answer to a call by the plugin: the HTTP status and the body that it would have
    /// had.
    fn reply(&self, _call: &str, _status: u16, _body: &RawValue) {}
}

impl Envelope {
    /// Serializes v1's envelope.
    ///
    /// # Errors
    /// None is expected: it was JSON before.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Returns whether it is one of the events that lead to the plugin's registration.
    pub(super) fn is_initialisation(&self) -> bool {
        self.kind == "event" && matches!(self.name.as_str(), "before-config" | "init")
    }

    /// Parses v1's answer, and logs an unreadable one with its beginning.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read_or_log(&self, plugin: &str, answer: &[u8]) -> Result<Outcome, String> {
        self.read(answer).inspect_err(|why| {
            let (kind, name, num_bytes) = (&self.kind, &self.name, answer.len());
            let beginning = beginning(answer);
            tracing::warn!(
                plugin,
                kind,
                name,
                why,
                num_bytes,
                beginning,
                "the plugin's answer cannot be read"
            );
        })
    }

    /// Parses v1's answer. If it has both, `error` counts. A missing result is null for kinds with
    /// unused answers.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, answer: &[u8]) -> Result<Outcome, String> {
        let mut members = match skytrail_schema::json::from_slice(answer) {
            Ok(Json::Object(members)) => members,
            Ok(_) => return Err("expected an object".to_owned()),
            Err(error) => return Err(format!("the plugin's answer is not JSON: {error}")),
        };
        match members.remove("error") {
            None | Some(Json::Null) => {}
            Some(error @ Json::Object(_)) => return Ok(Outcome::Error(error)),
            Some(_) => return Err("expected error to be an object".to_owned()),
        }
        Ok(match members.remove("result") {
            Some(result) => Outcome::Result(result),
            None if matches!(self.kind.as_str(), "event" | "timer") => Outcome::Result(Json::Null),
            None => Outcome::Malformed,
        })
    }
}

/// Returns the beginning of an answer, for the log.
fn beginning(answer: &[u8]) -> String {
    const MAX_BYTES: usize = 100;
    let end = answer.len().min(MAX_BYTES);
    let beginning = answer.get(..end).unwrap_or_default();
    beginning.escape_ascii().to_string()
}

/// Returns the error of an unreadable answer.
pub(super) fn unparsed(why: &str) -> Outcome {
    Outcome::Error(json!({"code": 10000, "message": unparsed_text(why)}))
}

/// Returns the message of that error.
pub(super) fn unparsed_text(why: &str) -> String {
    format!("Failed to parse plugin response: {why}")
}

/// Returns an error of the transport itself: the plugin did not answer.
pub(super) fn failure(message: &str) -> Outcome {
    Outcome::Lost(json!({"code": 10000, "message": message}))
}

/// Returns the error of a transport that could not reach the plugin.
pub(super) fn unreached(message: &str) -> Outcome {
    Outcome::Unreached(json!({"code": 10000, "message": message}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(kind: &str) -> Envelope {
        Envelope {
            id: "r1".into(),
            parent: None,
            depth: 0,
            kind: kind.into(),
            name: "x".into(),
            param: None,
            context: None,
        }
    }

    #[test]
    fn empty_members_are_left_out() {
        let written = envelope("timer").to_json().unwrap();
        assert_eq!(written, br#"{"kind":"timer","name":"x"}"#);
    }

    #[test]
    fn the_log_shows_the_beginning_of_an_answer_escaped() {
        assert_eq!(beginning(b"<p>\n\x1b\xff"), r"<p>\n\x1b\xff");
        assert_eq!(beginning(&[b'x'; 1000]), "x".repeat(100));
    }

    #[test]
    fn an_answer_is_a_result_or_an_error() {
        let read = |kind: &str, text: &str| {
            let read = envelope(kind).read_or_log("P", text.as_bytes());
            read.unwrap_or_else(|why| unparsed(&why))
        };
        assert_eq!(
            read("op", r#"{"result":null,"error":null}"#),
            Outcome::Result(Json::Null)
        );
        assert_eq!(
            read("op", r#"{"result":1,"error":{"code":7}}"#),
            Outcome::Error(json!({"code": 7}))
        );
        assert_eq!(read("op", "{}"), Outcome::Malformed);
        assert_eq!(read("event", "{}"), Outcome::Result(Json::Null));
        for text in [
            "",
            "[]",
            "{",
            "\"text\"",
            "{\"result\":1}x",
            r#"{"error":"no"}"#,
        ] {
            let Outcome::Error(error) = read("op", text) else {
                panic!("{text}");
            };
            let message = error["message"].as_str().unwrap();
            assert!(message.starts_with("Failed to parse plugin response: "));
        }
        let why = envelope("op").read(b"<html>").unwrap_err();
        assert!(
            why.starts_with("the plugin's answer is not JSON: "),
            "{why}"
        );
    }
}
