//! A restored log that continues has a different history from there on.

use super::*;
use crate::live::listener::{Followed, Listener, TIMEOUT};
use crate::live::stream::Stream;
use crate::stream::worker::{Worker, create, state};
use crate::support::client::{Answer, send};
use crate::support::server::MASTER_KEY;
use crate::support::sse::{EventSource, Heard};

/// A follower may return with a position that the restored log also has, but for another event. It
/// must not be sent what follows that position and believe that it has missed nothing.
#[test]
fn who_followed_what_is_lost_is_told_so() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    client.save("single/1", json!({"number": 1}));
    world.back_up(&[]);
    let query = json!({"record_type": "single"});
    let is_ready = |followed: &Followed| followed.num_ready > 0;
    let mut stream = Stream::get(&world.server, &client, &query, None);
    let mut listener = Listener::open(&world.server, &client);
    stream.until(is_ready);
    let early = (stream.followed.clone(), stream.last_id.clone());
    listener.subscribe("q", query.clone());
    client.save("single/2", json!({"number": 2}));
    stream.until(|followed| followed.records.len() == 2);
    listener.until("q", |followed| followed.records.len() == 2);
    let log_id = followed_to_end(&world.server, &[]).unwrap();

    let restored = world.restore("earlier", &[]);
    let forked = client.at(&restored);
    for number in 3..9 {
        forked.save("single/3", json!({"number": number}));
    }
    for (followed, last_id) in [(stream.followed, stream.last_id), early] {
        let again = Stream::get(&restored, &forked, &query, last_id.as_deref());
        let mut again = again.after(&followed);
        let ready = followed.num_ready;
        again.until(|followed| followed.num_ready > ready);
        assert_eq!(again.followed.num_resets, 1, "{:?}", again.followed.heard);
        let ids: Vec<&String> = again.followed.records.keys().collect();
        assert_eq!(ids, ["single/1", "single/3"]);
        // A position of this history is accepted.
        let good = Stream::get(&restored, &forked, &query, again.last_id.as_deref());
        let mut good = good.after(&again.followed);
        let ready = again.followed.num_ready;
        good.until(|followed| followed.num_ready > ready);
        assert_eq!(good.followed.num_resets, 1, "{:?}", good.followed.heard);
    }
    let known = listener.followed["q"].clone();
    let mut returned = query.clone();
    returned["from"] = json!(known.position);
    returned["timeline"] = json!(known.timeline);
    let mut back = Listener::open(&restored, &forked);
    back.followed.insert("q".into(), known.resumed());
    let told = back.subscribe("q", returned.clone());
    assert_eq!(told.num_resets, 1, "{:?}", told.heard);
    returned["timeline"] = json!("1234");
    back.followed.clear();
    back.ask("q2", returned);
    back.until("q2", |followed| followed.error.is_some());
    let error = back.followed["q2"].error.clone().unwrap();
    assert!(
        error["message"].as_str().unwrap().contains("timeline"),
        "{error}"
    );

    let refused = followed_to_end(&restored, &[("Last-Event-ID", &log_id)]).unwrap_err();
    assert!(refused.contains("another timeline"), "{refused}");
    let new_id = followed_to_end(&restored, &[]).unwrap();
    forked.save("single/1", json!({"number": 10}));
    assert!(followed_to_end(&restored, &[("Last-Event-ID", &new_id)]).is_ok());
}

/// A named consumer may have handled events that the restored log lacks. Whatever it selects, it
/// hears of the restore, and can see that its positions are those of another timeline.
#[test]
fn a_consumer_of_the_log_is_told_so() {
    let world = World::start();
    let master = world.master();
    create(&master, "search", &json!({"from": 1}));
    master.save("note/1", json!({"number": 1}));
    let (mut worker, greeting) = Worker::greeted(world.server.address(), "search", 4);
    let timeline = greeting["timeline"].clone();
    assert!(timeline.is_string(), "{greeting}");
    assert_eq!(state(&master, "search")["timeline"], timeline);
    worker.take_all(&master, "search");
    world.back_up(&[]);
    let end = world.head();
    master.save("note/2", json!({"number": 2}));
    worker.take_all(&master, "search");
    let known = json!({"from": world.head(), "timeline": timeline});
    let read = master.call("log:read", known.clone());
    assert_eq!(read.json()["info"]["timeline"], timeline);
    assert_eq!(read.result().as_array().unwrap().len(), 1);
    assert_eq!(
        searched(&world.server, &known).header("x-skytrail-timeline"),
        timeline.as_str()
    );

    let restored = world.restore("earlier", &[]);
    let master = Client::master(&restored);
    for number in 3..9 {
        master.save(&format!("task/{number}"), json!({"number": number}));
    }
    for refused in [
        master.call("log:read", known.clone()),
        searched(&restored, &known),
    ] {
        assert_eq!(refused.code(), 108);
        let message = refused.json()["error"]["message"].to_string();
        assert!(message.contains("another timeline"), "{message}");
    }
    let (mut worker, greeting) = Worker::greeted(restored.address(), "search", 4);
    let new = &greeting["timeline"];
    assert_ne!(*new, timeline);
    assert_eq!(state(&master, "search")["timeline"], *new);
    let current = json!({"from": 1, "timeline": new, "limit": 1});
    assert_eq!(
        master.call("log:read", current.clone()).json()["info"]["timeline"],
        *new
    );
    assert_eq!(searched(&restored, &current).status, 200);
    // Its position may be stored from before it had note/1. That can arrive first or last.
    let told = worker.take_all(&master, "search");
    let (restored, others): (Vec<_>, Vec<_>) = told
        .iter()
        .partition(|it| it["event"]["kind"] == "log.restored");
    assert_eq!(restored.len(), 1, "{told:?}");
    assert_eq!(restored[0]["event"]["payload"]["until"], end);
    assert!(others.len() <= 1, "{told:?}");
}

fn searched(server: &TestServer, asked: &Json) -> Answer {
    let url = format!("{}/log/search", server.base_url);
    let key = ("X-Skygear-API-Key".to_owned(), MASTER_KEY.to_owned());
    send("POST", &url, &[key], Some(asked.to_string().into())).unwrap()
}

#[test]
fn two_histories_share_a_repository_and_neither_takes_the_others_backups() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    world.fill(&client, "common");
    client.save("single/1", json!({"number": 1}));
    let fork = world.head();
    world.back_up(&[]);
    client.save("single/1", json!({"number": 2}));
    world.back_up(&[]);
    let original = world.names();

    let restored = world.restore("fork", &["--until", &fork.to_string()]);
    let forked = client.at(&restored);
    forked.save("single/1", json!({"number": 20}));
    forked.save("single/1", json!({"number": 30}));
    let said = said(&restored.skytrail(&["backup", text(&world.repository), "--keep", "1"]));
    assert!(said.contains("another history"), "{said}");
    assert!(said.contains(&original.join(", ")), "{said}");
    assert!(!said.contains("removed"), "{said}");
    let names = world.names();
    assert_eq!(names.len(), 3);
    let names = &names[1..];

    let refused = refusal(&world.try_restore("which", &[]));
    assert!(refused.contains("several histories"), "{refused}");
    for name in names {
        assert!(refused.contains(name.as_str()), "{refused}");
        said_whole(&world, name);
    }
    for (name, number) in names.iter().zip([2, 30]) {
        let server = world.restore(&format!("to-{number}"), &["--backup", name]);
        assert_eq!(records(&server, &Json::Null)[0][0]["number"], number);
    }
    // Each continues on its own.
    client.save("single/1", json!({"number": 3}));
    world.back_up(&["--keep", "1"]);
    world.fill(&forked, "other");
    said_again(&restored, &world.repository);
    for name in &world.names() {
        said_whole(&world, name);
    }
    assert_eq!(world.names().len(), 2);
}

fn said_again(server: &TestServer, repository: &Path) {
    said(&server.skytrail(&["backup", text(repository), "--keep", "1"]));
}

/// Follows the log to its end; returns the last id, or why it is refused.
fn followed_to_end(server: &TestServer, headers: &[(&str, &str)]) -> Result<String, String> {
    let headers = [&[("X-Skygear-API-Key", MASTER_KEY)], headers].concat();
    let path = "/log/follow?from=1";
    let mut source = EventSource::open(server.address(), path, &headers, None).unwrap();
    if source.status != 200 {
        return Err(source.rest());
    }
    loop {
        let heard = source.next(TIMEOUT);
        let Heard::Event(event) = heard else {
            panic!("{heard:?}");
        };
        if event.event == "position" {
            return Ok(event.id);
        }
    }
}

/// A damaged manifest hides which backup it followed; the command still asks which history is
/// meant.
#[test]
fn a_damaged_manifest_does_not_make_one_history_of_two() {
    let world = World::start();
    let client = Client::signed_up(&world.server, "writer");
    client.save("single/1", json!({"number": 1}));
    world.back_up(&[]);
    let restored = world.restore("fork", &[]);
    client.save("single/1", json!({"number": 2}));
    world.back_up(&[]);
    for number in [20, 30] {
        client
            .at(&restored)
            .save("single/1", json!({"number": number}));
        said(&restored.skytrail(&["backup", text(&world.repository)]));
    }
    let names = world.names();
    let within = &world.objects("backups")[2];
    let mut bytes = std::fs::read(within).unwrap();
    bytes[100] ^= 1;
    std::fs::write(within, bytes).unwrap();
    let refused = refusal(&world.try_restore("which", &[]));
    assert!(refused.contains("several histories"), "{refused}");
    for name in [&names[1], &names[2], &names[3]] {
        assert!(refused.contains(name.as_str()), "{refused}");
    }
}
