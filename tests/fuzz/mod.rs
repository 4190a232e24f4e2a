//! Random input to everything that parses: no input causes a panic, and what was read can be
//! written and read again.
//!
//! Runs with every test for a second per target. For a longer run, or to repeat one:
//!
//!     SKYTRAIL_FUZZ_SECONDS=60 SKYTRAIL_FUZZ_SEED=7 cargo test --test integration fuzz:: -- --nocapture
//!
//! The seed is printed; input that fails is kept in target/fuzz.

mod mutate;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Map, Value as Json};
use skytrail::socket::pubsub::Frame;
use skytrail_actors::plugin::registration::Registration;
use skytrail_actors::plugin::timer_spec::TimerSpec;
use skytrail_actors::plugin::{TransportKind, protocol};
use skytrail_schema::acl::Acl;
use skytrail_schema::codec::{self, NoKeys};
use skytrail_schema::id::{Database, RecordId, UserId};
use skytrail_schema::predicate::Context;
use skytrail_schema::predicate::evaluate::Nothing;
use skytrail_schema::query::Query;
use skytrail_schema::record::Record;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::{FieldType, TypeDefinition};
use skytrail_schema::value::Value;

use mutate::Mutator;

#[expect(
    clippy::disallowed_methods,
    reason = "how long to go on is said from outside, not configured"
)]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Mutates seeds and passes them to `target` until the time is over; prints how many the target
/// accepted.
fn fuzz(name: &str, seeds: Vec<Vec<u8>>, target: impl Fn(&[u8]) -> bool) {
    let seconds = setting("SKYTRAIL_FUZZ_SECONDS").unwrap_or(1);
    let seed = setting("SKYTRAIL_FUZZ_SEED").unwrap_or_else(rand::random);
    println!(
        "{name}: SKYTRAIL_FUZZ_SEED={seed}, {} seeds, {seconds} s",
        seeds.len()
    );
    assert!(!seeds.is_empty());
    for valid in &seeds {
        target(valid);
    }
    let mut mutator = Mutator::new(StdRng::seed_from_u64(seed), seeds);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, mut useful) = (0u64, 0u64);
    while Instant::now() < end {
        let input = mutator.next();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let Ok(is_useful) = outcome else {
            let path = keep(name, &input);
            panic!("{name}: seed {seed}, input kept in {}", path.display());
        };
        tried += 1;
        if is_useful {
            useful += 1;
            mutator.learn(input);
        }
    }
    println!("{name}: {tried} inputs, {useful} of them taken");
    assert!(
        useful > 0,
        "{name}: none of {tried} inputs got through the parser"
    );
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    let number = (1..).find(|number| !folder.join(format!("{name}-{number}")).exists());
    let path = folder.join(format!("{name}-{}", number.unwrap()));
    std::fs::write(&path, input).unwrap();
    path
}

fn object(input: &[u8]) -> Option<Map<String, Json>> {
    serde_json::from_slice(input).ok()
}

/// A type that has every field that some seed uses, and every kind of field.
fn definition() -> TypeDefinition {
    let kinds = [
        FieldType::String,
        FieldType::Number,
        FieldType::Integer,
        FieldType::Boolean,
        FieldType::DateTime,
        FieldType::Json,
        FieldType::Location,
        FieldType::Geometry,
        FieldType::Reference("thing".into()),
        FieldType::Reference("user".into()),
        FieldType::Asset,
        FieldType::Sequence,
    ];
    let names = seeds::field_names();
    let fields = names.into_iter().zip(kinds.into_iter().cycle());
    TypeDefinition {
        fields: fields.collect(),
        ..TypeDefinition::empty("thing".into())
    }
}

fn record(fields: impl Iterator<Item = (String, Value)>) -> Record {
    Record {
        id: RecordId::new("thing", "1"),
        database: Database::Public,
        owner: Some("ada".into()),
        access: None,
        created_at: Timestamp::from_micros(1_000_000),
        created_by: None,
        updated_at: Timestamp::from_micros(2_000_000),
        updated_by: None,
        fields: fields.collect(),
    }
}

#[test]
fn queries() {
    let types = vec![Arc::new(definition())];
    let values = seeds::values();
    let names = types[0].fields.keys().cloned();
    let record = record(names.zip(values.into_iter().cycle()));
    let user = UserId::from("ada");
    fuzz("queries", seeds::requests("record:query"), |input| {
        let Some(body) = object(input) else {
            return false;
        };
        let Ok(query) = Query::parse(&body) else {
            return false;
        };
        let size = query.predicate.as_ref().map(|predicate| predicate.size());
        assert!(size.is_none_or(|size| size.depth <= size.num_nodes));
        let Ok(bound) = query.bind(&types[0], types.as_slice()) else {
            return false;
        };
        let context = Context {
            user: Some(&user),
            lookups: &Nothing,
        };
        if let Some(condition) = &bound.condition {
            condition.evaluate(&record, context);
        }
        true
    });
}

#[test]
fn records() {
    fuzz("records", seeds::requests("record:save"), |input| {
        let Some(body) = object(input) else {
            return false;
        };
        let records = body.get("records").and_then(Json::as_array);
        let members = records
            .into_iter()
            .flatten()
            .filter_map(Json::as_object)
            .flatten();
        let mut num_read = 0;
        for (name, wire) in members {
            if name == "_access" {
                if let Ok(Some(acl)) = Acl::from_wire(wire) {
                    assert_eq!(Acl::from_wire(&acl.to_wire()).unwrap(), Some(acl));
                }
            } else if name == "_id" {
                let id = wire.as_str().and_then(RecordId::parse);
                assert!(id.is_none_or(|id| Some(id.to_string().as_str()) == wire.as_str()));
            } else if let Ok(value) = Value::from_wire(wire.clone()) {
                let written = value.to_wire();
                let again = Value::from_wire(written.clone()).map(|value| value.to_wire());
                assert_eq!(again, Ok(written));
                num_read += 1;
            }
        }
        num_read > 0
    });
}

#[test]
fn commits() {
    fuzz("commits", seeds::commits(), |input| {
        let peeked = codec::peek(input);
        let Ok(commit) = codec::decode_commit(input, &NoKeys) else {
            return false;
        };
        let peeked = peeked.unwrap();
        assert_eq!(peeked.first_position, commit.first_position());
        true
    });
}

#[test]
fn frames_of_plugins() {
    fuzz("frames-of-plugins", seeds::plugin_messages(), |input| {
        let text = String::from_utf8_lossy(input);
        let frame = protocol::parse(&text);
        if let Ok(message) = serde_json::from_str::<Json>(&text) {
            let _ = Registration::parse(&message["result"], TransportKind::WebSocket);
            let timers = message["result"]["timer"].as_array().into_iter().flatten();
            for spec in timers.filter_map(|timer| timer["spec"].as_str()) {
                let _ = TimerSpec::parse(spec);
            }
        }
        frame.is_ok()
    });
}

#[test]
fn frames_of_pubsub() {
    let seeds = [
        r#"{"action": "sub", "channel": "room"}"#,
        r#"{"action": "unsub", "channel": "room"}"#,
        r#"{"action": "pub", "channel": "room", "data": {"a": [1, null, "x"]}}"#,
    ];
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    fuzz("frames-of-pubsub", seeds, |input| {
        Frame::parse(&String::from_utf8_lossy(input)).is_ok()
    });
}

#[test]
fn schedules() {
    let seeds = [
        "@every 1h30m",
        "@daily",
        "0 30 9 * * 1-5",
        "*/5 0-12/3 1,15 * ? *",
        "@every 1.5s",
    ];
    let seeds = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    fuzz("schedules", seeds, |input| {
        TimerSpec::parse(&String::from_utf8_lossy(input)).is_ok()
    });
}
