//! Figures of one plugin, counted where things happen and read on demand.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};

use super::messages::{Answer, Silence};
use crate::observe::{Histogram, HistogramState};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestOutcome {
    /// The plugin answered with a result.
    Result,
    /// The plugin answered with an error.
    Error,
    /// The limit of the plugin or the point passed, or the client's own.
    Deadline,
    /// The caller went away.
    ClientGone,
    /// No worker was available in time.
    NoWorker,
    /// The server could not reach the plugin.
    Unreached,
    /// The worker that had it was lost.
    WorkerLost,
    /// Too many requests were queued.
    QueueFull,
}

impl RequestOutcome {
    /// All endings, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Result,
        Self::Error,
        Self::Deadline,
        Self::ClientGone,
        Self::NoWorker,
        Self::Unreached,
        Self::WorkerLost,
        Self::QueueFull,
    ];

    /// Returns its name in the figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Error => "error",
            Self::Deadline => "deadline",
            Self::ClientGone => "client-gone",
            Self::NoWorker => "no-worker",
            Self::Unreached => "unreached",
            Self::WorkerLost => "worker-lost",
            Self::QueueFull => "queue-full",
        }
    }

    /// Derives the ending from an answer, and from why there is none. A plugin's own error can look
    /// like one of the server's, which affects only these figures.
    pub(super) fn of(answer: &Answer, silence: Option<Silence>) -> Self {
        match (answer, silence) {
            (Ok(_), _) => Self::Result,
            (Err(_), Some(Silence::Unreached)) => Self::Unreached,
            (Err(error), _) => Self::of_error(error),
        }
    }

    fn of_error(error: &ApiError) -> Self {
        let reason = error.info.get("reason").and_then(|reason| reason.as_str());
        match (error.code, reason) {
            (Code::PluginUnavailable, Some("no-worker")) => Self::NoWorker,
            (Code::PluginUnavailable, Some("worker-lost")) => Self::WorkerLost,
            (Code::PluginUnavailable, Some("queue-full")) => Self::QueueFull,
            (Code::PluginTimeout, Some("deadline")) | (Code::ResponseTimeout, None) => {
                Self::Deadline
            }
            _ => Self::Error,
        }
    }
}

/// The counters.
#[derive(Debug)]
pub(super) struct RequestStats {
    endings: [AtomicU64; RequestOutcome::ALL.len()],
    seconds: Histogram,
    num_late: AtomicU64,
    num_stray: AtomicU64,
}

/// The values of the counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RequestStatsState {
    /// How many requests ended in each way.
    pub endings: Vec<(RequestOutcome, u64)>,
    /// How long the plugin's answers took, including the time in a queue.
    pub seconds: HistogramState,
    /// Answers that arrived after their requests had been given up.
    pub late: u64,
    /// Answers that no request was waiting for: second answers, and answers to ids that were never
    /// sent.
    pub stray: u64,
}

impl Default for RequestStats {
    fn default() -> Self {
        Self {
            endings: Default::default(),
            seconds: Histogram::new(Histogram::SECONDS),
            num_late: AtomicU64::new(0),
            num_stray: AtomicU64::new(0),
        }
    }
}

impl RequestStats {
    /// Counts the end of a request, and the time it took.
    pub(super) fn count(&self, ending: RequestOutcome, seconds: f64) {
        let index = RequestOutcome::ALL
            .iter()
            .position(|known| *known == ending);
        if let Some(counter) = index.and_then(|index| self.endings.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(ending, RequestOutcome::Result | RequestOutcome::Error) {
            self.seconds.observe(seconds);
        }
    }

    /// Counts an answer that arrived too late.
    pub(super) fn count_late(&self) {
        self.num_late.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer that no request was waiting for.
    pub(super) fn count_stray(&self) {
        self.num_stray.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the values of the counters.
    pub(super) fn state(&self) -> RequestStatsState {
        let counts = self.endings.iter();
        let counts = counts.map(|counter| counter.load(Ordering::Relaxed));
        RequestStatsState {
            endings: RequestOutcome::ALL.into_iter().zip(counts).collect(),
            seconds: self.seconds.state(),
            late: self.num_late.load(Ordering::Relaxed),
            stray: self.num_stray.load(Ordering::Relaxed),
        }
    }
}

impl RequestStatsState {
    /// Returns how many requests ended, and how many of them ended without a result.
    pub fn totals(&self) -> (u64, u64) {
        let total = |is_counted: fn(RequestOutcome) -> bool| -> u64 {
            let counted = self
                .endings
                .iter()
                .filter(|(ending, _)| is_counted(*ending));
            counted.map(|(_, count)| count).sum()
        };
        (
            total(|_| true),
            total(|ending| ending != RequestOutcome::Result),
        )
    }
}
