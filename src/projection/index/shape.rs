//! The shape of a query: the columns that it fixes, bounds and sorts by, whatever the values.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use skytrail_schema::id::TypeName;
use skytrail_schema::predicate::{Cell, CellClass, Column, Condition, OrderOp, Term, like};
use skytrail_schema::query::{BoundQuery, Scope};

/// A column of an index, under the name that paths use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexColumn {
    /// The field or reserved column.
    pub field: String,
    /// Whether its order is descending.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_descending: bool,
}

impl IndexColumn {
    /// Names a column in ascending order.
    pub fn ascending(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            is_descending: false,
        }
    }
}

/// See the module's overview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// The type whose table is read.
    pub(crate) record_type: TypeName,
    /// Whether it is the table of what the type's records were.
    pub(crate) is_past: bool,
    equals: BTreeSet<String>,
    range: Option<String>,
    sort: Vec<IndexColumn>,
}

/// Further columns do not help any query.
const MAX_COLUMNS: usize = 5;

impl Shape {
    fn new(record_type: &TypeName) -> Self {
        Self {
            record_type: record_type.clone(),
            is_past: false,
            equals: BTreeSet::new(),
            range: None,
            sort: Vec::new(),
        }
    }

    /// Returns the same shape for the table of what the type's records were.
    pub(crate) fn of_past(&self) -> Self {
        Self {
            is_past: true,
            ..self.clone()
        }
    }

    /// Returns the index that serves the shape best: the fixed columns first, then the sort
    /// columns, or else the bounded one. Empty when no index helps.
    pub(crate) fn best_index(&self) -> Vec<IndexColumn> {
        let mut columns: Vec<IndexColumn> =
            self.equals.iter().map(IndexColumn::ascending).collect();
        if self.sort.is_empty() {
            let range = self
                .range
                .iter()
                .filter(|field| !self.equals.contains(*field));
            columns.extend(range.map(IndexColumn::ascending));
        } else {
            let free = self
                .sort
                .iter()
                .filter(|column| !self.equals.contains(&column.field));
            // An index can be read in either direction, so only changes of direction matter.
            let flips = self.sort.first().is_some_and(|first| first.is_descending);
            columns.extend(free.map(|column| IndexColumn {
                field: column.field.clone(),
                is_descending: column.is_descending != flips,
            }));
        }
        columns.truncate(MAX_COLUMNS);
        columns
    }

    fn take(&mut self, condition: &Condition) {
        match condition {
            Condition::Compare {
                op,
                class,
                left,
                right,
            } if !matches!(class, CellClass::Json | CellClass::Point) => {
                let ((Term::Column(column), Term::Constant(_))
                | (Term::Constant(_), Term::Column(column))) = (left, right)
                else {
                    return;
                };
                match op {
                    OrderOp::Eq => self.fix(column),
                    OrderOp::Neq => {}
                    _ => self.bound(column),
                }
            }
            Condition::InList { column, .. } | Condition::IsNull(column) => self.fix(column),
            Condition::Like {
                text: Term::Column(column),
                pattern: Term::Constant(Cell::Text(pattern)),
                is_caseless: false,
            } if matches!(like::parse(pattern).first(), Some(like::Token::Char(_))) => {
                self.bound(column);
            }
            _ => {}
        }
    }

    fn fix(&mut self, column: &Column) {
        self.equals.insert(column.name.clone());
    }

    fn bound(&mut self, column: &Column) {
        self.range.get_or_insert_with(|| column.name.clone());
    }

    fn is_empty(&self) -> bool {
        self.equals.is_empty() && self.range.is_none() && self.sort.is_empty()
    }
}

/// Returns the shapes of a query: its own, one per alternative of an `or`, and one per type whose
/// fields it reads through a reference.
pub(crate) fn shapes_of(record_type: &TypeName, bound: &BoundQuery, scope: &Scope) -> Vec<Shape> {
    let mut own = Shape::new(record_type);
    if let Scope::Private(_) = scope {
        own.equals.insert("_database_id".to_owned());
    }
    let mut others = Vec::new();
    let condition = bound.condition.as_ref();
    for part in condition.map_or(&[][..], parts) {
        match part {
            Condition::Or(alternatives) => {
                others.extend(alternatives.iter().map(|it| alternative(record_type, it)));
            }
            part => match via(part) {
                Some(target) => {
                    let mut shape = Shape::new(target);
                    shape.take(part);
                    others.push(shape);
                }
                None => own.take(part),
            },
        }
    }
    for sort in &bound.sort {
        if let Term::Column(column) = &sort.by {
            own.sort.push(IndexColumn {
                field: column.name.clone(),
                is_descending: sort.is_descending,
            });
        }
    }
    std::iter::once(own)
        .chain(others)
        .filter(|shape| !shape.is_empty())
        .collect()
}

/// Returns the parts that must all hold.
fn parts(condition: &Condition) -> &[Condition] {
    match condition {
        Condition::And(parts) => parts,
        other => std::slice::from_ref(other),
    }
}

fn alternative(record_type: &TypeName, condition: &Condition) -> Shape {
    let mut shape = Shape::new(record_type);
    for part in parts(condition).iter().filter(|part| via(part).is_none()) {
        shape.take(part);
    }
    shape
}

/// Returns the type that a leaf reads through a reference.
fn via(leaf: &Condition) -> Option<&TypeName> {
    let columns = leaf.columns();
    columns
        .into_iter()
        .find_map(|column| Some(&column.via.as_ref()?.target))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value as Json, json};
    use skytrail_schema::query::Query;
    use skytrail_schema::types::{FieldType, TypeDefinition};

    use super::*;

    fn indexes(wire: &Json, scope: &Scope) -> Vec<String> {
        let fields = [
            ("room", FieldType::Reference("room".into())),
            ("title", FieldType::String),
            ("n", FieldType::Number),
        ];
        let message = TypeDefinition {
            fields: fields.map(|(name, kind)| (name.to_owned(), kind)).into(),
            ..TypeDefinition::empty("message".into())
        };
        let room = TypeDefinition {
            fields: [("name".to_owned(), FieldType::String)].into(),
            ..TypeDefinition::empty("room".into())
        };
        let types = [Arc::new(message.clone()), Arc::new(room)];
        let query = Query::parse(wire.as_object().unwrap()).unwrap();
        let bound = query.bind(&message, types.as_slice()).unwrap();
        let shapes = shapes_of(&query.record_type, &bound, scope);
        let describe = |column: &IndexColumn| {
            let order = if column.is_descending { " desc" } else { "" };
            format!("{}{order}", column.field)
        };
        shapes
            .iter()
            .map(|shape| {
                let columns: Vec<_> = shape.best_index().iter().map(describe).collect();
                format!("{}: {}", shape.record_type, columns.join(", "))
            })
            .collect()
    }

    fn path(name: &str) -> Json {
        json!({"$type": "keypath", "$val": name})
    }

    #[test]
    fn what_is_fixed_comes_before_the_order_and_the_order_before_bounds() {
        let cases = [
            (
                json!({"predicate": ["eq", path("room"), "r"], "sort": [[path("_created_at"), "desc"]]}),
                vec!["message: room, _created_at"],
            ),
            (
                json!({"predicate": ["and", ["gt", path("n"), 1], ["in", path("title"), ["a", "b"]]]}),
                vec!["message: title, n"],
            ),
            (
                json!({"predicate": ["like", path("title"), "a%"]}),
                vec!["message: title"],
            ),
            (json!({"predicate": ["like", path("title"), "%a"]}), vec![]),
            (
                json!({"sort": [[path("n"), "desc"], [path("title"), "asc"]]}),
                vec!["message: n, title desc"],
            ),
            (
                json!({"predicate": ["or", ["eq", path("n"), 1], ["and", ["eq", path("title"), "a"]]]}),
                vec!["message: n", "message: title"],
            ),
            (
                json!({"predicate": ["eq", path("room.name"), "x"]}),
                vec!["room: name"],
            ),
            (json!({"predicate": ["not", ["eq", path("n"), 1]]}), vec![]),
        ];
        for (mut wire, expected) in cases {
            wire["record_type"] = json!("message");
            assert_eq!(indexes(&wire, &Scope::Public), expected, "{wire}");
        }
    }

    #[test]
    fn a_private_database_is_fixed_too() {
        let wire = json!({"record_type": "message"});
        let found = indexes(&wire, &Scope::Private("u1".into()));
        assert_eq!(found, ["message: _database_id"]);
    }
}
