//! The projector: feeds the record store from the log.
//!
//! It is an actor that runs one loop: take what the committer has handed over
//! (or, after a gap, what the log has), apply it in batches, each with its
//! checkpoint in the same transaction, and tell the readers. The committer
//! never waits for it: what does not fit the queue is read from the log.

mod actor;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::Commit;
use tokio::sync::{Notify, watch};

use crate::log::CommitObserver;
use crate::log::tail::{Tail, TailFeed, tail};
use crate::store::{Away, StoreError};

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
type Trouble = Arc<Mutex<Option<Away>>>;

impl Applied {
    /// Returns the last applied position.
    pub fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Waits until the store has applied more than `position`; `None` when it never will.
    pub async fn beyond(&self, position: u64) -> Option<u64> {
        let mut receiver = self.position.clone();
        let reached = receiver.wait_for(|applied| *applied > position).await;
        reached.ok().map(|applied| *applied)
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
                Some(why) => StoreError::unavailable(why, "it does not take events").into(),
                None => ApiError::overloaded("the record store"),
            }),
        }
    }
}

/// How far the log is, for those who need not wait for the store. As an observer of the log it comes
/// behind those whose state must be as new.
#[derive(Debug, Default)]
pub struct Committed(watch::Sender<u64>);

impl Committed {
    /// Notes how far the log is already.
    pub fn note(&self, head: u64) {
        self.0.send_if_modified(|position| {
            let is_later = *position < head;
            *position = head.max(*position);
            is_later
        });
    }

    /// Returns where it can be waited for.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

impl CommitObserver for Committed {
    fn committed(&self, commits: &[Arc<Commit>]) {
        if let Some(last) = commits.last() {
            self.note(last.last_position());
        }
    }
}

/// The projector's side of what the committer hands over.
pub struct Fed {
    tail: Tail,
    demand: Arc<Notify>,
    trouble: Trouble,
}

impl Fed {
    /// Returns the readers' side of `position`, which the projector will set, or [`Committed`] does.
    pub fn applied(&self, position: watch::Receiver<u64>) -> Applied {
        Applied {
            position,
            demand: Arc::clone(&self.demand),
            trouble: Arc::clone(&self.trouble),
        }
    }
}

/// Makes the committer's side and the projector's.
pub fn feed() -> (TailFeed, Fed) {
    let (feed, tail) = tail();
    let demand = Arc::new(Notify::new());
    let trouble = Trouble::default();
    let fed = Fed {
        tail,
        demand,
        trouble,
    };
    (feed, fed)
}
