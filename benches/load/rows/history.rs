//! What does the past cost: queries as of a moment next to present ones, a record's history, saves
//! of a type whose past is kept, and operations on the whole log?

use std::cell::Cell;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::compare::{Sums, our_part};
use crate::drive::{Job, drive_times};
use crate::http::{Client, Response};
use crate::report::{Aim, Report};
use crate::request::{self, Session, write_record};
use crate::rig::{Loaded, Rig};
use crate::rows::read::wait_for_index;
use crate::rows::{DURABLE, READS};
use crate::server::{self, MASTER_KEY, settle};
use crate::stats::percentile;

const NUM_RECORDS: u64 = 100_000;
const BATCH: u64 = 100;
/// One record in this many is changed after the moment that queries ask for.
const ONE_IN: u64 = 10;
const PAGE: usize = 50;
const LONGEST_HISTORY: u64 = 100_000;
/// The type whose past the store keeps, and the one without.
const KEPT: &str = "kept";
const PLAIN: &str = "message";

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    let loaded = rig.fresh_server().await;
    let mut client = loaded.connect(1).await.remove(0);
    // The type must exist first.
    change(&loaded, KEPT, 0..1, 1, 0).await;
    let body = json!({"type": KEPT, "temporal": true});
    ask(&mut client, "schema:temporal", body).await;
    let number = rig.options.scaled(NUM_RECORDS) / BATCH * BATCH;
    for kind in [PLAIN, KEPT] {
        change(&loaded, kind, 0..number, BATCH, 0).await;
    }
    run_saves(rig, report, &loaded, number).await;
    for kind in [KEPT, PLAIN] {
        run_as_of(rig, report, &loaded, (kind, number)).await;
    }
    run_histories(rig, report, &loaded).await;
    // The first connection was idle for so long that the server has closed it.
    let head = head(&mut loaded.connect(1).await[0]).await;
    run_search(rig, report, &loaded, head);
    run_whole_log(rig, report, loaded, head);
}

/// Changes of a type whose past is kept, next to those of one without.
async fn run_saves(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded, number: u64) {
    let turn = Cell::new(1);
    let job = |kind| Change {
        kind,
        session: &loaded.session,
        next: Cell::new(0),
        num_records: number,
        batch: 1,
        turn: &turn,
    };
    let (kept, plain) = (job(KEPT), job(PLAIN));
    let mut clients = loaded.connect(16).await;
    let mut sums = Sums::default();
    for round in 0..=rig.options.rounds() {
        turn.set(turn.get() + 1);
        let kept = our_part(rig, loaded, &mut clients, &kept).await;
        let plain = our_part(rig, loaded, &mut clients, &plain).await;
        if round > 0 {
            sums.add(kept, plain.outcome, plain.cpu);
        }
    }
    let name = "change, past kept / not, 16";
    report.rate(name, DURABLE, Aim::default(), &sums.finish(1));
}

/// The newest of a room as they were before some records were changed, next to the present ones.
async fn run_as_of(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    (kind, number): (&str, u64),
) {
    let mut clients = loaded.connect(1).await;
    let position = head(&mut clients[0]).await;
    change(loaded, kind, 0..number / ONE_IN, BATCH, 1_000_000).await;
    settle(&mut clients, &loaded.session).await;
    let in_room = (0..number).filter(|n| request::room(*n) == request::ASKED_ROOM);
    let job = |as_of| Newest {
        session: &loaded.session,
        kind,
        as_of,
        expected: in_room.clone().count().min(PAGE),
    };
    let (then, now) = (job(Some(position)), job(None));
    wait_for_index(loaded, &now).await;
    let mut sums = Sums::default();
    for round in 0..=rig.options.rounds() {
        let then = our_part(rig, loaded, &mut clients, &then).await;
        let now = our_part(rig, loaded, &mut clients, &now).await;
        if round > 0 {
            sums.add(then, now.outcome, now.cpu);
        }
    }
    let is_kept = kind == KEPT;
    let aim = Aim {
        min_ratio: is_kept.then_some(0.5),
        ..Aim::default()
    };
    let how = if is_kept { "past kept" } else { "folded" };
    let name = format!("newest 50 as of then / now ({how})");
    report.rate(&name, READS, aim, &sums.finish(1));
}

/// The newest page of histories of several lengths.
async fn run_histories(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded) {
    let mut client = loaded.connect(1).await.remove(0);
    let longest = rig.options.scaled(LONGEST_HISTORY);
    for (place, length) in [10, 1000, longest].into_iter().enumerate() {
        let first = place as u64;
        let turn = Cell::new(0);
        let job = Change {
            kind: "long",
            session: &loaded.session,
            next: Cell::new(first),
            num_records: 1,
            batch: 1,
            turn: &turn,
        };
        for _ in 0..length {
            turn.set(turn.get() + 1);
            job.next.set(first);
            drive_times(std::slice::from_mut(&mut client), &job, 1).await;
        }
        let record = request::record_id("long", first);
        let mut micros = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let body = json!({"record": record, "limit": PAGE});
            let answer = ask(&mut client, "history:list", body).await;
            micros.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
            let versions = answer["result"]["versions"].as_array();
            let expected = PAGE.min(usize::try_from(length).unwrap_or(PAGE));
            if versions.is_none_or(|versions| versions.len() != expected) {
                report.fail(format!("history of {length} versions: {answer}"));
                break;
            }
        }
        let name = format!("newest 50 of {length} versions");
        let micros = f64::from(percentile(&mut micros, 0.5));
        report.figure(&name, micros, None, "µs");
    }
}

/// A search of the whole log for something that it does not contain.
fn run_search(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded, head: u64) {
    let begun = Instant::now();
    let output = Command::new(&rig.options.server)
        .args(["log", "search", "--request", &uuid::Uuid::nil().to_string()])
        .args(["--server", &format!("http://{}", loaded.server.addr)])
        .env("MASTER_KEY", MASTER_KEY)
        .output()
        .expect("the program runs");
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        report.fail(format!("log search: {said}"));
    }
    let per_second = head as f64 / begun.elapsed().as_secs_f64();
    report.at_least("log search", per_second, Some(500_000.0), "events/s");
}

/// Commands that process the whole log, with the server stopped.
fn run_whole_log(rig: &Rig<'_>, report: &mut Report, loaded: Loaded, head: u64) {
    let dir = loaded.dir;
    if let Err(what) = loaded.server.stop() {
        report.fail(what);
    }
    let fresh = |name: &str| {
        let place = dir.with_extension(name);
        place.to_string_lossy().into_owned()
    };
    let (backup, restored) = (fresh("backup"), fresh("restored"));
    let steps: [(&str, &[&str], Option<f64>); 4] = [
        ("log verify", &["log", "verify"], Some(500_000.0)),
        ("rebuild", &["rebuild"], Some(25_000.0)),
        ("backup", &["backup", &backup], None),
        ("restore", &["restore", &backup, "--to", &restored], None),
    ];
    for (name, arguments, min) in steps {
        let begun = Instant::now();
        let output = Command::new(&rig.options.server)
            .args(arguments)
            .env("DATA_DIR", &dir)
            .output()
            .expect("the program runs");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            report.fail(format!("{name}: {said}"));
        }
        let per_second = head as f64 / begun.elapsed().as_secs_f64();
        report.at_least(name, per_second, min, "events/s");
    }
    refill_sled(rig, report, (&dir, head));
    for place in [&*backup, &*restored, &*dir.to_string_lossy()] {
        std::fs::remove_dir_all(place).expect("the directory is ours");
    }
}

/// How quickly sled is rebuilt from the journal, while the server runs.
fn refill_sled(rig: &Rig<'_>, report: &mut Report, (dir, head): (&Path, u64)) {
    std::fs::remove_dir_all(dir.join("sled")).expect("sled is there");
    let begun = Instant::now();
    let server = server::start(rig, dir);
    let health = format!("http://{}/_/health", server.addr);
    loop {
        let output = Command::new("curl")
            .args([
                "-s",
                "-H",
                &format!("X-Skygear-API-Key: {MASTER_KEY}"),
                &health,
            ])
            .output()
            .expect("curl runs");
        let state: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if state["log"]["sled"]["position"].as_u64() >= Some(head) {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    let per_second = head as f64 / begun.elapsed().as_secs_f64();
    report.at_least(
        "sled from the journal",
        per_second,
        Some(90_000.0),
        "events/s",
    );
    if let Err(what) = server.stop() {
        report.fail(what);
    }
}

/// Saves the records with these numbers, so that they change.
async fn change(loaded: &Loaded, kind: &str, numbers: std::ops::Range<u64>, batch: u64, turn: u64) {
    let job = Change {
        kind,
        session: &loaded.session,
        next: Cell::new(numbers.start),
        num_records: numbers.end,
        batch,
        turn: &Cell::new(turn),
    };
    let times = (numbers.end - numbers.start) / batch;
    let outcome = drive_times(&mut loaded.connect(4).await, &job, times).await;
    assert_eq!(outcome.failures, 0, "{:?}", outcome.first_failure);
}

async fn head(client: &mut Client) -> u64 {
    let request = format!(
        "GET /_/health HTTP/1.1\r\nHost: localhost\r\nX-Skygear-API-Key: {MASTER_KEY}\r\n\r\n"
    );
    let response = client.send(request.as_bytes()).await.expect("an answer");
    let health: Value = serde_json::from_slice(response.body).expect("JSON");
    health["log"]["head"].as_u64().expect("a position")
}

/// Calls an action with the master key.
async fn ask(client: &mut Client, action: &str, mut body: Value) -> Value {
    body["action"] = json!(action);
    body["api_key"] = json!(MASTER_KEY);
    let body = body.to_string();
    let path = action.replace(':', "/");
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let response = client.send(request.as_bytes()).await.expect("an answer");
    serde_json::from_slice(response.body).expect("JSON")
}

/// Saves records, `batch` with each request, each time with another count.
struct Change<'a> {
    kind: &'a str,
    session: &'a Session,
    next: Cell<u64>,
    /// Numbers go up to this and start again.
    num_records: u64,
    batch: u64,
    turn: &'a Cell<u64>,
}

impl Job for Change<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let first = self.next.get();
        let mut members = String::from("\"database_id\":\"_public\",\"records\":[");
        for place in 0..self.batch {
            if place > 0 {
                members.push(',');
            }
            let number = (first + place) % self.num_records.max(first + 1);
            write_record(&mut members, self.kind, number);
            members.pop();
            members.push_str(&format!(",\"turn\":{}}}", self.turn.get() + first + place));
        }
        self.next
            .set((first + self.batch) % self.num_records.max(first + 1));
        members.push_str("],");
        self.session
            .write(into, "/record/save", "record:save", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        let saved = memchr::memmem::find_iter(response.body, b"_created_at\":").count() as u64;
        response.status == 200 && saved == self.batch
    }

    fn weight(&self) -> u64 {
        self.batch
    }
}

/// Queries the newest fifty records of one room, now or as of a position.
struct Newest<'a> {
    session: &'a Session,
    kind: &'a str,
    as_of: Option<u64>,
    expected: usize,
}

impl Job for Newest<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        let as_of = self
            .as_of
            .map_or(String::new(), |at| format!("\"as_of\":{at},"));
        let members = format!(
            "\"database_id\":\"_public\",\"record_type\":\"{}\",\"limit\":50,{as_of}\
             \"predicate\":[\"eq\",{{\"$type\":\"keypath\",\"$val\":\"room\"}},\"r{}\"],\
             \"sort\":[[{{\"$type\":\"keypath\",\"$val\":\"_created_at\"}},\"desc\"]],",
            self.kind,
            request::ASKED_ROOM
        );
        self.session
            .write(into, "/record/query", "record:query", &members);
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        let found = memchr::memmem::find_iter(response.body, b"_created_at\":").count();
        response.status == 200 && found == self.expected
    }
}
