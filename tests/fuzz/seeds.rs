//! Where fuzzing starts: the requests, messages and events of the golden files.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use skytrail_schema::value::Value;

fn files(folder: &str, extension: &str) -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|it| it == extension));
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

fn visit(value: &Json, see: &mut dyn FnMut(&Json)) {
    see(value);
    match value {
        Json::Array(items) => items.iter().for_each(|item| visit(item, see)),
        Json::Object(members) => members.values().for_each(|item| visit(item, see)),
        _ => {}
    }
}

fn golden() -> Vec<Json> {
    let texts = files("tests/golden", "json");
    texts
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect()
}

/// The bodies of an action's requests.
pub fn requests(action: &str) -> Vec<Vec<u8>> {
    let path = format!("/{}", action.replace(':', "/"));
    let mut bodies = Vec::new();
    for file in golden() {
        visit(&file, &mut |value| {
            if value["path"] == path.as_str() && value["body"].is_object() {
                bodies.push(value["body"].to_string().into_bytes());
            }
        });
    }
    bodies
}

/// The first components of all key paths in queries.
pub fn field_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for body in requests("record:query") {
        let body: Json = serde_json::from_slice(&body).unwrap();
        visit(&body, &mut |value| {
            if value["$type"] == "keypath"
                && let Some(path) = value["$val"].as_str()
            {
                let first = path.split('.').next().unwrap_or_default();
                if !first.starts_with('_') {
                    names.insert(first.to_owned());
                }
            }
        });
    }
    names
}

/// A value of each kind.
pub fn values() -> Vec<Value> {
    let wire = [
        json!("text"),
        json!(1.5),
        json!(7),
        json!(true),
        json!({"$type": "date", "$date": "2020-01-01T00:00:00Z"}),
        json!({"a": [1, "x"]}),
        json!({"$type": "geo", "$lat": 1, "$lng": 2}),
        json!({"$type": "geojson", "$val": {"type": "Point", "coordinates": [1, 2]}}),
        json!({"$type": "ref", "$id": "thing/2"}),
        json!(["x", "y"]),
        json!(null),
    ];
    wire.into_iter()
        .map(|wire| Value::from_wire(wire).unwrap())
        .collect()
}

/// The encoded events of every kind.
pub fn commits() -> Vec<Vec<u8>> {
    let texts = files("schema/tests/golden", "hex");
    let digits = |text: &String| -> Vec<u8> {
        let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits
            .chunks_exact(2)
            .map(|pair| (pair[0] * 16 + pair[1]) as u8)
            .collect()
    };
    texts.iter().map(digits).collect()
}

/// One message of each type that a worker sends, and answers to `init`.
pub fn plugin_messages() -> Vec<Vec<u8>> {
    let points = json!({
        "op": [{"name": "hello:world", "user_required": true, "key_required": false, "timeout": 1}],
        "hook": [{"name": "h", "type": "note", "trigger": "beforeSave", "async": false}],
        "handler": [{"name": "a/b", "methods": ["GET"]}],
        "timer": [{"name": "t", "spec": "@every 5m"}, {"name": "u", "spec": "0 0 * * * *"}],
        "provider": [{"id": "com.example"}],
        "event": [{"name": "schema-changed"}],
    });
    let messages = [
        json!({"type": "hello", "plugin": "TEST", "worker": "w", "sdk": "s/1", "generation": 3,
            "window": 16, "max_message": 100_000}),
        json!({"type": "ping"}),
        json!({"type": "pong"}),
        json!({"type": "response", "seq": 1, "id": "r1", "result": points}),
        json!({"type": "response", "seq": 2, "id": "r1", "error": {"code": 108, "message": "m",
            "info": {"arguments": ["a"]}}}),
        json!({"type": "call", "seq": 3, "id": "c1", "action": "record:save", "via": "r1",
            "payload": {"records": [{"_id": "note/1"}]}}),
        json!({"type": "cancel", "seq": 4, "id": "c1", "reason": "deadline"}),
        json!({"type": "window", "seq": 5, "size": 3}),
        json!({"type": "drain", "seq": 6, "reason": "restart"}),
    ];
    messages
        .iter()
        .map(|message| message.to_string().into_bytes())
        .collect()
}
