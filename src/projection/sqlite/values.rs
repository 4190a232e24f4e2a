//! Values in the form that SQLite stores.

use sqlx::Arguments as _;
use sqlx::sqlite::SqliteArguments;

use crate::projection::sql::Arg;

/// Binds values. A file knows numbers and strings only: a boolean is 0 or 1, a time its
/// microseconds, a point a JSON array.
pub(in crate::projection) fn arguments(args: Vec<Arg>) -> Result<SqliteArguments, sqlx::Error> {
    let mut bound = SqliteArguments::default();
    bound.reserve(args.len(), 0);
    for arg in args {
        match arg {
            Arg::Null => bound.add(None::<i64>),
            Arg::Bool(value) => bound.add(i64::from(value)),
            Arg::Int(number) => bound.add(number),
            Arg::Real(number) => bound.add(number),
            Arg::Text(text) | Arg::Json(text) | Arg::Catalog(text) => bound.add(text),
            Arg::Time(time) => bound.add(time.micros()),
            Arg::Point(point) => bound.add(serde_json::json!([point.lng, point.lat]).to_string()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}
