//! `skytrail history`: what a record was, who changed it, and bringing it back.

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::log_search::moment;
use super::remote::{RunningServer, ServerFlag, block_on};
use super::{say, show};
use crate::config::Config;

/// What to do with a record's history. All of it talks to the running server.
#[derive(Clone, Debug, Subcommand)]
pub enum HistoryCommand {
    /// Lists a record's versions, the newest first: when, by whom, and what became different.
    List(List),
    /// Shows a record as it was.
    Show(At),
    /// Saves a record as it was, as a new version; one that was deleted is there again.
    Restore(At),
}

/// See [`HistoryCommand::List`].
#[derive(Clone, Debug, Args)]
pub struct List {
    /// The record, as type/id.
    record: String,
    /// Up to this position of the log, or this time (RFC 3339).
    #[arg(long)]
    until: Option<String>,
    /// Behind this position, or this time.
    #[arg(long)]
    after: Option<String>,
    /// Only what this user did.
    #[arg(long)]
    user: Option<String>,
    /// How many versions.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// One JSON object per version.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlag,
}

/// A record at a moment.
#[derive(Clone, Debug, Args)]
pub struct At {
    /// The record, as type/id.
    record: String,
    /// Right after this position of the log, or this time (RFC 3339).
    #[arg(long)]
    as_of: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs a command.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn run(config: &Config, command: HistoryCommand) -> Result<(), String> {
    match command {
        HistoryCommand::List(wanted) => {
            let server = RunningServer::find(config, &wanted.server)?;
            block_on(list(&server, &wanted))
        }
        HistoryCommand::Show(at) => {
            let server = RunningServer::find(config, &at.server)?;
            let body = json!({"ids": [at.record], "as_of": moment(&at.as_of)});
            let fetched = block_on(server.call("record:fetch", members(body)))?;
            let record = fetched.get(0).unwrap_or(&Json::Null);
            if record.get("_type") == Some(&json!("error")) {
                return Err(format!("{}: {}", at.record, text(record, "/message")));
            }
            show(&record.to_string());
            Ok(())
        }
        HistoryCommand::Restore(at) => {
            let server = RunningServer::find(config, &at.server)?;
            let body = json!({"record": at.record, "as_of": moment(&at.as_of)});
            let record = block_on(server.call("history:restore", members(body)))?;
            say(&record.to_string());
            Ok(())
        }
    }
}

/// Asks page by page until there are as many versions as wanted.
async fn list(server: &RunningServer, wanted: &List) -> Result<(), String> {
    const PAGE: usize = 200;
    let mut left = wanted.limit;
    let mut until = wanted.until.as_deref().map(moment);
    while left > 0 {
        let body = json!({
            "record": wanted.record,
            "until": until,
            "after": wanted.after.as_deref().map(moment),
            "user": wanted.user,
            "limit": left.min(PAGE),
        });
        let page = server.call("history:list", members(body)).await?;
        let versions = page.get("versions").and_then(Json::as_array);
        for version in versions.into_iter().flatten() {
            if wanted.json {
                show(&version.to_string());
            } else {
                describe(version).iter().for_each(|line| show(line));
            }
            left = left.saturating_sub(1);
        }
        until = page.get("next").filter(|next| !next.is_null()).cloned();
        if until.is_none() {
            break;
        }
    }
    Ok(())
}

/// Writes a version as a line, and a line per change.
fn describe(version: &Json) -> Vec<String> {
    let position = version.get("position").unwrap_or(&Json::Null);
    let (time, kind) = (text(version, "/time"), text(version, "/kind"));
    let who = sql_role(version).unwrap_or_else(|| who(version, "/actor"));
    let erased = erased(version).unwrap_or_default();
    let mut lines = vec![format!("{position}  {time}  {kind}  {who}{erased}")];
    for hook in version
        .get("hooks")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
    {
        let (plugin, name) = (text(hook, "/plugin"), text(hook, "/hook"));
        let changed = hook.get("changed").unwrap_or(&Json::Null);
        lines.push(format!("    hook {plugin}/{name} changed {changed}"));
    }
    lines.extend(changes(version));
    lines
}

/// Writes what became different, a line per field.
pub(super) fn changes(version: &Json) -> Vec<String> {
    let changes = version.get("changes").and_then(Json::as_object);
    let changes = changes.into_iter().flatten().map(|(name, change)| {
        let side = |side| change.get(side).map_or("-".to_owned(), Json::to_string);
        format!("    {name}: {} -> {}", side("before"), side("after"))
    });
    changes.collect()
}

/// Names the database role that wrote an event by SQL, if one did.
pub(super) fn sql_role(event: &Json) -> Option<String> {
    let role = event.pointer("/sql/role").and_then(Json::as_str);
    role.map(|role| format!("sql role {role}"))
}

/// Says when, by whom and why an event was erased, if it was; to be put behind what is said of it.
pub(super) fn erased(event: &Json) -> Option<String> {
    let mark = event.get("erased").filter(|mark| mark.is_object())?;
    let (at, why) = (text(mark, "/at"), text(mark, "/why"));
    Some(format!("  erased at {at} by {}: {why}", who(mark, "/by")))
}

fn who(event: &Json, place: &str) -> String {
    let actor = event.pointer(place).unwrap_or(&Json::Null);
    let (user, key) = (text(actor, "/user"), text(actor, "/key"));
    let (origin, plugin) = (text(actor, "/origin"), text(actor, "/plugin"));
    let user = if user.is_empty() { "nobody" } else { user };
    let through = if plugin.is_empty() { origin } else { plugin };
    format!("{user} ({key} key, {through})")
}

fn members(body: Json) -> Map<String, Json> {
    match body {
        Json::Object(members) => members,
        _ => Map::new(),
    }
}

fn text<'a>(value: &'a Json, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Json::as_str)
        .unwrap_or_default()
}
