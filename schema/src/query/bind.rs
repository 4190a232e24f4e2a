//! Binding of queries to type definitions.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{Query, Sort, SortKey};
use crate::code::ApiError;
use crate::id::TypeName;
use crate::predicate::bind::{bind, bind_distance};
use crate::predicate::column::{Types, Via};
use crate::predicate::{
    Cell, CellClass, Column, ColumnKind, Condition, KeyPath, Operand, Term, order,
};
use crate::record::Record;
use crate::types::TypeDefinition;
use crate::value::Point;

/// A query that can be executed.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundQuery {
    /// The condition, if any.
    pub condition: Option<Condition>,
    /// Sort keys, most important first.
    pub sort: Vec<BoundSort>,
    /// The names under `_transient` and what they include.
    pub include: BTreeMap<String, BoundInclude>,
}

/// One sort key.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundSort {
    /// A column without [`Column::via`], or a distance.
    pub by: Term,
    /// How its values are compared.
    pub class: CellClass,
    /// Descending sorts nulls first, ascending sorts nulls last.
    pub is_descending: bool,
}

/// What an include adds.
#[derive(Clone, Debug, PartialEq)]
pub enum BoundInclude {
    /// The record that the reference or user column names, or null.
    Record(Via),
    /// Metres between a location and a point; left out if there is no location.
    Distance {
        /// The location column.
        column: Column,
        /// The point.
        from: Point,
    },
    /// A constant: null for a path that does not lead to a record.
    Constant(Json),
}

impl Query {
    /// Binds the query to the definition of its type and those that its references name.
    ///
    /// # Errors
    /// 120 for predicate paths that lead nowhere; 10000 for comparisons, sort keys and desired keys
    /// that make no sense.
    pub fn bind<T: Types + ?Sized>(
        &self,
        definition: &TypeDefinition,
        types: &T,
    ) -> Result<BoundQuery, ApiError> {
        let predicate = self.predicate.as_ref();
        let condition = predicate.map(|predicate| bind(predicate, definition, types));
        let condition = condition.transpose()?;
        let sort = self.sort.iter().map(|sort| sort.bind(definition));
        let sort = sort.collect::<Result<_, _>>()?;
        let include = self
            .include
            .iter()
            .map(|(name, operand)| Ok((name.clone(), BoundInclude::bind(operand, definition)?)));
        let include = include.collect::<Result<_, ApiError>>()?;
        for key in self.desired_keys.iter().flatten() {
            if Column::plain(key, definition).is_none() {
                return Err(ApiError::unexpected(format!("unexpected key \"{key}\"")));
            }
        }
        Ok(BoundQuery {
            condition,
            sort,
            include,
        })
    }
}

impl Sort {
    fn bind(&self, definition: &TypeDefinition) -> Result<BoundSort, ApiError> {
        let (by, class) = match &self.by {
            SortKey::Path(KeyPath(components)) => {
                let column = match components.as_slice() {
                    [name] => Column::plain(name, definition),
                    _ => None,
                };
                let class = column.as_ref().and_then(|column| column.kind.class());
                let bound = column.zip(class);
                let (column, class) = bound.ok_or_else(|| {
                    let path = components.join(".");
                    ApiError::unexpected(format!("cannot sort by \"{path}\""))
                })?;
                (Term::Column(column), class)
            }
            SortKey::Distance { field, from } => {
                let column = bind_distance(field, definition)
                    .map_err(|error| ApiError::unexpected(error.message))?;
                let from = *from;
                (Term::Distance { column, from }, CellClass::Number)
            }
        };
        Ok(BoundSort {
            by,
            class,
            is_descending: self.is_descending,
        })
    }
}

impl BoundSort {
    /// Compares two records by this key.
    pub fn compare(&self, left: &Record, right: &Record) -> Ordering {
        let (left, right) = (self.read(left), self.read(right));
        order::compare_sorted(
            self.class,
            left.as_ref(),
            right.as_ref(),
            self.is_descending,
        )
    }

    fn read<'a>(&self, record: &'a Record) -> Option<Cell<'a>> {
        match &self.by {
            Term::Column(column) => column.read(record),
            Term::Distance { column, from } => match column.read(record)? {
                Cell::Point(point) => Some(Cell::Number(point.metres_to(*from))),
                _ => None,
            },
            Term::Constant(_) => None,
        }
    }
}

impl BoundQuery {
    /// Compares two records by all sort keys; equal when there are none.
    pub fn compare(&self, left: &Record, right: &Record) -> Ordering {
        let mut orders = self.sort.iter().map(|sort| sort.compare(left, right));
        orders
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// Returns whether records that are equal by all sort keys are ordered from newest to oldest.
    ///
    /// They follow the direction of the last sort key.
    pub fn is_backwards(&self) -> bool {
        self.sort.last().is_some_and(|last| last.is_descending)
    }
}

impl BoundInclude {
    fn bind(operand: &Operand, definition: &TypeDefinition) -> Result<Self, ApiError> {
        Ok(match operand {
            Operand::Literal(value) => Self::Constant(value.to_wire()),
            Operand::Distance { field, from } => Self::Distance {
                column: bind_distance(field, definition)
                    .map_err(|error| ApiError::unexpected(error.message))?,
                from: *from,
            },
            Operand::Path(KeyPath(components)) => match components.as_slice() {
                [name] => via(name, definition).map_or(Self::Constant(Json::Null), Self::Record),
                _ => Self::Constant(Json::Null),
            },
        })
    }
}

/// Returns the reference that a column is: a reference field, or a reserved column with a user's
/// id.
fn via(name: &str, definition: &TypeDefinition) -> Option<Via> {
    let target = match name {
        "_owner_id" | "_created_by" | "_updated_by" => TypeName::user(),
        _ => match Column::plain(name, definition)?.kind {
            ColumnKind::Reference(target) => target,
            _ => return None,
        },
    };
    Some(Via {
        field: name.to_owned(),
        target,
    })
}
