//! What the command line does besides serving.

pub mod audit;
pub mod backup;
pub mod captured;
pub mod delivery;
mod delivery_follow;
pub mod dev;
pub mod erase;
pub mod export;
pub mod history;
pub mod import;
pub mod import_records;
pub mod index;
pub mod log;
mod log_files;
pub mod log_follow;
pub mod log_proof;
pub mod log_search;
mod move_store;
mod partial;
pub mod plugin;
pub mod rebuild;
mod rebuild_server;
pub mod remote;
pub mod replay;
pub mod task;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use skytrail_actors::log::KeyringCopy;
use skytrail_actors::log::disk::{Disk, RealDisk};
use skytrail_actors::log::journal::{JOURNAL_FOLDER, Segments};

use crate::config::Config;

/// Finds the journal in the data folder.
fn journal_of(config: &Config) -> Result<PathBuf, String> {
    config.check_data_dir().map_err(|error| error.to_string())?;
    let folder = config.data_dir.join(JOURNAL_FOLDER);
    if folder.is_dir() {
        return Ok(folder);
    }
    let folder = config.data_dir.display();
    Err(format!(
        "no log in {folder}: name the folder with --data-dir"
    ))
}

/// Opens the log of the data folder to be read, beside a server that may be writing it.
fn open_log(config: &Config) -> Result<Segments, String> {
    let folder = journal_of(config)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::read_only(&folder));
    // Of a key that is destroyed between the two looks, the log that was read does not know yet.
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let earlier = KeyringCopy::read(&config.data_dir).map_err(|error| text(&error))?;
    let segments = Segments::open(&disk).map_err(|error| text(&error))?;
    let keys = KeyringCopy::read(&config.data_dir).map_err(|error| text(&error))?;
    Ok(segments.with_keys(Arc::new(keys.with(earlier))))
}

/// The exit code of what only shows something when nobody reads that any more: that of a process which
/// SIGPIPE has ended, as in `skytrail export | head`.
const UNREAD: i32 = 141;

/// Prints a line of what a command has done. Whoever has closed the pipe wants no more of it, but the work
/// goes on, and the exit code says how it ended.
#[expect(clippy::exit, reason = "nobody is left to tell")]
pub(crate) fn say(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}")
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&unwritten(&error));
        std::process::exit(1);
    }
}

/// Prints a line of a command that only shows something: whoever has closed the pipe wants no more of it, and
/// then the command is over.
#[expect(clippy::exit, reason = "nobody is left to tell")]
pub(crate) fn show(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        complain(&unwritten(&error));
        std::process::exit(1);
    }
}

/// Says that what a command shows cannot be written; where nobody reads it any more, the command is over.
#[expect(clippy::exit, reason = "nobody is left to tell")]
fn unwritten(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(UNREAD);
    }
    format!("the output cannot be written: {error}")
}

/// Prints what somebody should know, beside the result.
pub(crate) fn complain(line: &str) {
    // If nobody reads it, the exit code is left.
    let _ = writeln!(io::stderr(), "skytrail: {line}");
}
