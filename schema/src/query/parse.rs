//! Parses queries from the parameters of `record:query`.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::{Query, Sort};
use crate::code::{ApiError, Code};
use crate::id::TypeName;
use crate::predicate::parse::{parse_operand, parse_predicate, parse_sort};
use crate::predicate::{Operand, Predicate};

type Parameters = Map<String, Json>;

impl Query {
    /// Parses the parameters of `record:query`, in v1's order of checks.
    ///
    /// An empty predicate counts as none: the published Python library sends it for queries without
    /// conditions.
    ///
    /// # Errors
    /// 108 for what cannot be parsed, 111 and 120 for predicates that are not supported.
    pub fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        Ok(Self {
            record_type: record_type(parameters)?,
            predicate: predicate(parameters)?,
            sort: sort(parameters)?,
            include: include(parameters)?.into_iter().collect(),
            desired_keys: desired_keys(parameters)?,
            count: count(parameters)?,
            offset: whole(number(parameters, "offset")?).unwrap_or(0),
            limit: limit(parameters)?,
        })
    }
}

fn record_type(parameters: &Parameters) -> Result<TypeName, ApiError> {
    let name = parameters.get("record_type").and_then(Json::as_str);
    let name = name.unwrap_or_default();
    if name.is_empty() {
        let text = "recordType cannot be empty";
        return Err(ApiError::new(Code::InvalidArgument, text));
    }
    let name = TypeName::from(name);
    if name.is_reserved() {
        let text = format!("record type \"{name}\" is reserved");
        return Err(ApiError::invalid_argument(text, &["record_type"]));
    }
    Ok(name)
}

/// Returns the items of an array parameter; `None` when it is absent or null.
fn array<'a>(parameters: &'a Parameters, name: &str) -> Result<Option<&'a Vec<Json>>, ApiError> {
    match member(parameters, name) {
        None => Ok(None),
        Some(Json::Array(items)) => Ok(Some(items)),
        Some(_) => Err(expected(name, "an array")),
    }
}

/// Returns a parameter; null counts as absent.
fn member<'a>(parameters: &'a Parameters, name: &str) -> Option<&'a Json> {
    parameters.get(name).filter(|value| !value.is_null())
}

/// Returns a number, whole or not; `None` when it is absent or null.
fn number<'a>(parameters: &'a Parameters, name: &str) -> Result<Option<&'a Json>, ApiError> {
    match member(parameters, name) {
        Some(value) if !value.is_number() => Err(expected(name, "a number")),
        found => Ok(found),
    }
}

fn count(parameters: &Parameters) -> Result<bool, ApiError> {
    match member(parameters, "count") {
        None => Ok(false),
        Some(Json::Bool(count)) => Ok(*count),
        Some(_) => Err(expected("count", "true or false")),
    }
}

fn expected(name: &str, kind: &str) -> ApiError {
    let text = format!("expecting \"{name}\" to be {kind}");
    ApiError::invalid_argument(text, &[name])
}

fn predicate(parameters: &Parameters) -> Result<Option<Predicate>, ApiError> {
    let items = array(parameters, "predicate")?.filter(|items| !items.is_empty());
    items.map(|items| parse_predicate(items)).transpose()
}

fn sort(parameters: &Parameters) -> Result<Vec<Sort>, ApiError> {
    let items = array(parameters, "sort")?;
    items.into_iter().flatten().map(parse_sort).collect()
}

fn include(parameters: &Parameters) -> Result<Vec<(String, Operand)>, ApiError> {
    let members = match member(parameters, "include") {
        None => None,
        Some(Json::Object(members)) => Some(members),
        Some(_) => return Err(expected("include", "an object")),
    };
    let parse = |(name, wire): (&String, &Json)| Ok((name.clone(), parse_operand(wire)?));
    members.into_iter().flatten().map(parse).collect()
}

fn desired_keys(parameters: &Parameters) -> Result<Option<Vec<String>>, ApiError> {
    let Some(items) = array(parameters, "desired_keys")? else {
        return Ok(None);
    };
    let text = |item: &Json| {
        let refusal = || ApiError::new(Code::InvalidArgument, "unexpected value in desired_keys");
        item.as_str().map(str::to_owned).ok_or_else(refusal)
    };
    let keys: BTreeSet<String> = items.iter().map(text).collect::<Result<_, _>>()?;
    Ok(Some(keys.into_iter().collect()))
}

fn limit(parameters: &Parameters) -> Result<Option<u64>, ApiError> {
    let limit = number(parameters, "limit")?;
    match limit.and_then(Json::as_f64) {
        None => Ok(None),
        Some(number) if number <= -1.0 => Err(ApiError::unexpected("limit must not be negative")),
        Some(_) => Ok(Some(whole(limit).unwrap_or(0))),
    }
}

/// Truncates a number to an integer; `None` for anything that is not a number or is below zero.
fn whole(value: Option<&Json>) -> Option<u64> {
    let number = value?;
    if let Some(number) = number.as_u64() {
        return Some(number);
    }
    let number = number.as_f64().filter(|number| *number >= 0.0)?;
    // A number beyond the range of `u64` stands for all records.
    Some(format!("{:.0}", number.trunc()).parse().unwrap_or(u64::MAX))
}
