//! Reads v1's database: every row arrives as one JSON object.
//!
//! This is the only place of the import that builds SQL. Its text consists of literals and quoted
//! names; values are bound.

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value as Json};
use skytrail_schema::json::{self, Members};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::causes::with_causes;
use crate::tls::use_ring;

/// A row.
pub(super) type Row = Map<String, Json>;

/// Rows as they arrive, each with its size in bytes.
pub(super) type Rows<'a> = BoxStream<'a, Result<(Row, usize), String>>;

/// How a column is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As JSON represents it.
    Plain,
    /// A time: microseconds since 1970 as a string, or `infinity`.
    Time,
    /// A point: an array of two numbers.
    Point,
    /// Any other shape: GeoJSON.
    Shape,
}

/// Part of a `SELECT`: an expression and its name.
#[derive(Clone, Debug)]
pub(super) struct Select {
    /// The column.
    pub(super) column: String,
    /// How it is read.
    pub(super) reading: Reading,
}

/// See the module's overview.
pub(super) struct Source {
    conn: PgConnection,
    schema: String,
}

impl Source {
    /// Connects, and begins to read as of now.
    pub(super) async fn open(url: &str, app: &str) -> Result<Self, String> {
        use_ring();
        let options: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| format!("the database's address: {error}"))?;
        let options = options.application_name("skytrail import");
        let conn = PgConnection::connect_with(&options).await;
        let mut conn = conn.map_err(|error| {
            let why = with_causes(&error);
            format!("the database cannot be reached: {why}")
        })?;
        for setting in [
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            "SET LOCAL TimeZone = 'UTC'",
            "SET LOCAL extra_float_digits = 1",
            "SET LOCAL statement_timeout = 0",
        ] {
            let set = conn.execute(setting).await;
            set.map_err(|error| failed(&error))?;
        }
        let schema = format!("app_{}", app.replace(['.', ':'], "_"));
        let mut source = Self { conn, schema };
        source.check().await?;
        let path = format!(
            "SET LOCAL search_path TO {}, public",
            quoted(&source.schema)
        );
        let set = source.conn.execute(AssertSqlSafe(path)).await;
        set.map_err(|error| failed(&error))?;
        Ok(source)
    }

    /// Checks that the database has the v1 app.
    async fn check(&mut self) -> Result<(), String> {
        let sql = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'app\\_%' ORDER BY 1";
        let found: Result<Vec<String>, _> = sqlx::query_scalar(sql).fetch_all(&mut self.conn).await;
        let found = found.map_err(|error| failed(&error))?;
        if found.contains(&self.schema) {
            return Ok(());
        }
        let apps: Vec<&str> = found
            .iter()
            .filter_map(|it| it.strip_prefix("app_"))
            .collect();
        Err(format!(
            "there is no schema {:?}; name the app with --app (there are: {})",
            self.schema,
            apps.join(", ")
        ))
    }

    /// Returns the columns of all tables: name, type, reference target and sequence.
    pub(super) async fn columns(&mut self) -> Result<Vec<Row>, String> {
        const SQL: &str = "\
SELECT c.relname AS \"table\", a.attname AS \"column\", t.typname AS \"type\", \
  format_type(a.atttypid, a.atttypmod) AS \"form\", \
  (SELECT f.relname FROM pg_constraint k JOIN pg_class f ON f.oid = k.confrelid \
    WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum] LIMIT 1) \
    AS \"target\", \
  pg_get_serial_sequence(quote_ident(n.nspname) || '.' || quote_ident(c.relname), a.attname) \
    AS \"sequence\" \
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
  JOIN pg_type t ON t.oid = a.atttypid \
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname, a.attnum";
        let schema = self.schema.clone();
        self.all(SQL, Some(&schema)).await
    }

    /// Returns the sets of columns with a unique constraint.
    pub(super) async fn unique(&mut self) -> Result<Vec<Row>, String> {
        const SQL: &str = "\
SELECT c.relname AS \"table\", k.conname AS \"name\", \
  (SELECT array_agg(a.attname ORDER BY p.place) \
    FROM unnest(k.conkey) WITH ORDINALITY AS p (number, place) \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.number) AS \"columns\" \
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
  JOIN pg_namespace n ON n.oid = c.relnamespace \
WHERE n.nspname = $1 AND k.contype = 'u' ORDER BY c.relname, k.conname";
        let schema = self.schema.clone();
        self.all(SQL, Some(&schema)).await
    }

    /// Returns the last number that a sequence gave; `sequence` is its name as the database wrote
    /// it.
    pub(super) async fn last_number(&mut self, sequence: &str) -> Result<Option<i64>, String> {
        let sql = format!("SELECT last_value, is_called FROM {sequence}");
        let row = self.all(&sql, None).await?.pop().unwrap_or_default();
        let is_called = row.get("is_called").and_then(Json::as_bool) == Some(true);
        let last = row.get("last_value").and_then(Json::as_i64);
        Ok(last.filter(|_| is_called))
    }

    /// Returns all records of a table, in the order of their creation.
    pub(super) fn records(&mut self, table: &str, columns: &[Select]) -> Rows<'_> {
        let columns: Vec<String> = columns.iter().map(expression).collect();
        let sql = format!(
            "SELECT {} FROM {}.{} ORDER BY _created_at, _id",
            columns.join(", "),
            quoted(&self.schema),
            quoted(table),
        );
        self.rows_of(&sql, None)
    }

    /// Returns the rows of a query over the app's tables.
    pub(super) fn query(&mut self, sql: &'static str) -> Rows<'_> {
        self.rows_of(sql, None)
    }

    fn rows_of(&mut self, sql: &str, argument: Option<&str>) -> Rows<'_> {
        // A column with this name would be taken for the row, but field names begin with no
        // underscore.
        let sql = format!("SELECT row_to_json(_row)::text FROM ({sql}) _row");
        let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql));
        if let Some(argument) = argument {
            query = query.bind(argument.to_owned());
        }
        let rows = query.fetch(&mut self.conn);
        let row = |row: Result<String, sqlx::Error>| {
            let text = row.map_err(|error| failed(&error))?;
            let row = json::typed(&text);
            let Members(row) = row.map_err(|error| format!("a row is not JSON: {error}"))?;
            Ok((row, text.len()))
        };
        rows.map(row).boxed()
    }

    async fn all(&mut self, sql: &str, argument: Option<&str>) -> Result<Vec<Row>, String> {
        let rows = self.rows_of(sql, argument).map_ok(|(row, _)| row);
        rows.try_collect().await
    }
}

fn expression(select: &Select) -> String {
    let column = quoted(&select.column);
    match select.reading {
        Reading::Plain => column,
        Reading::Time => format!(
            "CASE WHEN isfinite({column}) \
             THEN (extract(epoch FROM {column}) * 1000000)::bigint::text \
             ELSE {column}::text END AS {column}"
        ),
        Reading::Point => format!(
            "CASE WHEN {column} IS NOT NULL \
             THEN json_build_array(ST_X({column}), ST_Y({column})) END AS {column}"
        ),
        Reading::Shape => format!("ST_AsGeoJSON({column}, 15, 0)::json AS {column}"),
    }
}

/// Quotes a name.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn failed(error: &sqlx::Error) -> String {
    format!("the database failed: {}", with_causes(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_their_quotes() {
        let select = Select {
            column: r#"a"b"#.to_owned(),
            reading: Reading::Plain,
        };
        assert_eq!(expression(&select), r#""a""b""#);
    }
}
