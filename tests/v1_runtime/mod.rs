//! The published Python runtime of v1 (`skygear` 1.7.1), unmodified, with a plugin written for it.
//! `points` exercises every extension point and knows nothing of transports.

pub mod points;
mod websocket;

use std::process::Command;

use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// The server's name for the plugin.
pub const PLUGIN: &str = "DEMO";

/// Passes the runtime its settings.
pub fn settings<'a>(
    command: &'a mut Command,
    server: &TestServer,
    database: &str,
) -> &'a mut Command {
    command
        .env("APP_NAME", "myapp")
        .env("API_KEY", API_KEY)
        .env("MASTER_KEY", MASTER_KEY)
        .env("SKYGEAR_ENDPOINT", &server.base_url)
        .env("DATABASE_URL", database)
}
