//! Compares answers with expectations.

use serde_json::{Map, Value as Json, json};

use super::changes::{Outcome, Whole};
use super::model::Refusal;
use super::search::FAR;
use super::world::Reply;

/// In an expectation: any value but null.
pub const ANY: &str = "<any>";

/// An error says how something differs from the expectation.
pub type Check = Result<(), String>;

pub fn refused(reply: &Reply, refusal: &Refusal) -> Check {
    let error = &reply.body["error"];
    let is_same =
        reply.status == refusal.0 && is_error(error, refusal) && reply.body.get("result").is_none();
    if is_same {
        Ok(())
    } else {
        Err(format!(
            "must be refused with {refusal:?}, came {} {}",
            reply.status, reply.body
        ))
    }
}

pub fn is_error(error: &Json, Refusal(_, code, message): &Refusal) -> bool {
    error["code"] == *code && (message.is_empty() || error["message"] == *message)
}

/// Compares the answer of a batch with the expected outcomes of its items.
pub fn batch(reply: &Reply, expected: Result<Vec<(String, Outcome)>, Whole>) -> Check {
    let expected = match expected {
        Err(Whole::Refused(refusal)) => return refused(reply, &refusal),
        Err(Whole::Atomic(failed)) => {
            refused(
                reply,
                &Refusal(
                    409,
                    115,
                    "Atomic Operation rolled back due to one or more errors",
                ),
            )?;
            let info = &reply.body["error"]["info"];
            let wrong = failed
                .iter()
                .find(|(id, refusal)| !is_error(&info[id.as_str()], refusal));
            return match wrong {
                None => Ok(()),
                Some(wrong) => Err(format!("must be in info: {wrong:?}, came {}", reply.body)),
            };
        }
        Ok(expected) => expected,
    };
    let got = reply.body["result"]
        .as_array()
        .ok_or_else(|| format!("no result: {}", reply.body))?;
    same("length", &json!(expected.len()), &json!(got.len()))?;
    for ((id, expected), got) in expected.into_iter().zip(got) {
        match expected {
            Outcome::Record(wire) => same("record", &wire.into(), got)?,
            Outcome::Deleted => same("deleted", &json!({"_id": id, "_type": "record"}), got)?,
            Outcome::Failed(refusal) => {
                let is_same =
                    got["_type"] == "error" && got["_id"] == id && is_error(got, &refusal);
                if !is_same {
                    return Err(format!("{id} must fail with {refusal:?}, came {got}"));
                }
            }
        }
    }
    Ok(())
}

/// Compares an expectation with a result. The times of records are not predicted.
pub fn same(what: &str, expected: &Json, got: &Json) -> Check {
    let is_same = match (expected, got) {
        (Json::Object(expected), Json::Object(got)) => return same_object(what, expected, got),
        (Json::Array(expected), Json::Array(got)) if expected.len() == got.len() => {
            return expected
                .iter()
                .zip(got)
                .try_for_each(|(expected, got)| same(what, expected, got));
        }
        (Json::String(text), got) if text == ANY => !got.is_null(),
        (Json::String(text), got) if text == FAR => {
            got.as_f64().is_some_and(|metres| metres > 1000.0)
        }
        (expected, got) => expected == got,
    };
    if is_same {
        Ok(())
    } else {
        Err(format!("{what} must be {expected}, came {got}"))
    }
}

pub fn same_object(what: &str, expected: &Map<String, Json>, got: &Map<String, Json>) -> Check {
    let is_record = expected.contains_key("_created_by");
    let is_time = |name: &str| is_record && ["_created_at", "_updated_at"].contains(&name);
    let differs = || {
        let (expected, got) = (json!(expected), json!(got));
        format!("{what} must be {expected}, came {got}")
    };
    for (name, value) in got {
        if is_time(name) && value.as_str().is_some_and(|time| !time.starts_with("2001")) {
            continue;
        }
        let expected_value = expected
            .get(name)
            .ok_or_else(|| format!("{name}: {}", differs()))?;
        same(what, expected_value, value)
            .map_err(|inner| format!("{name}: {}: {inner}", differs()))?;
    }
    if expected.keys().all(|name| got.contains_key(name)) {
        Ok(())
    } else {
        Err(differs())
    }
}
