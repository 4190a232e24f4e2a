//! Field values and their wire forms.
//!
//! On the wire a typed value is an object with `$type`; in memory it is a [`Value`]. Events contain
//! the same wire form, so that a log can be read without this program.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use crate::id::RecordId;
use crate::time::Timestamp;

/// The value of one record field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value. It clears a field on save and is left out of answers.
    Null,
    /// A boolean.
    Bool(bool),
    /// Any number; whole numbers are written without a fraction.
    Number(f64),
    /// A string.
    String(String),
    /// A plain object or an array. Typed values inside are kept as received, except for the form of
    /// their numbers.
    Json(Json),
    /// A point in time.
    Date(Timestamp),
    /// A file. It is boxed because it is larger than the others, and rarer.
    Asset(Box<Asset>),
    /// A reference to a record.
    Reference(RecordId),
    /// A point on Earth.
    Location(Point),
    /// A GeoJSON object.
    Geometry(Json),
    /// A request to create a sequence field; the numbers of the field are `Number`s.
    Sequence,
    /// A column whose type has no wire form; never written.
    Unknown(Option<String>),
}

/// A file as a field value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// The name under which the file is stored.
    pub name: String,
    /// The media type, when known.
    pub content_type: Option<String>,
    /// Where to fetch the file. Only outgoing values have it; it is never stored.
    pub url: Option<String>,
}

/// Longitude and latitude in degrees; not range-checked, as in v1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Longitude.
    pub lng: f64,
    /// Latitude.
    pub lat: f64,
}

/// The mean radius of the Earth in metres, as PostGIS uses it for distances on a sphere.
const EARTH_RADIUS: f64 = 6_371_008.771_415_059;

impl Point {
    /// Returns the distance in metres on a sphere.
    ///
    /// "Within N metres" uses it, too. v1 measures that on the spheroid; the results differ by up
    /// to half a percent.
    pub fn metres_to(self, other: Self) -> f64 {
        let (lat1, lat2) = (self.lat.to_radians(), other.lat.to_radians());
        let half_lat = (lat2 - lat1) / 2.0;
        let half_lng = (other.lng - self.lng).to_radians() / 2.0;
        let chord = half_lat.sin().powi(2) + lat1.cos() * lat2.cos() * half_lng.sin().powi(2);
        2.0 * EARTH_RADIUS * chord.clamp(0.0, 1.0).sqrt().asin()
    }
}

/// Why a wire value is refused. The string is the message of the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub String);

impl Value {
    /// Parses the wire form.
    ///
    /// # Errors
    /// An unknown `$type`, or a typed value whose members are missing or malformed, at any depth.
    pub fn from_wire(wire: Json) -> Result<Self, ValueError> {
        match wire {
            Json::Null => Ok(Self::Null),
            Json::Bool(value) => Ok(Self::Bool(value)),
            Json::Number(number) => number
                .as_f64()
                .map(Self::Number)
                .ok_or_else(|| ValueError(format!("number {number} is out of range"))),
            Json::String(text) => Ok(Self::String(text)),
            Json::Array(items) => {
                check_nested(items.iter())?;
                Ok(Self::Json(with_whole_numbers(Json::Array(items))))
            }
            Json::Object(object) => match object.get("$type") {
                None => {
                    check_nested(object.values())?;
                    Ok(Self::Json(with_whole_numbers(Json::Object(object))))
                }
                Some(Json::String(kind)) => typed(kind, &object),
                Some(other) => Err(wrong_type("\"$type\"'s type", other, "string")),
            },
        }
    }

    /// Returns the wire form. For `Sequence` and `Unknown`, that is their typed object.
    pub fn to_wire(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => json!(value),
            Self::Number(number) => number_to_wire(*number),
            Self::String(text) => json!(text),
            Self::Json(value) => value.clone(),
            Self::Date(time) => json!({"$type": "date", "$date": time}),
            Self::Asset(asset) => asset.to_wire(),
            Self::Reference(id) => json!({"$type": "ref", "$id": id.to_string()}),
            Self::Location(point) => json!({
                "$type": "geo", "$lng": number_to_wire(point.lng), "$lat": number_to_wire(point.lat),
            }),
            Self::Geometry(value) => json!({"$type": "geojson", "$val": value}),
            Self::Sequence => json!({"$type": "seq"}),
            Self::Unknown(None) => json!({"$type": "unknown"}),
            Self::Unknown(Some(kind)) => json!({"$type": "unknown", "$underlying_type": kind}),
        }
    }

    /// Returns whether this is `Null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// Writes the wire form, without building it as a tree first.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::String(text) => serializer.serialize_str(text),
            Self::Json(value) => value.serialize(serializer),
            Self::Date(time) => {
                let mut object = serializer.serialize_map(Some(2))?;
                object.serialize_entry("$type", "date")?;
                object.serialize_entry("$date", time)?;
                object.end()
            }
            Self::Reference(id) => {
                let mut object = serializer.serialize_map(Some(2))?;
                object.serialize_entry("$type", "ref")?;
                object.serialize_entry("$id", &format_args!("{id}"))?;
                object.end()
            }
            other => other.to_wire().serialize(serializer),
        }
    }
}

impl Asset {
    /// Parses the wire form; `None` for anything else.
    pub fn from_wire(object: &Map<String, Json>) -> Option<Self> {
        let is_asset = object.get("$type").and_then(Json::as_str) == Some("asset");
        is_asset.then(|| asset(object).ok()).flatten()
    }

    /// Returns the wire form.
    pub fn to_wire(&self) -> Json {
        let mut object = Map::new();
        object.insert("$type".into(), "asset".into());
        object.insert("$name".into(), self.name.clone().into());
        if let Some(content_type) = &self.content_type {
            object.insert("$content_type".into(), content_type.clone().into());
        }
        if let Some(url) = &self.url {
            object.insert("$url".into(), url.clone().into());
        }
        Json::Object(object)
    }
}

/// The largest number up to which every integer is exact as an `f64`.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes a number as v1 does: integers without a fraction, and with all digits if they fit into 64
/// bits.
pub fn number_to_wire(number: f64) -> Json {
    if number.fract() != 0.0 {
        return json!(number);
    }
    if number.abs() <= MAX_EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 53 bits")]
        let whole = number as i64;
        return json!(whole);
    }
    // The fewest digits that identify this number, followed by zeros.
    let digits = number.to_string();
    let whole = digits.parse::<i64>().map(Json::from);
    let whole = whole.or_else(|_| digits.parse::<u64>().map(Json::from));
    whole.unwrap_or_else(|_| json!(number))
}

/// Writes all numbers of a JSON value as [`number_to_wire`] does: to some readers, such as Python,
/// 3.0 is not an integer.
pub fn with_whole_numbers(mut json: Json) -> Json {
    make_numbers_whole(&mut json);
    json
}

fn make_numbers_whole(json: &mut Json) {
    match json {
        Json::Number(number) if number.is_f64() => {
            if let Some(number) = number.as_f64() {
                *json = number_to_wire(number);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(make_numbers_whole),
        Json::Object(members) => members.values_mut().for_each(make_numbers_whole),
        _ => {}
    }
}

fn check_nested<'a>(mut items: impl Iterator<Item = &'a Json>) -> Result<(), ValueError> {
    items.try_for_each(|item| match item {
        Json::Array(inner) => check_nested(inner.iter()),
        Json::Object(object) => match object.get("$type") {
            None => check_nested(object.values()),
            Some(Json::String(kind)) => typed(kind, object).map(drop),
            Some(other) => Err(ValueError(format!("unexpected type of $type: {other}"))),
        },
        _ => Ok(()),
    })
}

fn typed(kind: &str, object: &Map<String, Json>) -> Result<Value, ValueError> {
    match kind {
        "date" => {
            let text = text_member(object, "$date")?;
            let time = Timestamp::parse(text)
                .ok_or_else(|| ValueError(format!("failed to parse $date = {text:?}")))?;
            Ok(Value::Date(time))
        }
        "asset" => asset(object).map(|asset| Value::Asset(Box::new(asset))),
        "ref" => reference(object).map(Value::Reference),
        "geo" => Ok(Value::Location(Point {
            lng: number_member(object, "$lng")?,
            lat: number_member(object, "$lat")?,
        })),
        "geojson" => match object.get("$val") {
            Some(value @ Json::Object(_)) => Ok(Value::Geometry(with_whole_numbers(value.clone()))),
            Some(other) => Err(wrong_type("type($val)", other, "object")),
            None => Err(missing("$val")),
        },
        "seq" => Ok(Value::Sequence),
        "unknown" => Ok(Value::Unknown(
            object
                .get("$underlying_type")
                .and_then(Json::as_str)
                .map(str::to_owned),
        )),
        known @ ("blob" | "keypath" | "relation" | "record") => {
            Err(ValueError(format!("unimplemented $type = {known}")))
        }
        other => Err(ValueError(format!("unknown $type = {other}"))),
    }
}

fn asset(object: &Map<String, Json>) -> Result<Asset, ValueError> {
    let name = text_member(object, "$name")?;
    if name.is_empty() {
        return Err(ValueError("asset's $name should not be empty".into()));
    }
    let content_type = match object.get("$content_type").filter(|value| !value.is_null()) {
        None => None,
        Some(Json::String(text)) => Some(text.clone()),
        Some(other) => return Err(wrong_type("type($content_type)", other, "string")),
    };
    Ok(Asset {
        name: name.to_owned(),
        content_type,
        url: None,
    })
}

fn reference(object: &Map<String, Json>) -> Result<RecordId, ValueError> {
    let text = match object.get("$id") {
        None => return Err(ValueError("referencing without $id".into())),
        Some(Json::String(text)) => text,
        Some(other) => return Err(wrong_type("reference type($id)", other, "string")),
    };
    let form = "should be of format '{type}/{id}'";
    RecordId::parse(text).ok_or_else(|| ValueError(format!("ref: \"_id\" {form}, got {text:?}")))
}

fn missing(member: &str) -> ValueError {
    ValueError(format!("missing compulsory field {member}"))
}

fn wrong_type(what: &str, found: &Json, expected: &str) -> ValueError {
    let found = match found {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    ValueError(format!("got {what} = {found}, want {expected}"))
}

fn text_member<'a>(object: &'a Map<String, Json>, name: &str) -> Result<&'a str, ValueError> {
    let value = object.get(name).ok_or_else(|| missing(name))?;
    value
        .as_str()
        .ok_or_else(|| wrong_type(&format!("type({name})"), value, "string"))
}

fn number_member(object: &Map<String, Json>, name: &str) -> Result<f64, ValueError> {
    let value = object.get(name).ok_or_else(|| missing(name))?;
    value
        .as_f64()
        .ok_or_else(|| wrong_type(&format!("type({name})"), value, "number"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_typed_value_comes_back_as_it_went() {
        let values = [
            json!(null),
            json!(true),
            json!(1),
            json!(1.5),
            json!("text"),
            json!({"a": [1, {"$type": "date", "$date": "2015-04-10T09:35:20Z"}]}),
            json!({"$type": "date", "$date": "2015-04-10T09:35:20.25Z"}),
            json!({"$type": "asset", "$name": "a.png", "$content_type": "image/png"}),
            json!({"$type": "ref", "$id": "note/a/b"}),
            json!({"$type": "geo", "$lng": 1.5, "$lat": -2}),
            json!({"$type": "geojson", "$val": {"type": "Point", "coordinates": [1, 2]}}),
            json!({"$type": "seq"}),
            json!({"$type": "unknown", "$underlying_type": "money"}),
        ];
        for wire in values {
            let value = Value::from_wire(wire.clone()).unwrap();
            assert_eq!(value.to_wire(), wire);
            assert_eq!(serde_json::to_value(&value).unwrap(), wire);
        }
    }

    proptest! {
        #[test]
        fn a_number_is_the_same_however_it_is_written(number in prop_oneof![
            any::<f64>(),
            any::<i64>().prop_map(|it| it as f64),
            any::<u64>().prop_map(|it| it as f64),
        ]) {
            let text = number_to_wire(number).to_string();
            prop_assert_eq!(text.parse::<f64>().unwrap(), number);
            if number.fract() == 0.0 && number.abs() < 9e18 {
                prop_assert!(!text.contains(['.', 'e']), "{}", text);
            }
        }
    }

    #[test]
    fn whole_numbers_have_no_fraction_at_any_depth() {
        for (number, expected) in [
            (-0.0, "0"),
            (1.234_567_890_123_456_7e19, "12345678901234567000"),
            (-9.0e18, "-9000000000000000000"),
            (1e20, "1e+20"),
            (0.1, "0.1"),
        ] {
            assert_eq!(number_to_wire(number).to_string(), expected);
        }
        let geo = json!({"$type": "geo", "$lng": 1.0, "$lat": 2.5});
        let value = Value::from_wire(json!({"a": [3.0, {"b": geo}], "c": 1e18})).unwrap();
        let geo = json!({"$type": "geo", "$lng": 1, "$lat": 2.5});
        let expected = json!({"a": [3, {"b": geo}], "c": 1_000_000_000_000_000_000_u64});
        assert_eq!(value, Value::Json(expected.clone()));
        assert_eq!(serde_json::to_value(&value).unwrap(), expected);
    }

    #[test]
    fn malformed_values_are_refused_at_any_depth() {
        let values = [
            json!({"$type": "blob"}),
            json!({"$type": 1}),
            json!({"$type": "record"}),
            json!({"$type": "date", "$date": "2015-04-10"}),
            json!({"$type": "ref", "$id": "note"}),
            json!({"$type": "asset", "$name": ""}),
            json!({"$type": "geo", "$lng": 1}),
            json!({"$type": "geojson", "$val": 1}),
        ];
        for wire in values {
            assert!(Value::from_wire(wire.clone()).is_err(), "{wire}");
            assert!(Value::from_wire(json!([{"deep": wire}])).is_err());
        }
    }

    #[test]
    fn distances_are_those_of_a_sphere() {
        let hong_kong = Point {
            lng: 114.16,
            lat: 22.28,
        };
        let tokyo = Point {
            lng: 139.69,
            lat: 35.68,
        };
        let metres = hong_kong.metres_to(tokyo);
        assert!((metres - 2_890_000.0).abs() < 20_000.0, "{metres}");
        assert!(hong_kong.metres_to(hong_kong).abs() < f64::EPSILON);
        let pole = Point {
            lng: 0.0,
            lat: 90.0,
        };
        let equator = Point {
            lng: 77.0,
            lat: 0.0,
        };
        assert!((pole.metres_to(equator) - 10_007_557.0).abs() < 1.0);
    }
}
