//! Reads that are answered once: while a hidden field is renamed, and for what was deleted since.

use serde_json::{Value as Json, json};
use skytrail_schema::caller::{Caller, KeyKind};
use skytrail_schema::event::EventBody;
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::Fields;
use skytrail_schema::time::Timestamp;

use super::world::{World, created, deleted, note, renamed, rules, rules_for};
use super::{begin, run};
use crate::context::RequestContext;
use crate::record::messages::{FetchRecords, QueryRecords};
use crate::record::past::Moment;
use crate::record::read;

/// Reads go to the store. There is one note, whose `secret` nobody may see.
fn world() -> World {
    let world = World::new(0);
    begin(&world);
    world.commit(vec![rules(Some("red"))]);
    let fields = json!({"n": 1, "secret": 7});
    world.commit(vec![created(&note("a"), fields, &Json::Null)]);
    world.apply(usize::MAX);
    world
}

fn rename(world: &World, from: &str, to: &str) {
    world.commit(vec![rules_for(to, Some("red")), renamed(from, to)]);
}

/// Something that happens during a read.
type Meanwhile = (&'static str, fn(&World));

fn meanwhiles() -> [Meanwhile; 4] {
    [
        ("nothing", |_| {}),
        ("a rename that the store has not applied", |world| {
            rename(world, "secret", "open");
        }),
        ("a rename", |world| {
            rename(world, "secret", "open");
            world.apply(usize::MAX);
        }),
        ("a rename there, and back later", |world| {
            rename(world, "secret", "open");
            world.apply(usize::MAX);
            rename(world, "open", "secret");
        }),
    ]
}

fn context() -> RequestContext {
    let caller = Caller {
        key: KeyKind::Client,
        ..Caller::default()
    };
    RequestContext {
        caller,
        ..RequestContext::system()
    }
}

/// Reads; `meanwhile` happens after the store has been asked and before it answers.
async fn read_while<T>(
    world: &World,
    reading: impl Future<Output = T>,
    meanwhile: fn(&World),
) -> T {
    let happening = async {
        world.rest().await;
        assert_eq!(world.store.gate.num_waiting(), 1);
        meanwhile(world);
        loop {
            world.release_all().await;
            world.apply(usize::MAX);
        }
    };
    tokio::select! {
        biased;
        answer = reading => answer,
        () = happening => unreachable!("it does not end"),
    }
}

/// Reads, and counts how often the store was asked.
async fn count_asking<T>(world: &World, reading: impl Future<Output = T>) -> (T, usize) {
    let mut num_requests = 0;
    let letting_through = async {
        loop {
            world.rest().await;
            if world.store.gate.num_waiting() > 0 {
                world.store.gate.release(0);
                num_requests += 1;
            }
        }
    };
    let read = tokio::select! {
        biased;
        read = reading => read,
        () = letting_through => unreachable!("it does not end"),
    };
    (read, num_requests)
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.keys().map(String::as_str).collect()
}

#[test]
fn a_fetch_shows_no_hidden_field_under_its_other_name() {
    for (what, meanwhile) in meanwhiles() {
        run(async {
            let world = world();
            let command = FetchRecords {
                context: context(),
                scope: Scope::Public,
                ids: vec![note("a")],
                as_of: None,
            };
            let fetched = read_while(&world, read::fetch(&world.env, command), meanwhile).await;
            let record = fetched.unwrap().remove(0).unwrap();
            assert_eq!(names(&record.fields), ["n"], "{what}");
        });
    }
}

#[test]
fn a_query_shows_no_hidden_field_under_its_other_name() {
    for (what, meanwhile) in meanwhiles() {
        run(async {
            let world = world();
            let query = json!({"record_type": "note"});
            let command = QueryRecords {
                context: context(),
                scope: Scope::Public,
                query: Query::parse(query.as_object().unwrap()).unwrap(),
                as_of: None,
            };
            let found = read_while(&world, read::query(&world.env, command), meanwhile).await;
            let found = found.unwrap().records.remove(0);
            assert_eq!(names(&found.head.record.fields), ["n"], "{what}");
        });
    }
}

#[test]
fn what_was_deleted_since_is_looked_up_together() {
    let num_requests = |num_notes: usize| async move {
        let world = World::new(0);
        begin(&world);
        world.commit(vec![rules(Some("red"))]);
        let notes: Vec<_> = (0..num_notes).map(|it| note(&it.to_string())).collect();
        for note in &notes {
            world.commit(vec![created(note, json!({"n": 1}), &Json::Null)]);
        }
        world.apply(usize::MAX);
        let then = Some(Moment::Position(world.applied()));
        for note in &notes {
            world.commit(vec![deleted(note)]);
        }
        // Other records have some of the ids by now.
        for note in notes.iter().step_by(2) {
            let (stream, mut body) = created(note, json!({"n": 2}), &Json::Null);
            if let EventBody::RecordCreated(state) = &mut body {
                state.updated.at = Timestamp::from_micros(9);
            }
            world.commit(vec![(stream, body)]);
        }
        world.apply(usize::MAX);
        let query = json!({"record_type": "note", "limit": 1000});
        let command = QueryRecords {
            context: context(),
            scope: Scope::Public,
            query: Query::parse(query.as_object().unwrap()).unwrap(),
            as_of: then,
        };
        let (found, to_query) = count_asking(&world, read::query(&world.env, command)).await;
        let found = found.unwrap().records.into_iter();
        let found: Vec<_> = found.map(|it| it.head.record.id.clone()).collect();
        assert_eq!(found, notes);
        let command = FetchRecords {
            context: context(),
            scope: Scope::Public,
            ids: notes.clone(),
            as_of: then,
        };
        let (found, to_fetch) = count_asking(&world, read::fetch(&world.env, command)).await;
        assert!(found.unwrap().into_iter().all(|it| it.is_ok()));
        (to_query, to_fetch)
    };
    run(async { assert_eq!(num_requests(3).await, num_requests(30).await) });
}
