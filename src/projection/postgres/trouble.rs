//! Why reads fail at present, for operators.
//!
//! The projector reports what it cannot write, but it notices nothing while there is nothing to
//! apply. So reads report what they run into: a database that cannot be connected to, until a
//! connection succeeds; and a table that cannot be read, for a while, because reads of other tables
//! succeed meanwhile.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use skytrail_actors::store::{StoreError, UnavailableReason};

/// How long the failure of a single statement is reported.
const REPORTED_FOR: Duration = Duration::from_secs(60);

/// See the module's overview.
#[derive(Default)]
pub(super) struct ReadTrouble {
    connecting: Mutex<Option<String>>,
    statement: Mutex<Option<(Instant, String)>>,
}

impl ReadTrouble {
    /// Records whether a connection was available. That none was free in time says nothing about
    /// the database.
    pub(super) fn connected(&self, error: Option<&StoreError>) {
        match error {
            None => *self.connecting.lock() = None,
            Some(StoreError::Unavailable {
                why: UnavailableReason::Slow,
                ..
            }) => {}
            Some(StoreError::Unavailable { cause, .. } | StoreError::Failed(cause)) => {
                *self.connecting.lock() = Some(cause.clone());
            }
            Some(_) => {}
        }
    }

    /// Records that a statement failed because of what others have taken away.
    pub(super) fn failed(&self, error: &StoreError) {
        if let StoreError::Unavailable {
            why: UnavailableReason::Unreadable | UnavailableReason::Missing,
            cause,
        } = error
        {
            *self.statement.lock() = Some((Instant::now(), cause.clone()));
        }
    }

    /// Returns why reads fail at present.
    pub(super) fn reason(&self) -> Option<String> {
        if let Some(cause) = &*self.connecting.lock() {
            return Some(cause.clone());
        }
        let statement = self.statement.lock();
        let (at, cause) = statement.as_ref()?;
        (at.elapsed() < REPORTED_FOR).then(|| cause.clone())
    }
}
