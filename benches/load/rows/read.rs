//! How many records per second can be fetched by id, and how often can the newest fifty of a room
//! be queried, with a hundred thousand records in the store?

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::compare::compare;
use crate::drive::{Job, drive_times};
use crate::report::{Aim, Report};
use crate::request::{self, BareGet, Create, Fetch, Newest};
use crate::rig::{Loaded, Rig};
use crate::rows::READS;
use crate::server::settle;

const NUM_RECORDS: u64 = 100_000;
const CONNECTIONS: usize = 64;
/// The size of a page.
const PAGE: usize = 50;
/// A query over this many records that takes less than this does not scan them.
const INDEXED: Duration = Duration::from_millis(3);
/// How long we wait for the server to notice the scan and create an index.
const INDEX_DEADLINE: Duration = Duration::from_secs(30);

/// Starts a server and creates the records.
pub(crate) async fn fill(rig: &Rig<'_>, report: &mut Report) -> Loaded {
    let loaded = rig.fresh_server().await;
    create_many(&loaded, report, rig.options.scaled(NUM_RECORDS), 100).await;
    loaded
}

/// Creates more records, `batch` with each request, and waits until they can be read.
pub(crate) async fn create_many(loaded: &Loaded, report: &mut Report, number: u64, batch: u64) {
    let mut clients = loaded.connect(CONNECTIONS).await;
    let connections = if batch > 1 { 4 } else { CONNECTIONS };
    let job = Create {
        kind: "message",
        session: &loaded.session,
        next: &loaded.next,
        batch,
        is_bare: false,
    };
    let outcome = drive_times(&mut clients[..connections], &job, number / batch).await;
    if let Some(failure) = outcome.first_failure {
        report.fail(format!(
            "filling: {} requests, first: {failure}",
            outcome.failures
        ));
    }
    settle(&mut clients, &loaded.session).await;
}

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded) {
    let num_records = loaded.next.get();
    let fetch = Fetch {
        session: &loaded.session,
        turn: &Cell::new(0),
        num_records,
    };
    let aim = Aim {
        min_ratio: Some(0.4),
        ..Aim::default()
    };
    run_row(rig, report, loaded, &fetch, ("fetch by id", aim)).await;

    let in_room = (0..num_records)
        .filter(|n| request::room(*n) == request::ASKED_ROOM)
        .count();
    let newest = Newest {
        session: &loaded.session,
        expected: in_room.min(PAGE),
    };
    wait_for_index(loaded, &newest).await;
    let aim = Aim {
        min_ratio: Some(0.1),
        ..Aim::default()
    };
    run_row(rig, report, loaded, &newest, ("newest 50 of a room", aim)).await;
    report.figure(
        "memory after reads",
        loaded.server.memory_mib().0,
        Some(150.0),
        "MiB",
    );
}

async fn run_row(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    job: &impl Job,
    (name, aim): (&str, Aim),
) {
    let mut request = Vec::new();
    job.write_request(&mut request);
    let mut clients = loaded.connect(1).await;
    let size = clients[0]
        .send(&request)
        .await
        .expect("an answer")
        .body
        .len();
    let seen = compare(rig, loaded, CONNECTIONS, job, &BareGet { size }).await;
    report.rate(name, READS, aim, &seen);
}

/// Queries repeatedly until the answer is fast, or the time is over.
pub(crate) async fn wait_for_index(loaded: &Loaded, job: &impl Job) {
    let mut clients = loaded.connect(1).await;
    let begun = Instant::now();
    while begun.elapsed() < INDEX_DEADLINE {
        let mut outcome = drive_times(&mut clients, job, 20).await;
        outcome.latencies_us.sort_unstable();
        if outcome
            .latencies_us
            .last()
            .is_some_and(|us| u128::from(*us) < INDEXED.as_micros())
        {
            break;
        }
    }
    println!(
        "  (asked for {:.1} s before time was taken)",
        begun.elapsed().as_secs_f64()
    );
}
