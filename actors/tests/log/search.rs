//! Searching the log finds what a plain scan of it finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;
use skytrail_actors::log::disk::Disk;
use skytrail_actors::log::{Decision, EmbeddedLog, EventLog};
use skytrail_actors::testkit::disk::MemoryDisk;
use skytrail_schema::caller::{KeyKind, Rights};
use skytrail_schema::event::{
    Actor, ChangeStamp, Commit, EventBody, EventFilter, Kinds, NewCommit, NewEvent, Origin,
    Provenance, RecordState, Stream,
};
use skytrail_schema::id::RecordId;
use uuid::Uuid;

use super::world::{SOME_BYTES, close, fill, open_folder, open_with_recent, read_all};

/// A few users and names, so that filters hit and miss.
const NAMES: [&str; 3] = ["ada", "bob", "5d1f7a54-1f2e-4f3a-9d0c-2b1a0f9e8d7c"];
const KEYS: [KeyKind; 3] = [KeyKind::None, KeyKind::Client, KeyKind::Master];
const ORIGINS: [Origin; 3] = [Origin::Api, Origin::Plugin, Origin::Import];

fn name() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::of(prop::sample::select(NAMES.to_vec()))
}

fn stream() -> impl Strategy<Value = Stream> {
    let record = (prop::sample::select(vec!["note", "task"]), 0..3_u8)
        .prop_map(|(kind, key)| Stream::Record(RecordId::new(kind, key.to_string())));
    prop_oneof![record, Just(Stream::FieldAccess)]
}

fn event() -> impl Strategy<Value = NewEvent> {
    (stream(), any::<bool>(), name(), 0..3000_usize).prop_map(|(stream, is_new, hook, size)| {
        let state = RecordState {
            database: None,
            owner: None,
            access: None,
            created: None,
            updated: ChangeStamp::default(),
            fields: [("text".to_owned(), json!("x".repeat(size)))].into(),
        };
        let changed = |plugin: &str| Provenance {
            plugin: plugin.to_owned(),
            hook: "h".to_owned(),
            changed: Default::default(),
        };
        NewEvent {
            subject: None,
            stream,
            version: 1,
            body: match is_new {
                true => EventBody::RecordCreated(state),
                false => EventBody::RecordDeleted(ChangeStamp::default()),
            },
            provenance: hook.map(changed).into_iter().collect(),
        }
    })
}

fn actor() -> impl Strategy<Value = Actor> {
    let key = prop::sample::select(KEYS.to_vec());
    let origin = prop::sample::select(ORIGINS.to_vec());
    (name(), key, origin, name()).prop_map(|(user, key, origin, plugin)| Actor {
        user: user.map(Into::into),
        key,
        rights: Rights::default(),
        origin,
        plugin: plugin.map(str::to_owned),
        on_behalf: None,
    })
}

fn commit() -> impl Strategy<Value = NewCommit> {
    let request = prop::option::of(0..3_u128);
    let events = prop::collection::vec(event(), 1..4);
    (actor(), request, events).prop_map(|(actor, request, events)| NewCommit {
        id: Uuid::now_v7(),
        actor,
        request_id: request.map(Uuid::from_u128),
        causation: None,
        sql: None,
        events,
    })
}

fn filter() -> impl Strategy<Value = EventFilter> {
    let kinds: [&[&str]; 4] = [&[], &["record"], &["record.deleted"], &["user"]];
    let types: [&[&str]; 3] = [&[], &["note"], &["task", "page"]];
    (
        prop::option::weighted(0.3, stream()),
        prop::sample::select(types.to_vec()),
        prop::sample::select(kinds.to_vec()),
        name(),
        prop::sample::subsequence(KEYS.to_vec(), 0..2),
        prop::sample::subsequence(ORIGINS.to_vec(), 0..2),
        name(),
        prop::option::weighted(0.3, 0..4_u128),
    )
        .prop_map(
            |(stream, types, kinds, user, keys, origins, plugin, request)| EventFilter {
                stream,
                record_types: types.iter().map(|name| (*name).into()).collect(),
                kinds: Kinds::parse(kinds).unwrap(),
                user: user.map(Into::into),
                keys: keys.into_iter().collect(),
                origins: origins.into_iter().collect(),
                plugin: plugin.map(str::to_owned),
                request_id: request.map(Uuid::from_u128),
            },
        )
}

fn matching_positions(
    commits: &[Arc<Commit>],
    filter: &EventFilter,
    from: u64,
    until: u64,
) -> Vec<u64> {
    let events = commits
        .iter()
        .flat_map(|commit| commit.events.iter().map(move |event| (commit, event)));
    events
        .filter(|(commit, event)| filter.matches(commit, event))
        .map(|(_, event)| event.position)
        .filter(|position| (from..=until).contains(position))
        .collect()
}

/// Searches piece after piece.
async fn search(log: &EmbeddedLog, filter: &EventFilter, from: u64, until: u64) -> Vec<u64> {
    let (mut at, mut found) = (from, Vec::new());
    while at <= until {
        let piece = log.search(at, until, filter).await.unwrap();
        assert!(piece.until >= at, "no step forward");
        for commit in &piece.found {
            let mut events = commit.events.iter();
            let is_wanted = events.any(|event| filter.matches(commit, event));
            assert!(is_wanted, "found what nobody wants");
        }
        found.extend(matching_positions(&piece.found, filter, at, until));
        at = piece.until + 1;
    }
    found
}

#[test]
fn where_the_journal_is_damaged_sled_is_searched() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let log = open_folder(folder.path());
        fill(&log, 300).await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while log.state().sled.unwrap().position < log.head() {
            assert!(Instant::now() < deadline, "sled has not caught up");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let segment = folder.path().join("journal/00000000000000000001.journal");
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[5000] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        let filter = EventFilter::default();
        let found = search(&log, &filter, 1, log.head()).await;
        assert_eq!(found, (1..=300).collect::<Vec<_>>());
        close(&log);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_search_finds_what_a_scan_finds(
        commits in prop::collection::vec(commit(), 1..60),
        filters in prop::collection::vec(filter(), 1..12),
        places in (0..1000_u64, 0..1000_u64),
        recent_bytes in prop::sample::select(vec![0, SOME_BYTES, 1 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
            let log = Arc::new(open_with_recent(&disk, recent_bytes).unwrap());
            for commit in commits {
                let decision = Decision {
                    commit,
                    read_position: log.head(),
                    reads: Vec::new(),
                    writes: Vec::new(),
                    sequences: Vec::new(),
                };
                log.append(decision).await.unwrap();
            }
            let whole = read_all(&log).await;
            let head = log.head();
            let (from, until) = (places.0 % head + 1, places.1 % head + 1);
            for filter in filters {
                for (from, until) in [(1, head), (from, until)] {
                    let expected = matching_positions(&whole, &filter, from, until);
                    assert_eq!(search(&log, &filter, from, until).await, expected, "{filter:?}");
                }
            }
            let behind = log.search(head + 1, head + 9, &EventFilter::default()).await.unwrap();
            assert_eq!((behind.found.len(), behind.until), (0, head));
            close(&log);
        });
    }
}
