//! Tests of the whole system from outside: the real binary, real sockets, real clients.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test that meets what it does not expect should stop there and say so"
)]

mod access;
mod accounts;
mod audit;
mod auth;
mod backup;
mod both_sdks;
mod captured_sql;
mod chat;
mod commands;
mod crash;
mod dev;
mod devices;
mod docs;
mod door;
mod durability;
mod erasure;
mod files;
mod fuzz;
mod golden;
mod history;
mod import;
mod javascript_sdk;
mod lifecycle;
mod live;
mod malformed;
mod plugin;
mod postgres;
mod proof;
mod pubsub;
mod push;
mod python_sdk;
mod records;
mod relations;
mod replay;
mod schema;
mod sdk;
mod settings;
mod sso;
mod stream;
mod support;
mod tokens;
mod v1_runtime;
