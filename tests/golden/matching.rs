//! Compares an answer with the recorded one, with matchers for values that change.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value as Json};

/// Values captured from earlier answers.
pub type Variables = BTreeMap<String, Json>;

/// Replaces `${name}` and `$var:name` in every string.
pub fn substitute(value: &Json, variables: &Variables) -> Json {
    match value {
        Json::String(text) => match text.strip_prefix("$var:") {
            Some(name) => variables.get(name).cloned().unwrap_or(Json::Null),
            None => Json::String(substitute_text(text, variables)),
        },
        Json::Array(items) => items
            .iter()
            .map(|item| substitute(item, variables))
            .collect(),
        Json::Object(object) => {
            let entries = object.iter();
            let entries = entries
                .map(|(key, item)| (substitute_text(key, variables), substitute(item, variables)));
            Json::Object(entries.collect())
        }
        other => other.clone(),
    }
}

/// Replaces `${name}` in a string.
pub fn substitute_text(text: &str, variables: &Variables) -> String {
    expand(text, variables, |value| value)
}

fn expand(text: &str, variables: &Variables, quote: impl Fn(String) -> String) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        out.push_str(before);
        let Some((name, behind)) = behind.split_once('}') else {
            break;
        };
        match variables.get(name) {
            Some(Json::String(value)) => out.push_str(&quote(value.clone())),
            Some(value) => out.push_str(&quote(value.to_string())),
            None => panic!("no variable named {name}"),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Compares two values; every difference is a line in `out`.
pub fn compare(
    expected: &Json,
    found: &Json,
    at: &str,
    variables: &Variables,
    out: &mut Vec<String>,
) {
    match expected {
        Json::Object(object) => match special(object) {
            Some(special) => compare_special(special, found, at, variables, out),
            None => compare_objects(object, found, at, variables, out),
        },
        Json::Array(items) => compare_arrays(items, found, at, variables, out),
        Json::String(text) => compare_text(text, found, at, variables, out),
        Json::Number(number) => {
            let is_same = found.as_f64().is_some() && found.as_f64() == number.as_f64();
            expect(is_same, expected, found, at, out);
        }
        _ => expect(expected == found, expected, found, at, out),
    }
}

fn expect(is_same: bool, expected: &Json, found: &Json, at: &str, out: &mut Vec<String>) {
    if !is_same {
        out.push(format!("{at}: wanted {expected}, found {found}"));
    }
}

fn special(object: &Map<String, Json>) -> Option<(&str, &Json)> {
    let (key, inner) = object.iter().next().filter(|_| object.len() == 1)?;
    let is_matcher = ["$unordered", "$partial", "$length", "$oneof"].contains(&key.as_str());
    is_matcher.then_some((key.as_str(), inner))
}

fn differs(expected: &Json, found: &Json, variables: &Variables) -> bool {
    let mut out = Vec::new();
    compare(expected, found, "", variables, &mut out);
    !out.is_empty()
}

fn compare_special(
    (matcher, inner): (&str, &Json),
    found: &Json,
    at: &str,
    variables: &Variables,
    out: &mut Vec<String>,
) {
    let is_matched = match (matcher, inner, found) {
        ("$oneof", Json::Array(choices), _) => choices
            .iter()
            .any(|choice| !differs(choice, found, variables)),
        ("$length", expected, _) => length_of(found) == expected.as_u64(),
        ("$unordered", Json::Array(expected), Json::Array(items)) => {
            is_permutation(expected, items, variables)
        }
        ("$partial", Json::Array(expected), Json::Array(items)) => expected
            .iter()
            .all(|expected| items.iter().any(|item| !differs(expected, item, variables))),
        ("$partial", Json::Object(expected), Json::Object(object)) => {
            return compare_partial(expected, object, at, variables, out);
        }
        _ => false,
    };
    expect(
        is_matched,
        &serde_json::json!({matcher: inner}),
        found,
        at,
        out,
    );
}

fn length_of(found: &Json) -> Option<u64> {
    let length = match found {
        Json::Array(items) => items.len(),
        Json::Object(object) => object.len(),
        Json::String(text) => text.chars().count(),
        _ => return None,
    };
    Some(length as u64)
}

fn is_permutation(expected: &[Json], items: &[Json], variables: &Variables) -> bool {
    let mut left: Vec<&Json> = items.iter().collect();
    let mut take = |expected: &Json| {
        let place = left
            .iter()
            .position(|item| !differs(expected, item, variables));
        place.map(|place| left.swap_remove(place)).is_some()
    };
    expected.len() == items.len() && expected.iter().all(&mut take)
}

fn compare_partial(
    expected: &Map<String, Json>,
    found: &Map<String, Json>,
    at: &str,
    variables: &Variables,
    out: &mut Vec<String>,
) {
    for (key, inner) in expected {
        let key = substitute_text(key, variables);
        let is_absent = inner.get("$absent").is_some();
        match found.get(&key) {
            Some(found) if is_absent => {
                out.push(format!("{at}.{key}: wanted nothing, found {found}"))
            }
            Some(found) => compare(inner, found, &format!("{at}.{key}"), variables, out),
            None if is_absent => {}
            None => out.push(format!("{at}.{key}: wanted {inner}, found nothing")),
        }
    }
}

fn compare_objects(
    expected: &Map<String, Json>,
    found: &Json,
    at: &str,
    variables: &Variables,
    out: &mut Vec<String>,
) {
    let Json::Object(object) = found else {
        out.push(format!("{at}: wanted an object, found {found}"));
        return;
    };
    compare_partial(expected, object, at, variables, out);
    let known: Vec<_> = expected
        .keys()
        .map(|key| substitute_text(key, variables))
        .collect();
    for (key, extra) in object.iter().filter(|(key, _)| !known.contains(key)) {
        out.push(format!("{at}.{key}: wanted nothing, found {extra}"));
    }
}

fn compare_arrays(
    expected: &[Json],
    found: &Json,
    at: &str,
    variables: &Variables,
    out: &mut Vec<String>,
) {
    let Some(items) = found
        .as_array()
        .filter(|items| items.len() == expected.len())
    else {
        out.push(format!(
            "{at}: wanted {} items, found {found}",
            expected.len()
        ));
        return;
    };
    for (number, (expected, item)) in expected.iter().zip(items).enumerate() {
        compare(expected, item, &format!("{at}[{number}]"), variables, out);
    }
}

fn compare_text(text: &str, found: &Json, at: &str, variables: &Variables, out: &mut Vec<String>) {
    let is_matched = if let Some(kind) = text.strip_prefix("$any:") {
        is_any(kind, found)
    } else if let Some(pattern) = text.strip_prefix("$regex:") {
        let pattern = expand(pattern, variables, |value| regex::escape(&value));
        let regex = Regex::new(&format!("(?s)^(?:{pattern})$")).unwrap();
        found.as_str().is_some_and(|found| regex.is_match(found))
    } else if text.starts_with("$like:") {
        found.as_str().is_some_and(|found| !found.is_empty())
    } else {
        substitute(&Json::String(text.to_owned()), variables) == *found
    };
    expect(is_matched, &Json::String(text.to_owned()), found, at, out);
}

fn is_any(kind: &str, found: &Json) -> bool {
    let matches = |pattern: &str| {
        found
            .as_str()
            .is_some_and(|found| Regex::new(pattern).unwrap().is_match(found))
    };
    match kind {
        "string" => found.is_string(),
        "number" => found.is_number(),
        "integer" => found.is_i64() || found.is_u64(),
        "bool" => found.is_boolean(),
        "object" => found.is_object(),
        "array" => found.is_array(),
        "value" => true,
        "date" => matches(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"),
        "uuid" => matches("^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"),
        "token" => matches(r"^\S{8,}$"),
        "url" => matches("^https?://"),
        other => panic!("unknown matcher $any:{other}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_same(expected: Json, found: Json) -> bool {
        let variables = Variables::from([("id".to_owned(), json!("a.b"))]);
        !differs(&expected, &found, &variables)
    }

    #[test]
    fn matchers_accept_and_refuse() {
        let cases = [
            (json!({"a": 1}), json!({"a": 1.0}), json!({"a": 1, "b": 2})),
            (json!({"a": null}), json!({"a": null}), json!({})),
            (
                json!("$any:date"),
                json!("2020-01-01T00:00:00.5Z"),
                json!("2020-01-01"),
            ),
            (
                json!("$any:uuid"),
                json!("00000000-0000-4000-8000-000000000000"),
                json!("x"),
            ),
            (json!("$regex:x\\d"), json!("x1"), json!("x12")),
            (json!("$regex:${id}"), json!("a.b"), json!("axb")),
            (json!("n/${id}"), json!("n/a.b"), json!("n/x")),
            (json!({"${id}": 1}), json!({"a.b": 1}), json!({"x": 1})),
            (json!("$like:some text"), json!("other text"), json!("")),
            (json!({"$unordered": [1, 2]}), json!([2, 1]), json!([2, 2])),
            (
                json!({"$partial": {"a": 1}}),
                json!({"a": 1, "b": 2}),
                json!({"b": 2}),
            ),
            (
                json!({"$partial": {"a": {"$absent": true}}}),
                json!({"b": 1}),
                json!({"a": 1}),
            ),
            (json!({"$partial": [1]}), json!([2, 1]), json!([2])),
            (json!({"$length": 2}), json!([1, 2]), json!([1])),
            (json!({"$oneof": [1, "a"]}), json!("a"), json!("b")),
            (json!([1, 2]), json!([1, 2]), json!([1])),
        ];
        for (expected, good, bad) in cases {
            assert!(
                is_same(expected.clone(), good.clone()),
                "{expected} should accept {good}"
            );
            assert!(
                !is_same(expected.clone(), bad.clone()),
                "{expected} should refuse {bad}"
            );
        }
    }
}
