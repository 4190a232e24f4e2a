//! The projector: feeds the record store from the log.
//!
//! It is an actor that runs one loop: read the next events of the log, apply them
//! in batches, each with its checkpoint in the same transaction, and tell the
//! readers. The committer never waits for it.

mod actor;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use tokio::sync::{Notify, watch};

use crate::log;
use crate::store::{StoreError, UnavailableReason};

pub use actor::{GetProjectorState, Projector, ProjectorParts, ProjectorState, StopProjector};

/// How long a reader waits for the store to catch up.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(10);

/// How far the record store is; readers wait on it.
#[derive(Clone, Debug)]
pub struct Applied {
    position: watch::Receiver<u64>,
    /// Tells the projector that someone waits, so that it does not linger.
    demand: Arc<Notify>,
    trouble: Trouble,
}

/// Why the store takes no events at present, if that is known.
type Trouble = Arc<Mutex<Option<UnavailableReason>>>;

impl Applied {
    /// Returns the last applied position.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until the store has applied more than `position`; `None` when it never will.
    pub async fn beyond(&self, position: u64) -> Option<u64> {
        log::beyond(&mut self.watch(), position).await
    }

    /// Returns a receiver of the last applied position; its sender goes with the projector.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.position.clone()
    }

    /// Waits until the store has applied `position`.
    ///
    /// # Errors
    /// The store did not get there in time: overloaded, or failing.
    pub async fn wait_for(&self, position: u64) -> Result<(), ApiError> {
        if self.position() >= position {
            return Ok(());
        }
        self.demand.notify_one();
        let mut receiver = self.position.clone();
        let reached = receiver.wait_for(|applied| *applied >= position);
        match tokio::time::timeout(CATCH_UP_DEADLINE, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(match *self.trouble.lock() {
                Some(why) => StoreError::unavailable(why, "it does not accept events").into(),
                None => ApiError::overloaded("the record store"),
            }),
        }
    }
}

/// The projector's side of [`Applied`].
#[derive(Debug, Default)]
pub struct AppliedSender {
    position: watch::Sender<u64>,
    demand: Arc<Notify>,
    trouble: Trouble,
}

impl AppliedSender {
    /// Creates one for a store that has applied the log up to `checkpoint`.
    pub fn new(checkpoint: u64) -> Self {
        Self {
            position: watch::Sender::new(checkpoint),
            ..Self::default()
        }
    }

    /// Returns the last applied position.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Returns the readers' side.
    pub fn subscribe(&self) -> Applied {
        Applied {
            position: self.position.subscribe(),
            demand: Arc::clone(&self.demand),
            trouble: Arc::clone(&self.trouble),
        }
    }

    /// Tells the readers that the store has applied the log up to `position`.
    pub fn reached(&self, position: u64) {
        self.position.send_replace(position);
    }
}
