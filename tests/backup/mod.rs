//! Backups: made while the server runs and takes writes, restored into an empty folder, and
//! compared with the original server.

mod bucket;
mod checkpoints;
mod clock;
mod copies;
mod damage;
mod erased;
mod files;
mod hidden;
mod histories;
mod keys;
mod killed;
mod meanwhile;
mod ops_store;
mod overlap;
mod place;
mod postgres;
mod retention;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::load::Load;
use crate::support::server::TestServer;

/// The flags that tell a command that the server's files are in a bucket.
const BUCKET_FLAGS: [&str; 8] = [
    "--set",
    "ASSET_STORE=s3",
    "--set",
    "ASSET_STORE_BUCKET=pictures",
    "--set",
    "ASSET_STORE_ACCESS_KEY=a",
    "--set",
    "ASSET_STORE_SECRET_KEY=b",
];

/// A server with small segments, and the folder for its backups.
struct World {
    server: TestServer,
    repository: PathBuf,
}

impl World {
    fn start() -> Self {
        Self::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Self {
        let small = ("JOURNAL_SEGMENT_BYTES", "1048576");
        let server = TestServer::with(&[&[small], settings].concat());
        let repository = server.folder().join("backups");
        Self { server, repository }
    }

    fn master(&self) -> Client {
        Client::master(&self.server)
    }

    fn head(&self) -> u64 {
        head(&self.server)
    }

    /// Fills more than one segment.
    fn fill(&self, client: &Client, name: &str) {
        for number in 0..30 {
            let text = format!("{name} {number} ").repeat(6000);
            client.save(&format!("page/{name}-{number}"), json!({"text": text}));
        }
    }

    /// Makes a backup and returns what the command printed.
    fn back_up(&self, more: &[&str]) -> String {
        said(&self.try_back_up(more))
    }

    fn try_back_up(&self, more: &[&str]) -> Output {
        let mut arguments = vec!["backup", text(&self.repository)];
        arguments.extend(more);
        self.server.skytrail(&arguments)
    }

    fn try_restore(&self, to: &str, more: &[&str]) -> Output {
        let to = self.server.folder().join(to);
        let mut arguments = vec!["restore", text(&self.repository), "--to", text(&to)];
        arguments.extend(more);
        self.server.skytrail(&arguments)
    }

    /// Restores into a folder and starts a server on it.
    fn restore(&self, to: &str, more: &[&str]) -> TestServer {
        said(&self.try_restore(to, more));
        let to = self.server.folder().join(to);
        TestServer::with(&[
            ("DATA_DIR", text(&to)),
            ("JOURNAL_SEGMENT_BYTES", "1048576"),
        ])
    }

    /// Lists the files below a folder of the repository.
    fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.repository.join(folder));
        let entries = entries.into_iter().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        found.sort();
        found
    }

    fn names(&self) -> Vec<String> {
        let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
        // A partly written manifest that a kill leaves does not count.
        let is_manifest = |path: &PathBuf| path.extension().is_some_and(|it| it == "json");
        let objects = self.objects("backups").into_iter();
        objects.filter(is_manifest).map(stem).collect()
    }
}

fn head(server: &TestServer) -> u64 {
    let health = Client::master(server).health();
    health["log"]["head"].as_u64().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns the output of a command, which must have succeeded.
fn said(output: &Output) -> String {
    let said = format!("{}{}", lossy(&output.stdout), lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

/// Returns the output of a command, which must have failed.
fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "{}", lossy(&output.stdout));
    lossy(&output.stderr)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns all records of the tests' types as of a moment.
fn records(server: &TestServer, as_of: &Json) -> Vec<Json> {
    let client = Client::master(server);
    let by_id = json!([[{"$type": "keypath", "$val": "_id"}, "asc"]]);
    let ask = |record_type: &str| {
        let mut body = json!({"record_type": record_type, "sort": by_id, "limit": 1000});
        if !as_of.is_null() {
            body["as_of"] = as_of.clone();
        }
        client.call("record:query", body).result()
    };
    ["single", "left", "right", "page", "user"]
        .into_iter()
        .map(ask)
        .collect()
}

/// Fails unless a restored log has everything up to `until`, and then the event of the restore.
fn is_restored_until(restored: &TestServer, until: u64) {
    assert_eq!(head(restored), until + 1);
    let told = restores(restored).pop().unwrap();
    assert_eq!(told["position"], until + 1);
    assert_eq!(told["payload"]["until"], until);
}

/// Returns a log's events of restores.
fn restores(server: &TestServer) -> Vec<Json> {
    let body = json!({"kinds": ["log.restored"]});
    let found = Client::master(server).call("log:read", body).result();
    found.as_array().unwrap().clone()
}

/// Compares a restored server with the original.
fn compare(restored: &TestServer, original: &TestServer, until: u64) {
    is_restored_until(restored, until);
    let now = records(restored, &Json::Null);
    assert!(now.iter().any(|records| records != &json!([])));
    assert_eq!(now, records(original, &json!(until)));
    said(&restored.skytrail(&["rebuild", "--verify"]));
    said(&restored.skytrail(&["log", "verify"]));
}

#[test]
fn a_backup_under_load_is_a_state_that_the_server_had() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    let (load, master) = (Load::default(), world.master());
    Load::prepare(&client);
    world.fill(&client, "before");
    load.run(&client, 100, || {
        let said = world.back_up(&[]);
        assert!(!said.contains("damage"), "{said}");
    });
    let manifest = world.back_up(&["--list"]);
    let until = manifest.split("up to ").nth(1).unwrap();
    let until: u64 = until.split(' ').next().unwrap().parse().unwrap();
    assert!(until < world.head(), "writers went on");
    said(&world.try_back_up(&["--verify"]));

    let mut restored = world.restore("restored", &[]);
    compare(&restored, &world.server, until);
    // Existing users can sign in, and the log continues.
    let login = json!({"auth_data": {"username": "writer"}, "password": "secret-of-the-test"});
    let session = Client::anonymous(&restored).call("auth:login", login);
    assert_eq!(session.status, 200);
    master
        .at(&restored)
        .save("single/new", json!({"number": 1}));
    assert!(restored.terminate().success());
    restored.restart();
    said(&restored.skytrail(&["log", "verify"]));
    let found = master.at(&restored).query("single", json!(null));
    assert!(found.iter().any(|record| record["_id"] == "single/new"));
}

#[test]
fn a_second_backup_copies_what_is_new() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "first");
    world.back_up(&[]);
    let sealed = world.objects("segments");
    assert!(sealed.len() > 1, "{sealed:?}");
    client.save("single/1", json!({"number": 1}));
    let said = world.back_up(&[]);
    assert!(said.contains("copied 1 segments and 0 files"), "{said}");
    // The open segment grew: the longer one has replaced the shorter one.
    assert_eq!(world.objects("segments").len(), sealed.len());
    let said = world.back_up(&[]);
    assert!(said.contains("copied 0 segments and 0 files"), "{said}");

    let names = world.names();
    assert_eq!(names.len(), 3);
    for name in &names {
        said_whole(&world, name);
    }
    let first = world.restore("first", &["--backup", &names[0]]);
    assert_eq!(records(&first, &Json::Null)[0], json!([]));
    let second = world.restore("second", &["--backup", &names[1]]);
    assert_eq!(records(&second, &Json::Null)[0][0]["number"], 1);

    world.fill(&client, "second");
    let said = world.back_up(&["--keep", "2"]);
    assert!(
        said.contains(&format!("removed {}, {}", names[0], names[1])),
        "{said}"
    );
    assert_eq!(world.names().len(), 2);
    world
        .names()
        .iter()
        .for_each(|name| said_whole(&world, name));
}

fn said_whole(world: &World, name: &str) {
    let said = world.back_up(&["--verify", "--backup", name]);
    assert!(said.contains("is whole"), "{said}");
}

#[test]
fn a_position_and_a_time_are_what_a_query_as_of_them_says() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    let mut moments = Vec::new();
    for round in 0..3 {
        world.fill(&client, &format!("round-{round}"));
        client.save("single/1", json!({"number": round}));
        moments.push(world.head());
    }
    let delete = json!({"ids": ["single/1", "page/round-0-1"]});
    assert_eq!(client.call("record:delete", delete).status, 200);
    world.back_up(&[]);
    for until in &moments {
        let folder = format!("until-{until}");
        let restored = world.restore(&folder, &["--until", &until.to_string()]);
        compare(&restored, &world.server, *until);
    }
    let shown = said(
        &world
            .server
            .skytrail(&["log", "show", &moments[1].to_string()]),
    );
    let shown: Json = serde_json::from_str(&shown).unwrap();
    let time = shown["time"].as_str().unwrap();
    let restored = world.restore("time", &["--until", time]);
    compare(&restored, &world.server, moments[1]);
    // The same as a separate file, for looking at it with SQL.
    for (until, number) in [(moments[0].to_string(), 0), (time.to_owned(), 1)] {
        let file = world.server.folder().join(format!("past-{number}.sqlite"));
        let rebuild = ["rebuild", "--until", &until, "--to", text(&file)];
        let made = said(&world.server.skytrail(&rebuild));
        assert!(
            made.contains(&format!("as of position {}", moments[number])),
            "{made}"
        );
        let script = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(\
                      'SELECT number, (SELECT count(*) FROM page) FROM single').fetchall())";
        let mut python = Command::new("python3");
        let shown = said(&python.args(["-c", script, text(&file)]).output().unwrap());
        assert_eq!(shown.trim(), format!("({number}.0, {})", 30 * (number + 1)));
        let again = refusal(&world.server.skytrail(&rebuild));
        assert!(again.contains("already exists"), "{again}");
    }
    let beyond = world.try_restore("beyond", &["--until", "1000000"]);
    assert!(refusal(&beyond).contains("ends at position"), "{beyond:?}");
    let before = world.try_restore("before", &["--until", "2001-01-01T00:00:00Z"]);
    assert!(
        refusal(&before).contains("nothing before that"),
        "{before:?}"
    );
    let nonsense = world.try_restore("nonsense", &["--until", "yesterday"]);
    assert!(refusal(&nonsense).contains("neither a position nor a time"));
}

#[test]
fn keys_files_and_cursors_come_back_too() {
    let world = World::start();
    // It has generated keys, which it keeps in its folder.
    let mut own = TestServer::with(&[("API_KEY", ""), ("MASTER_KEY", "")]);
    let keys = std::fs::read(own.data_dir().join("keys.json")).unwrap();
    let master = world.master();
    let made = master.call(
        "log:consumer:create",
        json!({"consumer": "index", "from": 1}),
    );
    assert_eq!(made.status, 200, "{made:?}");
    let client = Client::signed_up(&world.server, "writer");
    client.save("single/1", json!({"number": 1}));
    let until = world.head();
    let rewound = json!({"consumer": "log/index", "end": true});
    let file = world.server.data_dir().join("asset/some/picture.png");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"picture").unwrap();
    client.save("single/2", json!({"number": 2}));
    let told = master.call("delivery:rewind", rewound).result();
    assert!(told["position"].as_u64().unwrap() > until, "{told}");
    world.back_up(&[]);
    let restored = world.restore("restored", &["--until", &until.to_string()]);
    let picture = restored.data_dir().join("asset/some/picture.png");
    assert_eq!(std::fs::read(picture).unwrap(), b"picture");
    let found = Client::master(&restored)
        .call("delivery:list", json!({}))
        .result();
    let consumer = found
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["name"] == "log/index");
    assert_eq!(consumer.unwrap()["position"], until, "{found}");

    let target = own.folder().join("backups");
    said(&own.skytrail(&["backup", text(&target)]));
    own.kill();
    let to = own.folder().join("restored");
    said(&own.skytrail(&["restore", text(&target), "--to", text(&to)]));
    assert_eq!(std::fs::read(to.join("keys.json")).unwrap(), keys);
    for private in [to.join("keys.json"), target.join("repository.json")] {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&private).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private:?}");
    }
}

#[test]
fn a_restored_log_says_from_what_it_was_restored_and_up_to_where() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    client.save("single/1", json!({"number": 1}));
    let early = world.head();
    client.save("single/1", json!({"number": 2}));
    let late = world.head();
    world.back_up(&[]);
    let name = world.names().remove(0);
    let never = said(&world.server.skytrail(&["log", "verify"]));
    assert!(!never.contains("restored"), "{never}");
    let mut restored = world.restore("early", &["--until", &early.to_string()]);
    is_restored_until(&restored, early);
    let told = restores(&restored);
    let payload = json!({"backup": name, "head": late, "until": early});
    assert_eq!(told[0]["payload"], payload);
    assert_eq!(told[0]["actor"]["origin"], "cli");
    assert_eq!(told[0]["version"], 1);
    let verified = said(&restored.skytrail(&["log", "verify"]));
    let expected = format!("restored from a backup, as its event {} says", early + 1);
    assert!(verified.contains(&expected), "{verified}");
    let now = client.at(&restored);
    now.save("single/1", json!({"number": 3}));
    assert!(restored.terminate().success());
    said(&restored.skytrail(&["rebuild", "--verify"]));

    // Again, and whole: it still reports both.
    let again = world.server.folder().join("again");
    let target = world.server.folder().join("other");
    said(&restored.skytrail(&["backup", text(&target)]));
    said(&restored.skytrail(&["restore", text(&target), "--to", text(&again)]));
    let again = TestServer::with(&[("DATA_DIR", text(&again))]);
    let found = restores(&again);
    assert_eq!((found.len(), &found[0]), (2, &told[0]));
    let payload = &found[1]["payload"];
    assert_eq!(payload["until"], payload["head"]);
    assert_eq!(found[1]["version"], 1);
    assert_eq!(now.at(&again).query("single", json!(null))[0]["number"], 3);
}

#[test]
fn a_folder_that_is_not_empty_is_left_alone() {
    let world = World::start();
    world.back_up(&[]);
    let full = world.server.folder().join("full");
    std::fs::create_dir_all(&full).unwrap();
    std::fs::write(full.join("something"), b"mine").unwrap();
    let refused = world.try_restore("full", &[]);
    assert!(refusal(&refused).contains("is not empty"), "{refused:?}");
    assert_eq!(std::fs::read_dir(&full).unwrap().count(), 1);
    let none = world
        .server
        .skytrail(&["restore", text(&full), "--to", "x"]);
    assert!(refusal(&none).contains("there are no backups"), "{none:?}");
    let other = TestServer::start();
    let refused = other.skytrail(&["backup", text(&world.repository)]);
    assert!(
        refusal(&refused).contains("backups of another store"),
        "{refused:?}"
    );
}

#[test]
fn a_running_server_makes_them_by_itself() {
    let place = tempfile::tempdir().unwrap();
    let target = place.path().join("backups");
    let settings = [
        ("BACKUP_TARGET", text(&target)),
        ("BACKUP_PERIOD", "1"),
        ("BACKUP_KEEP", "2"),
    ];
    let mut server = TestServer::with(&settings);
    let client = Client::signed_up(&server, "writer");
    client.save("single/1", json!({"number": 1}));
    let until = head(&server);
    let master = Client::master(&server);
    eventually("three backups, and two left", || {
        let backups = &master.health()["backups"];
        let is_enough = backups["num_made"].as_u64().unwrap() >= 3 && backups["last_head"] == until;
        let names = server.skytrail(&["backup", text(&target), "--list"]);
        // One may be removed while they are listed.
        let is_listed = names.status.success();
        (is_enough && is_listed && said(&names).lines().count() == 2).then_some(())
    });
    assert_eq!(master.health()["backups"]["num_failed"], 0);
    assert!(server.terminate().success());
    let to = place.path().join("restored");
    said(&server.skytrail(&["restore", text(&target), "--to", text(&to)]));
    let restored = TestServer::with(&[("DATA_DIR", text(&to))]);
    assert_eq!(records(&restored, &Json::Null)[0][0]["number"], 1);

    server.set("BACKUP_TARGET", "/proc/nowhere");
    server.restart();
    let master = Client::master(&server);
    let failure = eventually("a failure is told", || {
        let backups = master.health()["backups"].take();
        backups["last_error"].as_str().map(str::to_owned)
    });
    assert!(failure.contains("/proc/nowhere"), "{failure}");
    let health = master.health();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health["reasons"].to_string().contains("backup"), "{health}");
}

#[test]
fn no_server_starts_on_half_a_restore() {
    let world = World::start();
    world.back_up(&[]);
    said(&world.try_restore("half", &[]));
    let half = world.server.folder().join("half");
    std::fs::write(half.join("restore.unfinished"), b"").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.arg("serve").env_clear().env("DATA_DIR", &half);
    let ended = command.env("HOST", "127.0.0.1:0").output().unwrap();
    assert!(refusal(&ended).contains("was not finished"), "{ended:?}");
}

#[test]
fn a_restore_has_no_store_before_something_makes_it() {
    let world = World::start();
    Client::signed_up(&world.server, "ada").save("single/1", json!({"number": 1}));
    world.back_up(&[]);
    said(&world.try_restore("restored", &[]));
    let data = world.server.folder().join("restored");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.args(arguments).env_clear().env("DATA_DIR", &data);
        command.output().unwrap()
    };
    said(&run(&["log", "verify"]));
    let refused = refusal(&run(&["rebuild", "--verify"]));
    assert!(
        refused.contains("there is no record store yet"),
        "{refused}"
    );
    assert!(!data.join("records.sqlite").exists());
    // There is no store, so none is kept.
    let made = said(&run(&["rebuild"]));
    assert!(made.contains("rebuilt from"), "{made}");
    assert!(!made.contains("is kept"), "{made}");
    assert!(!data.join("records.previous").exists());
    let equal = said(&run(&["rebuild", "--verify"]));
    assert!(equal.contains("equals the log"), "{equal}");
    let again = said(&run(&["rebuild"]));
    assert!(again.contains("is kept in"), "{again}");
    assert!(data.join("records.previous").exists());
}
