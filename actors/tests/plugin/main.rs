//! Plugins over an in-memory transport, with the clock controlled by the tests.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod calls;
mod failures;
mod lifecycle;
mod requests;
mod resume;
mod schedules;
mod support;
