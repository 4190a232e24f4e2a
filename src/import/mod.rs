//! Imports the data of other servers, and files.
//!
//! - `skygear`: reads a Skygear v1 database with SQL and writes events, while no server runs.
//! - `report`: reports the outcome to people.

mod report;
pub mod skygear;
pub mod table;

pub use report::{Counts, Report};
