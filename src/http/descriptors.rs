//! File descriptors: raises the limit for the connections, and never uses more than it allows.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Http;

/// A connection needs its own descriptor, and one more so that it can be ended from outside.
const PER_CONNECTION: usize = 2;
/// The event loop of an HTTP thread: measured, with the connection that it is just refusing.
const PER_WORKER: usize = 9;
/// For everything else if the limit allows it: the stores, plugins, uploads.
const FOR_THE_REST: usize = 512;
/// For everything else at least. A server without plugins uses 55 while it is idle.
const FEWEST_FOR_THE_REST: usize = 112;
/// There has to be room for a few connections.
const FEWEST: usize = 32;
/// At most this many connections beyond the limit are accepted and closed; further ones wait.
const REFUSED_AT_ONCE: usize = 16;

/// The limit of file descriptors is too low for a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the limit of file descriptors (ulimit -n) is {possible}, but at least {needed} are needed: \
     raise it, or set a lower HTTP_WORKERS"
)]
pub struct TooFew {
    possible: usize,
    needed: usize,
}

/// The descriptors that connections may use.
#[derive(Debug)]
pub struct Descriptors {
    max: usize,
    max_connections: usize,
    taken: AtomicUsize,
}

impl Descriptors {
    /// Raises this process's limit, as far as the system allows, to make room for the connections,
    /// for the HTTP threads, and for this many files of the log, which stay open.
    ///
    /// # Errors
    /// The limit is so low that the server could not work.
    pub fn reserve(settings: &Http, log_files: usize) -> Result<Self, TooFew> {
        let fixed = settings.workers * PER_WORKER + log_files;
        let wanted = settings.max_connections * PER_CONNECTION + FOR_THE_REST + fixed;
        let possible = raise_limit(wanted as u64);
        let possible = usize::try_from(possible).unwrap_or(usize::MAX);
        let max = connections_of(possible, fixed)?;
        let descriptors = Self::new(max);
        let connections = descriptors.num_connections();
        if possible < wanted {
            tracing::warn!(
                descriptors = possible,
                wanted,
                connections,
                "the limit of file descriptors (ulimit -n) is low for HTTP_MAX_CONNECTIONS: only \
                 this many connections are served, and further ones are closed"
            );
        }
        let most = connections + REFUSED_AT_ONCE;
        Ok(Self {
            max_connections: settings.max_connections.min(most),
            ..descriptors
        })
    }

    /// Returns how many connections each of this many threads may accept.
    pub fn per_worker(&self, workers: usize) -> usize {
        self.max_connections.div_ceil(workers.max(1))
    }

    fn new(max: usize) -> Self {
        Self {
            max,
            max_connections: max,
            taken: AtomicUsize::new(0),
        }
    }

    /// Returns for how many connections the descriptors are enough.
    pub fn num_connections(&self) -> usize {
        self.max / PER_CONNECTION
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

/// Returns how many descriptors connections may use, of all that are possible.
fn connections_of(possible: usize, fixed: usize) -> Result<usize, TooFew> {
    let needed = FEWEST_FOR_THE_REST + fixed + FEWEST;
    if possible < needed {
        return Err(TooFew { possible, needed });
    }
    Ok(possible.saturating_sub(FOR_THE_REST + fixed).max(FEWEST))
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
    fn connections_get_what_the_rest_does_not_need() {
        assert_eq!(connections_of(10_000, 100), Ok(9_388));
        assert_eq!(connections_of(244, 100), Ok(FEWEST));
        let (possible, needed) = (243, 244);
        assert_eq!(connections_of(243, 100), Err(TooFew { possible, needed }));
    }

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
