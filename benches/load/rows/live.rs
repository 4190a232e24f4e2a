//! How many changes of records per second reach the followers of a query, and how soon?
//!
//! All followers use the same query as the same user. The bare server appends each body, flushes,
//! and passes it on to everyone.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};

use crate::compare::{OurPart, Sums};
use crate::drive::{Job, Outcome, drive_times};
use crate::http::{Client, Response};
use crate::report::{Aim, Report};
use crate::request::Session;
use crate::rig::{Loaded, Rig};
use crate::stats::percentile;
use crate::websocket::WebSocket;

/// Records that are changed repeatedly, so that the size of the result stays the same.
const RECORDS: u64 = 256;
const CONNECTIONS: usize = 32;

/// A row: how many follow, what part of the bare server's rate is the aim, and how many records are
/// saved before the first of them must have arrived; less than any queue holds.
struct Row {
    subscribers: usize,
    aim: f64,
    burst: usize,
}

const ROWS: [Row; 3] = [
    Row {
        subscribers: 10,
        aim: 0.48,
        burst: 512,
    },
    Row {
        subscribers: 100,
        aim: 0.35,
        burst: 128,
    },
    Row {
        subscribers: 1000,
        aim: 0.51,
        burst: 32,
    },
];

/// How soon, at a rate that leaves time: subscribers, saves per second, and the aim in milliseconds
/// for the 99th percentile.
const DELAYS: [(usize, u32, f64); 2] = [(10, 100, 4.0), (1000, 10, 35.0)];

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    super::fan_out::raise_limit();
    let loaded = rig.fresh_server().await;
    let mut clients = loaded.connect(CONNECTIONS).await;
    let next = Cell::new(0);
    // The records exist before anyone follows them.
    drive_times(&mut clients, &save(&loaded.session, &next, false), RECORDS).await;
    for row in &ROWS {
        run_row(rig, report, (&loaded, &next), row).await;
    }
    for (subscribers, per_second, aim) in DELAYS {
        let mut ears = on_ours(&loaded, subscribers).await;
        let mut clients = loaded.connect(1).await;
        let job = save(&loaded.session, &next, false);
        let millis = measure(rig, &mut clients, &mut ears, &job, per_second).await;
        let name = format!("live query, p99 at {subscribers}, {per_second} saves/s");
        report.figure(&name, millis, Some(aim), "ms");
    }
}

async fn run_row(
    rig: &Rig<'_>,
    report: &mut Report,
    (loaded, next): (&Loaded, &Cell<u64>),
    row: &Row,
) {
    let mut ours = on_ours(loaded, row.subscribers).await;
    let mut bare = Vec::new();
    for _ in 0..row.subscribers {
        let socket = WebSocket::connect(rig.bare.addr, "/pubsub").await;
        bare.push(socket.expect("the server takes sockets"));
    }
    let mut sums = Sums::default();
    for round in 0..=rig.options.rounds() {
        // Opened anew: the bare server closes connections that wait while the other server runs.
        let mut our_clients = loaded.connect(CONNECTIONS).await;
        let cpu_before = loaded.server.cpu_seconds();
        let job = save(&loaded.session, next, false);
        let outcome = save_for(rig, &mut our_clients, &mut ours, &job, row.burst).await;
        let cpu = loaded.server.cpu_seconds() - cpu_before;
        let settled = outcome.elapsed.as_secs_f64();
        let bare_clients = Client::connect_many(rig.bare.addr, CONNECTIONS).await;
        let mut bare_clients = bare_clients.expect("connections");
        let bare_cpu_before = rig.bare.cpu_seconds();
        let job = save(&loaded.session, next, true);
        let bare_outcome = save_for(rig, &mut bare_clients, &mut bare, &job, row.burst).await;
        if round > 0 {
            let bare_cpu = rig.bare.cpu_seconds() - bare_cpu_before;
            let part = OurPart {
                outcome,
                settled,
                cpu,
            };
            sums.add(part, bare_outcome, bare_cpu);
        }
    }
    let name = format!("record saved, told to {}", row.subscribers);
    let aim = Aim {
        min_ratio: Some(row.aim),
        ..Aim::default()
    };
    report.rate(&name, super::DURABLE, aim, &sums.finish(1));
}

/// Starts `subscribers` followers of the records; returns when all have the result.
async fn on_ours(loaded: &Loaded, subscribers: usize) -> Vec<WebSocket> {
    let Session {
        api_key,
        access_token,
    } = &loaded.session;
    let target = format!("/live?api_key={api_key}&access_token={access_token}");
    let mut sockets = Vec::new();
    for _ in 0..subscribers {
        let socket = WebSocket::connect(loaded.server.addr, &target).await;
        let mut socket = socket.expect("the server takes sockets");
        let ask = r#"{"action":"live:subscribe","id":"q","record_type":"live"}"#;
        socket.send(ask, 1).await.expect("the server reads");
        let is_ready = |text: &[u8]| memchr::memmem::find(text, br#""event":"ready""#).is_some();
        while !is_ready(&socket.receive(1).await.expect("the server sends")) {}
        sockets.push(socket);
    }
    sockets
}

/// Saves bursts; each must have reached every follower before the next.
async fn save_for(
    rig: &Rig<'_>,
    clients: &mut [Client],
    ears: &mut [WebSocket],
    job: &Save<'_>,
    burst: usize,
) -> Outcome {
    let mut outcome = Outcome::default();
    let start = Instant::now();
    while start.elapsed() < rig.options.round_time() {
        let begun = Instant::now();
        let hearing = join_all(ears.iter_mut().map(|ear| ear.receive(burst)));
        let (saved, heard) = join(drive_times(clients, job, burst as u64), hearing).await;
        for text in heard {
            let text = text.expect("the server sends");
            outcome.failures += u64::from(memchr::memmem::find(&text, b"forty").is_none());
        }
        outcome.failures += saved.failures;
        outcome.first_failure = outcome.first_failure.take().or(saved.first_failure);
        let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
        outcome.latencies_us.push(us);
        outcome.requests += (burst * ears.len()) as u64;
    }
    outcome.elapsed = start.elapsed();
    outcome
}

/// Saves at an even rate; returns the 99th percentile of the milliseconds until the last follower
/// hears of a save.
async fn measure(
    rig: &Rig<'_>,
    clients: &mut [Client],
    ears: &mut [WebSocket],
    job: &Save<'_>,
    per_second: u32,
) -> f64 {
    let mut beats = tokio::time::interval(Duration::from_secs(1) / per_second);
    let mut delays = Vec::new();
    let start = Instant::now();
    while start.elapsed() < rig.options.round_time() * 2 {
        beats.tick().await;
        let begun = Instant::now();
        let hearing = join_all(ears.iter_mut().map(|ear| ear.receive(1)));
        let one = clients.get_mut(..1).expect("a connection");
        let (_, heard) = join(drive_times(one, job, 1), hearing).await;
        assert!(heard.iter().all(Result::is_ok), "the server sends");
        delays.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    f64::from(percentile(&mut delays, 0.99)) / 1000.0
}

fn save<'a>(session: &'a Session, next: &'a Cell<u64>, is_bare: bool) -> Save<'a> {
    Save {
        session,
        next,
        is_bare,
    }
}

/// Saves one of the records, changed.
struct Save<'a> {
    session: &'a Session,
    next: &'a Cell<u64>,
    is_bare: bool,
}

impl Job for Save<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let number = self.next.get();
        self.next.set(number + 1);
        let members = format!(
            "\"database_id\":\"_public\",\"records\":[{{\"_id\":\"live/{}\",\
             \"body\":\"message {number:012} of some forty letters\",\"count\":{number}}}],",
            number % RECORDS
        );
        let path = if self.is_bare {
            "/append?tell"
        } else {
            "/record/save"
        };
        self.session.write(into, path, "record:save", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        let is_saved = memchr::memmem::find(response.body, b"_created_at\":").is_some();
        response.status == 200 && (self.is_bare || is_saved)
    }
}
