//! The database of the record store, if that is not a file.

use std::time::Duration;

use super::Secret;
use super::source::Reader;

/// Where and how the record store uses PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// Its address. `DATABASE_URL`.
    pub url: Secret,
    /// The number of connections that read; one more writes. `DATABASE_CONNECTIONS`, default 16.
    pub connections: u32,
    /// How long a request waits for a connection. `DATABASE_WAIT` in seconds, default 5.
    pub wait: Duration,
    /// Whether applied events wait for the database's disk. `DATABASE_SYNCHRONOUS_COMMIT`, default
    /// on.
    pub synchronous_commit: bool,
    /// How long a reading statement may take. `DATABASE_STATEMENT_TIMEOUT` in seconds, default 30.
    pub statement_timeout: Duration,
}

impl Database {
    /// Returns the settings for another address: those of `like`, or else the defaults.
    pub(crate) fn at(url: String, like: Option<Self>) -> Self {
        let url = Secret::new(url);
        match like {
            Some(like) => Self { url, ..like },
            None => Self {
                url,
                connections: 16,
                wait: Duration::from_secs(5),
                synchronous_commit: true,
                statement_timeout: Duration::from_secs(30),
            },
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Option<Database> {
    let url = reader.secret("DATABASE_URL");
    let connections = reader.number("DATABASE_CONNECTIONS", 16, 1..=1000);
    let wait = reader.number("DATABASE_WAIT", 5, 1..=300);
    let synchronous_commit = reader.boolean("DATABASE_SYNCHRONOUS_COMMIT", true);
    let timeout = reader.number("DATABASE_STATEMENT_TIMEOUT", 30, 1..=86_400);
    let url = url?;
    let is_address = |scheme: &str| url.reveal().starts_with(scheme);
    if !["postgres://", "postgresql://"].into_iter().any(is_address) {
        let expected = "an address, postgres://USER:PASSWORD@HOST/DATABASE";
        reader.refuse("DATABASE_URL", "***", expected);
        return None;
    }
    Some(Database {
        url,
        connections,
        wait: Duration::from_secs(wait),
        synchronous_commit,
        statement_timeout: Duration::from_secs(timeout),
    })
}
