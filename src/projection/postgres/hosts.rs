//! The hosts of the server: which of several hosts is used, and what a connection must show.
//!
//! 1. An address can name several hosts. The first one that accepts writes is used. When it is
//!    lost, they are asked again, starting with the one in use.
//! 2. A connection can be used only if its store is the server's own and has everything that was
//!    applied: see [`Condition`].
//! 3. A silent connection may be busy or dead; [`Hosts::gone`] finds out, over another one.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::Either;
use sqlx::ConnectOptions as _;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::time::{sleep, timeout};

use super::condition::Condition;
use super::errors::held;
use crate::projection::conn::Conn;
use crate::projection::dialect::Extensions;
use crate::projection::sql::{Arg, Sql};

/// How often a connection must be found idle before it counts as dead.
const STRIKES: u32 = 2;

/// After this wait, somebody else probably holds up the work. The server looks up who, before it
/// has to give up.
const LOOK_AFTER: Duration = Duration::from_millis(300);

/// Options for the choice among hosts; they are dropped, since only a host that accepts writes is
/// ever used.
const CHOICES: [&str; 2] = ["target_session_attrs", "load_balance_hosts"];

/// The process that serves a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::projection) struct Backend {
    /// When the server was started.
    pub(super) server_start: String,
    process: i64,
    start: String,
}

impl Backend {
    /// Describes a process of a server that was started at some time.
    pub(super) fn new(server_start: String, process: i64, start: String) -> Self {
        Self {
            server_start,
            process,
            start,
        }
    }

    /// Describes a process of the server that is asked.
    pub(super) fn of_session(process: i64, start: String) -> Self {
        Self::new(String::new(), process, start)
    }

    /// Returns whether both are the same process of the server that is asked.
    pub(super) fn is_session_of(&self, other: &Self) -> bool {
        (self.process, &self.start) == (other.process, &other.start)
    }

    /// Returns the number of the process.
    pub(super) fn process(&self) -> i64 {
        self.process
    }

    /// Returns when the process was started.
    pub(super) fn start(&self) -> &str {
        &self.start
    }
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Anything that serves readers.
    Reading,
    /// The database must accept writes.
    Writing,
}

/// A connection that may be used.
pub(in crate::projection) struct Link {
    pub(in crate::projection) conn: PgConnection,
    pub(in crate::projection) backend: Backend,
    /// The index of its host.
    pub(super) host: usize,
}

/// The hosts of an address.
pub(super) struct Hosts {
    options: Vec<PgConnectOptions>,
    preferred: AtomicUsize,
    max_wait: Duration,
}

impl Hosts {
    /// Uses the first of these, of which there is at least one, until it is lost. `max_wait` is per
    /// host.
    pub(super) fn new(options: Vec<PgConnectOptions>, max_wait: Duration) -> Self {
        Self {
            options,
            preferred: AtomicUsize::new(0),
            max_wait,
        }
    }

    /// Returns the options for the host in use.
    pub(super) fn in_use(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let preferred = self.options.get(self.preferred.load(Ordering::Acquire));
        preferred.cloned().ok_or_else(no_host)
    }

    /// Connects to the first host that serves. Fails with the error of the last host, or of the
    /// first that reported more than being unreachable.
    pub(super) async fn connect(
        &self,
        condition: &Condition,
        purpose: Purpose,
    ) -> Result<Link, sqlx::Error> {
        let preferred = self.preferred.load(Ordering::Acquire);
        let mut failed = no_host();
        for step in 0..self.options.len() {
            let host = (preferred + step) % self.options.len();
            let connecting = self.connect_to(host, condition, purpose);
            let connected = timeout(self.max_wait, connecting).await;
            match connected.unwrap_or_else(|_late| Err(silent(self.max_wait))) {
                Ok(link) => {
                    self.preferred.store(host, Ordering::Release);
                    return Ok(link);
                }
                Err(error) if matches!(failed, sqlx::Error::Database(_)) => {
                    tracing::debug!(%error, host, "a host cannot be used");
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Tries another host first from now on, if there is one.
    pub(super) fn pass_over(&self, host: usize) {
        let next = (host + 1) % self.options.len().max(1);
        self.preferred.store(next, Ordering::Release);
    }

    async fn connect_to(
        &self,
        host: usize,
        condition: &Condition,
        purpose: Purpose,
    ) -> Result<Link, sqlx::Error> {
        let options = self.options.get(host).ok_or_else(no_host)?;
        let mut conn = options.connect().await?;
        if purpose == Purpose::Writing {
            check_writable(&mut conn).await?;
        }
        let backend = condition.admit(&mut conn).await?;
        Ok(Link {
            conn,
            backend,
            host,
        })
    }

    /// Waits until a server process is known to be of no more use: it is gone, cannot be reached,
    /// or waits for a statement that was sent and has not arrived.
    pub(super) async fn gone(&self, backend: &Backend) {
        let mut strikes = 0;
        while strikes < STRIKES {
            sleep(self.max_wait).await;
            match timeout(self.max_wait, self.look_for(backend)).await {
                Ok(Ok(Some(true))) => strikes = 0,
                Ok(Ok(Some(false))) => strikes += 1,
                // The server answers, even if only that it has no connection to spare.
                Ok(Err(sqlx::Error::Database(_))) => {}
                Ok(Ok(None) | Err(_)) | Err(_) => return,
            }
        }
    }

    /// Runs work in which a server process may wait for a lock. If the wait is in vain, the error
    /// names who holds the lock, unless that takes too long to find out.
    pub(super) async fn naming_holders<T>(
        &self,
        backend: &Backend,
        max_wait: Duration,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let look = async {
            sleep(LOOK_AFTER).await;
            timeout(max_wait, self.holders(backend)).await
        };
        let (work, look) = (std::pin::pin!(work), std::pin::pin!(look));
        match futures_util::future::select(work, look).await {
            Either::Left((done, _)) => done,
            Either::Right((looked, work)) => {
                let holders = looked.ok().and_then(Result::ok).unwrap_or_default();
                work.await.map_err(|error| held(error, &holders))
            }
        }
    }

    /// Lists who holds the locks that a server process waits for.
    async fn holders(&self, backend: &Backend) -> Result<Vec<String>, sqlx::Error> {
        let mut conn = self.in_use()?.connect().await?;
        let mut sql = Sql::new(
            "SELECT format('process %s (%s, role %s)', pid, coalesce(nullif(application_name, ''), \
             'no application_name'), usename) FROM pg_stat_activity WHERE pid=ANY(pg_blocking_pids(",
        );
        sql.bind(Arg::Int(backend.process))
            .push("::integer)) ORDER BY pid");
        let rows = sql
            .fetch_all(&mut Conn::server(&mut conn, Extensions::default()))
            .await?;
        conn.close().await?;
        rows.iter()
            .map(|row| Ok(row.text(0)?.into_owned()))
            .collect()
    }

    /// Returns whether a server process is working; `None` when there is no such process.
    async fn look_for(&self, backend: &Backend) -> Result<Option<bool>, sqlx::Error> {
        let mut conn = self.in_use()?.connect().await?;
        let mut sql = Sql::new(
            "SELECT state='active' OR clock_timestamp()-state_change<interval '1 second' \
             FROM pg_stat_activity WHERE pid=",
        );
        sql.bind(Arg::Int(backend.process))
            .push(" AND backend_start::text=")
            .bind(Arg::text(backend.start.as_str()));
        let row = sql
            .fetch_optional(&mut Conn::server(&mut conn, Extensions::default()))
            .await?;
        conn.close().await?;
        row.map(|row| row.flag(0)).transpose()
    }
}

/// Ends the process that served a lost connection, if it has not noticed yet: it may hold locks
/// that others wait for.
pub(super) async fn end(conn: &mut Conn<'_>, backend: &Backend) -> Result<(), sqlx::Error> {
    let mut sql =
        Sql::new("SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE pid=");
    sql.bind(Arg::Int(backend.process))
        .push(" AND backend_start::text=")
        .bind(Arg::text(backend.start.as_str()));
    sql.fetch_optional(conn).await.map(drop)
}

/// Refuses a database that is set to be read-only, although it is not a standby.
async fn check_writable(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = Sql::new("SELECT current_setting('default_transaction_read_only')='on'");
    let conn = &mut Conn::server(conn, Extensions::default());
    let row = sql.fetch_optional(conn).await?;
    if row.map_or(Ok(false), |row| row.flag(0))? {
        let text = "it does not accept writes: default_transaction_read_only is on";
        let error = std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, text);
        return Err(sqlx::Error::Io(error));
    }
    Ok(())
}

/// Connects to the first of these hosts that accepts writes.
pub(super) async fn connect_to_first(
    options: Vec<PgConnectOptions>,
    max_wait: Duration,
) -> Result<PgConnection, sqlx::Error> {
    let hosts = Hosts::new(options, max_wait);
    let link = hosts
        .connect(&Condition::new(None), Purpose::Writing)
        .await?;
    Ok(link.conn)
}

/// Parses an address, which can name several hosts, separated by commas, each with an optional
/// port.
pub(super) fn parse(url: &str) -> Result<Vec<PgConnectOptions>, sqlx::Error> {
    let urls = one_per_host(url);
    urls.iter()
        .map(|url| PgConnectOptions::from_str(url))
        .collect()
}

/// Returns where an address leads, without credentials.
pub fn place_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    rest.split(['?', '#']).next().unwrap_or_default()
}

/// Returns the address once per host that it names, with that host only.
fn one_per_host(url: &str) -> Vec<String> {
    let url = without_choices(url);
    let from = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(from);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
    let hosts = hosts.split(',');
    hosts
        .map(|host| format!("{scheme}{user}{host}{path}"))
        .collect()
}

fn without_choices(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let is_kept = |pair: &&str| !CHOICES.contains(&pair.split('=').next().unwrap_or_default());
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    format!("{before}?{}", kept.join("&"))
}

/// Returns the error for an answer that did not arrive in time.
pub(in crate::projection) fn silent(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {} s", limit.as_secs_f64());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

fn no_host() -> sqlx::Error {
    sqlx::Error::Configuration("the address names no host".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_address_leads_has_no_password() {
        let cases = [
            (
                "postgres://me:secret@db:5432,other/app?sslmode=require",
                "db:5432,other/app",
            ),
            ("postgres://me:s/e?c@ret@db/app", "db/app"),
            ("postgres://db/app?password=secret", "db/app"),
            ("db", "db"),
        ];
        for (url, place) in cases {
            assert_eq!(place_of(url), place);
        }
    }

    #[test]
    fn an_address_may_name_several_hosts() {
        let hosts = |url: &str| -> Vec<(String, u16)> {
            let options = parse(url).unwrap();
            let named = options.iter();
            named
                .map(|options| (options.get_host().to_owned(), options.get_port()))
                .collect()
        };
        let both = vec![("one".to_owned(), 5433), ("two".to_owned(), 5432)];
        let ending = "/app?sslmode=disable";
        let url = format!("postgres://me:a%2Cb@one:5433,two:5432{ending}");
        assert_eq!(hosts(&url), both);
        assert_eq!(hosts(&format!("{url}&target_session_attrs=primary")), both);
        assert_eq!(hosts("postgres://one:5433,two:5432"), both);
        assert_eq!(hosts("postgres://[::1]:5433,[::2]:5434/app").len(), 2);
        let sockets = parse("postgres://me@%2Fone,%2Ftwo/app").unwrap();
        let sockets: Vec<_> = sockets.iter().map(|options| options.get_socket()).collect();
        assert_eq!(sockets.len(), 2);
        assert!(sockets.iter().all(Option::is_some));
        assert_eq!(parse("postgres:///app?host=/one").unwrap().len(), 1);
    }

    #[test]
    fn one_host_among_several_that_is_none_is_refused() {
        assert!(parse("postgres://one:port,two/app").is_err());
    }
}
