//! The commands other than `serve`.

pub mod audit;
pub mod backup;
pub mod captured;
pub mod delivery;
mod delivery_follow;
pub mod dev;
pub mod erase;
pub mod export;
pub mod health;
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
pub mod push;
pub mod rebuild;
mod rebuild_server;
pub mod remote;
pub mod replay;
pub mod task;
mod visible;

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use skytrail_actors::log::KeyringCopy;
use skytrail_actors::log::disk::{Disk, RealDisk};
use skytrail_actors::log::journal::{JOURNAL_FOLDER, Segments};

use self::visible::visible;
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

/// Refuses to let root write into another user's data: the server, which runs as that user, could
/// not open what root leaves there.
fn check_user(config: &Config) -> Result<(), String> {
    // Whatever is wrong with the folder, opening it says it.
    let Ok(about) = std::fs::metadata(config.data_dir.join(JOURNAL_FOLDER)) else {
        return Ok(());
    };
    let owner = about.uid();
    if !rustix::process::geteuid().is_root() || owner == 0 {
        return Ok(());
    }
    let folder = config.data_dir.display();
    Err(format!(
        "the data in {folder} belongs to the user {owner}, who could not open what root writes: \
         run the command as that user, such as with sudo -u '#{owner}'"
    ))
}

/// Opens the log of the data folder for reading, even while a server writes it.
fn open_log(config: &Config) -> Result<Segments, String> {
    let folder = journal_of(config)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::read_only(&folder));
    // Keys are read before and after the log: if a key is destroyed in between, the log as read
    // does not know that yet.
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let earlier = KeyringCopy::read(&config.data_dir).map_err(|error| text(&error))?;
    let segments = Segments::open(&disk).map_err(|error| text(&error))?;
    let keys = KeyringCopy::read(&config.data_dir).map_err(|error| text(&error))?;
    Ok(segments.with_keys(Arc::new(keys.with(earlier))))
}

/// The exit code of a command that only shows something, when its output is no longer read. It is
/// that of a process ended by SIGPIPE, as in `skytrail export | head`.
const UNREAD: i32 = 141;

/// Prints a line about what a command has done. If the pipe is closed, the line is dropped, but the
/// work continues, and the exit code says how it ended. What is not visible is spelled out, so one
/// call prints one line.
pub(crate) fn say(line: &str) {
    say_json(&visible(line));
}

/// As [`say`], for JSON, which is printed as it is.
#[expect(clippy::exit, reason = "nobody is left to tell")]
fn say_json(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}")
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        complain(&unwritten(&error));
        std::process::exit(1);
    }
}

/// Prints a line of a command that only shows something. If the pipe is closed, the command ends.
/// What is not visible is spelled out, so one call prints one line.
pub(crate) fn show(line: &str) {
    show_json(&visible(line));
}

/// As [`show`], for JSON, which is printed as it is.
#[expect(clippy::exit, reason = "nobody is left to tell")]
fn show_json(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        complain(&unwritten(&error));
        std::process::exit(1);
    }
}

/// Returns the message that the output cannot be written. If nobody reads it any more, ends the
/// command.
#[expect(clippy::exit, reason = "nobody is left to tell")]
fn unwritten(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(UNREAD);
    }
    format!("the output cannot be written: {error}")
}

/// Prints a message of one line to the user, apart from the result. What is not visible is spelled
/// out.
pub(crate) fn complain(line: &str) {
    // If nobody reads it, the exit code still tells.
    let _ = writeln!(io::stderr(), "skytrail: {}", visible(line));
}

/// Fails with a message of several lines, if there are any. Prints all but the last, which is the
/// error.
fn fail_with(mut lines: Vec<String>) -> Result<(), String> {
    let last = lines.pop();
    lines.iter().for_each(|line| complain(line));
    last.map_or(Ok(()), Err)
}
