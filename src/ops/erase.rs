//! `skytrail erase`: having things forgotten for good.

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use super::remote::{RunningServer, ServerFlag, block_on};
use super::{complain, say, show};
use crate::config::Config;

/// What to erase. All of it talks to the running server, and none of it can be taken back.
#[derive(Clone, Debug, Subcommand)]
pub enum EraseCommand {
    /// Erases a record: what it is, and everything that it ever was.
    Record(Record),
    /// Erases one event, a version of a record: what it held. What the record is now stays.
    Event(Event),
    /// Erases a field of a record, or of all records of a type: its value, and every one that it ever
    /// had. The versions that had one lose the other fields, too; what the record is now stays.
    Field(Field),
    /// Erases a user: how he signs in, his user record, his devices and what they subscribed to.
    User(User),
    /// Lists the last erasures: what, when, by whom and why.
    List(List),
}

/// See [`EraseCommand::Record`].
#[derive(Clone, Debug, Args)]
pub struct Record {
    /// The record, as type/id.
    record: String,
    /// Leaves its files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// See [`EraseCommand::Event`].
#[derive(Clone, Debug, Args)]
pub struct Event {
    /// Its position in the log.
    position: u64,
    /// Leaves its files, also those that nothing else names.
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
    /// Leaves files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// See [`EraseCommand::User`].
#[derive(Clone, Debug, Args)]
pub struct User {
    /// The user, by id, user name or mail address.
    user: String,
    /// The records that he owns, too.
    #[arg(long)]
    records: bool,
    /// Leaves his files, also those that nothing else names.
    #[arg(long)]
    keep_files: bool,
    #[command(flatten)]
    order: Order,
}

/// What every erasure needs.
#[derive(Clone, Debug, Args)]
struct Order {
    /// Why; the log says so from then on.
    #[arg(long)]
    why: String,
    #[command(flatten)]
    server: ServerFlag,
}

/// See [`EraseCommand::List`].
#[derive(Clone, Debug, Args)]
pub struct List {
    /// How many.
    #[arg(long, default_value_t = 50)]
    limit: u64,
    #[command(flatten)]
    server: ServerFlag,
}

/// Runs a command.
///
/// # Errors
/// A sentence that says what is wrong; also when an erasure is not finished yet, or some records were
/// refused.
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
            let body = members(json!({"limit": list.limit}));
            let listed = block_on(server.call("erase:list", body))?;
            let erasures = listed.get("erasures").and_then(Json::as_array);
            // Lines of JSON are for programs, too.
            if erasures.is_none_or(Vec::is_empty) {
                complain("nothing was erased");
            }
            for erasure in erasures.into_iter().flatten() {
                show(&erasure.to_string());
            }
            Ok(())
        }
    }
}

fn erase(config: &Config, (action, body): (&str, Json), order: &Order) -> Result<(), String> {
    let server = RunningServer::find(config, &order.server)?;
    let mut body = members(body);
    body.insert("why".to_owned(), order.why.as_str().into());
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
            "file {name} stays: something else names it, or did"
        ));
    }
    for name in member("files").as_array().into_iter().flatten() {
        say(&format!("file {name} goes"));
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
            // Several erasures; the list has them.
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
                "; delete what refers to it, or save that without the reference, and say again \
                 `skytrail erase user {user} --records`"
            ));
        }
        return Err(message);
    }
    Err(format!(
        "not finished yet: {events} events are being erased, see `skytrail erase list`; the server \
         goes on with it, also after a restart"
    ))
}

/// `skytrail compact`: has the running server erase what the types' retention lets go.
///
/// # Errors
/// A sentence that says what is wrong; also when it is not finished yet.
pub fn compact(config: &Config, flag: &ServerFlag) -> Result<(), String> {
    let server = RunningServer::find(config, flag)?;
    let done = block_on(server.call("log:compact", Map::new()))?;
    let member = |name: &str| done.get(name).cloned().unwrap_or_default();
    say(&format!(
        "{} events let go, with {} files; the journal had {} bytes and has {}",
        member("num_events"),
        member("num_files"),
        member("bytes_before"),
        member("bytes_after")
    ));
    if member("finished") == json!(true) {
        return Ok(());
    }
    Err("not finished yet; the server goes on with it, also after a restart".to_owned())
}

/// Says how many there are, up to what becomes of them.
fn are(number: u64, what: &str, whose: &str) -> String {
    match number {
        1 => format!("1 {what}{whose} is"),
        more => format!("{more} {what}s{whose} are"),
    }
}

fn members(body: Json) -> Map<String, Json> {
    match body {
        Json::Object(members) => members,
        _ => Map::new(),
    }
}
