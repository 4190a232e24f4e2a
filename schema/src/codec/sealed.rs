//! Payloads that only their subject's key can open.
//!
//! What an event says about a person is encrypted with that person's own key. When the key is
//! destroyed, the content is gone from every copy of the log, wherever it is. A sealed payload is
//! JSON like any other, `{"key":7,"sealed":"…"}`, and the chain covers it as it is stored, so
//! nobody needs the key to verify the chain. The payload is bound to its event through the event's
//! head.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};

use super::CodecError;
use crate::event::{Actor, EventBody, NewEvent, Stream};
use crate::id::UserId;

/// A key of one subject.
#[derive(Clone, PartialEq, Eq)]
pub struct SubjectKey(pub [u8; 32]);

impl std::fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubjectKey(…)")
    }
}

/// The state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// The key exists.
    Live(SubjectKey),
    /// The key was destroyed for good.
    Destroyed,
    /// The key should exist, but is missing.
    Missing,
}

/// Looks up the keys of subjects by number.
pub trait SubjectKeys: Send + Sync {
    /// Returns the state of a key.
    fn state(&self, number: u64) -> KeyState;
}

/// Has no keys.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl SubjectKeys for NoKeys {
    fn state(&self, _: u64) -> KeyState {
        KeyState::Missing
    }
}

/// For readers that want nothing of what is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Withheld;

impl SubjectKeys for Withheld {
    fn state(&self, _: u64) -> KeyState {
        KeyState::Destroyed
    }
}

/// The keys that seal the events of some subjects, with their numbers. Events about anyone else are
/// stored as they are.
pub type Sealing = BTreeMap<UserId, (u64, SubjectKey)>;

/// Returns the user whom an event is about, if its payload belongs to that user.
///
/// That covers how users sign in, their user records, their devices and subscriptions, and their
/// records of personal types. This is what erasing a user removes from the log.
pub fn subject<'a>(event: &'a NewEvent, actor: &'a Actor) -> Option<UserId> {
    match (&event.stream, &event.body) {
        (Stream::User(_), EventBody::UserRemoved(_)) => None,
        (Stream::User(user), _) => Some(user.clone()),
        (Stream::Record(id), body) => {
            let is_said = match body {
                // A state without fields says nothing; it stays when its user is erased and others
                // refer to it.
                EventBody::RecordCreated(state) | EventBody::RecordReplaced(state) => {
                    !state.fields.is_empty()
                }
                body => matches!(body, EventBody::RecordChanged(_)),
            };
            let user = id.record_type.is_user().then(|| id.key.as_str().into());
            user.or_else(|| event.subject.clone()).filter(|_| is_said)
        }
        (Stream::Device(_), EventBody::DeviceRegistered(state)) => state.user.clone(),
        (Stream::Subscriptions(_), EventBody::SubscriptionSaved(saved)) => {
            // Imports and the master key save subscriptions for other users.
            saved.subscriber.as_ref().or(actor.user.as_ref()).cloned()
        }
        _ => None,
    }
}

/// A sealed payload as stored; members are in alphabetical order.
#[derive(Serialize, Deserialize)]
struct Stored {
    key: u64,
    sealed: String,
}

/// Seals a payload. The salt is fresh for each payload, so it can serve as the nonce.
pub(super) fn seal(
    plain: &[u8],
    (number, key): &(u64, SubjectKey),
    (head, salt): (&[u8], &[u8; 16]),
) -> Result<Vec<u8>, CodecError> {
    let payload = Payload {
        msg: plain,
        aad: head,
    };
    let sealed = cipher(key).encrypt(&nonce(salt), payload);
    let sealed = sealed.map_err(|_| CodecError::TooLong("payload"))?;
    let stored = Stored {
        key: *number,
        sealed: BASE64.encode(sealed),
    };
    serde_json::to_vec(&stored).map_err(|_| CodecError::Malformed("payload"))
}

/// Returns the number of the key that a payload is sealed with.
pub(super) fn key_of(bytes: &[u8]) -> Result<u64, CodecError> {
    let stored: Result<Stored, _> = serde_json::from_slice(bytes);
    stored
        .map(|stored| stored.key)
        .map_err(|_| CodecError::Malformed("sealed payload"))
}

/// Opens a sealed payload; returns `None` if its key was destroyed.
pub(super) fn open(
    bytes: &[u8],
    keys: &dyn SubjectKeys,
    (head, salt): (&[u8], &[u8; 16]),
) -> Result<Option<Vec<u8>>, CodecError> {
    let malformed = CodecError::Malformed("sealed payload");
    let stored: Stored = serde_json::from_slice(bytes).map_err(|_| malformed.clone())?;
    let key = match keys.state(stored.key) {
        KeyState::Live(key) => key,
        KeyState::Destroyed => return Ok(None),
        KeyState::Missing => return Err(CodecError::KeyMissing(stored.key)),
    };
    let sealed = BASE64
        .decode(&stored.sealed)
        .map_err(|_| malformed.clone())?;
    let payload = Payload {
        msg: &sealed,
        aad: head,
    };
    let plain = cipher(&key).decrypt(&nonce(salt), payload);
    plain.map(Some).map_err(|_| malformed)
}

fn cipher(key: &SubjectKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&Key::from(key.0))
}

fn nonce(salt: &[u8; 16]) -> XNonce {
    let mut nonce = [0; 24];
    for (byte, salt) in nonce.iter_mut().zip(salt) {
        *byte = *salt;
    }
    XNonce::from(nonce)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::chain;
    use crate::codec::{
        Contents, Seal, check_commit, decode_commit, encode_events, seal, split_commit,
        verify_chain,
    };
    use crate::event::{LoggedIn, NewCommit, SavedSubscription, UserPatch};
    use crate::subscription::Subscription;
    use crate::time::Timestamp;

    struct Keys(KeyState);

    impl SubjectKeys for Keys {
        fn state(&self, number: u64) -> KeyState {
            assert_eq!(number, 7);
            self.0.clone()
        }
    }

    fn event(user: &str, body: EventBody) -> NewEvent {
        NewEvent {
            stream: Stream::User(user.into()),
            version: 1,
            body,
            provenance: Vec::new(),
            subject: None,
        }
    }

    fn changed(name: &str) -> EventBody {
        EventBody::UserChanged(UserPatch {
            roles_added: BTreeSet::from([name.into()]),
            ..UserPatch::default()
        })
    }

    fn written() -> Vec<u8> {
        let commit = NewCommit {
            id: uuid::Uuid::nil(),
            actor: Actor::default(),
            request_id: None,
            causation: None,
            sql: None,
            events: vec![
                event("ada", changed("canary-ada")),
                event("bob", changed("canary-bob")),
                event("ada", EventBody::UserLoggedIn(LoggedIn::default())),
            ],
        };
        let keys = Sealing::from([("ada".into(), (7, SubjectKey([5; 32])))]);
        let mut salt = 0;
        let encoded = encode_events(Arc::new(commit), &keys, || {
            salt += 1;
            [salt; 16]
        });
        let encoded = encoded.unwrap();
        assert_eq!(encoded.keys().collect::<Vec<_>>(), [7, 7]);
        let place = Seal {
            first_position: 1,
            time: Timestamp::from_micros(1),
            epoch: 1,
        };
        seal(encoded, place, &chain::GENESIS).unwrap().0
    }

    #[test]
    fn only_the_key_opens_what_is_sealed_and_without_it_the_chain_still_holds() {
        let bytes = written();
        let has = |text: &str| bytes.windows(text.len()).any(|it| it == text.as_bytes());
        assert_eq!((has("canary-ada"), has("canary-bob")), (false, true));
        let opened = Keys(KeyState::Live(SubjectKey([5; 32])));
        let commit = verify_chain(&bytes, &chain::GENESIS, &opened).unwrap();
        assert_eq!(commit.events[0].body, changed("canary-ada"));
        let gone = Keys(KeyState::Destroyed);
        let commit = verify_chain(&bytes, &chain::GENESIS, &gone).unwrap();
        let blank: Vec<bool> = commit
            .events
            .iter()
            .map(|it| it.body.erased().is_some())
            .collect();
        assert_eq!(blank, [true, false, true]);
        assert_eq!(commit.events[0].body.kind(), changed("x").kind());
        assert_eq!(
            decode_commit(&bytes, &Keys(KeyState::Missing)),
            Err(CodecError::KeyMissing(7))
        );
        let wrong = Keys(KeyState::Live(SubjectKey([6; 32])));
        assert!(decode_commit(&bytes, &wrong).is_err());
        let contents = Contents {
            num_erased: 0,
            num_sealed: 2,
        };
        assert_eq!(check_commit(&bytes, Some(&chain::GENESIS)), Ok(contents));
        // Programs that check an export see text like any other.
        let parts = split_commit(&bytes).unwrap();
        let (salt, payload) = parts.events[0].content.unwrap();
        assert!(std::str::from_utf8(payload).unwrap().contains("\"sealed\""));
        assert_eq!(chain::payload_hash(&salt, payload), parts.events[0].hash);
    }

    #[test]
    fn a_subscription_is_its_subscribers_whoever_saves_it() {
        let [ada, bob]: [Option<UserId>; 2] = ["ada", "bob"].map(|it| Some(it.into()));
        let key = crate::subscription::SubscriptionKey {
            database: crate::id::Database::Public,
            id: "s".to_owned(),
        };
        for (subscriber, saved_by, expected) in [
            (&ada, &bob, &ada),
            (&ada, &None, &ada),
            (&None, &bob, &bob),
            (&None, &None, &None),
        ] {
            let saved = SavedSubscription {
                subscriber: subscriber.clone(),
                subscription: Subscription {
                    key: key.clone(),
                    kind: "query".to_owned(),
                    notification_info: None,
                    query: serde_json::Map::new(),
                },
            };
            let event = NewEvent {
                stream: Stream::Subscriptions("phone".into()),
                ..event("ada", EventBody::SubscriptionSaved(saved))
            };
            let actor = Actor {
                user: saved_by.clone(),
                ..Actor::default()
            };
            assert_eq!(subject(&event, &actor), *expected);
        }
    }

    /// A sealed payload belongs to its event: it cannot be opened as part of another one.
    #[test]
    fn a_sealed_payload_cannot_be_moved() {
        let key = (7, SubjectKey([5; 32]));
        let sealed = super::seal(b"{}", &key, (b"head", &[1; 16])).unwrap();
        let keys = Keys(KeyState::Live(key.1));
        let opened = |head: &[u8], salt: [u8; 16]| open(&sealed, &keys, (head, &salt));
        assert_eq!(opened(b"head", [1; 16]), Ok(Some(b"{}".to_vec())));
        assert!(opened(b"tail", [1; 16]).is_err());
        assert!(opened(b"head", [2; 16]).is_err());
    }
}
