//! How does the log grow: disk per million events, and how long does a start take and how much
//! memory does it hold with one million and with three?

use crate::process::disk_mib;
use crate::report::Report;
use crate::rig::Rig;
use crate::rows::read::create_many;
use crate::rows::start::start_repeatedly;

const MILLION: u64 = 1_000_000;
const BATCH: u64 = 100;

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    for (millions, aims) in [(1, None), (3, Some((2000.0, 150.0)))] {
        let loaded = rig.fresh_server().await;
        let number = rig.options.scaled(millions * MILLION);
        create_many(&loaded, report, number, BATCH).await;
        let dir = loaded.dir;
        if let Err(what) = loaded.server.stop() {
            report.fail(what);
        }
        let events = format!("{millions} million events");
        let per_million = MILLION as f64 / number as f64;
        for part in ["journal", "sled"] {
            let mib = disk_mib(&dir.join(part)) * per_million;
            report.figure(&format!("{part} per million, {events}"), mib, None, "MiB");
        }
        let mib = disk_mib(&dir) * per_million;
        report.figure(&format!("disk per million, {events}"), mib, None, "MiB");
        let (time_ms, memory_mib) = start_repeatedly(rig, report, &dir);
        let (time_aim, memory_aim) = aims.unzip();
        report.figure(&format!("start, {events}"), time_ms, time_aim, "ms");
        let name = format!("memory after that start, {events}");
        report.figure(&name, memory_mib, memory_aim, "MiB");
        std::fs::remove_dir_all(&dir).expect("the directory is ours");
    }
}
