//! Tests of the store as a whole, against the fold of the same events in memory. The same tests run
//! in a file, in a server, and in a server with PostGIS.

#![allow(clippy::duplicate_mod, reason = "the same tests in several places")]

#[allow(dead_code, reason = "not all that the others need")]
mod postgis;
mod postgres;
mod sqlite;

#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the tests from outside"
)]
mod support;
