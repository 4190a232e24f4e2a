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
    eventually("the index is up to date", || {
        let listed = master.call("delivery:list", json!({})).result();
        let mut listed = listed.as_array().unwrap().iter();
        let index = listed.find(|it| it["name"] == "log/search-index")?;
        (index["lag"] == 0).then_some(())
    });
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
