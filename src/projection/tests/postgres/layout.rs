//! Tests that the tables are laid out as in v1, so that plugins which read them find what they
//! expect.

use serde_json::json;
use skytrail_schema::event::{EventBody, RelationTarget, RoleFlags, Stream, UserState};
use skytrail_schema::predicate::Relation;
use skytrail_schema::types::FieldType;

use super::world::*;

#[tokio::test]
async fn record_tables_have_v1s_columns() {
    let mut world = World::new().await;
    let fields = [
        ("title", FieldType::String),
        ("email", FieldType::CaselessString),
        ("n", FieldType::Number),
        ("whole", FieldType::Integer),
        ("seq", FieldType::Sequence),
        ("is_read", FieldType::Boolean),
        ("tags", FieldType::Json),
        ("at", FieldType::DateTime),
        ("picture", FieldType::Asset),
        ("Parent", FieldType::Reference("message".into())),
        ("place", FieldType::Location),
    ];
    world.run(vec![extend("message", &fields)]).await;
    let columns = world
        .place
        .ask(
            "SELECT column_name || ' ' || CASE data_type WHEN 'USER-DEFINED' THEN udt_name::text \
             ELSE data_type END || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END \
             FROM information_schema.columns WHERE table_schema = current_schema \
             AND table_name = 'message' AND column_name NOT LIKE '%~%' ORDER BY ordinal_position",
        )
        .await;
    let expected = [
        "_id text not null",
        "_database_id text not null",
        "_owner_id text not null",
        "_access jsonb",
        "_created_at timestamp without time zone not null",
        "_created_by text",
        "_updated_at timestamp without time zone not null",
        "_updated_by text",
        "Parent text",
        "at timestamp without time zone",
        "email citext",
        "is_read boolean",
        "n double precision",
        "picture text",
        "place point",
        "seq bigint",
        "tags jsonb",
        "title text",
        "whole bigint",
        "_row bigint not null",
        "_version bigint not null",
        "_position bigint not null",
    ];
    assert_eq!(columns, expected);
    let keys = "SELECT pg_get_constraintdef(oid) FROM pg_constraint \
                WHERE conrelid = 'message'::regclass ORDER BY 1";
    let keys = world.place.ask(keys).await;
    let expected = [
        "PRIMARY KEY (_id, _database_id, _owner_id)",
        "UNIQUE (_id)",
        "UNIQUE (_row)",
    ];
    assert_eq!(keys, expected);
}

#[tokio::test]
async fn rows_say_what_v1s_said() {
    let mut world = World::new().await;
    let fields = [
        ("n", FieldType::Number),
        ("at", FieldType::DateTime),
        ("parent", FieldType::Reference("message".into())),
    ];
    let content = json!({
        "n": 1.5,
        "at": {"$type": "date", "$date": "2017-07-14T02:40:01.5Z"},
        "parent": {"$type": "ref", "$id": "message/m0"},
    });
    world.run(vec![extend("message", &fields)]).await;
    world.run(vec![create("message/m1", 1, content)]).await;
    let row = "SELECT concat_ws('|', _id, _database_id, _owner_id, _created_at, _created_by, n, at, \
               parent) FROM message";
    let row = world.place.ask(row).await;
    let expected = "m1||u1|2017-07-14 02:40:01|u1|1.5|2017-07-14 02:40:01.5|m0";
    assert_eq!(row, [expected]);
}

#[tokio::test]
async fn people_are_found_where_v1_had_them() {
    let mut world = World::new().await;
    let fields = [
        ("username", FieldType::CaselessString),
        ("email", FieldType::CaselessString),
        ("last_login_at", FieldType::DateTime),
    ];
    let flags = RoleFlags {
        by_default: true,
        is_admin: false,
    };
    let auth = UserState {
        password_hash: Some("$2a$10$hash".to_owned()),
        provider_info: [("com.example:p1".to_owned(), json!({"id": "p1"}))].into(),
        token_valid_since: Some(now(1)),
        roles: ["writer".into(), "reader".into()].into(),
        ..UserState::default()
    };
    let follow = Stream::Relation(Relation::Follow, "u1".into());
    let target = RelationTarget { to: "u2".into() };
    world
        .run(vec![
            extend("user", &fields),
            (Stream::Role("writer".into()), EventBody::RoleDefined(flags)),
            (Stream::User("u1".into()), EventBody::UserCreated(auth)),
            create(
                "user/u1",
                1,
                json!({"username": "Ann", "email": "ann@example.com"}),
            ),
            (follow, EventBody::RelationAdded(target)),
        ])
        .await;
    for (question, expected) in [
        (
            "SELECT concat_ws('|', id, password, username, email, auth, token_valid_since) \
             FROM _user WHERE username = 'ANN'",
            "u1|$2a$10$hash|Ann|ann@example.com|{\"com.example:p1\": {\"id\": \"p1\"}}|\
             2017-07-14 02:40:01",
        ),
        (
            "SELECT string_agg(auth_id || ' ' || role_id, ',' ORDER BY role_id) FROM _auth_role",
            "u1 reader,u1 writer",
        ),
        (
            "SELECT concat_ws('|', id, by_default, is_admin) FROM _role",
            "writer|t|f",
        ),
        (
            "SELECT concat_ws('|', left_id, right_id) FROM _follow",
            "u1|u2",
        ),
        (
            "SELECT concat_ws('|', id, disabled, last_seen_at) FROM _auth",
            "u1|f",
        ),
    ] {
        assert_eq!(world.place.ask(question).await, [expected], "{question}");
    }
}
