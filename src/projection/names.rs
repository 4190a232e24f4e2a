//! Table and column names.
//!
//! Record types and fields can be called almost anything, and their names differ by case; the
//! database's names ignore (ASCII) case and reserve some names. So each type and field gets the
//! name nearest to its own, once, and the `_type` table remembers it. The choice depends only on
//! the order of events, so a rebuilt store has the same names.

use std::collections::HashSet;

use super::dialect::Dialect;

/// A quoted identifier of the database. Only this module creates them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    plain: String,
    quoted: String,
}

impl Name {
    /// Quotes an identifier; NUL, which SQL text cannot carry, becomes its picture `␀`.
    pub(crate) fn new(plain: &str) -> Self {
        let plain = plain.replace('\0', "\u{2400}");
        let quoted = format!("\"{}\"", plain.replace('"', "\"\""));
        Self { plain, quoted }
    }

    /// Creates the name of an index, or of a schema next to another one. The end of a name that the
    /// database would cut is replaced by a hash.
    pub(crate) fn of_index(plain: &str, dialect: Dialect) -> Self {
        let limit = dialect.max_name_bytes();
        if plain.len() <= limit {
            return Self::new(plain);
        }
        let ending = format!("~{:016x}", fnv(plain));
        Self::new(&format!("{}{ending}", cut(plain, limit - ending.len())))
    }

    /// Quotes an identifier cut to the length that the database cuts it to.
    pub(crate) fn cut(plain: &str, dialect: Dialect) -> Self {
        Self::new(cut(plain, dialect.max_name_bytes()))
    }

    /// Returns the name as in the database's catalog.
    pub(crate) fn as_str(&self) -> &str {
        &self.plain
    }

    /// Returns the name as SQL text.
    pub(crate) fn quoted(&self) -> &str {
        &self.quoted
    }
}

/// Hashes a string by FNV-1a. Stores contain the results, so it must never change.
pub(crate) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Returns the beginning of a string, at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
}

/// Columns that every table of PostgreSQL has already.
const HIDDEN_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

/// Types of PostgreSQL's extensions that our own SQL names without their schema.
const EXTENSION_TYPES: [&str; 2] = ["citext", "geometry"];

/// Tables and functions of SQLite that our own SQL reads like tables.
const SQLITE_TABLES: [&str; 2] = ["json_each", "dbstat"];

/// The names in use in one namespace: the tables, or the columns of one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameSet {
    taken: HashSet<String>,
    dialect: Dialect,
    /// Whether these are names of tables.
    has_tables: bool,
}

impl NameSet {
    /// Starts an empty namespace of columns.
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self {
            taken: HashSet::new(),
            dialect,
            has_tables: false,
        }
    }

    /// Starts an empty namespace of tables.
    pub(crate) fn of_tables(dialect: Dialect) -> Self {
        Self {
            has_tables: true,
            ..Self::new(dialect)
        }
    }

    /// Marks a name as used.
    pub(crate) fn reserve(&mut self, name: &str) {
        self.taken.insert(self.folded(name));
    }

    /// Returns the form in which names must differ.
    fn folded(&self, name: &str) -> String {
        self.dialect
            .choose(name.to_ascii_lowercase(), name.to_owned())
    }

    fn is_reserved(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        let by_database = self
            .dialect
            .choose(lower.starts_with("sqlite"), HIDDEN_COLUMNS.contains(&name));
        let hides = self.has_tables && self.hides(name, &lower);
        name.is_empty() || name.starts_with('_') || by_database || hides
    }

    /// Returns whether our SQL would find a table of this name in place of something that the
    /// database has, or the other way round.
    fn hides(&self, name: &str, lower: &str) -> bool {
        self.dialect.choose(
            SQLITE_TABLES.contains(&lower) || lower.starts_with("pragma_"),
            EXTENSION_TYPES.contains(&name) || name.starts_with("pg_"),
        )
    }

    /// Finds the free name nearest to `name` and marks it as used.
    ///
    /// Names that start with `_` or belong to the database get a `~` in front. Among names that the
    /// database does not tell apart, the later ones get a number at the end.
    pub(crate) fn take(&mut self, name: &str) -> Name {
        let limit = self.dialect.max_name_bytes();
        let base = if self.is_reserved(name) {
            format!("~{name}")
        } else {
            name.to_owned()
        };
        // NUL gets longer when it is replaced. So does U+0001 in PostgreSQL, where it marks what is
        // escaped in strings, such as those that triggers write with names in them.
        let mut base = Name::new(&base).plain;
        if !self.dialect.is_sqlite() {
            base = base.replace('\u{1}', "\u{2401}");
        }
        let mut name = Name::new(cut(&base, limit));
        let mut number = 2_u32;
        while !self.taken.insert(self.folded(name.as_str())) {
            let ending = format!("~{number}");
            name = Name::new(&format!("{}{ending}", cut(&base, limit - ending.len())));
            number += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::dialect::Extensions;

    #[test]
    fn ordinary_names_stay_as_they_are() {
        let mut set = NameSet::default();
        for name in ["note", "noteOrder", "colon:fever", "a.b", "select", "größe"] {
            assert_eq!(set.take(name).as_str(), name);
        }
    }

    #[test]
    fn names_that_clash_are_told_apart() {
        let mut set = NameSet::default();
        let taken: Vec<String> = [
            "note", "Note", "NOTE", "note~2", "_type", "", "sqlite_x", "~",
        ]
        .iter()
        .map(|name| set.take(name).as_str().to_owned())
        .collect();
        assert_eq!(
            taken,
            [
                "note",
                "Note~2",
                "NOTE~3",
                "note~2~2",
                "~_type",
                "~",
                "~sqlite_x",
                "~~2"
            ]
        );
    }

    #[test]
    fn postgres_tells_case_apart_and_cuts_long_names() {
        let mut set = NameSet::new(Dialect::Postgres(Extensions::default()));
        let long = "ö".repeat(40);
        let taken: Vec<String> = ["note", "Note", "sqlite_x", "xmin", "_a", &long, &long]
            .iter()
            .map(|name| set.take(name).as_str().to_owned())
            .collect();
        let (first, second) = ("ö".repeat(31), format!("{}~2", "ö".repeat(30)));
        let expected = ["note", "Note", "sqlite_x", "~xmin", "~_a", &first, &second];
        assert_eq!(taken, expected);
        assert_eq!(set.take("a\u{1}b").as_str(), "a\u{2401}b");
        let index = Name::of_index(&long, set.dialect);
        assert!(index.as_str().len() <= 63, "{index:?}");
        assert_ne!(index, Name::of_index(&long.repeat(2), set.dialect));
    }

    #[test]
    fn tables_do_not_hide_what_the_database_has() {
        let postgres = Dialect::Postgres(Extensions::default());
        let mut set = NameSet::of_tables(postgres);
        for name in ["pg_class", "citext", "geometry"] {
            assert_eq!(set.take(name).as_str(), format!("~{name}"));
        }
        assert_eq!(set.take("json_each").as_str(), "json_each");
        let mut set = NameSet::of_tables(Dialect::Sqlite);
        for name in ["JSON_each", "dbstat", "pragma_index_list"] {
            assert_eq!(set.take(name).as_str(), format!("~{name}"));
        }
        assert_eq!(set.take("pg_class").as_str(), "pg_class");
        assert_eq!(NameSet::new(postgres).take("pg_class").as_str(), "pg_class");
    }

    #[test]
    fn quotes_and_nul_cannot_leave_the_identifier() {
        assert_eq!(Name::new("a\"b").quoted(), "\"a\"\"b\"");
        assert_eq!(Name::new("a\0b").quoted(), "\"a\u{2400}b\"");
    }
}
