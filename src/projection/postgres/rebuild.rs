//! Stores in PostgreSQL that are filled next to the one in use, in a schema of their own, and then
//! replace it.
//!
//! Schemas that are filled next to the one in use are the server's alone. The schema in use is also
//! that of other programs, so only the server's own objects are replaced there (`theirs`).

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::errors::is_held;
use super::schema::{connect_beside, schema_beside, schema_of};
use super::{claim, theirs};
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::names::{Name, fnv};
use crate::projection::sql::{Arg, Sql};
use crate::projection::sqlite::OpenError;

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

/// Replaces the store of `app` by that of `new`. The old one is kept under the suffix `~old`; what
/// other programs have created stays. Returns what an operator has to know.
///
/// # Errors
/// The database failed, or there is something under the suffix `~old` that is not the server's. The
/// store in use has not changed.
pub async fn switch_schemas(url: &str, new: &str, app: &str) -> Result<Vec<String>, OpenError> {
    let (current, new) = (schema_of(app), schema_of(new));
    let old = schema_of(&beside(app, OLD));
    let mut conn = connect_beside(url, &current).await?;
    let mut told = Vec::new();
    {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        Sql::new(SHORTLY).execute(conn).await?;
        loop {
            match switch(conn, (&current, &new, &old), &mut told).await {
                Err(OpenError::Database(error)) if is_held(&error) => tracing::warn!(
                    %error,
                    "the switch waits for other programs' transactions, which use the tables"
                ),
                done => break done?,
            }
        }
    }
    conn.close().await?;
    Ok(told)
}

async fn switch(
    conn: &mut Conn<'_>,
    (current, new, old): (&Name, &Name, &Name),
    told: &mut Vec<String>,
) -> Result<(), OpenError> {
    let mut tx = conn.begin_writing().await?;
    claim::take_for_now(&mut tx.conn(), current).await?;
    let is_in_use = exists(&mut tx.conn(), current).await?;
    tx.rollback().await?;
    if is_in_use {
        // In transactions of its own, since dropping takes many of the database's locks.
        drop_replaced(conn, (old, current), told).await?;
        check_free(conn, old).await?;
    }
    let mut tx = conn.begin_writing().await?;
    claim::take_for_now(&mut tx.conn(), current).await?;
    let said = replace(&mut tx.conn(), (current, new, old), is_in_use).await;
    match said {
        Ok(said) => {
            tx.commit().await?;
            told.extend(said);
            Ok(())
        }
        Err(error) => {
            tx.rollback().await?;
            Err(error.into())
        }
    }
}

async fn replace(
    conn: &mut Conn<'_>,
    (current, new, old): (&Name, &Name, &Name),
    is_in_use: bool,
) -> Result<Vec<String>, sqlx::Error> {
    if is_in_use {
        theirs::begin(conn).await?;
        let has_store = theirs::count_own(conn, current).await? > 0;
        if has_store {
            let said = theirs::exchange(conn, current, new, old).await?;
            theirs::end(conn).await?;
            return Ok(said);
        }
        // All of it is another program's.
        theirs::end(conn).await?;
        rename(conn, current, old).await?;
    }
    rename(conn, new, current).await?;
    Ok(Vec::new())
}

/// Drops the replaced store in the schema `old`, after what other programs have there was moved to
/// the schema in use. Adds what an operator has to know.
async fn drop_replaced(
    conn: &mut Conn<'_>,
    (old, current): (&Name, &Name),
    told: &mut Vec<String>,
) -> Result<(), sqlx::Error> {
    if !exists(conn, old).await? {
        return Ok(());
    }
    told.extend(bring_back_to(conn, old, current).await?);
    loop {
        let mut tx = conn.begin_writing().await?;
        let conn = &mut tx.conn();
        theirs::begin(conn).await?;
        let before = theirs::count_own(conn, old).await?;
        let said = theirs::drop_some(conn, old).await?;
        let after = theirs::count_own(conn, old).await?;
        theirs::end(conn).await?;
        tx.commit().await?;
        // Calls repeat what they say of tables that are still needed.
        for what in said {
            if !told.contains(&what) {
                told.push(what);
            }
        }
        if after == 0 || after == before {
            return Ok(());
        }
    }
}

/// Fails when a schema from which the store was dropped still exists.
async fn check_free(conn: &mut Conn<'_>, old: &Name) -> Result<(), OpenError> {
    let mut tx = conn.begin_writing().await?;
    let conn = &mut tx.conn();
    let is_free = !exists(conn, old).await?;
    let mut left = Vec::new();
    if !is_free {
        theirs::begin(conn).await?;
        left = theirs::left_in(conn, old).await?;
    }
    tx.rollback().await?;
    match is_free {
        true => Ok(()),
        false => Err(not_free(old, &left)),
    }
}

fn not_free(old: &Name, left: &[String]) -> OpenError {
    OpenError::Foreign(format!(
        "the schema {} must be dropped, but other programs have objects in it or use it: {}. Drop or \
         move these, then run skytrail rebuild again",
        old.as_str(),
        left.join(", ")
    ))
}

/// Moves what other programs have next to the store of `app`, where earlier versions left it, into
/// the app's schema, as far as names are free. Returns what an operator has to know.
///
/// # Errors
/// The database failed.
pub async fn bring_back(url: &str, app: &str) -> Result<Vec<String>, OpenError> {
    let current = schema_of(app);
    let old = schema_of(&beside(app, OLD));
    let mut conn = connect_beside(url, &current).await?;
    let told = {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        Sql::new(SHORTLY).execute(conn).await?;
        bring_back_to(conn, &old, &current).await
    };
    conn.close().await?;
    Ok(told?)
}

async fn bring_back_to(
    conn: &mut Conn<'_>,
    old: &Name,
    current: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    let conn = &mut tx.conn();
    let mut told = Vec::new();
    if exists(conn, old).await? && exists(conn, current).await? {
        theirs::begin(conn).await?;
        told = theirs::bring_back(conn, old, current).await?;
        theirs::end(conn).await?;
    }
    tx.commit().await?;
    Ok(told)
}

/// Checks that nothing of other programs prevents the replaced store of `app` from being dropped.
///
/// # Errors
/// Something does, or the database failed.
pub async fn check_old(url: &str, app: &str) -> Result<(), OpenError> {
    let current = schema_of(app);
    let old = schema_of(&beside(app, OLD));
    let mut conn = connect_beside(url, &current).await?;
    let left = {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        left_next_to(conn, &old, &current).await
    };
    conn.close().await?;
    match left? {
        left if left.is_empty() => Ok(()),
        left => Err(not_free(&old, &left)),
    }
}

async fn left_next_to(
    conn: &mut Conn<'_>,
    old: &Name,
    current: &Name,
) -> Result<Vec<String>, sqlx::Error> {
    let mut tx = conn.begin_writing().await?;
    let conn = &mut tx.conn();
    let mut left = Vec::new();
    if exists(conn, old).await? && exists(conn, current).await? {
        theirs::begin(conn).await?;
        theirs::bring_back(conn, old, current).await?;
        left = theirs::left_in(conn, old).await?;
    }
    // The switch does it when the new store is filled.
    tx.rollback().await?;
    Ok(left)
}

/// Lists what other programs have created in the schema of `app`.
///
/// # Errors
/// The database failed.
pub async fn list_theirs(url: &str, app: &str) -> Result<Vec<String>, OpenError> {
    let schema = schema_of(app);
    let mut conn = connect_beside(url, &schema).await?;
    let listed = {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        // The transaction is undone.
        let mut tx = conn.begin_writing().await?;
        if exists(&mut tx.conn(), &schema).await? {
            theirs::begin(&mut tx.conn()).await?;
            theirs::list(&mut tx.conn(), &schema).await?
        } else {
            Vec::new()
        }
    };
    conn.close().await?;
    Ok(listed)
}

/// Drops the replaced store that was kept next to that of `app`; what other programs have there is
/// moved. Returns what an operator has to know.
///
/// # Errors
/// The database failed.
pub async fn drop_old(url: &str, app: &str) -> Result<Vec<String>, OpenError> {
    let current = schema_of(app);
    let old = schema_of(&beside(app, OLD));
    let mut conn = connect_beside(url, &current).await?;
    let mut told = Vec::new();
    let dropped = {
        let conn = &mut Conn::server(&mut conn, Extensions::default());
        Sql::new(SHORTLY).execute(conn).await?;
        drop_replaced(conn, (&old, &current), &mut told).await
    };
    conn.close().await?;
    dropped?;
    Ok(told)
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
/// `false` as in [`drop_leftovers`]. What other programs have in its schema is moved or stays.
pub(super) async fn drop_copies(conn: &mut Conn<'_>) -> Result<bool, sqlx::Error> {
    let row = Sql::new("SELECT current_schema::text");
    let row = row.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let schema = row.catalog(0)?;
    drop_old_of(conn, &Name::new(schema)).await?;
    drop_left_of(conn, schema).await
}

async fn drop_old_of(conn: &mut Conn<'_>, schema: &Name) -> Result<(), sqlx::Error> {
    let old = schema_beside(schema.as_str(), OLD);
    let mut told = Vec::new();
    drop_replaced(conn, (&old, schema), &mut told).await?;
    for what in told {
        tracing::warn!(schema = old.as_str(), "{what}");
    }
    Ok(())
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
