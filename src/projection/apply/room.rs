//! Deals with what other programs have done to a table, where it is in the way of the log.
//!
//! 1. A table, view, index or type of theirs with the name of a table of ours is renamed.
//! 2. A column of theirs with the name of one of ours is renamed. No event has its values, so they
//!    do not become the field's.
//! 3. A column of ours that a view of theirs needs is emptied and renamed.
//! 4. A column of ours whose type was changed gets its own type back.
//! 5. A trigger or rule that suppresses rows silently is named, and the store waits until it is
//!    gone.

use super::ApplyError;
use crate::projection::conn::{Conn, TABLE_WAIT};
use crate::projection::ddl;
use crate::projection::dialect::is_refusal;
use crate::projection::layout::{Column, Table};
use crate::projection::names::{Name, NameSet};
use crate::projection::postgres;
use crate::projection::sql::{Arg, SafeText, Sql};

/// Lists the names of relations and types in the app's schema. Both must differ from the name of a
/// new table.
const NAMES: &str = "WITH place AS (SELECT oid FROM pg_namespace WHERE nspname=current_schema) \
    SELECT relname::text, relkind='c' FROM pg_class, place WHERE relnamespace=place.oid \
    UNION ALL SELECT typname::text, true FROM pg_type, place \
    WHERE typnamespace=place.oid AND typrelid=0";

/// Makes room for a table that is about to be created.
pub(super) async fn make_room_for_table(
    conn: &mut Conn<'_>,
    table: &Table,
) -> Result<(), ApplyError> {
    if table.dialect.is_sqlite() {
        return Ok(());
    }
    let mut sql = Sql::new("SELECT is_type FROM (");
    sql.push(NAMES)
        .push(") AS names (name, is_type) WHERE name=");
    sql.bind(Arg::name(&table.name));
    // An index and a type can have the same name.
    for row in sql.fetch_all(conn).await? {
        rename_theirs(conn, table, row.flag(0)?).await?;
    }
    Ok(())
}

/// Renames a relation or a type of another program that has the name of a table.
async fn rename_theirs(
    conn: &mut Conn<'_>,
    table: &Table,
    is_type: bool,
) -> Result<(), ApplyError> {
    let name = table.name.as_str();
    let mut names = NameSet::new(table.dialect);
    for row in Sql::new(NAMES).fetch_all(conn).await? {
        names.reserve(row.catalog(0)?);
    }
    let aside = names.take(&format!("{name}~theirs"));
    let mut attempt = conn.begin().await?;
    let text = ddl::rename_theirs((&table.name, &aside), is_type);
    match text.execute(&mut attempt.conn(), Vec::new()).await {
        Ok(_) => attempt.commit().await?,
        Err(error) if is_refusal(&error) => {
            let said = format!(
                "another program has created {name}, which a record type needs, and it cannot be \
                 renamed: {error}"
            );
            return Err(postgres::in_the_way(said).into());
        }
        Err(error) => return Err(error.into()),
    }
    tracing::warn!(
        table = name,
        aside = aside.as_str(),
        "another program's table, view, index or type was renamed: a record type needs its name"
    );
    Ok(())
}

/// Makes room for columns that are about to be added to the table.
pub(super) async fn make_room(
    conn: &mut Conn<'_>,
    table: &Table,
    columns: impl Iterator<Item = &Name>,
) -> Result<(), ApplyError> {
    let columns: Vec<&Name> = columns.collect();
    if table.dialect.is_sqlite() || columns.is_empty() {
        return Ok(());
    }
    let there = columns_of(conn, table).await?;
    for column in columns {
        if there.iter().any(|name| name == column.as_str()) {
            let aside = put_aside(conn, table, (column, "theirs")).await?;
            tracing::warn!(
                table = table.name.as_str(),
                column = column.as_str(),
                aside = aside.as_str(),
                "another program's column was renamed: a field needs its name"
            );
        }
    }
    Ok(())
}

/// Drops a column, or empties and renames it if other programs need it.
pub(super) async fn drop_column(
    conn: &mut Conn<'_>,
    table: &Table,
    column: &Column,
) -> Result<(), ApplyError> {
    for (name, text) in column.names().zip(ddl::drop_column(table, column)) {
        if attempt(conn, &text).await? {
            continue;
        }
        let aside = put_aside(conn, table, (name, "gone")).await?;
        for text in ddl::empty_column(table, &aside) {
            text.execute(conn, Vec::new()).await?;
        }
        tracing::warn!(
            table = table.name.as_str(),
            column = name.as_str(),
            aside = aside.as_str(),
            "a dropped field's column is emptied and renamed: an object of another program needs it"
        );
    }
    Ok(())
}

/// Runs a statement that drops something; returns whether nothing else needed it.
pub(super) async fn attempt(conn: &mut Conn<'_>, text: &SafeText) -> Result<bool, ApplyError> {
    let mut attempt = conn.begin().await?;
    match text.execute(&mut attempt.conn(), Vec::new()).await {
        Ok(_) => {
            attempt.commit().await?;
            Ok(true)
        }
        Err(error) if postgres::is_needed(&error) => {
            attempt.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Restores the types that a table's columns were created with; returns whether any was different.
pub(super) async fn restore_types(
    conn: &mut Conn<'_>,
    table: &Table,
    error: &sqlx::Error,
) -> Result<bool, ApplyError> {
    if table.dialect.is_sqlite() || !is_refusal(error) {
        return Ok(false);
    }
    let mut sql = Sql::new(
        "SELECT attname::text, format_type(atttypid,atttypmod) FROM pg_attribute \
         WHERE attnum>0 AND NOT attisdropped AND attrelid=to_regclass(",
    );
    sql.bind(Arg::quoted(&table.name)).push(")");
    let mut was_other = false;
    for row in sql.fetch_all(conn).await? {
        let (name, kind) = (row.catalog(0)?, row.catalog(1)?);
        let Some(text) = ddl::restore_type(table, name, kind) else {
            continue;
        };
        conn.wait_at_most(TABLE_WAIT).await?;
        let mut attempt = conn.begin().await?;
        if let Err(error) = text.execute(&mut attempt.conn(), Vec::new()).await {
            if postgres::is_held(&error) {
                return Err(error.into());
            }
            return Err(postgres::in_the_way(format!(
                "another program has changed the column {name} of {} to {kind}: {error}",
                table.name.as_str()
            ))
            .into());
        }
        attempt.commit().await?;
        tracing::warn!(
            table = table.name.as_str(),
            column = name,
            "a column that another program had changed to {kind} has its own type again: the log's \
             values did not fit"
        );
        was_other = true;
    }
    Ok(was_other)
}

/// Returns the error that names what suppresses rows.
pub(super) async fn kept_back(conn: &mut Conn<'_>, table: &Table) -> ApplyError {
    let found = match name_keepers(conn, table).await {
        Ok(found) => found.unwrap_or_else(|| "something".to_owned()),
        Err(error) => return error.into(),
    };
    let table = table.name.as_str();
    let said = format!("{found} of another program prevents writing rows of {table}");
    postgres::in_the_way(said).into()
}

/// Lists the triggers and rules of other programs on a table.
async fn name_keepers(conn: &mut Conn<'_>, table: &Table) -> Result<Option<String>, sqlx::Error> {
    let mut sql = Sql::new(
        "SELECT string_agg(what, ', ' ORDER BY what) FROM (\
         SELECT 'the trigger '||tgname AS what FROM pg_trigger WHERE NOT tgisinternal \
         AND NOT starts_with(tgname,'_') AND tgrelid=to_regclass(",
    );
    sql.bind(Arg::quoted(&table.name));
    sql.push(
        ") UNION ALL SELECT 'the rule '||rulename FROM pg_rewrite WHERE ev_class=to_regclass(",
    );
    sql.bind(Arg::quoted(&table.name)).push(")) AS found");
    let Some(row) = sql.fetch_optional(conn).await? else {
        return Ok(None);
    };
    Ok(row.maybe_catalog(0)?.map(str::to_owned))
}

/// Renames a column to a free name.
async fn put_aside(
    conn: &mut Conn<'_>,
    table: &Table,
    (column, why): (&Name, &str),
) -> Result<Name, ApplyError> {
    let mut names = NameSet::new(table.dialect);
    for name in columns_of(conn, table).await? {
        names.reserve(&name);
    }
    for name in table.field_names() {
        names.reserve(name.as_str());
    }
    let aside = names.take(&format!("{}~{why}", column.as_str()));
    let text = ddl::rename(table, (column, &aside));
    text.execute(conn, Vec::new()).await?;
    Ok(aside)
}

async fn columns_of(conn: &mut Conn<'_>, table: &Table) -> Result<Vec<String>, sqlx::Error> {
    let mut sql = Sql::new(
        "SELECT attname::text FROM pg_attribute WHERE attnum>0 AND NOT attisdropped \
         AND attrelid=to_regclass(",
    );
    sql.bind(Arg::quoted(&table.name)).push(")");
    let rows = sql.fetch_all(conn).await?;
    let names = rows.iter().map(|row| Ok(row.catalog(0)?.to_owned()));
    names.collect()
}
