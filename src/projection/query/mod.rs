//! Queries: predicate, order and page as SQL.
//!
//! `plan` turns a bound query into FROM, WHERE and ORDER BY (`path` finds columns,
//! `condition`, `like` and `nearby` make conditions, `access` the right to see);
//! `past` puts the records of a moment in the place of those of now; `run` executes it; `memory` sifts and sorts what SQL could not.

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
