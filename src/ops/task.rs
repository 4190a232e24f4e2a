//! `skytrail task`: shows a running server's scheduled tasks, and runs them.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use skytrail_schema::id::TaskId;

use super::remote::{RunningServer, ServerFlag, block_on};
use super::{say, show};
use crate::config::Config;

/// What to do with the tasks of a running server.
#[derive(Clone, Debug, Subcommand)]
pub enum TaskCommand {
    /// Lists the tasks: when they run, how the last run ended, when the next one is due.
    List(ServerFlag),
    /// Runs a task now and waits until it ends.
    Run(TaskSelector),
    /// Pauses a task until it is resumed, even across restarts.
    Pause(TaskSelector),
    /// Resumes a paused task; runs that were due in the pause are not made up for.
    Resume(TaskSelector),
}

/// Selects the task.
#[derive(Clone, Debug, Args)]
pub struct TaskSelector {
    /// The task, as plugin/name.
    #[arg(value_parser = parse_id)]
    task: TaskId,
    #[command(flatten)]
    server: ServerFlag,
}

fn parse_id(text: &str) -> Result<TaskId, String> {
    TaskId::parse(text).ok_or_else(|| "expected plugin/name".to_owned())
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong; also if the requested run failed.
pub fn run(config: &Config, command: TaskCommand) -> Result<(), String> {
    let (action, on) = match command {
        TaskCommand::List(server) => return list(config, &server),
        TaskCommand::Run(on) => ("task:run", on),
        TaskCommand::Pause(on) => ("task:pause", on),
        TaskCommand::Resume(on) => ("task:resume", on),
    };
    let server = RunningServer::find(config, &on.server)?;
    let body = json!({"plugin": *on.task.plugin, "name": *on.task.name});
    let task = block_on(server.call(action, body))?;
    say(&describe(&task));
    let outcome = text(&task, "/last_run/outcome");
    if action == "task:run" && outcome != "ok" {
        return Err(format!("the run ended as {outcome:?}"));
    }
    Ok(())
}

fn list(config: &Config, server: &ServerFlag) -> Result<(), String> {
    let server = RunningServer::find(config, server)?;
    let listed = block_on(server.call("task:list", json!({})))?;
    let tasks = listed.get("tasks").and_then(Json::as_array);
    let tasks = tasks.map(Vec::as_slice).unwrap_or_default();
    if tasks.is_empty() {
        show("no plugin has registered a timer");
    }
    for task in tasks {
        show(&describe(task));
    }
    Ok(())
}

fn describe(task: &Json) -> String {
    let name = format!("{}/{}", text(task, "/plugin"), text(task, "/name"));
    let when = format!("{} ({})", text(task, "/spec"), text(task, "/time_zone"));
    let last = match text(task, "/last_run/due") {
        "" => "never run".to_owned(),
        due => format!("{due} {}", how_it_ended(task)),
    };
    let next = match (flag(task, "/paused"), text(task, "/next_run")) {
        (true, _) => "paused",
        (false, "") => "never",
        (false, next) => next,
    };
    let alone = if flag(task, "/attended") {
        ""
    } else {
        "; no worker"
    };
    format!("{name:<32} {when:<32} last: {last}; next: {next}{alone}")
}

fn how_it_ended(task: &Json) -> String {
    let outcome = text(task, "/last_run/outcome");
    let error = task.pointer("/last_run/error");
    let code = error.and_then(|error| error.get("code")?.as_i64());
    match code {
        Some(code) => format!(
            "{outcome}: {} ({code})",
            text(task, "/last_run/error/message")
        ),
        None => outcome.to_owned(),
    }
}

fn text<'a>(task: &'a Json, pointer: &str) -> &'a str {
    task.pointer(pointer)
        .and_then(Json::as_str)
        .unwrap_or_default()
}

fn flag(task: &Json, pointer: &str) -> bool {
    task.pointer(pointer)
        .and_then(Json::as_bool)
        .unwrap_or_default()
}
