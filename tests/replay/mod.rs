//! Tries a new version of a plugin on what an old version did.

mod sandbox;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python_plugin, repository, set_up};
use crate::support::server::{MASTER_KEY, TestServer};

/// A server with the first version of the plugin.
struct World {
    server: TestServer,
    _plugin: Program,
    master: Client,
    ada: Client,
}

impl World {
    fn new() -> Self {
        let server = TestServer::with(&[("PLUGINS", "TRIED")]);
        let plugin = Program::start(&mut python_plugin(&server, "tests/replay/plugin.py"));
        eventually("the plugin is ready", || {
            let healthy = Client::anonymous(&server).call("_status:healthz", json!({}));
            (healthy.status == 200).then_some(())
        });
        Self {
            master: Client::master(&server),
            ada: Client::signed_up(&server, "ada"),
            _plugin: plugin,
            server,
        }
    }

    fn head(&self) -> u64 {
        let page = self.master.call("log:read", json!({"limit": 1})).json();
        page["info"]["head"].as_u64().unwrap()
    }

    fn notes(&self) -> Json {
        let body = json!({"record_type": "note", "limit": 1000});
        self.master.call("record:export", body).result()
    }

    /// Creates the type whose hook keeps times. A save that creates fields is tried again, with
    /// another time.
    fn create_letters(&self) {
        let fields = json!([
            {"name": "title", "type": "string"},
            {"name": "stamped_at", "type": "number"},
            {"name": "saved_at", "type": "datetime"},
        ]);
        let types = json!({"record_types": {"letter": {"fields": fields}}});
        assert_eq!(self.master.call("schema:create", types).code(), 0);
    }

    /// Returns the command that tries a version of the plugin.
    fn replay(&self, version: u32, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        let program = format!(
            "env --default-signal=INT VERSION={version} {} {}",
            set_up(".venv/bin/python").display(),
            repository("tests/replay/plugin.py").display(),
        );
        command
            .env("DATA_DIR", self.server.data_dir())
            .args(["replay", "--server", &self.server.base_url])
            .args(["--exec", &program])
            .args(more)
            .env("MASTER_KEY", MASTER_KEY)
            .stdin(Stdio::null());
        command
    }
}

fn lines(path: &Path) -> Vec<Json> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

#[test]
fn the_writes_that_a_new_version_would_make_differently_are_named_and_nothing_is_stored() {
    let world = World::new();
    let (ada, master) = (&world.ada, &world.master);
    ada.save("note/same", json!({"title": "Same"}));
    ada.save("note/words", json!({"title": "Two Words"}));
    ada.save("note/banned", json!({"title": "Banned"}));
    ada.save("note/stamped", json!({"title": "Stamped"}));
    ada.save("note/asked", json!({"title": "Asked"}));
    ada.save("note/noted", json!({"title": "Noted", "pinned": true}));
    ada.save("note/words", json!({"title": "One"}));
    ada.save("note/same", json!({"title": "Not Same", "extra": 1}));
    ada.save("note/same", json!({"extra": null}));
    ada.save("note/untold", json!({"title": "Untold"}));
    ada.save("other/1", json!({"title": "Two Words"}));
    let body = json!({"ids": ["note/noted", "note/asked"]});
    assert_eq!(master.call("record:delete", body).status, 200);
    let body = json!({"username": "ada", "password": "secret"});
    ada.call("auth:login", body);
    let (head, notes) = (world.head(), world.notes());

    let report = world.server.folder().join("report");
    let report = report.to_str().unwrap();
    let arguments = ["--after-hooks", "--report", report];
    let output = world.replay(2, &arguments).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    let found = lines(Path::new(report));
    let of = |record: &str| -> Vec<&Json> {
        let of = found.iter().filter(|it| it["record"] == record);
        of.collect()
    };
    let outcomes: BTreeMap<&str, Vec<&str>> = found
        .iter()
        .map(|it| it["record"].as_str().unwrap())
        .map(|record| {
            let all = of(record).into_iter();
            (
                record,
                all.map(|it| it["outcome"].as_str().unwrap()).collect(),
            )
        })
        .collect();
    let expected: BTreeMap<&str, Vec<&str>> = BTreeMap::from([
        ("note/words", vec!["changed"]),
        ("note/banned", vec!["refused"]),
        ("note/stamped", vec!["depends"]),
        ("note/asked", vec!["changed"]),
        ("note/noted", vec!["refused", "refused"]),
        ("note/same", vec!["changed", "changed"]),
        ("note/untold", vec!["failed"]),
    ]);
    assert_eq!(outcomes, expected, "{text}");
    let slug = json!({"slug": {"then": "two words", "now": "two-words"}});
    assert_eq!(of("note/words")[0]["fields"], slug);
    assert_eq!(
        of("note/words")[0]["unknown"],
        json!(["before", "revision", "slug"])
    );
    assert_eq!(of("note/banned")[0]["error"]["message"], "not that title");
    assert_eq!(
        of("note/stamped")[0]["fields"],
        json!({"stamp": {"then": "old", "now": null}})
    );
    let is_told = json!({"sandbox": {"then": false, "now": true}});
    assert_eq!(of("note/asked")[0]["fields"], is_told);
    let (saved, deleted) = (of("note/noted")[0], of("note/noted")[1]);
    assert_eq!(saved["refused_calls"], json!(["record:save"]));
    assert_eq!(deleted["kind"], "record.deleted");
    assert_eq!(deleted["error"]["message"], "it is pinned");
    let range = format!("TRIED, positions 1 to {head}: 14 writes; 5 as before");
    assert!(text.contains(&range), "{text}");
    assert!(text.contains("not replayed: 1 writes"), "{text}");
    assert!(
        text.contains("    slug: \"two words\" -> \"two-words\""),
        "{text}"
    );

    // The old version does the same again, whatever it asks the server. Only the note that tells of
    // the sandbox differs.
    let output = world.replay(1, &["--certain"]).output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains(" 1 changed, 0 refused, 0 depend"), "{text}");
    let output = world
        .replay(1, &["--type", "other", "--to", "5"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    assert_eq!((world.head(), world.notes()), (head, notes));
    let saved = ada.save("note/live", json!({"title": "Two Words"}));
    assert_eq!(
        saved["slug"], "two words",
        "clients are served by the old version"
    );
}

#[test]
fn a_replay_that_was_killed_goes_on_and_reports_the_same() {
    let world = World::new();
    for number in 0..60 {
        let title = if number % 3 == 0 { "Two Words" } else { "One" };
        world
            .ada
            .save(&format!("note/{number}"), json!({"title": title}));
    }
    let folder = world.server.folder();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (report, cursor) = (path("report"), path("cursor"));
    let arguments = ["--report", &report, "--cursor", &cursor];
    let mut command = world.replay(2, &[&arguments[..], &["--rate", "10"]].concat());
    let mut killed = command.stdout(Stdio::null()).spawn().unwrap();
    eventually("it is in the middle", || {
        let known: Json = serde_json::from_slice(&std::fs::read(&cursor).ok()?).ok()?;
        let num_seen = known["writes"]["changed"].as_u64()?;
        (num_seen >= 5 && known["next"].is_u64()).then_some(())
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(lines(Path::new(&report)).len() < 20);
    // What is written meanwhile is not in the range.
    world.ada.save("note/later", json!({"title": "Two Words"}));

    let output = world.replay(2, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let whole = path("whole");
    let last = world.head() - 1;
    let until = last.to_string();
    let uninterrupted = ["--report", &whole, "--to", &until];
    let output = world.replay(2, &uninterrupted).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let found = lines(Path::new(&report));
    assert_eq!(found.len(), 20);
    assert_eq!(found, lines(Path::new(&whole)));

    // At the end nothing is left to ask; another replay uses another cursor.
    let output = world.replay(2, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(lines(Path::new(&report)), found);
    let other = [&arguments[..], &["--type", "note"]].concat();
    let output = world.replay(2, &other).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("belongs to another replay"));
}

#[test]
fn a_replay_without_a_plugin_says_so() {
    let server = TestServer::start();
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command.args(["replay", "--server", &server.base_url]);
        command.env("MASTER_KEY", MASTER_KEY).args(more);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        said(&output)
    };
    let text = run(&["--plugin", "X"]);
    let expected = "no plugin X is connected to the sandbox";
    assert!(text.contains(expected), "{text}");
    let text = run(&["--exec", "sh -c \"exit 7\""]);
    assert!(text.contains("exit status: 7"), "{text}");
}

#[test]
fn a_program_has_the_name_of_the_only_plugin_and_of_several_one_has_to_be_chosen() {
    let replay = |server: &TestServer, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
        command
            .env_clear()
            .args(["replay", "--server", &server.base_url]);
        command.envs([("MASTER_KEY", MASTER_KEY), ("PATH", "/usr/bin:/bin")]);
        command.args(["--exec", "sh -c 'echo \"I am $PLUGIN_NAME.\"'"]);
        command.args(more).stdin(Stdio::null());
        command
    };
    let says = |command: &mut Command| said(&command.output().unwrap());
    let one = TestServer::with(&[("PLUGINS", "NOTES")]);
    let text = says(&mut replay(&one, &[]));
    assert!(text.contains("I am NOTES."), "{text}");
    let two = TestServer::with(&[("PLUGINS", "NOTES,CHAT")]);
    let text = says(&mut replay(&two, &[]));
    assert!(!text.contains("I am"), "{text}");
    for choice in ["--plugin", "NOTES", "CHAT"] {
        assert!(text.contains(choice), "{text}");
    }
    let text = says(&mut replay(&two, &["--plugin", "CHAT"]));
    assert!(text.contains("I am CHAT."), "{text}");
    let text = says(replay(&two, &[]).env("PLUGIN_NAME", "CHAT"));
    assert!(text.contains("I am CHAT."), "{text}");
}

#[test]
fn a_file_beside_the_cursor_is_left_alone() {
    let world = World::new();
    world.ada.save("note/1", json!({"title": "One"}));
    let folder = world.server.folder();
    let (cursor, beside) = (folder.join("cursor"), folder.join("cursor.new"));
    std::fs::write(&beside, "mine").unwrap();
    let arguments = ["--cursor", cursor.to_str().unwrap()];
    let output = world.replay(2, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&beside).unwrap(), "mine");
    assert!(cursor.exists());
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.contains("cursor")).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_report_takes_the_place_of_no_file_and_goes_on_with_its_own() {
    let world = World::new();
    for number in 0..3 {
        let title = json!({"title": "Two Words"});
        world.ada.save(&format!("note/{number}"), title);
    }
    let folder = world.server.folder();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (report, cursor, letter) = (path("report"), path("cursor"), path("letter"));
    let refused = |arguments: &[&str], file: &str, why: &str| {
        let before = std::fs::read(file).ok();
        let output = world.replay(2, arguments).output().unwrap();
        let text = said(&output);
        assert!(std::fs::read(file).ok() == before, "another {file}: {text}");
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(why), "{text}");
    };
    std::fs::write(&letter, "Dear Ada,\nall is well.\n".repeat(1000)).unwrap();
    let full = "the file exists and is not empty: name another one, or remove it";
    refused(&["--report", &letter], &letter, full);
    let arguments = ["--report", &letter, "--cursor", &cursor];
    refused(&arguments, &letter, full);
    let _ = std::fs::remove_file(&cursor);

    std::fs::write(&report, "").unwrap();
    let arguments = ["--report", &report, "--cursor", &cursor];
    let output = world.replay(2, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(lines(Path::new(&report)).len(), 3);
    refused(&["--report", &report], &report, full);
    // The cursor continues with its own report, and with no other file.
    let not_its_own = format!("is not the report that belongs to {cursor}");
    let arguments = ["--report", &letter, "--cursor", &cursor];
    refused(&arguments, &letter, &not_its_own);
    let missing = path("missing");
    let arguments = ["--report", &missing, "--cursor", &cursor];
    refused(&arguments, &missing, &not_its_own);
    let cut = std::fs::read_to_string(&report).unwrap();
    std::fs::write(&report, &cut[..cut.len() - 1]).unwrap();
    let arguments = ["--report", &report, "--cursor", &cursor];
    refused(&arguments, &report, &not_its_own);
    std::fs::write(&report, &cut).unwrap();
    let output = world.replay(2, &arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&report).unwrap(), cut);
}

/// Returns whether a process exists and has not ended.
fn is_running(pid: &str) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = state.rsplit_once(") ").map(|(_, state)| state.to_owned());
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}

#[test]
fn a_plugin_that_is_tried_ends_with_the_command_however_that_ends() {
    let server = TestServer::start();
    // One plugin ends when it is told to, with its child; the other ignores the signal.
    let obedient = "sleep 1000 & echo $! >CHILD; echo $$ >PID; wait";
    let deaf = "trap '' TERM; echo $$ >CHILD; echo $$ >PID; while :; do sleep 1000; done";
    for (signal, script) in [
        ("INT", obedient),
        ("TERM", obedient),
        ("HUP", obedient),
        ("KILL", obedient),
        ("TERM", deaf),
    ] {
        let [pid, child] = ["pid", "child"].map(|name| server.folder().join(name));
        let _ = std::fs::remove_file(&pid);
        let script = script.replace("PID", pid.to_str().unwrap());
        let script = script.replace("CHILD", child.to_str().unwrap());
        let plugin = server.folder().join("plugin.sh");
        std::fs::write(&plugin, script).unwrap();
        // A shell that runs the tests in the background makes them ignore interrupts, and children
        // inherit that.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", env!("CARGO_BIN_EXE_skytrail")]);
        command.args(["replay", "--server", &server.base_url, "--exec"]);
        command.arg(format!("sh {}", plugin.display()));
        command.env("MASTER_KEY", MASTER_KEY).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut replay = command.spawn().unwrap();
        let pids = eventually("the plugin runs", || {
            let pid = std::fs::read_to_string(&pid).ok()?;
            let child = std::fs::read_to_string(&child).ok()?;
            (pid.ends_with('\n')).then(|| [pid, child].map(|it| it.trim().to_owned()))
        });
        assert!(pids.iter().all(|pid| is_running(pid)));
        let to = replay.id().to_string();
        let kill = Command::new("kill")
            .args([&format!("-{signal}"), &to])
            .status();
        assert!(kill.unwrap().success());
        let ended = replay.wait().unwrap();
        let number = ended.signal();
        let is_over = |pid: &String| (!is_running(pid)).then_some(());
        for pid in &pids {
            eventually(&format!("{signal}: the plugin ends"), || is_over(pid));
        }
        let expected = match signal {
            "HUP" => 1,
            "INT" => 2,
            "KILL" => 9,
            _ => 15,
        };
        assert_eq!(number, Some(expected), "{signal}: {ended}");
    }
}

#[test]
fn fields_that_are_said_not_to_count_make_no_difference_and_are_told_of() {
    let world = World::new();
    world.create_letters();
    world.ada.save("letter/1", json!({"title": "One"}));
    world.ada.save("letter/1", json!({"title": "Two"}));
    let replay = |more: &[&str]| {
        let arguments = [&["--type", "letter"], more].concat();
        let output = world.replay(1, &arguments).output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, text) = replay(&[]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("    stamped_at: "), "{text}");
    let (code, text) = replay(&["--ignore", "note.stamped_at", "--ignore", "other"]);
    assert_eq!(code, Some(3), "{text}");
    for name in ["stamped_at", "letter.stamped_at"] {
        let (code, text) = replay(&["--ignore", "other", "--ignore", name]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("2 writes; 2 as before"), "{text}");
        let left_out = "different and ignored: letter.stamped_at in 2 writes";
        assert!(text.contains(left_out), "{text}");
    }
}

#[test]
fn after_hooks_that_are_tried_have_a_delivery_that_is_no_other() {
    let world = World::new();
    world.create_letters();
    world.ada.save("letter/1", json!({"title": "One"}));
    let position = world.head();
    let hook = "letter.afterSave.post";

    let report = world.server.folder().join("report");
    let arguments = [
        "--after-hooks",
        "--ignore",
        "stamped_at",
        "--type",
        "letter",
    ];
    let mut command = world.replay(2, &arguments);
    let output = command.arg("--report").arg(&report).output().unwrap();
    let found = lines(&report);
    assert_eq!(found.len(), 1, "{}", said(&output));
    assert_eq!(found[0]["outcome"], "failed", "{}", found[0]);
    let id = format!("sandbox/{position}/{hook}");
    let told = json!({"id": id, "position": position, "attempt": 1});
    assert_eq!(found[0]["error"]["info"], told, "{}", found[0]);

    let record = json!({"_id": "letter/2", "_type": "record", "title": "Shown"});
    let body = json!({
        "plugin": "TRIED", "kind": "hook", "name": hook,
        "param": {"record": record, "original": null},
    });
    let [one, other] = [(); 2].map(|()| {
        let answer = world.master.call("plugin:test", body.clone()).result();
        answer["error"]["info"].clone()
    });
    assert_eq!(one["position"], position, "{one}");
    assert_eq!(one["attempt"], 1, "{one}");
    let id = |told: &Json| told["id"].as_str().unwrap_or_default().to_owned();
    assert!(id(&one).starts_with("test/"), "{one}");
    assert_ne!(id(&one), id(&other));
}
