//! What a failure of PostgreSQL means.

use std::io::ErrorKind;

use skytrail_actors::store::{Away, StoreError};
use sqlx::postgres::PgDatabaseError;

/// Those of the class of syntax and access rules that say what the server lets us do and what is there:
/// no right, no such table, column, function, or type or other object, and a thing of the name that is
/// of another kind, such as a view. Tables and columns are made by events before others need them, so
/// whoever took one away has to give it back, and the event has nothing to do with it.
///
/// What remains of the class may be due to the names and kinds that an event brings: a table or a column
/// that is there already, a name that is too long, kinds that do not go together.
const ABOUT_THE_SERVER: [&str; 6] = ["42501", "42P01", "42703", "42883", "42704", "42809"];

/// PostgreSQL's code for what it does not do.
const UNSUPPORTED: &str = "0A000";

/// PostgreSQL's code for a lock that is not to be had in time.
const NOT_TO_BE_HAD: &str = "55P03";

/// PostgreSQL's code for a database that is not there.
const NO_DATABASE: &str = "3D000";

/// Whether an error is about what was to be written, not about the server: data, constraints, syntax,
/// limits; unless [`is_about_the_server`] knows better.
pub(in crate::projection) fn is_about_data(code: &str) -> bool {
    const CLASSES: [&str; 6] = ["0A", "22", "23", "42", "44", "54"];
    CLASSES.iter().any(|class| code.starts_with(class))
}

/// Whether a statement met something that was taken away from the server.
pub(in crate::projection) fn is_about_the_server(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ABOUT_THE_SERVER.contains(&&*code))
}

/// Whether a prepared statement would answer with other columns than it did: somebody else has changed a
/// table. Prepared anew it is as good as before.
pub(in crate::projection) fn is_stale(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    // The words may be in any language.
    error.is_some_and(|error| {
        error.code() == UNSUPPORTED && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// Whether the server is away, busy with itself or too slow, so that the same may succeed later.
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
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
            // Somebody may be putting the database back.
            code == NO_DATABASE || CLASSES.iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

/// Whether the server takes no writes.
pub(in crate::projection) fn is_read_only(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("25006")
}

/// Tells the port what failed.
pub(in crate::projection) fn failed(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    if is_passing(error) {
        StoreError::unavailable(why(error), text)
    } else {
        StoreError::Failed(text)
    }
}

/// Tells clients as much as is theirs to know.
fn why(error: &sqlx::Error) -> Away {
    let sqlx::Error::Database(error) = error else {
        return match error {
            sqlx::Error::Io(error) => match error.kind() {
                ErrorKind::TimedOut => Away::Slow,
                ErrorKind::ResourceBusy => Away::Taken,
                ErrorKind::ReadOnlyFilesystem => Away::ReadOnly,
                _ => Away::Unreachable,
            },
            sqlx::Error::PoolTimedOut => Away::Slow,
            _ => Away::Unreachable,
        };
    };
    match error.code().as_deref().unwrap_or_default() {
        "53300" => Away::Crowded,
        "53100" => Away::Full,
        "25006" => Away::ReadOnly,
        // Broken off because of its time, or because of a lock; a conflict between transactions.
        "57014" | NOT_TO_BE_HAD => Away::Slow,
        // Others have changed a table, and the next attempt knows.
        UNSUPPORTED => Away::Slow,
        code if code.starts_with("40") => Away::Slow,
        _ => Away::Unreachable,
    }
}

/// Whether something cannot be taken away because others have made something of it, such as a view.
pub(in crate::projection) fn is_needed(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("2BP01")
}

/// Whether a table is one that PostgreSQL does not do this with: others have given it rules, or a prepared
/// statement does not know it any more. That is due to no event.
pub(in crate::projection) fn is_unsupported(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    let error = error.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.is_some_and(|error| error.code() == UNSUPPORTED)
}

/// Others are in the way of what the log has: what they have changed in the store has to be undone, or
/// what they hold to be let go.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct InTheWay {
    why: Away,
    what: String,
}

/// Makes the error that says what others have changed.
pub(in crate::projection) fn in_the_way(what: String) -> sqlx::Error {
    let why = Away::Altered;
    sqlx::Error::AnyDriverError(Box::new(InTheWay { why, what }))
}

/// Whether something was waited for in vain that others hold.
pub(in crate::projection) fn is_held(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some(NOT_TO_BE_HAD)
}

/// Says who holds what was waited for in vain, if that is why something failed.
pub(super) fn held(error: sqlx::Error, holders: &[String]) -> sqlx::Error {
    if !is_held(&error) || holders.is_empty() {
        return error;
    }
    let what = format!("{} holds what is needed: {error}", holders.join(", "));
    let why = Away::Slow;
    sqlx::Error::AnyDriverError(Box::new(InTheWay { why, what }))
}

/// Whether a connection failed without a word of the server's.
pub(in crate::projection) fn is_silent(error: &sqlx::Error) -> bool {
    !matches!(error, sqlx::Error::Database(_)) && as_in_the_way(error).is_none()
}

fn as_in_the_way(error: &sqlx::Error) -> Option<&InTheWay> {
    match error {
        sqlx::Error::AnyDriverError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// Tells the port what failed while events were applied: what was taken away from the server may come
/// back, as the server itself may.
pub(in crate::projection) fn not_applied(error: &sqlx::Error) -> StoreError {
    if let Some(error) = as_in_the_way(error) {
        return StoreError::unavailable(error.why, error.to_string());
    }
    if is_unsupported(error) && !is_stale(error) {
        return StoreError::unavailable(Away::Altered, error.to_string());
    }
    match is_about_the_server(error) {
        true => StoreError::unavailable(Away::Closed, error.to_string()),
        false => failed(error),
    }
}

/// Makes an error that passes.
pub(super) fn io_error(text: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(text))
}
