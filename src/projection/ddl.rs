//! Statements for the tables, columns and indexes of record types.

use skytrail_schema::id::TypeName;
use skytrail_schema::types::FieldType;

use super::dialect::{Dialect, Extensions};
use super::index::{IndexColumn, IndexEntry};
use super::layout::{Column, SYSTEM_COLUMNS, Table, TypeLayout, past_name};
use super::names::Name;
use super::sql::{Arg, SafeText, Sql};

/// Returns the statements that create a type's table, or that add the columns after the first
/// `num_old`.
pub(crate) fn table(layout: &TypeLayout, num_old: usize, is_new: bool) -> Vec<SafeText> {
    let Some(table) = &layout.table else {
        return Vec::new();
    };
    let mut texts = if is_new {
        let mut texts = vec![create_table(layout.id, table)];
        texts.extend(capture(table));
        texts
    } else {
        let new_columns = table.columns.iter().skip(num_old);
        let added = new_columns.flat_map(|column| add_column(table, column));
        added.collect()
    };
    texts.extend(user_view(layout));
    texts
}

/// Returns the statements that let other programs write to a record table, where the database can
/// report what they change.
///
/// They add defaults for the columns that other programs do not set, and triggers that record
/// changes. Run again, they restore what other programs have dropped or disabled.
pub(crate) fn capture(table: &Table) -> Vec<SafeText> {
    if table.dialect.is_sqlite() {
        return Vec::new();
    }
    let altered = |what: &'static str| {
        let mut sql = Sql::new("ALTER TABLE ");
        sql.name(&table.name).push(what);
        sql.into_text()
    };
    let trigger = |when, then| trigger(&table.name, when, then);
    vec![
        altered(
            " ALTER _row SET DEFAULT _next_row(), ALTER _version SET DEFAULT 0, \
             ALTER _position SET DEFAULT 0",
        ),
        keep_place(&table.name),
        trigger(
            "CREATE OR REPLACE TRIGGER _capture AFTER INSERT OR UPDATE OR DELETE ON ",
            " FOR EACH ROW WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes') \
             EXECUTE FUNCTION _capture()",
        ),
        trigger(
            "CREATE OR REPLACE TRIGGER _refuse BEFORE TRUNCATE ON ",
            " FOR EACH STATEMENT \
             WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes') \
             EXECUTE FUNCTION _refuse()",
        ),
    ]
}

/// Returns the statement for the trigger that gives rows the places of their records. It waits for
/// transactions that have written to the table, not for those that read it.
pub(crate) fn keep_place(table: &Name) -> SafeText {
    trigger(
        table,
        "CREATE OR REPLACE TRIGGER _keep_place BEFORE INSERT OR UPDATE OF _id, _row ON ",
        " FOR EACH ROW WHEN (current_setting('skytrail.own', true) IS DISTINCT FROM 'yes') \
         EXECUTE FUNCTION _keep_place()",
    )
}

fn trigger(table: &Name, when: &'static str, then: &'static str) -> SafeText {
    let mut sql = Sql::new(when);
    sql.name(table).push(then);
    sql.into_text()
}

/// Returns the table of user records, where v1's view of users is built on it.
fn table_of_users(layout: &TypeLayout) -> Option<&Table> {
    let table = layout.table.as_ref()?;
    let has_users = layout.definition.name == TypeName::user();
    (has_users && !table.dialect.is_sqlite()).then_some(table)
}

/// Returns the statement that drops v1's view of users before its columns change. [`user_view`]
/// creates it again if it can.
pub(crate) fn drop_user_view(layout: &TypeLayout) -> Option<SafeText> {
    table_of_users(layout)?;
    Some(Sql::new("DROP VIEW IF EXISTS _user").into_text())
}

/// Returns the statement that creates v1's view of users. The view joins what is known of a user's
/// login with the fields of the user's record, once these fields exist.
pub(crate) fn user_view(layout: &TypeLayout) -> Option<SafeText> {
    let table = table_of_users(layout)?;
    let column = |field: &str| Some(&table.column(field)?.name);
    let mut sql = Sql::new("CREATE OR REPLACE VIEW _user AS SELECT a.id, a.password, u.");
    sql.name(column("username")?).push(" AS username, u.");
    sql.name(column("email")?)
        .push(" AS email, a.provider_info AS auth, ");
    sql.push("a.token_valid_since, u.")
        .name(column("last_login_at")?);
    sql.push(" AS last_login_at, a.last_seen_at FROM _auth AS a JOIN ");
    sql.name(&table.name).push(" AS u ON u._id=a.id");
    Some(sql.into_text())
}

/// Returns the statements that create the missing ones of a type's own indexes.
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
    let mut renames: Vec<_> = old.names().zip(new.names()).collect();
    // A field can get the name that its own companion has now: the companion is renamed first.
    if old.companion.as_ref() == Some(&new.name) {
        renames.reverse();
    }
    let renames = renames.into_iter();
    renames.map(|names| rename(table, names)).collect()
}

/// Returns the statement that renames a column.
pub(crate) fn rename(table: &Table, (from, to): (&Name, &Name)) -> SafeText {
    let mut sql = Sql::new("ALTER TABLE ");
    sql.name(&table.name).push(" RENAME COLUMN ").name(from);
    sql.push(" TO ").name(to);
    sql.into_text()
}

/// Returns the statement that renames a relation or a type of another program.
pub(crate) fn rename_theirs((from, to): (&Name, &Name), is_type: bool) -> SafeText {
    // This renames every kind of relation except composite types.
    let mut sql = Sql::new(if is_type {
        "ALTER TYPE "
    } else {
        "ALTER TABLE "
    });
    sql.name(from).push(" RENAME TO ").name(to);
    sql.into_text()
}

/// Returns the statements that set a column to NULL in all rows.
pub(crate) fn empty_column(table: &Table, column: &Name) -> [SafeText; 2] {
    let mut nullable = Sql::new("ALTER TABLE ");
    nullable.name(&table.name).push(" ALTER COLUMN ");
    nullable.name(column).push(" DROP NOT NULL");
    let mut empty = Sql::new("UPDATE ");
    empty.name(&table.name).push(" SET ").name(column);
    empty.push("=NULL WHERE ").name(column).push(" IS NOT NULL");
    [nullable.into_text(), empty.into_text()]
}

/// Returns the statement that restores the type of a field's column, if the database reports
/// another type.
pub(crate) fn restore_type(table: &Table, column: &str, found: &str) -> Option<SafeText> {
    let columns = table.columns.iter();
    let mut columns = columns.flat_map(|column| typed(column, table.dialect));
    let (name, kind) = columns.find(|(name, _)| name.as_str() == column)?;
    let plain = kind.trim().trim_end_matches(" COLLATE \"C\"");
    // The only type that the database reports under another name.
    let is_time = plain == "timestamp" && found == "timestamp without time zone";
    if plain == found || is_time {
        return None;
    }
    let mut sql = Sql::new("ALTER TABLE ");
    sql.name(&table.name).push(" ALTER COLUMN ").name(name);
    sql.push(" TYPE").push(kind);
    sql.push(" USING (").name(name).push("::");
    sql.push(kind.split(" COLLATE").next().unwrap_or(kind))
        .push(")");
    Some(sql.into_text())
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

/// Returns the statements that create or drop the table of what a type's records were, or add the
/// columns after the first `num_old`; `had_past` says whether it exists.
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
                .flat_map(|column| add_column(&past, column))
                .collect()
        }
        Some(past) => {
            let index = |suffix: &str, columns: [&str; 2]| {
                let name = Name::new(&format!("{}.{suffix}", past.name.as_str()));
                let columns = columns.map(Name::new);
                create_index(&name, &past, &columns.each_ref())
            };
            vec![
                create_past_table(&past),
                index("until", ["_until", "_position"]),
                index("id", ["_id", "_until"]),
            ]
        }
    }
}

fn create_table(id: i64, table: &Table) -> SafeText {
    let constraint = |prefix: &str| Name::new(&format!("{prefix}_{id}"));
    if table.dialect.is_sqlite() {
        let keys =
            " (_row INTEGER PRIMARY KEY, _id TEXT NOT NULL UNIQUE, _position INTEGER NOT NULL, ";
        return create_in_sqlite(table, keys);
    }
    let mut keys = Sql::new(", _position bigint NOT NULL, CONSTRAINT ");
    keys.name(&constraint("_key"));
    keys.push(" PRIMARY KEY (_id, _database_id, _owner_id), CONSTRAINT ");
    keys.name(&constraint("_id"));
    keys.push(" UNIQUE (_id), CONSTRAINT ");
    keys.name(&constraint("_row")).push(" UNIQUE (_row)");
    create_in_postgres(table, keys)
}

fn create_past_table(past: &Table) -> SafeText {
    if past.dialect.is_sqlite() {
        let keys = " (_row INTEGER NOT NULL, _id TEXT NOT NULL, _position INTEGER PRIMARY KEY, \
                    _until INTEGER NOT NULL, ";
        return create_in_sqlite(past, keys);
    }
    let keys = ", _position bigint PRIMARY KEY, _until bigint NOT NULL";
    create_in_postgres(past, Sql::new(keys))
}

/// Creates a record table with v1's columns, followed by our own; `keys` come last.
fn create_in_postgres(table: &Table, keys: Sql) -> SafeText {
    let mut sql = Sql::new("CREATE TABLE ");
    sql.name(&table.name).push(
        " (_id text COLLATE \"C\" NOT NULL, _database_id text COLLATE \"C\" NOT NULL, \
         _owner_id text COLLATE \"C\" NOT NULL, _access jsonb, \
         _created_at timestamp NOT NULL, _created_by text COLLATE \"C\", \
         _updated_at timestamp NOT NULL, _updated_by text COLLATE \"C\"",
    );
    push_columns(&mut sql, table);
    sql.push(", _row bigint NOT NULL, _version bigint NOT NULL");
    sql.append(keys).push(")");
    sql.into_text()
}

/// Creates a record table; `keys` are its first columns.
fn create_in_sqlite(table: &Table, keys: &'static str) -> SafeText {
    let mut sql = Sql::new("CREATE TABLE ");
    sql.name(&table.name).push(keys).push(
        "_version INTEGER NOT NULL, _database_id TEXT NOT NULL, _owner_id TEXT, _access TEXT, \
         _created_at INTEGER NOT NULL, _creator TEXT, _updated_at INTEGER NOT NULL, \
         _updater TEXT, \
         _created_by TEXT AS (nullif(coalesce(_creator, _owner_id), '')), \
         _updated_by TEXT AS (nullif(coalesce(_updater, _owner_id), ''))",
    );
    push_columns(&mut sql, table);
    sql.push(")");
    sql.into_text()
}

fn push_columns(sql: &mut Sql, table: &Table) {
    for column in &table.columns {
        for (name, kind) in typed(column, table.dialect) {
            sql.push(", ").name(name).push(kind);
        }
    }
}

fn add_column(table: &Table, column: &Column) -> Vec<SafeText> {
    let add = |(name, kind): (&Name, &'static str)| {
        let mut sql = Sql::new("ALTER TABLE ");
        sql.name(&table.name).push(" ADD COLUMN ").name(name);
        sql.push(kind);
        sql.into_text()
    };
    typed(column, table.dialect).map(add).collect()
}

/// Returns a field's column and its companion, with their types.
fn typed(column: &Column, dialect: Dialect) -> impl Iterator<Item = (&Name, &'static str)> {
    let of_text = dialect.choose(" TEXT", " text COLLATE \"C\"");
    let of_field = match dialect {
        Dialect::Sqlite => sqlite_type(&column.kind),
        Dialect::Postgres(extensions) => postgres_type(&column.kind, extensions),
    };
    let companion = column.companion.iter().map(move |name| (name, of_text));
    std::iter::once((&column.name, of_field)).chain(companion)
}

/// Strings are ordered and compared by their bytes, everywhere.
fn postgres_type(kind: &FieldType, extensions: Extensions) -> &'static str {
    match kind {
        FieldType::CaselessString if extensions.has_citext => " citext COLLATE \"C\"",
        FieldType::String
        | FieldType::CaselessString
        | FieldType::Asset
        | FieldType::Reference(_) => " text COLLATE \"C\"",
        FieldType::Number => " double precision",
        FieldType::Integer | FieldType::Sequence => " bigint",
        FieldType::Boolean => " boolean",
        FieldType::Json | FieldType::Geometry => " jsonb",
        FieldType::DateTime => " timestamp",
        FieldType::Location if extensions.has_postgis => " geometry(Point)",
        FieldType::Location => " point",
    }
}

fn sqlite_type(kind: &FieldType) -> &'static str {
    match kind {
        FieldType::Number => " REAL",
        FieldType::Integer | FieldType::Sequence | FieldType::Boolean | FieldType::DateTime => {
            " INTEGER"
        }
        _ => " TEXT",
    }
}

/// References are looked up when their target is deleted, sequence numbers when one is assigned.
fn column_index(id: i64, table: &Table, column: &Column) -> Option<SafeText> {
    let prefix = match column.kind {
        FieldType::Reference(_) => "_ref",
        FieldType::Sequence => "_sequence",
        _ => return None,
    };
    let name = format!("{prefix}_{id}.{}", column.name.as_str());
    let name = Name::of_index(&name, table.dialect);
    Some(create_index(&name, table, &[&column.name]))
}

/// Returns the index that finds a unique set's values. Returns `None` when a field has no column,
/// or one that cannot be indexed.
///
/// It is not UNIQUE: the log has decided already, and rows of a batch are written in another order
/// than the events.
fn unique_index(id: i64, table: &Table, fields: &[String]) -> Option<SafeText> {
    let mut kinds = fields.iter().filter_map(|field| table.column(field));
    if !kinds.all(|column| table.dialect.indexes(&column.kind)) {
        return None;
    }
    let columns = compared(table, fields)?;
    let name = unique_index_name(id, table, &columns)?;
    Some(create_index(&name, table, &columns))
}

/// Returns the statement that drops the index of a set that is no longer unique, if it has one.
pub(crate) fn drop_unique_index(layout: &TypeLayout, fields: &[String]) -> Option<SafeText> {
    let table = layout.table.as_ref()?;
    let columns = compared(table, fields)?;
    let name = unique_index_name(layout.id, table, &columns)?;
    Some(drop_index(name.as_str()))
}

fn compared<'a>(table: &'a Table, fields: &[String]) -> Option<Vec<&'a Name>> {
    let columns = fields.iter().map(|field| table.column(field));
    columns.map(|column| Some(column?.compared())).collect()
}

fn unique_index_name(id: i64, table: &Table, columns: &[&Name]) -> Option<Name> {
    let names: Vec<&str> = columns.iter().map(|name| name.as_str()).collect();
    let names = serde_json::to_string(&names).ok()?;
    // Differs from the names of the earlier indexes, which were not hash indexes.
    let is_hashed = columns.len() > 1 && !table.dialect.is_sqlite();
    let mark = if is_hashed { "#" } else { "." };
    let name = format!("_unique_{id}{mark}{names}");
    Some(Name::of_index(&name, table.dialect))
}

/// An index is named after its columns, so an index of the same name is the same index. It must be
/// dropped before one of its columns is renamed.
fn create_index(name: &Name, table: &Table, columns: &[&Name]) -> SafeText {
    let mut sql = Sql::new("CREATE INDEX IF NOT EXISTS ");
    sql.name(name).push(" ON ").name(&table.name);
    let columns = match columns.first() {
        // Values are only looked up whole. No other kind of index of PostgreSQL takes long values,
        // and this kind takes only one column.
        Some(first) if !table.dialect.is_sqlite() => {
            sql.push(" USING hash");
            std::slice::from_ref(first)
        }
        _ => columns,
    };
    sql.push(" (").names("", columns.iter().copied()).push(")");
    sql.into_text()
}

/// Returns the statement that creates an index for queries, and its name; `None` when the type
/// lacks a column.
pub(crate) fn query_index(
    layout: &TypeLayout,
    columns: &[IndexColumn],
) -> Option<(SafeText, Name)> {
    let table = layout.table.as_ref()?;
    let (list, parts) = indexed(table, columns)?;
    let parts = serde_json::to_string(&parts).ok()?;
    let name = format!("{QUERY_INDEX}{}_{parts}", layout.id);
    let name = Name::of_index(&name, table.dialect);
    Some((create_query_index(&name, table, list), name))
}

/// Returns the counterpart of an index of [`query_index`] over the table of what the type's records
/// were: the statement and the name. Returns `None` when there is no such table or index.
///
/// It ends with two columns that queries as of a position need as well: the order of creation,
/// which differs from the row order of that table, and how long a row was valid.
pub(crate) fn past_index(layout: &TypeLayout, entry: &IndexEntry) -> Option<(SafeText, Name)> {
    let past = layout.past()?;
    let (mut list, _) = indexed(&past, &entry.columns)?;
    list.push(",_row,_until");
    let name = Name::new(&past_index_name(entry.name.as_deref()?)?);
    Some((create_query_index(&name, &past, list), name))
}

/// How the names of indexes for queries begin, and those of their counterparts over the past.
pub(crate) const QUERY_INDEX: &str = "_query_";
pub(crate) const PAST_INDEX: &str = "_asof_";

/// Returns the name that the counterpart of an index for queries has over the past.
pub(crate) fn past_index_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix(QUERY_INDEX)?;
    Some(format!("{PAST_INDEX}{rest}"))
}

/// Returns the name of the index for queries whose counterpart over the past this is.
pub(crate) fn present_index_name(name: &str) -> Option<String> {
    let rest = name.strip_prefix(PAST_INDEX)?;
    Some(format!("{QUERY_INDEX}{rest}"))
}

/// Returns the columns of an index as SQL, and as they appear in its name.
fn indexed<'a>(table: &'a Table, columns: &[IndexColumn]) -> Option<(Sql, Vec<(&'a str, bool)>)> {
    let mut list = Sql::default();
    let mut parts = Vec::new();
    for column in columns {
        let system = SYSTEM_COLUMNS.iter().find(|name| **name == column.field);
        list.push(if list.is_empty() { "" } else { "," });
        let plain = match system {
            // As in queries: the table stores an empty string when there is no owner.
            Some(&"_owner_id") if !table.dialect.is_sqlite() => {
                let owner = "nullif(_owner_id,'')";
                list.push("(").push(owner).push(")");
                owner
            }
            Some(name) => {
                list.push(name);
                *name
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
    Some((list, parts))
}

fn create_query_index(name: &Name, table: &Table, columns: Sql) -> SafeText {
    let mut sql = Sql::new(table.dialect.choose(
        "CREATE INDEX IF NOT EXISTS ",
        // Does not block writes.
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS ",
    ));
    sql.name(name)
        .push(" ON ")
        .name(&table.name)
        .push(" (")
        .append(columns)
        .push(")");
    sql.into_text()
}

/// Returns whether these columns can be indexed for queries and no index of the type's own covers
/// them.
pub(crate) fn can_index(layout: &TypeLayout, columns: &[IndexColumn]) -> bool {
    let Some(table) = &layout.table else {
        return false;
    };
    let is_there = match columns {
        // Ids are unique.
        [first, ..] if first.field == "_id" => true,
        [only] => {
            let column = table.column(&only.field);
            column.is_some_and(|column| column_index(layout.id, table, column).is_some())
        }
        _ => false,
    };
    let sorted = |column: &IndexColumn| {
        let column = table.column(&column.field);
        column.is_none_or(|column| table.dialect.sorts(&column.kind))
    };
    !is_there && columns.iter().all(sorted)
}

/// Returns the statement that tells the planner how many rows each indexed value has.
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

/// Returns the statement that drops an index for queries, without blocking writes where it can.
pub(crate) fn drop_query_index(name: &str, dialect: Dialect) -> SafeText {
    if dialect.is_sqlite() {
        return drop_index(name);
    }
    let mut sql = Sql::new("DROP INDEX CONCURRENTLY IF EXISTS ");
    sql.name(&Name::new(name));
    sql.into_text()
}

/// Returns the statement that lists the names of all our indexes over a column.
pub(crate) fn list_indexes_over(table: &Table, column: &Name) -> Sql {
    let (table_name, column_name) = (&table.name, Arg::name(column));
    let mut sql = Sql::default();
    match table.dialect {
        Dialect::Sqlite => {
            sql.push("SELECT l.name FROM pragma_index_list(");
            sql.bind(Arg::name(table_name));
            sql.push(") AS l, pragma_index_info(l.name) AS i WHERE i.name=");
        }
        Dialect::Postgres(_) => {
            sql.push(
                "SELECT c.relname::text FROM pg_index AS i JOIN pg_class AS c \
                 ON c.oid=i.indexrelid JOIN pg_attribute AS a \
                 ON a.attrelid=i.indrelid AND a.attnum=ANY(i.indkey) \
                 WHERE starts_with(c.relname,'_') AND i.indrelid=to_regclass(",
            );
            sql.bind(Arg::quoted(table_name));
            sql.push(") AND a.attname=");
        }
    }
    sql.bind(column_name);
    sql
}
