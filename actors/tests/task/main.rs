//! Scheduled tasks with a clock that stands still, the test as their driver, and a log in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod runs;
mod world;
