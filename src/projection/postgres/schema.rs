//! The schema that contains everything.
//!
//! It has v1's layout, which plugins read: a table per record type, with v1's columns first. What
//! v1 lacks follows after these, or has a name that begins with `_` and is not one of v1's.
//!
//! A store belongs to one log, and remembers the id of the log's first commit. A store of another
//! log, or of v1 itself, is not touched.

use std::borrow::Cow;
use std::time::Duration;

use skytrail_schema::time::Timestamp;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::claim::process_name;
use super::errors::is_held;
use super::hosts::{self, Hosts, Link};
use crate::projection::OpenError;
use crate::projection::conn::{Conn, SHORT_WAIT};
use crate::projection::dialect::{Dialect, Extensions};
use crate::projection::names::{Name, fnv};
use crate::projection::sql::{Arg, Sql};
use crate::projection::sqlite::say_migrated;
use crate::projection::{captured, ddl, read};

/// How long commands that run next to a server wait for a connection.
const COMMAND_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The format that this program writes and knows.
pub(super) const FORMAT: i64 = 11;

/// The format since which record tables have triggers.
const CAPTURED_SINCE: i64 = 2;

/// How long an upgrade waits for a lock while it holds others: less than PostgreSQL's
/// `deadlock_timeout`, after which a transaction that waits for the upgrade would be ended.
const LOCK_WAIT: Duration = Duration::from_millis(800);

/// How long it waits for the only table that it locks, at first and at most. The wait is longer each
/// time that it is in vain, so that writers who relieve each other are waited for, too.
const TABLE_WAITS: (Duration, Duration) = (SHORT_WAIT, Duration::from_secs(10));

/// The scripts that lead to each format from the previous one.
const SCRIPTS: [&str; 11] = [
    include_str!("migrations/0001_fixed.sql"),
    include_str!("migrations/0002_captured.sql"),
    include_str!("migrations/0003_parked.sql"),
    include_str!("migrations/0004_marks.sql"),
    include_str!("migrations/0005_actors.sql"),
    include_str!("migrations/0006_channel.sql"),
    include_str!("migrations/0007_lost.sql"),
    include_str!("migrations/0008_roles.sql"),
    include_str!("migrations/0009_numbered.sql"),
    include_str!("migrations/0010_places.sql"),
    include_str!("migrations/0011_place_locks.sql"),
];

/// The limit on the length of names, which does not depend on the extensions.
const SERVER: Dialect = Dialect::Postgres(Extensions {
    has_citext: false,
    has_postgis: false,
});

/// Names the schema of an app's store, or of one that is [`beside`](super::beside) it.
///
/// The name is cut here as the database would cut it. Otherwise a store next to another one could
/// end up with the same name.
pub(super) fn schema_of(app: &str) -> Name {
    match app.split_once('~') {
        Some((app, purpose)) => schema_beside(schema_of(app).as_str(), purpose),
        None => Name::cut(&format!("app_{app}"), SERVER),
    }
}

/// Names the schema next to another one.
pub(super) fn schema_beside(schema: &str, purpose: &str) -> Name {
    Name::of_index(&format!("{schema}~{purpose}"), SERVER)
}

/// Returns the options of all connections to a schema, for each host of the address.
pub(super) fn options_of(url: &str, schema: &Name) -> Result<Vec<PgConnectOptions>, OpenError> {
    let options = hosts::parse(url).map_err(OpenError::Database)?.into_iter();
    let options = options.map(|options| {
        let options = options
            .application_name(process_name())
            .disable_statement_logging()
            .statement_cache_capacity(128);
        options.options([
            ("search_path", &*format!("{},public", schema.quoted())),
            ("timezone", "UTC"),
            // The writes of other programs are captured; see `captured`.
            ("skytrail.own", "yes"),
            // Limits set for others in the database do not apply to the server; see `readers` for
            // those on reads. An idle session is not ended either, since it holds the right to the
            // schema.
            ("statement_timeout", "0"),
            ("idle_session_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            ("lock_timeout", "0"),
            // Nor do other settings of the role or the database. If another program changes a row
            // first, the server writes its own version all the same.
            ("default_transaction_isolation", "read committed"),
            ("standard_conforming_strings", "on"),
            // What was erased, parked or written to the log from here must not return. Transactions
            // that only apply the log can choose otherwise.
            ("synchronous_commit", "on"),
            // When a machine of ours is gone, its sessions must not keep their locks.
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "60s"),
        ])
    });
    Ok(options.collect())
}

/// Connects to an app's schema, next to the server that may be using it.
pub(super) async fn connect_beside(url: &str, schema: &Name) -> Result<PgConnection, OpenError> {
    let connected = hosts::connect_to_first(options_of(url, schema)?, COMMAND_CONNECT_TIMEOUT);
    Ok(connected.await?)
}

/// Opens a store next to the server that may be using it.
pub(in crate::projection) async fn open_beside(
    url: &str,
    app: &str,
) -> Result<(PgConnection, Extensions), OpenError> {
    let schema = schema_of(app);
    let mut conn = connect_beside(url, &schema).await?;
    let mut sql = Sql::new("SELECT to_regclass(");
    sql.bind(Arg::Catalog(format!("{}._checkpoint", schema.quoted())))
        .push(") IS NOT NULL");
    let known_conn = &mut Conn::server(&mut conn, Extensions::default());
    let row = sql.fetch_optional(known_conn).await?;
    if !row.map_or(Ok(false), |row| row.flag(0))? {
        let place = format!("in the schema {}", schema.as_str());
        return Err(OpenError::Missing(place));
    }
    let (_, extensions) = format_and_extensions(known_conn).await?;
    Ok((conn, extensions))
}

/// Brings the schema to the current format; returns the extensions that its tables use.
///
/// Transactions that others have open are waited for, but nobody waits for long behind that.
pub(super) async fn prepare(
    hosts: &Hosts,
    link: &mut Link,
    schema: &Name,
) -> Result<Extensions, OpenError> {
    let (found, extensions) = try_until_free(
        (hosts, link),
        None,
        (LOCK_WAIT, LOCK_WAIT),
        async |conn, _| try_to_prepare(conn, schema).await,
    )
    .await?;
    let conn = &mut Conn::server(&mut link.conn, extensions);
    for table in tables_without_places(conn).await? {
        try_until_free(
            (hosts, link),
            Some(&table),
            TABLE_WAITS,
            async |conn, wait| keep_places(&mut Conn::server(conn, extensions), &table, wait).await,
        )
        .await?;
    }
    for from in found..FORMAT {
        say_migrated(from, from + 1);
    }
    Ok(extensions)
}

/// Tries something until nobody else holds a lock that it needs. The first attempt waits for a lock
/// as long as the first wait, each one after that twice as long, up to the second wait.
async fn try_until_free<T>(
    (hosts, link): (&Hosts, &mut Link),
    table: Option<&Name>,
    (first, longest): (Duration, Duration),
    attempt: impl AsyncFn(&mut PgConnection, Duration) -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    let mut wait = first;
    loop {
        let (conn, backend) = (&mut link.conn, &link.backend);
        let attempt = Box::pin(async {
            match attempt(conn, wait).await {
                Err(OpenError::Database(error)) => Err(error),
                done => Ok(done),
            }
        });
        match hosts.naming_holders(backend, wait, attempt).await {
            Ok(done) => return done,
            Err(error) if is_held(&error) => {
                tracing::warn!(
                    %error,
                    table = table.map(Name::as_str),
                    waited_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "the record store is upgraded when its tables are free"
                );
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(wait / 2).await;
        wait = (wait * 2).min(longest);
    }
}

/// Brings everything to the current format but the places; returns the format that was found.
async fn try_to_prepare(
    conn: &mut PgConnection,
    schema: &Name,
) -> Result<(i64, Extensions), OpenError> {
    let mut conn = Conn::server(conn, Extensions::default());
    let mut tx = conn.begin_writing().await?;
    let mut lock = Sql::new("SELECT pg_advisory_xact_lock(");
    let key = i64::from_ne_bytes(fnv(schema.as_str()).to_ne_bytes());
    lock.bind(Arg::Int(key)).push(")");
    lock.execute(&mut tx.conn()).await?;
    let mut sql = Sql::new("SELECT to_regclass(");
    sql.bind(Arg::Catalog(format!("{}._checkpoint", schema.quoted())))
        .push(") IS NOT NULL, current_setting('server_encoding')='UTF8', EXISTS (SELECT 1 FROM pg_class WHERE relnamespace=to_regnamespace(")
        .bind(Arg::quoted(schema))
        .push(")), to_regclass(")
        .bind(Arg::Catalog(format!("{}._auth", schema.quoted())))
        .push(") IS NOT NULL");
    let row = sql.fetch_optional(&mut tx.conn()).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    if !row.flag(1)? {
        return Err(OpenError::Foreign("its encoding is not UTF8".into()));
    }
    let mut upgraded_from = FORMAT;
    let extensions = match (row.flag(0)?, row.flag(2)?) {
        (true, _) => {
            let (found, extensions) = format_and_extensions(&mut tx.conn()).await?;
            upgrade(&mut tx.conn().knowing(extensions), found).await?;
            upgraded_from = found;
            extensions
        }
        (false, true) => {
            let whose = if row.flag(3)? {
                "looks like Skygear v1's: pass its address to `skytrail import skygear` as \
                 SKYGEAR_DATABASE_URL, and set DATABASE_URL to another database or remove it"
            } else {
                "holds tables of another program"
            };
            let what = format!("the schema {} {whose}", schema.as_str());
            return Err(OpenError::Foreign(what));
        }
        (false, false) => create(&mut tx.conn(), schema).await?,
    };
    tx.commit().await?;
    Ok((upgraded_from, extensions))
}

/// Reads the format and extensions that the schema was created with.
async fn format_and_extensions(conn: &mut Conn<'_>) -> Result<(i64, Extensions), OpenError> {
    let sql = Sql::new("SELECT format, has_citext, has_postgis FROM _checkpoint");
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let found = row.int(0)?;
    if found > FORMAT {
        return Err(OpenError::Newer {
            found,
            known: FORMAT,
        });
    }
    let extensions = Extensions {
        has_citext: row.flag(1)?,
        has_postgis: row.flag(2)?,
    };
    Ok((found, extensions))
}

/// Upgrades a store of an earlier format to the current one.
async fn upgrade(conn: &mut Conn<'_>, found: i64) -> Result<(), OpenError> {
    if found == FORMAT {
        return Ok(());
    }
    conn.wait_at_most(LOCK_WAIT).await?;
    let steps = (1..).zip(SCRIPTS).filter(|(format, _)| *format > found);
    for (_, script) in steps {
        run_script(conn, script).await?;
    }
    if found < CAPTURED_SINCE {
        let (catalog, _) = read::catalog(conn).await?;
        for layout in catalog.sorted().into_values() {
            for text in layout.table.iter().flat_map(ddl::capture) {
                text.execute(conn, Vec::new()).await?;
            }
        }
    }
    let mut sql = Sql::new("UPDATE _checkpoint SET format=");
    sql.bind(Arg::Int(FORMAT));
    sql.execute(conn).await?;
    Ok(())
}

/// Lists the tables whose changes by SQL are captured, but not yet as since format 10.
async fn tables_without_places(conn: &mut Conn<'_>) -> Result<Vec<Name>, sqlx::Error> {
    let sql = Sql::new(
        "SELECT t.relname::text FROM pg_class AS t \
         WHERE t.relnamespace=current_schema::regnamespace AND EXISTS (SELECT 1 FROM pg_trigger \
         WHERE tgrelid=t.oid AND tgname='_capture' AND NOT tgisinternal) AND NOT EXISTS \
         (SELECT 1 FROM pg_trigger WHERE tgrelid=t.oid AND tgname='_keep_place') ORDER BY 1",
    );
    let rows = sql.fetch_all(conn).await?;
    let names = rows.iter().map(|row| Ok(Name::new(row.catalog(0)?)));
    names.collect()
}

/// Lets the rows of a table keep the places of their records. It waits for transactions that have
/// written to the table before, not for those that have read it.
///
/// Each table has a transaction of its own. If the upgrade held another table while it waits, it
/// could not wait for long: a writer who wants that table would be ended by a deadlock.
async fn keep_places(conn: &mut Conn<'_>, table: &Name, wait: Duration) -> Result<(), OpenError> {
    let mut tx = conn.begin_writing().await?;
    let conn = &mut tx.conn();
    conn.wait_at_most(wait).await?;
    let mut sql = Sql::new("LOCK TABLE ");
    sql.name(table).push(" IN SHARE ROW EXCLUSIVE MODE");
    sql.execute(conn).await?;
    captured::collect_places(conn, table).await?;
    ddl::keep_place(table).execute(conn, Vec::new()).await?;
    tx.commit().await?;
    Ok(())
}

pub(super) async fn run_script(
    conn: &mut Conn<'_>,
    script: &'static str,
) -> Result<(), sqlx::Error> {
    if let Conn::Postgres(conn, ..) = conn {
        sqlx::raw_sql(script).execute(&mut **conn).await?;
    }
    Ok(())
}

async fn create(conn: &mut Conn<'_>, schema: &Name) -> Result<Extensions, OpenError> {
    let mut sql = Sql::new("CREATE SCHEMA IF NOT EXISTS ");
    sql.name(schema);
    sql.execute(conn).await?;
    // A role that may not create the extension does without, unless somebody else has created it.
    let mut attempt = conn.begin().await?;
    let made = Sql::new("CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public")
        .execute(&mut attempt.conn())
        .await;
    match made {
        Ok(_) => attempt.commit().await?,
        Err(error) => {
            tracing::debug!(%error, "no citext");
            attempt.rollback().await?;
        }
    }
    let sql =
        Sql::new("SELECT to_regtype('citext') IS NOT NULL, to_regtype('geometry') IS NOT NULL");
    let row = sql.fetch_optional(conn).await?;
    let row = row.ok_or(sqlx::Error::RowNotFound)?;
    let extensions = Extensions {
        has_citext: row.flag(0)?,
        has_postgis: row.flag(1)?,
    };
    for script in SCRIPTS {
        run_script(conn, script).await?;
    }
    let sql = Sql::put(
        "_checkpoint",
        [("id", Arg::Int(1))],
        [
            ("position", Arg::Int(0)),
            ("format", Arg::Int(FORMAT)),
            ("has_citext", Arg::Bool(extensions.has_citext)),
            ("has_postgis", Arg::Bool(extensions.has_postgis)),
        ],
    );
    sql.execute(conn).await?;
    Ok(extensions)
}

/// What a store knows of the log that it was filled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOrigin {
    /// The id of the first commit, if the store has any.
    pub log: Option<String>,
    /// When the last event in the store was committed.
    pub last: Option<Timestamp>,
}

/// Returns a store's origin.
pub(in crate::projection) async fn origin_of(
    conn: &mut Conn<'_>,
) -> Result<StoreOrigin, sqlx::Error> {
    let sql = Sql::new(
        "SELECT c.log, h.time FROM _checkpoint AS c LEFT JOIN _history AS h ON h.position=c.position",
    );
    let Some(row) = sql.fetch_optional(conn).await? else {
        return Ok(StoreOrigin::default());
    };
    Ok(StoreOrigin {
        log: row.maybe_text(0)?.map(Cow::into_owned),
        last: row.maybe_time(1)?,
    })
}
