//! Metrics for Prometheus, all under `skytrail_`; those of the process under their usual names.
//!
//! Nearly everything is state that the parts keep anyway and that `/_/health` shows as JSON; here
//! it is formatted again on request. Labels have few values: names of actions, hubs and plugins,
//! never ids or what clients choose. docs/OPERATIONS.md says what each metric is good for.

mod plugins;
mod process;
mod realtime;
mod storage;
mod text;

pub use process::Process;
pub use text::{CONTENT_TYPE, Exposition};

use self::plugins::{write_deliveries, write_plugins, write_tasks};
use self::realtime::{write_hubs, write_live, write_notices, write_push};
use self::storage::{write_backups, write_captured, write_erasures, write_log, write_store};
use crate::auth::refusals::Reason;
use crate::http::counters::ActionFigures;
use crate::parts::States;

/// Writes all metrics.
pub fn render(states: &States, actions: &[ActionFigures]) -> String {
    let mut text = Exposition::default();
    write_door(&mut text, states, actions);
    write_log(&mut text, states);
    write_store(&mut text, states);
    write_plugins(&mut text, states.plugins.as_ref());
    write_tasks(&mut text, states.tasks.as_deref().unwrap_or_default());
    write_deliveries(&mut text, &states.deliveries);
    write_captured(&mut text, states.captured.as_ref());
    write_erasures(&mut text, &states.erasures);
    text.metric(
        "skytrail_log_followers",
        "Clients that follow the log, or work for a consumer of it.",
    )
    .value(states.num_followers as u64);
    write_push(&mut text, states.push.as_deref().unwrap_or_default());
    write_hubs(
        &mut text,
        &[("public", states.hub), ("internal", states.internal_hub)],
    );
    write_notices(&mut text, states);
    write_live(&mut text, states);
    write_backups(&mut text, &states.backups);
    write_process(&mut text);
    text.into_text()
}

fn write_door(text: &mut Exposition, states: &States, actions: &[ActionFigures]) {
    let mut family = text.metric(
        "skytrail_requests_total",
        "Responses, by action and HTTP status.",
    );
    for figures in actions {
        for (status, count) in &figures.statuses {
            let labels = [
                ("action", figures.action.as_str()),
                ("status", &status.to_string()),
            ];
            family.labelled(&labels, count);
        }
    }
    let mut family = text.histogram(
        "skytrail_request_duration_seconds",
        "Time from the head of a request to its response, by action.",
    );
    for figures in actions {
        family.buckets(&[("action", &figures.action)], &figures.seconds);
    }
    let (door, throttle) = (&states.door, &states.throttle);
    text.metric("skytrail_requests_running", "Actions in progress.")
        .value(door.num_running);
    text.metric(
        "skytrail_hang_ups_total",
        "Requests whose clients disconnected before the response.",
    )
    .value(door.num_hang_ups);
    text.metric(
        "skytrail_wrong_keys_total",
        "API keys in requests that are neither of the app's keys.",
    )
    .value(door.num_wrong_keys);
    text.metric(
        "skytrail_unsent_bytes",
        "Bytes of responses that clients have not read yet.",
    )
    .value(door.unsent_bytes as u64);
    text.metric("skytrail_connections", "Connections open at the HTTP door.")
        .value(door.num_connections);
    text.metric(
        "skytrail_connections_refused_total",
        "Connections closed at once for lack of file descriptors.",
    )
    .value(door.num_refused_connections);
    text.metric(
        "skytrail_throttle_refused_total",
        "Sign-ups and logins refused because there were too many.",
    )
    .value(throttle.num_refused);
    let mut family = text.metric(
        "skytrail_auth_refused_total",
        "Refused logins, password changes and sessions, by reason.",
    );
    for reason in Reason::ALL {
        let number = states.refusals.get(&reason).copied().unwrap_or_default();
        family.labelled(&[("reason", reason.name())], number);
    }
    text.metric(
        "skytrail_throttle_buckets",
        "Addresses and accounts that were tried recently.",
    )
    .value(throttle.num_buckets);
    let audit = &states.audit;
    text.metric(
        "skytrail_audit_entries_total",
        "Entries of the audit trail, by outcome.",
    )
    .labelled(&[("outcome", "written")], audit.num_written)
    .labelled(&[("outcome", "dropped")], audit.num_dropped);
}

fn write_process(text: &mut Exposition) {
    let process = Process::read();
    text.metric("process_resident_memory_bytes", "Memory in use.")
        .maybe(process.map(|it| it.resident_bytes));
    text.metric("process_cpu_seconds_total", "Processor time.")
        .maybe(process.map(|it| it.cpu_seconds));
    text.metric("process_threads", "Threads.")
        .maybe(process.map(|it| it.num_threads));
    text.metric("process_open_fds", "Open files and sockets.")
        .maybe(process.map(|it| it.num_open_files));
    text.metric("skytrail_build_info", "1, with the version.")
        .labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}
