//! Plugins over an in-memory transport, with the clock in the tests' hands.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "plugin/support.rs"]
mod support;

#[path = "plugin/calls.rs"]
mod calls;
#[path = "plugin/failures.rs"]
mod failures;
#[path = "plugin/lifecycle.rs"]
mod lifecycle;
#[path = "plugin/requests.rs"]
mod requests;
#[path = "plugin/resume.rs"]
mod resume;
#[path = "plugin/schedules.rs"]
mod schedules;
