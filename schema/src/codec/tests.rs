//! Round trips, truncation and damage of commit bytes.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::*;
use crate::acl::{AccessEntry, Acl, Level};
use crate::caller::{KeyKind, Rights};
use crate::chain;
use crate::event::*;
use crate::field_access::{FieldAccess, FieldAccessEntry, FieldUserRole};
use crate::id::{RecordId, TaskId, UserId};
use crate::predicate::Relation;
use crate::types::FieldType;

/// Keys for every number except one that was destroyed.
struct Ring(u64);

impl SubjectKeys for Ring {
    fn state(&self, number: u64) -> KeyState {
        if number == self.0 {
            return KeyState::Destroyed;
        }
        KeyState::Live(SubjectKey([7; 32]))
    }
}

fn sealed(commit: NewCommit) -> (Vec<u8>, Commit) {
    sealed_with(commit, &Sealing::new())
}

fn sealed_with(commit: NewCommit, keys: &Sealing) -> (Vec<u8>, Commit) {
    let encoded = encode_events(Arc::new(commit), keys, || [3; 16]).unwrap();
    let at = Seal {
        first_position: 11,
        time: Timestamp::from_micros(1_000),
        epoch: 2,
    };
    seal(encoded, at, &chain::GENESIS).unwrap()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_:/é]{0,8}",
        any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()),
    ]
}

fn user() -> impl Strategy<Value = UserId> {
    prop_oneof![
        Just("u1".to_owned()),
        Just("67e55044-10b1-426f-9247-bb680e5fe0c8".to_owned()),
        name(),
    ]
    .prop_map(UserId::from)
}

fn users() -> impl Strategy<Value = Option<UserId>> {
    prop::option::of(user())
}

fn json_value() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        prop::num::f64::NORMAL.prop_map(Json::from),
        ".{0,10}".prop_map(Json::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
            prop::collection::btree_map(name(), inner, 0..3)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

fn touch() -> impl Strategy<Value = ChangeStamp> {
    (any::<i64>(), users()).prop_map(|(at, by)| ChangeStamp {
        at: Timestamp::from_micros(at),
        by,
    })
}

fn acl() -> impl Strategy<Value = Acl> {
    let entry = (users(), prop::option::of(name()), any::<[bool; 2]>()).prop_map(
        |(user_id, role, [public, writes])| AccessEntry {
            relation: None,
            role: role.map(Into::into),
            level: if writes { Level::Write } else { Level::Read },
            user_id,
            public,
        },
    );
    prop::collection::vec(entry, 0..3).prop_map(Acl)
}

fn state() -> impl Strategy<Value = RecordState> {
    let fields = prop::collection::btree_map(name(), json_value(), 0..4);
    let access = prop::option::of(acl());
    let created = prop::option::of(touch());
    (users(), users(), access, created, touch(), fields).prop_map(
        |(database, owner, access, created, updated, fields)| RecordState {
            database,
            owner,
            access,
            created,
            updated,
            fields,
        },
    )
}

fn patch() -> impl Strategy<Value = RecordPatch> {
    let set = prop::collection::btree_map(name(), json_value(), 0..4);
    let unset = prop::collection::btree_set(name(), 0..3);
    (set, unset, prop::option::of(acl()), touch()).prop_map(|(set, unset, access, updated)| {
        RecordPatch {
            set,
            unset,
            access,
            updated,
        }
    })
}

fn settings() -> impl Strategy<Value = EventBody> {
    let names = || prop::collection::btree_set(name(), 0..3);
    prop_oneof![
        (names(), names()).prop_map(|(fields, unique)| EventBody::TypeExtended(TypeExtension {
            counters: fields.iter().map(|name| (name.clone(), 7)).collect(),
            numbered: fields.iter().map(|name| (name.clone(), 3)).collect(),
            fields: fields
                .into_iter()
                .map(|name| (name, FieldType::Reference("note".into())))
                .collect(),
            no_longer_unique: vec![unique.iter().cloned().collect()],
            unique: vec![unique.into_iter().collect()],
        })),
        any::<bool>().prop_map(|is_personal| EventBody::TypePersonalSet(Personal { is_personal })),
        any::<bool>().prop_map(|are_kept| EventBody::TypeIntervalsSet(Intervals { are_kept })),
        any::<(Option<u32>, Option<u32>, bool)>().prop_map(|(versions, days, keeps_files)| {
            EventBody::TypeRetentionSet(Retention {
                versions,
                days,
                keeps_files,
            })
        }),
        acl().prop_map(|access| EventBody::TypeDefaultAccessSet(DefaultAccess { access })),
        names().prop_map(|roles| EventBody::TypeCreationRolesSet(CreationRoles {
            roles: roles.into_iter().map(Into::into).collect(),
        })),
        (name(), any::<[bool; 4]>()).prop_map(|(name, flags)| {
            let [writable, readable, comparable, discoverable] = flags;
            EventBody::FieldAccessSet(FieldAccess(vec![FieldAccessEntry {
                record_type: "*".into(),
                record_field: name.clone(),
                user_role: FieldUserRole::Field(name),
                writable,
                readable,
                comparable,
                discoverable,
            }]))
        }),
    ]
}

fn body() -> impl Strategy<Value = EventBody> {
    prop_oneof![
        state().prop_map(EventBody::RecordCreated),
        patch().prop_map(EventBody::RecordChanged),
        state().prop_map(EventBody::RecordReplaced),
        touch().prop_map(EventBody::RecordDeleted),
        settings(),
        prop::option::of(name()).prop_map(|password_hash| EventBody::UserCreated(UserState {
            password_hash,
            token_valid_since: Some(Timestamp::from_micros(5)),
            ..UserState::default()
        })),
        prop::collection::btree_set(name(), 0..3).prop_map(|roles| {
            EventBody::UserChanged(UserPatch {
                roles_added: roles.into_iter().map(Into::into).collect(),
                ..UserPatch::default()
            })
        }),
        (name(), 0_usize..9).prop_map(|(hash, num_kept)| {
            EventBody::UserPasswordSet(PasswordSet {
                hash,
                at: Timestamp::from_micros(7),
                num_kept,
            })
        }),
        name().prop_map(|hash| EventBody::UserPasswordRehashed(PasswordRehashed { hash })),
        prop::option::of(name()).prop_map(|message| {
            EventBody::UserDisabled(Disabled {
                message,
                expiry: Some(Timestamp::from_micros(9)),
            })
        }),
        Just(EventBody::UserEnabled(NoDetails {})),
        Just(EventBody::UserLoggedOut(NoDetails {})),
        "[a-z]{0,4}".prop_map(|key| EventBody::UserLoggedIn(LoggedIn {
            at: Timestamp::from_micros(7),
            keys: [key].into(),
            service: None,
        })),
        "[a-z]{0,4}".prop_map(|line| EventBody::PluginRegistered(PluginRegistration {
            points: [("hook".to_owned(), [line].into())].into(),
        })),
        Just(EventBody::UserRemoved(NoDetails {})),
        any::<[bool; 2]>().prop_map(|[by_default, is_admin]| EventBody::RoleDefined(RoleFlags {
            by_default,
            is_admin,
        })),
        user().prop_map(|to| EventBody::RelationAdded(RelationTarget { to })),
        user().prop_map(|to| EventBody::RelationRemoved(RelationTarget { to })),
        (name(), any::<u64>()).prop_map(|(content_type, size)| {
            EventBody::AssetRegistered(AssetState { content_type, size })
        }),
        (any::<u64>(), proptest::option::of("[0-9a-f]{64}"))
            .prop_map(|(size, blake3)| { EventBody::AssetUploaded(AssetUpload { size, blake3 }) }),
        task(),
    ]
}

fn task() -> impl Strategy<Value = EventBody> {
    // Times are written as RFC 3339, which ends with the year 9999.
    let time = || (0..200_000_000_000_000_000_i64).prop_map(Timestamp::from_micros);
    prop_oneof![
        (name(), name(), time()).prop_map(|(spec, zone, since)| {
            EventBody::TaskScheduled(TaskSchedule { spec, zone, since })
        }),
        (time(), any::<bool>()).prop_map(|(due, is_manual)| {
            let trigger = if is_manual {
                TaskTrigger::Manual
            } else {
                TaskTrigger::Schedule
            };
            EventBody::TaskClaimed(TaskClaim { due, trigger })
        }),
        (time(), time(), any::<Option<i64>>())
            .prop_map(|(due, at, error)| EventBody::TaskEnded(TaskEnd { due, at, error })),
        Just(EventBody::TaskPaused(NoDetails {})),
        Just(EventBody::TaskResumed(NoDetails {})),
        Just(EventBody::TaskDropped(NoDetails {})),
        (name(), prop::collection::vec(1_u64..99, 0..9)).prop_map(|(why, positions)| {
            EventBody::ErasureRequested(ErasureRequest {
                scope: ErasureScope::Events,
                why,
                keys: positions.iter().copied().take(2).collect(),
                files: Vec::new(),
                counters: [("note".into(), [("number".to_owned(), 7)].into())].into(),
                part_of: positions.first().copied(),
                roles: positions
                    .iter()
                    .take(2)
                    .map(|it| it.to_string().into())
                    .collect(),
                records: positions.last().map(|last| OwnedRecords {
                    all: last % 2 == 0,
                    files: last % 3 == 0,
                }),
                positions: positions.into_iter().collect(),
            })
        }),
        (any::<u64>(), 0_u64..3).prop_map(|(request, num_refused)| {
            let refused = RefusedRecord {
                record: Stream::Record(RecordId::new("note", "1")),
                code: 113,
                referred_by: (num_refused > 1).then(|| Stream::Record(RecordId::new("link", "1"))),
            };
            EventBody::ErasureFinished(ErasureEnd {
                request,
                num_refused,
                refused: (0..num_refused).map(|_| refused.clone()).collect(),
            })
        }),
        (name(), any::<[u64; 2]>()).prop_map(|(backup, [head, until])| {
            EventBody::LogRestored(LogRestored {
                backup,
                head,
                until,
            })
        }),
    ]
}

fn stream() -> impl Strategy<Value = Stream> {
    prop_oneof![
        (name(), name()).prop_map(|(name, key)| Stream::Record(RecordId::new(name, key))),
        name().prop_map(|name| Stream::Type(name.into())),
        user().prop_map(Stream::User),
        name().prop_map(|name| Stream::Role(name.into())),
        user().prop_map(|id| Stream::Relation(Relation::Friend, id)),
        user().prop_map(|id| Stream::Relation(Relation::Follow, id)),
        Just(Stream::FieldAccess),
        name().prop_map(|name| Stream::Asset(name.into())),
        name().prop_map(|id| Stream::Device(id.into())),
        name().prop_map(|id| Stream::Subscriptions(id.into())),
        name().prop_map(|name| Stream::Plugin(name.into())),
        (name(), name()).prop_map(|(plugin, name)| Stream::Task(TaskId::new(plugin, name))),
        any::<u128>().prop_map(|id| Stream::Erasure(Uuid::from_u128(id))),
        any::<u128>().prop_map(|id| Stream::Restore(Uuid::from_u128(id))),
    ]
}

fn event() -> impl Strategy<Value = NewEvent> {
    let changed = prop::collection::btree_set(name(), 0..3);
    let hook = (name(), name(), changed).prop_map(|(plugin, hook, changed)| Provenance {
        plugin,
        hook,
        changed,
    });
    let provenance = prop::collection::vec(hook, 0..2);
    let subject = prop::option::of(name().prop_map(UserId::from));
    (stream(), any::<u32>(), body(), provenance, subject).prop_map(
        |(stream, version, body, provenance, subject)| NewEvent {
            stream,
            version,
            body,
            provenance,
            subject,
        },
    )
}

fn commit() -> impl Strategy<Value = NewCommit> {
    let key = prop_oneof![
        Just((KeyKind::None, Rights::Key)),
        Just((KeyKind::Client, Rights::Key)),
        Just((KeyKind::Master, Rights::Key)),
        Just((KeyKind::Master, Rights::User))
    ];
    let origin = prop_oneof![
        Just(Origin::Api),
        Just(Origin::Plugin),
        Just(Origin::System),
        Just(Origin::Cli),
        Just(Origin::Import),
        Just(Origin::Sql)
    ];
    let sql = (name(), any::<(u64, i32, u128, u64)>()).prop_map(|(role, numbers)| SqlSource {
        role,
        transaction: numbers.0,
        at: Timestamp::from_micros(numbers.1.into()),
        outbox: Uuid::from_u128(numbers.2),
        until: numbers.3,
    });
    let sql = prop::option::of(sql.prop_map(Box::new));
    let on_behalf = prop::option::of((users(), name()).prop_map(|(user, point)| {
        let user = user.filter(|user| !user.as_str().is_empty());
        Box::new(OnBehalf { user, point })
    }));
    let actor = (users(), key, origin, prop::option::of(name()), on_behalf);
    let ids = (any::<(u128, Option<u128>, Option<u128>)>(), any::<bool>());
    let ids = ids.prop_map(|((id, request, causation), is_of_request)| {
        (
            id,
            request.map(|it| if is_of_request { id } else { it }),
            causation,
        )
    });
    let events = prop::collection::vec(event(), 1..5);
    (actor, ids, sql, events).prop_map(
        |((user, (key, rights), origin, plugin, on_behalf), ids, sql, events)| NewCommit {
            id: Uuid::from_u128(ids.0),
            actor: Actor {
                user,
                key,
                rights,
                origin,
                plugin,
                on_behalf,
            },
            request_id: ids.1.map(Uuid::from_u128),
            causation: ids.2.map(Uuid::from_u128),
            sql,
            events,
        },
    )
}

proptest! {
    #[test]
    fn a_commit_comes_back_as_it_was_sealed(commit in commit()) {
        let (bytes, commit) = sealed(commit);
        prop_assert_eq!(decode_commit(&bytes, &NoKeys).unwrap(), commit.clone());
        prop_assert_eq!(verify_chain(&bytes, &chain::GENESIS, &NoKeys).unwrap(), commit.clone());
        let peek = peek(&bytes).unwrap();
        prop_assert_eq!(peek.first_position, commit.first_position());
        prop_assert_eq!(peek.last_position(), commit.last_position());
        prop_assert_eq!(peek.time, commit.time);
        prop_assert_eq!(peek.chain, commit.chain);
        let (kept, chain) = without_chain(&bytes).unwrap();
        prop_assert_eq!(chain, commit.chain);
        prop_assert_eq!(next_chain_hash(&chain::GENESIS, kept).unwrap(), chain);
    }

    #[test]
    fn every_flipped_bit_is_found(commit in commit(), at in any::<Index>(), bit in 0_u8..8) {
        let (mut bytes, _) = sealed(commit);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(verify_chain(&bytes, &chain::GENESIS, &NoKeys).is_err());
    }

    /// Exactly the events about a user are sealed with that user's key; without it, exactly these
    /// are blank.
    #[test]
    fn what_is_somebodys_opens_with_his_key_and_the_rest_without(commit in commit()) {
        let owner = |event: &NewEvent| subject(event, &commit.actor);
        let owners: Vec<_> = commit.events.iter().map(owner).collect();
        let known: std::collections::BTreeSet<_> = owners.iter().flatten().cloned().collect();
        let key = |(user, number): (UserId, u64)| (user, (number, SubjectKey([7; 32])));
        let keys: Sealing = known.into_iter().zip(1..).map(key).collect();
        let number = |owner: &Option<UserId>| owner.as_ref().map(|owner| keys[owner].0);
        let (bytes, whole) = sealed_with(commit.clone(), &keys);
        let opened = verify_chain(&bytes, &chain::GENESIS, &Ring(0)).unwrap();
        prop_assert_eq!(&opened, &whole);
        let found = sealed_events(&bytes).unwrap();
        let found: Vec<_> = found.into_iter().map(|it| (it.position, it.stream, it.key)).collect();
        let events = whole.events.iter().zip(&owners);
        let expected = events.filter_map(|(event, owner)| {
            Some((event.position, event.stream.clone(), number(owner)?))
        });
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        for gone in 0..=keys.len() as u64 {
            let read = verify_chain(&bytes, &chain::GENESIS, &Ring(gone)).unwrap();
            for ((event, whole), owner) in read.events.iter().zip(&whole.events).zip(&owners) {
                let is_gone = number(owner) == Some(gone);
                prop_assert_eq!(event.body.erased().is_some(), is_gone);
                prop_assert!(is_gone || event == whole);
            }
        }
    }

    #[test]
    fn truncated_bytes_are_refused(commit in commit(), at in any::<Index>()) {
        let (bytes, _) = sealed(commit);
        let cut = at.index(bytes.len());
        prop_assert!(decode_commit(&bytes[..cut], &NoKeys).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_commit(&bytes, &NoKeys);
        let _ = verify_chain(&bytes, &chain::GENESIS, &NoKeys);
        let _ = next_chain_hash(&chain::GENESIS, &bytes);
        let _ = peek(&bytes);
    }

    #[test]
    fn damaged_commits_never_panic(
        commit in commit(),
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let (mut bytes, _) = sealed(commit);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = decode_commit(&bytes, &NoKeys);
        let _ = peek(&bytes);
    }
}

fn small_create() -> NewCommit {
    let user = UserId::from("67e55044-10b1-426f-9247-bb680e5fe0c8");
    let text = "A message of about the usual length, ninety bytes.";
    let state = RecordState {
        database: None,
        owner: Some(user.clone()),
        access: None,
        created: None,
        updated: ChangeStamp {
            at: Timestamp::from_micros(1_800_000_000_000_000),
            by: Some(user.clone()),
        },
        fields: [
            ("room", json!("general")),
            ("text", json!(text)),
            ("words", json!(9)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    };
    NewCommit {
        id: Uuid::from_u128(5),
        actor: Actor {
            user: Some(user),
            key: KeyKind::Client,
            ..Actor::default()
        },
        request_id: Some(Uuid::from_u128(9)),
        causation: None,
        sql: None,
        events: vec![NewEvent {
            stream: Stream::Record(RecordId::new(
                "message",
                "0a1b2c3d-10b1-426f-9247-bb680e5fe0c8",
            )),
            version: 1,
            body: EventBody::RecordCreated(state),
            provenance: Vec::new(),
            subject: None,
        }],
    }
}

#[test]
fn a_small_record_takes_little_space() {
    let (bytes, _) = sealed(small_create());
    assert!(bytes.len() <= 270, "{} bytes", bytes.len());
    let of_request = NewCommit {
        id: Uuid::from_u128(9),
        ..small_create()
    };
    assert_eq!(sealed(of_request).0.len(), bytes.len() - 16);
}

#[test]
fn replacing_a_body_is_as_if_it_had_been_there_from_the_start() {
    let mut numbered = small_create();
    if let EventBody::RecordCreated(state) = &mut numbered.events[0].body {
        state.fields.insert("number".into(), json!(42));
    }
    let body = numbered.events[0].body.clone();
    let mut encoded = encode_events(Arc::new(small_create()), &Sealing::new(), || [3; 16]).unwrap();
    encoded.replace_body(0, body.clone(), [3; 16]).unwrap();
    assert!(encoded.replace_body(1, body, [3; 16]).is_err());
    let at = Seal {
        first_position: 11,
        time: Timestamp::from_micros(1_000),
        epoch: 2,
    };
    assert_eq!(
        seal(encoded, at, &chain::GENESIS).unwrap(),
        sealed(numbered)
    );
}

#[test]
fn the_chain_depends_on_the_previous_link() {
    let (bytes, _) = sealed(small_create());
    assert_eq!(
        verify_chain(&bytes, &[1; 32], &NoKeys),
        Err(CodecError::ChainMismatch)
    );
}

#[test]
fn an_erased_payload_leaves_a_chain_that_verifies() {
    let (bytes, commit) = sealed(small_create());
    let salt_at = bytes.windows(16).position(|part| part == [3; 16]).unwrap();
    let mut erased = bytes[..salt_at - 1].to_vec();
    erased.push(1);
    erased.extend_from_slice(&commit.events[0].payload_hash);
    erased.extend_from_slice(&commit.chain);
    let read = verify_chain(&erased, &chain::GENESIS, &NoKeys).unwrap();
    assert_eq!(read.chain, commit.chain);
    assert_eq!(
        read.events[0].body,
        EventBody::Erased(Blank {
            kind: EventKind::RecordCreated,
            by: None
        })
    );
    assert_eq!(blank_payloads(&bytes, |_| true), Ok(Some(erased.clone())));
    assert_eq!(blank_payloads(&bytes, |_| false), Ok(None));
    assert_eq!(blank_payloads(&erased, |_| true), Ok(None));
}

#[test]
fn commits_without_events_and_erased_bodies_are_not_written() {
    let mut commit = small_create();
    commit.events[0].body = EventBody::Erased(Blank {
        kind: EventKind::RecordCreated,
        by: None,
    });
    assert!(encode_events(Arc::new(commit.clone()), &Sealing::new(), || [3; 16]).is_err());
    commit.events.clear();
    assert!(encode_events(Arc::new(commit), &Sealing::new(), || [3; 16]).is_err());
}

#[test]
fn a_version_that_no_step_leads_on_from_is_not_called_newer() {
    let kind = EventKind::RecordCreated;
    let read = |version| {
        let bytes = b"{}";
        let stored = Stored {
            kind,
            version,
            bytes,
        };
        EventBody::decode(&stored, None).unwrap_err()
    };
    let newer = read(kind.schema_version() + 1);
    assert_eq!(
        newer.to_string(),
        "event kind 1 version 2 is newer than this program"
    );
    assert!(newer.is_newer());
    let forgotten = read(0);
    assert_eq!(
        forgotten.to_string(),
        "event kind 1: this program cannot upgrade version 0"
    );
    assert!(!forgotten.is_newer());
}
