//! The audit trail: who signed up, signed in, changed rights or administered, as JSON, for readers
//! other than the log's.
//!
//! 1. An action notes what happened with the request's [`AuditReporter`]. For an administrators'
//!    action that notes nothing itself, the router does. Noting never waits: the queue is bounded,
//!    and an entry that does not fit is counted and dropped.
//! 2. A thread of its own writes the entries: to the standard error, and to a file or to fluentd if
//!    one is configured. However slow these are, no request is slowed down.
//! 3. At a shutdown, what is in the queue is written first. What fluentd does not accept within a
//!    few seconds is then counted as lost, and the log says so.
//!
//! Entries hold ids, names, addresses and a short form of the request; never passwords, keys or
//! tokens.

mod entry;
mod fluentd;
mod sink;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value as Json, json};
use skytrail_actors::clock::Clock;
use skytrail_schema::id::UserId;

pub use entry::{AuditEvent, Source};

use entry::Entry;
use sink::Sinks;

use crate::config::Audit;
use crate::http::mask::is_secret;

/// The length of the queue.
const MAX_WAITING: usize = 4096;
/// Members of a request that are left out: they do not say what it asks for, or hold content.
const NOT_TOLD: [&str; 5] = ["action", "database_id", "data", "param", "args"];
/// The greatest number of bytes of a request in an entry.
const MAX_TOLD: usize = 2048;

/// See the module's overview.
pub struct AuditTrail {
    is_enabled: bool,
    clock: Arc<dyn Clock>,
    queue: Mutex<Option<SyncSender<Entry>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    /// Why the file or fluentd does not accept entries at present.
    trouble: Mutex<Option<String>>,
}

/// The trail's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditState {
    /// Whether there is a trail at all.
    pub is_enabled: bool,
    /// Entries written since the start; for fluentd, those that it accepted.
    pub num_written: u64,
    /// Entries that did not fit into the queue, or that the file or, by the end, fluentd did not
    /// accept.
    pub num_dropped: u64,
    /// Why the file or fluentd does not accept entries at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl AuditTrail {
    /// Starts the trail that the configuration asks for; a disabled one costs nothing.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub fn start(config: &Audit, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let counters = Arc::new(Counters::default());
        let mut trail = Self {
            is_enabled: config.is_enabled,
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

    /// Notes an event of a user, with details.
    fn note(&self, event: AuditEvent, user: Option<&UserId>, source: &Source, data: Json) {
        let queue = self.queue.lock();
        let Some(queue) = queue.as_ref() else { return };
        let entry = Entry {
            event,
            user: user.cloned(),
            source: source.clone(),
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
            is_enabled: self.is_enabled,
            num_written: self.counters.written.load(Ordering::Relaxed),
            num_dropped: self.counters.dropped.load(Ordering::Relaxed),
            trouble: self.counters.trouble.lock().clone(),
        }
    }

    /// Accepts no more entries, and waits until those in the queue are written. Blocks.
    pub fn close(&self) {
        drop(self.queue.lock().take());
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
    }
}

/// Notes what one request does, if there is a trail. Copies refer to the same request.
#[derive(Clone)]
pub struct AuditReporter(Option<Arc<Reported>>);

struct Reported {
    trail: Arc<AuditTrail>,
    source: Source,
    has_noted: AtomicBool,
}

impl AuditReporter {
    /// Creates a reporter that notes a request's events in `trail`, as coming from a source.
    pub fn new(trail: &Arc<AuditTrail>, source: impl FnOnce() -> Source) -> Self {
        let reported = || Reported {
            trail: Arc::clone(trail),
            source: source(),
            has_noted: AtomicBool::new(false),
        };
        Self(trail.is_enabled.then(reported).map(Arc::new))
    }

    /// Returns whether what is noted is written anywhere.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Notes an event of a user.
    pub fn note(&self, event: AuditEvent, user: Option<&UserId>) {
        self.note_with(event, user, json!({}));
    }

    /// Like [`AuditReporter::note`], with details in an object.
    pub fn note_with(&self, event: AuditEvent, user: Option<&UserId>, data: Json) {
        if let Some(it) = &self.0 {
            it.has_noted.store(true, Ordering::Relaxed);
            it.trail.note(event, user, &it.source, data);
        }
    }

    /// Begins an administrators' action. When it is over, an entry is written for it, unless the
    /// request has one already.
    pub fn administration(&self, action: &'static str, body: &Map<String, Json>) -> Administration {
        Administration {
            audit_reporter: self.clone(),
            action,
            params: if self.is_recorded() {
                in_short(body)
            } else {
                Map::new()
            },
            status: None,
        }
    }
}

/// An administrators' action in progress. It is noted when this is dropped: its effect is real even
/// when nobody waits for its answer any more.
pub struct Administration {
    audit_reporter: AuditReporter,
    action: &'static str,
    params: Map<String, Json>,
    status: Option<u16>,
}

impl Administration {
    /// Notes the action with the status of its answer.
    pub fn answered(mut self, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for Administration {
    fn drop(&mut self) {
        let Some(it) = &self.audit_reporter.0 else {
            return;
        };
        if !it.has_noted.load(Ordering::Relaxed) {
            let (event, user) = (AuditEvent::Administration, it.source.actor.user.as_ref());
            let data = json!({"action": self.action, "asked": self.params, "status": self.status});
            self.audit_reporter.note_with(event, user, data);
        }
    }
}

/// Returns the short form of a request: names and numbers, no secrets, no content and nothing long.
fn in_short(body: &Map<String, Json>) -> Map<String, Json> {
    let is_recordable = |name: &str, value: &Json| {
        !NOT_TOLD.contains(&name) && is_short(value) && (value.is_boolean() || !is_secret(name))
    };
    let mut recorded = Map::new();
    let mut remaining = MAX_TOLD;
    for (name, value) in body
        .iter()
        .filter(|(name, value)| is_recordable(name, value))
    {
        let num_bytes = name.len() + value.to_string().len();
        if let Some(rest) = remaining.checked_sub(num_bytes) {
            remaining = rest;
            recorded.insert(name.clone(), value.clone());
        }
    }
    recorded
}

/// Returns whether a value is short: not an object, not a list with lists in it, and within the
/// limit.
fn is_short(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) => true,
        Json::String(text) => text.len() <= MAX_TOLD,
        Json::Array(items) => {
            items.len() <= MAX_TOLD && items.iter().all(|it| !it.is_array() && is_short(it))
        }
        Json::Object(_) => false,
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
            is_enabled: true,
            clock: Arc::new(ManualClock::default()),
            queue: Mutex::new(Some(sender)),
            writer: Mutex::new(None),
            counters: Arc::default(),
        };
        let begun = Instant::now();
        for _ in 0..MAX_WAITING + 10 {
            trail.note(AuditEvent::Signup, None, &Source::default(), json!({}));
        }
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(trail.state().num_dropped, 10);
        assert_eq!(receiver.try_iter().count(), MAX_WAITING);
        trail.close();
        trail.note(AuditEvent::Signup, None, &Source::default(), json!({}));
        assert_eq!(trail.state().num_dropped, 10);
    }
}
