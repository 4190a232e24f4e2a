//! The commits of the benches: one small chat message each.

use serde_json::{Value as Json, json};
use skytrail_schema::event::{
    Actor, ChangeStamp, EventBody, NewCommit, NewEvent, RecordState, Stream, UserState,
};
use skytrail_schema::id::{RecordId, UserId};
use skytrail_schema::time::Timestamp;
use uuid::Uuid;

/// Returns the commit of a request that creates `num_records` messages.
pub(crate) fn commit(num_records: usize) -> NewCommit {
    let user = UserId::from("67e55044-10b1-426f-9247-bb680e5fe0c8");
    NewCommit {
        id: Uuid::now_v7(),
        actor: Actor {
            user: Some(user.clone()),
            ..Actor::default()
        },
        request_id: Some(Uuid::new_v4()),
        causation: None,
        sql: None,
        events: (0..num_records).map(|_| message(&user)).collect(),
    }
}

/// Returns the commit of a sign-up: an auth row and a user record.
#[allow(dead_code, reason = "not all benches sign users up")]
pub(crate) fn sign_up() -> NewCommit {
    let id = Uuid::new_v4().to_string();
    let (user, record) = (
        UserId::from(id.as_str()),
        RecordId::new("user", id.as_str()),
    );
    let hash =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXRoaW5nc2FsdHk$0123456789abcdef0123456789abcdef";
    let auth = UserState {
        password_hash: Some(hash.to_owned()),
        ..UserState::default()
    };
    let row = NewEvent {
        stream: Stream::User(user.clone()),
        version: 1,
        body: EventBody::UserCreated(auth),
        provenance: Vec::new(),
        subject: None,
    };
    let fields = [
        ("username", json!("somebody of some letters")),
        ("email", json!("somebody@example.com")),
    ];
    NewCommit {
        events: vec![row, created(record, &user, fields.into())],
        ..commit(0)
    }
}

fn message(user: &UserId) -> NewEvent {
    let id = RecordId::new("message", Uuid::new_v4().to_string().as_str());
    let fields = [
        ("body", json!("message 000000000001 of some forty letters")),
        ("room", json!("r17")),
        ("count", json!(1)),
    ];
    created(id, user, fields.into())
}

fn created(id: RecordId, user: &UserId, fields: Vec<(&str, Json)>) -> NewEvent {
    let touch = ChangeStamp {
        at: Timestamp::from_micros(1_500_000_000_000_000),
        by: Some(user.clone()),
    };
    NewEvent {
        stream: Stream::Record(id),
        version: 1,
        body: EventBody::RecordCreated(RecordState {
            database: None,
            owner: Some(user.clone()),
            access: None,
            created: None,
            updated: touch,
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }),
        provenance: Vec::new(),
        subject: None,
    }
}
