//! Tests queries that SQL answers.

use std::time::Duration;

use serde_json::{Value as Json, json};
use skytrail_actors::store::{NoHeads, QueryAnswer, RecordStore as _, StoreError, Viewer};
use skytrail_schema::acl::Acl;
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::event::{EventBody, Stream};
use skytrail_schema::id::{RecordId, RoleName, UserId};
use skytrail_schema::predicate::{CompareOp, KeyPath, Operand, Predicate};
use skytrail_schema::query::{Query, Scope, Sort, SortKey};
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;
use tokio::time::timeout;

use super::world::*;
use crate::projection::sql::Sql;

pub(crate) fn path(text: &str) -> Operand {
    Operand::Path(KeyPath(text.split('.').map(str::to_owned).collect()))
}

pub(crate) fn literal(wire: Json) -> Operand {
    Operand::Literal(Value::from_wire(wire).unwrap())
}

pub(crate) fn compare(op: CompareOp, field: &str, wire: Json) -> Predicate {
    Predicate::Compare(op, path(field), literal(wire))
}

pub(crate) fn eq(field: &str, wire: Json) -> Predicate {
    compare(CompareOp::Eq, field, wire)
}

pub(crate) fn find(record_type: &str, predicate: Option<Predicate>) -> Query {
    Query {
        record_type: record_type.into(),
        predicate,
        sort: Vec::new(),
        include: Default::default(),
        desired_keys: None,
        count: false,
        limit: None,
        offset: 0,
    }
}

pub(crate) fn by(field: &str, is_descending: bool) -> Sort {
    Sort {
        by: SortKey::Path(KeyPath(vec![field.to_owned()])),
        is_descending,
    }
}

pub(crate) fn user(id: &str, roles: &[&str]) -> Caller {
    Caller {
        key: KeyKind::Client,
        user: Some(UserId::from(id)),
        roles: roles.iter().map(|role| RoleName::from(*role)).collect(),
        ..Caller::default()
    }
}

impl World {
    pub(crate) async fn query_as(
        &self,
        caller: &Caller,
        scope: &Scope,
        query: &Query,
    ) -> Result<QueryAnswer, StoreError> {
        let viewer = Viewer { scope, caller };
        self.store.query(query, &viewer, &NoHeads).await
    }

    /// Returns the keys of a query's answer.
    pub(crate) async fn keys(&self, query: &Query) -> Vec<String> {
        let answer = self.query_as(&user("u1", &[]), &Scope::Public, query).await;
        keys_of(&answer.unwrap())
    }
}

pub(crate) fn keys_of(answer: &QueryAnswer) -> Vec<String> {
    let keys = answer.records.iter();
    keys.map(|head| head.record.id.key.to_string()).collect()
}

async fn books() -> World {
    let mut world = World::new().await;
    world
        .run(vec![
            extend("genre", &[("name", FieldType::String)]),
            extend(
                "book",
                &[
                    ("title", FieldType::String),
                    ("pages", FieldType::Number),
                    ("genre", FieldType::Reference("genre".into())),
                    ("tags", FieldType::Json),
                    ("nick", FieldType::CaselessString),
                ],
            ),
            create("genre/a", 1, json!({"name": "A"})),
            create(
                "book/1",
                1,
                json!({"title": "Tale", "pages": 10, "tags": ["war", 1],
                "genre": {"$type": "ref", "$id": "genre/a"}, "nick": "Ärger"}),
            ),
            create(
                "book/2",
                2,
                json!({"title": "tale of *", "pages": 20, "tags": {"war": 1}}),
            ),
            create(
                "book/3",
                3,
                json!({"title": "50%", "genre": {"$type": "ref", "$id": "genre/x"}}),
            ),
            create("book/4", 4, json!({"pages": -1.5})),
        ])
        .await;
    world
}

#[tokio::test]
async fn conditions_hold_for_whom_they_should() {
    let world = books().await;
    let not = |inner: Predicate| Predicate::Not(Box::new(inner));
    let cases: Vec<(Predicate, &[&str])> = vec![
        (eq("title", json!("Tale")), &["1"]),
        (eq("title", json!(null)), &["4"]),
        (compare(CompareOp::Neq, "title", json!("Tale")), &["2", "3"]),
        (not(eq("title", json!("Tale"))), &["2", "3"]),
        (compare(CompareOp::Gt, "pages", json!("1")), &["1", "2"]),
        (compare(CompareOp::Lt, "pages", json!(11)), &["1", "4"]),
        (compare(CompareOp::Like, "title", json!("tale%")), &["2"]),
        (compare(CompareOp::Like, "title", json!("%*")), &["2"]),
        (compare(CompareOp::Like, "title", json!(r"50\%")), &["3"]),
        (compare(CompareOp::Like, "title", json!("T_l_")), &["1"]),
        (eq("nick", json!("äRGER")), &["1"]),
        (eq("genre", json!("a")), &["1"]),
        (
            eq("genre", json!({"$type": "ref", "$id": "other/a"})),
            &["1"],
        ),
        (eq("genre.name", json!("A")), &["1"]),
        (eq("genre.name", json!(null)), &["2", "3", "4"]),
        (
            Predicate::In(path("title"), literal(json!(["Tale", null, "50%"]))),
            &["1", "3"],
        ),
        (
            not(Predicate::In(path("title"), literal(json!(["Tale"])))),
            &["2", "3"],
        ),
        (
            not(Predicate::In(path("title"), literal(json!(["Tale", null])))),
            &[],
        ),
        (not(Predicate::In(path("title"), literal(json!([])))), &[]),
        (
            Predicate::In(literal(json!("war")), path("tags")),
            &["1", "2"],
        ),
        (
            not(Predicate::In(literal(json!("x")), path("tags"))),
            &["1", "2"],
        ),
        (
            Predicate::And(vec![eq("pages", json!(10)), eq("_owner_id", json!("u1"))]),
            &["1"],
        ),
        (
            Predicate::Or(vec![eq("pages", json!(10)), eq("_id", json!("3"))]),
            &["1", "3"],
        ),
        (
            compare(CompareOp::Gte, "_created_at", json!("2017-07-14T02:40:03Z")),
            &["3", "4"],
        ),
    ];
    for (predicate, expected) in cases {
        let keys = world.keys(&find("book", Some(predicate.clone()))).await;
        assert_eq!(keys, expected, "{predicate:?}");
        let mut short = find("book", Some(predicate.clone()));
        short.limit = Some(50);
        short.count = true;
        let answer = world
            .query_as(&user("u1", &[]), &Scope::Public, &short)
            .await
            .unwrap();
        assert_eq!(keys_of(&answer), expected, "short {predicate:?}");
        assert_eq!(answer.count, Some(expected.len() as u64));
    }
}

#[tokio::test]
async fn order_and_page() {
    let world = books().await;
    let mut query = find("book", None);
    query.sort = vec![by("pages", false)];
    assert_eq!(world.keys(&query).await, ["4", "1", "2", "3"]);
    query.sort = vec![by("pages", true)];
    assert_eq!(world.keys(&query).await, ["3", "2", "1", "4"]);
    query.sort = vec![by("_created_at", true)];
    query.limit = Some(2);
    query.offset = 1;
    query.count = true;
    let answer = world
        .query_as(&user("u1", &[]), &Scope::Public, &query)
        .await
        .unwrap();
    assert_eq!(keys_of(&answer), ["3", "2"]);
    assert_eq!(answer.count, Some(4));
    query.offset = 10;
    let answer = world
        .query_as(&user("u1", &[]), &Scope::Public, &query)
        .await
        .unwrap();
    assert_eq!((answer.records.len(), answer.count), (0, Some(4)));
}

#[tokio::test]
async fn access_lists_and_databases() {
    let mut world = World::new().await;
    world.run(vec![extend("note", &[])]).await;
    let lists = [
        ("open", None),
        ("mine", Some(json!([]))),
        ("public", Some(json!([{"public": true, "level": "read"}]))),
        ("user", Some(json!([{"user_id": "u2", "level": "write"}]))),
        ("role", Some(json!([{"role": "ed'itor", "level": "read"}]))),
        (
            "relation",
            Some(json!([{"relation": "friend", "level": "read"}])),
        ),
    ];
    for (key, list) in lists {
        let acl = list.map(|list| Acl::from_wire(&list).unwrap().unwrap());
        let body = EventBody::RecordCreated(state(1, "u1", acl, json!({})));
        let id = RecordId::new("note", key);
        world.run(vec![(Stream::Record(id), body)]).await;
    }
    let mut private = state(1, "u1", Some(Acl(Vec::new())), json!({}));
    private.database = Some("u1".into());
    let id = RecordId::new("note", "private");
    world
        .run(vec![(
            Stream::Record(id),
            EventBody::RecordCreated(private),
        )])
        .await;

    let master = Caller {
        key: KeyKind::Master,
        ..Caller::default()
    };
    let own = Scope::Private("u1".into());
    let cases = [
        (
            user("u1", &[]),
            &Scope::Public,
            "mine open public relation role user",
        ),
        (user("u2", &[]), &Scope::Public, "open public user"),
        (
            user("u3", &["x", "ed'itor", "y"]),
            &Scope::Public,
            "open public role",
        ),
        (Caller::default(), &Scope::Public, "open public"),
        (
            master.clone(),
            &Scope::Public,
            "mine open public relation role user",
        ),
        (user("u1", &[]), &own, "private"),
        (
            master,
            &Scope::Union,
            "mine open private public relation role user",
        ),
    ];
    for (caller, scope, expected) in cases {
        let answer = world
            .query_as(&caller, scope, &find("note", None))
            .await
            .unwrap();
        let mut keys = keys_of(&answer);
        keys.sort();
        assert_eq!(keys.join(" "), expected, "{caller:?}");
    }
}

#[tokio::test]
async fn refusals_have_their_codes() {
    let world = books().await;
    let cases = [
        (eq("nothing", json!(1)), 120),
        (eq("title.name", json!(1)), 120),
        (eq("genre.nothing", json!(1)), 120),
        (eq("a.b.c", json!(1)), 120),
        (eq("pages", json!("many")), 10000),
        (compare(CompareOp::Like, "pages", json!("1%")), 10000),
        (Predicate::In(literal(json!("a")), path("title")), 10000),
    ];
    for (predicate, code) in cases {
        let query = find("book", Some(predicate.clone()));
        let answer = world
            .query_as(&user("u1", &[]), &Scope::Public, &query)
            .await;
        let Err(StoreError::Refused(error)) = answer else {
            panic!("{predicate:?}: {answer:?}");
        };
        assert_eq!(error.code.number(), code, "{predicate:?}");
    }
    assert!(
        world
            .keys(&find("nothing", Some(eq("x", json!(1)))))
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn long_and_wide_predicates_are_answered() {
    let world = books().await;
    let equal = |n: usize| (0..n).map(|i| eq("pages", json!(i))).collect();
    let like = |n: usize| {
        let patterns = (0..n).map(|i| compare(CompareOp::Like, "title", json!(format!("{i}%"))));
        patterns.collect()
    };
    let unlike = |n: usize| {
        let patterns = (0..n).map(|i| compare(CompareOp::Neq, "pages", json!(i + 11)));
        patterns.collect()
    };
    for n in [150, 20_000] {
        let cases: [(Predicate, &[&str]); 3] = [
            (Predicate::Or(equal(n)), &["1", "2"]),
            (Predicate::Or(like(n)), &["3"]),
            (Predicate::And(unlike(n)), &["1", "4"]),
        ];
        for (predicate, expected) in cases {
            assert_eq!(world.keys(&find("book", Some(predicate))).await, expected);
        }
    }
    let list: Vec<usize> = (0..5_000).collect();
    let predicate = Predicate::In(path("pages"), literal(json!(list)));
    assert_eq!(world.keys(&find("book", Some(predicate))).await, ["1", "2"]);
    let mut deep = eq("pages", json!(10));
    for _ in 0..60 {
        deep = Predicate::Not(Box::new(Predicate::And(vec![
            deep,
            eq("title", json!("Tale")),
        ])));
    }
    world.keys(&find("book", Some(deep))).await;
}

#[tokio::test]
async fn a_query_that_nobody_waits_for_holds_nobody_up() {
    let world = books().await;
    let mut reading = world.store.reader().await.unwrap();
    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) \
                   SELECT max(x) FROM n";
    let mut conn = reading.conn().unwrap();
    let query = Sql::new(endless).fetch_all(&mut conn);
    assert!(
        timeout(Duration::ZERO, query).await.is_err(),
        "it has no end"
    );
    drop(reading);
    let all = find("book", None);
    let found = timeout(Duration::from_secs(60), world.keys(&all)).await;
    assert!(!found.unwrap().is_empty());
}
