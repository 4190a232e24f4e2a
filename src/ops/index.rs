//! `skytrail index`: shows the record store's indexes, and sets which ones to have.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use skytrail_schema::id::TypeName;

use super::{say, show};
use crate::causes::with_causes;
use crate::config::Config;
use crate::projection::index::{
    IndexColumn, IndexEntry, IndexState, IndexWish, StorePlace, list_fields, list_indexes,
    set_index,
};
use crate::projection::{OpenError, is_shared};
use crate::record_store::moved;

/// What to do. The server creates and drops indexes by itself; every command works while it runs.
#[derive(Clone, Debug, Subcommand)]
pub enum IndexCommand {
    /// Lists the indexes, their uses and sizes, and why they exist.
    List,
    /// Asks for an index, whether queries need it or not.
    Declare(IndexSelector),
    /// Forbids an index; drops it if it exists.
    Forbid(IndexSelector),
    /// Keeps an index even if no query uses it any more; creates it if it does not exist.
    Pin(IndexSelector),
    /// Lets the server decide about an index again.
    Free(IndexSelector),
}

/// Selects an index.
#[derive(Clone, Debug, Args)]
pub struct IndexSelector {
    /// The record type.
    record_type: String,
    /// Its fields in the index's order, such as `_created_at`; append `:desc` for descending order.
    #[arg(required = true)]
    fields: Vec<String>,
}

impl IndexSelector {
    fn entry(&self, why: &str) -> IndexEntry {
        let columns = self.fields.iter().map(|field| {
            let name = field.strip_suffix(":desc").unwrap_or(field);
            // The same alias as in the paths of queries.
            let column = if name == "_owner" { "_owner_id" } else { name };
            IndexColumn {
                is_descending: field.ends_with(":desc"),
                ..IndexColumn::ascending(column)
            }
        });
        let name = TypeName::from(self.record_type.as_str());
        IndexEntry {
            why: why.to_owned(),
            ..IndexEntry::new(name, columns.collect())
        }
    }
}

/// Runs a command.
///
/// # Errors
/// Returns a sentence that says what is wrong.
pub fn run(config: &Config, command: IndexCommand) -> Result<(), String> {
    config.check_data_dir().map_err(|error| error.to_string())?;
    let config = &moved::with_moved_store(config).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let path = config.store_path();
    let (place, called) = match &config.database {
        Some(database) => {
            let (url, app) = (database.url.reveal(), config.app.name.as_str());
            (StorePlace::Server { url, app }, "DATABASE_URL".to_owned())
        }
        None if path.exists() => (StorePlace::File(&path), path.display().to_string()),
        None => return Err(format!("no record store in {}", config.data_dir.display())),
    };
    let failed = |error: OpenError| format!("{called}: {}", with_causes(&error));
    let order = requested_entry(&command);
    let is_order = order.is_some();
    let done = runtime.block_on(async {
        let Some(requested) = order else {
            return list_indexes(place).await.map_err(failed);
        };
        let existing = list_indexes(place).await.map_err(failed)?;
        let exists = existing
            .iter()
            .any(|entry| entry.is_on(&requested.record_type, &requested.columns));
        match &command {
            // A wish about fields that are gone can still be withdrawn.
            IndexCommand::Free(_) | IndexCommand::Forbid(_) if exists => {}
            IndexCommand::Free(_) => return Err(unknown(&requested, &existing)),
            _ => check(&requested, &list_fields(place).await.map_err(failed)?)?,
        }
        let entry = set_index(place, requested).await;
        entry.map(|entry| vec![entry]).map_err(failed)
    });
    let entries = done?;
    if entries.is_empty() {
        show("no query has needed an index yet, and none was requested");
    }
    let tell = if is_order { say } else { show };
    entries.iter().for_each(|entry| tell(&describe(entry)));
    Ok(())
}

/// Returns an error that lists the known indexes of the type.
fn unknown(requested: &IndexEntry, existing: &[IndexEntry]) -> String {
    let name = &requested.record_type;
    let of_type = existing.iter().filter(|entry| entry.record_type == *name);
    let others: Vec<String> = of_type.map(IndexEntry::column_list).collect();
    let others = match others.as_slice() {
        [] => "nothing".to_owned(),
        others => others.join(", "),
    };
    format!(
        "{name} has no index on {}; it has one on {others}",
        requested.column_list()
    )
}

/// Refuses an index over a type or field that does not exist: it would never be built.
fn check(requested: &IndexEntry, types: &BTreeMap<TypeName, Vec<String>>) -> Result<(), String> {
    let name = &requested.record_type;
    let fields = types.get(name);
    let fields = fields.ok_or_else(|| format!("there is no type {:?}", name.as_str()))?;
    let is_there =
        |column: &IndexColumn| is_shared(&column.field) || fields.contains(&column.field);
    match requested.columns.iter().find(|column| !is_there(column)) {
        None => Ok(()),
        Some(column) => Err(format!(
            "{name} has no field {:?}; it has {}",
            column.field,
            fields.join(", ")
        )),
    }
}

/// Returns what the command asks of an index; `None` for the list.
fn requested_entry(command: &IndexCommand) -> Option<IndexEntry> {
    Some(match command {
        IndexCommand::List => return None,
        IndexCommand::Declare(on) => IndexEntry {
            wish: IndexWish::Declared,
            state: IndexState::Wanted,
            ..on.entry("declared")
        },
        IndexCommand::Forbid(on) => IndexEntry {
            wish: IndexWish::Forbidden,
            ..on.entry("forbidden")
        },
        IndexCommand::Pin(on) => IndexEntry {
            is_pinned: true,
            state: IndexState::Wanted,
            ..on.entry("pinned")
        },
        IndexCommand::Free(on) => on.entry("left to the server"),
    })
}

fn describe(entry: &IndexEntry) -> String {
    let on = format!("{} {}", entry.record_type, entry.column_list());
    let state = match (entry.state, entry.wish) {
        (IndexState::Built, IndexWish::Forbidden) => "to be dropped, forbidden",
        (_, IndexWish::Forbidden) => "forbidden",
        (IndexState::Built, _) if entry.has_past => "built, also over the past",
        (IndexState::Built, _) => "built",
        (IndexState::Wanted, _) => "to be built",
        (IndexState::None, _) => "not built",
    };
    let wish = match (entry.wish, entry.is_pinned) {
        (IndexWish::Declared, _) => ", declared",
        (IndexWish::Forbidden, _) => "",
        (IndexWish::Auto, true) => ", pinned",
        (IndexWish::Auto, false) => "",
    };
    let last = entry.last_used_at.map(|time| format!(", last at {time}"));
    format!(
        "{on:<40} {state}{wish}; {} uses{}; {} KiB; {}",
        entry.num_uses,
        last.unwrap_or_default(),
        entry.num_bytes.div_ceil(1024),
        entry.why
    )
}
