//! `skytrail export`: exports records of a running server as JSON lines or as a table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use skytrail_schema::id::TypeName;
use skytrail_schema::json;

use super::log_search::moment as at;
use super::partial::Partial;
use super::remote::{RunningServer, ServerFlag, block_on, set};
use super::unwritten;
use crate::config::Config;
use crate::import::table;
use crate::spreadsheet;

/// What to export.
#[derive(Clone, Debug, Args)]
pub struct ExportCommand {
    /// The types; defaults to all of them. A table has exactly one.
    types: Vec<String>,
    /// Exports the records as they were right after this position of the log, or at this time (RFC
    /// 3339); defaults to when the export begins.
    #[arg(long)]
    as_of: Option<String>,
    /// Exports only records that match this predicate, in the form of `record:query` (JSON).
    #[arg(long, value_name = "JSON")]
    predicate: Option<String>,
    /// Also exports the roles, and the users of records of type user: their roles, accounts
    /// elsewhere and locks. They are as of now, so this excludes --as-of. JSON lines only.
    #[arg(long, conflicts_with = "as_of")]
    users: bool,
    /// Includes the users' password hashes, and those of earlier passwords that must not be used
    /// again. Such a file is a secret: passwords can be guessed from it.
    #[arg(long, requires = "users")]
    password_hashes: bool,
    /// The output format.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The file to write to, which must not exist yet; defaults to the standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerFlag,
}

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A JSON object per line.
    #[default]
    Jsonl,
    /// A table of comma-separated values (RFC 4180), with the fields' names in its first row.
    Csv,
}

/// Marks a user's line.
pub(super) const AUTH_LINE: &str = "auth";
/// Marks the line with the roles.
pub(super) const ROLES_LINE: &str = "roles";

/// The members of a record other than its fields, in the order of a table's columns.
pub(super) const SYSTEM: [&str; 8] = [
    "_id",
    "_database_id",
    "_ownerID",
    "_access",
    "_created_at",
    "_created_by",
    "_updated_at",
    "_updated_by",
];

/// The types of fields, by record type and field name.
pub(super) type Schema = BTreeMap<String, BTreeMap<String, String>>;

/// The answer of `record:export`.
#[derive(Debug, Deserialize)]
struct Page {
    #[serde(deserialize_with = "json::list")]
    result: Vec<Json>,
    info: PageInfo,
}

#[derive(Debug, Deserialize)]
struct PageInfo {
    position: u64,
    /// The fields that the type had then; none if the type did not exist.
    fields: Option<BTreeMap<String, String>>,
    next: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &ExportCommand) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    block_on(export(&server, command))
}

async fn export(server: &RunningServer, command: &ExportCommand) -> Result<(), String> {
    let schema = schema(server).await?;
    let types = match command.types.as_slice() {
        [] => schema.keys().cloned().collect(),
        named => named.to_vec(),
    };
    if command.format == Format::Csv && types.len() != 1 {
        return Err("a table holds records of one type: name it".to_owned());
    }
    if command.users && command.format == Format::Csv {
        return Err("a table holds no users: use --users with JSON lines".to_owned());
    }
    if command.users && !types.iter().any(|name| name == TypeName::USER) {
        return Err("users are exported with records of type user: name it, too".to_owned());
    }
    let unknown = types.iter().find(|name| !schema.contains_key(*name));
    if let Some(name) = unknown {
        return Err(format!("there is no type {name:?}"));
    }
    let exported = exported(server, command, &types).await?;
    let Some(path) = &command.output else {
        return write(server, command, exported, io::stdout()).await;
    };
    let partial = Partial::begin(path, &[""])?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(partial.path());
    let file = file.map_err(|error| format!("{}: {error}", path.display()))?;
    write(server, command, exported, file).await?;
    partial.finish()
}

/// Asks for the fields that types had at the requested moment. Also returns that moment, unless
/// there were no types to ask for. A type that did not exist then is left out unless it was named.
async fn exported(
    server: &RunningServer,
    command: &ExportCommand,
    types: &[String],
) -> Result<(Schema, Option<Json>), String> {
    let mut moment = command.as_of.as_deref().map(at);
    let mut exported = Schema::new();
    for name in types {
        let body = json!({"record_type": name, "limit": 1, "as_of": moment});
        let page: Page = server.call_for("record:export", body).await?;
        let position = page.info.position;
        // Everything that follows is of the same moment.
        moment = Some(position.into());
        match page.info.fields {
            Some(fields) => {
                exported.insert(name.clone(), fields);
            }
            None if command.types.is_empty() => {}
            None => {
                let as_of = command.as_of.as_deref();
                let moment = as_of.map_or_else(|| position.to_string(), str::to_owned);
                return Err(format!("there was no type {name:?} at {moment}"));
            }
        }
    }
    Ok((exported, moment))
}

/// Writes the records of some types, with their types, roles and users.
async fn write(
    server: &RunningServer,
    command: &ExportCommand,
    (exported, moment): (Schema, Option<Json>),
    out: impl Write,
) -> Result<(), String> {
    let mut out = BufWriter::new(out);
    if command.format == Format::Jsonl {
        let line = json!({"_type": "types", "types": exported});
        writeln!(out, "{line}").map_err(|error| unwritten(&error))?;
    }
    if command.users {
        let roles = server.call("role:export", json!({})).await?;
        let line = json!({"_type": ROLES_LINE, "roles": roles});
        writeln!(out, "{line}").map_err(|error| unwritten(&error))?;
    }
    for (name, fields) in &exported {
        let writer = Writer {
            format: command.format,
            fields,
        };
        writer.begin(&mut out).map_err(|error| unwritten(&error))?;
        let mut after = Json::Null;
        loop {
            let mut body = json!({"record_type": name, "after": after, "as_of": moment});
            if let Some(predicate) = &command.predicate {
                let predicate: Json =
                    json::from_str(predicate).map_err(|error| format!("--predicate: {error}"))?;
                set(&mut body, "predicate", predicate);
            }
            let page: Page = server.call_for("record:export", body).await?;
            for record in &page.result {
                let written = writer.write(&mut out, record);
                written.map_err(|error| unwritten(&error))?;
            }
            if command.users && name == TypeName::USER {
                for user in users_of(server, &page.result, command.password_hashes).await? {
                    writeln!(out, "{user}").map_err(|error| unwritten(&error))?;
                }
            }
            let Some(next) = page.info.next else { break };
            after = next.into();
        }
    }
    out.flush().map_err(|error| unwritten(&error))
}

/// Asks for the users of these records, and returns them as lines of their own.
async fn users_of(
    server: &RunningServer,
    records: &[Json],
    has_hashes: bool,
) -> Result<Vec<Json>, String> {
    // A record of this type in a private database is not a user's profile.
    let public = records.iter();
    let public = public.filter(|record| record.get("_database_id").is_none());
    let id = |record: &Json| {
        let id = record.get("_id").and_then(Json::as_str);
        id.and_then(|id| id.strip_prefix("user/")).map(Json::from)
    };
    let ids: Vec<Json> = public.filter_map(id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let body = json!({"ids": ids, "password_hashes": has_hashes});
    let users = server.call("auth:export", body).await?;
    let users = users.as_array().into_iter().flatten().cloned();
    let as_line = |mut user: Json| {
        if let Some(user) = user.as_object_mut() {
            user.insert("_type".to_owned(), AUTH_LINE.into());
        }
        user
    };
    Ok(users.map(as_line).collect())
}

/// Asks for the fields of all types.
pub(super) async fn schema(server: &RunningServer) -> Result<Schema, String> {
    let answer = server.call("schema:fetch", json!({})).await?;
    let types = answer.get("record_types").and_then(Json::as_object);
    let fields = |about: &Json| {
        let fields = about.get("fields").and_then(Json::as_array);
        let fields = fields.into_iter().flatten().filter_map(|field| {
            let text = |name: &str| field.get(name).and_then(Json::as_str).map(str::to_owned);
            Some((text("name")?, text("type")?))
        });
        fields.collect()
    };
    let types = types.into_iter().flatten();
    Ok(types
        .map(|(name, about)| (name.clone(), fields(about)))
        .collect())
}

struct Writer<'a> {
    format: Format,
    fields: &'a BTreeMap<String, String>,
}

impl Writer<'_> {
    fn begin(&self, out: &mut impl Write) -> io::Result<()> {
        match self.format {
            Format::Jsonl => Ok(()),
            Format::Csv => out.write_all(spreadsheet::row(self.names()).as_bytes()),
        }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let fields = self.fields.keys().map(String::as_str);
        SYSTEM.into_iter().chain(fields)
    }

    fn write(&self, out: &mut impl Write, record: &Json) -> io::Result<()> {
        match self.format {
            Format::Jsonl => writeln!(out, "{record}"),
            Format::Csv => {
                let cell = |name| record.get(name).map(table::cell).unwrap_or_default();
                out.write_all(spreadsheet::row(self.names().map(cell)).as_bytes())
            }
        }
    }
}
