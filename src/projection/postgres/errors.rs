//! What a failure of PostgreSQL means.

use skytrail_actors::store::StoreError;

/// Whether an error is about what was to be written, not about the server: data, constraints, syntax,
/// limits.
pub(in crate::projection) fn is_about_data(code: &str) -> bool {
    const CLASSES: [&str; 6] = ["0A", "22", "23", "42", "44", "54"];
    CLASSES.iter().any(|class| code.starts_with(class))
}

/// Whether the server is away, busy with itself or too slow, so that the same may succeed later.
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => {
            // Connection, read-only after a failover, conflicts, resources, locks, shutdown, I/O.
            const CLASSES: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];
            let code = error.code().unwrap_or_default();
            CLASSES.iter().any(|class| code.starts_with(class))
        }
        _ => false,
    }
}

/// Tells the port what failed.
pub(in crate::projection) fn failed(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    if is_passing(error) {
        StoreError::Unavailable(text)
    } else {
        StoreError::Failed(text)
    }
}
