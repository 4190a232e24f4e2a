//! What the command line does besides serving.

pub mod audit;
pub mod backup;
pub mod delivery;
pub mod dev;
pub mod erase;
pub mod history;
pub mod import;
pub mod index;
pub mod log;
pub mod log_follow;
pub mod log_search;
pub mod plugin;
pub mod rebuild;
pub mod remote;
pub mod task;

/// Prints a line of a command's result.
#[expect(clippy::print_stdout, reason = "what the command is for")]
fn say(line: &str) {
    println!("{line}");
}

/// Prints what somebody should know, beside the result.
#[expect(clippy::print_stderr, reason = "what the command is for")]
fn complain(line: &str) {
    eprintln!("skytrail: {line}");
}
