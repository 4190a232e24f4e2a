//! "Within a distance of a point", approximately, as SQL.

use skytrail_schema::value::Point;

use super::path::ColumnRef;
use crate::projection::dialect::Dialect;
use crate::projection::sql::{Arg, Sql};

/// The metres of a degree of latitude, slightly too few so that the box is slightly too wide.
const METRES_PER_DEGREE: f64 = 111_000.0;

/// Writes a condition that holds for every location within `metres` of `from`: the location is in a
/// box around it, or outside the range of degrees, where only the exact formula applies.
///
/// Returns `None` for a point that is itself out of range.
pub(super) fn within(place: &ColumnRef, from: Point, metres: f64) -> Option<Sql> {
    if from.lat.abs() > 90.0 || from.lng.abs() > 180.0 {
        return None;
    }
    let reach = metres / METRES_PER_DEGREE + 1e-6;
    let mut sql = Sql::new("(");
    push_member(place, 1, &mut sql);
    push_between(-reach + from.lat, reach + from.lat, &mut sql);
    sql.push(" OR ");
    push_member(place, 1, &mut sql);
    sql.push(" NOT BETWEEN -90 AND 90)");
    // Near a pole every longitude is near.
    let farthest = from.lat.abs() + reach;
    if farthest > 89.0 || reach > 80.0 {
        return Some(sql);
    }
    let reach = reach / farthest.to_radians().cos() + 1e-6;
    sql.push(" AND (");
    for turn in [0.0, -360.0, 360.0] {
        push_member(place, 0, &mut sql);
        push_between(from.lng - reach + turn, from.lng + reach + turn, &mut sql);
        sql.push(" OR ");
    }
    push_member(place, 0, &mut sql);
    sql.push(" NOT BETWEEN -180 AND 180");
    let mut both = Sql::new("(");
    both.append(sql).push("))");
    Some(both)
}

fn push_member(place: &ColumnRef, index: i64, sql: &mut Sql) {
    let (before, behind) = match (place.dialect, index) {
        (Dialect::Sqlite, 0) => ("json_extract(", ",'$[0]')"),
        (Dialect::Sqlite, _) => ("json_extract(", ",'$[1]')"),
        (Dialect::Postgres(extensions), 0) if extensions.has_postgis => ("ST_X(", ")"),
        (Dialect::Postgres(extensions), _) if extensions.has_postgis => ("ST_Y(", ")"),
        (Dialect::Postgres(_), 0) => ("(", ")[0]"),
        (Dialect::Postgres(_), _) => ("(", ")[1]"),
    };
    sql.push(before);
    place.push(sql);
    sql.push(behind);
}

fn push_between(low: f64, high: f64, sql: &mut Sql) {
    sql.push(" BETWEEN ").bind(Arg::Real(low));
    sql.push(" AND ").bind(Arg::Real(high));
}
