//! File descriptors: raises the limit for the connections, and never uses more than it allows.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

/// A connection needs its own descriptor, and one more so that it can be ended from outside.
const PER_CONNECTION: usize = 2;
/// For everything else: the log, the stores, plugins, uploads.
const FOR_THE_REST: usize = 512;
/// There is always room for a few connections.
const FEWEST: usize = 32;

/// The descriptors that connections may use.
#[derive(Debug)]
pub struct Descriptors {
    max: usize,
    taken: AtomicUsize,
}

impl Descriptors {
    /// Raises this process's limit, as far as the system allows, to make room for this many
    /// connections.
    pub fn for_connections(connections: usize) -> Self {
        let wanted = connections * PER_CONNECTION + FOR_THE_REST;
        let possible = raise_limit(wanted as u64);
        let possible = usize::try_from(possible).unwrap_or(usize::MAX);
        if possible < wanted {
            tracing::warn!(
                descriptors = possible,
                wanted,
                "the limit of file descriptors (ulimit -n) is low for HTTP_MAX_CONNECTIONS"
            );
        }
        Self::new(possible.saturating_sub(FOR_THE_REST).max(FEWEST))
    }

    fn new(max: usize) -> Self {
        Self {
            max,
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes the descriptors for a connection. Returns whether enough were left.
    pub fn take(&self) -> bool {
        let more = |taken| Some(taken + PER_CONNECTION).filter(|taken| *taken <= self.max);
        let order = Ordering::Relaxed;
        self.taken.fetch_update(order, order, more).is_ok()
    }

    /// Gives back this many descriptors.
    pub fn give_back(&self, number: usize) {
        self.taken.fetch_sub(number, Ordering::Relaxed);
    }
}

/// Raises the limit if it is below `needed`; returns the limit afterwards.
fn raise_limit(needed: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current.filter(|current| *current < needed) else {
        return limit.current.unwrap_or(u64::MAX);
    };
    let raised = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    limit.current = Some(raised);
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors cannot be raised");
            current
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_the_limit() {
        let descriptors = Descriptors::new(5);
        assert!(descriptors.take() && descriptors.take());
        assert!(!descriptors.take());
        // A connection that can no longer be ended from outside needs only one.
        descriptors.give_back(1);
        assert!(descriptors.take());
        assert!(!descriptors.take());
    }
}
