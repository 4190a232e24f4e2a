//! Work for a client, no longer than its time, and whatever becomes of it an answer.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use skytrail_schema::code::{ApiError, Code};
use tokio::time::Instant;

/// Runs work to its end, or to the deadline. What an actor has taken up goes on there.
///
/// # Errors
/// The work's; 122 at the deadline; 10000 when it panics.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let work = AssertUnwindSafe(work).catch_unwind();
    let done = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await.map_err(|_| {
            ApiError::new(Code::ResponseTimeout, "Service taking too long to respond.")
        })?,
        None => work.await,
    };
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_default();
        tracing::error!(text, "an action panicked");
        Err(ApiError::unexpected(format!(
            "panic occurred while handling request: {text}"
        )))
    })
}
