//! Predicates as SQL conditions.
//!
//! A condition is three-valued, as the predicate is. What SQL cannot say exactly
//! is left out: the condition then holds for more records than the predicate
//! does, never for fewer, and is marked so; the caller looks at each of them.

use skytrail_schema::caller::Caller;
use skytrail_schema::code::ApiError;
use skytrail_schema::predicate::{CompareOp, Direction, Operand, Predicate, Relation};
use skytrail_schema::value::Value;

use super::like;
use super::literal::{bind, mismatch};
use super::path::{Class, Paths, Place};
use crate::projection::apply::settings::relation_number;
use crate::projection::sql::{Arg, Sql};

/// A condition, and whether it says exactly what the predicate says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    /// SQL; nothing at all when every record must be looked at.
    pub(super) sql: Sql,
    /// Whether it holds for the matching records only.
    pub(super) is_exact: bool,
}

impl Condition {
    fn exact(sql: Sql) -> Self {
        Self {
            sql,
            is_exact: true,
        }
    }

    /// Holds for more than it should.
    fn weak(sql: Sql) -> Self {
        Self {
            sql,
            is_exact: false,
        }
    }

    /// Holds for every record.
    fn unknown() -> Self {
        Self::weak(Sql::default())
    }
}

/// Translates predicates of one query.
pub(super) struct Translator<'a, 'b> {
    /// Finds columns.
    pub(super) paths: &'b mut Paths<'a>,
    /// Whose relations count.
    pub(super) caller: &'b Caller,
}

impl Translator<'_, '_> {
    /// Translates a predicate; `is_negated` asks for its negation.
    ///
    /// Negations are carried down to the leaves (which changes nothing in three-valued logic), so
    /// that a leaf may be weakened wherever it stands.
    ///
    /// # Errors
    /// 120 for key paths, 10000 for operands without meaning.
    pub(super) fn translate(
        &mut self,
        predicate: &Predicate,
        is_negated: bool,
    ) -> Result<Condition, ApiError> {
        match predicate {
            Predicate::And(parts) if is_negated => self.any(parts, true),
            Predicate::And(parts) => self.all(parts, false),
            Predicate::Or(parts) if is_negated => self.all(parts, true),
            Predicate::Or(parts) => self.any(parts, false),
            Predicate::Not(inner) => self.translate(inner, !is_negated),
            leaf => {
                let condition = self.leaf(leaf)?;
                Ok(if is_negated {
                    negate(condition)
                } else {
                    condition
                })
            }
        }
    }

    fn all(&mut self, parts: &[Predicate], is_negated: bool) -> Result<Condition, ApiError> {
        let parts = self.each(parts, is_negated)?;
        let is_exact = parts.iter().all(|part| part.is_exact);
        let known = parts.into_iter().map(|part| part.sql);
        let known = known.filter(|sql| !sql.is_empty()).collect();
        let sql = join(known, " AND ");
        Ok(Condition { sql, is_exact })
    }

    fn any(&mut self, parts: &[Predicate], is_negated: bool) -> Result<Condition, ApiError> {
        let parts = self.each(parts, is_negated)?;
        if parts.iter().any(|part| part.sql.is_empty()) {
            return Ok(Condition::unknown());
        }
        let is_exact = parts.iter().all(|part| part.is_exact);
        let sql = join(parts.into_iter().map(|part| part.sql).collect(), " OR ");
        Ok(Condition { sql, is_exact })
    }

    fn each(&mut self, parts: &[Predicate], is_negated: bool) -> Result<Vec<Condition>, ApiError> {
        parts
            .iter()
            .map(|part| self.translate(part, is_negated))
            .collect()
    }

    fn leaf(&mut self, predicate: &Predicate) -> Result<Condition, ApiError> {
        match predicate {
            Predicate::Compare(op, left, right) => self.compare(*op, left, right),
            Predicate::In(left, right) => self.is_in(left, right),
            Predicate::UserRelation {
                field,
                relation,
                direction,
            } => self.user_relation(field, *relation, *direction),
            Predicate::And(_) | Predicate::Or(_) | Predicate::Not(_) => Ok(Condition::unknown()),
        }
    }

    fn compare(
        &mut self,
        op: CompareOp,
        left: &Operand,
        right: &Operand,
    ) -> Result<Condition, ApiError> {
        match (left, right) {
            (Operand::Path(path), Operand::Literal(value)) => {
                let place = self.paths.resolve(path)?;
                compare_with_literal(op, &place, value)
            }
            (Operand::Literal(value), Operand::Path(path)) => {
                let place = self.paths.resolve(path)?;
                match flip(op) {
                    Some(op) => compare_with_literal(op, &place, value),
                    // A pattern that the record holds.
                    None => Ok(Condition::unknown()),
                }
            }
            (Operand::Path(left), Operand::Path(right)) => {
                let (left, right) = (self.paths.resolve(left)?, self.paths.resolve(right)?);
                compare_places(op, &left, &right)
            }
            (Operand::Distance { .. }, _) | (_, Operand::Distance { .. }) => {
                self.check(left)?;
                self.check(right)?;
                Ok(Condition::unknown())
            }
            (Operand::Literal(_), Operand::Literal(_)) => Ok(Condition::unknown()),
        }
    }

    /// Makes sure that an operand's fields exist.
    fn check(&mut self, operand: &Operand) -> Result<(), ApiError> {
        match operand {
            Operand::Path(path) => self.paths.resolve(path).map(drop),
            Operand::Distance { field, .. } => {
                let place = self.paths.resolve_field(field)?;
                if place.class == Class::Point {
                    Ok(())
                } else {
                    Err(mismatch())
                }
            }
            Operand::Literal(_) => Ok(()),
        }
    }

    fn is_in(&mut self, left: &Operand, right: &Operand) -> Result<Condition, ApiError> {
        match (left, right) {
            (Operand::Path(path), Operand::Literal(Value::Json(list))) if list.is_array() => {
                let place = self.paths.resolve(path)?;
                in_list(&place, list.as_array().map_or(&[], Vec::as_slice))
            }
            (Operand::Literal(Value::String(text)), Operand::Path(path)) => {
                let place = self.paths.resolve(path)?;
                if place.class == Class::Json {
                    Ok(Condition::exact(in_json(&place, text)))
                } else {
                    Err(mismatch())
                }
            }
            _ => {
                self.check(left)?;
                self.check(right)?;
                Ok(Condition::unknown())
            }
        }
    }

    fn user_relation(
        &mut self,
        field: &str,
        relation: Relation,
        direction: Direction,
    ) -> Result<Condition, ApiError> {
        let place = self.paths.resolve_field(field)?;
        let Some(me) = &self.caller.user else {
            return Ok(Condition::exact(Sql::new("0")));
        };
        let exists = |mine: &'static str| {
            let mut sql = Sql::new("EXISTS (SELECT 1 FROM _relation AS r WHERE r.kind=");
            sql.bind(Arg::Int(relation_number(relation))).push(mine);
            sql.bind(Arg::text(me.as_str()));
            sql
        };
        let outward = || {
            let mut sql = exists(" AND r.from_user=");
            sql.push(" AND r.to_user=");
            place.push(&mut sql);
            sql.push(")");
            sql
        };
        let inward = || {
            let mut sql = exists(" AND r.to_user=");
            sql.push(" AND r.from_user=");
            place.push(&mut sql);
            sql.push(")");
            sql
        };
        Ok(Condition::exact(match direction {
            Direction::Outward => outward(),
            Direction::Inward => inward(),
            Direction::Mutual => {
                let mut sql = Sql::new("(");
                sql.append(outward())
                    .push(" AND ")
                    .append(inward())
                    .push(")");
                sql
            }
        }))
    }
}

/// Joins conditions, in groups: the database bounds how deep an expression may be, and reads a chain
/// as a tree of that depth.
fn join(mut parts: Vec<Sql>, operator: &'static str) -> Sql {
    const GROUP: usize = 32;
    while parts.len() > GROUP {
        let mut groups = Vec::new();
        while !parts.is_empty() {
            let rest = parts.split_off(parts.len().min(GROUP));
            groups.push(join(std::mem::replace(&mut parts, rest), operator));
        }
        parts = groups;
    }
    let mut sql = Sql::default();
    for part in parts {
        sql.push(if sql.is_empty() { "(" } else { operator })
            .append(part);
    }
    if !sql.is_empty() {
        sql.push(")");
    }
    sql
}

/// The negation of something that holds for too many is not known.
fn negate(condition: Condition) -> Condition {
    if !condition.is_exact {
        return Condition::unknown();
    }
    let mut sql = Sql::new("NOT (");
    sql.append(condition.sql).push(")");
    Condition::exact(sql)
}

fn flip(op: CompareOp) -> Option<CompareOp> {
    Some(match op {
        CompareOp::Eq | CompareOp::Neq => op,
        CompareOp::Gt => CompareOp::Lt,
        CompareOp::Lt => CompareOp::Gt,
        CompareOp::Gte => CompareOp::Lte,
        CompareOp::Lte => CompareOp::Gte,
        CompareOp::Like | CompareOp::Ilike => return None,
    })
}

fn operator(op: CompareOp) -> Option<&'static str> {
    Some(match op {
        CompareOp::Eq => "=",
        CompareOp::Neq => "<>",
        CompareOp::Gt => ">",
        CompareOp::Lt => "<",
        CompareOp::Gte => ">=",
        CompareOp::Lte => "<=",
        CompareOp::Like | CompareOp::Ilike => return None,
    })
}

fn compare_with_literal(
    op: CompareOp,
    place: &Place,
    value: &Value,
) -> Result<Condition, ApiError> {
    let mut sql = Sql::default();
    if value.is_null() {
        match op {
            CompareOp::Eq => {
                place.push(&mut sql);
                sql.push(" IS NULL");
            }
            CompareOp::Neq => {
                place.push(&mut sql);
                sql.push(" IS NOT NULL");
            }
            _ => {
                sql.push("NULL");
            }
        }
        return Ok(Condition::exact(sql));
    }
    let Some(operator) = operator(op) else {
        return like_literal(op, place, value);
    };
    if matches!(place.class, Class::Json | Class::Point | Class::Geometry) {
        // Equal JSON can be written in several ways; points and shapes likewise.
        return Ok(Condition::unknown());
    }
    place.push(&mut sql);
    sql.push(operator).bind(bind(place.class, value)?);
    Ok(Condition::exact(sql))
}

/// The database refuses patterns above 50,000 bytes; a GLOB may be three times its LIKE.
const MAX_PATTERN_BYTES: usize = 16_000;

fn like_literal(op: CompareOp, place: &Place, value: &Value) -> Result<Condition, ApiError> {
    if !matches!(place.class, Class::Text | Class::Folded) {
        return Err(mismatch());
    }
    let Arg::Text(pattern) = bind(place.class, value)? else {
        return Err(mismatch());
    };
    let column = |sql: &mut Sql| place.push(sql);
    if pattern.len() > MAX_PATTERN_BYTES {
        return Ok(Condition::unknown());
    }
    // A folded column is compared with a folded pattern, so both operators mean the same.
    if op == CompareOp::Like || place.class == Class::Folded {
        return Ok(Condition::exact(like::exactly(&column, &pattern)));
    }
    Ok(Condition::weak(like::ignoring_case(&column, &pattern)))
}

fn compare_places(op: CompareOp, left: &Place, right: &Place) -> Result<Condition, ApiError> {
    use Class::{Boolean, Folded, Number, Text, Time, Whole};
    let is_comparable = matches!(
        (left.class, right.class),
        (Text, Text)
            | (Folded, Folded)
            | (Number | Whole, Number | Whole)
            | (Boolean, Boolean)
            | (Time, Time)
    );
    match operator(op) {
        Some(operator) if is_comparable => {
            let mut sql = Sql::default();
            left.push(&mut sql);
            sql.push(operator);
            right.push(&mut sql);
            Ok(Condition::exact(sql))
        }
        _ => Ok(Condition::unknown()),
    }
}

fn in_list(place: &Place, items: &[serde_json::Value]) -> Result<Condition, ApiError> {
    if matches!(place.class, Class::Json | Class::Point | Class::Geometry) {
        return Ok(Condition::unknown());
    }
    let Some(last) = items.len().checked_sub(1) else {
        // Neither the empty list nor its negation holds for any record.
        return Ok(Condition::exact(Sql::new("NULL")));
    };
    let mut sql = Sql::default();
    place.push(&mut sql);
    sql.push(" IN (");
    // A few sizes, so that few statements are kept prepared; the rest repeats the last item.
    for index in 0..items.len().next_power_of_two() {
        let Some(item) = items.get(index.min(last)) else {
            continue;
        };
        let value = Value::from_wire(item.clone()).map_err(|_error| mismatch())?;
        sql.push(if index == 0 { "" } else { "," })
            .bind(bind(place.class, &value)?);
    }
    sql.push(")");
    Ok(Condition::exact(sql))
}

/// Whether a text is an element of a JSON array or a key of a JSON object.
fn in_json(place: &Place, text: &str) -> Sql {
    let mut sql = Sql::new("CASE WHEN ");
    place.push(&mut sql);
    sql.push(" IS NOT NULL THEN EXISTS (SELECT 1 FROM json_each(");
    place.push(&mut sql);
    sql.push(") AS e WHERE CASE WHEN json_type(");
    place.push(&mut sql);
    sql.push(")='object' THEN e.key=").bind(Arg::text(text));
    sql.push(" ELSE e.type='text' AND e.value=")
        .bind(Arg::text(text));
    sql.push(" END) END");
    sql
}
