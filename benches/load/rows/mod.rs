//! The rows of the table, one file per question.

mod create;
mod disk;
mod fan_out;
mod growth;
mod history;
mod live;
mod moving;
mod plugin;
mod postgres;
mod read;
mod start;

use crate::report::Report;
use crate::rig::Rig;

/// What the acknowledgement of a write promises, in our rows and in the bare ones.
const DURABLE: &str = "fdatasync before the answer";
/// What an answer to a read promises.
const READS: &str = "reads what was acknowledged";

/// Runs the requested rows, the quick ones first.
pub(crate) async fn run_all(rig: &Rig<'_>, report: &mut Report) {
    if rig.options.wants("start") {
        start::run_empty(rig, report);
    }
    if rig.options.wants("create") {
        create::run_single(rig, report).await;
    }
    if rig.options.wants("batch") {
        create::run_batch(rig, report).await;
    }
    if rig.options.wants("read") || rig.options.wants("start") {
        let filled = read::fill(rig, report).await;
        if rig.options.wants("read") {
            read::run(rig, report, &filled).await;
        }
        if rig.options.wants("start") {
            start::run_filled(rig, report, filled).await;
        }
    }
    if rig.options.wants("history") {
        history::run(rig, report).await;
    }
    if rig.options.wants("postgres") {
        postgres::run(rig, report).await;
    }
    if rig.options.wants("move") {
        moving::run(rig, report).await;
    }
    if rig.options.wants("disk") {
        disk::run(rig, report).await;
    }
    if rig.options.wants("growth") {
        growth::run(rig, report).await;
    }
    if rig.options.wants("pubsub") {
        fan_out::run(rig, report).await;
    }
    if rig.options.wants("live") {
        live::run(rig, report).await;
    }
    if rig.options.wants("plugin") {
        plugin::run(rig, report).await;
    }
}
