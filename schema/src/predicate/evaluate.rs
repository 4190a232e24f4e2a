//! Evaluation of conditions in memory.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::Value as Json;

use super::column::Via;
use super::geo::Shape;
use super::{Cell, CellClass, Column, Condition, Direction, GeoTerm, OrderOp, Relation, Term};
use super::{like, order};
use crate::id::{RecordId, UserId};
use crate::record::Record;

/// Looks up what a condition depends on in addition to the record.
pub trait Lookups: Sync {
    /// Returns the record that a reference names; `None` if the condition must not look into it.
    fn find_record(&self, id: &RecordId) -> Option<&Record>;

    /// Returns whether `from` has the relation to `to`.
    fn is_related(&self, relation: Relation, from: &UserId, to: &UserId) -> bool;
}

/// Lookups that find nothing: no records to refer to, no relations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Lookups for Nothing {
    fn find_record(&self, _: &RecordId) -> Option<&Record> {
        None
    }

    fn is_related(&self, _: Relation, _: &UserId, _: &UserId) -> bool {
        false
    }
}

/// Lookups that were prepared in advance: records, and the relations of one user.
#[derive(Clone, Debug, Default)]
pub struct LookedUp {
    vias: Vec<Via>,
    records: HashMap<RecordId, Record>,
    /// The user whose relations are known.
    me: Option<UserId>,
    outward: HashSet<(Relation, UserId)>,
    inward: HashSet<(Relation, UserId)>,
}

impl LookedUp {
    /// Prepares the lookups for a condition when `me` asks; nothing is found yet.
    pub fn new(condition: Option<&Condition>, me: Option<UserId>) -> Self {
        let columns = condition.into_iter().flat_map(Condition::columns);
        Self {
            vias: columns.filter_map(|column| column.via.clone()).collect(),
            me,
            ..Self::default()
        }
    }

    /// Returns whether the condition looks into other records.
    pub fn has_references(&self) -> bool {
        !self.vias.is_empty()
    }

    /// Returns the records that the condition looks into when it is evaluated on these.
    pub fn targets<'a>(&self, records: impl Iterator<Item = &'a Record>) -> BTreeSet<RecordId> {
        let targets_of = |record| {
            self.vias
                .iter()
                .filter_map(move |via| via.target_of(record))
        };
        records.flat_map(targets_of).collect()
    }

    /// Sets the records that the condition may look into, replacing the previous ones.
    pub fn set_records(&mut self, records: impl IntoIterator<Item = Record>) {
        let records = records.into_iter();
        self.records = records.map(|it| (it.id.clone(), it)).collect();
    }

    /// Adds users to whom the user has a relation, who have it to the user, or both.
    pub fn add_related(
        &mut self,
        (relation, direction): (Relation, Direction),
        users: impl IntoIterator<Item = UserId>,
    ) {
        for user in users {
            if direction != Direction::Inward {
                self.outward.insert((relation, user.clone()));
            }
            if direction != Direction::Outward {
                self.inward.insert((relation, user));
            }
        }
    }
}

impl Lookups for LookedUp {
    fn find_record(&self, id: &RecordId) -> Option<&Record> {
        self.records.get(id)
    }

    fn is_related(&self, relation: Relation, from: &UserId, to: &UserId) -> bool {
        if self.me.as_ref() == Some(from) {
            self.outward.contains(&(relation, to.clone()))
        } else {
            self.me.as_ref() == Some(to) && self.inward.contains(&(relation, from.clone()))
        }
    }
}

/// For whom a condition is evaluated, and with which lookups.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The user who asks.
    pub user: Option<&'a UserId>,
    /// The other records and the relations.
    pub lookups: &'a dyn Lookups,
}

impl Condition {
    /// Evaluates the condition; `None` is unknown. A record matches when it is `Some(true)`.
    pub fn evaluate(&self, record: &Record, context: Context<'_>) -> Option<bool> {
        let row = Row { record, context };
        match self {
            Self::And(parts) => row.fold(parts, false),
            Self::Or(parts) => row.fold(parts, true),
            Self::Not(part) => part.evaluate(record, context).map(|value| !value),
            Self::Constant(value) => *value,
            Self::IsNull(column) => Some(row.read(column).is_none()),
            Self::Compare {
                op,
                class,
                left,
                right,
            } => {
                let (left, right) = (row.term(left)?, row.term(right)?);
                order::compare(*class, &left, &right).map(|order| op.holds(order))
            }
            Self::Like {
                text,
                pattern,
                is_caseless,
            } => match (row.term(text)?, row.term(pattern)?) {
                (Cell::Text(text), Cell::Text(pattern)) => {
                    like::is_match(&text, &pattern, *is_caseless)
                }
                _ => None,
            },
            Self::InList {
                column,
                class,
                cells,
                has_null,
            } => row.is_in_list(column, *class, cells, *has_null),
            Self::JsonContains { column, text } => match row.read(column)? {
                Cell::Json(json) => Some(json_contains(&json, text)),
                _ => None,
            },
            Self::Within { inner, outer } => row.shape(outer)?.contains(&*row.shape(inner)?),
            Self::Related {
                column,
                relation,
                direction,
            } => Some(row.is_related(column, *relation, *direction)),
        }
    }
}

impl OrderOp {
    /// Returns whether the operator holds for two values in that order.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Eq => order.is_eq(),
            Self::Neq => order.is_ne(),
            Self::Gt => order.is_gt(),
            Self::Lt => order.is_lt(),
            Self::Gte => order.is_ge(),
            Self::Lte => order.is_le(),
        }
    }
}

/// A record whose condition is being evaluated.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) record: &'a Record,
    pub(super) context: Context<'a>,
}

impl<'a> Row<'a> {
    /// A part equal to `decisive` ends the fold: false for all-of, true for any-of. Otherwise an
    /// unknown part makes the result unknown.
    fn fold(self, parts: &[Condition], decisive: bool) -> Option<bool> {
        let mut result = Some(!decisive);
        for part in parts {
            match part.evaluate(self.record, self.context) {
                Some(value) if value == decisive => return Some(decisive),
                Some(_) => {}
                None => result = None,
            }
        }
        result
    }

    pub(super) fn read(self, column: &Column) -> Option<Cell<'a>> {
        match &column.via {
            None => column.read(self.record),
            Some(via) => {
                let id = via.target_of(self.record)?;
                column.read(self.context.lookups.find_record(&id)?)
            }
        }
    }

    fn term<'b>(self, term: &'b Term) -> Option<Cell<'b>>
    where
        'a: 'b,
    {
        match term {
            Term::Column(column) => self.read(column),
            Term::Constant(cell) => Some(cell.clone()),
            Term::Distance { column, from } => match self.read(column)? {
                Cell::Point(point) => Some(Cell::Number(point.metres_to(*from))),
                _ => None,
            },
        }
    }

    fn is_in_list(
        self,
        column: &Column,
        class: CellClass,
        cells: &[Cell<'static>],
        has_null: bool,
    ) -> Option<bool> {
        let cell = self.read(column)?;
        let is_same = |other| order::compare(class, &cell, other) == Some(Ordering::Equal);
        if cells.iter().any(is_same) {
            return Some(true);
        }
        (!has_null).then_some(false)
    }

    fn shape<'b>(self, term: &'b GeoTerm) -> Option<Cow<'b, Shape>> {
        match term {
            GeoTerm::Constant(shape) => Some(Cow::Borrowed(shape)),
            GeoTerm::Column(column) => match self.read(column)? {
                Cell::Point(point) => Some(Cow::Owned(Shape::point(point))),
                Cell::Json(json) => Shape::parse(&json).map(Cow::Owned),
                _ => None,
            },
        }
    }

    fn is_related(self, column: &Column, relation: Relation, direction: Direction) -> bool {
        let (Some(me), Some(Cell::Text(other))) = (self.context.user, self.read(column)) else {
            return false;
        };
        let other = UserId::from(&*other);
        let lookups = self.context.lookups;
        let outward = || lookups.is_related(relation, me, &other);
        let inward = || lookups.is_related(relation, &other, me);
        match direction {
            Direction::Outward => outward(),
            Direction::Inward => inward(),
            Direction::Mutual => outward() && inward(),
        }
    }
}

/// Returns whether a string is an element of an array, a key of an object, or the value itself.
fn json_contains(json: &Json, text: &str) -> bool {
    match json {
        Json::Array(items) => items.iter().any(|item| item.as_str() == Some(text)),
        Json::Object(object) => object.contains_key(text),
        Json::String(other) => other == text,
        _ => false,
    }
}
