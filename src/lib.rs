//! The Skytrail server: doors, the SQL record store, configuration, command line.

pub mod auth;
pub mod config;
pub mod projection;
pub mod socket;
pub mod telemetry;
