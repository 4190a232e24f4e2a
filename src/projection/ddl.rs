//! Tables, columns and indexes of record types.

use skytrail_schema::types::FieldType;

use super::index::IndexColumn;
use super::layout::{Column, SYSTEM_COLUMNS, Table, TypeLayout, past_name};
use super::names::Name;
use super::sql::{SafeText, Sql};

/// Returns the statements that make a type's table, or add the columns behind the first `num_old`.
pub(crate) fn table(layout: &TypeLayout, num_old: usize, is_new: bool) -> Vec<SafeText> {
    let Some(table) = &layout.table else {
        return Vec::new();
    };
    if is_new {
        return vec![create_table(table)];
    }
    let new_columns = table.columns.iter().skip(num_old);
    new_columns
        .flat_map(|column| add_column(&table.name, column))
        .collect()
}

/// Returns the statements that make the indexes that a type needs of itself, where they are missing.
pub(crate) fn indexes(layout: &TypeLayout) -> Vec<SafeText> {
    let Some(table) = &layout.table else {
        return Vec::new();
    };
    let columns = table.columns.iter();
    let of_columns = columns.filter_map(|column| column_index(layout.id, table, column));
    let sets = layout.definition.unique.iter();
    let of_sets = sets.filter_map(|fields| unique_index(layout.id, table, fields));
    of_columns.chain(of_sets).collect()
}

/// Returns the statements that rename a column and its companion.
pub(crate) fn rename_column(table: &Table, old: &Column, new: &Column) -> Vec<SafeText> {
    let rename = |(from, to): (&Name, &Name)| {
        let mut sql = Sql::new("ALTER TABLE ");
        sql.name(&table.name).push(" RENAME COLUMN ").name(from);
        sql.push(" TO ").name(to);
        sql.into_text()
    };
    let mut renames: Vec<_> = old.names().zip(new.names()).collect();
    // A field may get the name that its own companion has now: that one makes room first.
    if old.companion.as_ref() == Some(&new.name) {
        renames.reverse();
    }
    renames.into_iter().map(rename).collect()
}

/// Returns the statements that drop a column and its companion.
pub(crate) fn drop_column(table: &Table, old: &Column) -> Vec<SafeText> {
    let drop = |name: &Name| {
        let mut sql = Sql::new("ALTER TABLE ");
        sql.name(&table.name).push(" DROP COLUMN ").name(name);
        sql.into_text()
    };
    old.names().map(drop).collect()
}

/// Returns the statements that make the table of what a type's records were, or drop it, or give it
/// the columns behind the first `num_old`; `had_past` says whether it is there.
pub(crate) fn past(layout: &TypeLayout, num_old: usize, had_past: bool) -> Vec<SafeText> {
    match layout.past() {
        None if had_past => {
            let mut sql = Sql::new("DROP TABLE ");
            sql.name(&past_name(layout.id));
            vec![sql.into_text()]
        }
        None => Vec::new(),
        Some(past) if had_past => {
            let new_columns = past.columns.iter().skip(num_old);
            new_columns
                .flat_map(|column| add_column(&past.name, column))
                .collect()
        }
        Some(past) => {
            let index = |suffix: &str, columns: [&str; 2]| {
                let name = Name::new(&format!("{}.{suffix}", past.name.as_str()));
                let columns = columns.map(Name::new);
                create_index(&name, &past, &columns.each_ref())
            };
            vec![
                create(
                    &past,
                    " (_row INTEGER NOT NULL, _id TEXT NOT NULL, _position INTEGER PRIMARY KEY, \
                     _until INTEGER NOT NULL, ",
                ),
                index("until", ["_until", "_position"]),
                index("id", ["_id", "_until"]),
            ]
        }
    }
}

fn create_table(table: &Table) -> SafeText {
    create(
        table,
        " (_row INTEGER PRIMARY KEY, _id TEXT NOT NULL UNIQUE, _position INTEGER NOT NULL, ",
    )
}

/// Makes a table of records; `keys` are its first columns.
fn create(table: &Table, keys: &'static str) -> SafeText {
    let mut sql = Sql::new("CREATE TABLE ");
    sql.name(&table.name).push(keys).push(
        "_version INTEGER NOT NULL, _database_id TEXT NOT NULL, _owner_id TEXT, _access TEXT, \
         _created_at INTEGER NOT NULL, _creator TEXT, _updated_at INTEGER NOT NULL, \
         _updater TEXT, \
         _created_by TEXT AS (nullif(coalesce(_creator, _owner_id), '')), \
         _updated_by TEXT AS (nullif(coalesce(_updater, _owner_id), ''))",
    );
    for column in &table.columns {
        sql.push(", ")
            .name(&column.name)
            .push(column_type(&column.kind));
        if let Some(companion) = &column.companion {
            sql.push(", ").name(companion).push(" TEXT");
        }
    }
    sql.push(")");
    sql.into_text()
}

fn add_column(table: &Name, column: &Column) -> Vec<SafeText> {
    let add = |name: &Name, kind: &'static str| {
        let mut sql = Sql::new("ALTER TABLE ");
        sql.name(table).push(" ADD COLUMN ").name(name).push(kind);
        sql.into_text()
    };
    let main = add(&column.name, column_type(&column.kind));
    let companion = column.companion.iter().map(|name| add(name, " TEXT"));
    std::iter::once(main).chain(companion).collect()
}

fn column_type(kind: &FieldType) -> &'static str {
    match kind {
        FieldType::Number => " REAL",
        FieldType::Integer | FieldType::Sequence | FieldType::Boolean | FieldType::DateTime => {
            " INTEGER"
        }
        _ => " TEXT",
    }
}

/// References are looked up when their target is deleted, sequence numbers when one is given.
fn column_index(id: i64, table: &Table, column: &Column) -> Option<SafeText> {
    let prefix = match column.kind {
        FieldType::Reference(_) => "_ref",
        FieldType::Sequence => "_sequence",
        _ => return None,
    };
    let name = Name::new(&format!("{prefix}_{id}.{}", column.name.as_str()));
    Some(create_index(&name, table, &[&column.name]))
}

/// Returns the index that finds a unique set's values; `None` when a field has no column.
///
/// It is not UNIQUE: the log has decided already, and within a batch rows are written in
/// another order than the events.
fn unique_index(id: i64, table: &Table, fields: &[String]) -> Option<SafeText> {
    let columns = compared(table, fields)?;
    let name = unique_index_name(id, &columns)?;
    Some(create_index(&name, table, &columns))
}

/// Returns the statement that drops the index of a set that is not unique any more, if it has one.
pub(crate) fn drop_unique_index(layout: &TypeLayout, fields: &[String]) -> Option<SafeText> {
    let columns = compared(layout.table.as_ref()?, fields)?;
    let name = unique_index_name(layout.id, &columns)?;
    Some(drop_index(name.as_str()))
}

fn compared<'a>(table: &'a Table, fields: &[String]) -> Option<Vec<&'a Name>> {
    let columns = fields.iter().map(|field| table.column(field));
    columns.map(|column| Some(column?.compared())).collect()
}

fn unique_index_name(id: i64, columns: &[&Name]) -> Option<Name> {
    let names: Vec<&str> = columns.iter().map(|name| name.as_str()).collect();
    let names = serde_json::to_string(&names).ok()?;
    Some(Name::new(&format!("_unique_{id}.{names}")))
}

/// An index is named by its columns, so that one of the same name is the same index. It has to go
/// before a column of it gets another name.
fn create_index(name: &Name, table: &Table, columns: &[&Name]) -> SafeText {
    let mut sql = Sql::new("CREATE INDEX IF NOT EXISTS ");
    sql.name(name).push(" ON ").name(&table.name);
    sql.push(" (").names("", columns.iter().copied()).push(")");
    sql.into_text()
}

/// Returns the statement that makes an index for queries, and its name; `None` when the type has not
/// got a column.
pub(crate) fn query_index(
    layout: &TypeLayout,
    columns: &[IndexColumn],
) -> Option<(SafeText, Name)> {
    let table = layout.table.as_ref()?;
    let mut list = Sql::default();
    let mut parts = Vec::new();
    for column in columns {
        let system = SYSTEM_COLUMNS.iter().find(|name| **name == column.field);
        list.push(if list.is_empty() { "" } else { "," });
        let plain = match system {
            Some(name) => {
                list.push(name);
                name
            }
            None => {
                let name = table.column(&column.field)?.compared();
                list.name(name);
                name.as_str()
            }
        };
        list.push(if column.is_descending { " DESC" } else { "" });
        parts.push((plain, column.is_descending));
    }
    let parts = serde_json::to_string(&parts).ok()?;
    let name = Name::new(&format!("_query_{}_{parts}", layout.id));
    let mut sql = Sql::new("CREATE INDEX IF NOT EXISTS ");
    sql.name(&name)
        .push(" ON ")
        .name(&table.name)
        .push(" (")
        .append(list)
        .push(")");
    Some((sql.into_text(), name))
}

/// Returns the statement that makes the planner know how many rows a table's indexes hold for a value.
pub(crate) fn analyze(table: &Table) -> SafeText {
    let mut sql = Sql::new("ANALYZE ");
    sql.name(&table.name);
    sql.into_text()
}

/// Returns the statement that drops an index.
pub(crate) fn drop_index(name: &str) -> SafeText {
    let mut sql = Sql::new("DROP INDEX IF EXISTS ");
    sql.name(&Name::new(name));
    sql.into_text()
}

/// Numbers the rows that exist when a sequence field is added, in the order of their creation.
pub(crate) fn number_rows(table: &Table, column: &Column) -> SafeText {
    let mut sql = Sql::new("UPDATE ");
    sql.name(&table.name)
        .push(" SET ")
        .name(&column.name)
        .push(
            " = n.number FROM (SELECT _row AS row, row_number() OVER \
             (ORDER BY _created_at, _id) AS number FROM ",
        )
        .name(&table.name)
        .push(") AS n WHERE ")
        .name(&table.name)
        .push("._row = n.row");
    sql.into_text()
}
