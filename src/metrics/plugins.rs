//! Plugins, their tasks, and what is delivered to them.

use std::collections::BTreeSet;

use skytrail_actors::delivery::after::ConsumerState;
use skytrail_actors::plugin::{PluginState, PluginsState, Readiness};
use skytrail_actors::task::TaskReport;

use super::Exposition;

pub(super) fn write_plugins(text: &mut Exposition, plugins: Option<&PluginsState>) {
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

pub(super) fn write_tasks(text: &mut Exposition, tasks: &[TaskReport]) {
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

pub(super) fn write_deliveries(text: &mut Exposition, consumers: &[ConsumerState]) {
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
