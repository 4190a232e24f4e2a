//! How much disk and memory do a million small records take, each created by its own request?

use crate::process::disk_mib;
use crate::report::Report;
use crate::rig::Rig;
use crate::rows::read::create_many;

const NUM_RECORDS: u64 = 1_000_000;

pub(crate) async fn run(rig: &Rig<'_>, report: &mut Report) {
    let loaded = rig.fresh_server().await;
    let number = rig.options.scaled(NUM_RECORDS);
    create_many(&loaded, report, number, 1).await;
    let (memory, peak) = loaded.server.memory_mib();
    report.figure("memory after load", memory, Some(150.0), "MiB");
    report.figure("memory at most", peak, None, "MiB");
    let dir = loaded.dir;
    if let Err(what) = loaded.server.stop() {
        report.fail(what);
    }
    let per_million = disk_mib(&dir) * (NUM_RECORDS as f64 / number as f64);
    report.figure("disk per million records", per_million, Some(600.0), "MiB");
    for entry in std::fs::read_dir(&dir).expect("a directory").flatten() {
        if entry.path().is_dir() {
            let mib = disk_mib(&entry.path());
            println!(
                "  (of {number} records: {mib:.0} MiB in {})",
                entry.file_name().display()
            );
        }
    }
    std::fs::remove_dir_all(&dir).expect("the directory is ours");
}
