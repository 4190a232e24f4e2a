//! Queries: predicate, order, page, and what to bring along.

mod bind;
mod page;
mod parse;

use std::collections::BTreeMap;

use crate::id::{TypeName, UserId};
use crate::predicate::{KeyPath, Operand, Predicate};
use crate::value::Point;

pub use bind::{BoundInclude, BoundQuery, BoundSort};
pub use page::Page;

/// Which records a query looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The public database.
    Public,
    /// One user's private database.
    Private(UserId),
    /// Every database; master key only.
    Union,
}

/// A query on one record type, as it was asked. [`Query::parse`] reads it, [`Query::bind`] holds
/// it against the types.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The type whose records are asked for.
    pub record_type: TypeName,
    /// The condition, if any.
    pub predicate: Option<Predicate>,
    /// Sort keys, the most important first.
    pub sort: Vec<Sort>,
    /// Names under `_transient` and what they bring.
    pub include: BTreeMap<String, Operand>,
    /// Only these user fields; `None` means all.
    pub desired_keys: Option<Vec<String>>,
    /// Whether the number of all matches is asked for.
    pub count: bool,
    /// At most this many records; `None` means all.
    pub limit: Option<u64>,
    /// How many to skip.
    pub offset: u64,
}

/// One sort key.
#[derive(Clone, Debug, PartialEq)]
pub struct Sort {
    /// A path of one component or a distance.
    pub by: SortKey,
    /// Descending, nulls first; ascending has nulls last.
    pub is_descending: bool,
}

/// What can be sorted by.
#[derive(Clone, Debug, PartialEq)]
pub enum SortKey {
    /// A field or reserved column.
    Path(KeyPath),
    /// Metres from a point.
    Distance {
        /// The location field.
        field: String,
        /// The point.
        from: Point,
    },
}

#[cfg(test)]
mod tests;
