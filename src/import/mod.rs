//! Imports the data of other servers, and files.
//!
//! - `skygear`: reads a Skygear v1 database with SQL and writes events, while no server runs.
//! - `files`: copies files from another store, also on its own.
//! - `report`: reports the outcome to people.

pub mod files;
mod report;
pub mod skygear;
pub mod table;

use indicatif::{ProgressBar, ProgressStyle};

pub use report::{Counts, Report};

/// Shows how many `things` are done.
fn spinner(things: &str) -> Result<ProgressBar, String> {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos}, {elapsed}");
    bar.set_style(style.map_err(|error| error.to_string())?);
    bar.set_message(things.to_owned());
    Ok(bar)
}
