//! Record events as rows of a type's table.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{ChangeStamp, Event, RecordPatch, RecordState};
use skytrail_schema::id::{RecordKey, UserId};

use crate::projection::dialect::Dialect;
use crate::projection::layout::{SYSTEM_COLUMNS, Table};
use crate::projection::sql::Arg;
use crate::projection::value::{Cell, encode_wire};

/// The indices of system columns in a whole row, in the order of [`SYSTEM_COLUMNS`].
pub(super) mod place {
    pub(crate) const POSITION: usize = 2;
    pub(crate) const VERSION: usize = 3;
    pub(crate) const ACCESS: usize = 6;
    pub(crate) const UPDATED_AT: usize = 9;
    pub(crate) const UPDATER: usize = 10;
}

/// The final effect of a batch on one record.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Pending {
    /// It has this row.
    Whole {
        /// All columns, in the table's order.
        row: Vec<Arg>,
        /// Whether the row gets its own place, even if the record had a row.
        is_new: bool,
    },
    /// These columns change, by their indices in the row.
    Patch(BTreeMap<usize, Arg>),
    /// It is deleted.
    Gone {
        /// Whether its row must have existed before the batch.
        is_counted: bool,
        /// The position of the event that deleted it.
        position: u64,
    },
}

/// A field whose value does not fit, or that the type does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FieldMismatch(pub(super) String);

/// Builds the whole row of a full state.
pub(super) fn whole_row(
    table: &Table,
    key: &RecordKey,
    event: &Event,
    state: &RecordState,
) -> (Vec<Arg>, Vec<FieldMismatch>) {
    let created = state.creation();
    let mut row = Vec::with_capacity(table.width());
    row.extend([
        Arg::unsigned(event.position),
        Arg::text(key.as_str()),
        Arg::unsigned(event.position),
        Arg::Int(event.version.into()),
        Arg::text(state.database.as_ref().map_or("", UserId::as_str)),
        match &state.owner {
            Some(owner) => Arg::text(owner.as_str()),
            None => table.dialect.nobody(),
        },
        access(state.access.as_ref()),
        Arg::Time(created.at),
        user(table.dialect, created.by.as_ref(), state.owner.as_ref()),
        Arg::Time(state.updated.at),
        user(
            table.dialect,
            state.updated.by.as_ref(),
            state.owner.as_ref(),
        ),
    ]);
    debug_assert_eq!(row.len(), SYSTEM_COLUMNS.len());
    row.resize(table.width(), Arg::Null);
    let mut misfits = Vec::new();
    for (field, wire) in &state.fields {
        match cells(table, field, wire) {
            Ok(cells) => set_cells(&mut row, cells),
            Err(misfit) => misfits.push(misfit),
        }
    }
    (row, misfits)
}

/// Builds the changes of a patch.
pub(super) fn patch_row(
    table: &Table,
    event: &Event,
    patch: &RecordPatch,
) -> (BTreeMap<usize, Arg>, Vec<FieldMismatch>) {
    let ChangeStamp { at, by } = &patch.updated;
    let mut changes = BTreeMap::from([
        (place::POSITION, Arg::unsigned(event.position)),
        (place::VERSION, Arg::Int(event.version.into())),
        (place::UPDATED_AT, Arg::Time(*at)),
        (place::UPDATER, user(table.dialect, by.as_ref(), None)),
    ]);
    if let Some(acl) = &patch.access {
        changes.insert(place::ACCESS, access(Some(acl)));
    }
    let mut misfits = Vec::new();
    let unset = patch.unset.iter().map(|field| (field, &Json::Null));
    // Null in `set` has no effect, as in the fold.
    let set = patch.set.iter().filter(|(_, wire)| !wire.is_null());
    for (field, wire) in unset.chain(set) {
        match cells(table, field, wire) {
            Ok(cells) => changes.extend(cells),
            Err(misfit) => misfits.push(misfit),
        }
    }
    (changes, misfits)
}

/// Applies later changes to a row.
pub(super) fn set_cells(row: &mut [Arg], cells: impl IntoIterator<Item = (usize, Arg)>) {
    for (place, arg) in cells {
        if let Some(slot) = row.get_mut(place) {
            *slot = arg;
        }
    }
}

type Cells =
    std::iter::Chain<std::option::IntoIter<(usize, Arg)>, std::option::IntoIter<(usize, Arg)>>;

fn cells(table: &Table, field: &str, wire: &Json) -> Result<Cells, FieldMismatch> {
    let Some((place, column)) = table.place(field) else {
        return Err(FieldMismatch(format!("no field {field:?}")));
    };
    let Cell { main, companion } = encode_wire(&column.kind, wire)
        .ok_or_else(|| FieldMismatch(format!("field {field:?} has no valid {}", column.kind)))?;
    let companion = column.companion.is_some().then_some((place + 1, companion));
    Ok(Some((place, main)).into_iter().chain(companion))
}

/// Returns who created or changed a record, as its table stores it: in SQLite NULL for the owner.
fn user(dialect: Dialect, user: Option<&UserId>, owner: Option<&UserId>) -> Arg {
    match dialect {
        Dialect::Postgres(_) => Arg::maybe(user.map(UserId::as_str)),
        Dialect::Sqlite if user.is_some() && user == owner => Arg::Null,
        Dialect::Sqlite => Arg::text(user.map_or("", UserId::as_str)),
    }
}

fn access(acl: Option<&Acl>) -> Arg {
    // Every member of an access list can be serialized.
    acl.and_then(|acl| serde_json::to_string(acl).ok())
        .map_or(Arg::Null, Arg::Json)
}
