//! `skytrail replay`: tries a plugin on past writes.
//!
//! The server reads the log page by page and keeps no state. This command keeps its progress in a
//! cursor file, so it can be killed and continue. The plugin is either connected to the sandbox
//! already, or a program that is run during the replay.

mod checkpoint;
mod lines;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value as Json, json};
use skytrail_actors::clock::{Clock as _, SystemClock};
use skytrail_schema::code::Code;
use tokio::time::{Instant, sleep, timeout};

use super::dev::child::{self, Child, ChildEnv};
use super::log_search::moment;
use super::remote::{CallError, RunningServer, ServerFlag, block_on};
use super::say;
use crate::config::Config;
use checkpoint::{Checkpoint, Page};

/// The greatest number of writes per request.
const PAGE: u64 = 100;
/// How long the plugin may take to connect and register.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between two attempts to find the plugin.
const PAUSE: Duration = Duration::from_millis(100);

const HELP: &str = "\
The plugin answers as in production, but nothing is stored: its reads are answered as of the write
that it is tried on, and its writes are refused. A program (--exec) gets SKYGEAR_ENDPOINT,
MASTER_KEY, APP_NAME, PLUGIN_GENERATION and PLUGIN_NAME in its environment; the name is that of
--plugin, or of the server's only plugin. A plugin that is started elsewhere needs
http://HOST:PORT/_/sandbox as SKYGEAR_ENDPOINT.

Examples:
  skytrail replay --exec \"skytrail-plugin plugin.py\" --from 2026-10-01T00:00:00Z --to 2026-11-01T00:00:00Z
  skytrail replay --plugin CHAT --type note --report differences.jsonl --cursor replay.cursor

Exit codes: 0 every outcome would be the same, 3 some would differ, 1 failed, 2 wrong arguments.";

/// What to try, and on which writes.
#[derive(Clone, Debug, Args)]
#[command(after_help = HELP)]
pub struct ReplayCommand {
    /// The plugin's name; not needed if it is the only plugin in the sandbox, or with --exec if the
    /// server has no other plugin.
    #[arg(long, env = "PLUGIN_NAME")]
    plugin: Option<String>,
    /// Runs this program as the plugin, with its arguments, quoted as for a shell.
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// From this position of the log on, or from this time on (RFC 3339).
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Up to this position, or up to this time; defaults to the present end of the log.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// Replays only records of these types, separated by commas.
    #[arg(long = "type", value_delimiter = ',')]
    types: Vec<String>,
    /// Calls after-hooks, too. Their effects elsewhere, such as sending mail, are real.
    #[arg(long)]
    after_hooks: bool,
    /// Ignores differences in this field; TYPE.FIELD ignores it in one type only. For values that a
    /// hook generates, such as the time.
    #[arg(long, value_name = "FIELD")]
    ignore: Vec<String>,
    /// Leaves out writes whose outcome depends on unknown values.
    #[arg(long)]
    certain: bool,
    /// The greatest number of writes per second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Writes the differences to this file, a JSON object per line. A file that is not empty is
    /// refused, unless it is the report that belongs to the cursor.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keeps the progress in this file, and continues from there if the file exists.
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs the command; returns whether every write would have the same outcome.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &ReplayCommand) -> Result<bool, String> {
    let server = RunningServer::find(config, &command.server)?;
    let request = command.body();
    let checkpoint = Checkpoint::open(
        command.cursor.as_deref(),
        command.report.as_deref(),
        &request,
    )?;
    block_on(async {
        let Some(program) = command.exec.as_deref().filter(|_| !checkpoint.is_at_end()) else {
            return replay(&server, command, (request, None), checkpoint).await;
        };
        let words = child::words("--exec", program)?;
        let generation = u64::try_from(SystemClock.now().micros()).unwrap_or_default();
        let plugin = match &command.plugin {
            Some(name) => Some(name.clone()),
            None => only_plugin(&server).await?,
        };
        let plugin = (plugin.as_deref(), generation);
        let env = ChildEnv::sandbox(config, &server, plugin);
        let mut child = Child::start(&words, &env)?;
        let done = tokio::select! {
            done = replay(&server, command, (request, Some(generation)), checkpoint) => done,
            ended = child.ended() => Err(format!("{program}: the plugin ended: {ended}")),
        };
        child.end().await;
        done
    })
}

impl ReplayCommand {
    /// Returns the part of the request that is the same for every page.
    fn body(&self) -> Map<String, Json> {
        let mut body = Map::new();
        let mut insert = |name: &str, value: Option<Json>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        insert("plugin", self.plugin.as_deref().map(Json::from));
        insert("since", self.from.as_deref().map(moment));
        insert("until", self.to.as_deref().map(moment));
        insert("record_types", Some(json!(self.types)));
        insert("after_hooks", Some(self.after_hooks.into()));
        insert("ignore", Some(json!(self.ignore)));
        body
    }
}

/// Returns the name of the server's only plugin, if it has one.
///
/// # Errors
/// The server has several plugins, or does not answer.
async fn only_plugin(server: &RunningServer) -> Result<Option<String>, String> {
    let state = server.call("plugin:list", json!({})).await?;
    let plugins = state.get("plugins").and_then(Json::as_array);
    let names = plugins.into_iter().flatten();
    let names: Vec<&str> = names
        .filter_map(|plugin| plugin.get("name")?.as_str())
        .collect();
    match names[..] {
        [] => Ok(None),
        [name] => Ok(Some(name.to_owned())),
        _ => Err(format!(
            "the server has several plugins: choose one with --plugin, of {}",
            names.join(", ")
        )),
    }
}

/// Replays the range, starting where the cursor is.
async fn replay(
    server: &RunningServer,
    command: &ReplayCommand,
    (mut body, generation): (Map<String, Json>, Option<u64>),
    mut checkpoint: Checkpoint,
) -> Result<bool, String> {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} replayed up to {pos}/{len} {per_sec} {eta}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    body.insert("generation".to_owned(), generation.into());
    let mut is_begun = false;
    while !checkpoint.is_at_end() {
        let limit = command.rate.map_or(PAGE, |rate| rate.min(PAGE));
        body.insert("limit".to_owned(), limit.into());
        checkpoint.put_into(&mut body);
        let began = Instant::now();
        // A plugin that has answered is connected: if it leaves later, the replay fails.
        let page = if is_begun {
            server.call_for("plugin:replay", &body).await?
        } else {
            first_page(server, &body, command.exec.is_some()).await?
        };
        is_begun = true;
        let page: Page = page;
        bar.set_length(page.info.until);
        bar.set_position(page.info.next.unwrap_or(page.info.until));
        let num_writes = page.info.num_replayed();
        let findings = checkpoint.take(page, command.certain)?;
        let lines = findings.iter().flat_map(lines::of);
        bar.suspend(|| lines.for_each(|line| say(&line)));
        if let Some(rate) = command.rate {
            let due = Duration::from_secs(num_writes) / u32::try_from(rate).unwrap_or(u32::MAX);
            sleep(due.saturating_sub(began.elapsed())).await;
        }
    }
    bar.finish_and_clear();
    for line in lines::summary(&checkpoint, command.certain) {
        say(&line);
    }
    Ok(!checkpoint.has_differences(command.certain))
}

/// Requests the first page; for a program that was just started, retries until it has registered.
async fn first_page(
    server: &RunningServer,
    body: &Map<String, Json>,
    retries_missing: bool,
) -> Result<Page, String> {
    let ask = async {
        loop {
            match server.call_for("plugin:replay", body).await {
                Err(CallError::Refused {
                    code: Code::PluginUnavailable,
                    ..
                }) if retries_missing => sleep(PAUSE).await,
                answer => return answer,
            }
        }
    };
    let answer = timeout(START_TIMEOUT, ask).await.map_err(|_| {
        let time = START_TIMEOUT.as_secs();
        format!("the plugin did not register within {time} s; does it connect to SKYGEAR_ENDPOINT?")
    });
    Ok(answer??)
}
