//! What the HTTP door counts: requests by action and status, and connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use skytrail_actors::observe::{Histogram, HistogramState};

/// How long after a refused connection the health still says so, and how rarely the log does.
const REFUSAL_MEMORY: Duration = Duration::from_secs(60);

/// Names of actions come from a fixed list, which is far shorter than this.
const MAX_ACTIONS: usize = 256;

/// See the module's overview. Requests are counted under the server's own names, never under a
/// client's: otherwise anyone could fill the memory with names.
#[derive(Debug, Default)]
pub struct DoorCounters {
    actions: RwLock<BTreeMap<String, Arc<ActionCounters>>>,
    connections: AtomicUsize,
    refused: AtomicU64,
    refusals: Mutex<Refusals>,
    hang_ups: AtomicU64,
    wrong_keys: AtomicU64,
    unsent: AtomicUsize,
}

/// When connections were refused.
#[derive(Debug, Default)]
struct Refusals {
    last: Option<Instant>,
    last_logged: Option<Instant>,
}

#[derive(Debug)]
struct ActionCounters {
    seconds: Histogram,
    statuses: RwLock<BTreeMap<u16, Arc<AtomicU64>>>,
}

/// The figures of one action.
#[derive(Clone, Debug, Serialize)]
pub struct ActionFigures {
    /// Its name.
    pub action: String,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// How long the answers took.
    pub seconds: HistogramState,
}

/// The state of the HTTP door.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DoorState {
    /// Connections open now.
    pub num_connections: usize,
    /// Connections that were closed at once, for lack of file descriptors.
    pub num_refused_connections: u64,
    /// Whether that happened in the last minute.
    pub is_refusing_connections: bool,
    /// Requests whose clients disconnected before the answer.
    pub num_hang_ups: u64,
    /// Keys that were shown and are not the app's.
    pub num_wrong_keys: u64,
    /// Bytes of answers that clients have not received yet.
    pub unsent_bytes: usize,
    /// Actions in flight now.
    pub num_running: usize,
}

impl DoorCounters {
    /// Counts an answer.
    pub fn count(&self, action: &str, status: u16, took: Duration) {
        let Some(counters) = self.action(action) else {
            return;
        };
        counters.seconds.observe(took.as_secs_f64());
        let counter = counters.statuses.read().get(&status).cloned();
        let counter = counter
            .unwrap_or_else(|| Arc::clone(counters.statuses.write().entry(status).or_default()));
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request whose client disconnected before the answer.
    pub fn count_hang_up(&self) {
        self.hang_ups.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a wrong key.
    pub fn count_wrong_key(&self) {
        self.wrong_keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the returned guard is dropped.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(Arc::clone(self))
    }

    /// Counts a connection that is closed for lack of file descriptors. Returns whether it should be
    /// logged: once a minute.
    pub fn count_refused(&self, now: Instant) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let mut refusals = self.refusals.lock();
        refusals.last = Some(now);
        let is_due = !is_recent(refusals.last_logged, now);
        if is_due {
            refusals.last_logged = Some(now);
        }
        is_due
    }

    /// Counts the bytes of an answer until the returned guard is dropped.
    pub fn unsent(self: &Arc<Self>, num_bytes: usize) -> Unsent {
        self.unsent.fetch_add(num_bytes, Ordering::Relaxed);
        Unsent {
            counters: Arc::clone(self),
            num_bytes,
        }
    }

    /// Returns how many bytes of answers clients have not received yet.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Returns the figures of every action that has been requested.
    pub fn actions(&self) -> Vec<ActionFigures> {
        let figures = |(name, counters): (&String, &Arc<ActionCounters>)| ActionFigures {
            action: name.clone(),
            statuses: {
                let statuses = counters.statuses.read();
                let load = |(status, count): (&u16, &Arc<AtomicU64>)| {
                    (*status, count.load(Ordering::Relaxed))
                };
                statuses.iter().map(load).collect()
            },
            seconds: counters.seconds.state(),
        };
        self.actions.read().iter().map(figures).collect()
    }

    /// Returns the door's state.
    pub fn state(&self, num_running: usize) -> DoorState {
        DoorState {
            num_connections: self.connections.load(Ordering::Relaxed),
            num_refused_connections: self.refused.load(Ordering::Relaxed),
            is_refusing_connections: is_recent(self.refusals.lock().last, Instant::now()),
            num_hang_ups: self.hang_ups.load(Ordering::Relaxed),
            num_wrong_keys: self.wrong_keys.load(Ordering::Relaxed),
            unsent_bytes: self.unsent_bytes(),
            num_running,
        }
    }

    fn action(&self, name: &str) -> Option<Arc<ActionCounters>> {
        if let Some(counter) = self.actions.read().get(name) {
            return Some(Arc::clone(counter));
        }
        let mut actions = self.actions.write();
        if actions.len() >= MAX_ACTIONS {
            return None;
        }
        let new = || ActionCounters {
            seconds: Histogram::new(Histogram::SECONDS),
            statuses: RwLock::default(),
        };
        let entry = actions.entry(name.to_owned());
        Some(Arc::clone(entry.or_insert_with(|| Arc::new(new()))))
    }
}

fn is_recent(time: Option<Instant>, now: Instant) -> bool {
    time.is_some_and(|time| now.saturating_duration_since(time) < REFUSAL_MEMORY)
}

/// Counts a connection while it is open.
#[derive(Debug)]
pub struct Connected(Arc<DoorCounters>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts the bytes of an answer while they are held for the client.
#[derive(Debug)]
pub struct Unsent {
    counters: Arc<DoorCounters>,
    num_bytes: usize,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let Self {
            counters,
            num_bytes,
        } = self;
        counters.unsent.fetch_sub(*num_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_connections_are_logged_once_a_minute() {
        let (door, begun) = (DoorCounters::default(), Instant::now());
        let at = |seconds| door.count_refused(begun + Duration::from_secs(seconds));
        let logged = [0, 1, 59, 60, 61, 119, 120].map(at);
        assert_eq!(logged, [true, false, false, true, false, false, true]);
        assert_eq!(door.state(0).num_refused_connections, 7);
    }
}
