//! What failures of PostgreSQL mean.

use std::io::ErrorKind;

use skytrail_actors::store::{StoreError, UnavailableReason};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// The codes of the class of syntax and access rules that concern what the server permits and has.
///
/// They are: no permission; no such table, column, function, type or other object; and an object of
/// that name but of another kind, such as a view. Events create tables and columns before other
/// events need them. So whoever has removed one must restore it, and the event is not at fault.
///
/// The rest of the class can be due to the names and types that an event brings: a table or column
/// that exists already, a name that is too long, types that do not fit together.
const ABOUT_THE_SERVER: [&str; 6] = ["42501", "42P01", "42703", "42883", "42704", "42809"];

/// PostgreSQL's code for what it does not support.
const UNSUPPORTED: &str = "0A000";

/// PostgreSQL's code for a lock that is not available in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// PostgreSQL's code for transactions that wait for each other's locks.
const DEADLOCK: &str = "40P01";

/// PostgreSQL's code for a database that does not exist.
const NO_DATABASE: &str = "3D000";

/// Returns whether an error is about what was to be written and not about the server: data,
/// constraints, syntax, limits. [`is_about_the_server`] takes precedence.
pub(in crate::projection) fn is_about_data(code: &str) -> bool {
    const CLASSES: [&str; 6] = ["0A", "22", "23", "42", "44", "54"];
    CLASSES.iter().any(|class| code.starts_with(class))
}

/// Returns whether a statement needs something that was removed from the server.
pub(in crate::projection) fn is_about_the_server(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ABOUT_THE_SERVER.contains(&&*code))
}

/// Returns whether a prepared statement would now answer with other columns, since another program
/// has changed a table. Once it is prepared anew, it can be used as before.
pub(in crate::projection) fn is_stale(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    // The message can be in any language.
    error.is_some_and(|error| {
        error.code() == UNSUPPORTED && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// Returns whether the server is away, busy or too slow, so that the same can succeed later.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        error if is_stale(error) => true,
        sqlx::Error::Database(error) => {
            // Connection, read-only after a failover, conflicts, resources, locks, shutdown, I/O.
            const CLASSES: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];
            let code = error.code().unwrap_or_default();
            // The database may be being restored.
            code == NO_DATABASE || CLASSES.iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

/// PostgreSQL's class of codes for a role that may not log in, and for its password.
const NO_LOG_IN: &str = "28";

/// PostgreSQL's code for a missing permission.
const NO_PERMISSION: &str = "42501";

/// PostgreSQL's codes for a table and for a column that do not exist.
const MISSING: [&str; 2] = ["42P01", "42703"];

/// What helps if all tables are missing.
const IF_DROPPED: &str = "if the schema was dropped, or the database was created again, restart the \
                          server: it fills the schema from the log";

/// Returns why the database does not serve the server, if others have taken away something that it
/// needs: the log-in, a permission, a table or a column. A query cannot be at fault, because it
/// names only what the store has.
fn taken_away(error: &sqlx::Error) -> Option<UnavailableReason> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    match error.code() {
        code if code.starts_with(NO_LOG_IN) => Some(UnavailableReason::Barred),
        // Only the right to connect ends the connection.
        NO_PERMISSION if error.severity() == PgSeverity::Fatal => Some(UnavailableReason::Barred),
        NO_PERMISSION => Some(UnavailableReason::Unreadable),
        code if MISSING.contains(&code) => Some(UnavailableReason::Missing),
        _ => None,
    }
}

/// Returns whether rows that others have changed cannot be read because of what they are. Everything
/// else can pass: failures of the connection, locks, conflicts and limits of resources by
/// themselves, and what was removed from the server when it is restored.
pub(in crate::projection) fn is_about_rows(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(_) => !is_transient(error) && taken_away(error).is_none(),
        _ => false,
    }
}

/// Returns whether the server refuses writes.
pub(in crate::projection) fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("25006")
}

/// Converts an error for the port.
pub(in crate::projection) fn failed(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    match taken_away(error) {
        Some(why @ UnavailableReason::Missing) => {
            StoreError::unavailable(why, format!("{text}; {IF_DROPPED}"))
        }
        Some(why) => StoreError::unavailable(why, text),
        None if is_transient(error) => StoreError::unavailable(why(error), text),
        None => StoreError::Failed(text),
    }
}

/// Returns as much of the reason as clients are entitled to know.
fn why(error: &sqlx::Error) -> UnavailableReason {
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Io(error) => match error.kind() {
                ErrorKind::TimedOut => UnavailableReason::Slow,
                ErrorKind::ResourceBusy => UnavailableReason::Taken,
                ErrorKind::ReadOnlyFilesystem => UnavailableReason::ReadOnly,
                _ => UnavailableReason::Unreachable,
            },
            sqlx::Error::PoolTimedOut => UnavailableReason::Slow,
            _ => UnavailableReason::Unreachable,
        };
    };
    match error.code().as_deref().unwrap_or_default() {
        "53300" => UnavailableReason::Crowded,
        "53100" => UnavailableReason::Full,
        "25006" => UnavailableReason::ReadOnly,
        LOCK_NOT_AVAILABLE | DEADLOCK => UnavailableReason::Locked,
        // Cancelled because of its time; a conflict between transactions.
        "57014" => UnavailableReason::Slow,
        // Another program has changed a table; the next attempt prepares the statement anew.
        UNSUPPORTED => UnavailableReason::Slow,
        code if code.starts_with("40") => UnavailableReason::Slow,
        _ => UnavailableReason::Unreachable,
    }
}

/// Returns whether something cannot be dropped because other programs have built something on it,
/// such as a view.
pub(in crate::projection) fn is_needed(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("2BP01")
}

/// Returns whether PostgreSQL does not support this for a table: another program has given it
/// rules, or a prepared statement no longer fits it. No event is at fault.
pub(in crate::projection) fn is_unsupported(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.code() == UNSUPPORTED)
}

/// Another program prevents the log from being applied: its changes to the store must be undone, or
/// the locks that it holds released.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct BlockingProgram {
    why: UnavailableReason,
    what: String,
}

/// Creates the error for what other programs have changed.
pub(in crate::projection) fn in_the_way(what: String) -> sqlx::Error {
    let why = UnavailableReason::Altered;
    sqlx::Error::AnyDriverError(Box::new(BlockingProgram { why, what }))
}

/// Returns whether a lock that another session holds was waited for in vain.
pub(in crate::projection) fn is_held(error: &sqlx::Error) -> bool {
    match as_in_the_way(error) {
        Some(program) => program.why == UnavailableReason::Locked,
        None => why(error) == UnavailableReason::Locked,
    }
}

/// Adds who holds the lock that was waited for in vain, if that is why something failed.
pub(super) fn held(error: sqlx::Error, holders: &[String]) -> sqlx::Error {
    if !is_held(&error) || holders.is_empty() {
        return error;
    }
    let what = format!("{} holds the lock: {error}", holders.join(", "));
    let why = UnavailableReason::Locked;
    sqlx::Error::AnyDriverError(Box::new(BlockingProgram { why, what }))
}

/// Returns whether a connection failed without an error from the server.
pub(in crate::projection) fn is_silent(error: &sqlx::Error) -> bool {
    !matches!(error, sqlx::Error::Database(_)) && as_in_the_way(error).is_none()
}

fn as_in_the_way(error: &sqlx::Error) -> Option<&BlockingProgram> {
    match error {
        sqlx::Error::AnyDriverError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Converts an error for the port that occurred while events were applied. What was removed from
/// the server can return, like the server itself.
pub(in crate::projection) fn not_applied(error: &sqlx::Error) -> StoreError {
    if let Some(error) = as_in_the_way(error) {
        return StoreError::unavailable(error.why, error.to_string());
    }
    if is_unsupported(error) && !is_stale(error) {
        return StoreError::unavailable(UnavailableReason::Altered, error.to_string());
    }
    match is_about_the_server(error) {
        true => StoreError::unavailable(UnavailableReason::Closed, error.to_string()),
        false => failed(error),
    }
}

/// Creates an error that can pass.
pub(super) fn io_error(text: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(text))
}
