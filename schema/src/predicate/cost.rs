//! How much evaluating a condition looks at, so that it can be refused before it starts.

use serde_json::Value as Json;

use super::evaluate::Row;
use super::geo::Shape;
use super::{Cell, CellClass, Condition, Context, GeoTerm, Term};
use crate::record::Record;

/// A JSON value, or a position on Earth, counts as this many bytes of text.
const VALUE: u64 = 16;

impl Condition {
    /// Returns the maximum number of bytes of text that evaluating the condition looks at.
    ///
    /// Anything that is not text counts as a few bytes. The count ignores that some parts can
    /// decide the result before others are evaluated, so the cost of a record does not depend on
    /// which parts match. If the cost exceeds `most`, some number above `most` is returned:
    /// counting stops there, so that it takes no longer than what it limits.
    pub fn cost(&self, record: &Record, context: Context<'_>, most: u64) -> u64 {
        let row = Row { record, context };
        let mut meter = Meter { sum: 0, most };
        meter.condition(self, row);
        meter.sum
    }
}

struct Meter {
    sum: u64,
    most: u64,
}

impl Meter {
    fn is_full(&self) -> bool {
        self.sum > self.most
    }

    fn add(&mut self, cost: u64) {
        self.sum = self.sum.saturating_add(cost);
    }

    fn condition(&mut self, condition: &Condition, row: Row<'_>) {
        if self.is_full() {
            return;
        }
        self.add(1);
        match condition {
            Condition::And(parts) | Condition::Or(parts) => {
                parts.iter().for_each(|part| self.condition(part, row));
            }
            Condition::Not(part) => self.condition(part, row),
            Condition::Constant(_) | Condition::IsNull(_) | Condition::Related { .. } => {}
            Condition::Compare {
                class, left, right, ..
            } => {
                // A constant is copied for it.
                let (of_left, of_right) = (self.term(left, row), self.term(right, row));
                self.add(match (*class, left, right) {
                    (CellClass::CaselessText, ..) | (_, Term::Constant(_), Term::Constant(_)) => {
                        of_left.saturating_add(of_right)
                    }
                    (_, Term::Constant(_), _) => of_left,
                    (_, _, Term::Constant(_)) => of_right,
                    _ => of_left.min(of_right),
                });
            }
            Condition::Like { text, pattern, .. } => {
                let (text, pattern) = (self.term(text, row), self.term(pattern, row));
                self.add(text.saturating_add(pattern));
            }
            Condition::InList {
                column,
                class,
                cells,
                ..
            } => {
                let Some(cell) = row.read(column) else { return };
                let of_cell = self.cell(&cell);
                for other in cells {
                    let of_other = self.cell(other);
                    self.add(match class {
                        CellClass::CaselessText => of_cell.saturating_add(of_other),
                        _ => of_cell.min(of_other),
                    });
                    if self.is_full() {
                        return;
                    }
                }
            }
            Condition::JsonContains { column, text } => {
                if let Some(cell) = row.read(column) {
                    let of_json = self.cell(&cell);
                    self.add(of_json.saturating_add(length(text)));
                }
            }
            Condition::Within { inner, outer } => {
                let ((points, of_inner), (positions, of_outer)) =
                    (self.shape(inner, row), self.shape(outer, row));
                self.add(of_inner.saturating_add(of_outer));
                self.add(points.saturating_mul(positions).saturating_mul(VALUE));
            }
        }
    }

    fn term(&self, term: &Term, row: Row<'_>) -> u64 {
        match term {
            Term::Column(column) => row.read(column).map_or(0, |cell| self.cell(&cell)),
            Term::Constant(cell) => self.cell(cell),
            Term::Distance { .. } => VALUE,
        }
    }

    fn cell(&self, cell: &Cell<'_>) -> u64 {
        match cell {
            Cell::Text(text) => length(text),
            Cell::Json(json) => self.json(json),
            Cell::Number(_) | Cell::Bool(_) | Cell::Time(_) | Cell::Point(_) => VALUE,
        }
    }

    fn json(&self, json: &Json) -> u64 {
        let mut sum = 0;
        count(json, self.most, &mut sum);
        sum
    }

    /// Returns the maximum number of points in the shape, and the cost of reading it.
    fn shape(&self, term: &GeoTerm, row: Row<'_>) -> (u64, u64) {
        match term {
            GeoTerm::Constant(shape) => (positions(shape), 1),
            GeoTerm::Column(column) => match row.read(column) {
                Some(Cell::Json(json)) => {
                    let cost = self.json(&json);
                    (cost / VALUE, cost)
                }
                Some(_) => (1, VALUE),
                None => (0, 0),
            },
        }
    }
}

fn length(text: &str) -> u64 {
    text.len() as u64
}

fn count(json: &Json, most: u64, sum: &mut u64) {
    *sum = sum.saturating_add(VALUE);
    match json {
        Json::String(text) => *sum = sum.saturating_add(length(text)),
        Json::Array(items) => {
            let mut items = items.iter();
            while *sum <= most
                && let Some(item) = items.next()
            {
                count(item, most, sum);
            }
        }
        Json::Object(members) => {
            let mut members = members.iter();
            while *sum <= most
                && let Some((name, member)) = members.next()
            {
                *sum = sum.saturating_add(length(name));
                count(member, most, sum);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn positions(shape: &Shape) -> u64 {
    let number = |lines: &[Vec<(f64, f64)>]| lines.iter().map(|line| line.len() as u64).sum();
    match shape {
        Shape::Points(points) => points.len() as u64,
        Shape::Lines(lines) => number(lines),
        Shape::Polygons(polygons) => polygons.iter().map(|rings| number(rings)).sum(),
        Shape::Collection(shapes) => shapes.iter().map(positions).sum(),
    }
}
