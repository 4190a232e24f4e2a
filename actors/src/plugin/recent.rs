//! The last calls to plugins, for observers: how long each took, and how it ended. Their content is
//! not kept.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use skytrail_schema::code::ApiError;
use skytrail_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, SystemClock};

/// How many calls are kept.
const MAX_CALLS: usize = 1000;

/// A call that has ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecentCall {
    /// Counts up from 1 since the server started.
    pub number: u64,
    /// When it ended.
    pub at: Timestamp,
    /// The plugin.
    pub plugin: Arc<str>,
    /// `op`, `hook`, `event`, …
    pub kind: &'static str,
    /// The point's name.
    pub name: String,
    /// How long it took, including the time in a queue.
    pub duration_ms: f64,
    /// How it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallError {
    /// The code.
    pub code: i64,
    /// For people.
    pub message: String,
}

/// Keeps the last calls.
pub struct RecentCalls {
    calls: Mutex<VecDeque<RecentCall>>,
    /// The number of the last one.
    last: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
}

impl Default for RecentCalls {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl std::fmt::Debug for RecentCalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecentCalls").finish_non_exhaustive()
    }
}

impl RecentCalls {
    /// Starts with no calls.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            calls: Mutex::default(),
            last: watch::Sender::new(0),
            clock,
        }
    }

    /// Records a call that has ended.
    pub(super) fn note(
        &self,
        (plugin, kind, name): (&Arc<str>, &'static str, &str),
        began: Instant,
        error: Option<&ApiError>,
    ) {
        let mut call = RecentCall {
            number: 0,
            at: self.clock.now(),
            plugin: Arc::clone(plugin),
            kind,
            name: name.to_owned(),
            duration_ms: began.elapsed().as_secs_f64() * 1e3,
            error: error.map(|error| CallError {
                code: error.code.number(),
                message: error.message.to_string(),
            }),
        };
        let mut calls = self.calls.lock();
        call.number = calls.back().map_or(0, |call| call.number) + 1;
        let number = call.number;
        if calls.len() == MAX_CALLS {
            calls.pop_front();
        }
        calls.push_back(call);
        drop(calls);
        self.last.send_if_modified(|last| {
            let is_news = *last < number;
            *last = number.max(*last);
            is_news
        });
    }

    /// Returns the kept calls above a number, in order.
    pub fn after(&self, number: u64) -> Vec<RecentCall> {
        let calls = self.calls.lock();
        let first = calls.partition_point(|call| call.number <= number);
        calls.range(first..).cloned().collect()
    }

    /// Waits until there is a call above a number.
    pub async fn beyond(&self, number: u64) {
        let mut last = self.last.subscribe();
        // The sender lives as long as this does.
        let _ = last.wait_for(|last| *last > number).await;
    }
}

#[cfg(test)]
mod tests {
    use skytrail_schema::code::Code;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test(start_paused = true)]
    async fn the_last_calls_are_kept_in_order_and_waited_for() {
        let recent = RecentCalls::new(Arc::new(ManualClock::default()));
        let plugin: Arc<str> = "CHAT".into();
        let refused = ApiError::new(Code::InvalidArgument, "no");
        for number in 1..=1500 {
            let error = (number % 2 == 0).then_some(&refused);
            recent.note((&plugin, "op", "x"), Instant::now(), error);
        }
        let kept = recent.after(0);
        assert_eq!(kept.len(), MAX_CALLS);
        assert_eq!((kept[0].number, kept[999].number), (501, 1500));
        assert_eq!(kept[0].error, None);
        assert_eq!(kept[1].error.as_ref().unwrap().code, 108);
        assert!(recent.after(1500).is_empty());
        recent.beyond(1499).await;
        let waiting = tokio::time::timeout(std::time::Duration::from_secs(1), recent.beyond(1500));
        assert!(waiting.await.is_err());
    }
}
