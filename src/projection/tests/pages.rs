//! Tests orders, pages and access control against the same in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value as Json, json};
use skytrail_schema::acl::{Acl, Level};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::event::{EventBody, RecordState, Stream};
use skytrail_schema::id::{Database, RecordId};
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::{Head, Record};
use skytrail_schema::types::FieldType;

use super::query::user;
use super::world::*;

fn any_access() -> impl Strategy<Value = Json> {
    let level = || select(vec!["read", "write"]);
    let entry = prop_oneof![
        level().prop_map(|level| json!({"level": level, "public": true})),
        level().prop_map(|level| json!({"level": level, "public": false})),
        level().prop_map(|level| json!({"level": level, "user_id": "me"})),
        level().prop_map(|level| json!({"level": level, "user_id": "other"})),
        level().prop_map(|level| json!({"level": level, "role": "editor"})),
        level().prop_map(|level| json!({"level": level, "role": "it's", "relation": "friend"})),
    ];
    prop_oneof![
        1 => Just(Json::Null),
        2 => prop::collection::vec(entry, 0..3).prop_map(Json::from),
    ]
}

fn any_fields() -> impl Strategy<Value = Json> {
    let text = || prop::option::of(select(vec!["", "a", "A", "b", "é", "É", "\u{1f600}"]));
    let number = prop::option::of(select(vec![-1.5, 0.0, 1.0, 1e9]));
    let truth = prop::option::of(any::<bool>());
    let tree = prop::option::of(select(vec![
        json!([1]),
        json!([1.0]),
        json!({"a": 1}),
        json!([]),
    ]));
    let place = prop::option::of(select(vec![0.0, 1.0, 2.0]));
    (text(), text(), number, truth, tree, place).prop_map(
        |(text, name, number, truth, tree, place)| {
            let place = place.map(|lng| json!({"$type": "geo", "$lng": lng, "$lat": 0}));
            json!({
                "text": text, "name": name, "number": number, "truth": truth, "json": tree,
                "place": place,
            })
        },
    )
}

fn any_state() -> impl Strategy<Value = RecordState> {
    let owner = select(vec!["me", "other"]);
    let database = prop_oneof![4 => Just(None), 1 => Just(Some("me")), 1 => Just(Some("other"))];
    (any_fields(), any_access(), owner, database).prop_map(|(wire, access, owner, database)| {
        let access = Acl::from_wire(&access).unwrap();
        let mut state = state(1, owner, access, wire);
        state.fields.retain(|_, value| !value.is_null());
        state.database = database.map(Into::into);
        state
    })
}

fn any_sort() -> impl Strategy<Value = Json> {
    let names = vec![
        "text",
        "name",
        "number",
        "truth",
        "json",
        "place",
        "_id",
        "_owner",
        "_created_at",
    ];
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    let from = json!({"$type": "geo", "$lng": 1.25, "$lat": 1});
    let key = prop_oneof![
        8 => select(names).prop_map(path),
        1 => Just(json!(["func", "distance", path("place"), from])),
    ];
    let key = (key, select(vec!["asc", "desc"])).prop_map(|(key, order)| json!([key, order]));
    prop::collection::vec(key, 0..3).prop_map(Json::from)
}

fn any_predicate() -> impl Strategy<Value = Json> {
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    select(vec![
        json!([]),
        json!(["neq", path("number"), 1]),
        // One that SQL expresses exactly, one roughly, and one not at all.
        json!([
            "or",
            ["eq", path("truth"), true],
            ["like", path("text"), "_"]
        ]),
        json!(["not", ["ilike", path("text"), "É"]]),
        json!(["eq", path("json"), "[1]"]),
    ])
}

fn any_caller() -> impl Strategy<Value = Caller> {
    select(vec![
        Caller::default(),
        user("me", &[]),
        user("me", &["editor"]),
        user("third", &["it's", "none"]),
        Caller {
            key: KeyKind::Master,
            ..Caller::default()
        },
    ])
}

fn is_visible(record: &Record, scope: &Scope, caller: &Caller) -> bool {
    match (scope, &record.database) {
        (Scope::Union, _) => true,
        (Scope::Private(user), Database::Private(owner)) => user == owner,
        (Scope::Public, Database::Public) => caller.may(Level::Read, record),
        _ => false,
    }
}

async fn world(states: Vec<RecordState>) -> World {
    let mut world = World::new().await;
    let fields = [
        ("text", FieldType::String),
        ("name", FieldType::CaselessString),
        ("number", FieldType::Number),
        ("truth", FieldType::Boolean),
        ("json", FieldType::Json),
        ("place", FieldType::Location),
    ];
    let mut events = vec![extend("thing", &fields)];
    for (number, state) in states.into_iter().enumerate() {
        let id = RecordId::new("thing", number.to_string());
        events.push((Stream::Record(id), EventBody::RecordCreated(state)));
    }
    world.run(events).await;
    world
}

#[derive(Clone, Debug)]
struct Question {
    sort: Json,
    predicate: Json,
    caller: Caller,
    scope: Scope,
    page: u64,
}

impl Question {
    fn query(&self) -> Query {
        let mut parameters = Map::new();
        parameters.insert("record_type".into(), "thing".into());
        parameters.insert("sort".into(), self.sort.clone());
        parameters.insert("predicate".into(), self.predicate.clone());
        Query::parse(&parameters).unwrap()
    }
}

fn any_question() -> impl Strategy<Value = Question> {
    let scope = select(vec![
        Scope::Public,
        Scope::Private("me".into()),
        Scope::Union,
    ]);
    let page = select(vec![1_u64, 3, 7, 300]);
    (any_sort(), any_predicate(), any_caller(), scope, page).prop_map(
        |(sort, predicate, caller, scope, page)| Question {
            sort,
            predicate,
            caller,
            scope,
            page,
        },
    )
}

impl World {
    /// Returns the keys found page by page.
    async fn pages(&self, question: &Question) -> Vec<String> {
        let mut query = question.query();
        query.limit = Some(question.page);
        let mut keys = Vec::new();
        loop {
            query.offset = keys.len() as u64;
            let page = self.ask(question, &query).await;
            if page.is_empty() {
                return keys;
            }
            keys.extend(page.iter().map(|head| head.record.id.key.to_string()));
        }
    }

    async fn ask(&self, question: &Question, query: &Query) -> Vec<Arc<Head>> {
        let answer = self
            .query_as(&question.caller, &question.scope, query)
            .await;
        answer.unwrap().records
    }

    async fn check(&self, question: &Question) {
        let mut query = question.query();
        let definition = &self.types["thing"];
        let types = [Arc::new(definition.clone())];
        let bound = query.bind(definition, types.as_slice()).unwrap();

        let whole = self.ask(question, &query).await;
        let expected = self.heads.iter().filter(|(_, head)| {
            let condition = bound.condition.as_ref();
            is_visible(&head.record, &question.scope, &question.caller)
                && condition.is_none_or(|it| it.evaluate(&head.record, alone()) == Some(true))
        });
        let expected: BTreeSet<&RecordId> = expected.map(|(id, _)| id).collect();
        let found: BTreeSet<&RecordId> = whole.iter().map(|head| &head.record.id).collect();
        assert_eq!(found, expected, "{question:?}");
        assert_eq!(found.len(), whole.len(), "twice: {question:?}");
        for (left, right) in whole.iter().zip(whole.iter().skip(1)) {
            let order = bound.compare(&left.record, &right.record);
            assert!(order.is_le(), "{question:?}\n{left:?}\n{right:?}");
        }
        for head in &whole {
            assert_eq!(Some(&**head), self.heads.get(&head.record.id));
        }

        // Consecutive pages add up to the whole result; without an order, to the same set.
        query.limit = Some(question.page);
        query.count = true;
        let mut pages = Vec::new();
        for offset in (0..=whole.len() as u64).step_by(question.page as usize) {
            query.offset = offset;
            let answer = self
                .query_as(&question.caller, &question.scope, &query)
                .await;
            let answer = answer.unwrap();
            assert_eq!(answer.count, Some(whole.len() as u64), "{question:?}");
            pages.extend(answer.records);
        }
        if query.sort.is_empty() {
            let mut whole = whole;
            whole.sort_by_key(|head| head.record.id.clone());
            pages.sort_by_key(|head| head.record.id.clone());
            assert_eq!(pages, whole, "{question:?}");
        } else {
            assert_eq!(pages, whole, "{question:?}");
        }
    }
}

fn alone() -> skytrail_schema::predicate::Context<'static> {
    skytrail_schema::predicate::Context {
        user: None,
        lookups: &skytrail_schema::predicate::evaluate::Nothing,
    }
}

/// Creates twelve things at one place. The first half were written again, so that they are stored
/// elsewhere.
async fn things_at_one_place() -> World {
    let place = json!({"$type": "geo", "$lng": 1, "$lat": 0});
    let fields = json!({"place": place, "json": {"a": 1}, "text": "same"});
    let states = (0..12).map(|_| state(1, "me", None, fields.clone()));
    let mut world = world(states.collect()).await;
    let patches =
        (0..6).map(|number| patch(&format!("thing/{number}"), 2, json!({"number": 1}), &[]));
    world.run(patches.collect()).await;
    world
}

#[tokio::test]
async fn equal_records_come_in_the_order_of_their_creation() {
    let world = things_at_one_place().await;
    let forwards: Vec<String> = (0..12).map(|number| number.to_string()).collect();
    let backwards: Vec<String> = forwards.iter().rev().cloned().collect();
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    let from = json!({"$type": "geo", "$lng": 0, "$lat": 0});
    let distance = json!(["func", "distance", path("place"), from]);
    let roughly = json!(["ilike", path("text"), "SAME"]);
    let in_memory = json!(["or", roughly, ["eq", path("json"), "[1]"]]);
    let cases = [
        (json!([]), &forwards),
        (json!([[distance, "asc"]]), &forwards),
        (json!([[distance, "desc"]]), &backwards),
        (json!([[path("place"), "asc"]]), &forwards),
        (json!([[path("json"), "desc"]]), &backwards),
        (
            json!([[path("text"), "asc"], [distance, "desc"]]),
            &backwards,
        ),
        (
            json!([[distance, "desc"], [path("text"), "asc"]]),
            &forwards,
        ),
    ];
    for (sort, expected) in cases {
        for predicate in [json!([]), in_memory.clone()] {
            let question = Question {
                sort: sort.clone(),
                predicate,
                caller: Caller::default(),
                scope: Scope::Union,
                page: 5,
            };
            let found = world.pages(&question).await;
            assert_eq!(&found, expected, "{question:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(24), ..ProptestConfig::default() })]

    #[test]
    fn answers_are_all_that_may_be_seen_in_order_page_by_page(
        states in prop::collection::vec(any_state(), 1..30),
        questions in prop::collection::vec(any_question(), 12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = world(states).await;
            for question in &questions {
                world.check(question).await;
            }
        });
    }
}
