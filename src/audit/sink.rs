//! Writes entries to their targets.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::Counters;
use super::entry::Entry;
use super::fluentd::Fluentd;
use crate::config::AuditTarget;

/// How often sending is retried while no new entry arrives.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How long sending to fluentd is retried at the end.
const AT_END: Duration = Duration::from_secs(3);
/// The shortest interval between two log messages about lost entries, before the end.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The standard error and the configured target.
pub(super) struct Sinks {
    target: Option<Target>,
    counters: Arc<Counters>,
    /// Why the target did not accept an entry, until that has been logged.
    last_error: Option<io::Error>,
    /// The number of lost entries that was last logged, and when.
    reported: (u64, Option<Instant>),
}

enum Target {
    File(PathBuf),
    Fluentd(Fluentd),
}

impl Sinks {
    pub(super) fn open(target: Option<&AuditTarget>, counters: Arc<Counters>) -> io::Result<Self> {
        let target = match target {
            None => None,
            Some(AuditTarget::File(path)) => {
                open(path)?;
                Some(Target::File(path.clone()))
            }
            Some(AuditTarget::Fluentd { host, port }) => {
                Some(Target::Fluentd(Fluentd::new(host, *port)))
            }
        };
        Ok(Self {
            target,
            counters,
            last_error: None,
            reported: (0, None),
        })
    }

    /// Writes entries until the queue is closed.
    pub(super) fn write_all(mut self, queue: &Receiver<Entry>) {
        loop {
            match queue.recv_timeout(TRY_AGAIN) {
                Ok(entry) => self.write(&entry),
                Err(RecvTimeoutError::Timeout) => self.look_again(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.flush();
        }
        self.finish();
    }

    fn write(&mut self, entry: &Entry) {
        let json = entry.to_json();
        let line = format!("{json}\n");
        // Nobody can be told that the standard error cannot be written to.
        let _ = io::stderr().lock().write_all(line.as_bytes());
        let written = match &mut self.target {
            None => Ok(1),
            Some(Target::File(path)) => {
                // Opened each time, so that the file can be moved away at any time.
                let written = open(path).and_then(|mut file| file.write_all(line.as_bytes()));
                written.map(|()| 1)
            }
            // Only what fluentd has accepted counts as written.
            Some(Target::Fluentd(fluentd)) => fluentd.add(entry.seconds(), &json).map(|()| 0),
        };
        let trouble = written.as_ref().err().map(ToString::to_string);
        *self.counters.trouble.lock() = trouble;
        match written {
            Ok(num_written) => self.count(num_written),
            Err(error) => self.lose(1, error),
        }
    }

    /// Checks whether a file that could not be written can be written now.
    fn look_again(&self) {
        if let Some(Target::File(path)) = &self.target {
            let mut trouble = self.counters.trouble.lock();
            if trouble.is_some() {
                *trouble = open(path).err().map(|error| error.to_string());
            }
        }
    }

    fn flush(&mut self) {
        if let Some(Target::Fluentd(fluentd)) = &mut self.target {
            let num_sent = fluentd.flush();
            *self.counters.trouble.lock() = fluentd.trouble().map(str::to_owned);
            self.count(num_sent);
        }
        if self.reported.1.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.tell_of_losses();
        }
    }

    /// Makes a last attempt to send what is queued for fluentd.
    fn finish(&mut self) {
        if let Some(Target::Fluentd(fluentd)) = &mut self.target {
            let (num_sent, unsent) = fluentd.finish(Instant::now() + AT_END);
            self.count(num_sent);
            if let Some((error, num_unsent)) = unsent {
                self.lose(num_unsent, error);
            }
        }
        self.tell_of_losses();
    }

    fn count(&self, num_written: u64) {
        let written = &self.counters.written;
        written.fetch_add(num_written, Ordering::Relaxed);
    }

    fn lose(&mut self, num_lost: u64, error: io::Error) {
        let dropped = &self.counters.dropped;
        dropped.fetch_add(num_lost, Ordering::Relaxed);
        self.last_error = Some(error);
    }

    /// Logs how many entries were lost.
    fn tell_of_losses(&mut self) {
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        if dropped == self.reported.0 {
            return;
        }
        self.reported = (dropped, Some(Instant::now()));
        let cause = self.last_error.take();
        let cause = cause.map_or_else(
            || "too many entries at once".to_owned(),
            |it| it.to_string(),
        );
        tracing::error!(
            dropped,
            cause,
            "entries of the audit trail have been lost since the start"
        );
    }
}

/// Opens a file for appending; only the owner can read a new one.
fn open(path: &PathBuf) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o600).open(path);
    file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
