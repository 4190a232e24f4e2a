//! The tree of a predicate, as it was written.

use std::fmt;

use crate::value::{Point, Value};

/// A condition on a record. It has three values, as in SQL: a record matches only when it is true.
#[derive(Clone, Debug, PartialEq)]
pub enum Predicate {
    /// All of them.
    And(Vec<Predicate>),
    /// Any of them.
    Or(Vec<Predicate>),
    /// Negation; unknown stays unknown.
    Not(Box<Predicate>),
    /// A comparison of two operands.
    Compare(CompareOp, Operand, Operand),
    /// The left operand is an element of, a key of, or lies within the right one.
    In(Operand, Operand),
    /// The user named by a field has a relation with the caller.
    UserRelation {
        /// The column that holds a user id.
        field: String,
        /// The relation.
        relation: Relation,
        /// Its direction.
        direction: Direction,
    },
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Equal; with null: is null.
    Eq,
    /// Not equal; with null: is not null.
    Neq,
    /// Greater.
    Gt,
    /// Less.
    Lt,
    /// Greater or equal.
    Gte,
    /// Less or equal.
    Lte,
    /// SQL LIKE, case-sensitive.
    Like,
    /// SQL LIKE, ignoring case.
    Ilike,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A field of the record, or of the record that a reference field names.
    Path(KeyPath),
    /// A constant.
    Literal(Value),
    /// Metres between a location field and a point.
    Distance {
        /// The location field, as it was written.
        field: String,
        /// The point.
        from: Point,
    },
}

/// A path as it was written, split at its dots; a whole `_owner` has become `_owner_id`.
///
/// Binding it to a type checks how many components make sense, and whether they exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPath(pub Vec<String>);

impl KeyPath {
    /// Splits a path, and replaces `_owner` by the column that it means.
    pub fn parse(text: &str) -> Self {
        let text = if text == "_owner" { "_owner_id" } else { text };
        Self(text.split('.').map(str::to_owned).collect())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// A relation between users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// `_friend`
    Friend,
    /// `_follow`
    Follow,
}

/// The direction of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The caller has the relation to the user.
    Outward,
    /// The user has the relation to the caller.
    Inward,
    /// Both.
    Mutual,
}
