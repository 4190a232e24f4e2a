//! Figures of one plugin, counted where things happen and read when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use skytrail_schema::code::{ApiError, Code};

use super::messages::Answer;
use crate::observe::{Histogram, HistogramState};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The plugin answered with a result.
    Result,
    /// The plugin answered with an error.
    Error,
    /// The plugin's or the point's limit passed, or the client's own.
    Deadline,
    /// Whoever asked went away.
    ClientGone,
    /// No worker came in time.
    NoWorker,
    /// The worker that had it was lost.
    WorkerLost,
    /// Too many requests waited.
    QueueFull,
}

impl Ending {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 7] = [
        Self::Result,
        Self::Error,
        Self::Deadline,
        Self::ClientGone,
        Self::NoWorker,
        Self::WorkerLost,
        Self::QueueFull,
    ];

    /// Returns its name for figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Error => "error",
            Self::Deadline => "deadline",
            Self::ClientGone => "client-gone",
            Self::NoWorker => "no-worker",
            Self::WorkerLost => "worker-lost",
            Self::QueueFull => "queue-full",
        }
    }

    /// Tells from an answer. A plugin's own error may look like one of the server's; that deceives
    /// nobody but who reads these figures.
    pub(super) fn of(answer: &Answer) -> Self {
        match answer {
            Ok(_) => Self::Result,
            Err(error) => Self::of_error(error),
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
pub(super) struct Figures {
    endings: [AtomicU64; Ending::ALL.len()],
    seconds: Histogram,
    num_late: AtomicU64,
    num_stray: AtomicU64,
}

/// What the counters say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FiguresState {
    /// How many requests came to each end.
    pub endings: Vec<(Ending, u64)>,
    /// How long the plugin's answers took, waiting included.
    pub seconds: HistogramState,
    /// Answers that came after their requests were given up.
    pub late: u64,
    /// Answers that nobody asked for: second ones, and those to ids that were never sent.
    pub stray: u64,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            endings: Default::default(),
            seconds: Histogram::new(Histogram::SECONDS),
            num_late: AtomicU64::new(0),
            num_stray: AtomicU64::new(0),
        }
    }
}

impl Figures {
    /// Counts the end of a request; with the time that it took.
    pub(super) fn count(&self, ending: Ending, seconds: f64) {
        let index = Ending::ALL.iter().position(|known| *known == ending);
        if let Some(counter) = index.and_then(|index| self.endings.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(ending, Ending::Result | Ending::Error) {
            self.seconds.observe(seconds);
        }
    }

    /// Counts an answer that came too late.
    pub(super) fn count_late(&self) {
        self.num_late.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer that nobody asked for.
    pub(super) fn count_stray(&self) {
        self.num_stray.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what the counters say.
    pub(super) fn state(&self) -> FiguresState {
        let counts = self.endings.iter();
        let counts = counts.map(|counter| counter.load(Ordering::Relaxed));
        FiguresState {
            endings: Ending::ALL.into_iter().zip(counts).collect(),
            seconds: self.seconds.state(),
            late: self.num_late.load(Ordering::Relaxed),
            stray: self.num_stray.load(Ordering::Relaxed),
        }
    }
}

impl FiguresState {
    /// Returns how many requests ended, and how many of them without a result.
    pub fn totals(&self) -> (u64, u64) {
        let total = |is_counted: fn(Ending) -> bool| -> u64 {
            let counted = self
                .endings
                .iter()
                .filter(|(ending, _)| is_counted(*ending));
            counted.map(|(_, count)| count).sum()
        };
        (total(|_| true), total(|ending| ending != Ending::Result))
    }
}
