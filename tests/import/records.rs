//! Importing records from files, and exporting them.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value as Json, json};

use super::{Move, Table, compare, journal, said};
use crate::plugin::worker::Worker;
use crate::support::client::Client;
use crate::support::server::{MASTER_KEY, TestServer};

/// Runs a command against a running server.
pub(super) fn run(server: &TestServer, arguments: &[&str]) -> Output {
    let address = ["--server", server.base_url.as_str()];
    let key = format!("MASTER_KEY={MASTER_KEY}");
    server.skytrail(&[&["--set", &key], arguments, &address].concat())
}

pub(super) fn export(server: &TestServer, arguments: &[&str]) -> String {
    let done = run(server, &[&["export"], arguments].concat());
    assert!(done.status.success(), "{}", said(&done));
    String::from_utf8(done.stdout).unwrap()
}

pub(super) fn import(server: &TestServer, file: &Path, arguments: &[&str]) -> Table {
    let done = try_import(server, file, arguments);
    let table = Table(String::from_utf8(done.stdout.clone()).unwrap());
    let num_refused = table.of("total")[5];
    assert_eq!(done.status.success(), num_refused == 0, "{}", said(&done));
    if num_refused > 0 {
        assert!(
            said(&done).contains(&format!("{num_refused} refused")),
            "{}",
            said(&done)
        );
    }
    table
}

pub(super) fn try_import(server: &TestServer, file: &Path, arguments: &[&str]) -> Output {
    let file = file.to_string_lossy().into_owned();
    run(server, &[&["import", "records", &file], arguments].concat())
}

pub(super) fn file(server: &TestServer, name: &str, text: &str) -> PathBuf {
    let path = server.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

pub(super) fn head(master: &Client) -> u64 {
    let newest = master.call("log:read", json!({"limit": 1, "backwards": true}));
    newest.result()[0]["position"].as_u64().unwrap()
}

#[test]
fn what_was_exported_comes_back_in_a_fresh_server() {
    let moved = Move::with("");
    moved.import(&[]);
    let first = moved.serve(&[]);
    // Records that refer to each other, that are in private databases, and with no access list or
    // an empty one.
    let master = Client::master(&first);
    let reference = |id: &str| json!({"$type": "ref", "$id": id});
    master.save("egg/1", json!({"_access": []}));
    master.save("hen/1", json!({"egg": reference("egg/1")}));
    master.save(
        "egg/1",
        json!({"hen": reference("hen/1"), "self": reference("egg/1")}),
    );
    let exported = export(&first, &[]);

    let mut second = TestServer::start();
    let path = file(&second, "all.jsonl", &exported);
    let dry = import(&second, &path, &["--dry-run"]);
    assert_eq!(dry.of("total")[5], 0, "{}", dry.0);
    let table = import(&second, &path, &[]);
    let total = table.of("total");
    assert_eq!((total[0], total[1], total[5]), (594, 594, 0), "{}", table.0);
    let again = export(&second, &[]);
    assert!(again == exported, "another export");
    compare::records(&moved.database, &Client::master(&second));
    second.terminate();
    let before = journal(&second.data_dir());
    second.restart();
    let table = import(&second, &path, &[]);
    assert_eq!(table.of("total"), [594, 0, 0, 594, 0, 0]);
    second.terminate();
    assert!(
        journal(&second.data_dir()) == before,
        "the journal has grown"
    );
}

#[test]
fn a_record_that_is_kept_is_kept_for_the_reason_that_is_told() {
    let server = TestServer::start();
    let master = Client::master(&server);
    master.save("note/1", json!({"title": "old"}));
    let changed = export(&server, &["note"]).replace("old", "new");
    let report = server.folder().join("report.jsonl");
    let to = report.to_string_lossy().into_owned();
    let path = file(&server, "note.jsonl", &changed);
    let table = import(&server, &path, &["--update", "--report", &to]);
    assert_eq!(table.of("note"), [1, 0, 0, 0, 1, 0], "{}", table.0);
    let told = std::fs::read_to_string(&report).unwrap();
    let told: Json = serde_json::from_str(told.trim()).unwrap();
    let reason = told["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "it differs but is not newer: the record here has the same _updated_at; \
         without _updated_at it would be imported"
    );
    // Following the reported advice helps.
    let without: Vec<String> = changed
        .lines()
        .map(|line| {
            let mut line: Json = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("_updated_at");
            line.to_string()
        })
        .collect();
    let path = file(&server, "note.jsonl", &without.join("\n"));
    let table = import(&server, &path, &["--update"]);
    assert_eq!(table.of("note"), [1, 0, 1, 0, 0, 0], "{}", table.0);
    assert_eq!(master.query("note", json!([]))[0]["title"], "new");
}

/// Records may refer to later ones in the file, whatever the file says about times.
#[test]
fn references_to_later_records_come_in_the_second_pass() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let body = json!({"record_types": {"node": {"fields": [
        {"name": "title", "type": "string"}, {"name": "next", "type": "ref(node)"}]}}});
    master.call("schema:create", body).result();
    let next = |id: &str| {
        let found = master.call("record:fetch", json!({"ids": [id]})).result();
        found[0]["next"]["$id"].clone()
    };
    let how = ["--type", "node"];
    let rows = "_id,title,next\na,first,node/b\nb,second,\n";
    let path = file(&server, "nodes.csv", rows);
    assert_eq!(import(&server, &path, &how).of("node"), [2, 2, 0, 0, 0, 0]);
    assert_eq!(next("node/a"), "node/b");
    assert_eq!(import(&server, &path, &how).of("node"), [2, 0, 0, 2, 0, 0]);

    // The same for existing records, whether they had a reference or not.
    let rows = "_id,title,next\na,first,node/c\nb,second,node/d\nc,third,\nd,fourth,\n";
    let path = file(&server, "more.csv", rows);
    let update = [how.as_slice(), &["--update"]].concat();
    assert_eq!(
        import(&server, &path, &update).of("node"),
        [4, 2, 1, 1, 0, 0]
    );
    assert_eq!(
        (next("node/a"), next("node/b")),
        (json!("node/c"), json!("node/d"))
    );

    // Files, for which a table has only the names, are no obstacle.
    let put = json!({"filename": "a.txt", "content-type": "text/plain", "content-size": 1});
    let put = master.call("asset:put", put).result();
    let asset = put["asset"]["$name"].as_str().unwrap();
    let rows = format!("_id,title,next,file\ng,first,node/h,{asset}\nh,last,,\n");
    let path = file(&server, "files.csv", &rows);
    let how = [how.as_slice(), &["--map", "file=file:asset"]].concat();
    assert_eq!(import(&server, &path, &how).of("node"), [2, 2, 0, 0, 0, 0]);
    assert_eq!(next("node/g"), "node/h");
    assert_eq!(import(&server, &path, &how).of("node"), [2, 0, 0, 2, 0, 0]);

    // Over the API, as long as the records are sent again.
    let reference = |id: &str| json!({"$type": "ref", "$id": id});
    let records = json!([{"_id": "node/e", "title": "fifth", "next": reference("node/f")},
        {"_id": "node/f", "title": "sixth"}]);
    let outcomes = |postpone: bool| {
        let body = json!({"records": records, "postpone": postpone});
        let answer = master.call("record:import", body).result();
        let outcomes = answer.as_array().unwrap().iter();
        outcomes.map(|it| it["outcome"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(true), ["incomplete", "added"]);
    assert_eq!(next("node/e"), Json::Null);
    assert_eq!(outcomes(false), ["present", "present"]);
    assert_eq!(next("node/e"), "node/f");
}

/// Unreadable lines of a file are reported by number, and the rest is imported.
#[test]
fn a_line_that_is_no_text_is_named() {
    let server = TestServer::start();
    let path = server.folder().join("a.jsonl");
    let lines = b"{\"_id\": \"note/1\"}\n{\"_id\": \"note/\xff\"}\n\n{\"_id\": \"note/3\"}";
    std::fs::write(&path, lines).unwrap();
    let report = server.folder().join("report.jsonl");
    let report_to = report.to_string_lossy().into_owned();
    let table = import(&server, &path, &["--report", &report_to]);
    assert_eq!(table.of("total"), [3, 2, 0, 0, 0, 1], "{}", table.0);
    let told = std::fs::read_to_string(&report).unwrap();
    assert!(told.contains("line 2") && told.contains("UTF-8"), "{told}");

    let path = server.folder().join("a.csv");
    std::fs::write(
        &path,
        b"_id,text\r\nnote/4,a\r\nnote/5,\xff\r\nnote/6,b\r\n",
    )
    .unwrap();
    std::fs::remove_file(&report).unwrap();
    let table = import(&server, &path, &["--report", &report_to]);
    assert_eq!(table.of("total"), [3, 2, 0, 0, 0, 1], "{}", table.0);
    let told = std::fs::read_to_string(report).unwrap();
    assert!(told.contains("line 3") && told.contains("UTF-8"), "{told}");
}

#[test]
fn hooks_are_asked_when_they_shall_be() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let lines = "{\"_id\": \"note/1\", \"n\": 1, \"_ownerID\": \"ada\", \
                 \"_created_at\": \"2017-01-01T00:00:00Z\", \"_updated_at\": \"2017-01-02T00:00:00Z\"}\n";
    let path = file(&server, "a.jsonl", lines);
    let origin = |id: &str| {
        let stream = format!("record/{id}");
        let read = master.call("log:read", json!({"stream": stream})).result();
        read[0]["actor"]["origin"].clone()
    };
    assert_eq!(import(&server, &path, &[]).of("note"), [1, 1, 0, 0, 0, 0]);
    assert_eq!(origin("note/1"), "import");
    let found = master.query("note", json!([]))[0].clone();
    assert_eq!(found["_created_at"], "2017-01-01T00:00:00Z");
    assert_eq!(found["_updated_at"], "2017-01-02T00:00:00Z");
    assert_eq!(found["_ownerID"], "ada");

    let path = file(&server, "b.jsonl", &lines.replace("note/1", "note/2"));
    assert_eq!(
        import(&server, &path, &["--hooks", "--dry-run"]).of("note")[1],
        1
    );
    assert_eq!(master.query("note", json!([])).len(), 1);
    assert_eq!(
        import(&server, &path, &["--hooks"]).of("note"),
        [1, 1, 0, 0, 0, 0]
    );
    assert_eq!(origin("note/2"), "api");
    let body = json!({"ids": ["note/2"]});
    let found = master.call("record:fetch", body).result()[0].clone();
    assert_eq!(found["_ownerID"], "ada");
    assert_ne!(found["_created_at"], "2017-01-01T00:00:00Z");
}

#[test]
fn records_of_one_owner_go_through_the_hooks_together_and_each_has_its_answer() {
    let server = TestServer::with(&[("PLUGINS", "TEST")]);
    let hook = json!([{"name": "judge", "type": "note", "trigger": "beforeSave"}]);
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": hook}));
    let _serving = worker.serve(|worker, message| {
        if message["type"] != "request" {
            return;
        }
        let number = message["param"]["record"]["n"].as_u64().unwrap();
        if number % 10 == 7 {
            worker.refuse(
                message,
                &json!({"code": 10017, "message": "it ends with 7"}),
            );
        } else {
            worker.answer_record(message, &json!({"twice": number * 2}));
        }
    });
    // First more than are saved at once, then records of another owner, of none, and of the first
    // again.
    let owner = |number: u64| match number {
        0..50 | 57.. => json!("ada"),
        50..55 => json!("bob"),
        _ => Json::Null,
    };
    let lines = (0..60).map(|number| {
        let id = format!("note/{number:02}");
        format!(
            "{}\n",
            json!({"_id": id, "n": number, "_ownerID": owner(number)})
        )
    });
    let path = file(&server, "a.jsonl", &lines.collect::<String>());
    let report = server.folder().join("report.jsonl");
    let how = ["--hooks", "--report", &report.to_string_lossy()];
    assert_eq!(
        import(&server, &path, &how).of("note"),
        [60, 54, 0, 0, 0, 6]
    );
    let refused = std::fs::read_to_string(&report).unwrap();
    for (line, number) in refused.lines().zip([7, 17, 27, 37, 47, 57]) {
        let line: Json = serde_json::from_str(line).unwrap();
        assert_eq!(line["id"], format!("line {} note/{number:02}", number + 1));
        assert_eq!(line["reason"], "it ends with 7");
    }
    let master = Client::master(&server);
    let found = master.call("record:export", json!({"record_type": "note"}));
    let found = found.result();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), 54);
    for note in found {
        let number = note["n"].as_u64().unwrap();
        assert_eq!(note["twice"], number * 2);
        if !owner(number).is_null() {
            assert_eq!(note["_ownerID"], owner(number));
        }
    }
}

#[test]
fn a_mapping_that_fits_nothing_is_refused_before_anything_begins() {
    let server = TestServer::start();
    let table = file(&server, "people.csv", "id,Full name\nada,Ada\n");
    let lines = file(&server, "people.jsonl", "{\"_id\": \"person/ada\"}\n");
    let garbage = file(&server, "garbage.jsonl", "nothing of it\n");
    assert_eq!(import(&server, &garbage, &["--dry-run"]).of("total")[5], 1);
    let id = "id=_id";
    let no_column = "the table has no column \"Ful name\"; it has id, Full name";
    let types = "string, number, integer, boolean, datetime, json, asset, location, geometry, \
                 ref(TYPE), sequence";
    let cases: [(&Path, &[&str], &str); 7] = [
        (&table, &[id, "Ful name=name"], no_column),
        (
            &table,
            &["nope=_id"],
            "the table has no column \"nope\"; it has id, Full name",
        ),
        (
            &table,
            &[],
            "the table has no column for _id; name one with --map COLUMN=_id",
        ),
        (
            &table,
            &[id, "Full name=name:text"],
            "\"text\" is not a type",
        ),
        (&table, &[id, "Full name=name:text"], types),
        (
            &table,
            &["Full name=_id", "Full name=name"],
            "--map \"Full name=name\": the column has a --map already",
        ),
        (&lines, &["a=b"], "--map is for tables"),
    ];
    for (file, maps, expected) in cases {
        let maps = maps.iter().flat_map(|map| ["--map", map]);
        let how: Vec<&str> = ["--type", "person", "--dry-run"]
            .into_iter()
            .chain(maps)
            .collect();
        let refused = try_import(&server, file, &how);
        assert!(!refused.status.success(), "{expected}");
        assert!(said(&refused).contains(expected), "{}", said(&refused));
        // Nothing began, so there is nothing to report.
        let printed = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert_eq!(printed, "");
    }
    let refused = try_import(&server, Path::new("/nowhere.csv"), &["--dry-run"]);
    assert!(
        said(&refused).contains("/nowhere.csv: No such file"),
        "{}",
        said(&refused)
    );
    assert!(refused.stdout.is_empty());
    let help = server.skytrail(&["import", "records", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(&help).contains(&words(types)), "{help}");
}

#[test]
fn what_a_stranger_put_in_the_place_of_a_user_gives_way() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let squatted = json!([{"_id": "user/u-1", "nickname": "mallory's"}, {"_id": "user/u-2"}]);
    master
        .call(
            "record:save",
            json!({"_user_id": "mallory", "records": squatted}),
        )
        .result();
    let whole = json!({"_id": "user/u-1", "_ownerID": "u-1", "_created_at": "2017-01-02T03:04:05Z",
        "_created_by": "u-1", "_access": null, "phone": "1"});
    let lines = format!("{whole}\n{}\n", json!({"_id": "user/u-2", "phone": "2"}));
    let path = file(&server, "users.jsonl", &lines);
    assert_eq!(
        import(&server, &path, &["--dry-run"]).of("user"),
        [2, 0, 2, 0, 0, 0]
    );
    assert_eq!(import(&server, &path, &[]).of("user"), [2, 0, 2, 0, 0, 0]);
    let ids = json!({"ids": ["user/u-1", "user/u-2"]});
    let records = master.call("record:fetch", ids).result();
    for (record, phone) in records.as_array().unwrap().iter().zip(["1", "2"]) {
        assert_eq!(record["phone"], phone);
        assert_eq!(
            record["_id"],
            format!("user/{}", record["_ownerID"].as_str().unwrap())
        );
        assert_ne!(record["_created_by"], "mallory", "{record}");
        assert!(record.get("nickname").is_none());
    }
    // A user's record belongs to that user unless the file says otherwise.
    let path = file(
        &server,
        "users.jsonl",
        &lines.replace("user/u-2", "user/u-3"),
    );
    assert_eq!(import(&server, &path, &[]).of("user"), [2, 1, 0, 1, 0, 0]);
    let fetched = master
        .call("record:fetch", json!({"ids": ["user/u-3"]}))
        .result();
    assert_eq!(fetched[0]["_ownerID"], "u-3");
}

#[test]
fn a_report_takes_the_place_of_no_file() {
    let server = TestServer::start();
    let text = "{\"_id\": \"note/1\", \"n\": 1}\nno record\n";
    let path = file(&server, "notes.jsonl", text);
    let name = path.to_string_lossy().into_owned();
    let refused = try_import(&server, &path, &["--report", &name]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    let remedy =
        format!("{name}: the file exists and is not empty: name another one, or remove it");
    assert!(said(&refused).contains(&remedy), "{}", said(&refused));
    let head = head(&Client::master(&server));
    // It does not overwrite an earlier report either, but an empty file it does.
    let report = file(&server, "report.jsonl", "");
    let name = report.to_string_lossy().into_owned();
    let table = import(&server, &path, &["--dry-run", "--report", &name]);
    assert_eq!(table.of("total"), [2, 1, 0, 0, 0, 1], "{}", table.0);
    let told = std::fs::read_to_string(&report).unwrap();
    assert_eq!(told.lines().count(), 1, "{told}");
    let refused = try_import(&server, &path, &["--report", &name]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert_eq!(std::fs::read_to_string(&report).unwrap(), told);
    assert_eq!(
        self::head(&Client::master(&server)),
        head,
        "nothing is imported"
    );
    // A device has nothing to lose.
    let table = import(&server, &path, &["--report", "/dev/null"]);
    assert_eq!(table.of("total"), [2, 1, 0, 0, 0, 1], "{}", table.0);
}

/// Editors put it in front of a file in UTF-8.
#[test]
fn a_byte_order_mark_is_not_a_part_of_the_first_record() {
    let server = TestServer::start();
    let text = "\u{feff}{\"_id\":\"note/1\",\"n\":1}\r\n{\"_id\":\"note/2\",\"n\":2}\r\n";
    let table = import(&server, &file(&server, "a.jsonl", text), &[]);
    assert_eq!(table.of("total"), [2, 2, 0, 0, 0, 0], "{}", table.0);
    let path = file(&server, "b.jsonl", &format!("\u{feff}\n\u{feff}{text}"));
    assert_eq!(import(&server, &path, &[]).of("total")[5], 1);
}
