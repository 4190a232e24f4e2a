//! Reads records by key, and what the server keeps in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::projection::conn::{Conn, Row};
use serde_json::json;
use skytrail_actors::store::{Referrers, Snapshot};
use skytrail_schema::acl::Acl;
use skytrail_schema::event::{AssetState, RoleFlags};
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{AssetName, Database, RecordId, RecordKey, RoleName, TypeName, UserId};
use skytrail_schema::record::{Fields, Head, Record};
use skytrail_schema::types::FieldType;
use skytrail_schema::value::Value;

use super::dialect::Dialect;
use super::layout::{Catalog, SYSTEM_COLUMNS, Table, TypeLayout};
use super::names::Name;
use super::sql::{Arg, Sql};
use super::value::{decode, encode};

/// The maximum number of keys that one statement looks up.
pub(super) const MAX_KEYS: usize = 256;

/// Adds the columns of a head, each read from the table with the alias `t`.
pub(crate) fn push_head_columns(sql: &mut Sql, table: &Table) {
    for (index, name) in SYSTEM_COLUMNS.iter().skip(1).enumerate() {
        sql.push(if index == 0 { "t." } else { ",t." }).push(name);
    }
    for name in table.field_names() {
        sql.push(",t.").name(name);
    }
}

/// Reads the columns that [`push_head_columns`] selects.
pub(crate) fn decode_head(name: &TypeName, table: &Table, row: &Row) -> Result<Head, sqlx::Error> {
    let user = |index: usize| {
        // An empty string means no user, too.
        let text = row.maybe_text(index)?.filter(|text| !text.is_empty());
        Ok::<_, sqlx::Error>(text.map(|text| UserId::from(&*text)))
    };
    let record = Record {
        id: RecordId::new(name.clone(), &*row.text(0)?),
        database: Database::from_stored(&row.text(3)?),
        owner: user(4)?,
        access: decode_access(row, 5)?,
        created_at: row.time(6)?,
        created_by: user(7)?,
        updated_at: row.time(8)?,
        updated_by: user(9)?,
        fields: decode_fields(table, row)?,
    };
    Ok(Head {
        version: row.unsigned(2)?,
        position: row.unsigned(1)?,
        record,
    })
}

/// Reads an access list. Other programs can write an invalid one by SQL, which admits nobody until
/// it is parked.
fn decode_access(row: &Row, index: usize) -> Result<Option<Acl>, sqlx::Error> {
    let text = row.maybe_text(index)?;
    Ok(text.map(|text| serde_json::from_str(&text).unwrap_or_default()))
}

fn decode_fields(table: &Table, row: &Row) -> Result<Fields, sqlx::Error> {
    let mut fields = Vec::with_capacity(table.columns.len());
    let mut index = SYSTEM_COLUMNS.len() - 1;
    for column in &table.columns {
        let value = decode(column, row, index)?;
        if value != Value::Null {
            fields.push((column.field.clone(), value));
        }
        index += column.names().count();
    }
    Ok(fields.into_iter().collect())
}

/// Loads heads by key.
pub(crate) async fn heads(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
    keys: &[RecordKey],
) -> Result<Vec<Option<Head>>, sqlx::Error> {
    heads_if(conn, layout, keys, |_| Ok(())).await
}

/// Loads heads by key, until one is refused.
pub(crate) async fn heads_if<E: From<sqlx::Error>>(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
    keys: &[RecordKey],
    mut take: impl FnMut(&Head) -> Result<(), E>,
) -> Result<Vec<Option<Head>>, E> {
    let Some(table) = &layout.table else {
        return Ok(vec![None; keys.len()]);
    };
    let mut found: HashMap<RecordKey, Head> = HashMap::new();
    for chunk in keys.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT ");
        push_head_columns(&mut sql, table);
        sql.push(" FROM ").name(&table.name);
        sql.push(" AS t WHERE t._id")
            .within(chunk, RecordKey::as_str);
        let keep = |row: &Row| {
            let head = decode_head(&layout.definition.name, table, row)?;
            take(&head)?;
            found.insert(head.record.id.key.clone(), head);
            Ok::<_, E>(())
        };
        sql.for_each(conn, keep).await?;
    }
    Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
}

/// Counts the rows with these keys that the log has created. Rows that other programs have inserted
/// have no position yet.
pub(crate) async fn count_keys(
    conn: &mut Conn<'_>,
    table: &Table,
    keys: &[RecordKey],
) -> Result<u64, sqlx::Error> {
    let mut count = 0;
    for chunk in keys.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT count(*) FROM ");
        sql.name(&table.name).push(" WHERE _position<>0 AND _id");
        sql.within(chunk, RecordKey::as_str);
        let row = sql.fetch_optional(conn).await?;
        count += row.map_or(Ok(0), |row| row.unsigned::<u64>(0))?;
    }
    Ok(count)
}

/// Loads past versions of records by the positions at which they were written.
pub(crate) async fn past_heads(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
    past: &Table,
    positions: &[u64],
) -> Result<HashMap<u64, Head>, sqlx::Error> {
    let mut found = HashMap::new();
    for chunk in positions.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT ");
        push_head_columns(&mut sql, past);
        sql.push(" FROM ").name(&past.name);
        sql.push(" AS t WHERE t._position IN (");
        sql.separated(chunk, |sql, position| {
            sql.bind(Arg::unsigned(*position));
        });
        sql.push(")");
        for row in sql.fetch_all(conn).await? {
            let head = decode_head(&layout.definition.name, past, &row)?;
            found.insert(head.position, head);
        }
    }
    Ok(found)
}

/// Loads the heads after a row, in the order of rows, each with its row number.
pub(crate) async fn scan(
    conn: &mut Conn<'_>,
    layout: &TypeLayout,
    owner: Option<&UserId>,
    (after, limit): (i64, usize),
) -> Result<Vec<(i64, Head)>, sqlx::Error> {
    let Some(table) = &layout.table else {
        return Ok(Vec::new());
    };
    let mut sql = Sql::new("SELECT ");
    push_head_columns(&mut sql, table);
    sql.push(",t._row FROM ").name(&table.name);
    sql.push(" AS t WHERE t._row > ").bind(Arg::Int(after));
    if let Some(owner) = owner {
        sql.push(" AND t._owner_id=")
            .bind(Arg::text(owner.as_str()));
    }
    sql.push(" ORDER BY t._row");
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    table.dialect.push_limit(&mut sql, Some(limit));
    let mut heads = Vec::new();
    for row in sql.fetch_all(conn).await? {
        let head = decode_head(&layout.definition.name, table, &row)?;
        heads.push((row.int(row.len() - 1)?, head));
    }
    Ok(heads)
}

/// Finds at most `limit` records by the values of fields, or of system columns that hold strings.
pub(crate) async fn list_by_fields(
    conn: &mut Conn<'_>,
    table: &Table,
    fields: &[(&str, &Value)],
    (besides, limit): (Option<&RecordKey>, u64),
) -> Result<Vec<RecordKey>, sqlx::Error> {
    let mut sql = Sql::new("SELECT _id FROM ");
    sql.name(&table.name).push(" AS t WHERE 1=1");
    if let Some(key) = besides {
        sql.push(" AND t._id<>").bind(Arg::text(key.as_str()));
    }
    for (field, value) in fields {
        let system = SYSTEM_COLUMNS.iter().find(|name| *name == field);
        if let (Some(name), Value::String(text)) = (system, value) {
            sql.push(" AND t.").push(name).push("=");
            sql.bind(Arg::text(text.as_str()));
            continue;
        }
        let Some(column) = table.column(field) else {
            return Ok(Vec::new());
        };
        let Some(cell) = encode(&column.kind, value) else {
            return Ok(Vec::new());
        };
        let is_folded = column.compared() != &column.name;
        let arg = if is_folded { cell.companion } else { cell.main };
        if arg == Arg::Null {
            return Ok(Vec::new());
        }
        sql.push(" AND t.")
            .name(column.compared())
            .push(table.dialect.equals(&column.kind))
            .bind(arg);
    }
    table.dialect.push_limit(&mut sql, Some(limit));
    let rows = sql.fetch_all(conn).await?;
    let key = |row: &Row| Ok(RecordKey::from(&*row.text(0)?));
    rows.iter().map(key).collect()
}

/// Finds two records that have the same values in these fields, none of them missing.
pub(crate) async fn find_shared(
    conn: &mut Conn<'_>,
    table: &Table,
    fields: &[String],
) -> Result<Option<[RecordKey; 2]>, sqlx::Error> {
    let columns = fields.iter().map(|field| table.column(field));
    let columns = columns.map(|column| Some(column?.compared()));
    // Nobody has a value in a field that has no column yet.
    let Some(columns) = columns.collect::<Option<Vec<&Name>>>() else {
        return Ok(None);
    };
    let mut sql = Sql::new("SELECT MIN(t._id),MAX(t._id) FROM ");
    sql.name(&table.name).push(" AS t WHERE 1=1");
    for column in &columns {
        sql.push(" AND t.").name(column).push(" IS NOT NULL");
    }
    sql.push(" GROUP BY ").names("t.", columns.iter().copied());
    sql.push(" HAVING COUNT(*)>1");
    table.dialect.push_limit(&mut sql, Some(1));
    let rows = sql.fetch_all(conn).await?;
    let key = |row: &Row, at| Ok::<_, sqlx::Error>(RecordKey::from(&*row.text(at)?));
    let pair = |row: &Row| Ok([key(row, 0)?, key(row, 1)?]);
    rows.first().map(pair).transpose()
}

/// Finds which records of a type refer to given targets, whose keys are grouped by type.
pub(crate) async fn find_referrers(
    conn: &mut Conn<'_>,
    (name, table): (&TypeName, &Table),
    targets: &BTreeMap<&TypeName, Vec<&str>>,
    found: &mut Referrers,
) -> Result<(), sqlx::Error> {
    let themselves = targets.get(name).map_or(&[][..], Vec::as_slice);
    for column in &table.columns {
        let FieldType::Reference(to) = &column.kind else {
            continue;
        };
        let Some(keys) = targets.get(to) else {
            continue;
        };
        // One referrer for each target, which can have any number of them.
        let (texts, row) = table.dialect.texts_as_rows();
        let mut sql = Sql::new("SELECT w.value,(SELECT t._id FROM ");
        sql.name(&table.name).push(" AS t WHERE t.");
        sql.name(&column.name).push("=w.value AND NOT t._id");
        table.dialect.push_among(&mut sql, themselves);
        sql.push(" LIMIT 1) FROM ").push(texts);
        sql.bind(Arg::Json(json!(keys).to_string())).push(row);
        for row in sql.fetch_all(conn).await? {
            if let Some(other) = row.maybe_text(1)? {
                let target = RecordId::new(to.clone(), &*row.text(0)?);
                let other = RecordId::new(name.clone(), &*other);
                found.others.insert(target, other);
            }
        }
        if themselves.is_empty() {
            continue;
        }
        let mut sql = Sql::new("SELECT t.");
        sql.name(&column.name).push(",t._id FROM ");
        sql.name(&table.name).push(" AS t WHERE t._id");
        table.dialect.push_among(&mut sql, themselves);
        sql.push(" AND t.").name(&column.name);
        table.dialect.push_among(&mut sql, keys);
        for row in sql.fetch_all(conn).await? {
            let target = RecordId::new(to.clone(), &*row.text(0)?);
            let referrer = RecordId::new(name.clone(), &*row.text(1)?);
            found.among.entry(target).or_default().push(referrer);
        }
    }
    Ok(())
}

/// Lists a table's keys in order.
pub(crate) async fn keys(
    conn: &mut Conn<'_>,
    table: &Table,
    after: Option<&RecordKey>,
    limit: u32,
) -> Result<Vec<RecordKey>, sqlx::Error> {
    let mut sql = Sql::new("SELECT _id FROM ");
    sql.name(&table.name);
    if let Some(after) = after {
        sql.push(" WHERE _id>")
            .bind(Arg::Text(after.as_str().into()));
    }
    sql.push(" ORDER BY _id");
    table.dialect.push_limit(&mut sql, Some(limit.into()));
    let rows = sql.fetch_all(conn).await?;
    let key = |row: &Row| Ok(RecordKey::from(&*row.text(0)?));
    rows.iter().map(key).collect()
}

/// Loads what is known of files, with the versions of their streams.
pub(crate) async fn assets(
    conn: &mut Conn<'_>,
    names: &[AssetName],
) -> Result<Vec<Option<(u32, AssetState)>>, sqlx::Error> {
    let mut found: HashMap<String, (u32, AssetState)> = HashMap::new();
    for chunk in names.chunks(MAX_KEYS) {
        let mut sql = Sql::new("SELECT id, version, content_type, size FROM _asset WHERE id");
        sql.within(chunk, |name| name.as_str());
        for row in sql.fetch_all(conn).await? {
            let state = AssetState {
                content_type: row.text(2)?.into_owned(),
                size: row.unsigned(3)?,
            };
            found.insert(row.text(0)?.into_owned(), (row.unsigned(1)?, state));
        }
    }
    Ok(names
        .iter()
        .map(|name| found.get(name.as_str()).cloned())
        .collect())
}

/// Lists the names of files in order.
pub(crate) async fn asset_names(
    conn: &mut Conn<'_>,
    after: Option<&AssetName>,
    limit: u32,
) -> Result<Vec<AssetName>, sqlx::Error> {
    let mut sql = Sql::new("SELECT id FROM _asset");
    if let Some(after) = after {
        sql.push(" WHERE id>")
            .bind(Arg::Text(after.as_str().into()));
    }
    sql.push(" ORDER BY id");
    conn.dialect().push_limit(&mut sql, Some(limit.into()));
    let rows = sql.fetch_all(conn).await?;
    let name = |row: &Row| Ok(AssetName::from(&*row.text(0)?));
    rows.iter().map(name).collect()
}

/// Loads the types and the checkpoint.
pub(crate) async fn catalog(conn: &mut Conn<'_>) -> Result<(Catalog, u64), sqlx::Error> {
    let dialect = conn.dialect();
    let mut catalog = Catalog::new(dialect);
    let sql = Sql::new("SELECT id, definition, table_name, columns FROM _type ORDER BY id");
    for row in sql.fetch_all(conn).await? {
        let layout = decode_type(&row, dialect)?;
        catalog.add(layout);
    }
    let checkpoint = checkpoint(conn).await?;
    Ok((catalog, checkpoint))
}

/// Counts the events, or parts of them, that could not be applied.
pub(crate) async fn count_faults(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let row = Sql::new("SELECT count(*) FROM _faults")
        .fetch_optional(conn)
        .await?;
    row.map_or(Ok(0), |row| row.unsigned(0))
}

/// Loads the last applied position.
pub(crate) async fn checkpoint(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let row = Sql::new("SELECT position FROM _checkpoint")
        .fetch_optional(conn)
        .await?;
    row.map_or(Ok(0), |row| row.unsigned(0))
}

fn decode_type(row: &Row, dialect: Dialect) -> Result<TypeLayout, sqlx::Error> {
    let (table, columns) = (row.maybe_text(2)?, row.text(3)?);
    TypeLayout::from_stored(
        row.int(0)?,
        row.json(1)?,
        table.as_deref(),
        &columns,
        dialect,
    )
    .map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Loads what the server keeps in memory, from one snapshot.
pub(crate) async fn snapshot(conn: &mut Conn<'_>) -> Result<Snapshot, sqlx::Error> {
    let mut tx = conn.begin().await?;
    let (catalog, checkpoint) = catalog(&mut tx.conn()).await?;
    let types = catalog.sorted().into_values();
    let types: Vec<Arc<TypeLayout>> = types.cloned().collect();
    let names: HashMap<i64, &TypeName> = types
        .iter()
        .map(|layout| (layout.id, &layout.definition.name))
        .collect();
    let sql = Sql::new("SELECT type, field, last FROM _sequence");
    let mut sequences = Vec::new();
    for row in sql.fetch_all(&mut tx.conn()).await? {
        if let Some(name) = names.get(&row.int(0)?) {
            sequences.push(((*name).clone(), row.text(1)?.into_owned(), row.int(2)?));
        }
    }
    let roles = roles(&mut tx.conn()).await?;
    let field_access = field_access(&mut tx.conn()).await?;
    Ok(Snapshot {
        field_access,
        checkpoint,
        types: types
            .iter()
            .map(|layout| (*layout.definition).clone())
            .collect(),
        roles,
        sequences,
    })
}

async fn field_access(conn: &mut Conn<'_>) -> Result<(u32, FieldAccess), sqlx::Error> {
    let sql = Sql::new("SELECT version, rules FROM _field_access");
    let Some(row) = sql.fetch_optional(conn).await? else {
        return Ok((0, FieldAccess::default()));
    };
    Ok((row.unsigned(0)?, row.json(1)?))
}

async fn roles(conn: &mut Conn<'_>) -> Result<Vec<(RoleName, u32, RoleFlags)>, sqlx::Error> {
    let sql = Sql::new("SELECT name, version, by_default, is_admin FROM _role ORDER BY name");
    let rows = sql.fetch_all(conn).await?;
    rows.iter()
        .map(|row| {
            let flags = RoleFlags {
                by_default: row.flag(2)?,
                is_admin: row.flag(3)?,
            };
            Ok((RoleName::from(&*row.text(0)?), row.unsigned(1)?, flags))
        })
        .collect()
}
