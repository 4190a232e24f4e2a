//! Messages from the server.

use serde::Serialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::plugin::gate::{CallContext, DeliveryNote};

/// A message to a worker, with its place in the session.
#[derive(Debug, Serialize)]
pub struct ServerFrame<'a> {
    /// The message.
    #[serde(flatten)]
    pub message: &'a ServerMessage<'a>,
    /// The message's number; `welcome`, `ping` and `pong` have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The highest number that was received from the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack: Option<u64>,
}

/// A message to a worker.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ServerMessage<'a> {
    /// The worker was accepted.
    Welcome(WelcomeMessage<'a>),
    /// Do this.
    Request(RequestMessage<'a>),
    /// Stop doing this.
    Cancel {
        /// The request.
        id: &'a str,
        /// Why.
        reason: CancelReason,
    },
    /// The registration was accepted or refused.
    Registered {
        /// Whether it was accepted.
        ok: bool,
        /// How many points of each kind were registered.
        #[serde(skip_serializing_if = "Option::is_none")]
        points: Option<Json>,
        /// Why it was refused.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        problems: &'a [Problem],
    },
    /// How far all plugins are.
    Ready {
        /// `ready`: clients are served.
        state: &'static str,
    },
    /// The answer of an action.
    Reply {
        /// The call.
        id: &'a str,
        /// The HTTP status.
        status: u16,
        /// The body.
        body: &'a Json,
    },
    /// No new requests will follow.
    Drain {
        /// Why.
        reason: &'a str,
        /// Whether the worker should connect again.
        reconnect: bool,
        /// If so, how many workers will, so that they can spread.
        #[serde(skip_serializing_if = "Option::is_none")]
        workers: Option<usize>,
    },
    /// Nothing is in flight any more.
    Drained,
    /// Is anybody there?
    Ping,
    /// Yes.
    Pong,
    /// The worker did something odd.
    Warning {
        /// What.
        message: &'a str,
    },
}

impl ServerMessage<'_> {
    /// Returns whether the message is numbered.
    pub fn has_seq(&self) -> bool {
        !matches!(self, Self::Welcome(_) | Self::Ping | Self::Pong)
    }
}

/// The session's limits.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "named as in the protocol")]
pub struct WelcomeMessage<'a> {
    pub session: &'a str,
    pub secret: &'a str,
    pub resumed: bool,
    /// For a resumed session: the highest number received from the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    pub server: &'a str,
    pub heartbeat_ms: u64,
    pub resume_ms: u64,
    pub max_message: usize,
    pub max_calls: usize,
    pub max_depth: u32,
    pub features: &'a [&'a str],
}

/// A request to a worker: v1's envelope, with an id and a limit.
#[derive(Debug, Serialize)]
pub struct RequestMessage<'a> {
    /// Chosen by the server, unique within the session.
    pub id: &'a str,
    /// For how long an answer counts.
    pub timeout_ms: u64,
    /// `op`, `hook`, `event`, …
    pub kind: &'a str,
    /// The point.
    pub name: &'a str,
    /// The content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param: Option<&'a RawValue>,
    /// The circumstances.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<&'a CallContext>,
    /// The worker's call that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<&'a str>,
    /// How many calls of plugins it is nested in; left out if none.
    #[serde(skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// What it delivers, for workers that want to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<&'a DeliveryNote>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Why a request is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CancelReason {
    /// Its deadline passed.
    Deadline,
    /// No caller waits for it any more.
    ClientGone,
    /// The server is stopping.
    Shutdown,
}

/// What is wrong with a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The list in the answer to `init`.
    pub list: String,
    /// The point, if it has a name.
    pub name: String,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            list,
            name,
            message,
        } = self;
        if name.is_empty() {
            write!(f, "{list}: {message}")
        } else {
            write!(f, "{list} {name:?}: {message}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    fn written(message: &ServerMessage<'_>) -> Json {
        to_value(ServerFrame {
            message,
            seq: Some(5),
            ack: None,
        })
        .unwrap()
    }

    #[test]
    fn a_request_is_the_envelope_with_id_and_limit() {
        let param = serde_json::value::to_raw_value(&json!({"a": 1})).unwrap();
        let request = ServerMessage::Request(RequestMessage {
            id: "r5",
            timeout_ms: 30_000,
            kind: "op",
            name: "hello:world",
            param: Some(&param),
            context: None,
            parent: Some("c1"),
            depth: 1,
            delivery: None,
        });
        let text = serde_json::to_string(&ServerFrame {
            message: &request,
            seq: Some(5),
            ack: Some(7),
        })
        .unwrap();
        assert_eq!(
            serde_json::from_str::<Json>(&text).unwrap(),
            json!({"type": "request", "seq": 5, "ack": 7, "id": "r5", "timeout_ms": 30000,
                "kind": "op", "name": "hello:world", "param": {"a": 1}, "parent": "c1",
                "depth": 1})
        );
    }

    #[test]
    fn small_messages_have_the_protocols_shape() {
        let cases = [
            (ServerMessage::Drained, json!({"type": "drained", "seq": 5})),
            (
                ServerMessage::Cancel {
                    id: "r7",
                    reason: CancelReason::ClientGone,
                },
                json!({"type": "cancel", "seq": 5, "id": "r7", "reason": "client-gone"}),
            ),
            (
                ServerMessage::Registered {
                    ok: true,
                    points: Some(json!({"op": 1})),
                    problems: &[],
                },
                json!({"type": "registered", "seq": 5, "ok": true, "points": {"op": 1}}),
            ),
            (
                ServerMessage::Ready { state: "ready" },
                json!({"type": "ready", "seq": 5, "state": "ready"}),
            ),
            (
                ServerMessage::Reply {
                    id: "c1",
                    status: 200,
                    body: &json!({"result": []}),
                },
                json!({"type": "reply", "seq": 5, "id": "c1", "status": 200, "body": {"result": []}}),
            ),
        ];
        for (message, expected) in cases {
            assert_eq!(written(&message), expected);
        }
    }
}
