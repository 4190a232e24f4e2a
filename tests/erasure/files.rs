//! Files of erased records.

use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::search::places_of;
use super::{CANARY, CONTROL, assert_store_is_the_logs, erase, said, verified, versions};
use crate::files::{ask, path_of, upload, upload_with};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::server::TestServer;

fn named(asset: &Json) -> Json {
    json!({"$type": "asset", "$name": asset["$name"]})
}

fn erase_record(master: &Client, record: &str) -> Json {
    let body = json!({"record": record, "why": "a test"});
    let erased = master.call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    erased
}

fn assert_missing(answer: &Answer) {
    let said = answer.json().to_string();
    assert!(said.contains("failed to fetch asset"), "{said}");
}

/// Returns whether a file can be downloaded.
fn is_there(server: &TestServer, asset: &Json) -> bool {
    let answer = ask(server, "GET", &path_of(asset), &[]);
    if answer.status == 200 {
        return true;
    }
    assert_missing(&answer);
    false
}

#[test]
fn a_file_goes_with_the_record_unless_another_names_it_or_did() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let file = |name: &str, text: &str| upload(&server, name, "text/plain", text);
    let own = file("own.txt", &format!("{CANARY} own"));
    let nested = file("nested.txt", &format!("{CANARY} nested"));
    let earlier = file("earlier.txt", &format!("{CANARY} earlier"));
    let (shared, past) = (file("shared.txt", CONTROL), file("past.txt", CONTROL));
    let paths: Vec<String> = [&own, &shared].map(path_of).into();

    master.save("note/gone", json!({"file": named(&earlier)}));
    let fields = json!({
        "file": named(&own), "more": {"of": [named(&nested)]}, "a": named(&shared), "b": named(&past),
    });
    master.save("note/gone", fields);
    master.save(
        "note/stays",
        json!({"file": named(&past), "a": named(&shared)}),
    );
    master.save("note/stays", json!({"file": null}));
    assert_eq!(places_of(&server, CANARY).len(), 3);

    let erased = erase_record(&master, "note/gone");
    let names = |assets: &[&Json]| {
        let mut names: Vec<Json> = assets.iter().map(|it| it["$name"].clone()).collect();
        names.sort_by_key(Json::to_string);
        Json::from(names)
    };
    assert_eq!(erased["files"], names(&[&own, &nested, &earlier]));
    assert_eq!(erased["kept_files"], names(&[&shared, &past]));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
    assert!(!is_there(&server, &own) && is_there(&server, &shared) && is_there(&server, &past));
    let listed = master.call("erase:list", json!({})).result();
    assert_eq!(listed["erasures"][0]["files"], erased["files"]);

    // The file can no longer be named, and its name is not used again.
    let body = json!({"records": [{"_id": "note/late", "file": named(&own)}]});
    let refused = master.call("record:save", body).result();
    let message = refused[0]["message"].as_str().unwrap();
    assert!(message.contains("no file named"), "{refused}");
    let again = file(own["$name"].as_str().unwrap(), CONTROL);
    assert_ne!(again["$name"], own["$name"]);

    // When the last record that names a file is erased, so is the file.
    let erased = erase_record(&master, "note/stays");
    assert_eq!(erased["files"], names(&[&shared, &past]));
    assert!(!is_there(&server, &shared) && !is_there(&server, &past));
    verified(&server);
    assert_store_is_the_logs(&mut server);
    // Also after a restart.
    for path in paths {
        assert_missing(&ask(&server, "GET", &path, &[]));
    }
}

#[test]
fn files_of_a_user_go_with_his_records_and_stay_when_that_is_asked_for() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let file = |name: &str| upload(&server, name, "text/plain", &format!("{CANARY} {name}"));
    let (face, both, kept) = (file("face.txt"), file("both.txt"), file("kept.txt"));
    let profile = format!("user/{}", ada.user.clone().unwrap());
    ada.save(&profile, json!({"face": named(&face)}));
    ada.save("note/1", json!({"file": named(&both)}));
    ada.save("note/2", json!({"file": named(&both)}));
    bob.save("note/3", json!({"file": named(&kept)}));

    let erased = erase(&server, &["record", "note/3", "--keep-files"]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert!(is_there(&server, &kept));
    let erased = erase(&server, &["user", ada.user.as_ref().unwrap(), "--records"]);
    assert!(erased.status.success(), "{}", said(&erased));
    for asset in [&face, &both] {
        let line = format!("file {} is removed", asset["$name"]);
        assert!(said(&erased).contains(&line), "{}", said(&erased));
        assert!(!is_there(&server, asset));
    }
    assert!(!said(&erased).contains("stays"), "{}", said(&erased));
    let places = places_of(&server, CANARY);
    assert!(
        places.len() == 1 && places[0].ends_with("kept.txt"),
        "{places:?}"
    );
    let refused = master.call(
        "erase:record",
        json!({"record": "note/9", "why": "x", "files": "all"}),
    );
    assert_eq!(refused.code(), 107);
}

/// An app can end between the upload of a file and the save of the record that names it.
#[test]
fn what_a_user_uploaded_goes_with_his_records_though_no_record_names_it() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let file = |client: &Client, name: &str| {
        let token = client.token.clone().unwrap();
        let headers = [
            ("Content-Type", "text/plain"),
            ("X-Skygear-Access-Token", token.as_str()),
        ];
        upload_with(&server, name, &headers, &format!("{CANARY} {name}"))
    };
    let alone = file(&ada, "alone.txt");
    let (given, bobs) = (file(&ada, "given.txt"), file(&bob, "bobs.txt"));
    let announced =
        json!({"filename": "late.txt", "content-type": "text/plain", "content-size": 5});
    let announced = ada.call("asset:put", announced).result();
    bob.save("note/bobs", json!({"file": named(&given)}));
    let user = ada.user.clone().unwrap();
    let erase_user = |more: Json| {
        let mut body = json!({"user": user, "why": "a test"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        master.call("erase:user", body)
    };

    // Without the records, files stay, and so they do if that is asked for.
    let erased = erase_user(json!({})).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(erased.get("files"), None, "{erased}");
    let none = erase_user(json!({"records": true, "files": false}));
    assert_eq!(none.code(), 110);
    assert!(is_there(&server, &alone));

    let erased = erase_user(json!({"records": true})).result();
    assert_eq!(erased["finished"], true, "{erased}");
    let mut gone = [&alone, &announced["asset"]].map(|asset| asset["$name"].clone());
    gone.sort_by_key(Json::to_string);
    assert_eq!(erased["files"], json!(gone));
    assert_eq!(erased["kept_files"], json!([given["$name"]]));
    assert!(!is_there(&server, &alone));
    assert!(is_there(&server, &given) && is_there(&server, &bobs));
    let places = places_of(&server, &format!("{CANARY} alone"));
    assert_eq!(places, Vec::<String>::new());
    assert_eq!(erase_user(json!({"records": true})).code(), 110);

    // When what names the other one has been erased, the file goes, too.
    erase_record(&master, "note/bobs");
    assert!(!is_there(&server, &given) && is_there(&server, &bobs));
    verified(&server);
    assert_store_is_the_logs(&mut server);
    assert!(is_there(&server, &bobs));
}

/// Whoever knows a file's name can name it in a record of their own, and read it.
#[test]
fn an_administrator_is_not_told_of_files_that_only_others_private_records_name() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (ada, bob) = (
        Client::signed_up(&server, "ada"),
        Client::signed_up(&server, "bob"),
    );
    let boss = Client::signed_up(&server, "boss");
    let roles = json!({"roles": ["Boss"]});
    master.call("role:admin", roles).result();
    let body = json!({"users": [boss.user], "roles": ["Boss"]});
    master.call("role:assign", body).result();
    let file = |client: &Client, name: &str| {
        let token = client.token.clone().unwrap();
        let headers = [
            ("Content-Type", "text/plain"),
            ("X-Skygear-Access-Token", token.as_str()),
        ];
        upload_with(&server, name, &headers, CONTROL)
    };
    let private = |client: &Client, record: &str, asset: &Json| {
        let records = json!([{"_id": record, "file": named(asset)}]);
        let body = json!({"database_id": "_private", "records": records});
        let saved = client.call("record:save", body).result();
        assert_eq!(saved[0]["_type"], "record", "{saved}");
    };
    // A private record names one file, and a private record of a personal type the other one,
    // which something else names, too.
    let body = json!({"type": "diary", "personal": true});
    master.call("schema:personal", body).result();
    let (own, shared) = (file(&ada, "own.txt"), file(&ada, "shared.txt"));
    private(&ada, "note/hers", &own);
    private(&ada, "diary/hers", &shared);
    private(&bob, "note/his", &shared);

    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = boss.call("erase:user", body.clone()).result();
    assert_eq!(erased["finished"], true, "{erased}");
    assert_eq!(erased["refused"][0]["record"], "note/hers", "{erased}");
    let told = erased.to_string();
    for asset in [&own, &shared] {
        assert!(!told.contains(asset["$name"].as_str().unwrap()), "{told}");
        assert!(is_there(&server, asset));
    }
    assert_eq!(erased["num_kept_files"], 2, "{erased}");

    let erased = master.call("erase:user", body).result();
    assert_eq!(erased["files"], json!([own["$name"]]), "{erased}");
    assert_eq!(erased["kept_files"], json!([shared["$name"]]), "{erased}");
    assert_eq!(erased["num_kept_files"], 1, "{erased}");
}

/// A client that names a file during the erasure either keeps it or is refused.
#[test]
fn a_file_that_somebody_names_meanwhile_stays_or_cannot_be_named() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (mut num_kept, mut num_gone) = (0, 0);
    for round in 0..30 {
        let asset = upload(&server, "f.txt", "text/plain", CONTROL);
        let first = format!("note/first-{round}");
        master.save(&first, json!({"file": named(&asset)}));
        let saved = std::thread::scope(|scope| {
            let saving = scope.spawn(|| {
                let id = format!("note/second-{round}");
                let body = json!({"records": [{"_id": id, "file": named(&asset)}]});
                master.call("record:save", body).result()[0]["_type"] == "record"
            });
            erase_record(&master, &first);
            saving.join().unwrap()
        });
        assert_eq!(is_there(&server, &asset), saved, "{round}");
        num_kept += usize::from(saved);
        num_gone += usize::from(!saved);
    }
    assert_eq!(num_kept + num_gone, 30);
}

/// Saves a record, and returns the position of its newest version.
fn saved_at(master: &Client, record: &str, fields: Json) -> Json {
    master.save(record, fields);
    versions(master, record)[0]["position"].clone()
}

#[test]
fn a_file_goes_with_the_version_or_field_that_named_it_unless_something_else_does() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let file = |name: &str| upload(&server, name, "text/plain", &format!("{CANARY} {name}"));
    let (past, now) = (file("past.txt"), file("now.txt"));
    let (field, other) = (file("field.txt"), file("other.txt"));

    // Of a version: files that the record still names stay.
    let body = json!({"a": named(&past), "b": named(&now)});
    let first = saved_at(&master, "note/1", body);
    master.save("note/1", json!({"a": null, "n": 1}));
    let body = json!({"position": first, "why": "a test"});
    let erased = master.call("erase:event", body).result();
    assert_eq!(erased["files"], json!([past["$name"]]), "{erased}");
    assert_eq!(erased["kept_files"], json!([now["$name"]]), "{erased}");
    assert!(!is_there(&server, &past) && is_there(&server, &now));

    // Of a field: files that another field of the record names stay.
    let body = json!({"a": named(&field), "b": named(&other), "c": named(&other)});
    master.save("note/2", body);
    let erased = erase(&server, &["field", "note/2", "b", "--keep-files"]);
    assert!(erased.status.success(), "{}", said(&erased));
    assert!(!said(&erased).contains("file "), "{}", said(&erased));
    assert!(is_there(&server, &field) && is_there(&server, &other));
    let body = json!({"a": null, "b": named(&other), "c": named(&other), "n": 2});
    master.save("note/2", body);
    let erased = erase(&server, &["field", "note/2", "b"]);
    let line = format!("file {} stays", other["$name"]);
    assert!(said(&erased).contains(&line), "{}", said(&erased));

    // Of a field of all records.
    master.save("note/3", json!({"c": named(&other)}));
    let erased = erase(&server, &["field", "note", "c"]);
    let line = format!("file {} is removed", other["$name"]);
    assert!(said(&erased).contains(&line), "{}", said(&erased));
    assert!(!is_there(&server, &other) && is_there(&server, &now));
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

#[test]
fn files_that_only_versions_let_go_named_are_let_go_with_them() {
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let file = |name: &str| upload(&server, name, "text/plain", &format!("{CANARY} {name}"));
    let (old, still, elsewhere) = (file("old.txt"), file("still.txt"), file("elsewhere.txt"));
    let kept = file("kept.txt");
    master.save("page/1", json!({"file": named(&elsewhere)}));
    for (record, first) in [("note/1", &old), ("post/1", &kept)] {
        let fields = json!({"a": named(first), "b": named(&still), "c": named(&elsewhere)});
        master.save(record, fields);
        master.save(record, json!({"a": null, "c": null}));
        for number in 0..40 {
            master.save(record, json!({"n": number}));
        }
    }
    let body = json!({"type": "post", "versions": 2, "files": false});
    let retention = master.call("schema:retention", body).result();
    assert_eq!(
        retention["retention"],
        json!({"versions": 2, "files": false})
    );
    let body = json!({"type": "note", "versions": 2});
    master.call("schema:retention", body).result();
    let done = master.call("log:compact", json!({})).result();
    assert_eq!(done["finished"], true, "{done}");
    assert_eq!(done["num_files"], 1, "{done}");
    assert!(!is_there(&server, &old));
    for asset in [&still, &elsewhere, &kept] {
        assert!(is_there(&server, asset), "{asset}");
    }
    verified(&server);
    assert_store_is_the_logs(&mut server);
}

/// A file whose name lies below that of an erased file is erased like any other.
#[test]
fn a_file_below_the_name_of_an_erased_one_goes_as_any_other() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let first = upload(&server, "a.txt", "text/plain", CONTROL);
    master.save("note/1", json!({"file": named(&first)}));
    erase_record(&master, "note/1");
    let name = format!("{}/secret.txt", first["$name"].as_str().unwrap());
    let second = upload(&server, &name, "text/plain", CANARY);
    master.save("note/2", json!({"file": named(&second)}));
    assert_eq!(places_of(&server, CANARY).len(), 1);
    let erased = erase_record(&master, "note/2");
    assert_eq!(erased["files"], json!([second["$name"]]));
    assert_eq!(places_of(&server, CANARY), Vec::<String>::new());
}

/// Puts a folder in the way of a file's removal.
fn block(server: &TestServer, asset: &Json) -> PathBuf {
    let name = asset["$name"].as_str().unwrap();
    let mark = format!(".erased/.{}", blake3::hash(name.as_bytes()).to_hex());
    let mark = server.data_dir().join("asset").join(mark);
    std::fs::create_dir_all(&mark).unwrap();
    mark
}

/// An erasure whose file cannot be removed delays no other erasure, and no other file of its own.
#[test]
fn a_file_that_cannot_be_removed_holds_up_no_other_erasure() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let file = |name: &str, text: &str| upload(&server, name, "text/plain", text);
    // The stuck file is the first of the two.
    let (stuck, beside) = (file("a/stuck.txt", CONTROL), file("b/beside.txt", CANARY));
    let other = file("other.txt", CANARY);
    let both = json!({"a": named(&stuck), "b": named(&beside)});
    master.save("note/stuck", both);
    master.save("note/other", json!({"file": named(&other)}));
    let in_the_way = block(&server, &stuck);
    let place = |asset: &Json| {
        let folder = server.data_dir().join("asset");
        folder.join(asset["$name"].as_str().unwrap())
    };
    let finished = || {
        let listed = master.call("erase:list", json!({})).result();
        let listed = listed["erasures"].as_array().unwrap().clone();
        listed
            .iter()
            .map(|it| it["finished"] == true)
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let body = json!({"record": "note/stuck", "why": "a test"});
        scope.spawn(|| master.call("erase:record", body).result());
        eventually("its other file goes", || {
            (!place(&beside).exists()).then_some(())
        });
        erase_record(&master, "note/other");
        assert!(!place(&other).exists() && place(&stuck).exists());
        assert_eq!(finished(), [true, false]);
        std::fs::remove_dir(&in_the_way).unwrap();
    });
    eventually("the first one ends", || {
        finished().iter().all(|it| *it).then_some(())
    });
    assert!(!place(&stuck).exists());
}
