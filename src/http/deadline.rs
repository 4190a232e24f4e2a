//! Work for a client, no longer than its time, and whatever becomes of it an answer.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use skytrail_actors::context::Storing;
use skytrail_schema::code::{ApiError, Code};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a client whose time is over waits for what is being stored for it just then.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// How long the word of something that was stored may be under way.
const WORD_OF_IT: Duration = Duration::from_secs(2);

/// Runs work to its end, or to the deadline. What an actor has taken up goes on there, but stores
/// nothing any more: at the deadline whatever is being stored is waited for. Neither does it when the
/// client hangs up, for which this is dropped.
///
/// # Errors
/// The work's; 122 at the deadline; 10000 when it panics.
pub(super) async fn within<T>(
    (deadline, storing): (Option<Instant>, Storing),
    work: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let mut waiting = Waiting {
        storing: storing.clone(),
        is_over: false,
    };
    let work = AssertUnwindSafe(work).catch_unwind();
    let done = match deadline {
        Some(deadline) => {
            let over = async {
                sleep_until(deadline).await;
                // A disk that hangs for so long ends the process sooner or later.
                if timeout(LAST_WORDS, storing.end()).await == Ok(true) {
                    // Whoever's record has just been stored should hear that, if there is no more
                    // to do.
                    sleep(WORD_OF_IT).await;
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

/// Somebody waits for a request, until this is dropped.
struct Waiting {
    storing: Storing,
    /// Whether the work is done.
    is_over: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.is_over {
            self.storing.give_up();
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
        let storing = Storing::default();
        let (stored, is_stored) = oneshot::channel();
        let work = async {
            let _storing = storing.begin().await;
            Ok(is_stored.await.unwrap_or(0))
        };
        let answered = within((Some(soon()), storing.clone()), work);
        let disk = async {
            sleep_until(soon() + Duration::from_millis(50)).await;
            stored.send(7)
        };
        let (answered, _) = tokio::join!(answered, disk);
        assert_eq!(answered, Ok(7));
    }

    #[actix_web::test]
    async fn nothing_is_stored_after_it_was_said_that_it_took_too_long() {
        let storing = Storing::default();
        let late = storing.clone();
        let work = std::future::pending::<Result<(), ApiError>>();
        let refused = within((Some(soon()), storing), work).await.unwrap_err();
        assert_eq!(refused.code, Code::ResponseTimeout);
        assert!(late.begin().await.is_none());
    }

    #[actix_web::test]
    async fn nothing_is_stored_for_a_client_that_is_gone() {
        let storing = Storing::default();
        let work = std::future::pending::<Result<(), ApiError>>();
        let waiting = within((None, storing.clone()), work);
        assert!(waiting.now_or_never().is_none());
        assert!(storing.begin().await.is_none());
        storing.given_up().await;

        let storing = Storing::default();
        let done = within((None, storing.clone()), async { Ok(()) }).await;
        assert_eq!(done, Ok(()));
        // What goes on in the background is another matter.
        assert!(storing.begin().await.is_some());
    }

    #[actix_web::test]
    async fn work_that_panics_is_answered() {
        let work = async { panic!("of the test") };
        let refused = within::<()>((None, Storing::default()), work).await;
        let message = "panic occurred while handling request: of the test";
        assert_eq!(refused, Err(ApiError::unexpected(message)));
    }
}
