//! Counts the current followers of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The counter.
#[derive(Debug, Default)]
pub struct Followers(Arc<AtomicUsize>);

/// One follower; dropped when it has disconnected.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Followers {
    /// Counts one more follower.
    pub fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.0))
    }

    /// Returns how many followers there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
