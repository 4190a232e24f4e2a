//! Bringing in what other servers and files have.
//!
//! - `skygear`: a database of Skygear v1, read with SQL and written as events, while no server runs.
//! - `report`: what became of it, for people.

mod report;
pub mod skygear;
pub mod table;

pub use report::{Counts, Report};
