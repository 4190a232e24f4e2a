//! How quickly are records exported from a server and imported into another, with hooks and
//! without, and how quickly is a plugin tried on the past?

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::drive::drive_times;
use crate::plugin::HOOKED;
use crate::report::Report;
use crate::request::Create;
use crate::rig::{Loaded, Rig};
use crate::rows::plugin::{Worker, plug_in};
use crate::server::{MASTER_KEY, settle};

const NUM_RECORDS: u64 = 100_000;
const BATCH: u64 = 100;
const CONNECTIONS: usize = 4;
/// How long a worker may take to be in the sandbox.
const SANDBOX_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    let source = rig.fresh_server().await;
    let number = rig.options.scaled(NUM_RECORDS) / BATCH * BATCH;
    let created = create(&source, number).await;
    report.at_least("create, 100 a batch", created, None, "records/s");
    let file = source.dir.with_extension("jsonl");
    let export: [&Path; 4] = [
        "export".as_ref(),
        HOOKED.as_ref(),
        "--output".as_ref(),
        &file,
    ];
    command(rig, report, &source, ("export", number), &export);
    end(report, source);

    let plain = rig.fresh_server().await;
    let import: [&Path; 3] = ["import".as_ref(), "records".as_ref(), &file];
    command(rig, report, &plain, ("import records", number), &import);
    end(report, plain);

    let plugged = plug_in(rig).await;
    let import: [&Path; 4] = [import[0], import[1], import[2], "--hooks".as_ref()];
    let name = "import records --hooks, a hook (websocket)";
    command(rig, report, &plugged.loaded, (name, number), &import);
    run_replay(rig, report, &plugged.loaded, number);
    std::fs::remove_file(file).expect("the file is ours");
}

/// Tries the plugin on all saves that it was asked about.
fn run_replay(rig: &Rig<'_>, report: &mut Report, loaded: &Loaded, number: u64) {
    let worker = Worker::start(&format!("http://{}/_/sandbox", loaded.server.addr));
    let replay: [&Path; 3] = ["replay".as_ref(), "--type".as_ref(), HOOKED.as_ref()];
    let begun = Instant::now();
    loop {
        let (output, took) = skytrail(rig, loaded, &replay);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("PluginUnavailable") && begun.elapsed() < SANDBOX_DEADLINE {
            std::thread::park_timeout(Duration::from_millis(20));
            continue;
        }
        tell(
            report,
            ("replay, a hook (websocket)", number),
            (&output, took),
        );
        break;
    }
    drop(worker);
}

/// Creates records of the hooked type; returns how many per second.
async fn create(loaded: &Loaded, number: u64) -> f64 {
    let mut clients = loaded.connect(CONNECTIONS).await;
    let job = Create {
        kind: HOOKED,
        session: &loaded.session,
        next: &loaded.next,
        batch: BATCH,
        is_bare: false,
    };
    let begun = Instant::now();
    let outcome = drive_times(&mut clients, &job, number / BATCH).await;
    assert_eq!(outcome.failures, 0, "{:?}", outcome.first_failure);
    let per_second = number as f64 / begun.elapsed().as_secs_f64();
    // Barriers query plain records.
    let kind = "message";
    let first = Create {
        kind,
        batch: 1,
        ..job
    };
    drive_times(&mut clients[..1], &first, 1).await;
    settle(&mut clients, &loaded.session).await;
    per_second
}

/// Runs a command against a server, and reports its rate in records per second.
fn command(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    row: (&str, u64),
    arguments: &[&Path],
) {
    let (output, took) = skytrail(rig, loaded, arguments);
    tell(report, row, (&output, took));
}

fn skytrail(rig: &Rig<'_>, loaded: &Loaded, arguments: &[&Path]) -> (Output, Duration) {
    let begun = Instant::now();
    let output = Command::new(&rig.options.server)
        .args(arguments)
        .args(["--server", &format!("http://{}", loaded.server.addr)])
        .env("MASTER_KEY", MASTER_KEY)
        .output()
        .expect("the program runs");
    (output, begun.elapsed())
}

fn tell(report: &mut Report, (name, number): (&str, u64), (output, took): (&Output, Duration)) {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let told = String::from_utf8_lossy(&output.stdout);
        report.fail(format!("{name}: {said}{told}"));
    }
    let per_second = number as f64 / took.as_secs_f64();
    report.at_least(name, per_second, None, "records/s");
}

fn end(report: &mut Report, loaded: Loaded) {
    let dir: PathBuf = loaded.dir;
    if let Err(what) = loaded.server.stop() {
        report.fail(what);
    }
    std::fs::remove_dir_all(dir).expect("the directory is ours");
}
