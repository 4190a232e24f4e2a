//! The predicate language of queries.
//!
//! 1. [`parse`] turns the wire form into a [`Predicate`]; it knows no types.
//! 2. [`bind`](bind::bind) checks a predicate against the type definitions: paths become
//!    [`Column`]s, literals become [`Cell`]s of the column's kind, and anything that makes no sense
//!    is refused. The result is a [`Condition`].
//! 3. A condition is evaluated in memory ([`Condition::evaluate`]) or translated to SQL by the
//!    record store. Both work on the same tree, so the meaning of a comparison is defined in one
//!    place.
//!
//! Logic has three values, as in SQL: a comparison with a missing value is unknown, and a record
//! matches only when its condition is true.

mod beyond;
pub mod bind;
mod coerce;
pub mod column;
mod condition;
mod cost;
mod equality;
pub mod evaluate;
pub mod geo;
pub mod like;
pub mod order;
pub mod parse;
mod size;
mod tree;

pub use column::{Cell, Column, ColumnKind};
pub use condition::{CellClass, Condition, GeoTerm, OrderOp, Term};
pub use equality::{CellForm, FieldForm, Necessity};
pub use evaluate::{Context, LookedUp, Lookups};
pub use size::PredicateSize;
pub use tree::{CompareOp, Direction, KeyPath, Operand, Predicate, Relation};

#[cfg(test)]
mod tests;
