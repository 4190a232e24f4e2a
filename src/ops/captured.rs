//! `skytrail captured`: rows that were changed by SQL and that the log could not accept.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value as Json, json};

use super::remote::{RunningServer, ServerFlag, block_on};
use super::{say, show, show_json};
use crate::config::Config;

/// What to do.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct CapturedCommand {
    #[command(flatten)]
    server: ServerFlag,
    #[command(subcommand)]
    what: CapturedAction,
}

const EXAMPLES: &str = "\
Examples:
  skytrail captured list                 what is parked, and why
  skytrail captured retry 42             try again, now that the cause is gone
  skytrail captured discard --all        nobody needs them";

#[derive(Clone, Debug, Subcommand)]
enum CapturedAction {
    /// Lists parked rows.
    List {
        /// Also shows the rows before and after the change, as JSON.
        #[arg(long)]
        rows: bool,
    },
    /// Tries rows again, as if they had just been changed.
    Retry(Rows),
    /// Discards rows.
    Discard(Rows),
}

/// Selects the rows.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("which").args(["ids", "all"]).required(true))]
struct Rows {
    /// The ids of the rows.
    ids: Vec<u64>,
    /// Selects all rows.
    #[arg(long)]
    all: bool,
}

impl Rows {
    fn body(&self) -> Json {
        json!({"ids": self.ids, "all": self.all})
    }
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &CapturedCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    match &command.what {
        CapturedAction::List { rows } => list(&server, *rows),
        CapturedAction::Retry(rows) => retry(&server, rows),
        CapturedAction::Discard(rows) => {
            let done = block_on(server.call("captured:discard", rows.body()))?;
            let discarded = done.get("discarded").unwrap_or(&Json::Null);
            say(&format!("{discarded} rows discarded"));
            Ok(())
        }
    }
}

fn list(server: &RunningServer, is_whole: bool) -> Result<(), String> {
    let (mut after, mut is_none) = (0, true);
    loop {
        let page = block_on(server.call("captured:list", json!({"after": after})))?;
        let page = page.as_array().cloned().unwrap_or_default();
        let Some(last) = page.last() else { break };
        after = last.get("id").and_then(Json::as_u64).unwrap_or(u64::MAX);
        is_none = false;
        for row in &page {
            match is_whole {
                true => show_json(&row.to_string()),
                false => show(&describe(row)),
            }
        }
    }
    if is_none && !is_whole {
        show("nothing is parked");
    }
    Ok(())
}

fn retry(server: &RunningServer, rows: &Rows) -> Result<(), String> {
    let done = block_on(server.call("captured:retry", rows.body()))?;
    let parked = done.get("parked").and_then(Json::as_array);
    let parked = parked.cloned().unwrap_or_default();
    let retried = done.get("retried").and_then(Json::as_u64).unwrap_or(0);
    let num_parked = u64::try_from(parked.len()).unwrap_or(u64::MAX);
    let taken = retried.saturating_sub(num_parked);
    say(&format!("{taken} rows imported"));
    for row in &parked {
        say(&describe(row));
    }
    match num_parked {
        0 => Ok(()),
        num_parked => Err(format!("{num_parked} rows parked again")),
    }
}

fn describe(row: &Json) -> String {
    let text = |name: &str| row.get(name).and_then(Json::as_str).unwrap_or_default();
    let is_there = |name: &str| row.get(name).is_some_and(|row| !row.is_null());
    let what = match (is_there("before"), is_there("after")) {
        (false, _) => "created",
        (true, true) => "changed",
        (true, false) => "deleted",
    };
    format!(
        "{:<8} {:<32} {what} by {} at {}: {}",
        row.get("id").unwrap_or(&Json::Null),
        format!("{}/{}", text("table"), text("key")),
        text("role"),
        text("at"),
        text("reason"),
    )
}
