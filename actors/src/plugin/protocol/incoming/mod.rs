//! Messages from workers.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use skytrail_schema::json;

use super::MAX_DEPTH;

/// A message from a worker, with its place in the session.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerFrame {
    /// The message's number; `hello`, `ping` and `pong` have none.
    pub seq: Option<u64>,
    /// The highest number that the worker has received.
    pub ack: Option<u64>,
    /// Its size in bytes.
    pub size: usize,
    /// The message.
    pub message: WorkerMessage,
}

/// A message from a worker.
#[derive(Clone, Debug, PartialEq)]
pub enum WorkerMessage {
    /// Who it is; the first message.
    Hello(Box<Hello>),
    /// The answer to a request.
    Response(ResponseMessage),
    /// It no longer wants the reply to its call with this id.
    Cancel(String),
    /// It is still working on a delivery.
    Progress(String),
    /// How many requests it takes at once from now on.
    Window(u64),
    /// It asks for an action.
    Call(CallMessage),
    /// It wants no new requests; for how long the server should wait for those in flight.
    Drain(Option<Duration>),
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
    /// The server did something odd.
    Warning(String),
    /// A type that this server does not know.
    Unknown(String),
}

/// Who a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The plugin.
    pub plugin: String,
    /// The worker, for people.
    pub worker: String,
    /// The deployment; higher is newer.
    pub generation: u64,
    /// How many requests it takes at once.
    pub window: Option<u64>,
    /// The largest message that it accepts, in bytes.
    pub max_message: Option<u64>,
    /// The library that it uses, for people.
    pub sdk: String,
    /// The optional features that it supports.
    pub features: Vec<String>,
    /// The session that it comes back to.
    pub resume: Option<Resume>,
    /// The position after which it wants deliveries to start, if it keeps positions itself.
    pub from: Option<u64>,
}

/// A claim to a session whose transport was lost. Never printed, because it contains the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Resume {
    /// The session.
    pub session: String,
    /// The secret that only its worker knows.
    pub secret: String,
    /// The highest number that the worker has received.
    pub received: u64,
}

impl fmt::Debug for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resume")
            .field("session", &self.session)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct ResponseMessage {
    /// The request's id.
    pub id: String,
    /// How the request ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A result, which may be null.
    Result(Json),
    /// An error.
    Error(Json),
    /// The plugin did not answer at all; the content is its transport's error. Workers never send
    /// this.
    Lost(Json),
    /// Like `Lost`, but the request has certainly not reached the plugin.
    Unreached(Json),
    /// Neither a result nor an error, or both.
    Malformed,
}

/// An action that a worker asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct CallMessage {
    /// The call's id.
    pub id: String,
    /// The request that it is made for.
    pub parent: Option<String>,
    /// How long the worker waits for the reply.
    pub timeout: Option<Duration>,
    /// The body of the action.
    pub payload: Map<String, Json>,
}

/// Why a frame is not a message. Each is a protocol error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// The frame itself is broken, whatever it contains.
    #[error("{0}")]
    Broken(String),
    /// JSON, but not an object.
    #[error("not an object")]
    NotAnObject,
    /// Nested deeper than allowed.
    #[error("nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A member is missing or has the wrong type.
    #[error("{member} should be {expected}")]
    BadMember {
        /// The member.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

/// Parses a text frame.
///
/// # Errors
/// See [`FrameError`].
pub fn parse(text: &str) -> Result<WorkerFrame, FrameError> {
    if is_too_deep(text) {
        return Err(FrameError::TooDeep);
    }
    let json = json::from_str(text).map_err(|error| FrameError::NotJson(error.to_string()))?;
    let Json::Object(mut members) = json else {
        return Err(FrameError::NotAnObject);
    };
    let kind = required_text(&mut members, "type")?;
    Ok(WorkerFrame {
        seq: optional_number(&members, "seq")?,
        ack: optional_number(&members, "ack")?,
        size: text.len(),
        message: message(kind, members)?,
    })
}

fn message(kind: String, mut members: Map<String, Json>) -> Result<WorkerMessage, FrameError> {
    let members = &mut members;
    Ok(match kind.as_str() {
        "hello" => WorkerMessage::Hello(Box::new(hello(members)?)),
        "response" => WorkerMessage::Response(ResponseMessage {
            id: required_text(members, "id")?,
            outcome: outcome(members),
        }),
        "cancel" => WorkerMessage::Cancel(required_text(members, "id")?),
        "progress" => WorkerMessage::Progress(required_text(members, "id")?),
        "window" => {
            WorkerMessage::Window(optional_number(members, "size")?.ok_or(bad("size", "a number"))?)
        }
        "call" => WorkerMessage::Call(call(members)?),
        "drain" => WorkerMessage::Drain(optional_millis(members, "drain_ms")?),
        "ping" => WorkerMessage::Ping,
        "pong" => WorkerMessage::Pong,
        "warning" => WorkerMessage::Warning(optional_text(members, "message")?.unwrap_or_default()),
        _ => WorkerMessage::Unknown(kind),
    })
}

fn hello(members: &mut Map<String, Json>) -> Result<Hello, FrameError> {
    Ok(Hello {
        plugin: required_text(members, "plugin")?,
        worker: optional_text(members, "worker")?.unwrap_or_default(),
        generation: optional_number(members, "generation")?.unwrap_or_default(),
        window: optional_number(members, "window")?,
        max_message: optional_number(members, "max_message")?,
        sdk: optional_text(members, "sdk")?.unwrap_or_default(),
        features: optional_texts(members, "features")?,
        resume: resume(members)?,
        from: optional_number(members, "from")?,
    })
}

fn resume(members: &mut Map<String, Json>) -> Result<Option<Resume>, FrameError> {
    let mut claim = match members.remove("resume") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Object(claim)) => claim,
        Some(_) => return Err(bad("resume", "an object")),
    };
    Ok(Some(Resume {
        session: required_text(&mut claim, "session")?,
        secret: required_text(&mut claim, "secret")?,
        received: optional_number(&claim, "received")?.unwrap_or_default(),
    }))
}

/// Reads the outcome of a response. A null error counts as none, because v1's runtimes send one
/// next to each result.
fn outcome(members: &mut Map<String, Json>) -> Outcome {
    let error = members.remove("error").filter(|error| !error.is_null());
    let error = error.map(json::into_object);
    match (members.remove("result"), error) {
        (Some(result), None) => Outcome::Result(result),
        (None, Some(Ok(error))) => Outcome::Error(error.into()),
        _ => Outcome::Malformed,
    }
}

fn call(members: &mut Map<String, Json>) -> Result<CallMessage, FrameError> {
    let payload = members.remove("payload").map(json::into_object);
    let Some(Ok(payload)) = payload else {
        return Err(bad("payload", "an object"));
    };
    Ok(CallMessage {
        id: required_text(members, "id")?,
        parent: optional_text(members, "parent")?,
        timeout: optional_millis(members, "timeout_ms")?,
        payload,
    })
}

fn bad(member: &'static str, expected: &'static str) -> FrameError {
    FrameError::BadMember { member, expected }
}

fn required_text(
    members: &mut Map<String, Json>,
    name: &'static str,
) -> Result<String, FrameError> {
    optional_text(members, name)?.ok_or(bad(name, "a string"))
}

fn optional_text(
    members: &mut Map<String, Json>,
    name: &'static str,
) -> Result<Option<String>, FrameError> {
    match members.remove(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(bad(name, "a string")),
    }
}

fn optional_texts(
    members: &mut Map<String, Json>,
    name: &'static str,
) -> Result<Vec<String>, FrameError> {
    let expected = || bad(name, "a list of strings");
    match members.remove(name) {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(list) => serde_json::from_value(list).map_err(|_| expected()),
    }
}

fn optional_number(
    members: &Map<String, Json>,
    name: &'static str,
) -> Result<Option<u64>, FrameError> {
    match members.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match json::whole_number(value) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(name, "a whole number from 0")),
        },
    }
}

fn optional_millis(
    members: &Map<String, Json>,
    name: &'static str,
) -> Result<Option<Duration>, FrameError> {
    Ok(optional_number(members, name)?.map(Duration::from_millis))
}

/// Returns whether a text nests arrays and objects too deeply. Brackets inside strings do not
/// count; for invalid JSON any answer is right.
fn is_too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    let mut is_in_string = false;
    let mut is_escaped = false;
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            _ if is_in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
