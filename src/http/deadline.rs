//! Runs work for a client within a deadline; whatever happens, the client gets an answer.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use skytrail_actors::context::CommitGate;
use skytrail_schema::code::{ApiError, Code};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a client past its deadline waits for a store operation that is in flight.
const STORE_GRACE: Duration = Duration::from_secs(30);

/// How long the answer may still take after something was stored.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

/// Runs work until it is done or the deadline passes.
///
/// Work that an actor has started continues there, but can no longer store anything; an operation
/// that is storing at the deadline is waited for. Nor can the work store anything after the client
/// hangs up, which drops this future.
///
/// # Errors
/// The work's error; 122 at the deadline; 10000 if the work panics.
pub(super) async fn within<T>(
    (deadline, commit_gate): (Option<Instant>, CommitGate),
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let mut waiting = Waiting {
        commit_gate: commit_gate.clone(),
        is_over: false,
    };
    let work = AssertUnwindSafe(work).catch_unwind();
    let done = match deadline {
        Some(deadline) => {
            let over = async {
                sleep_until(deadline).await;
                // A disk that hangs for this long ends the process sooner or later.
                if timeout(STORE_GRACE, commit_gate.end()).await == Ok(true) {
                    // A client whose record has just been stored should get its answer, if nothing
                    // else is left to do.
                    sleep(ANSWER_GRACE).await;
                }
            };
            tokio::select! {
                biased;
                done = work => done,
                () = over => {
                    let message = "Service taking too long to respond.";
                    return Err(ApiError::new(Code::ResponseTimeout, message));
                }
            }
        }
        None => work.await,
    };
    waiting.is_over = true;
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

/// A client waits for a request until this is dropped.
struct Waiting {
    commit_gate: CommitGate,
    /// Whether the work is done.
    is_over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.commit_gate.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[actix_web::test]
    async fn what_is_being_stored_is_waited_for_and_its_answer_counts() {
        let commit_gate = CommitGate::default();
        let (stored, is_stored) = oneshot::channel();
        let work = async {
            let _storing = commit_gate.begin().await;
            Ok(is_stored.await.unwrap_or(0))
        };
        let answered = within((Some(soon()), commit_gate.clone()), work);
        let disk = async {
            sleep_until(soon() + Duration::from_millis(50)).await;
            stored.send(7)
        };
        let (answered, _) = tokio::join!(answered, disk);
        assert_eq!(answered, Ok(7));
    }

    #[actix_web::test]
    async fn nothing_is_stored_after_it_was_said_that_it_took_too_long() {
        let commit_gate = CommitGate::default();
        let late = commit_gate.clone();
        let work = std::future::pending::<Result<(), ApiError>>();
        let refused = within((Some(soon()), commit_gate), work).await.unwrap_err();
        assert_eq!(refused.code, Code::ResponseTimeout);
        assert!(late.begin().await.is_none());
    }

    #[actix_web::test]
    async fn nothing_is_stored_for_a_client_that_is_gone() {
        let commit_gate = CommitGate::default();
        let work = std::future::pending::<Result<(), ApiError>>();
        let waiting = within((None, commit_gate.clone()), work);
        assert!(waiting.now_or_never().is_none());
        assert!(commit_gate.begin().await.is_none());
        commit_gate.given_up().await;

        let commit_gate = CommitGate::default();
        let done = within((None, commit_gate.clone()), async { Ok(()) }).await;
        assert_eq!(done, Ok(()));
        // What continues in the background is not affected.
        assert!(commit_gate.begin().await.is_some());
    }

    #[actix_web::test]
    async fn work_that_panics_is_answered() {
        let work = async { panic!("of the test") };
        let refused = within::<()>((None, CommitGate::default()), work).await;
        let message = "panic occurred while handling request: of the test";
        assert_eq!(refused, Err(ApiError::unexpected(message)));
    }
}
