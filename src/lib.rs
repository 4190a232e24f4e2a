//! The Skytrail server: doors, the SQL record store, configuration, command line.

pub mod action;
pub mod app;
pub mod asset;
pub mod audit;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
mod hex;
pub mod http;
pub mod import;
pub mod metrics;
pub mod ops;
pub mod ops_store;
mod own_file;
pub mod parts;
pub mod plugin;
pub mod process;
pub mod projection;
pub mod proof;
pub mod push;
pub mod record_store;
mod scratch;
pub mod services;
pub mod socket;
pub mod spreadsheet;
pub mod telemetry;
