//! Parses predicates, sort keys and expressions from their wire form.
//!
//! There are two sorts of errors. Input that cannot be parsed is refused at once (108). Input that
//! can be parsed but is not supported (111, 120) is reported only after the whole predicate was
//! parsed, as in v1.

use serde_json::{Map, Value as Json};

use super::{CompareOp, Direction, KeyPath, Operand, Predicate, Relation};
use crate::code::{ApiError, Code};
use crate::query::{Sort, SortKey};
use crate::value::{Point, Value};

/// Parses a predicate, which must be a non-empty array.
///
/// # Errors
/// 108 for input that cannot be parsed, 111 and 120 for what is not supported.
pub fn parse_predicate(items: &[Json]) -> Result<Predicate, ApiError> {
    let mut parser = Parser { refusal: None };
    let predicate = parser.predicate(items)?;
    parser.refusal.map_or(Ok(predicate), Err)
}

/// Parses an expression: key path, function or literal.
///
/// # Errors
/// 108 for a malformed literal.
pub fn parse_operand(wire: &Json) -> Result<Operand, ApiError> {
    match wire {
        Json::Object(object) => match key_path(object) {
            Some(path) => Ok(Operand::Path(path)),
            None => literal(wire),
        },
        Json::Array(items) if is_function(items) => match parse_function(items)? {
            Some(Function::Distance { field, from }) => Ok(Operand::Distance { field, from }),
            // An unknown or malformed function is treated as a list of whatever it contains.
            _ => Ok(Operand::Literal(Value::Json(wire.clone()))),
        },
        _ => literal(wire),
    }
}

/// Parses one sort descriptor: `[expression, "asc" | "desc"]`.
///
/// # Errors
/// 108 for anything else.
pub fn parse_sort(wire: &Json) -> Result<Sort, ApiError> {
    let items = wire.as_array().map(Vec::as_slice).unwrap_or_default();
    let [expression, order] = items else {
        let text = format!("got len(sort descriptor) = {}, want 2", items.len());
        return Err(malformed(&text));
    };
    let by = match parse_operand(expression)? {
        Operand::Path(path) => SortKey::Path(path),
        Operand::Distance { field, from } => SortKey::Distance { field, from },
        Operand::Literal(_) => return Err(malformed("sort does not support literal")),
    };
    let is_descending = match order.as_str().unwrap_or_default() {
        "asc" => false,
        "desc" => true,
        "" => return Err(malformed("empty sort order in sort descriptor")),
        other => return Err(malformed(&format!("unknown sort order: {other}"))),
    };
    Ok(Sort { by, is_descending })
}

/// Builds the 108 for a query that cannot be parsed.
fn malformed(text: &str) -> ApiError {
    let message = format!("failed to construct query: {text}");
    ApiError::new(Code::InvalidArgument, message)
}

struct Parser {
    /// The first part that was parsed but is not supported.
    refusal: Option<ApiError>,
}

impl Parser {
    fn predicate(&mut self, items: &[Json]) -> Result<Predicate, ApiError> {
        let (Some(operator), true) = (items.first(), items.len() >= 2) else {
            let text = format!("got len(predicate) = {}, want at least 2", items.len());
            return Err(malformed(&text));
        };
        let Json::String(operator) = operator else {
            let kind = kind_of(operator);
            let text = format!("got predicate[0]'s type = {kind}, want string");
            return Err(malformed(&text));
        };
        let rest = items.get(1..).unwrap_or_default();
        match operator.as_str() {
            "and" => Ok(Predicate::And(self.children(rest)?)),
            "or" => Ok(Predicate::Or(self.children(rest)?)),
            "not" => self.negation(rest),
            "in" => {
                let (left, right) = operands(rest)?;
                Ok(Predicate::In(left, right))
            }
            "func" => self.functional(items),
            name => match comparison(name) {
                Some(operator) => self.comparison(operator, rest),
                None => Err(malformed(&format!("unrecognized operator = {name}"))),
            },
        }
    }

    fn children(&mut self, items: &[Json]) -> Result<Vec<Predicate>, ApiError> {
        let parse = |(index, item): (usize, &Json)| match item {
            Json::Array(items) => self.predicate(items),
            _ => {
                let text = format!("got non-dict in subpredicate at {index}");
                Err(malformed(&text))
            }
        };
        items.iter().enumerate().map(parse).collect()
    }

    /// Negates the only child. v1 ignores further ones, so it finds what they were to exclude.
    fn negation(&mut self, items: &[Json]) -> Result<Predicate, ApiError> {
        let mut children = self.children(items)?.into_iter();
        let first = children.next();
        let first = first.ok_or_else(|| malformed("got len(predicate) = 1, want at least 2"))?;
        if children.next().is_some() {
            return Err(malformed("\"not\" takes one subpredicate"));
        }
        Ok(Predicate::Not(Box::new(first)))
    }

    fn comparison(&mut self, operator: CompareOp, items: &[Json]) -> Result<Predicate, ApiError> {
        let (left, right) = operands(items)?;
        if operator == CompareOp::Eq {
            for operand in [&left, &right] {
                self.refuse_if(equals_structure(operand));
            }
        }
        Ok(Predicate::Compare(operator, left, right))
    }

    fn functional(&mut self, items: &[Json]) -> Result<Predicate, ApiError> {
        let (refusal, field, relation, direction) = match parse_function(items)? {
            Some(Function::UserRelation {
                field,
                relation,
                direction,
            }) => match Relation::from_name(relation.strip_prefix('_').unwrap_or_default()) {
                Some(relation) => (None, field, relation, direction),
                None => {
                    let text = format!(
                        "user relation predicate with \"{relation}\" relation is not supported"
                    );
                    let refusal = ApiError::new(Code::NotSupported, text);
                    (Some(refusal), field, Relation::Follow, direction)
                }
            },
            Some(Function::Distance { field, .. }) => {
                let text = "unsupported function for functional predicate";
                let refusal = ApiError::new(Code::NotSupported, text);
                (Some(refusal), field, Relation::Follow, Direction::Mutual)
            }
            None => {
                let text = "functional predicate must contain functional expression";
                let refusal = ApiError::new(Code::RecordQueryInvalid, text);
                let field = String::new();
                (Some(refusal), field, Relation::Follow, Direction::Mutual)
            }
        };
        self.refuse_if(refusal);
        Ok(Predicate::UserRelation {
            field,
            relation,
            direction,
        })
    }

    fn refuse_if(&mut self, refusal: Option<ApiError>) {
        if self.refusal.is_none() {
            self.refusal = refusal;
        }
    }
}

fn comparison(name: &str) -> Option<CompareOp> {
    Some(match name {
        "eq" => CompareOp::Eq,
        "neq" => CompareOp::Neq,
        "gt" => CompareOp::Gt,
        "lt" => CompareOp::Lt,
        "gte" => CompareOp::Gte,
        "lte" => CompareOp::Lte,
        "like" => CompareOp::Like,
        "ilike" => CompareOp::Ilike,
        _ => return None,
    })
}

fn operands(items: &[Json]) -> Result<(Operand, Operand), ApiError> {
    let operands = items
        .iter()
        .map(parse_operand)
        .collect::<Result<Vec<_>, _>>()?;
    <[Operand; 2]>::try_from(operands)
        .map(|[left, right]| (left, right))
        .map_err(|operands| {
            let count = operands.len();
            malformed(&format!("Expected number of expressions be 2, got {count}"))
        })
}

/// Returns why `eq` does not accept an operand, if it does not.
fn equals_structure(operand: &Operand) -> Option<ApiError> {
    let Operand::Literal(Value::Json(value)) = operand else {
        return None;
    };
    let kind = if value.is_array() { "array" } else { "map" };
    let text = format!("equal comparison of {kind} \"{value}\" is not supported");
    Some(ApiError::new(Code::NotSupported, text))
}

fn literal(wire: &Json) -> Result<Operand, ApiError> {
    Value::from_wire(wire.clone())
        .map(Operand::Literal)
        .map_err(|error| malformed(&error.to_string()))
}

/// Parses a key path: any object whose `$val` is a non-empty string, whatever its `$type`.
fn key_path(object: &Map<String, Json>) -> Option<KeyPath> {
    let text = object.get("$val")?.as_str()?;
    (!text.is_empty()).then(|| KeyPath::parse(text))
}

enum Function {
    Distance {
        field: String,
        from: Point,
    },
    UserRelation {
        field: String,
        relation: String,
        direction: Direction,
    },
}

fn is_function(items: &[Json]) -> bool {
    items.first().and_then(Json::as_str) == Some("func")
}

/// Parses `["func", name, arguments…]`; `None` for an unknown function or bad arguments.
fn parse_function(items: &[Json]) -> Result<Option<Function>, ApiError> {
    let Some(name) = items.get(1) else {
        return Err(malformed("runtime error: index out of range"));
    };
    let (Some(name), [_, _, Json::Object(path), Json::Object(argument)]) = (name.as_str(), items)
    else {
        return Ok(None);
    };
    let Some(path) = key_path(path) else {
        return Ok(None);
    };
    let field = path.to_string();
    match name {
        "distance" => {
            let number = |name: &str| argument.get(name).and_then(Json::as_f64);
            let point = number("$lng").zip(number("$lat"));
            Ok(point.map(|(lng, lat)| Function::Distance {
                field,
                from: Point { lng, lat },
            }))
        }
        "userRelation" => user_relation(field, argument),
        _ => Ok(None),
    }
}

fn user_relation(
    field: String,
    argument: &Map<String, Json>,
) -> Result<Option<Function>, ApiError> {
    let text = |name: &str| argument.get(name).and_then(Json::as_str);
    let (Some(relation), Some(direction)) = (text("$name"), text("$direction")) else {
        return Ok(None);
    };
    if relation.is_empty() {
        return Err(malformed("empty relation name"));
    }
    let direction = match direction {
        "outward" => Direction::Outward,
        "inward" => Direction::Inward,
        "mutual" => Direction::Mutual,
        "" => return Err(malformed("empty direction")),
        other => {
            let text = format!("unknown relation direction: {other}");
            return Err(ApiError::unexpected(text));
        }
    };
    Ok(Some(Function::UserRelation {
        field,
        relation: relation.to_owned(),
        direction,
    }))
}

/// Names a JSON type as v1's messages do.
fn kind_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}
