//! Conditions: predicates whose paths and literals fit together.

use std::collections::BTreeSet;

use super::geo::Shape;
use super::{Cell, Column, Direction, Relation};
use crate::value::Point;

/// A condition on a record of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of them.
    And(Vec<Condition>),
    /// Any of them.
    Or(Vec<Condition>),
    /// Negation; unknown stays unknown.
    Not(Box<Condition>),
    /// The same for every record; `None` is unknown.
    Constant(Option<bool>),
    /// The column has no value. Never unknown.
    IsNull(Column),
    /// A comparison of two terms of one class; unknown when one of them has no value.
    Compare {
        /// The operator.
        op: OrderOp,
        /// How the terms are compared.
        class: CellClass,
        /// The left side.
        left: Term,
        /// The right side.
        right: Term,
    },
    /// A string matches an SQL LIKE pattern (`%`, `_`, `\` escapes); see [`super::like`].
    Like {
        /// The string.
        text: Term,
        /// The pattern.
        pattern: Term,
        /// Whether case is ignored.
        is_caseless: bool,
    },
    /// The column equals one of the cells. If it does not, and `has_null` is set, the result is
    /// unknown.
    InList {
        /// The column.
        column: Column,
        /// How cells are compared.
        class: CellClass,
        /// The cells; never empty unless `has_null`.
        cells: Vec<Cell<'static>>,
        /// Whether the list contained a null.
        has_null: bool,
    },
    /// A string is an element of a JSON array, a key of a JSON object, or equal to a JSON string.
    JsonContains {
        /// The JSON column.
        column: Column,
        /// The string.
        text: String,
    },
    /// A point lies inside a shape, not on its border.
    Within {
        /// What must lie inside; only points can.
        inner: GeoTerm,
        /// The shape.
        outer: GeoTerm,
    },
    /// The user named by the column has a relation with the user who asks. Never unknown: a missing
    /// user has no relations, and neither does a caller who is not signed in.
    Related {
        /// The column with the user's id.
        column: Column,
        /// The relation.
        relation: Relation,
        /// Its direction.
        direction: Direction,
    },
}

/// An operator of [`Condition::Compare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OrderOp {
    /// Equal.
    Eq,
    /// Not equal.
    Neq,
    /// Greater.
    Gt,
    /// Less.
    Lt,
    /// Greater or equal.
    Gte,
    /// Less or equal.
    Lte,
}

/// How two cells are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellClass {
    /// By code points.
    Text,
    /// By code points, after [`super::like::fold`].
    CaselessText,
    /// As numbers.
    Number,
    /// False before true.
    Bool,
    /// By time.
    Time,
    /// As [`super::order::compare_json`] does.
    Json,
    /// Only tested for equality.
    Point,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// A column.
    Column(Column),
    /// A constant.
    Constant(Cell<'static>),
    /// Metres between a location column and a point, see [`Point::metres_to`].
    Distance {
        /// The column; it has no [`Column::via`].
        column: Column,
        /// The point.
        from: Point,
    },
}

/// One side of [`Condition::Within`].
#[derive(Clone, Debug, PartialEq)]
pub enum GeoTerm {
    /// A location or geometry column.
    Column(Column),
    /// A constant.
    Constant(Shape),
}

impl Condition {
    /// Returns the columns that the condition uses, in order of appearance.
    pub fn columns(&self) -> Vec<&Column> {
        let mut columns = Vec::new();
        self.collect_columns(&mut columns);
        columns
    }

    /// Returns the relations that the condition uses, each once.
    pub fn relations(&self) -> BTreeSet<Relation> {
        let mut relations = BTreeSet::new();
        self.collect_relations(&mut relations);
        relations
    }

    fn collect_relations(&self, out: &mut BTreeSet<Relation>) {
        match self {
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().for_each(|part| part.collect_relations(out));
            }
            Self::Not(part) => part.collect_relations(out),
            Self::Related { relation, .. } => {
                out.insert(*relation);
            }
            _ => {}
        }
    }

    fn collect_columns<'a>(&'a self, out: &mut Vec<&'a Column>) {
        match self {
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().for_each(|part| part.collect_columns(out));
            }
            Self::Not(part) => part.collect_columns(out),
            Self::Constant(_) => {}
            Self::IsNull(column)
            | Self::InList { column, .. }
            | Self::JsonContains { column, .. }
            | Self::Related { column, .. } => out.push(column),
            Self::Compare { left, right, .. } => {
                out.extend([left, right].into_iter().filter_map(Term::column));
            }
            Self::Like { text, pattern, .. } => {
                out.extend([text, pattern].into_iter().filter_map(Term::column));
            }
            Self::Within { inner, outer } => {
                out.extend([inner, outer].into_iter().filter_map(GeoTerm::column));
            }
        }
    }
}

impl Term {
    /// Returns the column that the term uses.
    pub fn column(&self) -> Option<&Column> {
        match self {
            Self::Column(column) | Self::Distance { column, .. } => Some(column),
            Self::Constant(_) => None,
        }
    }
}

impl GeoTerm {
    /// Returns the column that the term uses.
    pub fn column(&self) -> Option<&Column> {
        match self {
            Self::Column(column) => Some(column),
            Self::Constant(_) => None,
        }
    }
}
