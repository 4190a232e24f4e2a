//! One request from its head to its answer: what it was, how it ended, how long it took.
//!
//! Every request ends in one log line and is counted once, even if its client disconnects before
//! the answer.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use skytrail_schema::code::Code;
use uuid::Uuid;

use crate::services::Services;

/// The status logged for a client that did not wait, as other servers log it.
const HUNG_UP: u16 = 499;

/// A request in flight. The router says which action it is for.
#[derive(Debug)]
pub struct Trace {
    /// Its id, the same in the answer, in the server's log, in events and at plugins.
    pub id: Uuid,
    begun: Instant,
    action: OnceLock<Named>,
}

/// An action's name, and the name it is counted under.
#[derive(Clone, Debug)]
struct Named {
    label: &'static str,
    name: String,
}

impl Trace {
    /// Starts a trace with an id.
    pub fn new(id: Uuid) -> Arc<Self> {
        Arc::new(Self {
            id,
            begun: Instant::now(),
            action: OnceLock::new(),
        })
    }

    /// Sets the action that the request is for. Only the first call counts.
    pub fn name(&self, label: &'static str, name: &str) {
        let name = name.to_owned();
        let _ = self.action.set(Named { label, name });
    }
}

/// Follows a request to its end; if it is dropped before that, the client has disconnected.
pub struct Watch {
    services: Arc<Services>,
    trace: Arc<Trace>,
    is_ended: bool,
}

impl Watch {
    /// Starts to watch.
    pub fn begin(services: Arc<Services>, trace: Arc<Trace>) -> Self {
        Self {
            services,
            trace,
            is_ended: false,
        }
    }

    /// Ends with an answer; `route` names a request that is not an action.
    pub fn end(mut self, route: &str, status: u16, code: Option<Code>) {
        self.is_ended = true;
        let took = self.trace.begun.elapsed();
        let named = self.trace.action.get();
        let label = named.map_or(route, |named| named.label);
        self.services.door.count(label, status, took);
        let action = named.map_or(route, |named| named.name.as_str());
        let (request_id, duration_ms) = (self.trace.id, took.as_secs_f64() * 1000.0);
        let code = code.map(Code::number);
        // Nothing of the request is logged: it may hold keys, tokens and passwords. A single
        // request that is refused for the time being (503) is not worth a warning.
        if status >= 500 && status != 503 {
            tracing::warn!(%request_id, action, status, code, duration_ms, "request failed");
        } else {
            tracing::debug!(%request_id, action, status, code, duration_ms, "request");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_ended {
            return;
        }
        self.services.door.count_hang_up();
        let action = self.trace.action.get().map(|named| named.name.as_str());
        let (request_id, status) = (self.trace.id, HUNG_UP);
        let duration_ms = self.trace.begun.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(%request_id, action, status, duration_ms, "the client disconnected");
    }
}
