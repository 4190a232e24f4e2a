//! What the commands have in common: whom they ask, with which key, and who reads their output.

mod table;

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, PipeWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::client::Client;
use crate::support::machine::{run, skipped};
use crate::support::place::Place;
use crate::support::server::{MASTER_KEY, TestServer};
use table::{ROWS, Reach, Row, Shows};

/// Returns the arguments of the commands that work on something.
fn on(reach: Reach) -> Vec<Vec<&'static str>> {
    let rows = ROWS.iter().filter(|row| row.reach == reach);
    rows.map(Row::arguments).collect()
}

/// Commands that need the data folder, even if only for the master key in it.
fn with_data_folder() -> Vec<Vec<&'static str>> {
    [on(Reach::DataFolder), on(Reach::Server)].concat()
}

#[test]
fn who_looks_in_the_wrong_place_is_told_where_to_look() {
    let place = Place::new();
    // Nothing can listen there.
    let set = ["--set", "MASTER_KEY=k", "--host", "127.0.0.1:1"];
    let cases = [
        (
            &["history", "list", "note/1"][..],
            "is it running? --server or HOST",
        ),
        (
            &["rebuild"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["log", "tail"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["backup", "backups"],
            "no log in data: name the folder with --data-dir",
        ),
        (
            &["backup", "nowhere", "--list"],
            "there are no backups at nowhere",
        ),
    ];
    for (arguments, expected) in cases {
        let said = place.failing(&[], &[&set, arguments].concat());
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_data_folder_that_is_none_is_named_by_every_command() {
    let place = Place::with("d", "");
    for arguments in with_data_folder() {
        let flags = ["--data-dir", "d", "--host", "127.0.0.1:0"];
        let said = place.failing(&[], &[&flags, &arguments[..]].concat());
        assert!(said.contains("d is not a folder"), "{arguments:?}: {said}");
    }
}

#[test]
fn who_may_not_look_into_the_data_folder_is_told_so_by_every_command() {
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let program = env!("CARGO_BIN_EXE_skytrail");
    if let Err(why) = run(nobody[0], &[&nobody[1..], &[program, "--version"]].concat()) {
        return skipped("a data folder of somebody else", &why);
    }
    let place = Place::new();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.path(), open).unwrap();
    let data = place.path().join("d");
    std::fs::create_dir_all(data.join("journal")).unwrap();
    let closed = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&data, closed).unwrap();
    let nobody = ["/usr/bin/env", "PATH=/usr/bin:/bin"].iter().chain(&nobody);
    let nobody: Vec<&str> = nobody.copied().collect();
    for arguments in with_data_folder() {
        let flags = ["--data-dir", "d", "--host", "127.0.0.1:0"];
        let said = place.failing(&nobody, &[&flags, &arguments[..]].concat());
        let expected = "d cannot be read: Permission denied";
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    let serve = ["--host", "127.0.0.1:0", "--data-dir", "other", "serve"];
    let said = place.failing(&nobody, &serve);
    let expected = "other cannot be created: Permission denied";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_master_key_that_the_server_does_not_know_is_not_shown() {
    let server = TestServer::start();
    let (given, kept) = ("given-and-wrong", "kept-and-wrong");
    let place = Place::new();
    let data = place.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let keys = format!(r#"{{"api_key": "k", "master_key": "{kept}"}}"#);
    std::fs::write(data.join("keys.json"), keys).unwrap();
    let set = format!("MASTER_KEY={given}");
    for arguments in on(Reach::Server) {
        for (flags, whence) in [
            (&["--set", &set][..], "the one here (from MASTER_KEY)"),
            (&[], "the one here (from data/keys.json)"),
        ] {
            let of_server = ["--host", server.address()];
            let said = place.failing(&[], &[flags, &arguments[..], &of_server].concat());
            for expected in [&server.base_url, "has a different master key", whence] {
                assert!(said.contains(expected), "{arguments:?}: {said}");
            }
            let is_shown = said.contains(given) || said.contains(kept);
            assert!(!is_shown, "{arguments:?}: {said}");
        }
    }
}

/// Answers one request: redirects it to its own path below another address.
fn redirect(mut stream: &TcpStream, status: u16, to: &str) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(reader.read_until(b'\n', &mut head).unwrap() > 0);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|it| it.strip_prefix("content-length: "));
    let length = length.map_or(0, |it| it.parse().unwrap());
    reader.read_exact(&mut vec![0; length]).unwrap();
    let path = head.split(' ').nth(1).unwrap();
    let more = "Content-Length: 0\r\nConnection: close\r\n";
    let answer = format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {to}{path}\r\n{more}\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn a_command_does_not_take_the_master_key_to_where_it_is_redirected() {
    let place = Place::new();
    let (here, there) = ["127.0.0.1:0", "127.0.0.1:0"].map(TcpListener::bind).into();
    let (here, there) = (here.unwrap(), there.unwrap());
    there.set_nonblocking(true).unwrap();
    let address = format!("http://{}", here.local_addr().unwrap());
    let other = there.local_addr().unwrap();
    let commands = on(Reach::Server);
    let cases = commands
        .iter()
        .flat_map(|it| [302, 307].map(|status| (it, status)));
    let cases: Vec<_> = cases.collect();
    let statuses: Vec<u16> = cases.iter().map(|(_, status)| *status).collect();
    let to = format!("http://ada:a-secret@{other}/app");
    let redirecting = std::thread::spawn(move || {
        for status in statuses {
            redirect(&here.accept().unwrap().0, status, &to);
        }
    });
    let set = ["--set", "MASTER_KEY=master-key-of-mine"];
    for (arguments, status) in cases {
        let of_server = ["--server", &address];
        let said = place.failing(&[], &[&set, &arguments[..], &of_server].concat());
        let expected = format!("{address} redirects to http://{other}/app: use that address");
        assert!(said.contains(&expected), "{arguments:?} {status}: {said}");
        assert!(!said.contains("secret"), "{said}");
    }
    redirecting.join().unwrap();
    // Nobody listens there any more.
    let with_password = address.replace("http://", "http://ada:a-secret@");
    let arguments = [&set[..], &["task", "list", "--server", &with_password]].concat();
    let said = place.failing(&[], &arguments);
    assert!(said.contains(&format!("no server at {address} ")), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let nobody = there.accept().map(drop).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::WouldBlock, "the key was sent on");
}

#[test]
fn what_lists_nothing_says_so() {
    let server = TestServer::start();
    let master_key = format!("MASTER_KEY={MASTER_KEY}");
    let of_server = ["--set", &master_key, "--server", &server.base_url];
    for (arguments, shown, said) in [
        (&["audit", "refusals"][..], "nobody was refused\n", ""),
        // A program expects lines of JSON here.
        (&["audit", "refusals", "--json"], "", ""),
        (&["erase", "list"], "", "skytrail: nothing was erased\n"),
        (
            &["erase", "list", "--before", "1"],
            "",
            "skytrail: no further erasures\n",
        ),
        (&["plugin", "calls"], "no plugin has been called yet\n", ""),
    ] {
        let output = server.skytrail(&[arguments, &of_server].concat());
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let found = (text(&output.stdout), text(&output.stderr));
        assert_eq!(found, (shown.to_owned(), said.to_owned()), "{arguments:?}");
    }
}

/// Runs a command on a server whose standard output is closed on the reading side.
fn unread(server: &TestServer, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.env_clear().env("DATA_DIR", server.data_dir());
    let key = format!("MASTER_KEY={MASTER_KEY}");
    command.args(["--set", &key, "--host", server.address()]);
    command.args(arguments).stdout(closed());
    command
}

/// A pipe that nobody reads.
fn closed() -> PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

#[test]
fn a_command_whose_output_nobody_reads_ends_with_what_became_of_its_work() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let with = |arguments: &[&str]| {
        let mut command = unread(&server, arguments);
        command.stderr(closed()).status().unwrap().code()
    };
    let file = |name: &str, text: &str| {
        let path = server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = file("whole.jsonl", "{\"_id\": \"note/1\", \"n\": 1}\n");
    let broken = file("broken.jsonl", "{\"_id\": \"note/2\", \"n\": 1}\n?\n");
    assert_eq!(with(&["import", "records", &whole]), Some(0));
    assert_eq!(
        with(&["import", "records", &broken]),
        Some(1),
        "a line was refused"
    );
    assert_eq!(master.query("note", json!([])).len(), 2);
    assert_eq!(
        with(&["erase", "record", "note/2", "--why", "law"]),
        Some(0)
    );
    assert_eq!(master.query("note", json!([])).len(), 1);
    assert_eq!(with(&["log", "verify"]), Some(0));
    assert_eq!(with(&["export", "nothing"]), Some(1));
}

#[test]
fn what_is_shown_to_nobody_ends_as_by_sigpipe() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    ada.save("note/1", json!({"text": "one"}));
    ada.save("note/2", json!({"text": "two"}));
    let master = Client::master(&server);
    let erasure = json!({"record": "note/2", "why": "law"});
    master.call("erase:record", erasure).result();
    let consumer = json!({"consumer": "reader"});
    master.call("log:consumer:create", consumer).result();
    let rows = ROWS.iter().filter(|row| row.shows == Shows::Only);
    for arguments in rows.map(Row::arguments) {
        let ended = unread(&server, &arguments).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        let found = (ended.status.code(), &*said);
        assert_eq!(found, (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn a_command_that_cannot_write_says_so() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skytrail"));
    command.arg("config").stdout(full).stderr(Stdio::piped());
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("the output cannot be written"), "{said}");
}
