//! The projector: feeds the record store from the log.
//!
//! It is an actor that runs one loop: read the next events of the log, apply them
//! in batches, each with its checkpoint in the same transaction, and tell the
//! readers. The committer never waits for it.

mod actor;

use std::sync::Arc;
use std::time::Duration;

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
    /// Why the store takes no events at present, if that is known.
    trouble: watch::Receiver<Option<UnavailableReason>>,
    goes_on_if_locked: bool,
}

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

    /// Returns a copy for a reader that does not wait while another program's lock holds up the store: the
    /// program may itself be waiting for this reader's answer.
    #[must_use]
    pub fn going_on_if_locked(&self) -> Self {
        Self {
            goes_on_if_locked: true,
            ..self.clone()
        }
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
        let reached = async {
            tokio::select! {
                reached = receiver.wait_for(|applied| *applied >= position) => reached.is_ok(),
                () = self.locked() => true,
            }
        };
        match tokio::time::timeout(CATCH_UP_DEADLINE, reached).await {
            Ok(true) => Ok(()),
            _ => Err(match *self.trouble.borrow() {
                Some(why) => StoreError::unavailable(why, "it does not accept events").into(),
                None => ApiError::overloaded("the record store"),
            }),
        }
    }

    /// Waits until another program's lock holds up the store; without end if that makes no
    /// difference to this reader.
    pub async fn locked(&self) {
        let mut trouble = self.trouble.clone();
        let is_locked =
            |trouble: &Option<UnavailableReason>| *trouble == Some(UnavailableReason::Locked);
        if !self.goes_on_if_locked || trouble.wait_for(is_locked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The projector's side of [`Applied`].
#[derive(Debug, Default)]
pub struct AppliedSender {
    position: watch::Sender<u64>,
    demand: Arc<Notify>,
    trouble: watch::Sender<Option<UnavailableReason>>,
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
            trouble: self.trouble.subscribe(),
            goes_on_if_locked: false,
        }
    }

    /// Tells the readers that the store has applied the log up to `position`.
    pub fn reached(&self, position: u64) {
        self.trouble
            .send_if_modified(|known| known.take().is_some());
        self.position.send_replace(position);
    }

    /// Tells the readers that the store takes no events, and why.
    pub fn fail(&self, why: UnavailableReason) {
        self.trouble.send_replace(Some(why));
    }
}
