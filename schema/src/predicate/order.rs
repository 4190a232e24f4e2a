//! The order of cells, for comparisons and for sorting.

use std::cmp::Ordering;

use serde_json::{Map, Value as Json};

use super::{Cell, CellClass, like};

/// Compares two cells of one class; `None` if they are of different kinds or have no order.
pub fn compare(class: CellClass, left: &Cell<'_>, right: &Cell<'_>) -> Option<Ordering> {
    match (left, right) {
        (Cell::Text(left), Cell::Text(right)) if class == CellClass::CaselessText => {
            Some(like::fold(left).cmp(&like::fold(right)))
        }
        (Cell::Text(left), Cell::Text(right)) => Some(left.cmp(right)),
        (Cell::Number(left), Cell::Number(right)) => left.partial_cmp(right),
        (Cell::Bool(left), Cell::Bool(right)) => Some(left.cmp(right)),
        (Cell::Time(left), Cell::Time(right)) => Some(left.cmp(right)),
        (Cell::Json(left), Cell::Json(right)) => Some(compare_json(left, right)),
        (Cell::Point(left), Cell::Point(right)) => {
            let lng = left.lng.partial_cmp(&right.lng)?;
            Some(lng.then(left.lat.partial_cmp(&right.lat)?))
        }
        _ => None,
    }
}

/// Compares two cells for sorting: a missing value sorts last when ascending and first when
/// descending.
///
/// Cells that cannot be compared count as equal.
pub fn compare_sorted(
    class: CellClass,
    left: Option<&Cell<'_>>,
    right: Option<&Cell<'_>>,
    is_descending: bool,
) -> Ordering {
    let ascending = match (left, right) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(left), Some(right)) => compare(class, left, right).unwrap_or(Ordering::Equal),
    };
    if is_descending {
        ascending.reverse()
    } else {
        ascending
    }
}

/// Compares JSON values: null, strings, numbers, booleans, arrays, objects, in this order.
///
/// Arrays and objects are compared by size first. Numbers are equal by value, whatever their form.
pub fn compare_json(left: &Json, right: &Json) -> Ordering {
    match (left, right) {
        (Json::Bool(left), Json::Bool(right)) => left.cmp(right),
        (Json::Number(left), Json::Number(right)) => {
            let numbers = left.as_f64().zip(right.as_f64());
            numbers.map_or(Ordering::Equal, |(left, right)| left.total_cmp(&right))
        }
        (Json::String(left), Json::String(right)) => left.cmp(right),
        (Json::Array(left), Json::Array(right)) => {
            let pairs = left.iter().zip(right);
            let by_item = pairs.map(|(left, right)| compare_json(left, right));
            left.len()
                .cmp(&right.len())
                .then_with(|| first_difference(by_item))
        }
        (Json::Object(left), Json::Object(right)) => compare_objects(left, right),
        _ => rank(left).cmp(&rank(right)),
    }
}

fn compare_objects(left: &Map<String, Json>, right: &Map<String, Json>) -> Ordering {
    let by_member = left
        .iter()
        .zip(right)
        .map(|((left_name, left), (right_name, right))| {
            left_name
                .cmp(right_name)
                .then_with(|| compare_json(left, right))
        });
    left.len()
        .cmp(&right.len())
        .then_with(|| first_difference(by_member))
}

fn first_difference(mut orders: impl Iterator<Item = Ordering>) -> Ordering {
    orders
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn rank(json: &Json) -> u8 {
    match json {
        Json::Null => 0,
        Json::String(_) => 1,
        Json::Number(_) => 2,
        Json::Bool(_) => 3,
        Json::Array(_) => 4,
        Json::Object(_) => 5,
    }
}
