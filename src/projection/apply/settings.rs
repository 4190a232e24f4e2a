//! Applies events that are not about records: types, roles, users, relations.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::projection::conn::Conn;
use skytrail_actors::record::apply as fold;
use skytrail_schema::event::{
    ErasureRequest, Event, EventBody, RelationTarget, RoleFlags, TypeExtension, UserState,
};
use skytrail_schema::id::{RoleName, TypeName, UserId};
use skytrail_schema::predicate::Relation;
use skytrail_schema::types::{FieldType, TypeDefinition};

use super::lost_streams::LostStreams;
use super::{ApplyError, fields, links, room};
use crate::projection::accounts;
use crate::projection::captured::{self, Touched};
use crate::projection::ddl;
use crate::projection::layout::{Catalog, Column, TypeLayout};
use crate::projection::numbered::{self, NumberOrder};
use crate::projection::sql::{Arg, Sql};

/// What is known of records, in addition to the rows of their table.
#[derive(Clone, Copy)]
pub(super) struct Population<'a> {
    /// Those whose creation has been erased.
    pub(super) lost: &'a LostStreams,
    /// The rows that the batch has written.
    pub(super) touched: &'a Touched,
}

/// Changes a type: its definition, table, columns and indexes.
pub(super) async fn change_type(
    conn: &mut Conn<'_>,
    catalog: &mut Catalog,
    indexing: Indexing,
    population: Population<'_>,
    (name, event): (&TypeName, &Event),
) -> Result<(), ApplyError> {
    let before = catalog.get(name).cloned();
    let old = before.as_ref().map(|layout| Arc::clone(&layout.definition));
    let old = old.unwrap_or_else(|| Arc::new(TypeDefinition::empty(name.clone())));
    let definition = fold::record_type(&old, event);
    if fold::reshapes(&event.body) && definition.fields != old.fields {
        return fields::change(conn, catalog, indexing, (definition, &event.body)).await;
    }
    let (layout, num_old) = catalog.change(definition);
    let had_past = before
        .as_ref()
        .is_some_and(|before| before.past().is_some());
    let had_table = before.is_some_and(|before| before.table.is_some());
    match &layout.table {
        Some(table) if had_table => {
            let new_columns = table.columns.iter().skip(num_old);
            room::make_room(conn, table, new_columns.flat_map(Column::names)).await?;
        }
        Some(table) => room::make_room_for_table(conn, table).await?,
        None => {}
    }
    let texts = ddl::table(&layout, num_old, !had_table).into_iter();
    for text in texts.chain(ddl::past(&layout, num_old, had_past)) {
        text.execute(conn, Vec::new()).await?;
    }
    if let EventBody::TypeExtended(extension) = &event.body {
        let numbers = (extension, event.position);
        number_new_sequences(conn, (&layout, num_old), numbers, population).await?;
        for (field, last) in &extension.counters {
            raise_sequence(conn, layout.id, field, *last).await?;
        }
    }
    if indexing == Indexing::AtOnce {
        let is_gone = |set: &&Vec<String>| !layout.definition.unique.contains(set);
        for set in old.unique.iter().filter(is_gone) {
            if let Some(text) = ddl::drop_unique_index(&layout, set) {
                text.execute(conn, Vec::new()).await?;
            }
        }
        for text in ddl::indexes(&layout) {
            text.execute(conn, Vec::new()).await?;
        }
    }
    save_type(conn, &layout).await
}

/// When indexes of new columns are created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::projection) enum Indexing {
    /// Together with the column.
    #[default]
    AtOnce,
    /// By the caller, once all rows exist, which is faster.
    Later,
}

/// Numbers the existing rows in columns of new sequence fields, and keeps the numbers.
async fn number_new_sequences(
    conn: &mut Conn<'_>,
    (layout, num_old): (&TypeLayout, usize),
    (extension, position): (&TypeExtension, u64),
    population: Population<'_>,
) -> Result<(), ApplyError> {
    let Some(table) = &layout.table else {
        return Ok(());
    };
    let new = table.columns.iter().skip(num_old);
    let new = new.filter(|column| column.kind == FieldType::Sequence);
    let lost = population.lost.places_of(&layout.definition.name);
    for (index, column) in new.enumerate() {
        let last = extension.numbered.get(&column.field).copied();
        let order = match last {
            Some(_) => NumberOrder::Place { lost: &lost },
            None => NumberOrder::Time,
        };
        // All fields of an event give the same numbers.
        if index == 0 {
            if !table.dialect.is_sqlite() {
                captured::settle_places(conn, population.touched).await?;
                captured::settle_table(conn, &table.name).await?;
            }
            let kept = numbered::keep_numbers(table, order, position);
            kept.execute(conn).await?;
        }
        let num_rows = numbered::number_rows(table, column, order, position)
            .execute(conn)
            .await?;
        let last = last.unwrap_or_else(|| i64::try_from(num_rows).unwrap_or(i64::MAX));
        raise_sequence(conn, layout.id, &column.field, last).await?;
    }
    Ok(())
}

/// Raises sequences to the numbers that they had reached when something was erased. What carried
/// these numbers may have been erased before it was applied here.
pub(super) async fn note_counters(
    conn: &mut Conn<'_>,
    catalog: &Catalog,
    request: &ErasureRequest,
) -> Result<(), ApplyError> {
    for (name, counters) in &request.counters {
        let Some(layout) = catalog.get(name) else {
            continue;
        };
        for (field, last) in counters {
            if layout.is_sequence(field) {
                raise_sequence(conn, layout.id, field, *last).await?;
            }
        }
    }
    Ok(())
}

pub(in crate::projection) async fn save_type(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
) -> Result<(), ApplyError> {
    let definition = serde_json::to_string(&*layout.definition)
        .map_err(|error| ApplyError::fault(error.to_string()))?;
    let table = layout.table.as_ref().map(|table| table.name.as_str());
    let sql = Sql::put(
        "_type",
        [("id", Arg::Int(layout.id))],
        [
            ("name", Arg::text(layout.definition.name.as_str())),
            ("table_name", Arg::maybe(table)),
            ("columns", Arg::Text(layout.columns_to_json())),
            ("definition", Arg::Text(definition)),
        ],
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Raises a sequence's last number to at least `last`.
pub(super) async fn raise_sequence(
    conn: &mut Conn<'_>,
    type_id: i64,
    field: &str,
    last: i64,
) -> Result<(), ApplyError> {
    let mut sql = Sql::new("INSERT INTO _sequence (type, field, last) VALUES (");
    sql.bind(Arg::Int(type_id)).push(",");
    sql.bind(Arg::text(field)).push(",");
    sql.bind(Arg::Int(last)).push(
        ") ON CONFLICT (type, field) DO UPDATE SET last = excluded.last \
         WHERE excluded.last > _sequence.last",
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Sets a role's flags.
pub(super) async fn define_role(
    conn: &mut Conn<'_>,
    name: &RoleName,
    version: u32,
    flags: RoleFlags,
) -> Result<(), ApplyError> {
    // A file generates v1's column `id`; in a server, other programs must be able to refer to it.
    let id = conn.dialect().choose("name", "id");
    let sql = Sql::put(
        "_role",
        [("name", Arg::text(name.as_str()))],
        [
            (id, Arg::text(name.as_str())),
            ("version", Arg::Int(version.into())),
            ("by_default", Arg::Bool(flags.by_default)),
            ("is_admin", Arg::Bool(flags.is_admin)),
        ],
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Stores the rules for access to fields.
pub(super) async fn set_field_access(conn: &mut Conn<'_>, event: &Event) -> Result<(), ApplyError> {
    let EventBody::FieldAccessSet(rules) = &event.body else {
        return Err(ApplyError::fault("not an event of the field access"));
    };
    let rules =
        serde_json::to_string(rules).map_err(|error| ApplyError::fault(error.to_string()))?;
    let version = Arg::Int(event.version.into());
    let sql = Sql::put(
        "_field_access",
        [("id", Arg::Int(1))],
        [("version", version), ("rules", Arg::Text(rules))],
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Adds or ends a relation.
pub(super) async fn change_relation(
    conn: &mut Conn<'_>,
    relation: Relation,
    from: &UserId,
    event: &Event,
) -> Result<(), ApplyError> {
    let kind = Arg::Int(relation_number(relation));
    let from_arg = Arg::text(from.as_str());
    let sql = match &event.body {
        EventBody::RelationAdded(RelationTarget { to }) => {
            let mut sql = Sql::new("INSERT INTO _relation (kind, from_user, to_user) VALUES (");
            sql.bind(kind).push(",").bind(from_arg).push(",");
            sql.bind(Arg::text(to.as_str()))
                .push(") ON CONFLICT DO NOTHING");
            sql
        }
        EventBody::RelationRemoved(RelationTarget { to }) => {
            let mut sql = Sql::new("DELETE FROM _relation WHERE kind=");
            sql.bind(kind).push(" AND from_user=").bind(from_arg);
            sql.push(" AND to_user=").bind(Arg::text(to.as_str()));
            sql
        }
        _ => return Err(ApplyError::fault("not an event of a relation")),
    };
    sql.execute(conn).await?;
    let sql = Sql::put(
        "_relation_version",
        [
            ("kind", Arg::Int(relation_number(relation))),
            ("from_user", Arg::text(from.as_str())),
        ],
        [("version", Arg::Int(event.version.into()))],
    );
    sql.execute(conn).await?;
    Ok(())
}

/// Returns the stored number of a relation.
pub(crate) fn relation_number(relation: Relation) -> i64 {
    match relation {
        Relation::Friend => 1,
        Relation::Follow => 2,
    }
}

/// Deletes a user's auth row and what is derived from it.
async fn remove_user(conn: &mut Conn<'_>, id: &UserId) -> Result<(), ApplyError> {
    links::write(conn, id, &UserState::default()).await?;
    let mut sql = Sql::new("DELETE FROM _auth WHERE id=");
    sql.bind(Arg::text(id.as_str()));
    sql.execute(conn).await?;
    Ok(())
}

/// The auth rows that a batch changes.
#[derive(Default)]
pub(super) struct UserBatch {
    rows: HashMap<UserId, (u32, UserState)>,
    /// The rows that changed, and whether their linked accounts did.
    changed: BTreeMap<UserId, bool>,
}

impl UserBatch {
    /// Loads the rows that the events change.
    pub(super) async fn load(conn: &mut Conn<'_>, ids: Vec<UserId>) -> Result<Self, ApplyError> {
        if ids.is_empty() {
            return Ok(Self::default());
        }
        let loaded = accounts::users(conn, &ids).await?;
        let found = ids.into_iter().zip(loaded);
        let found = found.filter_map(|(id, user)| Some((id, user?)));
        Ok(Self {
            rows: found.collect(),
            changed: BTreeMap::new(),
        })
    }

    /// Folds an event into its row.
    pub(super) fn add(&mut self, id: &UserId, event: &Event) -> Result<(), ApplyError> {
        let user = match fold::user(self.rows.get(id), event) {
            fold::Folded::Known(user) => user,
            fold::Folded::Unknown => return Err(ApplyError::fault("the user does not exist")),
        };
        match user {
            Some(user) => self.rows.insert(id.clone(), user),
            None => self.rows.remove(id),
        };
        *self.changed.entry(id.clone()).or_default() |= changes_links(&event.body);
        Ok(())
    }

    /// Writes the changed rows, and clears the list of them.
    pub(super) async fn flush(&mut self, conn: &mut Conn<'_>) -> Result<(), ApplyError> {
        for (id, has_other_links) in std::mem::take(&mut self.changed) {
            let Some((version, state)) = self.rows.get(&id) else {
                remove_user(conn, &id).await?;
                continue;
            };
            if has_other_links {
                links::write(conn, &id, state).await?;
            }
            let state = serde_json::to_string(state)
                .map_err(|error| ApplyError::fault(error.to_string()))?;
            let version = Arg::Int((*version).into());
            let sql = Sql::put(
                "_auth",
                [("id", Arg::text(id.as_str()))],
                [("version", version), ("state", Arg::Json(state))],
            );
            sql.execute(conn).await?;
        }
        Ok(())
    }
}

/// Returns whether an event can change which linked accounts log in a user.
fn changes_links(body: &EventBody) -> bool {
    match body {
        EventBody::UserCreated(state) => !state.links.is_empty() || !state.provider_info.is_empty(),
        EventBody::AccountLinked(_) | EventBody::AccountUnlinked(_) => true,
        _ => false,
    }
}
