//! Searches of the log: every combination of conditions, as pages, as a file over HTTP, and from
//! the command line.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{positions, read_all, write_some};
use crate::support::assert_private;
use crate::support::client::{Client, send};
use crate::support::server::{MASTER_KEY, TestServer, lasting_address};

/// One condition: how it is requested, and what it means.
type Condition = (&'static str, Json, Box<dyn Fn(&Json) -> bool>);

fn conditions(whole: &[Json]) -> Vec<Condition> {
    let changed = whole.iter().find(|it| it["kind"] == "record.changed");
    let (actor, request) = (
        changed.unwrap()["actor"].clone(),
        changed.unwrap()["request_id"].clone(),
    );
    let user = actor["user"].clone();
    let asked_request = request.clone();
    let middle = whole.len() as u64 / 2;
    vec![
        (
            "user",
            user.clone(),
            Box::new(move |it| it["actor"]["user"] == user),
        ),
        (
            "keys",
            json!(["client", "none"]),
            Box::new(|it| it["actor"]["key"] != "master"),
        ),
        (
            "origins",
            json!(["api"]),
            Box::new(|it| it["actor"]["origin"] == "api"),
        ),
        (
            "request_id",
            asked_request,
            Box::new(move |it| it["request_id"] == request),
        ),
        (
            "record",
            json!("note/x"),
            Box::new(|it| it["stream"] == "record/note/x"),
        ),
        (
            "record_types",
            json!(["task"]),
            Box::new(|it| {
                let stream = it["stream"].as_str().unwrap();
                stream == "type/task" || stream.starts_with("record/task/")
            }),
        ),
        (
            "kinds",
            json!(["record.created", "user"]),
            Box::new(|it| {
                let kind = it["kind"].as_str().unwrap();
                kind == "record.created" || kind.starts_with("user.")
            }),
        ),
        (
            "since",
            json!(middle - 20),
            Box::new(move |it| it["position"].as_u64() >= Some(middle - 20)),
        ),
        (
            "until",
            json!(middle),
            Box::new(move |it| it["position"].as_u64() <= Some(middle)),
        ),
    ]
}

fn lines(text: &str) -> Vec<Json> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn search(server: &TestServer, asked: &Json) -> String {
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    let kind = ("Content-Type".to_owned(), "application/json".to_owned());
    let url = format!("{}/log/search", server.base_url);
    let answer = send("POST", &url, &[key, kind], Some(asked.to_string().into())).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.json());
    String::from_utf8(answer.bytes).unwrap()
}

#[test]
fn conditions_are_combined_at_will() {
    let mut server = TestServer::start();
    write_some(&server, 40);
    Client::master(&server).save("note/by-master", json!({"a": 1}));
    let whole = read_all(&Client::master(&server), &json!({}));
    combine(&server, &whole);
    // After a restart, the earlier commits are only in the journal.
    server.restart();
    combine(&server, &whole);
}

/// Tests every condition alone, and every pair.
fn combine(server: &TestServer, whole: &[Json]) {
    let master = Client::master(server);
    let conditions = conditions(whole);
    let mut num_found = BTreeSet::new();
    for (index, first) in conditions.iter().enumerate() {
        for second in &conditions[index..] {
            let asked = json!({first.0: first.1, second.0: second.1});
            let expected: Vec<&Json> = whole
                .iter()
                .filter(|it| first.2(it) && second.2(it))
                .collect();
            num_found.insert(expected.len());
            let found = read_all(&master, &asked);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{asked}");
            assert_eq!(lines(&search(server, &asked)), found, "{asked}");
            let mut asked = asked;
            asked["backwards"] = json!(true);
            asked["limit"] = json!(3);
            let mut backwards = read_all(&master, &asked);
            backwards.reverse();
            assert_eq!(backwards, found, "{asked}");
        }
    }
    assert!(num_found.len() > 5, "{num_found:?}");
}

#[test]
fn a_range_of_time_holds_what_was_committed_at_its_ends() {
    let server = TestServer::start();
    write_some(&server, 20);
    let master = Client::master(&server);
    let whole = read_all(&master, &json!({}));
    let (first, last) = (&whole[whole.len() / 3], &whole[whole.len() / 2]);
    let asked = json!({"since": first["time"], "until": last["time"]});
    let is_within = |it: &&Json| {
        let time = it["time"].as_str().unwrap();
        (first["time"].as_str().unwrap()..=last["time"].as_str().unwrap()).contains(&time)
    };
    let expected: Vec<Json> = whole.iter().filter(is_within).cloned().collect();
    assert_eq!(read_all(&master, &asked), expected);
    assert!(expected.contains(first) && expected.contains(last));
    let nothing = json!({"since": "2999-01-01T00:00:00Z"});
    assert!(read_all(&master, &nothing).is_empty());
    assert_eq!(search(&server, &nothing), "");
}

#[test]
fn an_answer_in_csv_has_a_row_per_event_and_calculates_nothing() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let saved = json!({"_id": "note/=1+1", "text": "a,\"b\"\nc"});
    let body = json!({"records": [saved], "_user_id": "=cmd|' /C calc'!A0"});
    master.call("record:save", body).result();
    let asked = json!({"record": "note/=1+1", "format": "csv"});
    let text = search(&server, &asked);
    let [names, row] = text.lines().collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    assert_eq!(
        names,
        "position,time,kind,stream,version,user,key,origin,plugin,on_behalf,request_id,commit,causation,id,hooks,payload,rights,sql,erased"
    );
    let event = &read_all(&master, &json!({"record": "note/=1+1"}))[0];
    // The answer is only resumed by position; a time is where a new one begins.
    let mut timed = asked.clone();
    timed["time"] = event["time"].clone();
    assert_eq!(search(&server, &timed), text);
    let mut resumed = asked;
    resumed["from"] = event["position"].clone();
    assert_eq!(search(&server, &resumed), format!("{row}\r\n"));
    assert!(row.starts_with(&format!("{},", event["position"])), "{row}");
    assert!(
        row.contains(",record/note/=1+1,1,'=cmd|' /C calc'!A0,master,api,"),
        "{row}"
    );
    // The payload is JSON in a quoted cell.
    let (_, payload) = row.split_once(",\"{").unwrap();
    let payload = format!(
        "{{{}",
        payload.strip_suffix("\",,,").unwrap().replace("\"\"", "\"")
    );
    assert_eq!(
        serde_json::from_str::<Json>(&payload).unwrap(),
        event["payload"]
    );
    // Whoever looks for what the master key did can tell it from what it did with a user's rights.
    let ada = Client::signed_up(&server, "ada");
    let record = json!({"_id": "note/lent"});
    let lent = json!({"records": [record], "_rights": "user", "_user_id": ada.user});
    master.call("record:save", lent).result();
    let text = search(&server, &json!({"record": "note/lent", "format": "csv"}));
    let row = text.lines().nth(1).unwrap();
    assert!(
        row.contains(",master,api,") && row.ends_with(",user,,"),
        "{row}"
    );
    let refused = json!({"format": "xls"});
    let url = format!("{}/log/search", server.base_url);
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    let answer = send("POST", &url, &[key], Some(refused.to_string().into())).unwrap();
    assert_eq!(answer.code(), 108);
    assert_eq!(send("GET", &url, &[], None).unwrap().status, 401);
}

#[test]
fn a_user_is_named_by_what_he_signs_in_with() {
    let server = TestServer::start();
    let (ada, master) = (Client::signed_up(&server, "ada"), Client::master(&server));
    Client::signed_up(&server, "bob").save("note/bobs", json!({"n": 1}));
    ada.save("note/1", json!({"n": 1}));
    ada.save("note/1", json!({"n": 2}));
    let by_id = json!({"user": ada.user});
    let expected = read_all(&master, &by_id);
    assert!(expected.len() > 2, "{expected:?}");
    let by_name = json!({"user": "ada"});
    assert_eq!(read_all(&master, &by_name), expected);
    assert_eq!(lines(&search(&server, &by_name)), expected);
    // A name that belongs to no user is taken literally.
    let master_only = read_all(&master, &json!({"user": "nobody"}));
    assert_eq!(master_only, Vec::<Json>::new());
}

#[test]
fn the_id_of_a_user_who_is_gone_is_not_taken_for_a_name() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"n": 1}));
    let id = ada.user.as_deref().unwrap();
    let erased = master.call("erase:user", json!({"user": "ada", "why": "a test"}));
    assert_eq!(erased.result()["finished"], true);
    let hers = read_all(&master, &json!({"user": id}));
    assert!(!hers.is_empty());
    let stranger = Client::signed_up(&server, id);
    stranger.save("note/2", json!({"n": 2}));
    assert_eq!(read_all(&master, &json!({"user": id})), hers);
    let as_record = format!("user/{id}");
    assert_eq!(read_all(&master, &json!({"user": as_record})), hers);
    let stranger = stranger.user.unwrap();
    let named = json!({"user": format!("user/{stranger}")});
    assert!(!read_all(&master, &named).is_empty());
}

#[test]
fn the_command_finds_prints_and_goes_on_with_a_file() {
    let server = TestServer::with(&[("HOST", &lasting_address())]);
    write_some(&server, 30);
    let run = |arguments: &[&str]| {
        let whole = [
            &["log", "search", "--server", &server.base_url, "--set"][..],
            &[&format!("MASTER_KEY={MASTER_KEY}")],
            arguments,
        ];
        let output = server.skytrail(&whole.concat());
        let said = String::from_utf8(output.stderr).unwrap();
        (String::from_utf8(output.stdout).unwrap(), said)
    };
    let master = Client::master(&server);
    let expected = read_all(
        &master,
        &json!({"record_types": ["note"], "kinds": ["record"]}),
    );
    let filter = ["--type", "note", "--kind", "record"];
    let (printed, _) = run(&filter);
    assert_eq!(printed.lines().count(), expected.len());
    assert!(
        printed.lines().all(|line| line.contains("record/note/")),
        "{printed}"
    );
    let (printed, _) = run(&[&filter[..], &["--format", "jsonl"]].concat());
    assert_eq!(lines(&printed), expected);
    let (printed, _) = run(&[&filter[..], &["--format", "jsonl", "--limit", "3"]].concat());
    assert_eq!(lines(&printed), expected[..3]);
    // A file whose writer was interrupted.
    for format in ["jsonl", "csv"] {
        let path = server.folder().join(format);
        let file = path.to_str().unwrap();
        let into = [&filter[..], &["--format", format, "--output", file]].concat();
        run(&into);
        assert_private(&path);
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(first.len() > 1000);
        std::fs::write(&path, &first[..first.len() - 700]).unwrap();
        master.save(&format!("note/later-{format}"), json!({"a": 1}));
        let (_, said) = run(&into);
        assert!(said.contains("exists"), "{said}");
        run(&[&into[..], &["--resume"]].concat());
        let resumed = std::fs::read_to_string(&path).unwrap();
        assert!(resumed.starts_with(&first) && resumed.len() > first.len());
        let now = read_all(
            &master,
            &json!({"record_types": ["note"], "kinds": ["record"]}),
        );
        let found: Vec<u64> = if format == "jsonl" {
            positions(&lines(&resumed))
        } else {
            let rows = resumed.lines().skip(1);
            rows.map(|row| row.split(',').next().unwrap().parse().unwrap())
                .collect()
        };
        assert_eq!(found, positions(&now));
    }
    let (_, said) = run(&["--kind", "nothing"]);
    assert!(
        said.contains("\"nothing\" is not a kind of event"),
        "{said}"
    );
}

#[test]
fn a_file_that_is_no_result_of_a_search_is_not_gone_on_with() {
    let server = TestServer::with(&[("HOST", &lasting_address())]);
    write_some(&server, 3);
    let path = server.folder().join("letter");
    let file = path.to_str().unwrap();
    let run = |format: &str, more: &[&str]| {
        let whole = [
            &["log", "search", "--server", &server.base_url, "--set"][..],
            &[&format!("MASTER_KEY={MASTER_KEY}")],
            &["--format", format, "--output", file],
            more,
        ];
        server.skytrail(&whole.concat())
    };
    let others = [
        "Dear Ada,\nall is well.\n",
        "no line that ends",
        "{\"name\": \"ada\"}",
        "{\"name\": \"ada\"}\n{\"position\": 7}\n",
        "{\"position\": 7}\nDear Ada\n",
        "7,8,9\r\n",
    ];
    for (format, other) in others.iter().flat_map(|it| [("jsonl", it), ("csv", it)]) {
        std::fs::write(&path, other).unwrap();
        for more in [&["--resume"][..], &[]] {
            let refused = run(format, more);
            let said = String::from_utf8(refused.stderr).unwrap();
            let left = std::fs::read_to_string(&path).unwrap();
            assert_eq!(left, *other, "{format} {more:?}: {said}");
            assert_eq!(refused.status.code(), Some(1), "{other:?}: {said}");
            assert!(said.contains("name another"), "{said}");
        }
    }
    // A file of the other format is not accepted either.
    std::fs::remove_file(&path).unwrap();
    assert!(run("csv", &[]).status.success());
    let table = std::fs::read_to_string(&path).unwrap();
    assert_eq!(run("jsonl", &["--resume"]).status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), table);
    // An empty file has nothing to lose.
    for more in [&["--resume"][..], &[]] {
        std::fs::write(&path, "").unwrap();
        assert!(run("csv", more).status.success());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), table);
    }
}
