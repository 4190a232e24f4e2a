//! Round trips, truncation and damage of commit bytes.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::caller::KeyKind;
use crate::event::{Origin, Provenance, RecordState, Touch, UserPatch};
use crate::id::{RecordId, UserId};

fn sample(num_events: usize, fields: &[(String, String)]) -> NewCommit {
    let state = RecordState {
        database: None,
        owner: Some("u1".into()),
        access: None,
        created: None,
        updated: Touch {
            at: Timestamp::from_micros(7),
            by: Some("u1".into()),
        },
        fields: fields
            .iter()
            .map(|(name, text)| (name.clone(), json!(text)))
            .collect(),
    };
    let events = (0..num_events).map(|index| NewEvent {
        stream: if index % 2 == 0 {
            Stream::Record(RecordId::new("note", format!("k{index}")))
        } else {
            Stream::User(UserId::new(format!("u{index}")))
        },
        version: 1,
        body: if index % 2 == 0 {
            EventBody::RecordCreated(state.clone())
        } else {
            EventBody::UserChanged(UserPatch::default())
        },
        provenance: (index == 2)
            .then(|| Provenance {
                plugin: "P".into(),
                hook: "h".into(),
                changed: [].into(),
            })
            .into_iter()
            .collect(),
    });
    NewCommit {
        id: Uuid::from_u128(5),
        actor: Actor {
            key: KeyKind::Client,
            origin: Origin::Api,
            ..Actor::default()
        },
        request_id: Some(Uuid::from_u128(9)),
        causation: None,
        events: events.collect(),
    }
}

fn sealed(commit: NewCommit) -> (Vec<u8>, Commit) {
    let encoded = encode_events(Arc::new(commit), || [3; 16]).unwrap();
    let at = Seal {
        first_position: 11,
        time: Timestamp::from_micros(1_000),
        epoch: 2,
    };
    seal(encoded, at, &chain::GENESIS).unwrap()
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("[a-z]{1,6}", ".{0,20}"), 0..5)
}

proptest! {
    #[test]
    fn a_commit_comes_back_as_it_was_sealed(count in 1_usize..5, fields in fields()) {
        let (bytes, commit) = sealed(sample(count, &fields));
        prop_assert_eq!(decode_commit(&bytes).unwrap(), commit.clone());
        prop_assert_eq!(verify_chain(&bytes, &chain::GENESIS).unwrap(), commit.clone());
        let peek = peek(&bytes).unwrap();
        prop_assert_eq!(peek.first_position, commit.first_position());
        prop_assert_eq!(peek.last_position(), commit.last_position());
        prop_assert_eq!(peek.chain, commit.chain);
    }

    #[test]
    fn every_flipped_bit_is_found(fields in fields(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (mut bytes, _) = sealed(sample(3, &fields));
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(verify_chain(&bytes, &chain::GENESIS).is_err());
    }

    #[test]
    fn truncated_bytes_are_refused(fields in fields(), at in any::<prop::sample::Index>()) {
        let (bytes, _) = sealed(sample(2, &fields));
        let cut = at.index(bytes.len());
        prop_assert!(decode_commit(&bytes[..cut]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_commit(&bytes);
        let _ = verify_chain(&bytes, &chain::GENESIS);
        let _ = peek(&bytes);
    }
}

#[test]
fn the_chain_depends_on_the_previous_link() {
    let (bytes, _) = sealed(sample(1, &[]));
    assert_eq!(
        verify_chain(&bytes, &[1; 32]),
        Err(CodecError::ChainMismatch)
    );
}

#[test]
fn the_bytes_of_version_one_do_not_change() {
    let (bytes, commit) = sealed(sample(3, &[("title".into(), "hello".into())]));
    let golden = include_bytes!("../../tests/golden/commit_v1.bin");
    assert_eq!(bytes, golden);
    assert_eq!(decode_commit(golden).unwrap(), commit);
}
