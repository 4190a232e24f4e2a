//! Tests rows of the maximum width.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value as Json, json};
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{EventBody, Stream};
use skytrail_schema::id::RecordId;
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;
use skytrail_schema::width::{MAX_BYTES, MAX_COLUMNS, num_columns, width_of};

use super::world::{World, extend, state};

/// Returns a string that compresses well, somewhat, or not at all.
fn text(random: &mut StdRng) -> String {
    let length = match random.random_range(0..4) {
        0 => random.random_range(0..24),
        1 => random.random_range(24..34),
        2 => random.random_range(34..80),
        _ => random.random_range(80..3000),
    };
    let letters = *[1, 4, 90].get(random.random_range(0..3)).unwrap();
    let letter = |_| char::from(b' ' + random.random_range(0..letters));
    (0..length).map(letter).collect()
}

fn value(random: &mut StdRng, kind: &FieldType) -> Json {
    match kind {
        FieldType::Boolean => json!(random.random::<bool>()),
        FieldType::Integer => json!(random.random::<i32>()),
        FieldType::DateTime => {
            json!({"$type": "date", "$date": "2015-04-10T09:35:20.123456Z"})
        }
        FieldType::Location => json!({"$type": "geo", "$lng": 114.15, "$lat": -22.2}),
        FieldType::Reference(target) => {
            json!({"$type": "ref", "$id": format!("{target}/{}", text(random))})
        }
        FieldType::Asset => {
            json!({"$type": "asset", "$name": text(random) + "a", "$content_type": text(random)})
        }
        FieldType::Json => match random.random_range(0..3) {
            0 => json!([]),
            1 => json!({"a": random.random::<u32>()}),
            _ => json!({"text": text(random), "list": [1, 2, 3]}),
        },
        FieldType::Geometry => {
            json!({"$type": "geojson", "$val": {"type": "Point", "coordinates": [1.5, 2]}})
        }
        FieldType::Number => json!(random.random::<f64>()),
        _ => json!(text(random)),
    }
}

/// Returns the types of a record's fields.
fn kinds(random: &mut StdRng) -> Vec<FieldType> {
    let all = [
        FieldType::String,
        FieldType::Number,
        FieldType::Boolean,
        FieldType::Json,
        FieldType::DateTime,
        FieldType::CaselessString,
        FieldType::Integer,
        FieldType::Asset,
        FieldType::Reference("note".into()),
        FieldType::Location,
        FieldType::Geometry,
    ];
    let number = random.random_range(1..4);
    (0..number)
        .map(|_| all[random.random_range(0..all.len())].clone())
        .collect()
}

/// Creates a type, and a record of it of the maximum width; returns the width.
async fn fill(world: &mut World, random: &mut StdRng, name: &str) -> usize {
    // The system columns are as wide as they can be.
    let name_of = |text: String| {
        text.chars()
            .chain(['x'])
            .rev()
            .take(800)
            .collect::<String>()
    };
    let (owner, key) = (name_of(text(random)), name_of(text(random)));
    let id = RecordId::new(name, key);
    let kinds = kinds(random);
    let mut made = (state(1, &owner, Some(wide_access()), json!({})), Vec::new());
    let mut num_left = MAX_COLUMNS;
    let mut width = 0;
    for n in 0.. {
        let kind = kinds[random.random_range(0..kinds.len())].clone();
        let Some(remaining) = num_left.checked_sub(num_columns(&kind)) else {
            break;
        };
        num_left = remaining;
        let wire = value(random, &kind);
        let field = format!("f{n}");
        made.0.fields.insert(field.clone(), wire.clone());
        made.1.push((field.clone(), kind));
        let wider = measure(&id, &made);
        if wider > MAX_BYTES {
            made.0.fields.remove(&field);
            break;
        }
        width = wider;
    }
    let (state, fields) = made;
    let fields: Vec<_> = fields
        .iter()
        .map(|(field, kind)| (field.as_str(), kind.clone()))
        .collect();
    let record = (Stream::Record(id), EventBody::RecordCreated(state));
    world.run(vec![extend(name, &fields), record]).await;
    width
}

type Made = (
    skytrail_schema::event::RecordState,
    Vec<(String, FieldType)>,
);

fn measure(id: &RecordId, (state, fields): &Made) -> usize {
    let mut definition = skytrail_schema::types::TypeDefinition::empty(id.record_type.clone());
    definition.fields.extend(fields.iter().cloned());
    let now = state.updated.at;
    let values = state.fields.iter();
    let values = values.map(|(name, wire)| (name.clone(), Value::from_wire(wire.clone()).unwrap()));
    let record = skytrail_schema::record::Record {
        id: id.clone(),
        database: skytrail_schema::id::Database::Public,
        owner: None,
        access: None,
        created_at: now,
        created_by: None,
        updated_at: now,
        updated_by: None,
        fields: values.collect(),
    };
    width_of(&record, &definition)
}

fn wide_access() -> Acl {
    let entries: Vec<_> = (0..20)
        .map(|n| json!({"user_id": format!("user-{n}"), "level": "read"}))
        .collect();
    Acl::from_wire(&json!(entries)).unwrap().unwrap()
}

#[tokio::test]
async fn a_record_that_is_let_in_fits_into_its_row() {
    let mut world = World::new().await;
    let mut random = StdRng::seed_from_u64(20);
    let mut widest = 0;
    for n in 0..20 {
        widest = widest.max(fill(&mut world, &mut random, &format!("wide{n}")).await);
        assert_eq!(world.faults().await, Vec::<String>::new(), "record {n}");
    }
    assert!(widest > MAX_BYTES - 60, "{widest}");
    world.assert_equal().await;

    // The limit is there for a reason, and close to what the database can store.
    let numbers = |number| -> Json { (0..number).map(|n| (format!("f{n}"), json!(n))).collect() };
    let fields: Vec<_> = (0..1000).map(|n| format!("f{n}")).collect();
    let fields: Vec<_> = fields
        .iter()
        .map(|field| (field.as_str(), FieldType::Number))
        .collect();
    world.run(vec![extend("measure", &fields)]).await;
    let create = |id: &str, number| super::world::create(id, 1, numbers(number));
    world.run(vec![create("measure/1", 940)]).await;
    assert_eq!(world.faults().await, Vec::<String>::new());
    world.run(vec![create("measure/2", 1000)]).await;
    let faults = world.faults().await;
    assert!(faults.len() == 1 && faults[0].contains("row is too big"));
}
