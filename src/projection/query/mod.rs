//! Queries: predicate, order and page as SQL.
//!
//! - `plan` turns a bound query into FROM, WHERE and ORDER BY. `path` finds columns; `condition`,
//!   `like` and `nearby` write conditions; `access` adds who can see what.
//! - `past` uses the records as of a position in place of the current ones.
//! - `run` executes the query. `memory` filters and sorts what SQL could not.

mod access;
mod condition;
mod like;
mod memory;
mod nearby;
mod past;
mod path;
mod plan;
mod run;

#[cfg(test)]
pub(crate) use run::explain;
pub(crate) use run::{QueryError, query, query_as_of};
