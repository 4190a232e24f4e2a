//! How many follow the log at present.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts those who follow.
#[derive(Debug, Default)]
pub struct Followers(Arc<AtomicUsize>);

/// One of them; dropped when he is gone.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Followers {
    /// Counts one more.
    pub fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(&self.0))
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
