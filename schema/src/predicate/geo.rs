//! Containment on the Earth's surface.

use serde_json::Value as Json;

use crate::value::Point;

type Position = (f64, f64);

/// A GeoJSON geometry.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// `Point`, `MultiPoint`.
    Points(Vec<Position>),
    /// `LineString`, `MultiLineString`.
    Lines(Vec<Vec<Position>>),
    /// `Polygon`, `MultiPolygon`: rings; the first ring of each polygon is its outer boundary.
    Polygons(Vec<Vec<Vec<Position>>>),
    /// `GeometryCollection`.
    Collection(Vec<Shape>),
}

impl Shape {
    /// Returns the shape of a single point.
    pub fn point(point: Point) -> Self {
        Self::Points(vec![(point.lng, point.lat)])
    }

    /// Parses a GeoJSON geometry; `None` if it is not one.
    pub fn parse(json: &Json) -> Option<Self> {
        let coordinates = json.get("coordinates");
        Some(match json.get("type")?.as_str()? {
            "Point" => Self::Points(vec![position(coordinates?)?]),
            "MultiPoint" => Self::Points(list(coordinates?, position)?),
            "LineString" => Self::Lines(vec![line(coordinates?)?]),
            "MultiLineString" => Self::Lines(list(coordinates?, line)?),
            "Polygon" => Self::Polygons(vec![list(coordinates?, line)?]),
            "MultiPolygon" => Self::Polygons(list(coordinates?, |rings| list(rings, line))?),
            "GeometryCollection" => Self::Collection(list(json.get("geometries")?, Self::parse)?),
            _ => return None,
        })
    }

    /// Returns whether the shape contains `inner`: each of its points lies inside, and none on the
    /// border.
    ///
    /// Only points can be inside; for other shapes the result is unknown.
    pub fn contains(&self, inner: &Self) -> Option<bool> {
        match inner {
            Self::Points(points) if !points.is_empty() => {
                Some(points.iter().all(|point| self.has_inside(*point)))
            }
            _ => None,
        }
    }

    fn has_inside(&self, point: Position) -> bool {
        match self {
            Self::Points(points) => points.contains(&point),
            Self::Lines(lines) => lines.iter().any(|line| is_inside_line(line, point)),
            Self::Polygons(polygons) => polygons.iter().any(|rings| is_inside_rings(rings, point)),
            Self::Collection(shapes) => shapes.iter().any(|shape| shape.has_inside(point)),
        }
    }
}

fn position(json: &Json) -> Option<Position> {
    let [lng, lat, ..] = json.as_array()?.as_slice() else {
        return None;
    };
    Some((lng.as_f64()?, lat.as_f64()?))
}

fn line(json: &Json) -> Option<Vec<Position>> {
    list(json, position)
}

fn list<T>(json: &Json, parse: impl Fn(&Json) -> Option<T>) -> Option<Vec<T>> {
    json.as_array()?.iter().map(parse).collect()
}

/// The end points of a line are its border, unless it is closed.
fn is_inside_line(line: &[Position], point: Position) -> bool {
    let is_end = line.first() != line.last()
        && (line.first() == Some(&point) || line.last() == Some(&point));
    !is_end && segments(line).any(|(from, to)| is_on_segment(from, to, point))
}

fn is_inside_rings(rings: &[Vec<Position>], point: Position) -> bool {
    let mut rings = rings.iter();
    let Some(outside) = rings.next() else {
        return false;
    };
    side_of_ring(outside, point) == Side::Inside
        && rings.all(|hole| side_of_ring(hole, point) == Side::Outside)
}

#[derive(PartialEq, Eq)]
enum Side {
    Inside,
    Border,
    Outside,
}

/// Counts how often a ray from the point to the east crosses the ring.
fn side_of_ring(ring: &[Position], point: Position) -> Side {
    let (lng, lat) = point;
    let mut is_inside = false;
    for (from, to) in segments(ring) {
        if is_on_segment(from, to, point) {
            return Side::Border;
        }
        let crosses_latitude = (from.1 > lat) != (to.1 > lat);
        if crosses_latitude {
            let at = from.0 + (lat - from.1) / (to.1 - from.1) * (to.0 - from.0);
            is_inside ^= lng < at;
        }
    }
    if is_inside {
        Side::Inside
    } else {
        Side::Outside
    }
}

fn is_on_segment(from: Position, to: Position, point: Position) -> bool {
    let cross = (to.0 - from.0) * (point.1 - from.1) - (to.1 - from.1) * (point.0 - from.0);
    let is_between = |a: f64, b: f64, x: f64| a.min(b) <= x && x <= a.max(b);
    cross == 0.0 && is_between(from.0, to.0, point.0) && is_between(from.1, to.1, point.1)
}

fn segments(line: &[Position]) -> impl Iterator<Item = (Position, Position)> {
    line.iter().copied().zip(line.iter().copied().skip(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn contains(shape: &Json, lng: f64, lat: f64) -> Option<bool> {
        let shape = Shape::parse(shape).unwrap();
        shape.contains(&Shape::point(Point { lng, lat }))
    }

    #[test]
    fn borders_are_outside_and_holes_too() {
        let shape = json!({"type": "Polygon", "coordinates": [
            [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]],
            [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]],
        ]});
        let cases = [
            (1.0, 1.0, true),
            (5.0, 5.0, false),
            (4.0, 5.0, false),
            (0.0, 5.0, false),
            (10.0, 10.0, false),
            (11.0, 5.0, false),
            (-1.0, 0.0, false),
            (3.0, 4.0, true),
        ];
        for (lng, lat, expected) in cases {
            assert_eq!(contains(&shape, lng, lat), Some(expected), "{lng} {lat}");
        }
    }

    #[test]
    fn points_and_lines_contain_the_points_on_them() {
        assert_eq!(
            contains(&json!({"type": "Point", "coordinates": [1, 2]}), 1.0, 2.0),
            Some(true)
        );
        let line = json!({"type": "LineString", "coordinates": [[0, 0], [2, 2]]});
        assert_eq!(contains(&line, 1.0, 1.0), Some(true));
        assert_eq!(contains(&line, 0.0, 0.0), Some(false));
    }

    #[test]
    fn what_is_no_geometry_is_refused() {
        for json in [
            json!({}),
            json!({"type": "Polygon"}),
            json!({"type": "Point", "coordinates": ["a", 1]}),
            json!({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}}),
        ] {
            assert_eq!(Shape::parse(&json), None, "{json}");
        }
    }
}
