//! What databases say differently.

use skytrail_schema::types::FieldType;
use sqlx::postgres::PgDatabaseError;

use super::sql::{Arg, Kind, Sql};
use super::{postgres, sqlite};

/// A database's way of speaking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite's.
    #[default]
    Sqlite,
    /// PostgreSQL's, as far as its extensions are there.
    Postgres(Extensions),
}

/// Extensions of PostgreSQL that tables use. Which were there when the store was made is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extensions {
    /// `citext`: caseless text has that type, as in v1; it is compared by its folded form all the same.
    pub(crate) has_citext: bool,
    /// PostGIS: locations are geometries, as in v1, else points.
    pub(crate) has_postgis: bool,
}

/// Whether a statement or its values are at fault, not the database's disk, memory or file.
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
    /// Whether this is SQLite's.
    pub(crate) fn is_sqlite(self) -> bool {
        self == Self::Sqlite
    }

    /// Chooses between two ways to say something.
    pub(crate) fn choose<T>(self, sqlite: T, postgres: T) -> T {
        match self {
            Self::Sqlite => sqlite,
            Self::Postgres(_) => postgres,
        }
    }

    /// Returns the longest name in bytes; PostgreSQL would cut a longer one silently.
    pub(crate) fn max_name_bytes(self) -> usize {
        self.choose(usize::MAX, 63)
    }

    /// Adds that a text is one of a JSON array of texts.
    pub(crate) fn push_among(self, sql: &mut Sql, texts: &[&str]) {
        let texts = serde_json::json!(texts).to_string();
        sql.push(self.choose(
            " IN (SELECT value FROM json_each(",
            " IN (SELECT jsonb_array_elements_text(",
        ));
        sql.bind(Arg::Json(texts)).push("))");
    }

    /// Returns what stands before and behind a JSON array of texts, to have them as rows `w` with a
    /// `value`.
    pub(crate) fn texts_as_rows(self) -> (&'static str, &'static str) {
        self.choose(
            ("json_each(", ") AS w"),
            ("jsonb_array_elements_text(", ") AS w(value)"),
        )
    }

    /// Returns what says that two values of a field are the same.
    pub(crate) fn equals(self, kind: &FieldType) -> &'static str {
        match (self, kind) {
            (Self::Postgres(extensions), FieldType::Location) if !extensions.has_postgis => "~=",
            _ => "=",
        }
    }

    /// Whether an index can lie over a field's values, to look them up whole.
    pub(crate) fn indexes(self, kind: &FieldType) -> bool {
        self.is_sqlite() || !matches!(kind, FieldType::Location)
    }

    /// Whether an index can lie over a field's values in their order.
    pub(crate) fn sorts(self, kind: &FieldType) -> bool {
        let is_large = matches!(kind, FieldType::Json | FieldType::Geometry);
        self.is_sqlite() || self.indexes(kind) && !is_large
    }

    /// Returns what begins to collect a column's values as a JSON array, and what ends it. Of no rows
    /// it makes an empty array.
    pub(crate) fn collected(self) -> (&'static str, &'static str) {
        self.choose(
            ("json_group_array(", ")"),
            ("coalesce(json_agg(", "), '[]')"),
        )
    }

    /// Adds how many rows are wanted; no number for all.
    ///
    /// A limit that is bound makes SQLite prepare a statement anew each time, which may take longer
    /// than to run it.
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

    /// Returns the user columns of an owner who is nobody: PostgreSQL has him in the primary key, as v1
    /// has, where NULL cannot be.
    pub(crate) fn nobody(self) -> Arg {
        self.choose(Arg::Null, Arg::text(""))
    }

    /// Returns how a value of a kind is written where it is bound: the database need not guess.
    pub(crate) fn cast(self, kind: Kind) -> &'static str {
        match kind {
            Kind::Null => "",
            Kind::Bool => "::boolean",
            Kind::Int => "::bigint",
            Kind::Real => "::double precision",
            Kind::Text => "::text",
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
