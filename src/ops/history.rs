//! `skytrail history`: shows what a record was and who changed it, and restores it.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::log_search::moment;
use super::remote::{RunningServer, ServerFlag, block_on};
use super::{complain, say_json, show, show_json};
use crate::config::Config;

/// What to do with a record's history. Every command talks to the running server.
#[derive(Clone, Debug, Subcommand)]
pub enum HistoryCommand {
    /// Lists a record's versions, the newest first: when, by whom, and what changed.
    List(List),
    /// Shows a record as it was.
    Show(At),
    /// Saves a record as it was, as a new version; recreates it if it was deleted.
    Restore(At),
}

/// See [`HistoryCommand::List`].
#[derive(Clone, Debug, Args)]
pub struct List {
    /// The record, as type/id.
    record: String,
    /// Up to this position of the log, or up to this time (RFC 3339).
    #[arg(long)]
    until: Option<String>,
    /// After this position, or after this time.
    #[arg(long)]
    after: Option<String>,
    /// Only versions by this user.
    #[arg(long)]
    user: Option<String>,
    /// The greatest number of versions; defaults to all.
    #[arg(long)]
    limit: Option<usize>,
    /// Prints one JSON object per version.
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
    /// The moment: right after this position of the log, or at this time (RFC 3339).
    #[arg(long)]
    as_of: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: HistoryCommand) -> Result<(), String> {
    match command {
        HistoryCommand::List(command) => {
            let server = RunningServer::find(config, &command.server)?;
            block_on(list(&server, &command))
        }
        HistoryCommand::Show(at) => {
            let server = RunningServer::find(config, &at.server)?;
            let body = json!({"ids": [at.record], "as_of": moment(&at.as_of)});
            let fetched = block_on(server.call("record:fetch", body))?;
            let record = fetched.get(0).unwrap_or(&Json::Null);
            if record.get("_type") == Some(&json!("error")) {
                return Err(format!("{}: {}", at.record, text(record, "/message")));
            }
            show_json(&record.to_string());
            Ok(())
        }
        HistoryCommand::Restore(at) => {
            let server = RunningServer::find(config, &at.server)?;
            let body = json!({"record": at.record, "as_of": moment(&at.as_of)});
            let record = block_on(server.call("history:restore", body))?;
            say_json(&record.to_string());
            Ok(())
        }
    }
}

/// Reads page by page until there are enough versions; says where the next one begins.
async fn list(server: &RunningServer, command: &List) -> Result<(), String> {
    const PAGE: usize = 200;
    let mut left = command.limit.unwrap_or(usize::MAX);
    let mut until = command.until.as_deref().map(moment);
    while left > 0 {
        let body = json!({
            "record": command.record,
            "until": until,
            "after": command.after.as_deref().map(moment),
            "user": command.user,
            "limit": left.min(PAGE),
        });
        let page = server.call("history:list", body).await?;
        let versions = page.get("versions").and_then(Json::as_array);
        for version in versions.into_iter().flatten() {
            if command.json {
                show_json(&version.to_string());
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
    if let Some(next) = until.filter(|_| left == 0) {
        complain(&format!("there may be more: continue with --until {next}"));
    }
    Ok(())
}

/// Formats a version as one line, and a line per change.
fn describe(version: &Json) -> Vec<String> {
    let position = version.get("position").unwrap_or(&Json::Null);
    let (time, kind) = (text(version, "/time"), text(version, "/kind"));
    let who = who_did(version);
    let mut lines = vec![format!("{position}  {time}  {kind}  {who}")];
    lines.extend(hooks(version));
    lines.extend(changes(version));
    lines
}

/// Returns who caused an event, and the erasure if it was erased.
pub(super) fn who_did(event: &Json) -> String {
    let role = event.pointer("/sql/role").and_then(Json::as_str);
    let actor = event.get("actor").unwrap_or(&Json::Null);
    let who = role.map_or_else(|| who(actor), |role| format!("sql role {role}"));
    match erased(event) {
        Some(erased) => format!("{who}  {erased}"),
        None => who,
    }
}

/// Lists the hooks that changed an event, one line each.
pub(super) fn hooks(event: &Json) -> Vec<String> {
    let hooks = event.get("hooks").and_then(Json::as_array);
    let hooks = hooks.into_iter().flatten().map(|hook| {
        let (plugin, name) = (text(hook, "/plugin"), text(hook, "/hook"));
        let changed = hook.get("changed").unwrap_or(&Json::Null);
        format!("    hook {plugin}/{name} changed {changed}")
    });
    hooks.collect()
}

/// Lists what changed, one line per field.
pub(super) fn changes(version: &Json) -> Vec<String> {
    let changes = version.get("changes").and_then(Json::as_object);
    let changes = changes.into_iter().flatten().map(|(name, change)| {
        let side = |side| change.get(side).map_or("-".to_owned(), Json::to_string);
        format!("    {name}: {} -> {}", side("before"), side("after"))
    });
    changes.collect()
}

/// Returns when, by whom and why an event was erased, if it was.
pub(super) fn erased(event: &Json) -> Option<String> {
    let mark = event.get("erased").filter(|mark| mark.is_object())?;
    let (at, why) = (text(mark, "/at"), text(mark, "/why"));
    let by = who(mark.get("by").unwrap_or(&Json::Null));
    Some(format!("erased at {at} by {by}: {why}"))
}

/// Names an actor: the user, and in brackets the key, the plugin or origin, and on whose behalf.
fn who(actor: &Json) -> String {
    let user = |place: &str| match text(actor, place) {
        "" => "nobody".to_owned(),
        user => user.to_owned(),
    };
    let key = match text(actor, "/key") {
        "none" => "no",
        "master" if text(actor, "/rights") == "user" => "only their rights, master",
        key => key,
    };
    let through = match text(actor, "/plugin") {
        "" => text(actor, "/origin").to_owned(),
        plugin => format!("plugin {plugin}"),
    };
    let behalf = match text(actor, "/on_behalf/point") {
        "" => String::new(),
        point => format!(", for {} through {point}", user("/on_behalf/user")),
    };
    format!("{} ({key} key, {through}{behalf})", user("/user"))
}

fn text<'a>(value: &'a Json, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Json::as_str)
        .unwrap_or_default()
}
