//! Typed values at any depth, on their way to and from plugins: parsed and encoded again, so that
//! both sides see one form.

use serde_json::{Map, Value as Json};
use skytrail_schema::value::{Value, ValueError, with_whole_numbers};

/// Encodes typed values in their normalized form.
///
/// # Errors
/// An unknown `$type`, or a typed value that cannot be parsed.
pub(super) fn normalize(value: Json) -> Result<Json, ValueError> {
    match value {
        Json::Array(items) => items.into_iter().map(normalize).collect(),
        Json::Object(object) => match object.get("$type").and_then(Json::as_str) {
            Some("record") => record(object),
            // Parts of queries, which have no meaning here.
            Some("keypath" | "relation") => Ok(Json::Object(object)),
            _ if object.contains_key("$type") => {
                Value::from_wire(Json::Object(object)).map(|value| value.to_wire())
            }
            _ => members(object).map(Json::Object),
        },
        plain => Ok(with_whole_numbers(plain)),
    }
}

/// Encodes the values of an object in their normalized form.
///
/// # Errors
/// As [`normalize`].
pub(super) fn members(object: Map<String, Json>) -> Result<Map<String, Json>, ValueError> {
    let member = |(name, value)| Ok((name, normalize(value)?));
    object.into_iter().map(member).collect()
}

/// Encodes a record among the arguments: it always has a type and an access list.
fn record(mut wrapper: Map<String, Json>) -> Result<Json, ValueError> {
    let Some(Json::Object(record)) = wrapper.remove("$record") else {
        return Err(ValueError("missing compulsory field $record".to_owned()));
    };
    let mut record = members(record)?;
    record.entry("_type").or_insert_with(|| "record".into());
    record.entry("_access").or_insert(Json::Null);
    wrapper.insert("$record".to_owned(), Json::Object(record));
    Ok(Json::Object(wrapper))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn typed_values_get_one_form_at_any_depth() {
        let given = json!({"a": [{"$type": "date", "$date": "2017-01-02T11:04:05+08:00"}], "b": 1});
        let expected = json!({"a": [{"$type": "date", "$date": "2017-01-02T03:04:05Z"}], "b": 1});
        assert_eq!(normalize(given).unwrap(), expected);
    }

    #[test]
    fn whole_numbers_get_no_fraction() {
        let given = json!({"a": [1.0, 2.5], "j": {"$type": "geo", "$lng": 1.0, "$lat": -2.0}});
        let expected = json!({"a": [1, 2.5], "j": {"$type": "geo", "$lng": 1, "$lat": -2}});
        assert_eq!(normalize(given).unwrap(), expected);
    }

    #[test]
    fn records_say_what_they_are() {
        let given = json!({"$type": "record", "$record": {"_id": "note/1", "title": "t"}});
        let record = json!({"_id": "note/1", "_type": "record", "_access": null, "title": "t"});
        let expected = json!({"$type": "record", "$record": record});
        assert_eq!(normalize(given).unwrap(), expected);
    }

    #[test]
    fn unreadable_values_are_refused() {
        for value in [
            json!({"$type": "date", "$date": "x"}),
            json!([{"$type": "zzz"}]),
            json!({"deep": {"$type": 5}}),
            json!({"$type": "record"}),
        ] {
            assert!(normalize(value.clone()).is_err(), "{value}");
        }
    }
}
