//! Applies renames and deletions of fields: their columns, the indexes over them, their sequences.

use crate::projection::conn::Conn;
use skytrail_schema::event::{EventBody, FieldDeletion, FieldRename};
use skytrail_schema::types::TypeDefinition;

use super::settings::{Indexing, save_type};
use super::{ApplyError, room};
use crate::projection::ddl;
use crate::projection::index;
use crate::projection::layout::{Catalog, ChangedColumn, Column, Table};
use crate::projection::names::Name;
use crate::projection::sql::{Arg, Sql};

/// Applies an event that changed the fields of a type to `definition`.
pub(super) async fn change(
    conn: &mut Conn<'_>,
    catalog: &mut Catalog,
    indexing: Indexing,
    (definition, event): (TypeDefinition, &EventBody),
) -> Result<(), ApplyError> {
    let (field, new_name) = match event {
        EventBody::TypeFieldRenamed(FieldRename { from, to }) => (from, Some(to.as_str())),
        EventBody::TypeFieldDeleted(FieldDeletion { field }) => (field, None),
        _ => return Err(ApplyError::fault("not a change of a field")),
    };
    let record_type = definition.name.clone();
    let changed = catalog.change_field(definition, field, new_name);
    let ChangedColumn { layout, old, new } =
        changed.ok_or_else(|| ApplyError::fault("the field has no column"))?;
    let Some(table) = &layout.table else {
        return Err(ApplyError::fault("the type has no table"));
    };
    if let Some(text) = ddl::drop_user_view(&layout) {
        // If other programs build on the view, it stays, and so does the column that it shows.
        room::attempt(conn, &text).await?;
    }
    for table in layout.past().iter().chain([table]) {
        drop_indexes(conn, table, &old).await?;
        let Some(new) = &new else {
            room::drop_column(conn, table, &old).await?;
            continue;
        };
        let is_theirs = |name: &&Name| old.names().all(|old| old != *name);
        room::make_room(conn, table, new.names().filter(is_theirs)).await?;
        for text in ddl::rename_column(table, &old, new) {
            text.execute(conn, Vec::new()).await?;
        }
    }
    if let Some(text) = ddl::user_view(&layout) {
        text.execute(conn, Vec::new()).await?;
    }
    if indexing == Indexing::AtOnce {
        for text in ddl::indexes(&layout) {
            text.execute(conn, Vec::new()).await?;
        }
    }
    change_sequence(conn, layout.id, field, new_name).await?;
    index::change_field(conn, &record_type, field, new_name).await?;
    save_type(conn, &layout).await
}

/// Drops every index of ours over a column. The database would otherwise refuse to drop the column,
/// and an index is named after its columns.
async fn drop_indexes(
    conn: &mut Conn<'_>,
    table: &Table,
    column: &Column,
) -> Result<(), ApplyError> {
    for name in column.names() {
        for row in ddl::list_indexes_over(table, name).fetch_all(conn).await? {
            ddl::drop_index(row.catalog(0)?)
                .execute(conn, Vec::new())
                .await?;
        }
    }
    Ok(())
}

/// Moves a sequence's last number with its field, or deletes it.
async fn change_sequence(
    conn: &mut Conn<'_>,
    type_id: i64,
    field: &str,
    new_name: Option<&str>,
) -> Result<(), ApplyError> {
    let change = |mut sql: Sql, field: &str| {
        sql.push(" WHERE type=").bind(Arg::Int(type_id));
        sql.push(" AND field=").bind(Arg::text(field));
        sql
    };
    let delete = || Sql::new("DELETE FROM _sequence");
    let Some(new_name) = new_name else {
        change(delete(), field).execute(conn).await?;
        return Ok(());
    };
    change(delete(), new_name).execute(conn).await?;
    let mut rename = Sql::new("UPDATE _sequence SET field=");
    rename.bind(Arg::text(new_name));
    change(rename, field).execute(conn).await?;
    Ok(())
}
