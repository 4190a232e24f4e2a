//! Binding of predicates to type definitions.
//!
//! Errors here are those that v1 returned when it executed a query: 120 for paths, and 10000 for
//! everything that its database refused, with a plain sentence instead of the database's message.

use super::column::Types;
use super::geo::Shape;
use super::{
    Cell, CellClass, Column, ColumnKind, CompareOp, Condition, GeoTerm, KeyPath, Operand, OrderOp,
    Predicate, Term, coerce, like,
};
use crate::code::ApiError;
use crate::types::TypeDefinition;
use crate::value::{Point, Value};

/// Binds a predicate to a type.
///
/// # Errors
/// 120 for paths that lead nowhere, 10000 for comparisons that make no sense.
pub fn bind<T: Types + ?Sized>(
    predicate: &Predicate,
    definition: &TypeDefinition,
    types: &T,
) -> Result<Condition, ApiError> {
    Binder { definition, types }.condition(predicate)
}

/// Binds the column of a distance.
///
/// # Errors
/// 120 for an unknown field, 10000 for a field that is not a location.
pub fn bind_distance(field: &str, definition: &TypeDefinition) -> Result<Column, ApiError> {
    if field.contains('.') {
        return Err(nonsense("distance takes a plain field"));
    }
    let path = KeyPath::parse(field);
    let none: &[std::sync::Arc<TypeDefinition>] = &[];
    let column = Column::resolve(&path, definition, none)?;
    if column.kind == ColumnKind::Location {
        Ok(column)
    } else {
        let text = format!("field \"{field}\" is not a location");
        Err(nonsense(&text))
    }
}

fn nonsense(text: &str) -> ApiError {
    ApiError::unexpected(text)
}

fn bad_in() -> ApiError {
    nonsense(
        "panic occurred while handling request: \
         cannot use \"in\" operator to compare the specified values",
    )
}

fn bad_comparison(column: &Column) -> ApiError {
    let name = &column.name;
    nonsense(&format!(
        "field \"{name}\" cannot be compared with this value"
    ))
}

/// An operand whose path is resolved, but whose literal has no type yet.
enum Side<'a> {
    Column(Column),
    Distance { column: Column, from: Point },
    Literal(&'a Value),
}

impl Side<'_> {
    fn is_null(&self) -> bool {
        matches!(self, Self::Literal(Value::Null))
    }
}

struct Binder<'a, T: ?Sized> {
    definition: &'a TypeDefinition,
    types: &'a T,
}

impl<T: Types + ?Sized> Binder<'_, T> {
    fn condition(&self, predicate: &Predicate) -> Result<Condition, ApiError> {
        Ok(match predicate {
            Predicate::And(parts) => Condition::And(self.all(parts)?),
            Predicate::Or(parts) => Condition::Or(self.all(parts)?),
            Predicate::Not(part) => Condition::Not(Box::new(self.condition(part)?)),
            Predicate::Compare(op, left, right) => {
                compare(*op, self.side(left)?, self.side(right)?)?
            }
            Predicate::In(left, right) => is_in(self.side(left)?, self.side(right)?)?,
            Predicate::UserRelation {
                field,
                relation,
                direction,
            } => Condition::Related {
                column: self.user_column(field)?,
                relation: *relation,
                direction: *direction,
            },
        })
    }

    fn all(&self, parts: &[Predicate]) -> Result<Vec<Condition>, ApiError> {
        parts.iter().map(|part| self.condition(part)).collect()
    }

    fn side<'a>(&self, operand: &'a Operand) -> Result<Side<'a>, ApiError> {
        Ok(match operand {
            Operand::Path(path) => {
                Side::Column(Column::resolve(path, self.definition, self.types)?)
            }
            Operand::Distance { field, from } => Side::Distance {
                column: bind_distance(field, self.definition)?,
                from: *from,
            },
            Operand::Literal(value) => Side::Literal(value),
        })
    }

    fn user_column(&self, field: &str) -> Result<Column, ApiError> {
        let column = Column::resolve(&KeyPath::parse(field), self.definition, self.types)?;
        let may_name_user = match &column.kind {
            ColumnKind::Text | ColumnKind::CaselessText => true,
            ColumnKind::Reference(target) => target.is_user(),
            _ => false,
        };
        if column.via.is_none() && may_name_user {
            Ok(column)
        } else {
            Err(nonsense(&format!("field \"{field}\" does not name users")))
        }
    }
}

fn compare(op: CompareOp, left: Side<'_>, right: Side<'_>) -> Result<Condition, ApiError> {
    if left.is_null() || right.is_null() {
        return Ok(compare_null(op, left, right));
    }
    let op = match op {
        CompareOp::Eq => OrderOp::Eq,
        CompareOp::Neq => OrderOp::Neq,
        CompareOp::Gt => OrderOp::Gt,
        CompareOp::Lt => OrderOp::Lt,
        CompareOp::Gte => OrderOp::Gte,
        CompareOp::Lte => OrderOp::Lte,
        CompareOp::Like => return match_pattern(left, right, false),
        CompareOp::Ilike => return match_pattern(left, right, true),
    };
    let op = within_distance(op, &left, &right);
    let (class, left, right) = terms(left, right)?;
    let is_ordered = !matches!(op, OrderOp::Eq | OrderOp::Neq);
    if class == CellClass::Point && is_ordered {
        return Err(nonsense("locations cannot be ordered"));
    }
    Ok(Condition::Compare {
        op,
        class,
        left,
        right,
    })
}

/// `eq` and `neq` with null test whether there is a value; with any other operator the result is
/// unknown.
fn compare_null(op: CompareOp, left: Side<'_>, right: Side<'_>) -> Condition {
    let other = if left.is_null() { right } else { left };
    let is_null = match other {
        Side::Column(column) | Side::Distance { column, .. } => Condition::IsNull(column),
        Side::Literal(value) => Condition::Constant(Some(value.is_null())),
    };
    match op {
        CompareOp::Eq => is_null,
        CompareOp::Neq => Condition::Not(Box::new(is_null)),
        _ => Condition::Constant(None),
    }
}

/// "Nearer than" includes the limit, as in v1, which has a test of its own for it.
fn within_distance(op: OrderOp, left: &Side<'_>, right: &Side<'_>) -> OrderOp {
    match (op, left, right) {
        (OrderOp::Lt, Side::Distance { .. }, Side::Literal(_)) => OrderOp::Lte,
        (OrderOp::Gt, Side::Literal(_), Side::Distance { .. }) => OrderOp::Gte,
        _ => op,
    }
}

/// Finds a class in which both sides can be compared, and converts them to it.
fn terms(left: Side<'_>, right: Side<'_>) -> Result<(CellClass, Term, Term), ApiError> {
    Ok(match (left, right) {
        (Side::Literal(left), Side::Literal(right)) => {
            let both = coerce::to_text(left).zip(coerce::to_text(right));
            let (left, right) = both.ok_or_else(|| nonsense("these values cannot be compared"))?;
            (CellClass::Text, Term::Constant(left), Term::Constant(right))
        }
        (Side::Literal(literal), side) => {
            let (class, cell, term) = literal_and_term(literal, side)?;
            (class, Term::Constant(cell), term)
        }
        (side, Side::Literal(literal)) => {
            let (class, cell, term) = literal_and_term(literal, side)?;
            (class, term, Term::Constant(cell))
        }
        (left, right) => {
            let (left_class, left) = term(left)?;
            let (right_class, right) = term(right)?;
            (common_class(left_class, right_class)?, left, right)
        }
    })
}

fn literal_and_term(
    literal: &Value,
    side: Side<'_>,
) -> Result<(CellClass, Cell<'static>, Term), ApiError> {
    let cell = match &side {
        Side::Column(column) => column
            .kind
            .coerce(literal)
            .ok_or_else(|| bad_comparison(column))?,
        Side::Distance { column, .. } => coerce::to_number(literal)
            .map(Cell::Number)
            .ok_or_else(|| bad_comparison(column))?,
        Side::Literal(_) => return Err(nonsense("these values cannot be compared")),
    };
    let (class, term) = term(side)?;
    Ok((class, cell, term))
}

fn term(side: Side<'_>) -> Result<(CellClass, Term), ApiError> {
    match side {
        Side::Column(column) => {
            let class = column.kind.class().ok_or_else(|| bad_comparison(&column))?;
            Ok((class, Term::Column(column)))
        }
        Side::Distance { column, from } => Ok((CellClass::Number, Term::Distance { column, from })),
        Side::Literal(_) => Err(nonsense("these values cannot be compared")),
    }
}

fn common_class(left: CellClass, right: CellClass) -> Result<CellClass, ApiError> {
    let is_text = |class: CellClass| matches!(class, CellClass::Text | CellClass::CaselessText);
    if left == right {
        Ok(left)
    } else if is_text(left) && is_text(right) {
        Ok(CellClass::Text)
    } else {
        Err(nonsense("fields of different types cannot be compared"))
    }
}

fn match_pattern(
    left: Side<'_>,
    right: Side<'_>,
    ignores_case: bool,
) -> Result<Condition, ApiError> {
    let (class, text, pattern) = terms(left, right)?;
    let is_caseless = match class {
        CellClass::Text => ignores_case,
        CellClass::CaselessText => true,
        _ => return Err(nonsense("only text can be matched with a pattern")),
    };
    if let Term::Constant(Cell::Text(pattern)) = &pattern {
        if !like::is_well_formed(pattern) {
            return Err(nonsense("a pattern must not end with the escape character"));
        }
        if pattern.len() > like::MAX_PATTERN_BYTES {
            let most = like::MAX_PATTERN_BYTES;
            let why = format!("a pattern can have at most {most} bytes");
            return Err(ApiError::invalid_argument(why, &["predicate"]));
        }
    }
    Ok(Condition::Like {
        text,
        pattern,
        is_caseless,
    })
}

fn is_in(left: Side<'_>, right: Side<'_>) -> Result<Condition, ApiError> {
    match (left, right) {
        (Side::Column(inner), Side::Column(outer)) if is_geo(&inner) && is_geo(&outer) => {
            Ok(Condition::Within {
                inner: GeoTerm::Column(inner),
                outer: GeoTerm::Column(outer),
            })
        }
        (Side::Column(column), Side::Literal(Value::Json(serde_json::Value::Array(list)))) => {
            is_in_list(column, list)
        }
        (Side::Column(inner), Side::Literal(literal)) if is_geo(&inner) => {
            let outer = GeoTerm::Constant(shape(literal)?);
            let inner = GeoTerm::Column(inner);
            Ok(Condition::Within { inner, outer })
        }
        (Side::Literal(literal), Side::Column(outer)) if is_geo(&outer) => {
            let inner = GeoTerm::Constant(shape(literal)?);
            let outer = GeoTerm::Column(outer);
            Ok(Condition::Within { inner, outer })
        }
        (Side::Literal(Value::String(text)), Side::Column(column)) => {
            if column.kind != ColumnKind::Json {
                return Err(bad_comparison(&column));
            }
            let text = text.clone();
            Ok(Condition::JsonContains { column, text })
        }
        (Side::Column(column), Side::Literal(_)) => Err(bad_comparison(&column)),
        _ => Err(bad_in()),
    }
}

fn is_geo(column: &Column) -> bool {
    matches!(column.kind, ColumnKind::Location | ColumnKind::Geometry)
}

fn shape(literal: &Value) -> Result<Shape, ApiError> {
    let shape = match literal {
        Value::Location(point) => Some(Shape::point(*point)),
        Value::Geometry(json) => Shape::parse(json),
        _ => return Err(bad_in()),
    };
    shape.ok_or_else(|| nonsense("the geometry is invalid"))
}

/// An empty list is unknown, so it matches nothing even under `not`, as in v1.
fn is_in_list(column: Column, list: &[serde_json::Value]) -> Result<Condition, ApiError> {
    let class = column.kind.class().ok_or_else(|| bad_comparison(&column))?;
    let mut cells = Vec::with_capacity(list.len());
    let mut has_null = false;
    for item in list {
        match Value::from_wire(item.clone()) {
            Ok(Value::Null) => has_null = true,
            Ok(value) => {
                let cell = column.kind.coerce(&value);
                cells.push(cell.ok_or_else(|| bad_comparison(&column))?);
            }
            Err(_) => return Err(bad_comparison(&column)),
        }
    }
    if cells.is_empty() {
        return Ok(Condition::Constant(None));
    }
    Ok(Condition::InList {
        column,
        class,
        cells,
        has_null,
    })
}
