//! The command line, and what it means for every row.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The sizes and times of the aims.
    Full,
    /// A few seconds for each row and a tenth of the data.
    Quick,
    /// Just enough to show that everything works.
    Smoke,
}

/// Measures the server next to a bare one, in the same run.
#[derive(Debug, Parser)]
#[command(name = "load")]
pub(crate) struct Options {
    /// A few seconds for each row and a tenth of the data.
    #[arg(long)]
    quick: bool,
    /// No timing, only: does everything run and is every answer a success.
    #[arg(long)]
    smoke: bool,
    /// Only rows of these groups: start, create, batch, read, history, move,
    /// postgres, disk, growth, pubsub, live, plugin.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write the table as markdown to this file.
    #[arg(long)]
    pub(crate) markdown: Option<PathBuf>,
    /// Measure this server binary instead of the one built with the driver.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_skytrail"))]
    pub(crate) server: PathBuf,
    /// Where the servers keep their data during the run; must be on a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub(crate) dir: PathBuf,
    /// Rounds of each rate, ours and bare in turns.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each round.
    #[arg(long)]
    seconds: Option<f64>,
    /// Make each flush of both servers take this many microseconds longer, as on a slower disk.
    #[arg(long)]
    pub(crate) flush_us: Option<u64>,
    /// Threads of the bare server that serve HTTP.
    #[arg(long, default_value_t = default_workers())]
    pub(crate) workers: usize,
    /// Be the bare server, appending to this file; the driver starts itself like this.
    #[arg(long, hide = true)]
    pub(crate) bare: Option<PathBuf>,
    /// Be a plugin's worker at this server.
    #[arg(long, hide = true)]
    pub(crate) worker: Option<String>,
    /// Be a plugin over HTTP.
    #[arg(long, hide = true)]
    pub(crate) http_plugin: bool,
    /// Be a plugin's workers over zmq at this address.
    #[arg(long, hide = true)]
    pub(crate) zmq_plugin: Option<String>,
    /// Given by `cargo bench`, and not by `cargo test`.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Without `--bench` we run under `cargo test`, where only correctness counts.
    pub(crate) fn mode(&self) -> Mode {
        match (self.smoke || !self.bench, self.quick) {
            (true, _) => Mode::Smoke,
            (false, true) => Mode::Quick,
            (false, false) => Mode::Full,
        }
    }

    pub(crate) fn wants(&self, group: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == group)
    }

    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(match self.mode() {
            Mode::Full => 8,
            Mode::Quick => 3,
            Mode::Smoke => 1,
        })
    }

    pub(crate) fn round_time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.unwrap_or(match self.mode() {
            Mode::Full => 1.0,
            Mode::Quick => 0.5,
            Mode::Smoke => 0.1,
        }))
    }

    /// The full size for a full run, a fraction of it otherwise.
    pub(crate) fn scaled(&self, full_size: u64) -> u64 {
        match self.mode() {
            Mode::Full => full_size,
            Mode::Quick => full_size / 10,
            Mode::Smoke => (full_size / 500).max(100),
        }
    }
}

/// As many as actix-web starts by default.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}
