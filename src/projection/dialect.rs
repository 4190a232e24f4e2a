//! Where the databases' SQL differs.

use skytrail_schema::types::FieldType;
use sqlx::postgres::PgDatabaseError;

use super::sql::{Arg, Kind, Sql};
use super::{postgres, sqlite};

/// The SQL of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite's.
    #[default]
    Sqlite,
    /// PostgreSQL's, with the extensions that are available.
    Postgres(Extensions),
}

/// PostgreSQL extensions that tables use. The store remembers which of them existed when it was
/// created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// `citext`: the type of caseless strings, as in v1. They are compared by their folded form all
    /// the same.
    pub(crate) has_citext: bool,
    /// PostGIS: locations are geometries, as in v1, and points without it.
    pub(crate) has_postgis: bool,
}

/// Returns whether a statement or its values are at fault, and not the database's disk, memory or
/// file.
pub(crate) fn is_refusal(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            match error.try_downcast_ref::<PgDatabaseError>() {
                Some(_) => postgres::is_about_data(&code),
                None => sqlite::is_about_data(&code),
            }
        }
        _ => false,
    }
}

impl Dialect {
    /// Returns whether this is SQLite's.
    pub(crate) fn is_sqlite(self) -> bool {
        self == Self::Sqlite
    }

    /// Chooses the variant for this database.
    pub(crate) fn choose<T>(self, sqlite: T, postgres: T) -> T {
        match self {
            Self::Sqlite => sqlite,
            Self::Postgres(_) => postgres,
        }
    }

    /// Returns the maximum length of a name in bytes; PostgreSQL would cut a longer one silently.
    pub(crate) fn max_name_bytes(self) -> usize {
        self.choose(usize::MAX, 63)
    }

    /// Adds the condition that a string is in a JSON array of strings.
    pub(crate) fn push_among(self, sql: &mut Sql, texts: &[&str]) {
        let texts = serde_json::json!(texts).to_string();
        sql.push(self.choose(
            " IN (SELECT value FROM json_each(",
            " IN (SELECT jsonb_array_elements_text(",
        ));
        sql.bind(Arg::Json(texts)).push("))");
    }

    /// Returns what goes before and after a JSON array of strings to turn it into rows `w` with a
    /// column `value`.
    pub(crate) fn texts_as_rows(self) -> (&'static str, &'static str) {
        self.choose(
            ("json_each(", ") AS w"),
            ("jsonb_array_elements_text(", ") AS w(value)"),
        )
    }

    /// Returns the operator that compares two values of a field for equality.
    pub(crate) fn equals(self, kind: &FieldType) -> &'static str {
        match (self, kind) {
            (Self::Postgres(extensions), FieldType::Location) if !extensions.has_postgis => "~=",
            _ => "=",
        }
    }

    /// Returns whether a field's values can be indexed for looking them up whole.
    pub(crate) fn indexes(self, kind: &FieldType) -> bool {
        self.is_sqlite() || !matches!(kind, FieldType::Location)
    }

    /// Returns whether a field's values can be indexed in their order.
    pub(crate) fn sorts(self, kind: &FieldType) -> bool {
        let is_large = matches!(kind, FieldType::Json | FieldType::Geometry);
        self.is_sqlite() || self.indexes(kind) && !is_large
    }

    /// Returns what goes before and after a column to collect its values as a JSON array, which is
    /// empty when there are no rows.
    pub(crate) fn collected(self) -> (&'static str, &'static str) {
        self.choose(
            ("json_group_array(", ")"),
            ("coalesce(json_agg(", "), '[]')"),
        )
    }

    /// Adds a limit on the number of rows; `None` means all rows.
    ///
    /// A bound limit makes SQLite prepare the statement anew each time, which can take longer than
    /// running it.
    pub(crate) fn push_limit(self, sql: &mut Sql, limit: Option<u64>) {
        match limit {
            Some(limit) if self.is_sqlite() => {
                sql.push(" LIMIT ").number(limit);
            }
            Some(limit) => {
                sql.push(" LIMIT ").bind(Arg::unsigned(limit));
            }
            None => {
                sql.push(self.choose(" LIMIT -1", ""));
            }
        }
    }

    /// Returns the owner column's value when there is no owner. PostgreSQL has the owner in the
    /// primary key, as in v1, where NULL is not allowed.
    pub(crate) fn nobody(self) -> Arg {
        self.choose(Arg::Null, Arg::text(""))
    }

    /// Returns the cast for a bound value of a kind, so that the database need not guess its type.
    pub(crate) fn cast(self, kind: Kind) -> &'static str {
        match kind {
            Kind::Null => "",
            Kind::Bool => "::boolean",
            Kind::Int => "::bigint",
            Kind::Real => "::double precision",
            Kind::Text | Kind::Catalog => "::text",
            Kind::Time => "::timestamp",
            Kind::Json => "::jsonb",
            Kind::Point => match self {
                Self::Postgres(Extensions {
                    has_postgis: true, ..
                }) => "::bytea::geometry",
                _ => "::point",
            },
        }
    }
}
