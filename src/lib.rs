//! The Skytrail server: doors, the SQL record store, configuration, command line.

pub mod action;
pub mod auth;
pub mod config;
pub mod http;
pub mod projection;
pub mod services;
pub mod socket;
pub mod telemetry;
