//! A plugin that does not answer holds up the records of an erased user, and nothing else. What its
//! hooks hold up in the user's own name is never written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::worker::Worker;
use super::{call, hook, save, server};
use crate::erasure::search::places_of;
use crate::support::client::Client;
use crate::support::{eventually, eventually_within};

fn newest_of(master: &Client, scope: &Json) -> Json {
    let listed = master.call("erase:list", json!({"limit": 1000})).result();
    let mut erasures = listed["erasures"].as_array().unwrap().iter();
    erasures.find(|it| it["scope"] == *scope).unwrap().clone()
}

#[test]
fn records_of_an_erased_user_wait_for_a_plugin_that_does_not_answer() {
    let mut server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(200);
    let points = json!({"hook": [before]});
    let (is_awake, asleep) = (Arc::new(AtomicBool::new(false)), json!({}));
    let answers = |is_awake: &Arc<AtomicBool>| {
        let is_awake = Arc::clone(is_awake);
        move |worker: &mut Worker, message: &Json| {
            let is_asked = message["name"] == "note_beforeDelete";
            if is_asked && is_awake.load(Ordering::SeqCst) {
                worker.answer_record(message, &json!({}));
            }
        }
    };
    let serving = Worker::ready(&server, &asleep, &points).serve(answers(&is_awake));
    let master = Client::master(&server);
    master
        .call(
            "schema:personal",
            json!({"type": "diary", "personal": true}),
        )
        .result();
    let ada = Client::signed_up(&server, "ada");
    for id in ["note/1", "diary/1"] {
        ada.save(id, json!({"text": "hers"}));
    }
    master.save("other/1", json!({"text": "not hers"}));

    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["finished"], false, "{erased}");
    assert_eq!(ada.call("me", json!({})).code(), 104);
    let of_user = json!({"user": ada.user});
    let held_up = |master: &Client| {
        let health = eventually("the health says what holds it up", || {
            Some(master.health()).filter(|it| it["erasures"]["is_failing"] == true)
        });
        assert_eq!(health["status"], "degraded", "{health}");
        let reason = health["erasures"]["reason"].to_string();
        assert!(
            reason.contains("a user's records are not erased yet"),
            "{health}"
        );
        let erasure = newest_of(master, &of_user);
        assert_eq!(
            (&erasure["finished"], &erasure["num_keys"]),
            (&json!(false), &json!(1)),
            "{erasure}"
        );
        let ids = json!({"ids": ["note/1", "diary/1"]});
        let found = master.call("record:fetch", ids).result();
        assert_eq!(
            (&found[0]["text"], &found[1]["code"]),
            (&json!("hers"), &json!(110))
        );
    };
    held_up(&master);
    let other = json!({"record": "other/1", "why": "a test"});
    let other = master.call("erase:record", other).result();
    assert_eq!(other["finished"], true, "it does not wait: {other}");

    // A start has nobody who asks, and goes on.
    drop(serving);
    server.kill();
    server.restart();
    let serving = Worker::ready(&server, &asleep, &points).serve(answers(&is_awake));
    let master = master.at(&server);
    held_up(&master);
    is_awake.store(true, Ordering::SeqCst);
    let erasure = eventually("it is finished", || {
        Some(newest_of(&master, &of_user)).filter(|it| it["finished"] == true)
    });
    assert_eq!(
        (&erasure["num_records"], erasure.get("refused")),
        (&json!(2), None)
    );
    let health = eventually("nothing fails any more", || {
        Some(master.health()).filter(|it| it["erasures"]["is_failing"] == false)
    });
    assert_eq!(health["erasures"]["num_open"], 0, "{health}");
    drop(serving);
}

/// Long enough for a hook or two, and much less than if each record waited for one.
const SOON: Duration = Duration::from_secs(40);
/// So many that hooks of three seconds each take minutes.
const NUM_HELD_UP: usize = 40;

fn is_gone(master: &Client, id: &str) -> bool {
    let found = master.call("record:fetch", json!({"ids": [id]})).result();
    found[0]["code"] == 110
}

fn await_failing(master: &Client) {
    let health = eventually_within(SOON, "the health says what holds it up", || {
        Some(master.health()).filter(|it| it["erasures"]["is_failing"] == true)
    });
    let reason = health["erasures"]["reason"].to_string();
    assert!(reason.contains("records are not erased yet"), "{health}");
}

#[test]
fn records_that_wait_for_a_plugin_hold_up_neither_their_user_nor_others() {
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let hooks = ["diary", "note"].map(|record_type| {
        let mut before = hook(record_type, "beforeDelete");
        before["timeout_ms"] = json!(3000);
        before
    });
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": hooks}));
    let _serving = worker.serve(|_, _| {});
    let master = Client::master(&server);
    let personal = json!({"type": "diary", "personal": true});
    master.call("schema:personal", personal).result();
    let ada = Client::signed_up(&server, "ada-6d1f20c9");
    for record_type in ["diary", "note"] {
        let ids = (0..NUM_HELD_UP).map(|number| format!("{record_type}/{number}"));
        let records: Vec<Json> = ids.map(|id| json!({"_id": id, "text": "hers"})).collect();
        let saved = ada.call("record:save", json!({"records": records}));
        saved.result();
    }
    ada.save("other/hers", json!({"text": "hers"}));
    let bob = Client::signed_up(&server, "bob");
    for number in 0..5 {
        bob.save(&format!("other/{number}"), json!({"text": "his"}));
    }

    for user in [&ada.user, &bob.user] {
        let body = json!({"user": user, "records": true, "why": "a test"});
        master.call("erase:user", body).result();
    }
    let erasure = eventually_within(SOON, "what is of another user is erased", || {
        let erasure = newest_of(&master, &json!({"user": bob.user}));
        Some(erasure).filter(|it| it["finished"] == true)
    });
    assert_eq!(
        (&erasure["num_records"], erasure.get("refused")),
        (&json!(5), None)
    );
    await_failing(&master);
    eventually_within(SOON, "her name is nowhere", || {
        let places = places_of(&server, "ada-6d1f20c9");
        places.is_empty().then_some(())
    });
    for id in ["diary/0", "diary/9", "other/hers"] {
        eventually_within(SOON, &format!("{id} is gone"), || {
            is_gone(&master, id).then_some(())
        });
    }
    let body = json!({"record_type": "note", "count": true, "limit": 1});
    let left = master.call("record:query", body).json();
    assert_eq!(left["info"]["count"], NUM_HELD_UP, "{left}");
    let erasure = newest_of(&master, &json!({"user": ada.user}));
    assert_eq!(erasure["finished"], false, "{erasure}");
}

#[test]
fn a_record_that_a_plugin_never_answers_for_holds_up_no_other_of_its_type() {
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(300);
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": [before]}));
    let _serving = worker.serve(|worker, message| {
        let is_first = message["param"]["record"]["_id"] == "note/0";
        if message["name"] == "note_beforeDelete" && !is_first {
            worker.answer_record(message, &json!({}));
        }
    });
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    for number in 0..3 {
        ada.save(&format!("note/{number}"), json!({"text": "hers"}));
    }
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    master.call("erase:user", body).result();
    for id in ["note/1", "note/2"] {
        eventually_within(SOON, &format!("{id} is gone"), || {
            is_gone(&master, id).then_some(())
        });
    }
    await_failing(&master);
    assert!(!is_gone(&master, "note/0"));
}

/// Each of them would wait for the plugin, and another user for all of them.
#[test]
fn a_plugin_that_does_not_answer_is_not_asked_for_every_user() {
    const NUM_USERS: usize = 48;
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(3000);
    let points = json!({"hook": [before]});
    let worker = Worker::ready(&server, &json!({"window": 100}), &points);
    let num_asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&num_asked);
    let _serving = worker.serve(move |_, message| {
        if message["name"] == "note_beforeDelete" {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    let master = Client::master(&server);
    let erase = |user: &Client| {
        let body = json!({"user": user.user, "records": true, "why": "a test"});
        master.call("erase:user", body).result();
    };
    let users = (0..NUM_USERS).map(|number| {
        let user = Client::signed_up(&server, &format!("user-{number}"));
        user.save(&format!("note/{number}"), json!({"text": "held up"}));
        user
    });
    let users: Vec<Client> = users.collect();
    let bob = Client::signed_up(&server, "bob");
    bob.save("other/1", json!({"text": "his"}));
    std::thread::scope(|scope| {
        for user in &users {
            scope.spawn(|| erase(user));
        }
    });
    erase(&bob);
    eventually_within(SOON, "what is of another user is erased", || {
        is_gone(&master, "other/1").then_some(())
    });
    let num_asked = num_asked.load(Ordering::SeqCst);
    assert!((1..30).contains(&num_asked), "{num_asked}");
}

/// A record that another one refers to can be erased when that one is.
#[test]
fn a_record_waits_for_that_of_another_erased_user_which_refers_to_it() {
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let points = json!({"hook": [hook("link", "beforeDelete")]});
    let is_awake = Arc::new(AtomicBool::new(false));
    let awake = Arc::clone(&is_awake);
    let mut held = None;
    let _serving = Worker::ready(&server, &json!({}), &points).serve(move |worker, message| {
        if message["name"] == "link_beforeDelete" {
            held = Some(message.clone());
        }
        if awake.load(Ordering::SeqCst)
            && let Some(message) = held.take()
        {
            worker.answer_record(&message, &json!({}));
        }
    });
    let master = Client::master(&server);
    let [ada, ben] = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    ada.save("note/1", json!({"text": "hers"}));
    ada.save("note/2", json!({"text": "hers, and tried after the first"}));
    let refers = json!({"$type": "ref", "$id": "note/1"});
    ben.save("link/1", json!({"note": refers}));
    for user in [&ben, &ada] {
        let body = json!({"user": user.user, "records": true, "why": "a test"});
        let erased = master.call("erase:user", body).result();
        assert_eq!(erased["finished"], false, "{erased}");
    }
    eventually_within(SOON, "the first was tried", || {
        is_gone(&master, "note/2").then_some(())
    });
    assert!(!is_gone(&master, "note/1"));
    is_awake.store(true, Ordering::SeqCst);
    for (user, num_records) in [(&ada, 2), (&ben, 1)] {
        let erasure = eventually_within(SOON, "it is finished", || {
            let erasure = newest_of(&master, &json!({"user": user.user}));
            Some(erasure).filter(|it| it["finished"] == true)
        });
        assert_eq!(
            (&erasure["num_records"], erasure.get("refused")),
            (&json!(num_records), None),
            "{erasure}"
        );
    }
}

/// Each message can go once the next one has gone, which is the other user's.
#[test]
fn records_of_two_erased_users_that_answer_each_other_go_one_after_the_other() {
    const NUM_MESSAGES: usize = 60;
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("message", "beforeDelete");
    before["timeout_ms"] = json!(60_000);
    let worker = Worker::ready(&server, &json!({}), &json!({"hook": [before]}));
    let master = Client::master(&server);
    let users = ["ada", "ben"].map(|name| Client::signed_up(&server, name));
    let mut fields = json!({"text": CANARY});
    for (number, user) in (0..NUM_MESSAGES).zip(users.iter().cycle()) {
        let id = format!("message/{number}");
        user.save(&id, fields.clone());
        fields["answers"] = json!({"$type": "ref", "$id": id});
    }
    for user in &users {
        let body = json!({"user": user.user, "records": true, "why": "a test"});
        let erased = master.call("erase:user", body).result();
        assert_eq!(erased["finished"], false, "{erased}");
    }
    let _serving = worker.serve(|worker, message| {
        if message["kind"] == "hook" {
            worker.answer_record(message, &json!({}));
        }
    });
    for user in &users {
        let erasure = eventually_within(SOON, "it is finished", || {
            let erasure = newest_of(&master, &json!({"user": user.user}));
            Some(erasure).filter(|it| it["finished"] == true)
        });
        assert_eq!(
            (&erasure["num_records"], erasure.get("refused")),
            (&json!(NUM_MESSAGES / 2), None),
            "{erasure}"
        );
    }
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
}

/// The request was permitted, and is in the log.
#[test]
fn records_of_an_erased_user_go_though_whoever_erased_them_loses_the_rights() {
    let mut server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(200);
    let points = json!({"hook": [before]});
    let asleep = Worker::ready(&server, &json!({}), &points).serve(|_, _| {});
    let master = Client::master(&server);
    let roles = json!({"roles": ["boss"]});
    master.call("role:admin", roles.clone()).result();
    let erased_by = |fate: &str| {
        let boss = Client::signed_up(&server, &format!("boss-{fate}"));
        let users = json!({"roles": ["boss"], "users": [boss.user]});
        master.call("role:assign", users).result();
        let ada = Client::signed_up(&server, &format!("ada-{fate}"));
        let access = json!([{"role": "boss", "level": "write"}]);
        ada.save(&format!("note/{fate}"), json!({"_access": access}));
        let body = json!({"user": ada.user, "records": true, "why": "a test"});
        let erased = boss.call("erase:user", body).result();
        assert_eq!(erased["finished"], false, "{erased}");
        (boss, ada.user)
    };
    let [revoked, disabled, erased] = ["revoked", "disabled", "erased"].map(erased_by);
    await_failing(&master);
    let body = json!({"roles": ["boss"], "users": [revoked.0.user]});
    master.call("role:revoke", body).result();
    let body = json!({"auth_id": disabled.0.user, "disabled": true});
    master.call("auth:disable:set", body).result();
    let body = json!({"user": erased.0.user, "why": "has left"});
    master.call("erase:user", body).result();

    // A start knows only what is in the log.
    drop(asleep);
    server.kill();
    server.restart();
    let awake = Worker::ready(&server, &json!({}), &points);
    let _awake = awake.serve(|worker, message| {
        if message["name"] == "note_beforeDelete" {
            worker.answer_record(message, &json!({}));
        }
    });
    let master = master.at(&server);
    for (_, user) in [revoked, disabled, erased] {
        let erasure = eventually_within(SOON, "it is finished", || {
            let erasure = newest_of(&master, &json!({"user": user}));
            Some(erasure).filter(|it| it["finished"] == true)
        });
        assert_eq!(
            (&erasure["num_records"], erasure.get("refused")),
            (&json!(1), None),
            "{erasure}"
        );
    }
    let body = json!({"record_type": "note", "count": true, "limit": 1});
    let left = master.call("record:query", body).json();
    assert_eq!(left["info"]["count"], 0, "{left}");
}

const CANARY: &str = "canary-4b0c6e91";

/// Hooks hold up all that a user writes, and what is written in that user's name; meanwhile the user
/// is erased with all records, and that ends.
#[test]
fn requests_in_progress_of_an_erased_user_write_nothing() {
    let server = server(&[]);
    let before = ["slow", "diary", "user"].map(|it| hook(it, "beforeSave"));
    let mut hooks = before.to_vec();
    hooks.push(hook("memo", "beforeDelete"));
    let mut worker = Worker::ready(&server, &json!({}), &json!({"hook": hooks}));
    let master = Client::master(&server);
    let personal = json!({"type": "diary", "personal": true});
    master.call("schema:personal", personal).result();
    let signing_up = |name: &str, worker: &mut Worker| {
        let (server, name) = (Client::anonymous(&server), name.to_owned());
        let body = json!({"auth_data": {"username": name}, "password": "secret"});
        let signing_up = call(&server, "auth:signup", body);
        let asked = worker.expect_request("user_beforeSave");
        worker.answer_record(&asked, &json!({}));
        let session = signing_up.join().unwrap().result();
        let user = session["user_id"].as_str().unwrap().to_owned();
        (
            server.with_token(session["access_token"].as_str().unwrap()),
            user,
        )
    };
    let (ada, user) = signing_up("ada", &mut worker);
    let (bob, _) = signing_up("bob", &mut worker);
    ada.save("note/hers", json!({"text": CANARY}));
    let public = json!([{"public": true, "level": "write"}]);
    bob.save("memo/bobs", json!({"text": "bob's", "_access": public}));

    let record = |id: &str| json!({"records": [{"_id": id, "text": CANARY}]});
    let with = |mut body: Json, name: &str, value: Json| {
        body[name] = value;
        body
    };
    let of_master = |id: &str| with(record(id), "_user_id", json!(user));
    let own = json!({"records": [{"_id": format!("user/{user}"), "phone": CANARY}]});
    let private = with(record("slow/2"), "database_id", json!("_private"));
    let limited = with(of_master("slow/5"), "_rights", json!("user"));
    let requests = [
        (&ada, "record:save", record("slow/1"), 104),
        (&ada, "record:save", private, 104),
        (
            &ada,
            "record:save",
            with(record("slow/3"), "atomic", json!(true)),
            104,
        ),
        (&ada, "record:save", record("diary/1"), 104),
        (&ada, "record:save", own.clone(), 104),
        (&ada, "record:delete", json!({"ids": ["memo/bobs"]}), 104),
        (&master, "record:save", of_master("slow/4"), 110),
        (&master, "record:save", limited, 104),
        (&master, "record:save", own, 110),
    ];
    let held_up = requests.map(|(client, action, body, code)| {
        let calling = call(client, action, body);
        (calling, worker.expect("request"), code)
    });
    let body = json!({"user": user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(
        (&erased["finished"], &erased["num_records"]),
        (&json!(true), &json!(1)),
        "{erased}"
    );
    let head = || master.call("log:read", json!({"limit": 1})).json()["info"]["head"].clone();
    let before = head();
    for (calling, asked, code) in held_up {
        worker.answer_record(&asked, &json!({}));
        let answer = calling.join().unwrap().json();
        let refused = answer.get("error").unwrap_or(&answer["result"][0]);
        assert_eq!(refused["code"], code, "{asked}: {answer}");
    }
    assert_eq!(head(), before, "something was written");
    let found = master.call("record:fetch", json!({"ids": ["memo/bobs"]}));
    assert_eq!(found.result()[0]["text"], "bob's");
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
}

/// The master key erases a user in the name of another, who is erased while that goes on.
#[test]
fn an_eraser_who_is_erased_meanwhile_has_erased_everything() {
    let server = server(&[]);
    let points = json!({"hook": [hook("note", "beforeDelete")]});
    let mut worker = Worker::ready(&server, &json!({}), &points);
    let master = Client::master(&server);
    let (ada, eve) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "eve"),
    );
    ada.save("note/hers", json!({"text": CANARY}));
    let body = json!({"user": ada.user, "records": true, "why": "a test", "_user_id": eve.user});
    let erasing = call(&master, "erase:user", body);
    let asked = worker.expect_request("note_beforeDelete");
    let body = json!({"user": eve.user, "why": "a test"});
    master.call("erase:user", body).result();
    worker.answer_record(&asked, &json!({}));
    // The deletion is decided again: the eraser has changed.
    let asked = worker.expect_request("note_beforeDelete");
    worker.answer_record(&asked, &json!({}));
    let erased = erasing.join().unwrap().result();
    assert_eq!(erased["refused"], json!([]), "{erased}");
    assert_eq!(erased["num_records"], 1);
    eventually("it is erased", || {
        places_of(&server, CANARY).is_empty().then_some(())
    });
}

/// Hooks hold up restorations of what is erased meanwhile: a deleted record, one that exists, and one
/// of an erased user.
#[test]
fn what_is_erased_while_its_restoration_is_held_up_stays_erased() {
    let server = server(&[]);
    let mut worker = Worker::ready(
        &server,
        &json!({}),
        &json!({"hook": [hook("note", "beforeSave")]}),
    );
    let (master, ada) = (Client::master(&server), Client::signed_up(&server, "ada"));
    let record = |id: &str| json!({"record": id, "why": "a test"});
    let user = json!({"user": ada.user, "records": true, "why": "a test"});
    for (id, is_deleted, action, body) in [
        ("note/gone", true, "erase:record", record("note/gone")),
        ("note/there", false, "erase:record", record("note/there")),
        ("note/hers", false, "erase:user", user),
    ] {
        let saving = save(&ada, json!({"_id": id, "text": CANARY}));
        let asked = worker.expect_request("note_beforeSave");
        worker.answer_record(&asked, &json!({}));
        saving.join().unwrap().result();
        let versions = master.call("history:list", json!({"record": id})).result();
        let position = &versions["versions"][0]["position"];
        if is_deleted {
            let deleted = ada.call("record:delete", json!({"ids": [id]}));
            deleted.result();
        }
        let body_of_restore = json!({"record": id, "as_of": position});
        let restoring = call(&master, "history:restore", body_of_restore);
        let asked = worker.expect_request("note_beforeSave");
        let erased = master.call(action, body).result();
        assert_eq!(erased["finished"], true, "{erased}");
        worker.answer_record(&asked, &json!({}));
        let refused = restoring.join().unwrap();
        assert_eq!(refused.code(), 110, "{}", refused.json());
        let fetched = master.call("record:fetch", json!({"ids": [id]})).result();
        assert_eq!(fetched[0]["code"], 110, "{fetched}");
    }
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
}

/// Somebody creates records under ids of an erased user's deleted ones while a plugin holds up the
/// erasure.
#[test]
fn what_others_create_under_the_ids_of_an_erased_user_stays() {
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let hooks = ["note", "diary"].map(|it| {
        let mut before = hook(it, "beforeDelete");
        before["timeout_ms"] = json!(200);
        before
    });
    let is_awake = Arc::new(AtomicBool::new(true));
    let awake = Arc::clone(&is_awake);
    let points = json!({"hook": hooks});
    let _serving = Worker::ready(&server, &json!({}), &points).serve(move |worker, message| {
        if message["kind"] == "hook" && awake.load(Ordering::SeqCst) {
            worker.answer_record(message, &json!({}));
        }
    });
    let master = Client::master(&server);
    let personal = json!({"type": "diary", "personal": true});
    master.call("schema:personal", personal).result();
    let [ada, bob] = ["ada", "bob"].map(|name| Client::signed_up(&server, name));
    let shared = ["note/shared", "diary/shared"];
    for id in shared {
        ada.save(id, json!({"text": CANARY}));
        ada.call("record:delete", json!({"ids": [id]})).result();
    }
    ada.save("note/other", json!({"text": CANARY}));
    is_awake.store(false, Ordering::SeqCst);
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["finished"], false, "{erased}");
    for id in shared {
        bob.save(id, json!({"text": "bob's"}));
    }
    is_awake.store(true, Ordering::SeqCst);
    eventually_within(SOON, "it is finished", || {
        let erasure = newest_of(&master, &json!({"user": ada.user}));
        (erasure["finished"] == true).then_some(())
    });
    let found = bob.call("record:fetch", json!({"ids": shared})).result();
    for record in found.as_array().unwrap() {
        assert_eq!(record["text"], "bob's", "{found}");
    }
}

/// The hook was asked about the user's record.
#[test]
fn what_others_create_while_a_hook_is_asked_about_an_erased_users_record_stays() {
    let server = server(&[("RESPONSE_TIMEOUT", "3")]);
    let mut before = hook("note", "beforeDelete");
    before["timeout_ms"] = json!(60_000);
    let mut worker = Worker::ready(&server, &json!({}), &json!({"hook": [before]}));
    let master = Client::master(&server);
    let [ada, bob] = ["ada", "bob"].map(|name| Client::signed_up(&server, name));
    ada.save("note/shared", json!({"text": CANARY}));
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["finished"], false, "{erased}");
    let of_the_erasure = worker.expect_request("note_beforeDelete");
    let deleting = call(&bob, "record:delete", json!({"ids": ["note/shared"]}));
    let of_bob = worker.expect_request("note_beforeDelete");
    worker.answer_record(&of_bob, &json!({}));
    assert_eq!(deleting.join().unwrap().result()[0]["_id"], "note/shared");
    bob.save("note/shared", json!({"text": "bob's"}));
    worker.answer_record(&of_the_erasure, &json!({}));
    let _serving = worker.serve(|worker, message| {
        if message["kind"] == "hook" {
            worker.answer_record(message, &json!({}));
        }
    });
    eventually_within(SOON, "it is finished", || {
        let erasure = newest_of(&master, &json!({"user": ada.user}));
        (erasure["finished"] == true).then_some(())
    });
    let found = bob
        .call("record:fetch", json!({"ids": ["note/shared"]}))
        .result();
    assert_eq!(found[0]["text"], "bob's", "{found}");
}
