//! The published Python runtime of v1 (`skygear` 1.7.1), unmodified, with a plugin that was written
//! for it. `points` goes through every extension point and knows nothing of transports.

pub mod points;
mod websocket;

use std::process::Command;

use crate::support::program::{Program, python, repository};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

/// The server's name for the plugin.
pub const PLUGIN: &str = "DEMO";

/// Starts what the runtime's hooks need: a database in which nothing is.
pub fn null_database() -> (Program, String) {
    let mut database = python();
    database.arg(repository("tests/samples/null_database.py"));
    let (database, address) = Program::start_and_wait(database.args(["127.0.0.1", "0"]));
    (database, format!("postgresql://plugin@{address}/none"))
}

/// Gives the runtime its settings.
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
