//! A database of Skygear v1.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use skytrail_actors::log::KeyringCopy;
use skytrail_actors::log::disk::{Disk, RealDisk};
use skytrail_actors::log::journal::Segments;
use skytrail_schema::event::{Event, EventBody, Stream};

use super::{Move, compare, journal, said};
use crate::support::client::{Client, send};
use crate::support::program::repository;
use crate::support::server::TestServer;

/// Users that signed up in the recorded scenarios, with their passwords; scenarios that change
/// passwords are left out.
fn passwords() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(repository("tests/golden")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "json") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        let scenarios: Json = serde_json::from_str(&text).unwrap();
        for scenario in scenarios.as_array().into_iter().flatten() {
            let steps = scenario["steps"].as_array().into_iter().flatten();
            let bodies: Vec<&Json> = steps.map(|step| &step["request"]["body"]).collect();
            let is_of = |body: &Json, word: &str| {
                body["action"].as_str().is_some_and(|it| it.contains(word))
            };
            let changes = ["password", "disable", "sso"];
            if bodies
                .iter()
                .any(|body| changes.iter().any(|word| is_of(body, word)))
            {
                continue;
            }
            for body in bodies.iter().filter(|body| is_of(body, "auth:signup")) {
                if let (Some(name), Some(password)) = (
                    body["auth_data"]["username"].as_str(),
                    body["password"].as_str(),
                ) {
                    all.insert(name.to_owned(), password.to_owned());
                }
            }
        }
    }
    all
}

#[test]
fn everything_of_a_real_database_is_there() {
    let moved = Move::with(
        "INSERT INTO _password_history SELECT id || n, id, password, now() - n * interval '1 day' \
           FROM _auth, generate_series(1, 2) n WHERE id IN (SELECT id FROM _auth \
             WHERE password <> '' ORDER BY id LIMIT 3); \
         UPDATE _role SET by_default = true WHERE id = 'r1'; \
         UPDATE asset_in_record_t SET pic = (SELECT id FROM _asset WHERE id LIKE '%-pic.png'); \
         SELECT setval('save_type_sequence_t_n_seq', 40); \
         UPDATE _auth SET disabled_message = 'later', disabled_expiry = '2099-01-02' \
           WHERE disabled;",
    );
    let (table, left_out) = moved.import_and_report(&[]);
    assert_eq!(table.of("_auth"), [218, 218, 0, 0, 0, 0]);
    assert_eq!(table.of("_device"), [10, 10, 0, 0, 0, 0]);
    assert_eq!(table.of("_subscription"), [4, 4, 0, 0, 0, 0]);
    assert_eq!(table.of("_role"), [25, 25, 0, 0, 0, 0]);
    assert_eq!(table.of("_asset"), [4, 4, 0, 0, 0, 0]);
    let refused: Vec<(&str, &str)> = left_out
        .iter()
        .map(|line| {
            (
                line["table"].as_str().unwrap(),
                line["outcome"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = ["record types", "_anything_srrt", "_follow"].map(|table| (table, "refused"));
    assert_eq!(refused, expected, "{left_out:?}");

    let mut server = moved.serve(&[]);
    let master = Client::master(&server);
    let num_records = compare::records(&moved.database, &master);
    assert_eq!(num_records, 592);
    users(&moved, &server);
    settings(&moved, &server);
    people(&moved, &master);

    // The sequence continues where v1 stopped.
    let saved = master.save("save_type_sequence_t/new", json!({"x": "next"}));
    assert_eq!(saved["n"], 41);
    let saved = master.save("schema_create_t/new", json!({"title": "first"}));
    assert_eq!(saved["s"], 1);
    assert!(server.terminate().success());

    // A store rebuilt from the log is the same.
    let checked = server.skytrail(&["rebuild", "--verify"]);
    assert!(checked.status.success(), "{}", said(&checked));
}

fn users(moved: &Move, server: &TestServer) {
    let passwords = passwords();
    assert!(passwords.len() > 100);
    let anyone = Client::anonymous(server);
    for (name, password) in passwords.iter().step_by(passwords.len() / 4) {
        let sql = format!("SELECT _id FROM app_myapp.\"user\" WHERE username = '{name}'");
        let id = moved.database.sql(&sql);
        let body = json!({"auth_data": {"username": name}, "password": password});
        let session = anyone.call("auth:login", body).result();
        assert_eq!(session["user_id"], id.trim(), "{name}");
        let wrong = json!({"auth_data": {"username": name}, "password": "another"});
        assert_eq!(anyone.call("auth:login", wrong).code(), 105);
    }
    let sql = "SELECT username FROM app_myapp._user u JOIN app_myapp._auth a ON a.id = u.id \
               WHERE disabled";
    let name = moved.database.sql(sql);
    let body = json!({"auth_data": {"username": name.trim()}, "password": "secret-a"});
    let refused = anyone.call("auth:login", body).json();
    assert_eq!(refused["error"]["name"], "UserDisabled", "{refused}");
    assert_eq!(refused["error"]["info"]["message"], "later");
    assert_eq!(refused["error"]["info"]["expiry"], "2099-01-02T00:00:00Z");
    auth_rows(moved);
}

/// Compares all auth rows with those of the record store.
fn auth_rows(moved: &Move) {
    let there = compare::rows(
        &moved.database,
        "SELECT json_object_agg(a.id, json_build_object( \
           'hash', nullif(password, ''), \
           'seen', (extract(epoch FROM last_seen_at) * 1000000)::bigint, \
           'since', (extract(epoch FROM token_valid_since) * 1000000)::bigint, \
           'roles', (SELECT json_agg(role_id ORDER BY role_id) FROM app_myapp._auth_role \
              WHERE auth_id = a.id), \
           'history', (SELECT json_agg(password ORDER BY logged_at DESC) \
              FROM app_myapp._password_history WHERE auth_id = a.id), \
           'oauth', (SELECT json_object_agg(provider, json_build_array(principal_id, profile)) \
              FROM app_myapp._sso_oauth WHERE user_id = a.id), \
           'custom', (SELECT principal_id FROM app_myapp._sso_custom_token WHERE user_id = a.id) \
         )) FROM app_myapp._auth a",
    );
    let created = created(&moved.data());
    let there = there.as_object().unwrap();
    assert_eq!(there.len(), 218);
    for (id, row) in there {
        let state = &created[id];
        let micros = |name: &str| {
            let text = state[name].as_str()?;
            let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
            Some(time.timestamp_micros())
        };
        assert_eq!(state["password_hash"], row["hash"], "{id}");
        assert_eq!(json!(micros("last_seen_at")), row["seen"], "{id}");
        assert_eq!(json!(micros("token_valid_since")), row["since"], "{id}");
        assert_eq!(state["roles"], row["roles"], "{id}");
        let history = state["password_history"].as_array();
        let history = history.map(|all| all.iter().map(|it| it["hash"].clone()).collect::<Json>());
        assert_eq!(json!(history), row["history"], "{id}");
        let links = state["links"].as_object();
        for (service, link) in links.into_iter().flatten() {
            match service.strip_prefix("oauth/") {
                Some(provider) => {
                    let expected = &row["oauth"][provider];
                    assert_eq!(json!([link["principal"], link["profile"]]), *expected);
                }
                None => assert_eq!(link["principal"], row["custom"]),
            }
        }
        let num_links = links.map_or(0, serde_json::Map::len);
        let num_oauth = row["oauth"].as_object().map_or(0, serde_json::Map::len);
        assert_eq!(
            num_links,
            num_oauth + usize::from(!row["custom"].is_null()),
            "{id}"
        );
    }
}

/// Reads users' first auth rows from the journal, because no API shows hashes.
fn created(data: &Path) -> BTreeMap<String, Json> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&data.join("journal")).unwrap());
    let keys = Arc::new(KeyringCopy::read(data).unwrap());
    let segments = Segments::open(&disk).unwrap().with_keys(keys);
    let commits = segments.read(1, usize::MAX).unwrap();
    let events = commits.iter().flat_map(|commit| &commit.events);
    let row = |event: &Event| match (&event.stream, &event.body) {
        (Stream::User(user), EventBody::UserCreated(state)) => {
            Some((user.to_string(), serde_json::to_value(state).unwrap()))
        }
        _ => None,
    };
    events.filter_map(row).collect()
}

fn settings(moved: &Move, server: &TestServer) {
    let master = Client::master(server);
    let schema = master.call("schema:fetch", json!({})).result();
    let fields = &schema["record_types"]["schema_create_t"]["fields"];
    let fields: BTreeMap<&str, &str> = fields
        .as_array()
        .unwrap()
        .iter()
        .map(|field| {
            (
                field["name"].as_str().unwrap(),
                field["type"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("a", "asset"),
        ("b", "boolean"),
        ("d", "datetime"),
        ("i", "integer"),
        ("j", "json"),
        ("l", "location"),
        ("n", "number"),
        ("s", "sequence"),
        ("title", "string"),
    ];
    assert_eq!(fields, expected.into());
    let geometry = &schema["record_types"]["save_type_geojson_t"]["fields"][0];
    assert_eq!(*geometry, json!({"name": "g", "type": "geometry"}));
    let target = &schema["record_types"]["schema_create_reference_t"]["fields"];
    let target = target
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "w");
    assert_eq!(target.unwrap()["type"], "ref(user)");

    let rules = master.call("schema:field_access:get", json!({})).result();
    let there = compare::rows(
        &moved.database,
        "SELECT json_agg(t) FROM app_myapp._record_field_access t",
    );
    assert_eq!(
        rules["access"].as_array().unwrap().len(),
        there.as_array().unwrap().len()
    );
    for rule in there.as_array().unwrap() {
        assert!(rules["access"].as_array().unwrap().contains(rule), "{rule}");
    }
    // Only users with the role may create records, and a record created without an access list gets
    // the default one.
    let writer = json!({"records": [{"_id": "acl_creation_access_t/new", "n": 1}]});
    let user = moved
        .database
        .sql("SELECT auth_id FROM app_myapp._auth_role WHERE role_id = 'aca_writer'");
    let mut as_writer = writer.clone();
    as_writer["_user_id"] = user.trim().into();
    assert_eq!(master.call("record:save", as_writer).status, 200);
    let saved = master.save("acl_default_access_t/new", json!({"n": 1}));
    assert_eq!(saved["_access"], json!([{"level": "read", "public": true}]));
    // New users get the default role, and may not create what others may.
    let new_user = Client::signed_up(server, "newcomer");
    let me = new_user.call("me", json!({})).result();
    assert_eq!(me["roles"], json!(["r1"]));
    let other = json!({"records": [{"_id": "acl_creation_access_t/other", "n": 1}]});
    let refused = new_user.call("record:save", other).result();
    assert_eq!(refused[0]["code"], 102, "{refused}");
}

fn people(moved: &Move, master: &Client) {
    let expected = compare::rows(
        &moved.database,
        "SELECT json_object_agg(left_id, others) FROM (SELECT left_id, \
           array_agg(right_id ORDER BY right_id) AS others FROM app_myapp._follow \
           WHERE left_id <> '' GROUP BY left_id) t",
    );
    for (user, others) in expected.as_object().unwrap() {
        let body = json!({"name": "follow", "direction": "outward", "_user_id": user});
        let found = master.call("relation:query", body).result();
        let mut found: Vec<&str> = found
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["id"].as_str().unwrap())
            .collect();
        found.sort_unstable();
        assert_eq!(json!(found), *others, "{user}");
    }
    // A server forgets devices without an address when it starts.
    let devices = compare::rows(
        &moved.database,
        "SELECT json_agg(json_build_object('device', d.id, 'user', d.auth_id, \
           'names', (SELECT json_agg(s.id ORDER BY s.id) FROM app_myapp._subscription s \
             WHERE s.device_id = d.id))) FROM app_myapp._device d WHERE d.token <> ''",
    );
    let mut num_subscriptions = 0;
    for device in devices.as_array().unwrap() {
        let body = json!({"device_id": device["device"], "_user_id": device["user"]});
        let found = master.call("subscription:fetch_all", body).result();
        let mut found: Vec<Json> = found.as_array().unwrap().clone();
        found.sort_by_key(|it| it["id"].to_string());
        let names: Vec<&Json> = found.iter().map(|it| &it["id"]).collect();
        num_subscriptions += names.len();
        let expected = device["names"].as_array().cloned().unwrap_or_default();
        assert_eq!(json!(names), json!(expected), "{device}");
        for subscription in &found {
            if subscription["id"] == "q1" {
                let path = |name: &str| json!({"$type": "keypath", "$val": name});
                let reference = json!({"$type": "ref", "$id": "x/1"});
                let expected = json!([
                    "and",
                    ["in", path("n"), [1, 2]],
                    ["not", ["eq", path("ref"), reference]]
                ]);
                assert_eq!(subscription["query"]["predicate"], expected);
            }
            if subscription["id"] == "x2" {
                assert_eq!(subscription["notification_info"]["aps"]["sound"], "s");
            }
        }
    }
    assert_eq!(num_subscriptions, 3);
}

#[test]
fn an_import_that_is_repeated_or_dry_adds_nothing() {
    let moved = Move::with("");
    let dry = moved.import(&["--dry-run"]);
    assert_eq!(dry.of("_auth"), [218, 218, 0, 0, 0, 0]);
    assert_eq!(dry.of("total")[5], 3);
    let empty = journal(&moved.data());
    let first = moved.import(&[]);
    assert_eq!(first.of("total"), dry.of("total"));
    let before = journal(&moved.data());
    assert_ne!(before, empty);
    let again = moved.import(&[]);
    assert_eq!(again.of("total")[1..], [0, 0, 990, 0, 3]);
    assert!(journal(&moved.data()) == before, "the journal has grown");
    let dry = moved.import(&["--dry-run", "--update"]);
    assert_eq!(dry.of("total")[1..], [0, 0, 990, 0, 3]);
    assert!(journal(&moved.data()) == before, "the journal has grown");
}

#[test]
fn an_import_that_is_killed_goes_on() {
    let moved = Move::with(
        "CREATE TABLE big (_id text PRIMARY KEY, _database_id text NOT NULL, \
           _owner_id text NOT NULL, _access jsonb, _created_at timestamp NOT NULL, \
           _created_by text, _updated_at timestamp NOT NULL, _updated_by text, n float8, \
           prev text REFERENCES big (_id)); \
         INSERT INTO big SELECT n::text, '', 'ada', NULL, now(), 'ada', now(), 'ada', n, \
           CASE WHEN n % 10 = 0 THEN (n % 9000 + 1)::text END FROM generate_series(1, 9000) n;",
    );
    let mut num_killed = 0;
    for time in [300, 500, 700] {
        let mut child = moved
            .command(&[])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        num_killed += u32::from(child.try_wait().unwrap().is_none());
        let _ = child.kill();
        child.wait().unwrap();
    }
    assert!(num_killed > 0, "it was done before it was killed");
    let table = moved.import(&[]);
    let [there, added, _, present, ..] = table.of("big");
    assert_eq!((there, added + present), (9_000, 9_000));
    let before = journal(&moved.data());
    assert_eq!(moved.import(&[]).of("big"), [9_000, 0, 0, 9_000, 0, 0]);
    assert!(journal(&moved.data()) == before, "the journal has grown");
    let server = moved.serve(&[]);
    let master = Client::master(&server);
    assert_eq!(compare::records(&moved.database, &master) - 9_000, 592);
}

#[test]
fn records_that_refer_to_each_other_and_odd_columns() {
    let system = "_id text PRIMARY KEY, _database_id text NOT NULL, _owner_id text NOT NULL, \
         _access jsonb, _created_at timestamp NOT NULL, _created_by text, \
         _updated_at timestamp NOT NULL, _updated_by text";
    let moved = Move::with(&format!(
        "CREATE TABLE room ({system}, title text, UNIQUE (title)); \
         CREATE TABLE line ({system}, room text REFERENCES room (_id), \
           answers text REFERENCES line (_id)); \
         ALTER TABLE room ADD last text REFERENCES line (_id); \
         CREATE TABLE odd ({system}, big bigint, money numeric, short varchar(10), raw bytea, \
           at timestamptz, float real, _hidden text, many text[], j jsonb, t text, \
           UNIQUE (_database_id)); \
         INSERT INTO room VALUES ('r', '', '', '[]', now(), NULL, now(), NULL, 'a'); \
         INSERT INTO line VALUES ('2', '', '', NULL, now(), NULL, now(), NULL, 'r', NULL), \
           ('1', '', '', NULL, now() - interval '1 s', NULL, now(), NULL, 'r', '2'), \
           ('3', '', '', NULL, now(), NULL, now(), NULL, 'r', '3'); \
         UPDATE room SET last = '2'; \
         INSERT INTO odd (_id, _database_id, _owner_id, _created_at, _updated_at, big, money, \
             short, at, float, j, t) VALUES \
           ('good', '', '', now(), now(), 5000000000, 1.25, 'x', '2020-01-02T03:04:05+01', 0.5, \
             'null', 'a column of this name'), \
           ('bad', 'u', '', now(), now(), 1, 'NaN', '', NULL, NULL, NULL, NULL), \
           ('end', 'v', '', now(), now(), 1, 1, '', 'infinity', NULL, '{{}}', NULL); \
         CREATE TABLE lost ({system}, at timestamptz, j jsonb); \
         INSERT INTO lost (_id, _database_id, _owner_id, _created_at, _updated_at, at, j) VALUES \
           ('date', '', '', now(), now(), NULL, \
             '{{\"t\": {{\"$type\": \"date\", \"$date\": \"2020-01-01T00:00:00Z\"}}}}'), \
           ('late', '', '', now(), now(), '12000-01-01', NULL), \
           ('early', '', '', now(), now(), '0044-03-15 BC', NULL), \
           ('born', '', '', '0044-03-15 BC', now(), NULL, NULL), \
           ('part', '', '', now(), now(), NULL, '{{\"t\": {{\"$type\": \"paragraph\"}}}}'), \
           ('list', '', '', now(), now(), NULL, '[{{\"$type\": \"ref\"}}]');"
    ));
    let (table, left_out) = moved.import_and_report(&[]);
    assert_eq!(table.of("line"), [3, 3, 0, 0, 0, 0]);
    assert_eq!(table.of("room"), [1, 1, 0, 0, 0, 0]);
    assert_eq!(table.of("odd"), [3, 1, 0, 0, 0, 2]);
    let told: BTreeMap<&str, &str> = left_out
        .iter()
        .filter(|line| line["table"] == "odd")
        .map(|line| {
            (
                line["id"].as_str().unwrap(),
                line["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("column _hidden", "fields that start with _ are reserved"),
        ("column many", "text[] has no counterpart"),
        ("column raw", "bytea has no counterpart"),
        (
            "constraint odd__database_id_key",
            "only fields can form a unique constraint",
        ),
        ("bad", "money: \"NaN\" is not of type number"),
        ("end", "at: \"infinity\" is not a time"),
    ];
    assert_eq!(told, expected.into());
    // Values that the store could not read back are not imported silently.
    assert_eq!(table.of("lost"), [6, 1, 0, 0, 0, 5]);
    let mut server = moved.serve(&[]);
    let master = Client::master(&server);
    let line = |id: &str| json!({"$type": "ref", "$id": format!("line/{id}")});
    let found = |id: &str| {
        let body = json!({"ids": [id]});
        master.call("record:fetch", body).result()[0].clone()
    };
    assert_eq!(found("line/1")["answers"], line("2"));
    assert_eq!(found("line/3")["answers"], line("3"));
    assert_eq!(found("room/r")["last"], line("2"));
    assert_eq!(found("odd/good")["big"], 5_000_000_000_u64);
    assert_eq!(found("odd/good")["money"], 1.25);
    assert_eq!(found("odd/good")["at"]["$date"], "2020-01-02T02:04:05Z");
    assert_eq!(found("odd/good")["t"], "a column of this name");
    let date = json!({"$type": "date", "$date": "2020-01-01T00:00:00Z"});
    assert_eq!(found("lost/date")["j"]["t"], date);
    // What was unique there is unique here.
    let second = json!({"records": [{"_id": "room/s", "title": "a"}]});
    let refused = master.call("record:save", second).result();
    assert_eq!(refused[0]["code"], 109, "{refused}");
    server.terminate();
    assert_eq!(moved.import(&[]).of("line"), [3, 0, 0, 3, 0, 0]);
}

#[test]
fn what_changes_on_both_sides_is_told_apart() {
    let moved = Move::with("");
    moved.import(&[]);
    let mut server = moved.serve(&[]);
    let master = Client::master(&server);
    master.save("query_all_t/1", json!({"s": "changed here"}));
    let gone = json!({"ids": ["query_all_t/2"]});
    master.call("record:delete", gone).result();
    server.terminate();
    moved.database.sql(
        "UPDATE app_myapp.query_all_t SET s = 'changed there', \
           _updated_at = '2030-01-01', _updated_by = 'bob' WHERE _id = '3'; \
         UPDATE app_myapp.query_all_t SET s = 'changed there, too' WHERE _id = '1'; \
         INSERT INTO app_myapp.query_all_t (_id, _database_id, _owner_id, _created_at, _updated_at) \
           VALUES ('new', '', 'bob', now(), now())",
    );
    let (table, told) = moved.import_and_report(&[]);
    assert_eq!(table.of("query_all_t"), [6, 1, 0, 2, 3, 0]);
    let reasons: BTreeMap<&str, &str> = told
        .iter()
        .filter(|line| line["table"] == "query_all_t")
        .map(|line| {
            (
                line["id"].as_str().unwrap(),
                line["reason"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("1", "it was changed here"),
        ("2", "it existed here and was deleted"),
        ("3", "it was changed later in the source"),
    ];
    assert_eq!(reasons, expected.into());
    let table = moved.import(&["--update"]);
    assert_eq!(table.of("query_all_t"), [6, 0, 1, 3, 2, 0]);
    let server = moved.serve(&[]);
    let master = Client::master(&server);
    let found = master.query(
        "query_all_t",
        json!(["like", {"$type": "keypath", "$val": "s"}, "changed%"]),
    );
    let mut found: Vec<(&str, &str, &str)> = found
        .iter()
        .map(|record| {
            let text = |name: &str| record[name].as_str().unwrap();
            (text("_id"), text("s"), text("_updated_by"))
        })
        .collect();
    found.sort_unstable();
    let expected = [
        ("query_all_t/1", "changed here", "_god"),
        ("query_all_t/3", "changed there", "bob"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn files_are_copied_and_those_that_are_missing_are_named() {
    let moved = Move::with(
        "UPDATE asset_in_record_t SET pic = (SELECT id FROM _asset WHERE id LIKE '%-pic.png')",
    );
    let files = moved.folder.path().join("files of v1");
    std::fs::create_dir(&files).unwrap();
    let names = compare::rows(
        &moved.database,
        "SELECT json_object_agg(id, size) FROM app_myapp._asset",
    );
    let names = names.as_object().unwrap();
    let missing = names
        .keys()
        .find(|name| name.ends_with("direct.txt"))
        .unwrap();
    for (name, size) in names.iter().filter(|(name, _)| *name != missing) {
        let bytes = vec![b'x'; usize::try_from(size.as_u64().unwrap()).unwrap()];
        std::fs::write(files.join(name), bytes).unwrap();
    }
    let folder = files.to_string_lossy().into_owned();
    let (table, told) = moved.import_and_report(&["--assets-from", &folder]);
    assert_eq!(table.of("files"), [4, 3, 0, 0, 0, 1]);
    let told: Vec<&Json> = told
        .iter()
        .filter(|line| line["table"] == "files")
        .collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["id"], missing.as_str());
    assert_eq!(told[0]["reason"], "no such file");
    let server = moved.serve(&[]);
    let master = Client::master(&server);
    let pictures = master.query("asset_in_record_t", json!([]));
    let picture = pictures.iter().find(|it| !it["pic"].is_null()).unwrap()["pic"].clone();
    let fetched = send("GET", picture["$url"].as_str().unwrap(), &[], None).unwrap();
    assert_eq!(fetched.status, 200);
    assert_eq!(
        fetched.header("Content-Type"),
        picture["$content_type"].as_str()
    );
    drop(server);
    std::fs::write(files.join(missing), "now it is there").unwrap();
    let (table, _) = moved.import_and_report(&["--assets-from", &folder]);
    assert_eq!(table.of("files"), [4, 1, 0, 3, 0, 0]);
}
