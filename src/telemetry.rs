//! Logging to standard error, as text or JSON.

use tracing_subscriber::EnvFilter;

use crate::config::Log;

/// Starts logging. Does nothing when logging has been started before.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = if log.is_json {
        builder.json().try_init()
    } else {
        builder.compact().try_init()
    };
}
