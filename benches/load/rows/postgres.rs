//! What does the record store in PostgreSQL cost next to the one in a file? All stores take turns
//! in the same run; the rates are compared with SQLite's.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::compare::{Sums, our_part};
use crate::drive::Job;
use crate::http::Response;
use crate::options::Mode;
use crate::postgres::Postgres;
use crate::report::{Aim, Report};
use crate::request::{self, Barrier, Create, Fetch, Newest};
use crate::rig::{Loaded, Rig};
use crate::rows::read::{create_many, wait_for_index};
use crate::rows::{DURABLE, READS};
use crate::stats::median;

const NUM_RECORDS: u64 = 100_000;
const PAGE: usize = 50;
/// The setting that says whether the projector's transactions wait for the database's disk.
const COMMIT: &str = "DATABASE_SYNCHRONOUS_COMMIT";

/// The database whose transactions wait for the disk.
const DURABLE_DATABASE: &str = "durable";
/// How many others write by SQL, how many records, and how long it may take until that is in the
/// log.
const SQL_CLIENTS: usize = 4;
const SQL_RECORDS: u64 = 100;
const TAKING_IN: Duration = Duration::from_secs(300);

/// A server, its name, and where its store is.
struct Place {
    name: &'static str,
    settings: Vec<(&'static str, String)>,
    loaded: Loaded,
}

impl Place {
    fn create(&self, batch: u64) -> Create<'_> {
        Create {
            kind: "message",
            session: &self.loaded.session,
            next: &self.loaded.next,
            batch,
            is_bare: false,
        }
    }

    fn fetch<'a>(&'a self, turn: &'a Cell<u64>) -> Fetch<'a> {
        Fetch {
            session: &self.loaded.session,
            turn,
            num_records: self.loaded.next.get(),
        }
    }

    fn newest(&self) -> Newest<'_> {
        let numbers = 0..self.loaded.next.get();
        let in_room = numbers.filter(|n| request::room(*n) == request::ASKED_ROOM);
        Newest {
            session: &self.loaded.session,
            expected: in_room.count().min(PAGE),
        }
    }
}

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    if !Postgres::is_installed() {
        return println!("  (no rows of PostgreSQL: it is not installed)");
    }
    let postgres = match Postgres::start(&rig.options.dir) {
        Ok(postgres) => postgres,
        Err(why) => return report.fail(format!("PostgreSQL: {why}")),
    };
    let in_database = |name, commit: &str| {
        vec![
            ("DATABASE_URL", postgres.make_database(name)),
            (COMMIT, commit.to_owned()),
        ]
    };
    let required = [
        ("SQLite", Vec::new()),
        ("PostgreSQL", in_database(DURABLE_DATABASE, "on")),
        ("PostgreSQL, commit off", in_database("lazy", "off")),
    ];
    let mut places = Vec::new();
    for (name, settings) in required {
        let loaded = rig.fresh_server_with(&settings).await;
        places.push(Place {
            name,
            settings,
            loaded,
        });
    }
    run_writes(rig, report, &places).await;
    run_reads(rig, report, &places).await;
    if let Err(what) = written_by_sql(rig, report, &postgres) {
        report.fail(format!("written by SQL: {what}"));
    }
    rebuild(rig, report, places);
}

/// What capturing by triggers costs a statement by SQL, and how fast the change gets into the log.
fn written_by_sql(rig: &Rig<'_>, report: &mut Report, postgres: &Postgres) -> Result<(), String> {
    let some = format!(
        "CREATE TABLE some_ids AS SELECT row_number() OVER () AS n, _id FROM app_load.message \
         LIMIT {SQL_RECORDS}; ALTER TABLE some_ids ADD PRIMARY KEY (n)"
    );
    postgres.sql(DURABLE_DATABASE, &some)?;
    let update = format!(
        "\\set n random(1, {SQL_RECORDS})\nUPDATE app_load.message SET count = count + 1 \
         WHERE _id = (SELECT _id FROM some_ids WHERE n = :n);\n"
    );
    let seconds = rig.options.round_time().as_secs().max(1);
    let (mut captured, mut bare) = (Vec::new(), Vec::new());
    let (mut num_taken, mut taking) = (0.0, 0.0);
    for _ in 0..rig.options.rounds() {
        for (rates, trigger) in [(&mut captured, "ENABLE"), (&mut bare, "DISABLE")] {
            let alter = format!("ALTER TABLE app_load.message {trigger} TRIGGER _capture");
            postgres.sql(DURABLE_DATABASE, &alter)?;
            let begun = Instant::now();
            let rate = postgres.rate(DURABLE_DATABASE, &update, (SQL_CLIENTS, seconds))?;
            if trigger == "ENABLE" {
                await_taken_in(postgres)?;
                num_taken += rate * seconds as f64;
                taking += begun.elapsed().as_secs_f64();
            }
            rates.push(rate);
        }
    }
    postgres.sql(
        DURABLE_DATABASE,
        "ALTER TABLE app_load.message ENABLE TRIGGER _capture",
    )?;
    let name = format!("updates by SQL, {SQL_CLIENTS}");
    let mut row = |what: &str, rate: f64| {
        report.at_least(&format!("{name}: {what}"), rate, None, "/s");
    };
    row("captured", median(&captured));
    row("not captured", median(&bare));
    row("captured and in the log", num_taken / taking);
    Ok(())
}

fn await_taken_in(postgres: &Postgres) -> Result<(), String> {
    let begun = Instant::now();
    let rows = "SELECT count(*) FROM app_load._outbox";
    while postgres.sql(DURABLE_DATABASE, rows)?.trim() != "0" {
        if begun.elapsed() > TAKING_IN {
            return Err("it is not taken in".to_owned());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

async fn run_writes(rig: &Rig<'_>, report: &mut Report, places: &[Place]) {
    for (connections, batch) in [(1, 1), (16, 1), (64, 1), (1, 100)] {
        let row = match batch {
            1 => format!("create, {connections}"),
            _ => format!("create, batches of {batch}"),
        };
        let jobs: Vec<_> = places.iter().map(|place| place.create(batch)).collect();
        turns(rig, report, places, (connections, &row, DURABLE), &jobs).await;
    }
    let jobs: Vec<_> = places.iter().map(CreateAndSee::new).collect();
    let row = (1, "create, then a query that sees it", DURABLE);
    turns(rig, report, places, row, &jobs).await;
}

async fn run_reads(rig: &Rig<'_>, report: &mut Report, places: &[Place]) {
    for place in places {
        create_many(&place.loaded, report, rig.options.scaled(NUM_RECORDS), 100).await;
    }
    let turn = Cell::new(0);
    let jobs: Vec<_> = places.iter().map(|place| place.fetch(&turn)).collect();
    turns(rig, report, places, (64, "fetch by id", READS), &jobs).await;
    let jobs: Vec<_> = places.iter().map(Place::newest).collect();
    let timed = places.iter().zip(&jobs);
    for (place, job) in timed.filter(|_| rig.options.mode() != Mode::Smoke) {
        wait_for_index(&place.loaded, job).await;
    }
    let row = (64, "newest 50 of a room", READS);
    turns(rig, report, places, row, &jobs).await;
}

/// Runs a job at all places in turns. The others are compared with the first one.
async fn turns<J: Job>(
    rig: &Rig<'_>,
    report: &mut Report,
    places: &[Place],
    (connections, row, durable): (usize, &str, &'static str),
    jobs: &[J],
) {
    let mut clients = Vec::new();
    for place in places {
        clients.push(place.loaded.connect(connections).await);
    }
    let mut sums: Vec<Sums> = places.iter().map(|_| Sums::default()).collect();
    for round in 0..=rig.options.rounds() {
        let mut first = None;
        for (index, place) in places.iter().enumerate() {
            let part = our_part(rig, &place.loaded, &mut clients[index], &jobs[index]).await;
            let beside = first.get_or_insert_with(|| (part.outcome.clone(), part.cpu));
            if round > 0 {
                sums[index].add(part, beside.0.clone(), beside.1);
            }
        }
    }
    for (place, sums) in places.iter().zip(sums) {
        let name = format!("{row}: {}", place.name);
        let seen = sums.finish(jobs[0].weight());
        report.rate(&name, durable, Aim::default(), &seen);
    }
}

/// Rebuilds the stores.
fn rebuild(rig: &Rig<'_>, report: &mut Report, places: Vec<Place>) {
    // A rebuild never waits for the disk, whatever the setting.
    for place in places.into_iter().take(2) {
        if let Err(what) = place.loaded.server.stop() {
            report.fail(what);
        }
        let begun = Instant::now();
        let output = Command::new(&rig.options.server)
            .arg("rebuild")
            .env("APP_NAME", "load")
            .env("DATA_DIR", &place.loaded.dir)
            .envs(place.settings.iter().map(|(name, value)| (*name, value)))
            .output()
            .expect("the program runs");
        let seconds = begun.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stdout);
        let events = said.split_whitespace().find_map(|word| word.parse().ok());
        let Some(events): Option<f64> = events.filter(|_| output.status.success()) else {
            let why = String::from_utf8_lossy(&output.stderr);
            report.fail(format!("rebuild: {said}{why}"));
            continue;
        };
        let name = format!("rebuild: {}", place.name);
        report.at_least(&name, events / seconds, None, "events/s");
    }
}

/// Creates a record, and then queries it; every other request is the query.
struct CreateAndSee<'a> {
    create: Create<'a>,
    see: Barrier<'a>,
    is_created: Cell<bool>,
}

impl<'a> CreateAndSee<'a> {
    fn new(place: &'a Place) -> Self {
        Self {
            create: place.create(1),
            see: Barrier {
                session: &place.loaded.session,
            },
            is_created: Cell::new(false),
        }
    }
}

impl Job for CreateAndSee<'_> {
    fn write_request(&self, into: &mut Vec<u8>) {
        self.is_created.set(!self.is_created.get());
        match self.is_created.get() {
            true => self.create.write_request(into),
            false => self.see.write_request(into),
        }
    }

    fn is_success(&self, response: &Response<'_>) -> bool {
        match self.is_created.get() {
            true => self.create.is_success(response),
            false => self.see.is_success(response),
        }
    }
}
