//! Conditions as SQL.
//!
//! SQL's logic is three-valued, like that of conditions. What SQL cannot express exactly is
//! weakened: it then holds for more records than it should, never for fewer, and is marked as
//! inexact. The caller evaluates the condition on each of these records.

use skytrail_schema::id::UserId;
use skytrail_schema::predicate::{
    Cell, CellClass, Column, Condition, Direction, OrderOp, Relation, Term,
};

use super::path::{ColumnRef, Paths};
use super::{like, nearby};
use crate::projection::apply::settings::relation_number;
use crate::projection::sql::{Arg, Sql};
use crate::projection::value::{fold_case, whole};

/// A condition in SQL.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Translated {
    /// Empty when every record must be evaluated.
    pub(super) sql: Sql,
    /// Whether it holds for the matching records only.
    pub(super) is_exact: bool,
}

impl Translated {
    pub(super) fn exact(sql: Sql) -> Self {
        Self {
            sql,
            is_exact: true,
        }
    }

    /// Creates a condition that can hold for too many records.
    pub(super) fn weak(sql: Sql) -> Self {
        Self {
            sql,
            is_exact: false,
        }
    }

    /// Creates a condition that holds for every record.
    pub(super) fn unknown() -> Self {
        Self::weak(Sql::default())
    }
}

/// Translates the conditions of one query.
pub(super) struct Translator<'a, 'b> {
    /// Finds columns.
    pub(super) paths: &'b mut Paths<'a>,
    /// Whose relations count.
    pub(super) user: Option<&'b UserId>,
    /// The total length of the patterns that the database searches for.
    pub(super) pattern_bytes: usize,
}

/// Patterns beyond this total length are left to the evaluator. Its time grows only with the length
/// of the strings, and it lets other tasks run in between.
const MAX_PATTERN_BYTES: usize = 1000;

impl Translator<'_, '_> {
    /// Translates a condition; `is_negated` asks for its negation.
    ///
    /// Negations are moved down to the leaves (which changes nothing in three-valued logic), so
    /// that a leaf can be weakened anywhere.
    pub(super) fn translate(&mut self, condition: &Condition, is_negated: bool) -> Translated {
        match condition {
            Condition::And(parts) if is_negated => self.any(parts, true),
            Condition::And(parts) => self.all(parts, false),
            Condition::Or(parts) if is_negated => self.all(parts, true),
            Condition::Or(parts) => self.any(parts, false),
            Condition::Not(inner) => self.translate(inner, !is_negated),
            leaf => {
                let leaf = self.leaf(leaf).unwrap_or_else(Translated::unknown);
                if is_negated { negate(leaf) } else { leaf }
            }
        }
    }

    fn all(&mut self, parts: &[Condition], is_negated: bool) -> Translated {
        let is_wide = parts.len() > MAX_PARTS;
        let parts = parts.get(..MAX_PARTS).unwrap_or(parts);
        let parts = self.each(parts, is_negated);
        let is_exact = !is_wide && parts.iter().all(|part| part.is_exact);
        let present = parts.into_iter().map(|part| part.sql);
        let present = present.filter(|sql| !sql.is_empty()).collect();
        let sql = join(present, " AND ");
        Translated { sql, is_exact }
    }

    fn any(&mut self, parts: &[Condition], is_negated: bool) -> Translated {
        let merged = if is_negated { Vec::new() } else { merge(parts) };
        let parts = if merged.is_empty() { parts } else { &merged };
        if parts.len() > MAX_PARTS {
            return Translated::unknown();
        }
        let parts = self.each(parts, is_negated);
        if parts.iter().any(|part| part.sql.is_empty()) {
            return Translated::unknown();
        }
        let is_exact = parts.iter().all(|part| part.is_exact);
        let sql = join(parts.into_iter().map(|part| part.sql).collect(), " OR ");
        Translated { sql, is_exact }
    }

    fn each(&mut self, parts: &[Condition], is_negated: bool) -> Vec<Translated> {
        let parts = parts.iter();
        parts.map(|part| self.translate(part, is_negated)).collect()
    }

    /// Translates a leaf; `None` when SQL cannot express anything of it.
    fn leaf(&mut self, leaf: &Condition) -> Option<Translated> {
        match leaf {
            Condition::Constant(value) => Some(Translated::exact(Sql::new(match value {
                Some(true) => "1=1",
                Some(false) => "1=0",
                None => "NULL",
            }))),
            Condition::IsNull(column) => {
                let mut sql = Sql::default();
                self.paths.find(column, None)?.push(&mut sql);
                sql.push(" IS NULL");
                Some(Translated::exact(sql))
            }
            Condition::Compare {
                op,
                class,
                left,
                right,
            } => self.compare(*op, *class, left, right),
            Condition::Like {
                text: Term::Column(column),
                pattern: Term::Constant(Cell::Text(pattern)),
                is_caseless,
            } => self.like(column, pattern, *is_caseless),
            Condition::InList {
                column,
                class,
                cells,
                has_null,
            } => self.in_list((column, *class), cells, *has_null),
            Condition::JsonContains { column, text } => {
                let place = self.paths.find(column, None)?;
                Some(Translated::exact(json_contains(&place, text)))
            }
            Condition::Related {
                column,
                relation,
                direction,
            } => self.related(column, *relation, *direction),
            _ => None,
        }
    }

    fn compare(
        &mut self,
        op: OrderOp,
        class: CellClass,
        left: &Term,
        right: &Term,
    ) -> Option<Translated> {
        if let (OrderOp::Lt | OrderOp::Lte, Term::Distance { column, from }, limit)
        | (OrderOp::Gt | OrderOp::Gte, limit, Term::Distance { column, from }) =
            (op, left, right)
        {
            let Term::Constant(Cell::Number(metres)) = limit else {
                return None;
            };
            let place = self.paths.find(column, None)?;
            return nearby::within(&place, *from, *metres).map(Translated::weak);
        }
        if matches!(class, CellClass::Json | CellClass::Point) {
            // Equal values can be written in several ways.
            return None;
        }
        let mut sql = Sql::default();
        self.push_term(left, class, &mut sql)?;
        sql.push(operator(op));
        self.push_term(right, class, &mut sql)?;
        Some(Translated::exact(sql))
    }

    fn push_term(&mut self, term: &Term, class: CellClass, sql: &mut Sql) -> Option<()> {
        match term {
            Term::Column(column) => self.paths.find(column, Some(class))?.push(sql),
            Term::Constant(cell) => {
                sql.bind(bind(class, cell)?);
            }
            Term::Distance { .. } => return None,
        }
        Some(())
    }

    fn like(&mut self, column: &Column, pattern: &str, is_caseless: bool) -> Option<Translated> {
        self.pattern_bytes = self.pattern_bytes.saturating_add(pattern.len());
        if self.pattern_bytes > MAX_PATTERN_BYTES {
            return None;
        }
        if !is_caseless {
            let place = self.paths.find(column, Some(CellClass::Text))?;
            return like::exactly(&place, pattern);
        }
        let is_folded = column.kind.class() == Some(CellClass::CaselessText);
        if is_folded {
            let place = self.paths.find(column, Some(CellClass::CaselessText))?;
            return like::exactly(&place, &fold_case(pattern));
        }
        let place = self.paths.find(column, Some(CellClass::Text))?;
        like::ignoring_case(&place, pattern)
    }

    fn in_list(
        &mut self,
        (column, class): (&Column, CellClass),
        cells: &[Cell<'static>],
        has_null: bool,
    ) -> Option<Translated> {
        if matches!(class, CellClass::Json | CellClass::Point) {
            return None;
        }
        let mut sql = Sql::default();
        let values: Option<Vec<Arg>> = cells.iter().map(|cell| bind(class, cell)).collect();
        let mut values = values.filter(|values| !values.is_empty())?;
        if has_null {
            values.insert(0, Arg::Null);
        }
        self.paths.find(column, Some(class))?.push(&mut sql);
        sql.one_of(&values, Arg::clone);
        Some(Translated::exact(sql))
    }

    fn related(
        &mut self,
        column: &Column,
        relation: Relation,
        direction: Direction,
    ) -> Option<Translated> {
        let Some(me) = self.user else {
            return Some(Translated::exact(Sql::new("1=0")));
        };
        let place = self.paths.find(column, Some(CellClass::Text))?;
        let exists = |mine: &'static str, other: &'static str| {
            let mut sql = Sql::new("EXISTS (SELECT 1 FROM _relation AS r WHERE r.kind=");
            sql.bind(Arg::Int(relation_number(relation))).push(mine);
            sql.bind(Arg::text(me.as_str())).push(other);
            place.push(&mut sql);
            sql.push(")");
            sql
        };
        let outward = || exists(" AND r.from_user=", " AND r.to_user=");
        let inward = || exists(" AND r.to_user=", " AND r.from_user=");
        Some(Translated::exact(match direction {
            Direction::Outward => outward(),
            Direction::Inward => inward(),
            Direction::Mutual => join(vec![outward(), inward()], " AND "),
        }))
    }
}

/// The database's planner takes seconds for an `and` or `or` of a few thousand parts.
const MAX_PARTS: usize = 200;

/// Merges alternatives that compare one column with constants into a list.
fn merge(parts: &[Condition]) -> Vec<Condition> {
    let mut lists: Vec<(&Column, CellClass, Vec<Cell<'static>>)> = Vec::new();
    let mut others = Vec::new();
    for part in parts {
        let Condition::Compare {
            op: OrderOp::Eq,
            class,
            left: Term::Column(column),
            right: Term::Constant(cell),
        } = part
        else {
            others.push(part.clone());
            continue;
        };
        match lists.iter_mut().find(|list| list.0 == column) {
            Some((_, _, cells)) => cells.push(cell.clone()),
            None => lists.push((column, *class, vec![cell.clone()])),
        }
    }
    let lists = lists
        .into_iter()
        .map(|(column, class, cells)| Condition::InList {
            column: column.clone(),
            class,
            cells,
            has_null: false,
        });
    lists.chain(others).collect()
}

/// Joins conditions in groups: the database limits the depth of an expression, and parses a chain
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

/// Negates a leaf. The negation of a condition that holds for too many records is unknown.
fn negate(leaf: Translated) -> Translated {
    if !leaf.is_exact {
        return Translated::unknown();
    }
    let mut sql = Sql::new("NOT (");
    sql.append(leaf.sql).push(")");
    Translated::exact(sql)
}

fn operator(op: OrderOp) -> &'static str {
    match op {
        OrderOp::Eq => "=",
        OrderOp::Neq => "<>",
        OrderOp::Gt => ">",
        OrderOp::Lt => "<",
        OrderOp::Gte => ">=",
        OrderOp::Lte => "<=",
    }
}

fn bind(class: CellClass, cell: &Cell<'_>) -> Option<Arg> {
    Some(match cell {
        Cell::Text(text) if class == CellClass::CaselessText => Arg::Text(fold_case(text)),
        Cell::Text(text) => Arg::text(text.as_ref()),
        // A whole number equals values in integer and float columns; so does a float.
        Cell::Number(number) => whole(*number),
        Cell::Bool(value) => Arg::Bool(*value),
        Cell::Time(time) => Arg::Time(*time),
        Cell::Json(_) | Cell::Point(_) => return None,
    })
}

/// Writes that a string is an element of a JSON array, a key of a JSON object, or the string
/// itself.
fn json_contains(place: &ColumnRef, text: &str) -> Sql {
    if !place.dialect.is_sqlite() {
        let mut sql = Sql::new("jsonb_exists(");
        place.push(&mut sql);
        sql.push(",").bind(Arg::text(text)).push(")");
        return sql;
    }
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
