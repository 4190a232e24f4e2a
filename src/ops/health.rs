//! `skytrail health`: whether a running server is well, for a shell.

use super::remote::{RunningServer, ServerFlag, block_on};
use super::show;
use crate::config::Config;

/// Prints `OK`, or what is wrong, one sentence per line.
///
/// # Errors
/// Returns a sentence that says that the server is degraded, or why nobody knows.
pub fn run(config: &Config, server: &ServerFlag) -> Result<(), String> {
    let server = RunningServer::find(config, server)?;
    let troubles = block_on(server.troubles())?;
    if troubles.is_empty() {
        show("OK");
        return Ok(());
    }
    troubles.iter().for_each(|trouble| show(trouble));
    Err("the server is degraded".to_owned())
}
