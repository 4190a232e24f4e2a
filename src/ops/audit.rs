//! `skytrail audit`: answers who did what, and who was refused access.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use skytrail_schema::json::list;

use super::log_search::moment;
use super::remote::{RunningServer, ServerFlag, block_on, set};
use super::{complain, show, show_json};
use crate::config::Config;

/// A question to the running server.
#[derive(Clone, Debug, Subcommand)]
pub enum AuditCommand {
    /// Shows who could read a record at a given moment, and why.
    WhoCouldRead(WhoCouldRead),
    /// Shows what a user did, and how it changed records.
    Changes(Changes),
    /// Shows who was refused access, how often and why; the latest first.
    Refusals(Refusals),
}

/// See [`AuditCommand::WhoCouldRead`].
#[derive(Clone, Debug, Args)]
pub struct WhoCouldRead {
    /// The record, as type/id.
    record: String,
    /// The moment: right after this position of the log, or at this time (RFC 3339).
    #[arg(long, value_name = "MOMENT")]
    at: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlag,
}

/// See [`AuditCommand::Changes`].
#[derive(Clone, Debug, Args)]
pub struct Changes {
    /// The user, by id, user name or email address.
    #[arg(long)]
    user: String,
    /// From this position of the log on, or from this time on (RFC 3339).
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Up to this position, or up to this time.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
    /// Prints one JSON object per act.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlag,
}

/// See [`AuditCommand::Refusals`].
#[derive(Clone, Debug, Args)]
pub struct Refusals {
    /// Shows refusals of this account only, by id.
    #[arg(long)]
    user: Option<String>,
    /// From this time on (RFC 3339).
    #[arg(long)]
    from: Option<String>,
    /// Up to this time.
    #[arg(long)]
    to: Option<String>,
    /// Prints one JSON object per row.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerFlag,
}

#[derive(Deserialize)]
struct Page {
    #[serde(deserialize_with = "list")]
    result: Vec<Json>,
    info: Option<Info>,
}

#[derive(Deserialize)]
struct Info {
    next: Option<u64>,
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: AuditCommand) -> Result<(), String> {
    match command {
        AuditCommand::WhoCouldRead(command) => {
            let server = RunningServer::find(config, &command.server)?;
            block_on(who_could_read(&server, &command))
        }
        AuditCommand::Changes(command) => {
            let server = RunningServer::find(config, &command.server)?;
            block_on(changes(&server, &command))
        }
        AuditCommand::Refusals(command) => {
            let server = RunningServer::find(config, &command.server)?;
            block_on(refusals(&server, &command))
        }
    }
}

async fn who_could_read(server: &RunningServer, command: &WhoCouldRead) -> Result<(), String> {
    let body = json!({"record": command.record, "at": moment(&command.at)});
    let found = server.call("audit:readers", body).await?;
    if command.json {
        show_json(&found.to_string());
    } else {
        readers(&found).iter().for_each(|line| show(line));
    }
    Ok(())
}

/// Formats who could read a record, one line per reader.
fn readers(found: &Json) -> Vec<String> {
    let list = |name: &str| {
        found
            .get(name)
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
    };
    let is_true = |name: &str| found.get(name) == Some(&Json::Bool(true));
    let record = text(found, "/record");
    let position = found.get("position").unwrap_or(&Json::Null);
    if found.get("exists").is_none_or(Json::is_null) {
        let erased = super::history::erased(found);
        let erased = erased.unwrap_or_else(|| "it was erased".to_owned());
        return vec![format!(
            "{record} at position {position}: unknown: {erased}"
        )];
    }
    if !is_true("exists") {
        return vec![format!(
            "{record} did not exist at position {position}: nobody"
        )];
    }
    let mut lines = vec![format!("{record} at position {position} could be read by")];
    if let Some(everyone) = found.get("everyone").filter(|it| !it.is_null()) {
        let hidden = hidden(everyone);
        lines.push(format!("  everyone: {}{hidden}", text(everyone, "/reason")));
    }
    for (name, how) in [("users", ""), ("locked_out", ", if not locked out")] {
        for reader in list(name) {
            let reasons = reader.get("reasons").and_then(Json::as_array);
            let reasons = reasons.into_iter().flatten().filter_map(Json::as_str);
            let reasons: Vec<&str> = reasons.collect();
            let (user, reasons) = (text(reader, "/user"), reasons.join(", "));
            lines.push(format!("  user {user}: {reasons}{how}{}", hidden(reader)));
        }
    }
    for user in list("administrators") {
        let user = user.as_str().unwrap_or_default();
        lines.push(format!("  user {user}: administrator, as a past version"));
    }
    lines.push("  anyone with the master key".to_owned());
    if !is_true("is_complete") {
        lines.push("  and perhaps others: not all users at that time are known".to_owned());
    }
    lines
}

fn hidden(reader: &Json) -> String {
    let fields = reader.get("hidden").and_then(Json::as_array);
    let fields = fields.into_iter().flatten().filter_map(Json::as_str);
    let fields: Vec<&str> = fields.collect();
    if fields.is_empty() {
        String::new()
    } else {
        format!(" (without {})", fields.join(", "))
    }
}

async fn changes(server: &RunningServer, command: &Changes) -> Result<(), String> {
    let mut body = json!({
        "user": command.user,
        "since": command.from.as_deref().map(moment),
        "until": command.to.as_deref().map(moment),
    });
    let mut is_none = true;
    loop {
        let page: Page = server.call_for("audit:changes", &body).await?;
        is_none &= page.result.is_empty();
        for act in &page.result {
            if command.json {
                show_json(&act.to_string());
                continue;
            }
            let lines = [super::log::lines(act), super::history::changes(act)];
            lines.concat().iter().for_each(|line| show(line));
        }
        let Some(next) = page.info.and_then(|info| info.next) else {
            break;
        };
        set(&mut body, "from", next);
    }
    if is_none {
        let user = &command.user;
        let is_part = command.from.is_some() || command.to.is_some();
        let part = if is_part {
            "this part of the log"
        } else {
            "the log"
        };
        // Not among the acts: these are read by programs.
        complain(&format!(
            "{part} has no entries by {user:?}: is this a user's id, name or email address?"
        ));
    }
    Ok(())
}

fn text<'a>(value: &'a Json, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Json::as_str);
    found.unwrap_or_default()
}

async fn refusals(server: &RunningServer, command: &Refusals) -> Result<(), String> {
    let mut body = json!({"user": command.user, "since": command.from, "until": command.to});
    let mut is_none = true;
    loop {
        let page: Page = server.call_for("audit:refusals", &body).await?;
        is_none &= page.result.is_empty();
        for row in &page.result {
            if command.json {
                show_json(&row.to_string());
            } else {
                show(&line(row));
            }
        }
        let Some(next) = page.info.and_then(|info| info.next) else {
            break;
        };
        set(&mut body, "before", next);
    }
    if is_none && !command.json {
        show("nobody was refused");
    }
    Ok(())
}

fn line(row: &Json) -> String {
    let text = |name: &str| row.get(name).and_then(Json::as_str).unwrap_or("-");
    let count = row.get("count").and_then(Json::as_u64).unwrap_or_default();
    let (minute, user) = (text("minute"), text("user"));
    format!(
        "{minute}  {count:>6}  {}  {}  {user}",
        text("reason"),
        text("way")
    )
}
