//! What a record must have to match a predicate, for indexes of predicates.

use serde_json::Value as Json;

use super::column::read_column;
use super::{Cell, CompareOp, KeyPath, Operand, Predicate, coerce, like};
use crate::record::Record;
use crate::value::Value;

/// The maximum number of [`Necessity`] entries of a part that is worth indexing.
const MAX_ENTRIES: usize = 256;

/// A column of the queried type, and the form of its cell.
pub type FieldForm = (String, CellForm);

/// A record matches the predicate only if it has one of these; with none, it never matches.
///
/// That does not depend on the type: it holds whatever kind the columns have.
pub type Necessity = Vec<FieldForm>;

/// What cells have in common that can be equal, in whatever class they are compared.
///
/// Cells of different forms are never equal. Those of one form may not be equal, either.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CellForm {
    /// Text, with its case folded.
    Text(Box<str>),
    /// The bits of a number. Zero has no sign.
    Number(u64),
    /// A boolean.
    Bool(bool),
    /// A time in microseconds.
    Time(i64),
    /// Any JSON.
    Json,
    /// Any point on Earth.
    Point,
}

impl CellForm {
    fn of(cell: &Cell<'_>) -> Self {
        match cell {
            Cell::Text(text) => Self::Text(like::fold(text).into()),
            // Adding zero makes a negative zero positive.
            Cell::Number(number) => Self::Number((number + 0.0).to_bits()),
            Cell::Bool(value) => Self::Bool(*value),
            Cell::Time(time) => Self::Time(time.micros()),
            Cell::Json(_) => Self::Json,
            Cell::Point(_) => Self::Point,
        }
    }

    /// Returns the form of a record's cell; `None` if it has no value.
    pub fn read(record: &Record, column: &str) -> Option<Self> {
        read_column(record, column).as_ref().map(Self::of)
    }

    /// Returns the form of a text.
    pub fn of_text(text: &str) -> Self {
        Self::Text(like::fold(text).into())
    }
}

impl Predicate {
    /// Returns what a record must have to match. Each of these is necessary.
    ///
    /// It is empty if nothing is known, as for a predicate that compares by order.
    pub fn necessities(&self) -> Vec<Necessity> {
        match self {
            Self::And(parts) => parts.iter().flat_map(Self::necessities).collect(),
            Self::Or(parts) => any_of(parts).into_iter().collect(),
            Self::Compare(CompareOp::Eq, Operand::Path(path), Operand::Literal(value))
            | Self::Compare(CompareOp::Eq, Operand::Literal(value), Operand::Path(path)) => {
                one_of(path, std::slice::from_ref(value))
            }
            Self::In(Operand::Path(path), Operand::Literal(Value::Json(Json::Array(list)))) => {
                let values = list.iter().map(|item| Value::from_wire(item.clone()));
                // A list with something else, or with too much, is not indexed.
                let values = values.take(MAX_ENTRIES).collect::<Result<Vec<_>, _>>();
                let values = values.unwrap_or_default();
                if values.len() == list.len() {
                    // A null in the list makes nothing true.
                    let is_value = |value: &Value| !matches!(value, Value::Null);
                    let values: Vec<Value> = values.into_iter().filter(is_value).collect();
                    one_of(path, &values)
                } else {
                    Vec::new()
                }
            }
            Self::Not(_) | Self::Compare(..) | Self::In(..) | Self::UserRelation { .. } => {
                Vec::new()
            }
        }
    }
}

/// Returns what a record must have to match one of the parts; `None` if one of them can be matched
/// without.
fn any_of(parts: &[Predicate]) -> Option<Necessity> {
    let mut entries = Vec::new();
    for part in parts {
        let smallest = part.necessities().into_iter().min_by_key(Vec::len)?;
        entries.extend(smallest);
        if entries.len() > MAX_ENTRIES {
            return None;
        }
    }
    Some(distinct(entries))
}

/// The column equals one of the values.
fn one_of(path: &KeyPath, values: &[Value]) -> Vec<Necessity> {
    let [column] = path.0.as_slice() else {
        return Vec::new();
    };
    // It is true of records without a value.
    if values.iter().any(|value| matches!(value, Value::Null)) {
        return Vec::new();
    }
    let cells = values.iter().flat_map(coerce::to_any);
    let entries = cells.map(|cell| (column.clone(), CellForm::of(&cell)));
    let entries = distinct(entries.collect());
    if entries.len() > MAX_ENTRIES {
        return Vec::new();
    }
    vec![entries]
}

fn distinct(mut entries: Necessity) -> Necessity {
    entries.sort_unstable();
    entries.dedup();
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::predicate::parse::parse_predicate;

    fn necessities(wire: &Json) -> Vec<Vec<(String, CellForm)>> {
        let predicate = parse_predicate(wire.as_array().unwrap()).unwrap();
        predicate.necessities()
    }

    fn text(column: &str, text: &str) -> FieldForm {
        (column.to_owned(), CellForm::of_text(text))
    }

    #[test]
    fn what_a_record_must_have_is_found_where_there_is_something() {
        let path = |name: &str| json!({"$type": "keypath", "$val": name});
        let room = json!(["eq", path("room"), "Red"]);
        let owner = json!(["eq", "ada", path("_owner")]);
        let by_room = vec![text("room", "red")];
        let by_owner = vec![text("_owner_id", "ada")];
        let later = json!(["gt", path("n"), 1]);
        let both = vec![text("_owner_id", "ada"), text("room", "red")];
        let listed = json!(["in", path("room"), ["red", "Red", "blue", null]]);
        for (wire, expected) in [
            (room.clone(), vec![by_room.clone()]),
            (json!(["and", later, room]), vec![by_room.clone()]),
            (json!(["and", owner, room]), vec![by_owner, by_room]),
            (json!(["or", room, owner]), vec![both]),
            (
                listed,
                vec![vec![text("room", "blue"), text("room", "red")]],
            ),
            (json!(["in", path("room"), []]), vec![vec![]]),
            (json!(["or", room, later]), vec![]),
            (json!(["not", room]), vec![]),
            (json!(["neq", path("room"), "red"]), vec![]),
            (json!(["eq", path("room"), null]), vec![]),
            (json!(["eq", path("room"), path("n")]), vec![]),
            (json!(["eq", path("room.name"), "red"]), vec![]),
            (later, vec![]),
        ] {
            assert_eq!(necessities(&wire), expected, "{wire}");
        }
    }

    #[test]
    fn a_literal_has_a_form_for_every_kind_of_column() {
        let wire = json!(["eq", {"$type": "keypath", "$val": "n"}, 1]);
        let expected = [
            CellForm::of_text("1"),
            CellForm::Number(1_f64.to_bits()),
            CellForm::Bool(true),
            CellForm::Json,
        ];
        let expected = expected.map(|form| ("n".to_owned(), form)).to_vec();
        assert_eq!(necessities(&wire), vec![expected]);
    }
}
