//! `skytrail plugin`: shows the plugins of a running server, and tries them out.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::remote::{RunningServer, ServerFlag, block_on};
use super::{say, say_json, show};
use crate::config::Config;

/// How long the server waits for a new call per request, with `--follow`.
const WAIT_MS: u64 = 20_000;

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Lists the plugins: their transport, their state, what they registered, their workers.
    List(ServerFlag),
    /// Shows the last calls: what was asked, how long it took, how it failed.
    Calls(Calls),
    /// Calls a plugin as the server would, and shows the answer. The server stores nothing, but
    /// side effects of the plugin itself are real.
    Test(Test),
    /// Initialises a plugin anew, over http, exec or zmq, and shows what it registered or why it is
    /// refused. For a plugin that was restarted and whose new points the server does not know.
    Init(Init),
}

/// Which calls to show.
#[derive(Clone, Debug, Args)]
pub struct Calls {
    /// Keeps showing new calls.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    server: ServerFlag,
}

/// The call to make.
#[derive(Clone, Debug, Args)]
pub struct Test {
    /// The plugin.
    plugin: String,
    /// `op` (a lambda), `hook`, `handler`, `timer` or `provider`.
    kind: String,
    /// The name of the lambda, hook etc., as shown by `skytrail plugin list`.
    name: String,
    /// The arguments of a lambda: a JSON list or object.
    #[arg(long, value_name = "JSON", conflicts_with = "param")]
    args: Option<String>,
    /// The whole `param` of the request, as JSON; for a hook it has `record` and `original`.
    #[arg(long, value_name = "JSON")]
    param: Option<String>,
    #[command(flatten)]
    server: ServerFlag,
}

/// The plugin to initialise.
#[derive(Clone, Debug, Args)]
pub struct Init {
    /// The plugin.
    plugin: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong; also if the plugin answers with an error, or if its
/// registration is refused.
pub fn run(config: &Config, command: PluginCommand) -> Result<(), String> {
    block_on(async {
        match command {
            PluginCommand::List(flag) => list(&RunningServer::find(config, &flag)?).await,
            PluginCommand::Calls(command) => {
                let server = RunningServer::find(config, &command.server)?;
                show_calls(&server, command.follow).await
            }
            PluginCommand::Test(command) => {
                test(&RunningServer::find(config, &command.server)?, &command).await
            }
            PluginCommand::Init(command) => {
                init(
                    &RunningServer::find(config, &command.server)?,
                    &command.plugin,
                )
                .await
            }
        }
    })
}

async fn list(server: &RunningServer) -> Result<(), String> {
    let state = server.call("plugin:list", json!({})).await?;
    let plugins = at(&state, "plugins")
        .as_array()
        .cloned()
        .unwrap_or_default();
    if plugins.is_empty() {
        show("no plugins: PLUGINS names none, and none has connected");
    }
    for plugin in &plugins {
        for line in describe(plugin) {
            show(&line);
        }
    }
    Ok(())
}

async fn init(server: &RunningServer, plugin: &str) -> Result<(), String> {
    let outcome = server
        .call("plugin:init", json!({"plugin": plugin}))
        .await?;
    for line in problem_lines(&outcome).iter().chain(&point_lines(&outcome)) {
        show(line);
    }
    if outcome.get("problems").is_some() {
        let stays = "what it registered before, if anything, still counts";
        return Err(format!("{plugin} has not registered; {stays}"));
    }
    show(&format!("{plugin} has registered"));
    Ok(())
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn each(value: &Json) -> Vec<Json> {
    value.as_array().cloned().unwrap_or_default()
}

fn describe(plugin: &Json) -> Vec<String> {
    let workers = each(at(plugin, "workers"));
    let is_ready = workers.iter().any(|worker| at(worker, "stage") == "Ready");
    // One that has never registered is not ready yet: the problems below say why.
    let is_gone = at(plugin, "is_missing") == true && !at(plugin, "generation").is_null();
    let state = match (is_gone, is_ready) {
        (true, _) if at(plugin, "transport") == "websocket" => "not connected",
        (true, _) => "cannot be reached",
        (false, true) => "ready",
        (false, false) => "not ready",
    };
    let mut lines = vec![format!(
        "{} ({}): {}; {} calls, {} failed, {} waiting",
        text(at(plugin, "name")),
        text(at(plugin, "transport")),
        state,
        at(plugin, "calls"),
        at(plugin, "errors"),
        at(plugin, "queued"),
    )];
    lines.extend(problem_lines(plugin));
    for worker in &workers {
        lines.push(format!(
            "  worker {}: {}, generation {}, {} of {} at work",
            text(at(worker, "label")),
            text(at(worker, "stage")).to_lowercase(),
            at(worker, "generation"),
            at(worker, "in_use"),
            at(worker, "window"),
        ));
    }
    lines.extend(point_lines(plugin));
    lines
}

/// Returns a line for each reason why a registration is refused.
fn problem_lines(plugin: &Json) -> Vec<String> {
    let problems = each(at(plugin, "problems"));
    let line = |problem: &Json| {
        let [list, name, message] = ["list", "name", "message"].map(|it| text(at(problem, it)));
        let point = format!("{list} {name}");
        format!("  refused: {}: {message}", point.trim_end())
    };
    problems.iter().map(line).collect()
}

/// Returns a line for each point of a plugin.
fn point_lines(plugin: &Json) -> Vec<String> {
    let mut lines = Vec::new();
    let names = at(plugin, "names");
    for (kind, title) in [
        ("op", "lambda"),
        ("handler", "handler"),
        ("provider", "provider"),
    ] {
        lines.extend(
            each(at(names, kind))
                .iter()
                .map(|name| format!("  {title} {}", text(name))),
        );
    }
    for hook in each(at(names, "hook")) {
        let [trigger, kind, name] = ["trigger", "type", "name"].map(|it| text(at(&hook, it)));
        lines.push(format!("  hook {trigger} {kind}: {name}"));
    }
    lines
}

async fn show_calls(server: &RunningServer, follow: bool) -> Result<(), String> {
    let (mut last, mut wait_ms) = (0, 0);
    loop {
        let body = json!({"after": last, "wait_ms": wait_ms});
        let calls = server.call("plugin:calls", body).await?;
        for call in calls.as_array().into_iter().flatten() {
            show(&call_line(call));
            last = at(call, "number").as_u64().unwrap_or(last);
        }
        if !follow {
            if last == 0 {
                show("no plugin has been called yet");
            }
            return Ok(());
        }
        wait_ms = WAIT_MS;
    }
}

/// Returns a member, or null if there is none.
fn at<'a>(value: &'a Json, name: &str) -> &'a Json {
    value.get(name).unwrap_or(&Json::Null)
}

/// Formats a call in one line.
pub(super) fn call_line(call: &Json) -> String {
    let text = |name: &str| at(call, name).as_str().unwrap_or_default();
    let duration = at(call, "duration_ms").as_f64().unwrap_or_default();
    let outcome = match at(call, "error") {
        Json::Null => "ok".to_owned(),
        error => {
            let message = at(error, "message").as_str().unwrap_or_default();
            format!("error {}: {message}", at(error, "code"))
        }
    };
    let time = text("at").get(11..23).unwrap_or_default();
    format!(
        "{time}  {:<12} {:<8} {:<28} {duration:>8.1} ms  {outcome}",
        text("plugin"),
        text("kind"),
        text("name"),
    )
}

async fn test(server: &RunningServer, command: &Test) -> Result<(), String> {
    let parse = |flag: &str, text: &str| -> Result<Json, String> {
        skytrail_schema::json::from_str(text)
            .map_err(|error| format!("{flag} is not JSON: {error}"))
    };
    let param = match (&command.args, &command.param) {
        (Some(args), _) => json!({"action": command.name, "args": parse("--args", args)?}),
        (None, Some(param)) => parse("--param", param)?,
        (None, None) if command.kind == "op" => json!({"action": command.name}),
        (None, None) => Json::Null,
    };
    let body = json!({
        "plugin": command.plugin, "kind": command.kind, "name": command.name, "param": param,
    });
    let answer = server.call("plugin:test", body).await?;
    let duration = at(&answer, "duration_ms").as_f64().unwrap_or_default();
    let shown = answer.get("result").or(answer.get("error"));
    let shown = serde_json::to_string_pretty(shown.unwrap_or(&Json::Null));
    say_json(&shown.map_err(|error| error.to_string())?);
    match answer.get("error") {
        None => {
            say(&format!("# ok, {duration:.1} ms"));
            Ok(())
        }
        Some(_) => Err(format!(
            "the plugin answered with an error, after {duration:.1} ms"
        )),
    }
}
