//! The predicate language of queries: its tree, its parser and its evaluation
//! in memory. The SQL translation works on the same tree.

use crate::value::{Point, Value};

/// A condition on a record. Three-valued like SQL: a record matches only when it is true.
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
    /// Left is an element of (or a key of, or lies within) right.
    In(Operand, Operand),
    /// The user that a field names stands in a relation to the caller.
    UserRelation {
        /// The column that holds a user id.
        field: String,
        /// Which relation.
        relation: Relation,
        /// Which way.
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
        /// The location field.
        field: String,
        /// The point.
        from: Point,
    },
}

/// A path of at most two components; `_owner` has become `_owner_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyPath(pub Vec<String>);

/// A relation between users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// `_friend`
    Friend,
    /// `_follow`
    Follow,
}

/// Which way a relation must point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The caller has the relation to the user.
    Outward,
    /// The user has the relation to the caller.
    Inward,
    /// Both.
    Mutual,
}
