//! Ensures that one server at a time uses a schema.
//!
//! 1. The connection that writes holds an advisory lock on the schema's name as long as it lives. A
//!    server takes the lock when it opens the store, before it changes anything there.
//! 2. If a session of this process holds the lock, that session was lost and the database does not
//!    know it yet, so it is ended. A session of another process may have been left by a server that
//!    was killed: this one waits for it, and then fails with its name.
//! 3. Connections that read hold nothing, but none is used while another process has the schema.

use std::borrow::Cow;
use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::hosts::{Backend, end};
use crate::projection::conn::Conn;
use crate::projection::names::{Name, fnv};
use crate::projection::sql::{Arg, Sql};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Returns the name of this process at the database. No other process has it, not even one with a
/// copy of the same data.
pub(super) fn process_name() -> &'static str {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let id = Uuid::new_v4().simple().to_string();
        format!("skytrail {}", id.get(..12).unwrap_or_default())
    });
    &NAME
}

/// The right to use a schema.
pub(super) struct Claim {
    schema: String,
    key: i64,
    /// The process that serves the connection which has the right, or is about to take it.
    writer: Mutex<Option<Backend>>,
}

/// The session that has a schema.
struct Holder {
    backend: Backend,
    is_own: bool,
    address: Option<String>,
}

impl Claim {
    /// Creates a claim that is not taken yet.
    pub(super) fn new(schema: &Name) -> Self {
        Self {
            schema: schema.as_str().to_owned(),
            key: key_of(schema),
            writer: Mutex::new(None),
        }
    }

    /// Returns the schema's name.
    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// Takes the right for a connection, and waits a while for the session that has it.
    pub(super) async fn take(
        &self,
        conn: &mut Conn<'_>,
        backend: &Backend,
        max_wait: Duration,
    ) -> Result<(), sqlx::Error> {
        // By this, connections that read tell our session from those of others.
        *self.writer.lock() = Some(backend.clone());
        let deadline = Instant::now() + max_wait;
        loop {
            let mut sql = Sql::new("SELECT pg_try_advisory_lock(");
            sql.bind(Arg::Int(self.key)).push(")");
            let row = sql.fetch_optional(conn).await?;
            if row.map_or(Ok(false), |row| row.flag(0))? {
                return Ok(());
            }
            match self.holder(conn).await? {
                Some(holder) if holder.is_own => end(conn, &holder.backend).await?,
                Some(holder) if Instant::now() >= deadline => return Err(self.refusal(&holder)),
                _ => {}
            }
            sleep(PAUSE).await;
        }
    }

    /// Fails when another process has the schema.
    pub(super) async fn check(&self, conn: &mut Conn<'_>) -> Result<(), sqlx::Error> {
        match self.holder(conn).await? {
            Some(holder) if !holder.is_own => Err(self.refusal(&holder)),
            _ => Ok(()),
        }
    }

    async fn holder(&self, conn: &mut Conn<'_>) -> Result<Option<Holder>, sqlx::Error> {
        let mut sql = Sql::new(
            "SELECT a.pid, a.backend_start::text, a.application_name, host(a.client_addr) \
             FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid=l.pid \
             WHERE l.locktype='advisory' AND l.granted AND l.objsubid=1 \
             AND l.database=(SELECT oid FROM pg_database WHERE datname=current_database()) \
             AND ((l.classid::bigint << 32) | l.objid::bigint)=",
        );
        sql.bind(Arg::Int(self.key));
        let Some(row) = sql.fetch_optional(conn).await? else {
            return Ok(None);
        };
        // For sessions of other roles, nothing but the process number may be visible.
        let start = row.maybe_text(1)?.unwrap_or_default().into_owned();
        let backend = Backend::of_session(row.int(0)?, start);
        let writer = self.writer.lock().clone();
        let is_writer = writer.is_some_and(|writer| writer.is_session_of(&backend));
        let is_own = is_writer || row.maybe_text(2)?.as_deref() == Some(process_name());
        Ok(Some(Holder {
            backend,
            is_own,
            address: row.maybe_text(3)?.map(Cow::into_owned),
        }))
    }

    fn refusal(&self, holder: &Holder) -> sqlx::Error {
        let from = holder
            .address
            .as_deref()
            .map(|from| format!(" from {from}"));
        let since = match holder.backend.start() {
            "" => String::new(),
            start => format!(" since {start}"),
        };
        let text = format!(
            "another server uses the schema {}, through process {} of the database, \
             connected{}{since}",
            self.schema,
            holder.backend.process(),
            from.unwrap_or_default(),
        );
        others(text)
    }
}

/// The lock number of a schema.
fn key_of(schema: &Name) -> i64 {
    i64::from_ne_bytes(fnv(&format!("server of {}", schema.as_str())).to_ne_bytes())
}

/// Takes the right to a schema until the transaction ends. Fails if another session still has it
/// after some seconds.
pub(super) async fn take_for_now(conn: &mut Conn<'_>, schema: &Name) -> Result<(), sqlx::Error> {
    let claim = Claim::new(schema);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut sql = Sql::new("SELECT pg_try_advisory_xact_lock(");
        sql.bind(Arg::Int(claim.key)).push(")");
        let row = sql.fetch_optional(conn).await?;
        if row.map_or(Ok(false), |row| row.flag(0))? {
            return Ok(());
        }
        match claim.holder(conn).await? {
            Some(holder) if Instant::now() >= deadline => return Err(claim.refusal(&holder)),
            _ => sleep(PAUSE).await,
        }
    }
}

/// Returns the error for a store that belongs to somebody else. That can pass.
pub(super) fn others(text: String) -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::ResourceBusy, text))
}
