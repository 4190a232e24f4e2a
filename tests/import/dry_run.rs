//! A dry run reports what the import would.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::records::{file, head, import, try_import};
use super::{Table, said};
use crate::support::client::Client;
use crate::support::server::TestServer;

fn lines(lines: impl IntoIterator<Item = Json>) -> String {
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

fn reference(id: &str) -> Json {
    json!({"$type": "ref", "$id": id})
}

/// Returns the number of a line that is named as `line 7 thing/1`.
fn number(place: &str) -> u64 {
    place.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Imports; returns the outcome of everything, with the refused lines and why.
fn outcome(server: &TestServer, path: &Path, how: &[&str]) -> (Table, Vec<(String, String)>) {
    let report = server.folder().join("report.jsonl");
    let _ = std::fs::remove_file(&report);
    let to = report.to_string_lossy().into_owned();
    let table = import(server, path, &[how, &["--report", &to]].concat());
    let told = std::fs::read_to_string(report).unwrap();
    let told = told.lines().map(|line| {
        let line: Json = serde_json::from_str(line).unwrap();
        let text = |name: &str| line[name].as_str().unwrap().to_owned();
        (text("id"), text("reason"))
    });
    (table, told.collect())
}

#[test]
fn a_dry_run_refuses_what_the_import_refuses() {
    const NUM_TAKEN: usize = 4;
    const NUM_REFUSED: usize = 10;
    // More than fit into one request.
    const NUM_BETWEEN: usize = 450;
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("here/1", json!({}));
    let put = json!({"filename": "a.txt", "content-type": "text/plain", "content-size": 1});
    let put = master.call("asset:put", put).result();
    let file_of = |name: &Json| json!({"$type": "asset", "$name": name});
    let types = json!({"thing": {"n": "integer", "s": "sequence", "next": "ref(thing)",
        "file": "asset", "here": "ref(here)"}});
    let thing = |key: &str, name: &str, value: Json| {
        let mut thing = json!({"_id": format!("thing/{key}")});
        thing[name] = value;
        thing
    };
    let refused: [Json; NUM_REFUSED] = [
        thing("fraction", "n", json!(1.5)),
        thing("text", "n", json!("text")),
        thing("large", "n", json!(2_147_483_648_u64)),
        thing("number", "s", json!(1_u64 << 53)),
        thing("nowhere", "next", reference("thing/none")),
        thing("not there", "here", reference("here/2")),
        thing("no file", "file", file_of(&json!("none.txt"))),
        // It refers to a refused record.
        thing("follower", "next", reference("thing/fraction")),
        // A line far before it has defined the field.
        json!({"_id": "other/last", "m": "text"}),
        json!({"_id": "orphan/1", "of": reference("nothing/1")}),
    ];
    let taken: [Json; NUM_TAKEN] = [
        thing("first", "next", reference("thing/last")),
        thing("referring", "here", reference("here/1")),
        thing("with file", "file", file_of(&put["asset"]["$name"])),
        json!({"_id": "other/first", "m": 1, "thing": reference("thing/last")}),
    ];
    let between = (0..NUM_BETWEEN).map(|n| thing(&n.to_string(), "n", json!(n)));
    let begin = [json!({"_type": "types", "types": types})];
    let end = [thing("last", "next", reference("thing/first"))];
    let all = begin.into_iter().chain(taken).chain(between);
    let all = lines(all.chain(refused).chain(end));
    let path = file(&server, "all.jsonl", &all);
    let position = head(&master);
    let (dry, told_dry) = outcome(&server, &path, &["--dry-run"]);
    assert_eq!(head(&master), position);
    let (table, told) = outcome(&server, &path, &[]);
    assert_eq!(told_dry, told);
    let mut numbers: Vec<u64> = told.iter().map(|(place, _)| number(place)).collect();
    numbers.sort_unstable();
    let first = 1 + 1 + NUM_TAKEN as u64 + NUM_BETWEEN as u64;
    let expected: Vec<u64> = (first..).take(NUM_REFUSED).collect();
    assert_eq!(numbers, expected, "{told:?}");
    for name in ["thing", "other", "total"] {
        assert_eq!(dry.of(name), table.of(name), "{}\n{}", dry.0, table.0);
    }
}

#[test]
fn types_that_contradict_those_here_are_named() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("thing/1", json!({"n": "text"}));
    let position = head(&master);
    let types = json!({"_type": "types", "types": {"thing": {"n": "integer"}}});
    let path = file(
        &server,
        "all.jsonl",
        &lines([types, json!({"_id": "thing/2"})]),
    );
    for how in [&["--dry-run"] as &[&str], &[]] {
        let refused = try_import(&server, &path, how);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        let expected = "field \"n\" of type \"thing\" is integer in the file and string here";
        assert!(said(&refused).contains(expected), "{}", said(&refused));
        assert_eq!(head(&master), position);
    }
}

/// Over the API, where the caller knows what came before.
#[test]
fn a_dry_run_over_the_api_counts_what_it_is_told_of() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let records = json!([{"_id": "thing/1", "n": 1, "next": reference("thing/2")}]);
    let ask = |more: Json| {
        let mut body = json!({"records": records, "dry_run": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        master.call("record:import", body)
    };
    let outcome = |more: Json| ask(more).result()[0]["outcome"].clone();
    assert_eq!(outcome(json!({})), "refused");
    assert_eq!(outcome(json!({"expected": ["thing/3"]})), "refused");
    assert_eq!(outcome(json!({"expected": ["thing/2"]})), "added");
    let types = |kind: &str| {
        let fields = json!({"fields": [{"name": "n", "type": kind}]});
        json!({"expected": ["thing/2"], "record_types": {"thing": fields}})
    };
    assert_eq!(outcome(types("integer")), "added");
    assert_eq!(ask(types("string")).code(), 114);
    assert!(master.call("schema:fetch", json!({})).result()["record_types"]["thing"].is_null());
    // A real import does not rely on records that are only expected.
    let real = json!({"records": records, "expected": ["thing/2"]});
    assert_eq!(master.call("record:import", real).code(), 108);
}
