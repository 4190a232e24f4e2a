//! Tests types whose records' past the store keeps.

use proptest::prelude::*;
use serde_json::json;
use skytrail_actors::store::{NoHeads, QueryAnswer, RecordStore as _, Viewer};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::event::{EventBody, FieldRename, Intervals, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::types::FieldType;

use super::world::*;

fn keep(are_kept: bool) -> (Stream, EventBody) {
    let body = EventBody::TypeIntervalsSet(Intervals { are_kept });
    (Stream::Type("note".into()), body)
}

fn queries() -> Vec<Query> {
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    let all = [
        json!({"sort": [[path("_id"), "asc"]]}),
        json!({"predicate": ["gt", path("n"), 1], "sort": [[path("n"), "desc"]], "count": true,
               "limit": 2}),
        json!({"predicate": ["like", path("text"), "a%"], "sort": [[path("text"), "asc"]]}),
        // Equal records are on both sides of a page's end.
        json!({"sort": [[path("text"), "desc"], [path("n"), "asc"]], "limit": 2, "offset": 1}),
        json!({"sort": [[path("n"), "asc"]], "count": true, "limit": 300, "offset": 1}),
    ];
    let query = |mut wire: serde_json::Value| {
        wire["record_type"] = json!("note");
        Query::parse(wire.as_object().unwrap()).unwrap()
    };
    all.map(query).into()
}

impl World {
    /// Runs all queries, as of a position or now.
    async fn answers(&self, position: Option<u64>) -> Option<Vec<QueryAnswer>> {
        let caller = Caller {
            key: KeyKind::Master,
            ..Caller::default()
        };
        let viewer = Viewer {
            scope: &Scope::Public,
            caller: &caller,
        };
        let mut answers = Vec::new();
        for query in queries() {
            let then = &self.types[&query.record_type];
            answers.push(match position {
                None => self.store.query(&query, &viewer, &NoHeads).await.unwrap(),
                Some(at) => {
                    let kept = self
                        .store
                        .query_as_of(&query, &viewer, &NoHeads, (at, then));
                    kept.await.unwrap()?
                }
            });
        }
        Some(answers)
    }

    fn head(&self) -> u64 {
        self.log.last().map_or(0, |commit| commit.last_position())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, i64, &'static str),
    Change(u8, i64),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..4_u8;
    let text = prop::sample::select(vec!["a", "ab", "b"]);
    prop_oneof![
        3 => (key(), 0..5_i64, text).prop_map(|(key, n, text)| Step::Put(key, n, text)),
        3 => (key(), 0..5_i64).prop_map(|(key, n)| Step::Change(key, n)),
        1 => key().prop_map(Step::Delete),
    ]
}

async fn run(steps: Vec<(Step, bool)>) {
    let mut world = World::new().await;
    let fields = [("n", FieldType::Number), ("text", FieldType::String)];
    world.run(vec![extend("note", &fields)]).await;
    world
        .run(vec![create("note/0", 1, json!({"n": 0, "text": "a"}))])
        .await;
    assert!(world.answers(Some(world.head())).await.is_none());
    world.run(vec![keep(true)]).await;
    let since = world.head();
    let mut expected = vec![(since, world.answers(None).await.unwrap())];
    let mut waiting = Vec::new();
    for (number, (step, is_end)) in steps.into_iter().enumerate() {
        let second = i64::try_from(number).unwrap() + 2;
        let id = |key: u8| format!("note/{key}");
        let is_there = |world: &World, key: u8| {
            world
                .heads
                .contains_key(&RecordId::new("note", key.to_string()))
        };
        let event = match step {
            Step::Put(key, n, text) if is_there(&world, key) => {
                replace(&id(key), second, json!({"n": n, "text": text}))
            }
            Step::Put(key, n, text) => create(&id(key), second, json!({"n": n, "text": text})),
            Step::Change(key, n) if is_there(&world, key) => {
                patch(&id(key), second, json!({"n": n}), &[])
            }
            Step::Delete(key) if is_there(&world, key) => delete(&id(key), second),
            Step::Change(..) | Step::Delete(_) => continue,
        };
        waiting.push(world.commit(vec![event]));
        if is_end {
            world.store.apply(&waiting).await.unwrap();
            waiting.clear();
            expected.push((world.head(), world.answers(None).await.unwrap()));
        }
    }
    world.store.apply(&waiting).await.unwrap();
    for (position, answers) in &expected {
        assert_eq!(
            world.answers(Some(*position)).await.as_ref(),
            Some(answers),
            "at {position}"
        );
    }
    assert!(world.answers(Some(since - 1)).await.is_none());
    // A field that is added later is empty in the past; after a rename the store can no longer
    // answer.
    world
        .run(vec![extend("note", &[("more", FieldType::String)])])
        .await;
    assert_eq!(
        world.answers(Some(since)).await.as_ref(),
        Some(&expected[0].1)
    );
    let then = world.types["note"].clone();
    let rename = EventBody::TypeFieldRenamed(FieldRename {
        from: "text".to_owned(),
        to: "body".to_owned(),
    });
    world.run(vec![(Stream::Type("note".into()), rename)]).await;
    world.types.insert("note".into(), then);
    assert!(world.answers(Some(since)).await.is_none());
    assert_eq!(world.faults().await, [""; 0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: super::cases(32), ..ProptestConfig::default() })]

    /// Whatever happens, in batches of any size: queries of the past return what they returned
    /// then.
    #[test]
    fn what_was_answered_then_is_answered_as_of_then(
        steps in prop::collection::vec((step(), any::<bool>()), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
