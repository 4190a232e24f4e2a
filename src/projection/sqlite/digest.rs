//! Digests of what a store holds: two stores with the same digest hold the same rows.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Connection as _, Row, TypeInfo as _, Value as _, ValueRef as _};

use super::{OpenError, StoreOptions, format_of, reader_options};
use crate::projection::names::Name;
use crate::projection::sql::Sql;

/// The digest of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableDigest {
    /// The number of rows.
    pub num_rows: u64,
    /// The sum of the rows' hashes: their order makes no difference.
    pub sum: u64,
}

/// Digests every table of the store in a file from one snapshot; returns the checkpoint as well.
///
/// Tables that say how the store serves its queries or continues, not what it holds, are left out.
///
/// # Errors
/// The file does not open or cannot be read, or a newer program wrote it.
pub async fn digest(path: &Path) -> Result<(u64, BTreeMap<String, TableDigest>), OpenError> {
    let mut conn = reader_options(path, &StoreOptions::default())
        .connect()
        .await?;
    let mut tx = conn.begin().await?;
    format_of(&mut tx).await?;
    let checkpoint: i64 = sqlx::query("SELECT position FROM _checkpoint")
        .fetch_one(&mut *tx)
        .await?
        .try_get(0)?;
    let names = sqlx::query(
        "SELECT name FROM sqlite_schema WHERE type = 'table' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_index%' ESCAPE '\\' \
         AND name <> '_lost'",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut digests = BTreeMap::new();
    for row in names {
        let name: String = row.try_get(0)?;
        let digest = digest_table(&mut tx, &name).await?;
        digests.insert(name, digest);
    }
    tx.rollback().await?;
    conn.close().await?;
    Ok((u64::try_from(checkpoint).unwrap_or_default(), digests))
}

async fn digest_table(conn: &mut SqliteConnection, name: &str) -> Result<TableDigest, sqlx::Error> {
    let mut sql = Sql::new("SELECT * FROM ");
    sql.name(&Name::new(name));
    let mut rows = sql.into_text().stream(conn)?;
    let mut digest = TableDigest::default();
    while let Some(row) = rows.try_next().await? {
        digest.num_rows += 1;
        digest.sum = digest.sum.wrapping_add(hash_row(&row)?);
    }
    Ok(digest)
}

fn hash_row(row: &SqliteRow) -> Result<u64, sqlx::Error> {
    let mut hasher = DefaultHasher::new();
    for index in 0..row.len() {
        let value = row.try_get_raw(index)?;
        let kind = value.type_info();
        kind.name().hash(&mut hasher);
        if value.is_null() {
            continue;
        }
        match kind.name() {
            "INTEGER" => value.to_owned().decode::<i64>().hash(&mut hasher),
            "REAL" => value.to_owned().decode::<f64>().to_bits().hash(&mut hasher),
            _ => value.to_owned().decode::<String>().hash(&mut hasher),
        }
    }
    Ok(hasher.finish())
}
