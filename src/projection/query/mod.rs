//! Queries: predicate, order and page as SQL.
//!
//! `plan` turns a query into FROM, WHERE and ORDER BY (`path` finds columns,
//! `literal` binds constants as the columns compare them, `predicate` and `like`
//! make conditions, `access` the right to see); `run` executes it.

mod access;
mod like;
mod literal;
mod path;
mod plan;
mod predicate;
mod run;

pub(crate) use run::query;
