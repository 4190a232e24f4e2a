//! `skytrail import records`: imports records from a file into a running server, as JSON lines or
//! as a table.
//!
//! A file is read a batch at a time. References to later records are left out at first. If there
//! were any, the file is read a second time, for the records that have them. What already exists
//! here is recognized, so an interrupted import is started again from the beginning.

mod lines;
mod mapping;
mod planned;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Args;
use serde_json::{Value as Json, json};
use skytrail_actors::import::Outcome;
use skytrail_schema::code::Code;
use skytrail_schema::types::FieldType;

use self::lines::{Line, json_lines, rows};
use self::mapping::Mapping;
use self::planned::{Planned, references, type_to_wire};
use super::export::{AUTH_LINE, Format, ROLES_LINE, Schema, schema};
use super::remote::{CallError, RunningServer, ServerFlag, block_on, set};
use crate::config::Config;
use crate::import::Report;

/// The greatest number of records in one request,
const BATCH_RECORDS: usize = 200;
/// and their greatest size together.
const BATCH_BYTES: usize = 1 << 20;
/// The number of records saved at once through the hooks, which may take some time for each.
const SAVED_AT_ONCE: usize = 20;

/// What to import.
#[derive(Clone, Debug, Args)]
pub struct Records {
    /// The file.
    file: PathBuf,
    /// The file's format; by default taken from the ending of its name.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The type of a table's records, and of ids without a type; by default the type is taken from
    /// each id.
    #[arg(long = "type", value_name = "TYPE")]
    record_type: Option<String>,
    /// Maps a column to another field, and optionally to a type: `age=years`, `age=years:integer`;
    /// `age=` leaves the column out. Can be repeated. TYPE is one of string, number, integer,
    /// boolean, datetime, json, asset, location, geometry, ref(TYPE), sequence.
    #[arg(long, value_name = "COLUMN=FIELD[:TYPE]")]
    map: Vec<String>,
    /// Only reports what an import would do.
    #[arg(long)]
    dry_run: bool,
    /// Updates records that exist here already to what the file says, unless its `_updated_at` is
    /// not later than here.
    #[arg(long)]
    update: bool,
    /// Saves the records as clients do, through the hooks; their modification times are those of
    /// the import.
    #[arg(long)]
    hooks: bool,
    /// Writes every record that is not imported, and why, to a file: a JSON object per line. A file
    /// that is not empty is refused.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    server: ServerFlag,
}

/// The error code for a user that already exists.
const DUPLICATED: i64 = 109;

/// Runs the command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: &Records) -> Result<(), String> {
    let server = RunningServer::find(config, &command.server)?;
    let mut report = Report::begin(command.report.as_deref())
        .map_err(|error| format!("the report cannot be written: {error}"))?;
    let done = block_on::<_, String>(async {
        let schema = schema(&server).await?;
        let mut import = Import {
            server: &server,
            command,
            report: &mut report,
            mapping: Rc::new(Mapping::read(command, &schema)?),
            schema,
            planned: Planned::default(),
            incomplete: BTreeSet::new(),
            users: Vec::new(),
        };
        import.go_through(false).await?;
        if !import.incomplete.is_empty() {
            import.go_through(true).await?;
        }
        Ok(())
    });
    super::import::end(done, report, (command.report.as_deref(), command.dry_run))
}

struct Import<'a> {
    server: &'a RunningServer,
    command: &'a Records,
    report: &'a mut Report,
    mapping: Rc<Mapping>,
    /// The types as they were at the start.
    schema: Schema,
    /// What the server would have in addition by now, if this were not a dry run.
    planned: Planned,
    /// The lines of the records that still lack references to later ones.
    incomplete: BTreeSet<u64>,
    /// Users, which are imported after their records.
    users: Vec<(u64, Json)>,
}

impl Import<'_> {
    async fn go_through(&mut self, again: bool) -> Result<(), String> {
        let path = self.command.file.display().to_string();
        let by_name = match self.command.file.extension().and_then(|it| it.to_str()) {
            Some("csv") => Format::Csv,
            _ => Format::Jsonl,
        };
        let file = File::open(&self.command.file).map_err(|error| format!("{path}: {error}"))?;
        let mapping = Rc::clone(&self.mapping);
        let lines: Box<dyn Iterator<Item = Result<Line, String>>> =
            match self.command.format.unwrap_or(by_name) {
                Format::Jsonl if !self.command.map.is_empty() => {
                    return Err(format!("--map is for tables, and {path} has JSON lines"));
                }
                Format::Jsonl => Box::new(json_lines(file)),
                Format::Csv => Box::new(rows(file, mapping)?),
            };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for line in lines {
            let line = line.map_err(|error| format!("{path}: {error}"))?;
            if again && !self.incomplete.contains(&line.number) {
                continue;
            }
            match line.record {
                Ok(record) if record.get("_type").and_then(Json::as_str) == Some("types") => {
                    self.make_types(&record).await?;
                }
                Ok(roles) if roles.get("_type").and_then(Json::as_str) == Some(ROLES_LINE) => {
                    self.bring_roles(line.number, &roles).await?;
                }
                Ok(user) if user.get("_type").and_then(Json::as_str) == Some(AUTH_LINE) => {
                    if !self.command.dry_run {
                        self.users.push((line.number, user));
                    }
                }
                Ok(record) => {
                    bytes += record.to_string().len();
                    batch.push((line.number, self.mapping.complete(record)));
                }
                Err(why) => self.note(line.number, "", &Outcome::Refused(why))?,
            }
            if batch.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES {
                self.bring(std::mem::take(&mut batch), again).await?;
                bytes = 0;
            }
            if self.users.len() >= BATCH_RECORDS {
                // Their records are imported before them, and stay as they are.
                self.bring(std::mem::take(&mut batch), again).await?;
                bytes = 0;
                self.bring_users().await?;
            }
        }
        self.bring(batch, again).await?;
        self.bring_users().await
    }

    /// Imports the roles; existing ones stay as they are.
    async fn bring_roles(&mut self, number: u64, line: &Json) -> Result<(), String> {
        let roles = line.get("roles").cloned().unwrap_or_default();
        if roles.as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let body = json!({"roles": roles, "dry_run": self.command.dry_run});
        let answer = self.server.call("role:import", body).await?;
        for item in answer.as_array().into_iter().flatten() {
            let name = item.get("name").and_then(Json::as_str).unwrap_or_default();
            self.note(number, &format!("role/{name}"), &outcome_of(item))?;
        }
        Ok(())
    }

    /// Imports the users that wait; existing ones stay as they are.
    async fn bring_users(&mut self) -> Result<(), String> {
        let mut users = std::mem::take(&mut self.users);
        if users.is_empty() {
            return Ok(());
        }
        for (_, user) in &mut users {
            if let Some(user) = user.as_object_mut() {
                user.remove("_type");
            }
        }
        let lines: Vec<&Json> = users.iter().map(|(_, user)| user).collect();
        let body = json!({"users": lines});
        let answer = self.server.call("auth:import", body).await?;
        for (item, (number, user)) in answer.as_array().into_iter().flatten().zip(&users) {
            let id = user.get("id").and_then(Json::as_str).unwrap_or_default();
            let outcome = match item.get("code").and_then(Json::as_i64) {
                None => Outcome::Added,
                Some(DUPLICATED) => Outcome::Present,
                Some(_) => {
                    let message = item.get("message").and_then(Json::as_str);
                    Outcome::Refused(message.unwrap_or("refused").to_owned())
                }
            };
            self.note(*number, &format!("{AUTH_LINE}/{id}"), &outcome)?;
        }
        Ok(())
    }

    /// Creates the types of the file's records. A field that refers to a type which is neither here
    /// nor in the file is left out; it is created by the first record that has it.
    async fn make_types(&mut self, line: &Json) -> Result<(), String> {
        let Some(types) = line.get("types").and_then(Json::as_object) else {
            return Ok(());
        };
        let is_there = |kind: &str| match FieldType::from_wire_name(kind) {
            Some(FieldType::Reference(target)) => {
                types.contains_key(target.as_str()) || self.schema.contains_key(target.as_str())
            }
            Some(_) => true,
            None => false,
        };
        let requested = types.iter().map(|(name, fields)| {
            let fields = fields.as_object().into_iter().flatten();
            let fields = fields.filter_map(|(name, kind)| Some((name, kind.as_str()?)));
            let fields = fields.filter(|(_, kind)| is_there(kind));
            let fields = fields.map(|(name, kind)| (name.clone(), kind.to_owned()));
            (name.clone(), fields.collect())
        });
        let requested: Schema = requested.collect();
        self.refuse_conflict(&requested)?;
        if self.command.dry_run {
            self.planned.note_types(&requested);
            return Ok(());
        }
        let requested = requested.iter();
        let requested = requested.map(|(name, fields)| (name, type_to_wire(fields.iter())));
        let body = json!({"record_types": requested.collect::<BTreeMap<_, _>>()});
        self.server.call("schema:create", body).await?;
        Ok(())
    }

    /// Refuses types with a field that has an incompatible type here.
    fn refuse_conflict(&self, requested: &Schema) -> Result<(), String> {
        let fields = requested.iter().flat_map(|(name, fields)| {
            let of_type = fields.iter();
            of_type.map(move |(field, kind)| (name, field, kind))
        });
        for (name, field, kind) in fields {
            let here = self.schema.get(name).and_then(|fields| fields.get(field));
            let Some(here) = here.or_else(|| self.planned.kind(name, field)) else {
                continue;
            };
            let parsed = FieldType::from_wire_name(here).zip(FieldType::from_wire_name(kind));
            if parsed.is_some_and(|(here, kind)| !here.is_compatible(&kind)) {
                return Err(format!(
                    "field {field:?} of type {name:?} is {kind} in the file and {here} here"
                ));
            }
        }
        Ok(())
    }

    /// Imports a batch; if it fails as a whole, it is halved until the wrong record is found.
    async fn bring(&mut self, batch: Vec<(u64, Json)>, again: bool) -> Result<(), String> {
        let mut waiting = vec![batch];
        while let Some(batch) = waiting.pop() {
            let Some((number, _)) = batch.first() else {
                continue;
            };
            match self.ask(&batch, again).await {
                Ok(outcomes) => {
                    for ((number, record), outcome) in batch.iter().zip(outcomes) {
                        // The second pass only notes the records that stay without their
                        // references; the others are counted.
                        let is_left = matches!(outcome, Outcome::Refused(_) | Outcome::Kept(_));
                        if !again || is_left {
                            let id = record.get("_id").and_then(Json::as_str).unwrap_or_default();
                            self.note(*number, id, &outcome)?;
                        }
                    }
                }
                Err(error) if !is_due_to_a_record(&error) => return Err(error.into()),
                Err(error) if batch.len() == 1 => {
                    self.note(*number, "", &Outcome::Refused(error.into()))?;
                }
                Err(_) => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    waiting.extend([second.to_vec(), first.to_vec()]);
                }
            }
        }
        Ok(())
    }

    async fn ask(&mut self, batch: &[(u64, Json)], again: bool) -> Result<Vec<Outcome>, CallError> {
        let records: Vec<&Json> = batch.iter().map(|(_, record)| record).collect();
        let mut body = json!({
            "records": records,
            // The second pass only adds references: of several lines for one record, the last one
            // counts. In a dry run, the first pass has stored nothing.
            "update": self.command.update && (!again || self.command.dry_run),
            "dry_run": self.command.dry_run || self.command.hooks,
            // With the hooks, a record is saved only once.
            "postpone": !again && !self.command.hooks,
        });
        if self.command.dry_run {
            let types = self.planned.to_wire(&self.schema);
            set(&mut body, "record_types", types);
            set(
                &mut body,
                "expected",
                json!(self.planned.expected(&records)),
            );
        } else if self.command.hooks {
            // Whether the targets exist turns out when the records are saved.
            set(&mut body, "expected", json!(references(&records)));
        }
        let answer = self.server.call("record:import", body).await?;
        let items = answer.as_array().into_iter().flatten();
        let mut outcomes: Vec<Outcome> = items.map(outcome_of).collect();
        if self.command.hooks && !self.command.dry_run {
            self.save_imported(batch, &mut outcomes).await?;
        }
        if self.command.dry_run {
            let brought = records.iter().zip(&outcomes);
            let brought = brought.filter(|(_, it)| !matches!(it, Outcome::Refused(_)));
            brought.for_each(|(record, _)| self.planned.note(record));
        }
        let outcomes_of = batch.iter().zip(&outcomes);
        let incomplete = outcomes_of.filter(|(_, it)| matches!(it, Outcome::Incomplete(_)));
        self.incomplete
            .extend(incomplete.map(|((number, _), _)| *number));
        Ok(outcomes)
    }

    /// Saves the records of a batch that would be imported, in their order, and notes which are
    /// refused. Neighbouring records of one owner are saved together.
    async fn save_imported(
        &self,
        batch: &[(u64, Json)],
        outcomes: &mut [Outcome],
    ) -> Result<(), CallError> {
        let records = batch.iter().map(|(_, record)| record).zip(outcomes);
        let mut to_save: Vec<_> = records
            .filter(|(_, outcome)| matches!(outcome, Outcome::Added | Outcome::Updated))
            .collect();
        let runs = to_save.chunk_by_mut(|(one, _), (next, _)| keeper(one) == keeper(next));
        for run in runs.flat_map(|run| run.chunks_mut(SAVED_AT_ONCE)) {
            let records: Vec<&Json> = run.iter().map(|(record, _)| *record).collect();
            let saved = self.save(&records).await?;
            for (item, (_, outcome)) in saved.as_array().into_iter().flatten().zip(run) {
                if item.get("_type").and_then(Json::as_str) == Some("error") {
                    let message = item.get("message").and_then(Json::as_str);
                    **outcome = Outcome::Refused(message.unwrap_or("refused").to_owned());
                }
            }
        }
        Ok(())
    }

    /// Saves records of one owner on the owner's behalf; returns an item for each.
    async fn save(&self, records: &[&Json]) -> Result<Json, CallError> {
        let (owner, database) = records.first().map(|it| keeper(it)).unwrap_or_default();
        let database = database.cloned().unwrap_or_else(|| "_public".into());
        let body = json!({"_user_id": owner, "database_id": database, "records": records});
        self.server.call("record:save", body).await
    }

    fn note(&mut self, number: u64, id: &str, outcome: &Outcome) -> Result<(), String> {
        let name = id.split_once('/').map_or("?", |(name, _)| name);
        let place = format!("line {number} {id}");
        let noted = self.report.note(name, place.trim_end(), outcome);
        noted.map_err(|error| format!("the report cannot be written: {error}"))
    }
}

/// Returns whether a request failed because of one of its records, so that the others can succeed
/// without it.
fn is_due_to_a_record(error: &CallError) -> bool {
    let CallError::Refused { code, .. } = error else {
        return false;
    };
    matches!(
        code,
        Code::InvalidArgument | Code::IncompatibleSchema | Code::BadRequest
    )
}

/// Returns a record's owner and its database.
fn keeper(record: &Json) -> (Option<&Json>, Option<&Json>) {
    let member = |name: &str| record.get(name).filter(|it| !it.is_null());
    (member("_ownerID"), member("_database_id"))
}

fn outcome_of(item: &Json) -> Outcome {
    let text = |name: &str| item.get(name).and_then(Json::as_str).unwrap_or_default();
    let reason = text("reason").to_owned();
    match text("outcome") {
        "added" => Outcome::Added,
        "incomplete" => Outcome::Incomplete(Box::new(match text("became") {
            "updated" => Outcome::Updated,
            "present" => Outcome::Present,
            _ => Outcome::Added,
        })),
        "updated" => Outcome::Updated,
        "present" => Outcome::Present,
        "kept" => Outcome::Kept(reason),
        _ => Outcome::Refused(reason),
    }
}
