//! Metrics of plugins, their tasks, and deliveries to them.

use std::collections::BTreeSet;

use skytrail_actors::delivery::consumers::ConsumerState;
use skytrail_actors::plugin::{PluginState, PluginsState, Readiness};
use skytrail_actors::task::TaskReport;

use super::Exposition;

pub(super) fn write_plugins(text: &mut Exposition, plugins: Option<&PluginsState>) {
    let is_ready = plugins.map(|it| u8::from(it.readiness == Readiness::Ready));
    text.metric(
        "skytrail_plugins_ready",
        "1 when all plugins are ready and clients are served.",
    )
    .maybe(is_ready);
    let each = plugins.map(|it| it.plugins.as_slice()).unwrap_or_default();
    type Metric = fn(&PluginState) -> u64;
    let figures: [(&str, &str, Metric); 10] = [
        (
            "skytrail_plugin_calls_total",
            "Requests to plugins that ended.",
            |it| it.calls,
        ),
        (
            "skytrail_plugin_errors_total",
            "Requests to plugins that failed, also by timeout or a lost worker.",
            |it| it.errors,
        ),
        (
            "skytrail_plugin_late_answers_total",
            "Answers that arrived too late.",
            |it| it.figures.late,
        ),
        (
            "skytrail_plugin_stray_answers_total",
            "Answers that no request was waiting for.",
            |it| it.figures.stray,
        ),
        (
            "skytrail_plugin_resumes_total",
            "Workers that reconnected to their sessions.",
            |it| it.resumed,
        ),
        (
            "skytrail_plugin_workers_lost_total",
            "Workers that disconnected unexpectedly.",
            |it| it.lost,
        ),
        ("skytrail_plugin_in_flight", "Requests at workers.", |it| {
            it.in_flight as u64
        }),
        (
            "skytrail_plugin_queued",
            "Requests that wait for a worker.",
            |it| it.queued as u64,
        ),
        ("skytrail_plugin_workers", "Workers connected.", |it| {
            it.connected as u64
        }),
        (
            "skytrail_plugin_missing",
            "1 while a listed plugin has been out of reach for longer than requests wait.",
            |it| u64::from(it.is_missing),
        ),
    ];
    for (name, help, of) in figures {
        let mut family = text.metric(name, help);
        for plugin in each {
            family.labelled(&[("plugin", &plugin.name)], of(plugin));
        }
    }
    let name = "skytrail_plugin_endings_total";
    let mut family = text.metric(name, "Requests to plugins, by outcome.");
    for plugin in each {
        for (ending, count) in &plugin.figures.endings {
            let labels = [("plugin", &*plugin.name), ("ending", ending.name())];
            family.labelled(&labels, count);
        }
    }
    let name = "skytrail_plugin_answer_seconds";
    let mut family = text.histogram(name, "Time to a plugin's answer, including waiting.");
    for plugin in each {
        family.buckets(&[("plugin", &plugin.name)], &plugin.figures.seconds);
    }
}

/// A figure that is summed up over a plugin's tasks.
type TaskFigure = fn(&TaskReport) -> u64;

pub(super) fn write_tasks(text: &mut Exposition, tasks: &[TaskReport]) {
    let plugins: BTreeSet<&str> = tasks.iter().map(|task| task.plugin.as_str()).collect();
    let sum = |plugin: &str, of: TaskFigure| -> u64 {
        let its = tasks.iter().filter(|task| task.plugin == plugin);
        its.map(of).sum()
    };
    let mut family = text.metric("skytrail_tasks", "Scheduled tasks, by state.");
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
    let mut family = text.metric(
        "skytrail_task_runs_total",
        "Due times of scheduled tasks and requested runs, by outcome.",
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

pub(super) fn write_deliveries(text: &mut Exposition, consumers: &[ConsumerState]) {
    type Metric = fn(&ConsumerState) -> u64;
    let figures: [(&str, &str, Metric); 7] = [
        (
            "skytrail_delivery_lag_events",
            "Events of the log after the plugin's position, wanted or not.",
            |it| it.lag,
        ),
        (
            "skytrail_delivery_in_flight",
            "After-hooks in flight.",
            |it| it.in_flight as u64,
        ),
        (
            "skytrail_delivery_retrying",
            "After-hooks that wait for a retry.",
            |it| it.retrying as u64,
        ),
        (
            "skytrail_delivery_dead_letters",
            "After-hooks that were given up.",
            |it| it.dead_letters,
        ),
        (
            "skytrail_delivery_delivered_total",
            "After-hooks that were acknowledged.",
            |it| it.delivered,
        ),
        (
            "skytrail_delivery_failed_total",
            "Attempts that failed.",
            |it| it.failed,
        ),
        (
            "skytrail_delivery_skipped_total",
            "After-hooks that were skipped: too old, or left out by the hook's catch-up setting.",
            |it| it.skipped,
        ),
    ];
    for (name, help, of) in figures {
        let mut family = text.metric(name, help);
        for consumer in consumers {
            family.labelled(&[("plugin", &consumer.name)], of(consumer));
        }
    }
}
