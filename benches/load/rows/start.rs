//! How long from exec to the first request, with an empty log and with many events, and how much
//! memory does the server hold then?

use std::path::Path;

use crate::report::Report;
use crate::rig::{Loaded, Rig};
use crate::rows::read::create_many;
use crate::server;
use crate::stats::median;

const NUM_EVENTS: u64 = 200_000;
const NUM_STARTS: usize = 5;

pub(crate) fn run_empty(rig: &Rig<'_>, report: &mut Report) {
    let starts = (0..NUM_STARTS)
        .map(|_| start_once(rig, report, &rig.fresh_dir()))
        .collect();
    let (time_ms, memory_mib) = middle(starts);
    report.figure("start, empty", time_ms, Some(35.0), "ms");
    report.figure("memory after start", memory_mib, Some(25.0), "MiB");
}

pub(crate) async fn run_filled(rig: &Rig<'_>, report: &mut Report, loaded: Loaded) {
    let num_events = rig.options.scaled(NUM_EVENTS);
    create_many(
        &loaded,
        report,
        num_events.saturating_sub(loaded.next.get()),
        100,
    )
    .await;
    let dir = loaded.dir;
    if let Err(what) = loaded.server.stop() {
        report.fail(what);
    }
    let (time_ms, memory_mib) = start_repeatedly(rig, report, &dir);
    report.figure("start, 200,000 events", time_ms, Some(100.0), "ms");
    report.figure("memory after that start", memory_mib, None, "MiB");
    drop(server::start(rig, &dir));
    let after_kill = start_once(rig, report, &dir);
    report.figure("start after kill -9", after_kill.0, None, "ms");
}

/// Starts several times, so that one slow start does not count; returns milliseconds and MiB.
pub(crate) fn start_repeatedly(rig: &Rig<'_>, report: &mut Report, dir: &Path) -> (f64, f64) {
    let starts = (0..NUM_STARTS).map(|_| start_once(rig, report, dir));
    middle(starts.collect())
}

fn start_once(rig: &Rig<'_>, report: &mut Report, dir: &Path) -> (f64, f64) {
    let server = server::start(rig, dir);
    let seen = (
        server.start_time.as_secs_f64() * 1000.0,
        server.memory_mib().0,
    );
    if let Err(what) = server.stop() {
        report.fail(what);
    }
    seen
}

fn middle(starts: Vec<(f64, f64)>) -> (f64, f64) {
    let (times, memories): (Vec<_>, Vec<_>) = starts.into_iter().unzip();
    (median(&times), median(&memories))
}
