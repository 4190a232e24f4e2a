//! The form in which an event is shown to people and other programs.

use std::borrow::Cow;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::{Commit, Event, EventBody, PasswordRehashed, PasswordSet, UserState};
use crate::codec;

/// An event of a commit, to be written as JSON. Secrets in its payload, that is, password hashes,
/// are left out.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The commit.
    pub commit: &'a Commit,
    /// The event.
    pub event: &'a Event,
}

#[derive(Serialize)]
struct Form<'a> {
    position: u64,
    id: String,
    stream: &'a super::Stream,
    version: u32,
    kind: &'static str,
    time: crate::time::Timestamp,
    actor: &'a super::Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<uuid::Uuid>,
    commit: uuid::Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    causation: Option<uuid::Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sql: Option<&'a super::SqlSource>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    hooks: &'a [super::Provenance],
    payload: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erased: Option<Json>,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Self { commit, event } = *self;
        let form = Form {
            position: event.position,
            id: commit.event_id(event.position),
            stream: &event.stream,
            version: event.version,
            kind: event.body.kind().name(),
            time: commit.time,
            actor: &commit.actor,
            request_id: commit.request_id,
            commit: commit.id,
            causation: commit.causation,
            sql: commit.sql.as_deref(),
            hooks: &event.provenance,
            // Erased events have no payload.
            payload: codec::payload_json(&open(&event.body), commit.actor.user.as_ref()).ok(),
            erased: event.body.erased().map(|by| json!(by)),
        };
        form.serialize(out)
    }
}

/// Returns a body without its secrets.
fn open(body: &EventBody) -> Cow<'_, EventBody> {
    let hash = String::new;
    Cow::Owned(match body {
        EventBody::UserCreated(state) => EventBody::UserCreated(UserState {
            password_hash: None,
            password_history: Vec::new(),
            ..state.clone()
        }),
        EventBody::UserPasswordSet(set) => EventBody::UserPasswordSet(PasswordSet {
            hash: hash(),
            ..set.clone()
        }),
        EventBody::UserPasswordRehashed(_) => {
            EventBody::UserPasswordRehashed(PasswordRehashed { hash: hash() })
        }
        other => return Cow::Borrowed(other),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::event::{Actor, PastPassword, Stream};
    use crate::time::Timestamp;

    fn shown(body: EventBody) -> Json {
        let event = |position| Event {
            position,
            stream: Stream::parse("user/ada").unwrap(),
            version: 1,
            body: body.clone(),
            provenance: Vec::new(),
            payload_hash: [0; 32],
        };
        let commit = Commit {
            id: Uuid::nil(),
            time: Timestamp::from_micros(0),
            epoch: 1,
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events: vec![event(7), event(8)],
            chain: [0; 32],
        };
        let event = &commit.events[1];
        serde_json::to_value(Shown {
            commit: &commit,
            event,
        })
        .unwrap()
    }

    #[test]
    fn an_event_says_where_it_stands_and_of_whom() {
        let shown = shown(EventBody::UserEnabled(super::super::NoDetails {}));
        let expected = json!({
            "position": 8, "id": "00000000-0000-0000-0000-000000000000.1",
            "commit": "00000000-0000-0000-0000-000000000000", "stream": "user/ada", "version": 1,
            "kind": "user.enabled", "time": "1970-01-01T00:00:00Z",
            "actor": {"key": "none", "origin": "api"}, "payload": {},
        });
        assert_eq!(shown, expected);
    }

    /// For every kind of event, no member that holds a hash is shown.
    #[test]
    fn hashes_of_passwords_are_not_shown() {
        const SECRET: &str = "$argon2id$secret";
        let past = PastPassword {
            hash: SECRET.to_owned(),
            set_at: Timestamp::from_micros(0),
        };
        let bodies = [
            EventBody::UserCreated(UserState {
                password_hash: Some(SECRET.to_owned()),
                password_history: vec![past],
                ..UserState::default()
            }),
            EventBody::UserPasswordSet(PasswordSet {
                hash: SECRET.to_owned(),
                at: Timestamp::from_micros(0),
                num_kept: 1,
            }),
            EventBody::UserPasswordRehashed(PasswordRehashed {
                hash: SECRET.to_owned(),
            }),
        ];
        for body in bodies {
            let shown = shown(body).to_string();
            assert!(!shown.contains("argon2"), "{shown}");
        }
    }
}
