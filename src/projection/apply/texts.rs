//! The statements that write records; each text is built once.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::projection::dialect::Dialect;
use crate::projection::layout::{Table, stored_columns};
use crate::projection::names::Name;
use crate::projection::sql::{Kind, MAX_VALUES, SafeText, Sql};

/// What a statement does to its records.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shape {
    /// Deletes by key.
    Delete,
    /// Writes whole rows, and replaces any with the same keys.
    Insert,
    /// Writes whole rows; an existing row keeps its place.
    Replace,
    /// Changes the columns at these indices of the row.
    Patch(Vec<usize>),
}

/// Begins a statement that adds rows, or fails.
///
/// On a file the statement need not be able to undo itself alone, for which it would copy the pages
/// that it changes. After an error, the caller undoes the transaction.
pub(super) fn insert_or_fail(dialect: Dialect) -> &'static str {
    dialect.choose("INSERT OR FAIL INTO ", "INSERT INTO ")
}

/// How many statement texts are cached.
const MAX_TEXTS: NonZeroUsize = NonZeroUsize::new(128).unwrap();

/// The statements in use, per type.
pub(super) struct Texts(LruCache<(i64, usize, Shape), SafeText>);

impl Default for Texts {
    fn default() -> Self {
        Self(LruCache::new(MAX_TEXTS))
    }
}

impl Texts {
    /// Clears the cache, since a type's columns have changed.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the statement that handles `num_rows` records of the type with number `id`.
    pub(super) fn get(
        &mut self,
        id: i64,
        table: &Table,
        shape: &Shape,
        num_rows: usize,
    ) -> SafeText {
        let key = (id, num_rows, shape.clone());
        self.0
            .get_or_insert(key, || make(table, shape, num_rows).into_text())
            .clone()
    }
}

fn make(table: &Table, shape: &Shape, num_rows: usize) -> Sql {
    match shape {
        Shape::Insert if table.dialect.is_sqlite() => {
            insert("INSERT OR REPLACE INTO ", table, num_rows)
        }
        Shape::Insert => replace(table, num_rows, 0),
        Shape::Replace => replace(table, num_rows, 2),
        Shape::Patch(places) if num_rows == 1 => patch_one(table, places),
        Shape::Patch(places) => patch_many(table, places, num_rows),
        Shape::Delete => delete(table, num_rows),
    }
}

fn insert(verb: &'static str, table: &Table, num_rows: usize) -> Sql {
    let mut sql = Sql::new(verb);
    // A type can be called `excluded`.
    sql.name(&table.name).push(" AS t (");
    push_system_names(&mut sql, table);
    for name in table.field_names() {
        sql.push(",").name(name);
    }
    sql.push(") VALUES ");
    let kinds: Vec<Kind> = table.kinds().collect();
    push_rows(&mut sql, &kinds, num_rows);
    sql
}

/// Builds an upsert; existing rows keep their first `num_kept` columns.
fn replace(table: &Table, num_rows: usize, num_kept: usize) -> Sql {
    let mut sql = insert("INSERT INTO ", table, num_rows);
    sql.push(" ON CONFLICT (_id) DO UPDATE SET ");
    let replaced = stored_columns(table.dialect).iter().skip(num_kept);
    sql.separated(replaced, |sql, name| {
        sql.push(name).push("=excluded.").push(name);
    });
    for name in table.field_names() {
        sql.push(",").name(name).push("=excluded.").name(name);
    }
    sql
}

/// Builds the statement; its values are the columns in order, then the key.
fn patch_one(table: &Table, places: &[usize]) -> Sql {
    let mut sql = Sql::new("UPDATE ");
    sql.name(&table.name).push(" SET ");
    sql.separated(places, |sql, place| {
        push_column(sql, table, *place);
        sql.push("=").hole(kind_at(table, *place));
    });
    sql.push(" WHERE _id=").hole(Kind::Text);
    sql
}

/// Builds the statement; its values per row are the columns in order, then the key.
fn patch_many(table: &Table, places: &[usize], num_rows: usize) -> Sql {
    // No table of a type has such a name.
    let mut sql = Sql::new("WITH _v(");
    for index in 0..places.len() {
        sql.alias('c', index).push(",");
    }
    sql.push("k) AS (VALUES ");
    let kinds = places.iter().map(|place| kind_at(table, *place));
    let kinds: Vec<Kind> = kinds.chain([Kind::Text]).collect();
    push_rows(&mut sql, &kinds, num_rows);
    sql.push(") UPDATE ").name(&table.name).push(" SET ");
    sql.separated(places.iter().enumerate(), |sql, (index, place)| {
        push_column(sql, table, *place);
        sql.push("=_v.").alias('c', index);
    });
    sql.push(" FROM _v WHERE ")
        .name(&table.name)
        .push("._id=_v.k");
    sql
}

fn delete(table: &Table, num_rows: usize) -> Sql {
    let mut sql = Sql::new("DELETE FROM ");
    sql.name(&table.name)
        .push(" WHERE _id IN (")
        .holes(std::iter::repeat_n(Kind::Text, num_rows))
        .push(")");
    sql
}

fn kind_at(table: &Table, place: usize) -> Kind {
    table.kinds().nth(place).unwrap_or(Kind::Null)
}

fn push_system_names(sql: &mut Sql, table: &Table) {
    sql.separated(stored_columns(table.dialect), |sql, name| {
        sql.push(name);
    });
}

fn push_column(sql: &mut Sql, table: &Table, place: usize) {
    match (
        stored_columns(table.dialect).get(place),
        table.field_name_at(place),
    ) {
        (Some(name), _) => sql.push(name),
        (None, Some(name)) => sql.name(name),
        // The indices are from this table; one from another table leads to a statement that the
        // database refuses.
        (None, None) => sql.name(&Name::new("")),
    };
}

/// Adds `num_rows` groups of placeholders.
pub(super) fn push_rows(sql: &mut Sql, kinds: &[Kind], num_rows: usize) {
    sql.separated(0..num_rows, |sql, _| {
        sql.push("(").holes(kinds.iter().copied()).push(")");
    });
}

/// Splits `rows` into the few statement sizes that exist, so that each text is used often.
pub(super) fn in_chunks<T>(
    mut rows: Vec<T>,
    sizes: &'static [usize],
    width: usize,
) -> impl Iterator<Item = Vec<T>> {
    rows.reverse();
    std::iter::from_fn(move || {
        let fits =
            |size: &&usize| **size <= rows.len() && (**size == 1 || **size * width <= MAX_VALUES);
        let size = *sizes.iter().find(fits)?;
        let rest = rows.len() - size;
        let mut chunk = rows.split_off(rest);
        chunk.reverse();
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_order_and_respect_the_bound() {
        let sizes: Vec<usize> = in_chunks((0..23).collect(), &[16, 4, 1], 10)
            .map(|chunk| chunk.len())
            .collect();
        assert_eq!(sizes, [16, 4, 1, 1, 1]);
        let all: Vec<i32> = in_chunks((0..23).collect(), &[16, 4, 1], 10)
            .flatten()
            .collect();
        assert_eq!(all, (0..23).collect::<Vec<_>>());
        let wide = in_chunks(vec![0; 17], &[16, 4, 1], 2_000);
        assert_eq!(wide.map(|chunk| chunk.len()).max(), Some(4));
    }
}
