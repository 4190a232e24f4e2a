//! Table and column names.
//!
//! Record types and fields may be called almost anything, and their names
//! differ by case; the database's names ignore (ASCII) case and reserve some. So
//! each type and field gets the name that is nearest to its own, once, and the
//! `_type` table remembers which. The choice depends only on the order of
//! events, so a rebuilt store has the same names.

use std::collections::HashSet;

/// An identifier of the database, quoted. Can only be made here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Name {
    plain: String,
    quoted: String,
}

impl Name {
    /// Quotes an identifier; NUL, which no SQL text can carry, becomes its picture `␀`.
    pub(crate) fn new(plain: &str) -> Self {
        let plain = plain.replace('\0', "\u{2400}");
        let quoted = format!("\"{}\"", plain.replace('"', "\"\""));
        Self { plain, quoted }
    }

    /// Returns the name as the database's catalog has it.
    pub(crate) fn as_str(&self) -> &str {
        &self.plain
    }

    /// Returns the name as SQL text.
    pub(crate) fn quoted(&self) -> &str {
        &self.quoted
    }
}

/// The names in use in one namespace: the tables, or the columns of one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameSet(HashSet<String>);

impl NameSet {
    /// Marks a name as used.
    pub(crate) fn reserve(&mut self, name: &str) {
        self.0.insert(name.to_ascii_lowercase());
    }

    /// Finds the free name nearest to `wanted` and marks it as used.
    ///
    /// Names that start with `_` or `sqlite_` belong to the system and get a `~` in front; of names
    /// that differ only in case the later ones get a number behind.
    pub(crate) fn take(&mut self, wanted: &str) -> Name {
        let lower = wanted.to_ascii_lowercase();
        let is_reserved = lower.is_empty() || lower.starts_with('_') || lower.starts_with("sqlite");
        let base = if is_reserved {
            format!("~{wanted}")
        } else {
            wanted.to_owned()
        };
        let mut name = Name::new(&base);
        let mut number = 2_u32;
        while !self.0.insert(name.as_str().to_ascii_lowercase()) {
            name = Name::new(&format!("{base}~{number}"));
            number += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn quotes_and_nul_cannot_leave_the_identifier() {
        assert_eq!(Name::new("a\"b").quoted(), "\"a\"\"b\"");
        assert_eq!(Name::new("a\0b").quoted(), "\"a\u{2400}b\"");
    }
}
