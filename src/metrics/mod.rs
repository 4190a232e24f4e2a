//! Figures for a Prometheus, all under `skytrail_`; the process's own under their usual names.
//!
//! Nearly everything is a state that the parts keep anyway and that `/_/health`
//! shows as JSON; here it is written down once more, when somebody asks. Labels
//! have few values: names of actions, hubs and plugins, never ids or what clients
//! choose. docs/OPERATIONS.md says what each is good for.

mod process;
mod text;

pub use process::Process;
pub use text::{CONTENT_TYPE, Exposition};

use std::collections::BTreeSet;

use skytrail_actors::capture::CaptureFigures;
use skytrail_actors::delivery::after::ConsumerState;
use skytrail_actors::erasure::EraserState;
use skytrail_actors::hub::HubState;
use skytrail_actors::live::LiveState;
use skytrail_actors::plugin::{PluginState, PluginsState, Readiness};
use skytrail_actors::push::PushState;
use skytrail_actors::task::TaskReport;

use crate::auth::refusals::Reason;
use crate::backup::BackupState;
use crate::http::counters::ActionFigures;
use crate::parts::States;

/// Writes everything.
pub fn render(states: &States, actions: &[ActionFigures]) -> String {
    let mut text = Exposition::default();
    write_door(&mut text, states, actions);
    write_log(&mut text, states);
    write_store(&mut text, states);
    write_plugins(&mut text, states.plugins.as_ref());
    write_tasks(&mut text, states.tasks.as_deref().unwrap_or_default());
    write_deliveries(&mut text, &states.deliveries);
    write_captured(&mut text, states.captured.as_ref());
    write_erasures(&mut text, states.erasures);
    text.gauge(
        "skytrail_log_followers",
        "Clients that follow the log, or work for a consumer of it.",
    )
    .value(states.num_followers as u64);
    write_push(&mut text, states.push.as_deref().unwrap_or_default());
    write_hubs(
        &mut text,
        &[("public", states.hub), ("internal", states.internal_hub)],
    );
    write_live(&mut text, states);
    write_backups(&mut text, &states.backups);
    write_process(&mut text);
    text.into_text()
}

fn write_backups(text: &mut Exposition, backups: &BackupState) {
    text.counter(
        "skytrail_backups_total",
        "Backups that the server was to make by itself, by what became of them.",
    )
    .labelled(&[("outcome", "made")], backups.num_made)
    .labelled(&[("outcome", "failed")], backups.num_failed);
    let last = backups
        .last_time
        .map_or(0, |time| time.micros() / 1_000_000);
    text.gauge(
        "skytrail_backup_last_timestamp_seconds",
        "When the newest backup was made; 0 for never.",
    )
    .value(u64::try_from(last).unwrap_or_default());
    text.counter(
        "skytrail_backup_copied_bytes_total",
        "Bytes that backups have copied.",
    )
    .value(backups.copied_bytes);
    text.gauge(
        "skytrail_backup_damage",
        "Places of the log that were damaged when the newest backup was made.",
    )
    .value(backups.damage.len() as u64);
}

fn write_door(text: &mut Exposition, states: &States, actions: &[ActionFigures]) {
    let mut family = text.counter(
        "skytrail_requests_total",
        "Answers, by action and HTTP status.",
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
        "Time from the head of a request to its answer, by action.",
    );
    for figures in actions {
        family.buckets(&[("action", &figures.action)], &figures.seconds);
    }
    let (door, throttle) = (&states.door, &states.throttle);
    text.gauge("skytrail_requests_running", "Actions under way.")
        .value(door.num_running);
    text.counter(
        "skytrail_hang_ups_total",
        "Requests whose clients went away before the answer.",
    )
    .value(door.num_hang_ups);
    text.gauge("skytrail_connections", "Connections open at the HTTP door.")
        .value(door.num_connections);
    text.counter(
        "skytrail_throttle_refused_total",
        "Sign-ups and logins refused as too many.",
    )
    .value(throttle.num_refused);
    let mut family = text.counter(
        "skytrail_auth_refused_total",
        "Logins, changes of passwords and sessions that were refused, by reason.",
    );
    for reason in Reason::ALL {
        let number = states.refusals.get(&reason).copied().unwrap_or_default();
        family.labelled(&[("reason", reason.name())], number);
    }
    text.gauge(
        "skytrail_throttle_buckets",
        "Addresses and accounts that were tried lately.",
    )
    .value(throttle.num_buckets);
    let audit = &states.audit;
    text.counter(
        "skytrail_audit_entries_total",
        "Entries of the audit trail, by what became of them.",
    )
    .labelled(&[("outcome", "written")], audit.num_written)
    .labelled(&[("outcome", "dropped")], audit.num_dropped);
}

fn write_captured(text: &mut Exposition, captured: Option<&CaptureFigures>) {
    text.gauge(
        "skytrail_captured_active",
        "1 when reads and saves wait for what SQL has changed.",
    )
    .maybe(captured.map(|it| u8::from(it.state.is_active)));
    text.gauge(
        "skytrail_captured_failing",
        "1 while what SQL has changed cannot be taken in.",
    )
    .maybe(captured.map(|it| u8::from(it.state.is_failing)));
    text.counter(
        "skytrail_captured_failures_total",
        "Attempts to take in what SQL has changed that failed.",
    )
    .maybe(captured.map(|it| it.state.num_failures));
    text.counter(
        "skytrail_captured_transactions_total",
        "Transactions of others that were taken in.",
    )
    .maybe(captured.map(|it| it.state.num_transactions));
    text.gauge(
        "skytrail_captured_waiting_rows",
        "Rows that SQL has changed and the log has not got yet.",
    )
    .maybe(captured.map(|it| it.num_waiting));
    text.gauge(
        "skytrail_captured_waiting_seconds",
        "Since when the oldest of them was changed.",
    )
    .maybe(captured.map(|it| it.waiting_seconds));
    text.counter(
        "skytrail_captured_refused_total",
        "Rows that could not be taken in, and were parked.",
    )
    .maybe(captured.map(|it| it.state.num_parked));
    text.gauge("skytrail_captured_parked_rows", "Rows that are parked.")
        .maybe(captured.map(|it| it.num_parked_rows));
}

fn write_erasures(text: &mut Exposition, erasures: EraserState) {
    text.gauge(
        "skytrail_erasures_open",
        "Erasures that have not reached everything yet.",
    )
    .value(erasures.num_open as u64);
    text.gauge(
        "skytrail_erasures_failing",
        "1 while something cannot forget what it should.",
    )
    .value(u64::from(erasures.is_failing));
    text.counter(
        "skytrail_erasures_finished_total",
        "Erasures that were finished.",
    )
    .value(erasures.num_finished);
}

fn write_log(text: &mut Exposition, states: &States) {
    let log = &states.log;
    text.gauge(
        "skytrail_log_position",
        "The position of the last durable event.",
    )
    .value(log.head);
    text.counter(
        "skytrail_log_groups_total",
        "Groups written, each with one flush.",
    )
    .value(log.num_groups);
    text.histogram("skytrail_log_group_commits", "Commits that shared a flush.")
        .buckets(&[], &log.group_commits);
    text.histogram(
        "skytrail_log_flush_seconds",
        "Time of a flush (fdatasync) of the journal.",
    )
    .buckets(&[], &log.flush_seconds);
    text.counter(
        "skytrail_log_conflicts_total",
        "Decisions that were overtaken and taken again.",
    )
    .value(log.num_conflicts);
    text.gauge(
        "skytrail_log_queued_bytes",
        "Bytes of decisions that wait for the journal.",
    )
    .value(log.queued_bytes);
    let mut family = text.gauge(
        "skytrail_log_refuses_writes",
        "Whether writes are refused, by reason.",
    );
    family.labelled(&[("reason", "disk_full")], u64::from(log.is_disk_full));
    family.labelled(
        &[("reason", "store_behind")],
        u64::from(log.is_store_behind),
    );
    text.gauge("skytrail_log_journal_bytes", "Size of the journal.")
        .value(log.journal_bytes);
    let sled = log.sled.as_ref();
    let lag = sled.map(|sled| log.head.saturating_sub(sled.position));
    text.gauge(
        "skytrail_log_sled_lag_events",
        "Events that the event store has not got yet.",
    )
    .maybe(lag);
}

fn write_store(text: &mut Exposition, states: &States) {
    let projector = states.projector.as_ref();
    let lag = projector.map(|it| states.log.head.saturating_sub(it.position));
    text.gauge(
        "skytrail_projector_lag_events",
        "Events that the record store has not got yet.",
    )
    .maybe(lag);
    text.counter(
        "skytrail_projector_batches_total",
        "Transactions of the record store.",
    )
    .maybe(projector.map(|it| it.num_batches));
    text.counter(
        "skytrail_projector_failures_total",
        "Transactions that failed.",
    )
    .maybe(projector.map(|it| it.num_failures));
    text.gauge(
        "skytrail_projector_failing",
        "Whether the record store took no events the last time.",
    )
    .maybe(projector.map(|it| u64::from(it.is_failing)));
    let mut family = text.counter("skytrail_record_commands_total", "Saves and deletes taken.");
    let sum = |of: fn(&skytrail_actors::record::actor::RecordActorState) -> u64| -> u64 {
        states.records.iter().map(of).sum()
    };
    family.labelled(&[("kind", "save")], sum(|actor| actor.num_saves));
    family.labelled(&[("kind", "delete")], sum(|actor| actor.num_deletes));
    text.gauge("skytrail_record_actors", "Record types in use.")
        .value(states.records.len());
    let caches = states.caches;
    let mut family = text.gauge("skytrail_cache_entries", "What is kept in memory.");
    let entries = [
        ("records", caches.num_records),
        ("users", caches.num_users),
        ("types", caches.num_types),
        ("known_keys", caches.num_known_keys),
        ("pinned", caches.num_pinned),
    ];
    for (cache, entries) in entries {
        family.labelled(&[("cache", cache)], entries);
    }
    text.gauge(
        "skytrail_cache_bytes",
        "Memory that kept records and users take, roughly.",
    )
    .value(caches.num_bytes);
    let indexes = states.indexes;
    let mut family = text.gauge("skytrail_indexes", "Indexes that the store looks after.");
    if let Some(indexes) = indexes {
        family.labelled(&[("state", "built")], indexes.num_built);
        family.labelled(&[("state", "wanted")], indexes.num_wanted);
    }
    text.gauge("skytrail_index_bytes", "Size of these indexes.")
        .maybe(indexes.map(|it| it.num_bytes));
}

fn write_plugins(text: &mut Exposition, plugins: Option<&PluginsState>) {
    let is_ready = plugins.map(|it| u8::from(it.readiness == Readiness::Ready));
    text.gauge(
        "skytrail_plugins_ready",
        "1 when all plugins are ready, and clients are served.",
    )
    .maybe(is_ready);
    let each = plugins.map(|it| it.plugins.as_slice()).unwrap_or_default();
    let mut write = |is_counter, name, help, of: fn(&PluginState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for plugin in each {
            family.labelled(&[("plugin", &plugin.name)], of(plugin));
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_plugin_calls_total";
    write(counter, name, "Requests to plugins that ended.", |it| {
        it.calls
    });
    let name = "skytrail_plugin_errors_total";
    write(
        counter,
        name,
        "Those that failed, also by time or loss.",
        |it| it.errors,
    );
    let name = "skytrail_plugin_late_answers_total";
    write(counter, name, "Answers that came too late.", |it| {
        it.figures.late
    });
    let name = "skytrail_plugin_stray_answers_total";
    write(counter, name, "Answers that nobody asked for.", |it| {
        it.figures.stray
    });
    let name = "skytrail_plugin_resumes_total";
    write(
        counter,
        name,
        "Workers that came back to their sessions.",
        |it| it.resumed,
    );
    let name = "skytrail_plugin_workers_lost_total";
    write(counter, name, "Workers that went away unasked.", |it| {
        it.lost
    });
    let name = "skytrail_plugin_in_flight";
    write(gauge, name, "Requests at workers.", |it| {
        it.in_flight as u64
    });
    let name = "skytrail_plugin_queued";
    write(gauge, name, "Requests that wait for a worker.", |it| {
        it.queued as u64
    });
    let name = "skytrail_plugin_workers";
    write(gauge, name, "Workers connected.", |it| {
        it.workers.len() as u64
    });
    let name = "skytrail_plugin_endings_total";
    let mut family = text.counter(name, "What became of requests to plugins.");
    for plugin in each {
        for (ending, count) in &plugin.figures.endings {
            let labels = [("plugin", &*plugin.name), ("ending", ending.name())];
            family.labelled(&labels, count);
        }
    }
    let name = "skytrail_plugin_answer_seconds";
    let mut family = text.histogram(name, "Time to a plugin's answer, waiting included.");
    for plugin in each {
        family.buckets(&[("plugin", &plugin.name)], &plugin.figures.seconds);
    }
}

/// What is summed up over a plugin's tasks.
type TaskFigure = fn(&TaskReport) -> u64;

fn write_tasks(text: &mut Exposition, tasks: &[TaskReport]) {
    let plugins: BTreeSet<&str> = tasks.iter().map(|task| task.plugin.as_str()).collect();
    let sum = |plugin: &str, of: TaskFigure| -> u64 {
        let its = tasks.iter().filter(|task| task.plugin == plugin);
        its.map(of).sum()
    };
    let mut family = text.gauge("skytrail_tasks", "Scheduled tasks, by what they are at.");
    for plugin in &plugins {
        let states: [(&str, TaskFigure); 3] = [
            ("all", |_| 1),
            ("running", |task| task.running_since.is_some().into()),
            ("paused", |task| task.is_paused.into()),
        ];
        for (state, of) in states {
            family.labelled(&[("plugin", plugin), ("state", state)], sum(plugin, of));
        }
    }
    let mut family = text.counter(
        "skytrail_task_runs_total",
        "Due times of scheduled tasks, by what became of them; runs that were asked for, too.",
    );
    for plugin in &plugins {
        let outcomes: [(&str, TaskFigure); 4] = [
            ("ok", |task| task.num_runs - task.num_failures),
            ("failed", |task| task.num_failures),
            ("skipped", |task| task.num_skipped),
            ("missed", |task| task.num_missed),
        ];
        for (outcome, of) in outcomes {
            let labels = [("plugin", *plugin), ("outcome", outcome)];
            family.labelled(&labels, sum(plugin, of));
        }
    }
}

fn write_deliveries(text: &mut Exposition, consumers: &[ConsumerState]) {
    let mut write = |is_counter, name, help, of: fn(&ConsumerState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for consumer in consumers {
            family.labelled(&[("plugin", &consumer.name)], of(consumer));
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_delivery_lag_events";
    let help = "Events of the log that the plugin has not had, or that are none of its business.";
    write(gauge, name, help, |it| it.lag);
    let name = "skytrail_delivery_in_flight";
    write(gauge, name, "After-hooks under way.", |it| {
        it.in_flight as u64
    });
    let name = "skytrail_delivery_retrying";
    let help = "After-hooks that wait to be tried again.";
    write(gauge, name, help, |it| it.retrying as u64);
    let name = "skytrail_delivery_dead_letters";
    let help = "After-hooks that were given up.";
    write(gauge, name, help, |it| it.dead_letters);
    let name = "skytrail_delivery_delivered_total";
    let help = "After-hooks that were acknowledged.";
    write(counter, name, help, |it| it.delivered);
    let name = "skytrail_delivery_failed_total";
    write(counter, name, "Attempts that failed.", |it| it.failed);
    let name = "skytrail_delivery_skipped_total";
    let help = "After-hooks that were skipped: too old, or not to be caught up with.";
    write(counter, name, help, |it| it.skipped);
}

fn write_push(text: &mut Exposition, services: &[PushState]) {
    let mut family = text.counter(
        "skytrail_push_total",
        "Pushes to devices, by what became of them.",
    );
    type Figure = fn(&PushState) -> u64;
    let outcomes: [(&str, Figure); 5] = [
        ("sent", |it| it.num_sent),
        ("failed", |it| it.num_failed),
        ("dropped", |it| it.num_dropped),
        ("retried", |it| it.num_retried),
        ("expired", |it| it.num_expired),
    ];
    for service in services {
        for (outcome, of) in outcomes {
            let labels = [("service", service.service), ("outcome", outcome)];
            family.labelled(&labels, of(service));
        }
    }
    let mut write = |is_counter, name, help, of: Figure| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for service in services {
            family.labelled(&[("service", service.service)], of(service));
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_push_unregistered_total";
    let help = "Devices forgotten because their service does not know them any more.";
    write(counter, name, help, |it| it.num_unregistered);
    let name = "skytrail_push_queued";
    let help = "Pushes that wait, those for another attempt included.";
    write(gauge, name, help, |it| it.num_queued as u64);
    let name = "skytrail_push_in_flight";
    write(gauge, name, "Pushes under way.", |it| {
        it.num_in_flight as u64
    });
    let name = "skytrail_push_kept";
    let help = "Pushes that a crash would not lose.";
    write(gauge, name, help, |it| it.num_kept);
    let name = "skytrail_push_held";
    let help = "1 while a service is not asked, or with one push only, because it failed.";
    write(gauge, name, help, |it| it.is_held.into());
}

fn write_live(text: &mut Exposition, states: &States) {
    let live = states.live.as_ref();
    let lag = live.map(|it| states.log.head.saturating_sub(it.position));
    text.gauge(
        "skytrail_live_lag_events",
        "Events that live queries have not been told yet.",
    )
    .maybe(lag);
    let mut write = |is_counter, name, help, of: fn(&LiveState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        family.maybe(live.map(|it| of(&it.state)));
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_live_connections";
    write(gauge, name, "Connections that follow queries.", |it| {
        it.num_listeners as u64
    });
    let name = "skytrail_live_subscriptions";
    write(gauge, name, "Queries that are followed.", |it| {
        it.num_subscriptions as u64
    });
    let name = "skytrail_live_views";
    write(
        gauge,
        name,
        "Different ones among them, by what is asked and as whom.",
        |it| it.num_views as u64,
    );
    let name = "skytrail_live_loads_total";
    write(counter, name, "Results looked up.", |it| it.num_loads);
    let name = "skytrail_live_replays_total";
    write(
        counter,
        name,
        "Absences made up for out of the log.",
        |it| it.num_replays,
    );
    let name = "skytrail_live_resets_total";
    write(
        counter,
        name,
        "Absences that could not be: the result was told anew.",
        |it| it.num_resets,
    );
    let name = "skytrail_live_frames_total";
    write(counter, name, "What connections were told.", |it| {
        it.num_frames
    });
    let name = "skytrail_live_slow_total";
    write(
        counter,
        name,
        "Connections ended because they did not read.",
        |it| it.num_slow,
    );
    let name = "skytrail_live_refused_total";
    write(
        counter,
        name,
        "Connections ended because their users may not listen any more.",
        |it| it.num_refused,
    );
    let name = "skytrail_live_failures_total";
    write(
        counter,
        name,
        "Changes that could not be read, so that results were looked up again.",
        |it| it.num_failures,
    );
}

fn write_hubs(text: &mut Exposition, hubs: &[(&str, Option<HubState>)]) {
    let mut write = |is_counter, name, help, of: fn(&HubState) -> u64| {
        let mut family = if is_counter {
            text.counter(name, help)
        } else {
            text.gauge(name, help)
        };
        for (hub, state) in hubs {
            if let Some(state) = state {
                family.labelled(&[("hub", hub)], of(state));
            }
        }
    };
    let (counter, gauge) = (true, false);
    let name = "skytrail_hub_sockets";
    write(gauge, name, "Sockets connected.", |it| {
        it.num_listeners as u64
    });
    let name = "skytrail_hub_channels";
    write(gauge, name, "Channels that somebody hears.", |it| {
        it.num_channels as u64
    });
    let name = "skytrail_hub_published_total";
    write(counter, name, "Messages published.", |it| it.num_published);
    let name = "skytrail_hub_delivered_total";
    write(counter, name, "Messages put into sockets' queues.", |it| {
        it.num_delivered
    });
    let name = "skytrail_hub_dropped_total";
    write(
        counter,
        name,
        "Sockets closed because they did not read.",
        |it| it.num_dropped,
    );
}

fn write_process(text: &mut Exposition) {
    let process = Process::read();
    text.gauge("process_resident_memory_bytes", "Memory in use.")
        .maybe(process.map(|it| it.resident_bytes));
    text.counter("process_cpu_seconds_total", "Processor time.")
        .maybe(process.map(|it| it.cpu_seconds));
    text.gauge("process_threads", "Threads.")
        .maybe(process.map(|it| it.num_threads));
    text.gauge("process_open_fds", "Open files and sockets.")
        .maybe(process.map(|it| it.num_open_files));
    text.gauge("skytrail_build_info", "1, with the version.")
        .labelled(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}
