//! What listeners are told, ready to be sent.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::json;
use skytrail_schema::code::ApiError;
use skytrail_schema::id::RecordId;

use crate::log::Timeline;

/// What a listener is told: JSON as a string, written once for all who are told the same.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The event's name, which is in the text, too.
    pub event: &'static str,
    /// A listener that has received this frame has received everything up to this position. Of
    /// frames that belong together, only the last one has a position.
    pub position: Option<u64>,
    content: Arc<Content>,
}

#[derive(Debug)]
struct Content {
    text: String,
    /// The text as it is sent over a connection.
    packed: OnceLock<Bytes>,
}

impl Frame {
    /// Returns the text.
    pub fn text(&self) -> &str {
        &self.content.text
    }

    /// Returns the length of the text.
    pub(super) fn num_bytes(&self) -> usize {
        self.content.text.len()
    }

    /// Returns the text as `pack` prepares it for a connection. All connections have the same
    /// `pack`, so it is called once.
    pub fn packed(&self, pack: fn(&str) -> Bytes) -> Bytes {
        let content = &self.content;
        content.packed.get_or_init(|| pack(&content.text)).clone()
    }
}

/// How a subscription's frames are marked: with the name that the listener gave it, or not at all.
/// Their positions belong to a timeline, which `ready` names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Label {
    name: Option<Arc<str>>,
    timeline: Timeline,
}

impl Label {
    /// Marks frames with a name; an empty one stands for the only subscription of a stream, which
    /// has no name.
    pub(super) fn new(name: &str, timeline: Timeline) -> Self {
        let is_named = !name.is_empty();
        Self {
            name: is_named.then(|| json!(name).to_string().into()),
            timeline,
        }
    }

    /// A record is new in the result, or has changed.
    pub(super) fn record(&self, event: &'static str, position: Option<u64>, body: &str) -> Frame {
        self.write(event, position, Some(("record", body)))
    }

    /// A record is no longer in the result.
    pub(super) fn leave(&self, position: Option<u64>, id: &RecordId) -> Frame {
        let body = json!({"_id": id.to_string(), "_type": "record"}).to_string();
        self.write("leave", position, Some(("record", &body)))
    }

    /// Some records of the result, given as a JSON array.
    pub(super) fn result(&self, page: &str) -> Frame {
        self.write("result", None, Some(("records", page)))
    }

    /// Everything up to a position has been told.
    pub(super) fn ready(&self, position: u64) -> Frame {
        let timeline = json!(self.timeline.to_string()).to_string();
        self.write("ready", Some(position), Some(("timeline", &timeline)))
    }

    /// Everything told before is void; a result follows.
    pub(super) fn reset(&self, reason: &str) -> Frame {
        self.write("reset", None, Some(("reason", &json!(reason).to_string())))
    }

    /// The subscription has ended with an error.
    pub(super) fn error(&self, error: &ApiError) -> Frame {
        self.write("error", None, Some(("error", &error.to_wire().to_string())))
    }

    /// The subscription has ended as requested.
    pub(super) fn end(&self) -> Frame {
        self.write("end", None, None)
    }

    fn write(
        &self,
        event: &'static str,
        position: Option<u64>,
        member: Option<(&str, &str)>,
    ) -> Frame {
        let mut text = String::with_capacity(member.map_or(0, |(_, body)| body.len()) + 96);
        text.push('{');
        if let Some(name) = &self.name {
            text.push_str("\"id\":");
            text.push_str(name);
            text.push(',');
        }
        text.push_str("\"event\":\"");
        text.push_str(event);
        text.push('"');
        if let Some(position) = position {
            text.push_str(",\"position\":");
            text.push_str(&position.to_string());
        }
        if let Some((name, body)) = member {
            text.push_str(",\"");
            text.push_str(name);
            text.push_str("\":");
            text.push_str(body);
        }
        text.push('}');
        Frame {
            event,
            position,
            content: Arc::new(Content {
                text,
                packed: OnceLock::new(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_json_with_the_listeners_own_name() {
        let label = Label::new("a\"b", Timeline::default());
        let text = |frame: Frame| serde_json::from_str::<serde_json::Value>(frame.text()).unwrap();
        let id = RecordId::new("note", "x/y");
        assert_eq!(
            text(label.leave(Some(7), &id)),
            json!({"id": "a\"b", "event": "leave", "position": 7,
                "record": {"_id": "note/x/y", "_type": "record"}})
        );
        assert_eq!(
            text(Label::default().record("enter", None, "{\"n\":1}")),
            json!({"event": "enter", "record": {"n": 1}})
        );
        assert_eq!(
            text(label.reset("too old")),
            json!({"id": "a\"b", "event": "reset", "reason": "too old"})
        );
        assert_eq!(
            text(Label::default().ready(9)),
            json!({"event": "ready", "position": 9, "timeline": "00000000"})
        );
    }
}
