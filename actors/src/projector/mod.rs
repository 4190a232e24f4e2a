//! The projector: feeds the record store from the log.

use std::time::Duration;

use skytrail_schema::code::ApiError;
use tokio::sync::watch;

/// How far the record store is; readers wait on it.
#[derive(Clone, Debug)]
pub struct Applied(pub watch::Receiver<u64>);

/// How long a reader waits for the store to catch up.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(10);

impl Applied {
    /// Returns the last applied position.
    pub fn position(&self) -> u64 {
        *self.0.borrow()
    }

    /// Waits until the store has applied `position`.
    ///
    /// # Errors
    /// The store did not get there in time: overloaded, or failing.
    pub async fn wait_for(&self, position: u64) -> Result<(), ApiError> {
        if self.position() >= position {
            return Ok(());
        }
        let mut receiver = self.0.clone();
        let reached = receiver.wait_for(|applied| *applied >= position);
        match tokio::time::timeout(CATCH_UP_DEADLINE, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ApiError::overloaded("the record store")),
        }
    }
}
