//! How many records per second can be created, one or a hundred with each request?

use crate::compare::compare;
use crate::report::{Aim, Report};
use crate::request::Create;
use crate::rig::{Loaded, Rig};
use crate::rows::DURABLE;

const BATCH: u64 = 100;
const BATCH_CONNECTIONS: usize = 1;

pub(crate) async fn run_single(rig: &Rig<'_>, report: &mut Report) {
    let loaded = rig.fresh_server().await;
    let aim = |min_ratio| Aim {
        min_ratio: Some(min_ratio),
        ..Aim::default()
    };
    let aims = [
        (1, aim(0.7)),
        (
            16,
            Aim {
                max_p99_ms: Some(6.0),
                max_cpu: Some(0.1),
                ..aim(0.6)
            },
        ),
        (64, aim(0.45)),
    ];
    for (connections, aim) in aims {
        let name = format!("create, {connections} connections");
        run(rig, report, &loaded, (connections, 1), (&name, aim)).await;
    }
}

pub(crate) async fn run_batch(rig: &Rig<'_>, report: &mut Report) {
    let loaded = rig.fresh_server().await;
    let aim = Aim {
        min_ratio: Some(0.18),
        ..Aim::default()
    };
    run(
        rig,
        report,
        &loaded,
        (BATCH_CONNECTIONS, BATCH),
        ("create, batches of 100", aim),
    )
    .await;
}

async fn run(
    rig: &Rig<'_>,
    report: &mut Report,
    loaded: &Loaded,
    (connections, batch): (usize, u64),
    (name, aim): (&str, Aim),
) {
    let job = |is_bare| Create {
        kind: "message",
        session: &loaded.session,
        next: &loaded.next,
        batch,
        is_bare,
    };
    let seen = compare(rig, loaded, connections, &job(false), &job(true)).await;
    report.rate(name, DURABLE, aim, &seen);
}
