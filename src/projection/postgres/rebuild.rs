//! Stores in PostgreSQL that are filled next to the one in use, in a schema of their own, and then
//! replace it; and digests of what a store holds.

use std::collections::BTreeMap;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::claim;
use super::schema::{
    StoreOrigin, connect_beside, open_beside, origin_of, schema_beside, schema_of,
};
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::names::{Name, fnv};
use crate::projection::sql::{Arg, Sql};
use crate::projection::sqlite::{OpenError, TableDigest};

/// The purpose in the name of a store that was replaced and is kept.
const OLD: &str = "old";

/// The purposes of stores that are filled next to the one in use.
const FILLED: [&str; 2] = ["new", "verify"];

/// How long to wait for another session that drops leftovers or looks at them.
const SHORTLY: &str = "SET lock_timeout='10s'";

/// A schema next to the store in use, which a command is filling: nobody takes it for a leftover.
///
/// The lock belongs to the connection, so it ends with the command, however that ends.
pub struct HeldStore {
    conn: PgConnection,
}

impl HeldStore {
    /// Holds the store of `app`, which need not exist yet, until this is dropped or closed.
    ///
    /// # Errors
    /// Another command holds it, or the database failed.
    pub async fn hold(url: &str, app: &str) -> Result<Self, OpenError> {
        let schema = schema_of(app);
        let mut conn = connect_beside(url, &schema).await?;
        {
            let conn = &mut Conn::server(&mut conn, Extensions::default());
            Sql::new(SHORTLY).execute(conn).await?;
            let mut lock = Sql::new("SELECT pg_advisory_lock(");
            lock.bind(Arg::Int(lock_of(&schema))).push(")");
            lock.execute(conn).await?;
        }
        Ok(Self { conn })
    }

    /// Releases the store.
    ///
    /// # Errors
    /// The database failed.
    pub async fn close(self) -> Result<(), OpenError> {
        Ok(self.conn.close().await?)
    }
}

/// The lock number of a store that is being filled; it differs from that for creating the schema.
fn lock_of(schema: &Name) -> i64 {
    i64::from_ne_bytes(fnv(&format!("filled {}", schema.as_str())).to_ne_bytes())
}

/// Drops what killed commands have filled next to the store of `app`. Returns `false` when a
/// command is still filling something.
///
/// # Errors
/// The database failed.
pub async fn drop_leftovers(url: &str, app: &str) -> Result<bool, OpenError> {
    let schema = schema_of(app);
    let mut conn = connect_beside(url, &schema).await?;
    let dropped = {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        Sql::new(SHORTLY).execute(conn).await?;
        drop_left_of(conn, schema.as_str()).await
    };
    conn.close().await?;
    Ok(dropped?)
}

async fn drop_left_of(conn: &mut Conn<'_>, schema: &str) -> Result<bool, sqlx::Error> {
    let mut is_free = true;
    for purpose in FILLED {
        let leftover = schema_beside(schema, purpose);
        let mut tx = conn.begin_writing().await?;
        if !exists(&mut tx.conn(), &leftover).await? {
            tx.rollback().await?;
            continue;
        }
        let mut lock = Sql::new("SELECT pg_try_advisory_xact_lock(");
        lock.bind(Arg::Int(lock_of(&leftover))).push(")");
        let row = lock.fetch_optional(&mut tx.conn()).await?;
        if row.map_or(Ok(false), |row| row.flag(0))? {
            drop_in(&mut tx.conn(), &leftover).await?;
            tracing::warn!(
                schema = leftover.as_str(),
                "a store left behind by a command is dropped"
            );
        } else {
            is_free = false;
        }
        tx.commit().await?;
    }
    Ok(is_free)
}

/// Names a store next to the one of `app`: no app's name contains this character.
pub fn beside(app: &str, purpose: &str) -> String {
    format!("{app}~{purpose}")
}

/// Replaces the store of `app` by that of `new`. The old one is kept under the suffix `~old`.
///
/// # Errors
/// The database failed; nothing has changed.
pub async fn switch_schemas(url: &str, new: &str, app: &str) -> Result<(), OpenError> {
    let (current, new) = (schema_of(app), schema_of(new));
    let old = schema_of(&beside(app, OLD));
    let mut conn = connect_beside(url, &current).await?;
    {
        let mut conn = Conn::server(&mut conn, Extensions::default());
        let mut tx = conn.begin_writing().await?;
        claim::take_for_now(&mut tx.conn(), &current).await?;
        drop_in(&mut tx.conn(), &old).await?;
        if exists(&mut tx.conn(), &current).await? {
            rename(&mut tx.conn(), &current, &old).await?;
        }
        rename(&mut tx.conn(), &new, &current).await?;
        tx.commit().await?;
    }
    conn.close().await?;
    Ok(())
}

/// Drops the store of `app`, if there is one.
///
/// # Errors
/// The database failed.
pub async fn drop_store(url: &str, app: &str) -> Result<(), OpenError> {
    let schema = schema_of(app);
    let mut conn = connect_beside(url, &schema).await?;
    let wrapped = &mut Conn::server(&mut conn, Extensions::default());
    drop_in(wrapped, &schema).await?;
    conn.close().await?;
    Ok(())
}

/// Drops the replaced store that was kept for the connection's store, and leftovers next to it;
/// `false` as in [`drop_leftovers`].
pub(super) async fn drop_copies(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    let row = Sql::new("SELECT current_schema::text");
    let row = row.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let schema = row.catalog(0)?;
    drop_in(conn, &schema_beside(schema, OLD)).await?;
    drop_left_of(conn, schema).await
}

async fn drop_in(conn: &mut Conn<'_>, schema: &Name) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("DROP SCHEMA IF EXISTS ");
    sql.name(schema).push(" CASCADE");
    sql.execute(conn).await.map(drop)
}

async fn rename(conn: &mut Conn<'_>, from: &Name, to: &Name) -> Result<(), sqlx::Error> {
    let mut sql = Sql::new("ALTER SCHEMA ");
    sql.name(from).push(" RENAME TO ").name(to);
    sql.execute(conn).await.map(drop)
}

async fn exists(conn: &mut Conn<'_>, schema: &Name) -> Result<bool, sqlx::Error> {
    let mut sql = Sql::new("SELECT 1 FROM pg_namespace WHERE nspname=");
    sql.bind(Arg::name(schema));
    Ok(sql.fetch_optional(conn).await?.is_some())
}

/// Returns a store's checkpoint and origin.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn origin_server(url: &str, app: &str) -> Result<(u64, StoreOrigin), OpenError> {
    let (mut conn, extensions) = open_beside(url, app).await?;
    let found = {
        let mut conn = Conn::server(&mut conn, extensions);
        let mut tx = conn.begin().await?;
        let checkpoint = checkpoint_of(&mut tx.conn()).await?;
        let origin = origin_of(&mut tx.conn()).await?;
        tx.rollback().await?;
        (checkpoint, origin)
    };
    conn.close().await?;
    Ok(found)
}

async fn checkpoint_of(conn: &mut Conn<'_>) -> Result<u64, sqlx::Error> {
    let row = Sql::new("SELECT position FROM _checkpoint");
    let row = row.fetch_optional(conn).await?;
    row.ok_or(sqlx::Error::RowNotFound)?.unsigned(0)
}

/// Digests every table of a store from one snapshot; returns the checkpoint as well.
///
/// Some tables are left out: those that say how the store serves its queries or continues, not what
/// it holds; and those for what other programs change by SQL, which the log does not have.
///
/// # Errors
/// The store does not open or cannot be read.
pub async fn digest_server(
    url: &str,
    app: &str,
) -> Result<(u64, BTreeMap<String, TableDigest>), OpenError> {
    let (mut conn, extensions) = open_beside(url, app).await?;
    let digests = digest_tables(&mut conn, extensions).await?;
    conn.close().await?;
    Ok(digests)
}

async fn digest_tables(
    conn: &mut PgConnection,
    extensions: Extensions,
) -> Result<(u64, BTreeMap<String, TableDigest>), sqlx::Error> {
    let mut conn = Conn::server(conn, extensions);
    let mut tx = conn.begin().await?;
    let checkpoint = checkpoint_of(&mut tx.conn()).await?;
    let tables = Sql::new(
        "SELECT relname::text FROM pg_class WHERE relkind='r' \
         AND relname NOT IN ('_index','_outbox','_parked','_lifted','_lost') \
         AND relnamespace=(SELECT oid FROM pg_namespace WHERE nspname=current_schema)",
    );
    let mut digests = BTreeMap::new();
    for row in tables.fetch_all(&mut tx.conn()).await? {
        let name = row.catalog(0)?;
        let mut sql = Sql::new(
            "SELECT count(*), \
             (coalesce(sum(hashtextextended((t.*)::text, 0)), 0) % 9223372036854775807)::bigint FROM ",
        );
        sql.name(&Name::new(name)).push(" AS t");
        let row = sql.fetch_optional(&mut tx.conn()).await?;
        let row = row.ok_or(sqlx::Error::RowNotFound)?;
        let digest = TableDigest {
            num_rows: row.unsigned(0)?,
            sum: row.int(1)?.cast_unsigned(),
        };
        digests.insert(name.to_owned(), digest);
    }
    tx.rollback().await?;
    Ok((checkpoint, digests))
}
