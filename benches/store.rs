//! How many events per second does the record store take, and how many queries does it answer?
//!
//! Small messages with a reference and no access list; half of the events create a record, half
//! change one. Queries ask for the newest fifty of a room among 100,000.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench stops at the first surprise and says what it found"
)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use skytrail::projection::{SqlStore, StoreOptions};
use skytrail_actors::store::{HeadSource, NoHeads, RecordStore, Viewer};
use skytrail_schema::caller::Caller;
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, Event, EventBody, RecordPatch, RecordState, Stream, TypeExtension,
};
use skytrail_schema::id::{RecordId, RecordKey, TypeName, UserId};
use skytrail_schema::query::{Query, Scope};
use skytrail_schema::record::Head;
use skytrail_schema::time::Timestamp;
use skytrail_schema::types::FieldType;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use uuid::Uuid;

const ROOMS: u64 = 100;
const RECORDS: u64 = 100_000;

/// Creates commits of one event each.
struct Source {
    position: u64,
    num_records: u64,
}

impl Source {
    fn commit(&mut self, stream: Stream, version: u32, body: EventBody) -> Arc<Commit> {
        self.position += 1;
        let event = Event {
            position: self.position,
            stream,
            version,
            body,
            provenance: Vec::new(),
            payload_hash: [0; 32],
        };
        Arc::new(Commit {
            id: Uuid::from_u128(self.position.into()),
            time: at(self.position),
            epoch: 1,
            actor: Actor {
                user: Some(author(self.position)),
                ..Actor::default()
            },
            request_id: None,
            causation: None,
            sql: None,
            events: vec![event],
            chain: [0; 32],
        })
    }

    fn types(&mut self) -> Vec<Arc<Commit>> {
        let room = BTreeMap::from([("title".to_owned(), FieldType::String)]);
        let message = BTreeMap::from([
            ("body".to_owned(), FieldType::String),
            ("likes".to_owned(), FieldType::Number),
            ("room".to_owned(), FieldType::Reference("room".into())),
        ]);
        [("room", room), ("message", message)]
            .map(|(name, fields)| {
                let extension = TypeExtension {
                    fields,
                    ..TypeExtension::default()
                };
                let stream = Stream::Type(name.into());
                self.commit(stream, 1, EventBody::TypeExtended(extension))
            })
            .into()
    }

    fn create(&mut self) -> Arc<Commit> {
        let number = self.num_records;
        self.num_records += 1;
        let room = format!("room/{}", number % ROOMS);
        let state = RecordState {
            database: None,
            owner: Some(author(number)),
            access: None,
            created: None,
            updated: touch(self.position),
            fields: [
                (
                    "body".to_owned(),
                    json!("the quick brown fox jumps over the lazy dog"),
                ),
                ("likes".to_owned(), json!(number % 7)),
                ("room".to_owned(), json!({"$type": "ref", "$id": room})),
            ]
            .into(),
        };
        self.commit(
            Stream::Record(id(number)),
            1,
            EventBody::RecordCreated(state),
        )
    }

    fn change(&mut self) -> Arc<Commit> {
        let number = self.position.wrapping_mul(0x9E37_79B9_7F4A_7C15) % self.num_records;
        let patch = RecordPatch {
            set: [("likes".to_owned(), json!(self.position))].into(),
            updated: touch(self.position),
            ..RecordPatch::default()
        };
        self.commit(
            Stream::Record(id(number)),
            2,
            EventBody::RecordChanged(patch),
        )
    }

    /// Half new, half changed.
    fn mixed(&mut self, num: u64) -> Vec<Arc<Commit>> {
        let next = |index| {
            if index % 2 == 0 {
                self.create()
            } else {
                self.change()
            }
        };
        (0..num).map(next).collect()
    }
}

fn id(number: u64) -> RecordId {
    let random = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    RecordId::new("message", Uuid::from_u128(random).to_string())
}

fn author(number: u64) -> UserId {
    Uuid::from_u128(u128::from(number % 1000) << 64)
        .to_string()
        .into()
}

fn at(number: u64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(number).unwrap())
}

fn touch(number: u64) -> ChangeStamp {
    ChangeStamp {
        at: at(number),
        by: Some(author(number)),
    }
}

struct World {
    runtime: Runtime,
    folder: TempDir,
    store: SqlStore,
    source: Source,
}

fn world() -> World {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("records.sqlite");
    let begun = Instant::now();
    let store = runtime
        .block_on(SqlStore::open_file(&path, &StoreOptions::default()))
        .unwrap();
    println!("an empty store opens in {:?}", begun.elapsed());
    let mut source = Source {
        position: 0,
        num_records: 0,
    };
    runtime.block_on(store.apply(&source.types())).unwrap();
    World {
        runtime,
        folder,
        store,
        source,
    }
}

impl World {
    fn fill(&mut self, records: u64) {
        let begun = Instant::now();
        for _ in 0..records / 500 {
            let batch: Vec<_> = (0..500).map(|_| self.source.create()).collect();
            self.runtime.block_on(self.store.apply(&batch)).unwrap();
        }
        let rate = records as f64 / begun.elapsed().as_secs_f64();
        let bytes = bytes_in(self.folder.path());
        println!(
            "{records} new records: {rate:.0} per second, {} bytes each",
            bytes / records
        );
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

fn apply(criterion: &mut Criterion) {
    let mut world = world();
    world.fill(RECORDS);
    let mut group = criterion.benchmark_group("apply");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for size in [1, 64, 512] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("batch", size), |bencher| {
            bencher.iter_custom(|times| {
                let mut spent = Duration::ZERO;
                for _ in 0..times {
                    let batch = world.source.mixed(size);
                    let begun = Instant::now();
                    world.runtime.block_on(world.store.apply(&batch)).unwrap();
                    spent += begun.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

/// Has every head.
struct All(HashMap<RecordKey, Arc<Head>>);

impl HeadSource for All {
    fn get_written(&self, _: &TypeName, versions: &[(RecordKey, u64)]) -> Vec<Option<Arc<Head>>> {
        let find = |(key, position): &(RecordKey, u64)| {
            let head = self.0.get(key).filter(|head| head.position == *position);
            head.cloned()
        };
        versions.iter().map(find).collect()
    }
}

fn newest_of_room(room: u64) -> Query {
    let wire = json!({
        "record_type": "message", "limit": 50,
        "predicate": ["eq", {"$type": "keypath", "$val": "room"}, room.to_string()],
        "sort": [[{"$type": "keypath", "$val": "_created_at"}, "desc"]],
    });
    Query::parse(wire.as_object().unwrap()).unwrap()
}

fn query(criterion: &mut Criterion) {
    let mut world = world();
    world.fill(RECORDS);
    let caller = Caller {
        user: Some("u".into()),
        ..Caller::default()
    };
    let viewer = Viewer {
        scope: &Scope::Public,
        caller: &caller,
    };
    // Gives the store time to see the queries, and to build its index.
    for room in 0..50 {
        let query = newest_of_room(room % ROOMS);
        let asked = world.store.query(&query, &viewer, &NoHeads);
        world.runtime.block_on(asked).unwrap();
    }
    let begun = Instant::now();
    world
        .runtime
        .block_on(world.store.tend_indexes(at(0)))
        .unwrap();
    println!("indexes looked after in {:?}", begun.elapsed());
    for index in world.runtime.block_on(world.store.list_indexes()).unwrap() {
        println!("{index:?}");
    }
    let mut all = query_all(&world, &viewer);
    let mut group = criterion.benchmark_group("query");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    let mut room = 0;
    for (name, heads) in [("store", &NoHeads as &dyn HeadSource), ("memory", &all)] {
        group.bench_function(BenchmarkId::new("newest_50_from", name), |bencher| {
            bencher.iter(|| {
                room = (room + 1) % ROOMS;
                let query = newest_of_room(room);
                let answer = world
                    .runtime
                    .block_on(world.store.query(&query, &viewer, heads));
                assert_eq!(answer.unwrap().records.len(), 50);
            });
        });
    }
    group.finish();
    all.0.clear();
}

fn query_all(world: &World, viewer: &Viewer<'_>) -> All {
    let wire = json!({"record_type": "message"});
    let query = Query::parse(wire.as_object().unwrap()).unwrap();
    let begun = Instant::now();
    let answer = world
        .runtime
        .block_on(world.store.query(&query, viewer, &NoHeads))
        .unwrap();
    println!(
        "{} whole records in {:?}",
        answer.records.len(),
        begun.elapsed()
    );
    let keyed = answer
        .records
        .into_iter()
        .map(|head| (head.record.id.key.clone(), head));
    All(keyed.collect())
}

criterion_group!(benches, apply, query);
criterion_main!(benches);
