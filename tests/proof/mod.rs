//! Changes of the log's past are detected: by the server's own command, and by a program that
//! shares no code with it.

mod forger;
mod lost;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value as Json, json};
use skytrail_schema::chain;

use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::program::repository;
use crate::support::server::{API_KEY, TestServer};
use forger::Forger;

const NOTES: u32 = 24;

/// A stopped server whose past was signed at its end.
fn signed() -> TestServer {
    let mut server = TestServer::start();
    let client = Client::signed_up(&server, "writer");
    for number in 0..NOTES {
        client.save(
            &format!("note/{number}"),
            json!({"text": format!("honest {number}")}),
        );
    }
    assert!(server.terminate().success());
    server
}

/// The bytes of files are not in the log, but their hashes are.
#[test]
fn a_file_that_is_not_what_was_uploaded_is_named() {
    let mut server = TestServer::start();
    let put = |name: &str, bytes: &[u8]| {
        let headers = [
            ("X-Skygear-API-Key", API_KEY),
            ("Content-Type", "text/plain"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = format!("{}/files/{name}", server.base_url);
        let answer = send("PUT", &url, &headers, Some(bytes.to_vec())).unwrap();
        answer.result()["$name"].as_str().unwrap().to_owned()
    };
    let names = ["a.txt", "b.txt", "c.txt", "d.txt"].map(|name| put(name, b"honest"));
    let [honest, forged, cut, gone] = &names;
    assert!(server.terminate().success());
    let said = verify(&server, &["--files"]).unwrap();
    assert!(said.contains("4 files are as they were uploaded"), "{said}");

    let place = |name: &str| server.data_dir().join("asset").join(name);
    std::fs::write(place(forged), b"forged").unwrap();
    std::fs::write(place(cut), b"hone").unwrap();
    std::fs::remove_file(place(gone)).unwrap();
    assert!(
        verify(&server, &[]).is_ok(),
        "only where files are asked for"
    );
    let error = verify(&server, &["--files"]).unwrap_err();
    for expected in [
        "3 files are not as they were uploaded".to_owned(),
        format!("{forged}: its content differs"),
        format!("{cut}: it has a different size"),
        format!("{gone}: it does not exist"),
    ] {
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    assert!(!error.contains(honest.as_str()), "{error}");
}

fn verify(server: &TestServer, more: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["log", "verify"];
    arguments.extend(more);
    outcome(&server.skytrail(&arguments))
}

fn outcome(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// Verifies an export without the server's code.
fn verify_elsewhere(export: &Path, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(repository("examples/verify-log/verify_log.py"));
    outcome(&command.arg(export).args(more).output().unwrap())
}

fn export(server: &TestServer, name: &str, more: &[&str]) -> std::path::PathBuf {
    let mut arguments = vec!["log", "export"];
    arguments.extend(more);
    let exported = outcome(&server.skytrail(&arguments)).unwrap();
    let path = server.folder().join(name);
    std::fs::write(&path, exported).unwrap();
    path
}

fn key(server: &TestServer) -> String {
    let key = outcome(&server.skytrail(&["log", "key"])).unwrap();
    key.trim().to_owned()
}

/// The commits that saved a note.
fn places(forger: &Forger) -> Vec<usize> {
    let has = |number: &usize| {
        let (.., payload) = &forger.commits[*number].events[0];
        String::from_utf8_lossy(payload).contains("honest")
    };
    let found: Vec<usize> = (0..forger.commits.len()).filter(has).collect();
    assert_eq!(found.len(), NOTES as usize);
    found
}

#[test]
fn an_honest_past_is_vouched_for() {
    let server = signed();
    let said = verify(&server, &[]).unwrap();
    assert!(said.contains("1 signed checkpoints"), "{said}");
    let export = export(&server, "all.jsonl", &[]);
    let said = verify_elsewhere(&export, &["--key", &key(&server)]).unwrap();
    assert!(
        said.contains("1 signed checkpoints vouch for everything"),
        "{said}"
    );
}

#[test]
fn a_careful_forger_is_found_every_time() {
    let server = signed();
    let honest = Forger::of(&server);
    let places = places(&honest);
    type Attack = fn(&mut Forger, usize);
    let attacks: [(&str, Attack); 7] = [
        ("edit", |log, at| log.edit(at)),
        ("insert", |log, at| {
            log.commits.insert(at, log.commits[at].clone())
        }),
        ("insert and renumber", |log, at| {
            log.commits.insert(at, log.commits[at].clone());
            log.renumber();
        }),
        ("delete", |log, at| drop(log.commits.remove(at))),
        ("delete and renumber", |log, at| {
            log.commits.remove(at);
            log.renumber();
        }),
        ("reorder", |log, at| log.commits.swap(at, at - 1)),
        ("reorder and renumber", |log, at| {
            log.commits.swap(at, at - 1);
            log.renumber();
        }),
    ];
    for (name, attack) in attacks {
        // The last one is like any other, because the end is signed.
        for at in places.iter().skip(1).step_by(4).chain(places.last()) {
            let mut forged = honest.clone();
            attack(&mut forged, *at);
            forged.write();
            let said = verify(&server, &[]).expect_err(name);
            let is_named = said.contains("segment=00000000000000000001.journal offset=");
            assert!(
                is_named || said.contains("was signed at"),
                "{name} {at}: {said}"
            );
        }
    }
    honest.write();
    verify(&server, &[]).unwrap();
}

#[test]
fn a_rewritten_past_is_found_by_what_was_signed() {
    let server = signed();
    let key = key(&server);
    let honest = Forger::of(&server);
    let notes = server.data_dir().join("checkpoints.jsonl");
    let kept = server.folder().join("kept.jsonl");
    std::fs::copy(&notes, &kept).unwrap();
    for at in places(&honest).into_iter().step_by(5) {
        let mut forged = honest.clone();
        forged.edit(at);
        forged.link();
        forged.write();
        let said = verify(&server, &[]).unwrap_err();
        assert!(said.contains("differs from the signed one"), "{said}");
        let export = export(&server, "forged.jsonl", &[]);
        let said = verify_elsewhere(&export, &["--key", &key]).unwrap_err();
        assert!(said.contains("differs from the signed one"), "{said}");
    }
    // A forger who also removes the checkpoints does not have the copies that others keep.
    std::fs::remove_file(&notes).unwrap();
    let said = verify(&server, &[]).unwrap();
    assert!(said.contains("no signed checkpoints"), "{said}");
    let kept = kept.to_str().unwrap();
    let said = verify(&server, &["--checkpoints", kept, "--key", &key]).unwrap_err();
    assert!(said.contains("differs from the signed one"), "{said}");
    let export = export(&server, "forged.jsonl", &[]);
    let said = verify_elsewhere(&export, &["--key", &key]).unwrap();
    assert!(
        said.contains("nothing says that it was not made up"),
        "{said}"
    );
    let elsewhere = ["--key", &key, "--checkpoints", kept];
    let said = verify_elsewhere(&export, &elsewhere).unwrap_err();
    assert!(said.contains("differs from the signed one"), "{said}");
    // Nor does a forger have the key.
    honest.write();
    let text = std::fs::read_to_string(kept).unwrap();
    for (old, new) in [
        ("\"position\":", "\"position\":1"),
        ("\"chain\":\"", "\"chain\":\"00"),
    ] {
        let forged = match old {
            "\"chain\":\"" => {
                let at = text.find(old).unwrap() + old.len();
                format!("{}{}{}", &text[..at], "00", &text[at + 2..])
            }
            _ => text.replace(old, new),
        };
        std::fs::write(&notes, forged).unwrap();
        let said = verify(&server, &["--key", &key]).unwrap_err();
        assert!(said.contains("is not signed by the log's key"), "{said}");
    }
}

/// Replaces the payload of an event that matches by its hash, as an erasure does.
fn blank(export: &str, is_it: impl Fn(&str) -> bool) -> String {
    let blanked = export.lines().map(|line| {
        let mut line: Json = serde_json::from_str(line).unwrap();
        let events = line["events"].as_array_mut().into_iter().flatten();
        for event in events {
            let Some(payload) = event["payload"].as_str().filter(|it| is_it(it)) else {
                continue;
            };
            let salt = event["salt"].as_str().unwrap();
            let salt = u128::from_str_radix(salt, 16).unwrap().to_be_bytes();
            let hash = blake3::Hash::from(chain::payload_hash(&salt, payload.as_bytes()));
            *event = json!({"head": event["head"], "payload_hash": hash.to_hex().as_str()});
        }
        format!("{line}\n")
    });
    blanked.collect()
}

#[test]
fn a_payload_is_missing_only_if_an_erasure_names_it() {
    let mut server = signed();
    server.restart();
    let erased = json!({"record": "note/0", "why": "asked for on paper"});
    Client::master(&server)
        .call("erase:record", erased)
        .result();
    assert!(server.terminate().success());
    let key = key(&server);
    let honest = export(&server, "all.jsonl", &[]);
    let said = verify_elsewhere(&honest, &["--key", &key, "--whole"]).unwrap();
    assert!(!said.contains("the payloads of 0 are erased"), "{said}");
    let text = std::fs::read_to_string(&honest).unwrap();
    std::fs::write(&honest, blank(&text, |it| it.contains("honest"))).unwrap();
    let said = verify_elsewhere(&honest, &["--key", &key, "--whole"]).unwrap_err();
    assert!(
        said.contains("missing that no erasure here names, at"),
        "{said}"
    );
    let said = verify_elsewhere(&honest, &["--key", &key]).unwrap();
    assert!(
        said.contains("missing that no erasure here names, at"),
        "{said}"
    );
}

#[test]
fn what_is_taken_off_the_end_is_missed() {
    let server = signed();
    let mut forged = Forger::of(&server);
    forged.commits.pop();
    forged.write();
    let said = verify(&server, &[]).unwrap_err();
    assert!(said.contains("was signed at"), "{said}");
}

#[test]
fn an_export_is_checked_line_by_line() {
    let server = signed();
    let key = key(&server);
    let part = export(&server, "part.jsonl", &["--from", "10", "--to", "20"]);
    let said = verify_elsewhere(&part, &["--key", &key]).unwrap();
    assert!(
        said.contains("nothing says that it was not made up"),
        "{said}"
    );
    let all = export(&server, "all.jsonl", &["--from", "10"]);
    let text = std::fs::read_to_string(&all).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let shown = verify_elsewhere(&all, &["--key", &key, "--show"]).unwrap();
    assert!(shown.contains("honest 23"), "{shown}");
    let without = |number: usize| {
        let mut lines = lines.clone();
        lines.remove(number);
        lines.join("\n")
    };
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    let forged = [
        text.replacen("honest 20", "forged 20", 1),
        text.replacen("\"salt\":\"", "\"salt\":\"00", 1),
        without(1),
        without(5),
        swapped.join("\n"),
        without(0),
        String::new(),
    ];
    for (number, forged) in forged.iter().enumerate() {
        assert_ne!(forged, &text);
        let path = server.folder().join("forged.jsonl");
        std::fs::write(&path, forged).unwrap();
        let said = verify_elsewhere(&path, &["--key", &key]).expect_err("forged");
        assert!(said.starts_with("WRONG: "), "{number}: {said}");
    }
    let refused = outcome(&server.skytrail(&["log", "export", "--from", "9", "--to", "5"]));
    assert!(refused.unwrap_err().contains("are not in a log"));
}

/// A part is a part, but whoever expects the whole log learns that it is not.
#[test]
fn an_export_that_ends_before_a_kept_checkpoint_says_so() {
    let server = signed();
    let key = key(&server);
    let kept = server.data_dir().join("checkpoints.jsonl");
    let kept = ["--key", &key, "--checkpoints", kept.to_str().unwrap()];
    let whole = [kept.as_slice(), &["--whole"]].concat();
    let all = export(&server, "all.jsonl", &[]);
    let said = verify_elsewhere(&all, &whole).unwrap();
    assert!(said.contains("vouch for everything"), "{said}");
    assert!(!said.contains("but the log was signed at"), "{said}");
    let part = export(&server, "part.jsonl", &["--to", "20"]);
    let said = verify_elsewhere(&part, &kept).unwrap();
    assert!(
        said.contains("ends at 20, but the log was signed at"),
        "{said}"
    );
    let said = verify_elsewhere(&part, &whole).unwrap_err();
    assert!(said.contains("but the log was signed at"), "{said}");
    let end = export(&server, "end.jsonl", &["--from", "20"]);
    let said = verify_elsewhere(&end, &kept).unwrap();
    assert!(said.contains("vouch for everything"), "{said}");
    let said = verify_elsewhere(&end, &whole).unwrap_err();
    assert!(said.contains("is not the whole log"), "{said}");
    let said = verify_elsewhere(&part, &["--key", &key, "--whole"]).unwrap_err();
    assert!(said.contains("no checkpoint"), "{said}");
    let said = verify_elsewhere(&part, &kept[2..]).unwrap_err();
    assert!(said.contains("--key"), "{said}");
}

#[test]
fn a_log_that_is_written_meanwhile_is_checked_as_it_is() {
    let mut server = signed();
    server.restart();
    let client = Client::signed_up(&server, "other");
    client.save("note/new", json!({"text": "later"}));
    let said = verify(&server, &[]).unwrap();
    assert!(
        said.contains("1 signed checkpoints, the last one at"),
        "{said}"
    );
    let health = Client::master(&server).health();
    assert_eq!(health["checkpoints"]["public_key"], key(&server));
    // A backup is signed, and a restore brings the key back.
    let target = server.folder().join("backups");
    outcome(&server.skytrail(&["backup", target.to_str().unwrap()])).unwrap();
    let manifest = std::fs::read_dir(target.join("backups")).unwrap().next();
    let manifest = std::fs::read(manifest.unwrap().unwrap().path()).unwrap();
    let manifest: Json = serde_json::from_slice(&manifest).unwrap();
    let note = &manifest["manifest"]["checkpoint"];
    let kept = server.folder().join("kept.jsonl");
    std::fs::write(&kept, format!("{note}\n")).unwrap();
    let kept = [
        "--checkpoints",
        kept.to_str().unwrap(),
        "--key",
        &key(&server),
    ];
    let said = verify(&server, &kept).unwrap();
    assert!(said.contains("2 signed checkpoints"), "{said}");
    let to = server.folder().join("restored");
    let restore = [
        "restore",
        target.to_str().unwrap(),
        "--to",
        to.to_str().unwrap(),
    ];
    outcome(&server.skytrail(&restore)).unwrap();
    let restored = TestServer::with(&[("DATA_DIR", to.to_str().unwrap())]);
    assert_eq!(key(&restored), key(&server));
    verify(&restored, &kept).unwrap();
    // A log restored to before the checkpoint has none that it could not satisfy.
    let to = server.folder().join("before");
    let to = to.to_str().unwrap();
    let restore = [
        "restore",
        target.to_str().unwrap(),
        "--to",
        to,
        "--until",
        "20",
    ];
    outcome(&server.skytrail(&restore)).unwrap();
    let restored = TestServer::with(&[("DATA_DIR", to)]);
    verify(&restored, &[]).unwrap();
    assert!(server.terminate().success());
    assert!(server.output().contains("the log is signed"));
}

#[test]
fn checkpoints_that_are_named_have_to_be_there() {
    let server = signed();
    let key = key(&server);
    let file = server.folder().join("kept.jsonl");
    let path = file.to_str().unwrap();
    for key in [None, Some(key.as_str())] {
        let with = |path: &str| {
            let mut more = vec!["--checkpoints", path];
            more.extend(key.iter().flat_map(|key| ["--key", key]));
            verify(&server, &more)
        };
        let _ = std::fs::remove_file(&file);
        let said = with(path).unwrap_err();
        assert!(said.contains("kept.jsonl: No such file"), "{said}");
        // Neither is accepted: an empty file, nor one whose only line is cut off.
        for left in ["", "\n\n", "{\"store_id\":"] {
            std::fs::write(&file, left).unwrap();
            let said = with(path).unwrap_err();
            assert!(
                said.contains("kept.jsonl has no checkpoint"),
                "{left:?}: {said}"
            );
        }
        std::fs::copy(server.data_dir().join("checkpoints.jsonl"), &file).unwrap();
        let said = with(path).unwrap();
        assert!(said.contains("kept.jsonl has 1 of them"), "{said}");
    }
}

#[test]
fn a_key_that_is_named_has_to_have_something_to_check() {
    let server = TestServer::start();
    let client = Client::signed_up(&server, "writer");
    client.save("note/1", json!({"text": "not signed yet"}));
    let said = verify(&server, &[]).unwrap();
    assert!(said.contains("there are no signed checkpoints"), "{said}");
    let said = verify(&server, &["--key", &key(&server)]).unwrap_err();
    assert!(
        said.contains("no checkpoint that the key could check"),
        "{said}"
    );
}

#[test]
fn a_lost_key_is_missed() {
    let warning = "log.key is missing";
    let mut server = signed();
    assert!(!server.output().contains(warning));
    let path = server.data_dir().join("log.key");
    let lost = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    server.restart();
    eventually("the loss is noticed", || {
        server.output().contains(warning).then_some(())
    });
    server.kill();
    let said = verify(&server, &[]).unwrap_err();
    let expected = "line 1: the checkpoint at position";
    assert!(said.contains(expected), "{said}");
    assert!(said.contains("restore log.key from a backup"), "{said}");
    std::fs::write(&path, lost).unwrap();
    server.restart();
    assert!(!server.output().contains(warning));
    assert!(server.terminate().success());
    verify(&server, &[]).unwrap();
}

#[test]
fn a_start_that_writes_nothing_signs_nothing_again() {
    let mut server = signed();
    let path = server.data_dir().join("checkpoints.jsonl");
    let notes = std::fs::read_to_string(&path).unwrap();
    server.restart();
    assert!(server.terminate().success());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
    server.restart();
    Client::master(&server).save("note/new", json!({"text": "new"}));
    assert!(server.terminate().success());
    let more = std::fs::read_to_string(&path).unwrap();
    assert_eq!(more.lines().count(), notes.lines().count() + 1);
    verify(&server, &[]).unwrap();
}
