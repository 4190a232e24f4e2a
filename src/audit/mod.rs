//! The audit trail: who signed up, signed in, changed rights; as JSON, for other eyes than the log's.
//!
//! 1. An action notes what happened. That never waits: the queue is bounded, and what does not
//!    fit is counted and left out.
//! 2. A thread of its own writes: to the standard error, and to a file or to fluentd if one is
//!    configured. However slow those are, no request is.
//! 3. At a shutdown what is in the queue is written first. What fluentd does not take within a few
//!    seconds then is counted as lost, and the log says so.
//!
//! Entries hold ids, names of roles and providers, and addresses; never passwords, keys or tokens.

mod entry;
mod fluentd;
mod sink;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value as Json};
use skytrail_actors::clock::Clock;
use skytrail_schema::id::UserId;

pub use entry::AuditEvent;

use entry::Entry;
use sink::Sinks;

use crate::config::Audit;
use crate::http::remote::Remote;

/// How many entries may wait.
const MAX_WAITING: usize = 4096;

/// See the module's overview.
pub struct AuditTrail {
    clock: Arc<dyn Clock>,
    queue: Mutex<Option<SyncSender<Entry>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// What the trail says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AuditState {
    /// Whether there is a trail at all.
    pub is_enabled: bool,
    /// Entries written since the start; of those for fluentd, what it took.
    pub num_written: u64,
    /// Entries that did not fit into the queue, or that the file or, until the end, fluentd did not take.
    pub num_dropped: u64,
}

impl AuditTrail {
    /// Starts the trail that the configuration asks for; one that is off costs nothing.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread to be had.
    pub fn start(config: &Audit, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut trail = Self {
            clock,
            queue: Mutex::new(None),
            writer: Mutex::new(None),
            counters: Arc::clone(&counters),
        };
        if config.is_enabled {
            let (sender, receiver) = sync_channel(MAX_WAITING);
            let sinks = Sinks::open(config.target.as_ref(), counters)?;
            let thread = std::thread::Builder::new().name("audit".to_owned());
            let thread = thread.spawn(move || sinks.write_all(&receiver))?;
            *trail.queue.get_mut() = Some(sender);
            *trail.writer.get_mut() = Some(thread);
        }
        Ok(trail)
    }

    /// Whether anything that is noted is written.
    pub fn is_enabled(&self) -> bool {
        self.queue.lock().is_some()
    }

    /// Notes what happened to a user, or what he did.
    pub fn note(&self, event: AuditEvent, user: Option<&UserId>, remote: &Remote) {
        self.note_with(event, user, remote, Map::new());
    }

    /// As [`AuditTrail::note`], with details.
    pub fn note_with(
        &self,
        event: AuditEvent,
        user: Option<&UserId>,
        remote: &Remote,
        data: Map<String, Json>,
    ) {
        let queue = self.queue.lock();
        let Some(queue) = queue.as_ref() else { return };
        let entry = Entry {
            event,
            user: user.cloned(),
            remote: remote.clone(),
            data,
            time: self.clock.now(),
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(entry) {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the trail's state.
    pub fn state(&self) -> AuditState {
        AuditState {
            is_enabled: self.is_enabled(),
            num_written: self.counters.written.load(Ordering::Relaxed),
            num_dropped: self.counters.dropped.load(Ordering::Relaxed),
        }
    }

    /// Takes no more entries, and waits until those in the queue are written. Blocks.
    pub fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use skytrail_actors::clock::ManualClock;

    use super::*;

    #[test]
    fn whoever_notes_never_waits_for_a_writer_that_does_not_write() {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let trail = AuditTrail {
            clock: Arc::new(ManualClock::default()),
            queue: Mutex::new(Some(sender)),
            writer: Mutex::new(None),
            counters: Arc::default(),
        };
        let begun = Instant::now();
        for _ in 0..MAX_WAITING + 10 {
            trail.note(AuditEvent::Signup, None, &Remote::default());
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(trail.state().num_dropped, 10);
        assert_eq!(receiver.try_iter().count(), MAX_WAITING);
        trail.close();
        trail.note(AuditEvent::Signup, None, &Remote::default());
        assert_eq!(trail.state().num_dropped, 10);
    }
}
