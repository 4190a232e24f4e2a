//! Importing records from tables (CSV), and exporting them.

use serde_json::{Value as Json, json};

use super::records::{export, file, import};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn a_table_comes_back_and_names_its_mistakes_by_line() {
    let first = TestServer::start();
    let master = Client::master(&first);
    master.save("city/a/b", json!({"name": "=1+1"}));
    master.save(
        "place/1",
        json!({"text": "a, \"b\"\nc", "empty": "", "n": -1.5, "yes": true,
            "at": {"$type": "date", "$date": "2017-01-02T03:04:05.5Z"},
            "where": {"$type": "geo", "$lng": 1.25, "$lat": -2},
            "city": {"$type": "ref", "$id": "city/a/b"}, "more": {"a": [1, null]},
            "shape": {"$type": "geojson", "$val": {"type": "Point", "coordinates": [1, 2]}},
            "guarded": "'=1", "plain": "'a", "quotes": "\"\""}),
    );
    master.save("place/2", json!({"text": null, "_access": []}));
    let cities = export(&first, &["city"]);
    let places = export(&first, &["place", "--format", "csv"]);
    let second = TestServer::start();
    import(&second, &file(&second, "city.jsonl", &cities), &[]);
    let schema = export(&first, &["place"]);
    let only_the_type = schema.lines().next().unwrap();
    import(&second, &file(&second, "type.jsonl", only_the_type), &[]);
    let path = file(&second, "place.csv", &places);
    let table = import(&second, &path, &["--type", "place"]);
    assert_eq!(table.of("place"), [2, 2, 0, 0, 0, 0], "{}", table.0);
    assert_eq!(export(&second, &["place", "--format", "csv"]), places);
    assert_eq!(export(&second, &["place"]), export(&first, &["place"]));
    let table = import(&second, &path, &["--type", "place"]);
    assert_eq!(table.of("place"), [2, 0, 0, 2, 0, 0], "{}", table.0);

    // Other columns, of other types; errors are reported by line.
    let people = "id,Full name,age,joined,note\n\
                  ada,Ada,36,2017-01-02T03:04:05Z,x\n\
                  bob,\"Bob,\nthe second\",old,,x\n\
                  eve,Eve,40,yesterday,x\n\
                  short,row\n\
                  dan,,7,,x\n";
    let path = file(&second, "people.csv", people);
    let report = second.folder().join("report.jsonl");
    let report_to = report.to_string_lossy().into_owned();
    let maps = [
        "id=_id",
        "Full name=name",
        "age=age:integer",
        "joined=joined:datetime",
        "note=",
    ];
    let maps: Vec<&str> = maps.iter().flat_map(|map| ["--map", map]).collect();
    let how = [
        &["--type", "person", "--report", &report_to],
        maps.as_slice(),
    ]
    .concat();
    let table = import(&second, &path, &how);
    assert_eq!(table.of("total"), [5, 2, 0, 0, 0, 3], "{}", table.0);
    let told = std::fs::read_to_string(report).unwrap();
    let mut told: Vec<(String, String)> = told
        .lines()
        .map(|line| {
            let line: Json = serde_json::from_str(line).unwrap();
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("id"), text("reason"))
        })
        .collect();
    told.sort();
    let begins = ["line 3", "line 5", "line 6"];
    let reasons = [
        "age: \"old\" is not a number",
        "failed to parse $date",
        "2 cells for 5 columns",
    ];
    for ((told, begin), reason) in told.iter().zip(begins).zip(reasons) {
        assert!(
            told.0.starts_with(begin) && told.1.contains(reason),
            "{told:?}"
        );
    }
    let master = Client::master(&second);
    let mut found = master.query("person", json!([]));
    found.sort_by_key(|person| person["_id"].to_string());
    let names: Vec<(&Json, &Json, &Json)> = found
        .iter()
        .map(|person| (&person["_id"], &person["name"], &person["age"]))
        .collect();
    let expected = [
        (&json!("person/ada"), &json!("Ada"), &json!(36)),
        (&json!("person/dan"), &json!(null), &json!(7)),
    ];
    assert_eq!(names, expected);
    // A changed cell counts with --update only.
    let path = file(&second, "people.csv", &people.replace("Ada,36", "Ada,37"));
    let how: Vec<&str> = [&["--type", "person"], maps.as_slice()].concat();
    assert_eq!(
        import(&second, &path, &how).of("person")[..5],
        [3, 0, 0, 1, 1]
    );
    let how = [how.as_slice(), &["--update"]].concat();
    assert_eq!(
        import(&second, &path, &how).of("person")[..5],
        [3, 0, 1, 1, 0]
    );
    let ada = master.call("record:fetch", json!({"ids": ["person/ada"]}));
    assert_eq!(ada.result()[0]["age"], 37);
}

/// The ids in a table name the type of its records.
#[test]
fn a_table_comes_back_without_a_word_on_its_type() {
    let first = TestServer::start();
    let master = Client::master(&first);
    let fields = json!([{"name": "number", "type": "sequence"}, {"name": "n", "type": "integer"},
        {"name": "due", "type": "datetime"}]);
    let types = json!({"record_types": {"ticket": {"fields": fields}}});
    master.call("schema:create", types).result();
    let due = json!({"$type": "date", "$date": "2017-01-02T03:04:05Z"});
    master.save("ticket/1", json!({"n": 1, "due": due, "text": "1"}));
    master.save("ticket/2", json!({"n": 2, "done": true}));
    let table = export(&first, &["ticket", "--format", "csv"]);
    let path = file(&first, "ticket.csv", &table);
    let again = import(&first, &path, &[]);
    assert_eq!(again.of("ticket"), [2, 0, 0, 2, 0, 0], "{}", again.0);

    let second = TestServer::start();
    let exported = export(&first, &["ticket"]);
    let types = file(&second, "types.jsonl", exported.lines().next().unwrap());
    import(&second, &types, &[]);
    let path = file(&second, "ticket.csv", &table);
    let done = import(&second, &path, &[]);
    assert_eq!(done.of("ticket"), [2, 2, 0, 0, 0, 0], "{}", done.0);
    assert_eq!(export(&second, &["ticket"]), exported);
}

#[test]
fn lines_of_a_table_are_those_that_an_editor_shows() {
    let server = TestServer::start();
    let lines = [
        "_id,text,n",
        "1,a,1",
        "2,a,wrong",
        "",
        "3,\"several",
        "",
        "lines\",wrong",
        "4,\"a\",wrong",
        "5,a",
    ];
    for (end, begin) in [("\n", ""), ("\r\n", ""), ("\r\n", "\u{feff}")] {
        let path = file(
            &server,
            "a.csv",
            &format!("{begin}{}{end}", lines.join(end)),
        );
        let report = server.folder().join("report.jsonl");
        let _ = std::fs::remove_file(&report);
        let to = report.to_string_lossy().into_owned();
        let how = [
            "--type",
            "row",
            "--map",
            "n=n:integer",
            "--dry-run",
            "--report",
            &to,
        ];
        let table = import(&server, &path, &how);
        assert_eq!(table.of("total")[5], 4, "{}", table.0);
        let told = std::fs::read_to_string(&report).unwrap();
        let told = told.lines().map(|line| {
            let line: Json = serde_json::from_str(line).unwrap();
            line["id"].as_str().unwrap().to_owned()
        });
        let told: Vec<String> = told.collect();
        assert_eq!(
            told,
            ["line 3", "line 5", "line 8", "line 9"],
            "{end:?} {begin:?}"
        );
    }
}
