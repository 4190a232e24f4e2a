//! Values as PostgreSQL sends and receives them, in its binary formats.

use std::borrow::Cow;

use skytrail_schema::value::Point;
use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, Postgres};
use sqlx::{Arguments as _, Row as _, Type, TypeInfo as _, ValueRef as _};

use super::escape::{escape, escape_json, unescape, unescape_json};
use crate::projection::dialect::{Dialect, Extensions};
use crate::projection::sql::{Arg, Kind};

const BOOL: u32 = 16;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const POINT: u32 = 600;
const FLOAT8: u32 = 701;
const TIMESTAMP: u32 = 1114;
const JSONB: u32 = 3802;

/// Times are counted from the beginning of 2000, which is this many microseconds after 1970.
const EPOCH: i64 = 946_684_800_000_000;

/// A value in binary form, or NULL.
struct Bytes<const TYPE: u32>(Option<Vec<u8>>);

impl<const TYPE: u32> Type<Postgres> for Bytes<TYPE> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(TYPE))
    }
}

impl<const TYPE: u32> Encode<'_, Postgres> for Bytes<TYPE> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }
}

/// Binds values, each as its placeholder expects it.
pub(in crate::projection) fn arguments(
    dialect: Dialect,
    args: impl Iterator<Item = (Kind, Arg)>,
) -> Result<PgArguments, sqlx::Error> {
    let mut bound = PgArguments::default();
    for (kind, arg) in args {
        add(&mut bound, dialect, kind, arg).map_err(sqlx::Error::Encode)?;
    }
    Ok(bound)
}

fn add(bound: &mut PgArguments, dialect: Dialect, kind: Kind, arg: Arg) -> Result<(), BoxDynError> {
    match (kind, arg) {
        (Kind::Null, _) => Ok(()),
        (Kind::Bool, Arg::Bool(value)) => bound.add(value),
        (Kind::Int, Arg::Int(number)) => bound.add(number),
        (Kind::Real, Arg::Real(number)) => bound.add(number),
        // Whole numbers are bound as integers wherever possible.
        #[expect(clippy::cast_precision_loss, reason = "it was a float")]
        (Kind::Real, Arg::Int(number)) => bound.add(number as f64),
        (Kind::Text, Arg::Text(text)) => bound.add(escape(&text).into_owned()),
        (Kind::Catalog, Arg::Catalog(text)) => bound.add(text),
        (Kind::Time, Arg::Time(time)) => {
            let micros = time.micros().saturating_sub(EPOCH);
            bound.add(Bytes::<TIMESTAMP>(Some(micros.to_be_bytes().into())))
        }
        (Kind::Json, Arg::Json(text)) => {
            let mut bytes = vec![1];
            bytes.extend_from_slice(escape_json(&text)?.as_bytes());
            bound.add(Bytes::<JSONB>(Some(bytes)))
        }
        (Kind::Point, Arg::Point(point)) if has_postgis(dialect) => bound.add(to_ewkb(point)),
        (Kind::Point, Arg::Point(point)) => {
            let bytes = [point.lng.to_be_bytes(), point.lat.to_be_bytes()].concat();
            bound.add(Bytes::<POINT>(Some(bytes)))
        }
        (kind, Arg::Null) => add_null(bound, dialect, kind),
        (kind, arg) => Err(format!("{arg:?} instead of {kind:?}").into()),
    }
}

fn add_null(bound: &mut PgArguments, dialect: Dialect, kind: Kind) -> Result<(), BoxDynError> {
    match kind {
        Kind::Null => Ok(()),
        Kind::Bool => bound.add(None::<bool>),
        Kind::Int => bound.add(None::<i64>),
        Kind::Real => bound.add(None::<f64>),
        Kind::Text | Kind::Catalog => bound.add(None::<String>),
        Kind::Time => bound.add(Bytes::<TIMESTAMP>(None)),
        Kind::Json => bound.add(Bytes::<JSONB>(None)),
        Kind::Point if has_postgis(dialect) => bound.add(None::<Vec<u8>>),
        Kind::Point => bound.add(Bytes::<POINT>(None)),
    }
}

fn has_postgis(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Postgres(Extensions { has_postgis, .. }) if has_postgis)
}

/// Writes a point in PostGIS's format.
fn to_ewkb(point: Point) -> Vec<u8> {
    let mut bytes = vec![1, 1, 0, 0, 0];
    bytes.extend(point.lng.to_le_bytes());
    bytes.extend(point.lat.to_le_bytes());
    bytes
}

/// Reads a point in the format of PostGIS or of the database.
fn from_bytes(oid: u32, bytes: &[u8]) -> Option<Point> {
    let (is_little, rest) = match (oid, bytes) {
        (POINT, rest) => (false, rest),
        (_, [order, kind @ ..]) => {
            let is_little = *order == 1;
            let (kind, rest) = kind.split_first_chunk::<4>()?;
            let kind = if is_little {
                u32::from_le_bytes(*kind)
            } else {
                u32::from_be_bytes(*kind)
            };
            // A coordinate system can follow after the kind.
            (
                is_little,
                rest.get(if kind & 0x2000_0000 == 0 { 0 } else { 4 }..)?,
            )
        }
        _ => return None,
    };
    let read = |bytes: [u8; 8]| {
        if is_little {
            f64::from_le_bytes(bytes)
        } else {
            f64::from_be_bytes(bytes)
        }
    };
    let (lng, rest) = rest.split_first_chunk::<8>()?;
    let (lat, _) = rest.split_first_chunk::<8>()?;
    Some(Point {
        lng: read(*lng),
        lat: read(*lat),
    })
}

/// Returns a column's type and bytes, unless it is NULL.
fn raw(row: &PgRow, index: usize) -> Result<Option<(u32, &[u8])>, sqlx::Error> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(None);
    }
    let oid = value.type_info().oid().map_or(0, |oid| oid.0);
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    Ok(Some((oid, bytes)))
}

fn unexpected(row: &PgRow, index: usize) -> sqlx::Error {
    let kind = row
        .try_get_raw(index)
        .map(|value| value.type_info().name().to_owned());
    sqlx::Error::Decode(format!("column {index} is of type {}", kind.unwrap_or_default()).into())
}

/// Reads a string, or a value written as one.
pub(in crate::projection) fn text(
    row: &PgRow,
    index: usize,
) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
    let Some((oid, bytes)) = raw(row, index)? else {
        return Ok(None);
    };
    Ok(Some(match (oid, bytes) {
        (JSONB, [1, json @ ..]) => unescape_json(utf8(json)?),
        (_, bytes) => unescape(utf8(bytes)?),
    }))
}

/// Reads text of the database's catalog, or JSON made of such text: it is not escaped.
pub(in crate::projection) fn catalog(
    row: &PgRow,
    index: usize,
) -> Result<Option<&str>, sqlx::Error> {
    let Some((oid, bytes)) = raw(row, index)? else {
        return Ok(None);
    };
    Ok(Some(match (oid, bytes) {
        (JSONB, [1, json @ ..]) => utf8(json)?,
        (_, bytes) => utf8(bytes)?,
    }))
}

fn utf8(bytes: &[u8]) -> Result<&str, sqlx::Error> {
    std::str::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Reads a whole number, a boolean or the microseconds of a time.
pub(in crate::projection) fn int(row: &PgRow, index: usize) -> Result<Option<i64>, sqlx::Error> {
    let Some((oid, bytes)) = raw(row, index)? else {
        return Ok(None);
    };
    let number = match (oid, bytes) {
        (BOOL, [value]) => Some(i64::from(*value)),
        (INT2, bytes) => bytes
            .try_into()
            .ok()
            .map(|bytes| i64::from(i16::from_be_bytes(bytes))),
        (INT4, bytes) => bytes
            .try_into()
            .ok()
            .map(|bytes| i64::from(i32::from_be_bytes(bytes))),
        (INT8, bytes) => bytes.try_into().ok().map(i64::from_be_bytes),
        (TIMESTAMP, bytes) => {
            let micros = bytes.try_into().ok().map(i64::from_be_bytes);
            micros.map(|micros| micros.saturating_add(EPOCH))
        }
        _ => None,
    };
    number.map(Some).ok_or_else(|| unexpected(row, index))
}

/// Reads a number.
pub(in crate::projection) fn real(row: &PgRow, index: usize) -> Result<Option<f64>, sqlx::Error> {
    match raw(row, index)? {
        None => Ok(None),
        Some((FLOAT8, bytes)) => {
            let number = bytes.try_into().ok().map(f64::from_be_bytes);
            number.map(Some).ok_or_else(|| unexpected(row, index))
        }
        #[expect(clippy::cast_precision_loss, reason = "numbers are floats")]
        Some(_) => Ok(int(row, index)?.map(|number| number as f64)),
    }
}

/// Reads a point.
pub(in crate::projection) fn point(
    row: &PgRow,
    index: usize,
) -> Result<Option<Point>, sqlx::Error> {
    match raw(row, index)? {
        None => Ok(None),
        Some((oid, bytes)) => {
            let point = from_bytes(oid, bytes);
            point.map(Some).ok_or_else(|| unexpected(row, index))
        }
    }
}
