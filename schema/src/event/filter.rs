//! A filter that selects events.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{Actor, Commit, Event, EventBody, EventKind, Origin, Provenance, Stream};
use crate::caller::KeyKind;
use crate::id::{TypeName, UserId};

/// The properties that an event must have. An absent or empty member matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// It belongs to this stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<Stream>,
    /// It is about records of one of these types, or about one of these types themselves, or it
    /// requests an erasure that can concern them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub record_types: BTreeSet<TypeName>,
    /// It is of one of these kinds.
    #[serde(default, skip_serializing_if = "Kinds::is_empty")]
    pub kinds: Kinds,
    /// It was caused by this user, directly or through a plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// It was caused with one of these keys.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<KeyKind>,
    /// It entered the server in one of these ways.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub origins: BTreeSet<Origin>,
    /// It was caused by this plugin, or changed by one of its hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// It was caused by this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
}

impl EventFilter {
    /// Returns whether the filter wants an event.
    pub fn matches(&self, commit: &Commit, event: &Event) -> bool {
        let kind = event.body.kind();
        self.may_be_in(&commit.actor, commit.request_id)
            && self.may_want(&commit.actor, &event.stream, kind, &event.provenance)
            && self.is_of_type(event)
    }

    /// Returns whether the filter is empty, so that it wants everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a commit by this actor, from this request, can contain a wanted event.
    pub(crate) fn may_be_in(&self, actor: &Actor, request_id: Option<Uuid>) -> bool {
        let is_of_user = self.user.as_ref().is_none_or(|user| actor.acts_for(user));
        is_of_user
            && (self.keys.is_empty() || self.keys.contains(&actor.key))
            && (self.origins.is_empty() || self.origins.contains(&actor.origin))
            && (self.request_id.is_none() || self.request_id == request_id)
    }

    /// Returns whether an event can be wanted, given that its commit can contain wanted ones. Only
    /// the payload of an erasure can still make a difference.
    pub(crate) fn may_want(
        &self,
        actor: &Actor,
        stream: &Stream,
        kind: EventKind,
        provenance: &[Provenance],
    ) -> bool {
        let is_of_plugin = self.plugin.as_ref().is_none_or(|plugin| {
            let mut hooks = provenance.iter();
            actor.plugin.as_ref() == Some(plugin) || hooks.any(|it| it.plugin == *plugin)
        });
        let is_of_stream = self.stream.as_ref().is_none_or(|it| it == stream);
        is_of_stream
            && is_of_plugin
            && (kind == EventKind::ErasureRequested || self.is_stream_of_type(stream))
            && (self.kinds.is_empty() || self.kinds.0.contains(&kind))
    }

    fn is_of_type(&self, event: &Event) -> bool {
        match &event.body {
            EventBody::ErasureRequested(request) if !self.record_types.is_empty() => {
                let is_named = |name: &TypeName| self.record_types.contains(name);
                request.scope.concerns(is_named)
            }
            _ => self.is_stream_of_type(&event.stream),
        }
    }

    fn is_stream_of_type(&self, stream: &Stream) -> bool {
        let is_named = |name| self.record_types.contains(name);
        self.record_types.is_empty() || stream.record_type().is_some_and(is_named)
    }
}

/// A set of event kinds, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kinds(BTreeSet<EventKind>);

impl Kinds {
    /// Parses names: of a single kind such as `record.created`, or of a family of kinds such as
    /// `record`.
    ///
    /// # Errors
    /// The first name that is neither.
    pub fn parse<T: AsRef<str>>(names: &[T]) -> Result<Self, String> {
        let mut kinds = BTreeSet::new();
        for name in names.iter().map(AsRef::as_ref) {
            let is_meant = |kind: &&EventKind| {
                let (family, _) = kind.name().split_once('.').unwrap_or((kind.name(), ""));
                kind.name() == name || family == name
            };
            let mut meant = EventKind::ALL.iter().filter(is_meant).peekable();
            if meant.peek().is_none() {
                return Err(name.to_owned());
            }
            kinds.extend(meant);
        }
        Ok(Self(kinds))
    }

    /// Creates a set of these kinds.
    pub fn of(kinds: impl IntoIterator<Item = EventKind>) -> Self {
        Self(kinds.into_iter().collect())
    }

    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the kinds.
    pub fn iter(&self) -> impl Iterator<Item = EventKind> {
        self.0.iter().copied()
    }
}

impl Serialize for Kinds {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter().map(EventKind::name))
    }
}

impl<'de> Deserialize<'de> for Kinds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let unknown = |name| serde::de::Error::custom(format!("unknown kind of event: {name:?}"));
        Self::parse(&names).map_err(unknown)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::event::{Actor, ChangeStamp, ErasureRequest, ErasureScope, NoDetails, Provenance};
    use crate::positions::Positions;
    use crate::time::Timestamp;

    fn commit(stream: &str, body: EventBody, user: Option<&str>) -> Commit {
        let event = Event {
            position: 1,
            stream: Stream::parse(stream).unwrap(),
            version: 1,
            body,
            provenance: Vec::new(),
            payload_hash: [0; 32],
        };
        Commit {
            id: Uuid::nil(),
            time: Timestamp::from_micros(0),
            epoch: 1,
            actor: Actor {
                user: user.map(UserId::from),
                ..Actor::default()
            },
            request_id: None,
            causation: None,
            sql: None,
            events: vec![event],
            chain: [0; 32],
        }
    }

    fn filter(json: serde_json::Value) -> EventFilter {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_member_that_is_there_must_fit() {
        use serde_json::json;

        let deleted = || EventBody::RecordDeleted(ChangeStamp::default());
        let mut note = commit("record/note/1", deleted(), Some("ada"));
        note.actor.key = KeyKind::Client;
        note.request_id = Some(Uuid::from_u128(7));
        note.events[0].provenance = vec![Provenance {
            plugin: "tidy".to_owned(),
            hook: "trim".to_owned(),
            changed: BTreeSet::new(),
        }];
        let (request, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let cases = [
            (json!({"keys": ["none", "client"]}), true),
            (json!({"keys": ["master"]}), false),
            (json!({"origins": ["api"]}), true),
            (json!({"origins": ["plugin", "cli"]}), false),
            (json!({"plugin": "tidy"}), true),
            (json!({"plugin": "trim"}), false),
            (json!({"request_id": request}), true),
            (json!({"request_id": other}), false),
            (json!({}), true),
            (json!({"stream": "record/note/1"}), true),
            (json!({"stream": "record/note/2"}), false),
            (json!({"record_types": ["task", "note"]}), true),
            (json!({"record_types": ["task"]}), false),
            (json!({"kinds": ["record.deleted"]}), true),
            (json!({"kinds": ["record"]}), true),
            (json!({"kinds": ["user", "record.created"]}), false),
            (json!({"user": "ada"}), true),
            (json!({"user": "bob"}), false),
            (json!({"user": "ada", "record_types": ["task"]}), false),
        ];
        for (filter_json, expected) in cases {
            let is_match = filter(filter_json.clone()).matches(&note, &note.events[0]);
            assert_eq!(is_match, expected, "{filter_json}");
        }
        let user = commit("user/ada", EventBody::UserEnabled(NoDetails {}), None);
        let of_type = filter(json!({"record_types": ["note"]}));
        assert!(!of_type.matches(&user, &user.events[0]));
        let of_user = filter(json!({"user": "ada"}));
        assert!(!of_user.matches(&user, &user.events[0]));
        let mut called = user;
        called.actor.plugin = Some("tidy".to_owned());
        let of_plugin = filter(json!({"plugin": "tidy"}));
        assert!(of_plugin.matches(&called, &called.events[0]));
    }

    #[test]
    fn kinds_that_are_none_are_named() {
        assert_eq!(Kinds::parse(&["record", "recor"]), Err("recor".to_owned()));
        assert_eq!(Kinds::parse(&[""]), Err(String::new()));
        let all: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(Kinds::parse(&all).unwrap().iter().count(), all.len());
    }

    /// Returns a scope that concerns records of one type, or of every type for `None`.
    fn scope() -> impl Strategy<Value = (ErasureScope, Option<&'static str>)> {
        let types = prop::sample::select(vec!["note", "task", "user"]);
        let record = |name: &str| Stream::parse(&format!("record/{name}/1")).unwrap();
        let of_type = |name: &str| Stream::Type(name.into());
        prop_oneof![
            Just((ErasureScope::User("ada".into()), None)),
            Just((ErasureScope::Events, None)),
            types
                .clone()
                .prop_map(move |name| (ErasureScope::Record(record(name)), Some(name))),
            types
                .clone()
                .prop_map(move |name| (ErasureScope::Retention(of_type(name)), Some(name))),
            (types, any::<bool>()).prop_map(move |(name, is_one)| {
                let record = if is_one { record(name) } else { of_type(name) };
                let field = "title".to_owned();
                (ErasureScope::Field { record, field }, Some(name))
            }),
        ]
    }

    proptest! {
        #[test]
        fn an_erasure_is_of_the_types_that_it_concerns(
            (scope, concerned) in scope(),
            types in prop::collection::btree_set(prop::sample::select(vec!["note", "task"]), 0..3),
            kinds in prop::sample::subsequence(vec!["record", "erasure.requested", "user"], 0..3),
        ) {
            let request = ErasureRequest::new(scope, String::new(), Positions::default());
            let stream = format!("erasure/{}", Uuid::from_u128(7));
            let commit = commit(&stream, EventBody::ErasureRequested(request), Some("ada"));
            let filter = EventFilter {
                record_types: types.iter().map(|it| TypeName::from(*it)).collect(),
                kinds: Kinds::parse(&kinds).unwrap(),
                ..EventFilter::default()
            };
            let is_of_type = types.is_empty() || concerned.is_none_or(|it| types.contains(it));
            let is_of_kind = kinds.is_empty() || kinds.contains(&"erasure.requested");
            let is_wanted = filter.matches(&commit, &commit.events[0]);
            prop_assert_eq!(is_wanted, is_of_type && is_of_kind);
        }

        #[test]
        fn what_was_written_is_read(
            kinds in prop::collection::btree_set(prop::sample::select(EventKind::ALL), 0..5),
            types in prop::collection::btree_set("[a-z]{1,4}", 0..3),
            user in prop::option::of("[a-z]{1,4}"),
            stream in prop::option::of(prop::sample::select(vec!["record/note/1", "field_access"])),
            keys in prop::collection::btree_set(
                prop::sample::select(vec![KeyKind::None, KeyKind::Client, KeyKind::Master]), 0..3),
            plugin in prop::option::of("[a-z]{1,4}"),
            request in prop::option::of(any::<u128>()),
        ) {
            let filter = EventFilter {
                stream: stream.and_then(Stream::parse),
                record_types: types.iter().map(|it| TypeName::from(it.as_str())).collect(),
                kinds: Kinds(kinds),
                user: user.as_deref().map(UserId::from),
                keys,
                origins: BTreeSet::from([Origin::Cli]),
                plugin,
                request_id: request.map(Uuid::from_u128),
            };
            let text = serde_json::to_string(&filter).unwrap();
            prop_assert_eq!(serde_json::from_str::<EventFilter>(&text).unwrap(), filter);
        }
    }
}
