//! Queries: predicate, order, page, and what to include.

mod bind;
mod page;
mod parse;

use std::collections::BTreeMap;

use crate::id::{TypeName, UserId};
use crate::predicate::{KeyPath, Operand, Predicate};
use crate::value::Point;

pub use bind::{BoundInclude, BoundQuery, BoundSort};
pub use page::Page;

/// The databases that a query reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The public database.
    Public,
    /// One user's private database.
    Private(UserId),
    /// Every database; master key only.
    Union,
}

/// A query on one record type, as requested. [`Query::parse`] parses it, and [`Query::bind`] binds
/// it to the types.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// The type whose records are queried.
    pub record_type: TypeName,
    /// The condition, if any.
    pub predicate: Option<Predicate>,
    /// Sort keys, most important first.
    pub sort: Vec<Sort>,
    /// The names under `_transient` and what they include.
    pub include: BTreeMap<String, Operand>,
    /// Return only these user fields; `None` means all.
    pub desired_keys: Option<Vec<String>>,
    /// Whether the total number of matches is requested.
    pub count: bool,
    /// The maximum number of records; `None` means all.
    pub limit: Option<u64>,
    /// How many records to skip.
    pub offset: u64,
}

/// One sort key.
#[derive(Clone, Debug, PartialEq)]
pub struct Sort {
    /// A path of one component or a distance.
    pub by: SortKey,
    /// Descending sorts nulls first, ascending sorts nulls last.
    pub is_descending: bool,
}

/// What a query can sort by.
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
