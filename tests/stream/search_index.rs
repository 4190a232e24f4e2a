//! The search index example, as its README says: it finds exactly the existing records, even after
//! it was killed while working.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python, repository};
use crate::support::server::{MASTER_KEY, TestServer, lasting_address};

fn search(server: &TestServer, arguments: &[&str]) -> Command {
    let mut command = python();
    command
        .arg(repository("examples/search-index/search.py"))
        .args(arguments)
        .env("SKYGEAR_ENDPOINT", &server.base_url)
        .env("MASTER_KEY", MASTER_KEY)
        .env("RECORD_TYPES", "note,task")
        .env("INDEX", server.folder().join("search.sqlite"));
    command
}

fn find(server: &TestServer, words: &[&str]) -> BTreeSet<String> {
    let arguments: Vec<&str> = ["find"].iter().chain(words).copied().collect();
    let found = search(server, &arguments)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(found.status.success());
    let found = String::from_utf8(found.stdout).unwrap();
    found
        .lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Waits until the index has received everything that was written.
fn await_index(master: &Client) {
    await_consumer(master, "log/search-index");
}

fn await_consumer(master: &Client, name: &str) {
    eventually("the index is up to date", || {
        let listed = master.call("delivery:list", json!({})).result();
        let mut listed = listed.as_array().unwrap().iter();
        let index = listed.find(|it| it["name"] == name)?;
        (index["lag"] == 0).then_some(())
    });
}

/// Returns whether any file of an index contains a text.
fn is_in_files_of(server: &TestServer, index: &str, text: &str) -> bool {
    let files = std::fs::read_dir(server.folder()).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let mut paths = paths.filter(|it| it.file_name().unwrap().to_str().unwrap().starts_with(index));
    paths.any(|path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|it| it == text.as_bytes())
    })
}

fn found(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[test]
fn the_index_finds_exactly_what_is_there() {
    let mut server = TestServer::with(&[("HOST", &lasting_address())]);
    let master = Client::master(&server);
    master.save(
        "note/1",
        json!({"title": "The analytical engine", "pages": 3}),
    );
    let (feed, said) = Program::start_and_wait(&mut search(&server, &["feed"]));
    assert_eq!(said.trim(), "feeding");
    master.save(
        "note/2",
        json!({"text": "An engine for \"weaving\"", "tags": ["silk", "loom"]}),
    );
    master.save("task/1", json!({"text": "buy silk"}));
    master.save("other/1", json!({"text": "silk and engine"}));
    await_index(&master);
    assert_eq!(find(&server, &["engine"]), found(&["note/1", "note/2"]));
    assert_eq!(find(&server, &["silk"]), found(&["note/2", "task/1"]));
    assert_eq!(find(&server, &["silk", "engine"]), found(&["note/2"]));
    assert_eq!(find(&server, &["\"weaving\""]), found(&["note/2"]));
    // For a user, only what they may read.
    let ada = Client::signed_up(&server, "ada");
    master.save(
        "note/2",
        json!({"_access": [{"level": "read", "user_id": ada.user}]}),
    );
    master.save("task/1", json!({"_access": []}));
    await_index(&master);
    let hers = ["find-for", ada.user.as_deref().unwrap(), "silk"];
    let shown = search(&server, &hers).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout),
        "note/2\n",
        "{shown:?}"
    );
    // Changed, deleted, and a field removed.
    master.save("note/1", json!({"title": "The difference engine"}));
    master.call("record:delete", json!({"ids": ["task/1"]}));
    let field = json!({"record_type": "note", "item_name": "tags"});
    master.call("schema:delete", field).result();
    await_index(&master);
    assert_eq!(find(&server, &["analytical"]), found(&[]));
    assert_eq!(find(&server, &["difference"]), found(&["note/1"]));
    assert_eq!(find(&server, &["silk"]), found(&[]));
    // The example is killed in the middle of much work, and so is the server.
    for number in 0..100 {
        master.save(
            &format!("note/{number}"),
            json!({"title": format!("word{number} many")}),
        );
        if number == 50 {
            eventually("it has begun with them", || {
                (!find(&server, &["many"]).is_empty()).then_some(())
            });
        }
    }
    drop(feed);
    for number in (0..100).step_by(2) {
        master.call("record:delete", json!({"ids": [format!("note/{number}")]}));
    }
    server.restart();
    let (_feed, _) = Program::start_and_wait(&mut search(&server, &["feed"]));
    await_index(&master);
    let odd: Vec<String> = (0..100)
        .filter(|it| it % 2 == 1)
        .map(|it| format!("note/{it}"))
        .collect();
    let odd: Vec<&str> = odd.iter().map(String::as_str).collect();
    assert_eq!(find(&server, &["many"]), found(&odd));
    assert_eq!(find(&server, &["word7"]), found(&["note/7"]));
}

/// Two indexes, each with a consumer of its own, are complete, and keep nothing that was erased.
#[test]
fn what_was_erased_is_in_no_index_and_no_file() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    for number in 0..20 {
        master.save(
            &format!("note/{number}"),
            json!({"text": "12, Zanzibar Street"}),
        );
    }
    ada.save("note/hers", json!({"text": "14, Zanzibar Street"}));
    let private = json!({"_id": "note/private", "text": "16, Zanzibar Street"});
    let private = json!({"database_id": "_private", "records": [private]});
    ada.call("record:save", private).result();

    let mut second = search(&server, &["feed"]);
    second
        .env("CONSUMER", "second")
        .env("INDEX", server.folder().join("second.sqlite"));
    let _feeds = [&mut search(&server, &["feed"]), &mut second].map(Program::start_and_wait);
    let consumers = ["log/search-index", "log/second"];
    let search_second = |words: &[&str]| {
        let mut command = search(&server, &[&["find"][..], words].concat());
        command.env("INDEX", server.folder().join("second.sqlite"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    for name in consumers {
        await_consumer(&master, name);
    }
    assert_eq!(find(&server, &["zanzibar"]).len(), 21);
    assert_eq!(search_second(&["zanzibar"]).lines().count(), 21);
    assert!(find(&server, &["16"]).is_empty(), "private records");

    for number in 0..10 {
        let erase = json!({"record": format!("note/{number}"), "why": "asked for"});
        master.call("erase:record", erase).result();
    }
    let field = json!({"type": "note", "field": "text", "why": "asked for"});
    let user = json!({"user": ada.user, "records": true, "why": "asked for"});
    master.call("erase:user", user).result();
    master.call("erase:field", field).result();
    master.save("note/after", json!({"title": "what is left"}));
    for name in consumers {
        await_consumer(&master, name);
    }
    assert_eq!(find(&server, &["zanzibar"]), found(&[]));
    assert_eq!(search_second(&["zanzibar"]).trim(), "");
    for index in ["search.sqlite", "second.sqlite"] {
        assert!(is_in_files_of(&server, index, "note/after"), "{index}");
        eventually("the bytes are gone", || {
            let texts = ["Zanzibar", "zanzibar"];
            let is_left = texts.iter().any(|it| is_in_files_of(&server, index, it));
            (!is_left).then_some(())
        });
    }
}
