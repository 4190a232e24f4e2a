//! `skytrail erase`: erases data for good.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::remote::{RunningServer, ServerFlag, block_on, set};
use super::{complain, say, show_json};
use crate::config::Config;

/// What to erase. Every command talks to the running server, and none can be undone.
#[derive(Clone, Debug, Subcommand)]
pub enum EraseCommand {
    /// Erases a record: its present state and every earlier one.
    Record(Record),
    /// Erases the content of one event, a version of a record. The record's present state stays.
    Event(Event),
    /// Erases a field of a record, or of all records of a type: its present value and every earlier
    /// one. The versions that had a value lose their other fields, too; the other fields of the
    /// present record stay.
    Field(Field),
    /// Erases a user: their credentials, user record, devices and subscriptions.
    User(User),
    /// Lists the last erasures: what, when, by whom and why.
    List(List),
}

/// See [`EraseCommand::Record`].
#[derive(Clone, Debug, Args)]
pub struct Record {
    /// The record, as type/id.
    record: String,
    /// Keeps its files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// See [`EraseCommand::Event`].
#[derive(Clone, Debug, Args)]
pub struct Event {
    /// The event's position in the log.
    position: u64,
    /// Keeps its files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// See [`EraseCommand::Field`].
#[derive(Clone, Debug, Args)]
pub struct Field {
    /// The record, as type/id; or a type.
    record: String,
    /// The field.
    field: String,
    /// Keeps files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// See [`EraseCommand::User`].
#[derive(Clone, Debug, Args)]
pub struct User {
    /// The user, by id, user name or email address.
    user: String,
    /// Also erases the records that the user owns, and the user's uploads that nothing names.
    #[arg(long)]
    records: bool,
    /// Keeps the user's files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// The arguments of every erasure.
#[derive(Clone, Debug, Args)]
struct Order {
    /// The reason, which is kept in the log.
    #[arg(long)]
    why: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// See [`EraseCommand::List`].
#[derive(Clone, Debug, Args)]
pub struct List {
    /// How many to list.
    #[arg(long, default_value_t = 50)]
    limit: u64,
    /// Only those that were requested before this position: the next page.
    #[arg(long)]
    before: Option<u64>,
    /// Those of a user's records, by the position of the user's erasure; else they are left out.
    #[arg(long)]
    part_of: Option<u64>,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong; also if an erasure is not finished yet, or some
/// records were refused.
pub fn run(config: &Config, command: EraseCommand) -> Result<(), String> {
    match command {
        EraseCommand::Record(Record {
            record,
            keep_files,
            order,
        }) => {
            let body = json!({"record": record, "files": !keep_files});
            erase(config, ("erase:record", body), &order)
        }
        EraseCommand::Event(Event {
            position,
            keep_files,
            order,
        }) => {
            let body = json!({"position": position, "files": !keep_files});
            erase(config, ("erase:event", body), &order)
        }
        EraseCommand::Field(Field {
            record,
            field,
            keep_files,
            order,
        }) => {
            let what = if record.contains('/') {
                "record"
            } else {
                "type"
            };
            let body = json!({what: record, "field": field, "files": !keep_files});
            erase(config, ("erase:field", body), &order)
        }
        EraseCommand::User(User {
            user,
            records,
            keep_files,
            order,
        }) => {
            let body = json!({"user": user, "records": records, "files": !keep_files});
            erase(config, ("erase:user", body), &order)
        }
        EraseCommand::List(list) => {
            let server = RunningServer::find(config, &list.server)?;
            let mut body = json!({"limit": list.limit});
            for (name, position) in [("before", list.before), ("part_of", list.part_of)] {
                if let Some(position) = position {
                    set(&mut body, name, position);
                }
            }
            let listed = block_on(server.call("erase:list", body))?;
            let erasures = listed.get("erasures").and_then(Json::as_array);
            // The standard output is for lines of JSON only, which programs read.
            if erasures.is_none_or(Vec::is_empty) {
                complain(match (list.before, list.part_of) {
                    (Some(_), _) => "no further erasures",
                    (None, Some(_)) => "no erasures",
                    (None, None) => "nothing was erased",
                });
            }
            for erasure in erasures.into_iter().flatten() {
                show_json(&erasure.to_string());
            }
            Ok(())
        }
    }
}

fn erase(config: &Config, (action, mut body): (&str, Json), order: &Order) -> Result<(), String> {
    let server = RunningServer::find(config, &order.server)?;
    set(&mut body, "why", order.why.as_str());
    let erased = block_on(server.call(action, body))?;
    let member = |name: &str| erased.get(name).cloned().unwrap_or_default();
    let refused = member("refused");
    let refused = refused.as_array().map(Vec::as_slice).unwrap_or_default();
    for refused in refused {
        let text = |name: &str| refused.get(name).and_then(Json::as_str).unwrap_or_default();
        let (record, message) = (text("record"), text("message"));
        say(&format!("not erased: {record}: {message}"));
        if let Some(referrer) = refused.get("referred_by").and_then(Json::as_str) {
            say(&format!("  {referrer} refers to it"));
        }
    }
    for name in member("kept_files").as_array().into_iter().flatten() {
        say(&format!(
            "file {name} stays: something else refers to it, or did"
        ));
    }
    for name in member("files").as_array().into_iter().flatten() {
        say(&format!("file {name} is removed"));
    }
    let user = member("user");
    let user = user.as_str();
    if let Some(user) = user {
        say(&format!("the user is {user}"));
    }
    if let (Some(_), Some(records)) = (user, member("num_records").as_u64()) {
        say(&format!(
            "{} erased",
            are(records, "record", " of the user")
        ));
    }
    let events = member("num_events").as_u64().unwrap_or_default();
    let position = member("position");
    if member("finished") == json!(true) {
        let place = match position {
            // There were several erasures; `skytrail erase list` shows them.
            Json::Null => String::new(),
            position => format!(" at {position}"),
        };
        say(&format!(
            "{} erased; the log says so{place}",
            are(events, "event", "")
        ));
        let mut message = match refused.len() {
            0 => return Ok(()),
            1 => "1 record is not erased: it was refused, see above".to_owned(),
            more => format!("{more} records are not erased: they were refused, see above"),
        };
        let is_held = |refused: &Json| refused.get("referred_by").is_some();
        if let Some(user) = user.filter(|_| refused.iter().any(is_held)) {
            message.push_str(&format!(
                "; delete what refers to it, or save it without the reference, and run again \
                 `skytrail erase user {user} --records`"
            ));
        }
        return Err(message);
    }
    Err(format!(
        "not finished yet: {events} events are being erased, see `skytrail erase list`; the server \
         continues, also after a restart"
    ))
}

/// `skytrail compact`: asks the running server to erase what the types' retention lets go.
///
/// # Errors
/// Returns a sentence that says what is wrong; also if it is not finished yet.
pub fn compact(config: &Config, flag: &ServerFlag) -> Result<(), String> {
    let server = RunningServer::find(config, flag)?;
    let done = block_on(server.call("log:compact", json!({})))?;
    let member = |name: &str| done.get(name).cloned().unwrap_or_default();
    say(&format!(
        "{} events and {} files removed; the journal had {} bytes and now has {}",
        member("num_events"),
        member("num_files"),
        member("bytes_before"),
        member("bytes_after")
    ));
    if member("finished") == json!(true) {
        return Ok(());
    }
    Err("not finished yet; the server continues, also after a restart".to_owned())
}

/// Returns the number of things as the beginning of a sentence, with its verb.
fn are(number: u64, what: &str, whose: &str) -> String {
    match number {
        1 => format!("1 {what}{whose} is"),
        more => format!("{more} {what}s{whose} are"),
    }
}
