//! Uploads: complete or not at all, within limits, never in memory.

use std::io::Read as _;

use serde_json::{Value as Json, json};

use super::raw::Raw;
use super::{announce, ask, form, num_unfinished, path_of, request, upload};
use crate::support::client::{Answer, Client, send};
use crate::support::eventually;
use crate::support::machine::{Mount, skipped};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer};

const MIB: usize = 1 << 20;

fn put_head(length: usize) -> Vec<(&'static str, String)> {
    vec![
        ("Content-Type", "application/x-test".to_owned()),
        ("Content-Length", length.to_string()),
    ]
}

#[test]
fn an_announced_file_is_sent_as_the_sdks_do_and_read_back() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    let (asset, action) = announce(&client, "photos/me.png", "image/png", 5);
    let name = asset["$name"].as_str().unwrap();
    assert!(
        name.starts_with("photos/") && name.ends_with("-me.png"),
        "{name}"
    );
    assert_eq!(action, format!("/files/{name}"));
    // Announced, but not uploaded yet.
    let answer = ask(&server, "GET", &path_of(&asset), &[]);
    assert_eq!((answer.status, answer.code()), (500, 10000));

    let (content_type, body) = form("text/html", b"bytes");
    let head = [("Content-Type", content_type.as_str())];
    let stored = request(&server, "POST", &action, &head, Some(&body)).result();
    assert_eq!(stored["$name"], asset["$name"]);
    assert_eq!(stored["$content_type"], "image/png", "{stored}");
    let answer = ask(&server, "GET", &path_of(&asset), &[]);
    assert_eq!(
        (answer.status, answer.bytes.as_slice()),
        (200, &b"bytes"[..])
    );
    assert_eq!(answer.header("Content-Type"), Some("image/png"));
    assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(answer.header("Access-Control-Allow-Origin"), Some("*"));
}

/// So the file store can be compared with the log.
#[test]
fn the_log_has_the_hash_of_what_was_sent_and_who_sent_it() {
    let server = TestServer::start();
    let ada = Client::signed_up(&server, "ada");
    let token = ada.token.clone().unwrap();
    let (asset, action) = announce(&ada, "photos/me.png", "image/png", 5);
    let head = [
        ("Content-Type", "image/png"),
        ("X-Skygear-Access-Token", token.as_str()),
    ];
    request(&server, "PUT", &action, &head, Some(b"bytes")).result();
    // An invalid token counts as no token.
    let (other, action) = announce(&Client::anonymous(&server), "b.png", "image/png", 5);
    let head = [
        ("Content-Type", "image/png"),
        ("X-Skygear-Access-Token", "nonsense"),
    ];
    request(&server, "PUT", &action, &head, Some(b"other")).result();

    let events = |asset: &Json| {
        let stream = format!("asset/{}", asset["$name"].as_str().unwrap());
        let answer = Client::master(&server).call("log:read", json!({"stream": stream}));
        answer.result().as_array().unwrap().clone()
    };
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let found = events(&asset);
    for event in &found {
        assert_eq!(event["actor"]["user"], json!(ada.user), "{event}");
    }
    let uploaded = found.last().unwrap();
    assert_eq!(uploaded["kind"], "asset.uploaded");
    let expected = json!({"size": 5, "blake3": hash(b"bytes")});
    assert_eq!(uploaded["payload"], expected, "{uploaded}");
    let found = events(&other);
    let uploaded = found.last().unwrap();
    assert_eq!(uploaded["actor"]["user"], Json::Null);
    assert_eq!(uploaded["payload"]["blake3"], hash(b"other"));
}

/// Every download and every record that names the file has its media type.
#[test]
fn media_types_are_short_and_what_a_header_holds() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    let (longest, longer) = ("x".repeat(255), "x".repeat(256));
    let held = "content-type has characters that a header cannot hold";
    let short = "content-type has 256 bytes, at most 255 are allowed";
    for (content_type, message) in [
        (&*longer, short),
        ("a\nb", held),
        ("a\0b", held),
        ("ü", held),
    ] {
        let asked = json!({"filename": "a", "content-type": content_type, "content-size": 1});
        let refused = client.call("asset:put", asked);
        assert_eq!((refused.status, refused.code()), (400, 108));
        let error = refused.json()["error"].clone();
        assert_eq!(error["message"], message);
        assert_eq!(error["info"]["arguments"], json!(["content-type"]));
    }
    let refused = |answer: Answer, message: &str| {
        assert_eq!((answer.status, answer.code()), (400, 108), "{message}");
        assert_eq!(answer.json()["error"]["message"], message);
    };
    let put = |path: &str, content_type: &str| {
        request(
            &server,
            "PUT",
            path,
            &[("Content-Type", content_type)],
            Some(b"x"),
        )
    };
    let (form_type, body) = form(&longer, b"x");
    let form_type = [("Content-Type", form_type.as_str())];
    refused(put("/files/a", &longer), short);
    refused(put("/files/a", "ü"), held);
    refused(
        request(&server, "POST", "/files/a", &form_type, Some(&body)),
        short,
    );

    let stored = put("/files/a", &longest).result();
    assert_eq!(stored["$content_type"], longest);
    let found = ask(&server, "GET", &path_of(&stored), &[]);
    assert_eq!(found.header("Content-Type"), Some(&*longest));
    // An announced file counts with its announced size.
    let (asset, action) = announce(&client, "a", "", 1);
    put(&action, &longer).result();
    let found = ask(&server, "GET", &path_of(&asset), &[]);
    assert_eq!(
        found.header("Content-Type"),
        Some("application/octet-stream")
    );
}

#[test]
fn a_key_may_be_in_the_query_and_must_be_right() {
    let server = TestServer::start();
    let ask = |query: &str| {
        let url = format!("{}/files/a.txt{query}", server.base_url);
        let head = [("Content-Type".to_owned(), "text/plain".to_owned())];
        send("PUT", &url, &head, Some(b"x".to_vec())).unwrap()
    };
    let right = ask(&format!("?api_key={API_KEY}"));
    assert_eq!(right.status, 200);
    assert_eq!(
        (ask("?api_key=no").status, ask("?api_key=no").code()),
        (401, 103)
    );
    assert_eq!((ask("").status, ask("").code()), (401, 101));
}

#[test]
fn a_file_above_the_limit_is_refused_however_it_comes() {
    let server = TestServer::with(&[("ASSET_MAX_BYTES", "1000")]);
    let client = Client::anonymous(&server);
    let body = json!({"filename": "a", "content-type": "text/plain", "content-size": 1001});
    let answer = client.call("asset:put", body);
    assert_eq!((answer.status, answer.code()), (413, 129));

    let (_, action) = announce(&client, "a", "text/plain", 1000);
    let large = vec![b'x'; 1001];
    let head = [("Content-Type", "text/plain")];
    let answer = request(&server, "PUT", &action, &head, Some(&large));
    assert_eq!((answer.status, answer.code()), (413, 129));
    let (content_type, body) = form("text/plain", &large);
    let head = [("Content-Type", content_type.as_str())];
    let answer = request(&server, "POST", &action, &head, Some(&body));
    assert_eq!((answer.status, answer.code()), (413, 129));

    // Without an announced length, and far above the limit.
    let mut chunked = Raw::connect(&server);
    let head = [
        ("Content-Type", "text/plain".to_owned()),
        ("Transfer-Encoding", "chunked".to_owned()),
    ];
    chunked.head("PUT", action.as_bytes(), &head);
    let chunk = [
        format!("{MIB:x}\r\n").into_bytes(),
        vec![b'x'; MIB],
        b"\r\n".to_vec(),
    ]
    .concat();
    chunked.try_send(&chunk);
    let (status, text) = chunked.text();
    assert_eq!(status, 413, "{text}");

    let (content_type, body) = form("text/plain", &large[..1000]);
    let head = [("Content-Type", content_type.as_str())];
    assert_eq!(
        request(&server, "POST", &action, &head, Some(&body)).status,
        200
    );
    assert_eq!(num_unfinished(&server), 0);
}

/// What follows the last byte is completed whether the client is connected or not.
#[test]
fn who_hangs_up_at_the_end_brings_no_erased_file_back_and_leaves_none_that_nobody_knows() {
    const NUM_FILES: usize = 12;
    let mut server = TestServer::start();
    let master = Client::master(&server);
    let begin = |path: &str| {
        let mut raw = Raw::connect(&server);
        raw.head("PUT", path.as_bytes(), &put_head(MIB));
        raw.send(&vec![1; MIB - 10]);
        eventually("the upload begins", || {
            (num_unfinished(&server) == 1).then_some(())
        });
        raw
    };
    let ended = || (num_unfinished(&server) == 0).then_some(());
    for number in 0..NUM_FILES {
        let (asset, path) = announce(&master, "erased.bin", "application/x-test", MIB as u64);
        let note = format!("note/{number}");
        master.save(&note, json!({"file": asset}));
        let mut raw = begin(&path);
        let erase = json!({"record": note, "why": "a test"});
        let erased = master.call("erase:record", erase).result();
        assert_eq!(erased["files"], json!([asset["$name"]]), "{erased}");
        raw.send(&[1; 10]);
        drop(raw);
        eventually("it ends", ended);
        let mut raw = begin("/files/known.bin");
        raw.send(&[1; 10]);
        drop(raw);
        eventually("it ends", ended);
    }
    assert!(server.terminate().success());
    let folder = std::fs::read_dir(server.data_dir().join("asset")).unwrap();
    let kept: Vec<String> = folder
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert!(!kept.iter().any(|name| name.contains("erased")), "{kept:?}");
    server.restart();
    for name in kept {
        let known = json!({"$type": "asset", "$name": name});
        let saved = json!({"records": [{"_id": "note/names", "file": known}]});
        let saved = Client::master(&server).call("record:save", saved).result();
        assert_eq!(
            saved[0]["file"]["$content_type"], "application/x-test",
            "{saved}"
        );
    }
}

/// The user is erased between the first and the last byte.
#[test]
fn an_upload_does_not_outlive_its_user() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let ada = Client::signed_up(&server, "ada");
    let bytes = "canary-upload-6b1d".repeat(100_000);
    let (begun, rest) = bytes.split_at(bytes.len() - 10);
    let mut raw = Raw::connect(&server);
    let mut head = put_head(bytes.len());
    head.push(("X-Skygear-Access-Token", ada.token.clone().unwrap()));
    raw.head("PUT", b"/files/late.bin", &head);
    raw.send(begun.as_bytes());
    eventually("the upload begins", || {
        (num_unfinished(&server) == 1).then_some(())
    });
    let body = json!({"user": ada.user, "records": true, "why": "a test"});
    let erased = master.call("erase:user", body.clone()).result();
    assert_eq!(erased["finished"], true, "{erased}");
    raw.send(rest.as_bytes());
    let (status, text) = raw.text();
    let answer: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &answer["error"]["code"]),
        (401, &json!(104)),
        "{text}"
    );
    assert_eq!(num_unfinished(&server), 0);
    let body = json!({"kinds": ["asset.registered", "asset.uploaded"]});
    assert_eq!(master.call("log:read", body).result(), json!([]));
    let found = crate::support::search::files_with(&server.data_dir(), "canary-upload-6b1d");
    assert_eq!(found, Vec::<std::path::PathBuf>::new());
    // The server's own are not held up.
    let before = upload(&server, "a.txt", "text/plain", "whole");
    assert_eq!(ask(&server, "GET", &path_of(&before), &[]).status, 200);
}

#[test]
fn a_client_that_hangs_up_leaves_nothing() {
    let server = TestServer::start();
    let before = upload(&server, "a.txt", "text/plain", "whole");
    let path = format!("/files/{}", before["$name"].as_str().unwrap());
    for path in [path.as_str(), "/files/new.txt"] {
        let mut raw = Raw::connect(&server);
        raw.head("PUT", path.as_bytes(), &put_head(4 * MIB));
        raw.send(&vec![1; MIB]);
        eventually("the upload begins", || {
            (num_unfinished(&server) == 1).then_some(())
        });
        drop(raw);
        eventually("it is thrown away", || {
            (num_unfinished(&server) == 0).then_some(())
        });
    }
    let answer = ask(&server, "GET", &path_of(&before), &[]);
    assert_eq!(answer.bytes, b"whole");
    let kept = std::fs::read_dir(server.data_dir().join("asset")).unwrap();
    assert_eq!(kept.count(), 2, "the file and the folder of uploads");
}

#[test]
fn an_upload_that_takes_too_long_is_ended() {
    let server = TestServer::with(&[("ASSET_UPLOAD_TIMEOUT", "1")]);
    let mut raw = Raw::connect(&server);
    raw.head("PUT", b"/files/slow.txt", &put_head(100));
    raw.send(b"half");
    let (status, text) = raw.text();
    assert_eq!(status, 408, "{text}");
    eventually("it is thrown away", || {
        (num_unfinished(&server) == 0).then_some(())
    });
}

/// Uploads three MiB of one byte; returns the answer's status.
fn send_slowly(server: &TestServer, key: &str, path: &str, byte: u8) -> u16 {
    let mut raw = Raw::connect(server);
    raw.head_with(key, "PUT", path.as_bytes(), &put_head(3 * MIB));
    for _ in 0..3 {
        raw.send(&vec![byte; MIB]);
    }
    raw.text().0
}

#[test]
fn of_uploads_at_once_to_one_name_one_stays_whole() {
    let server = TestServer::with(&[("ASSET_STORE_PUBLIC", "YES")]);
    let client = Client::anonymous(&server);
    let (_, path) = announce(&client, "race.bin", "application/x-test", 1);
    let whole = || {
        let found = ask(&server, "GET", &path, &[]);
        assert_eq!(found.bytes.len(), 3 * MIB);
        assert!(found.bytes.iter().all(|byte| *byte == found.bytes[0]));
        found.bytes[0]
    };
    let at_once = |key: &'static str| {
        std::thread::scope(|scope| {
            let send = |byte| {
                let (server, path) = (&server, &path);
                scope.spawn(move || (byte, send_slowly(server, key, path, byte)))
            };
            [1, 1, 2, 3].map(send).map(|sent| sent.join().unwrap())
        })
    };
    let ended = at_once(API_KEY);
    let kept = whole();
    for (byte, status) in ended {
        let expected = if byte == kept { 200 } else { 409 };
        assert_eq!(status, expected, "{byte}, where {kept} stays");
    }
    for _ in 0..3 {
        let ended = at_once(MASTER_KEY);
        assert!(ended.iter().all(|(_, status)| *status == 200));
        whole();
    }
    assert_eq!(num_unfinished(&server), 0);
}

/// A user who may read a record that names a file knows the file's name.
#[test]
fn what_was_uploaded_is_replaced_by_the_master_key_alone() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let (asset, path) = announce(&master, "a.txt", "text/plain", 5);
    stays_as_uploaded(&server, &asset, &path, &|asset| {
        ask(&server, "GET", &path_of(asset), &[]).bytes
    });
    // This one was stored without being announced.
    let direct = upload(&server, "b.txt", "text/plain", "first");
    let path = format!("/files/{}", direct["$name"].as_str().unwrap());
    let form = form("text/plain", b"other");
    let head = [("Content-Type", form.0.as_str())];
    let refused = request(&server, "POST", &path, &head, Some(&form.1));
    assert_eq!((refused.status, refused.code()), (409, 109));
    let found = ask(&server, "GET", &path_of(&direct), &[]);
    assert_eq!(found.bytes, b"first");
    assert_eq!(num_unfinished(&server), 0);
}

/// Uploads to an announced name: first, again with other bytes, and with the master key.
pub fn stays_as_uploaded(
    server: &TestServer,
    asset: &Json,
    path: &str,
    fetch: &dyn Fn(&Json) -> Vec<u8>,
) {
    let put = |key: &str, text: &str| {
        let head = [("X-Skygear-API-Key", key), ("Content-Type", "text/plain")];
        let head = head.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let url = format!("{}{path}", server.base_url);
        send("PUT", &url, &head, Some(text.as_bytes().to_vec())).unwrap()
    };
    for _ in 0..2 {
        assert_eq!(put(API_KEY, "first").result()["$name"], asset["$name"]);
        assert_eq!(fetch(asset), b"first");
    }
    for other in ["other", "another"] {
        let refused = put(API_KEY, other);
        assert_eq!((refused.status, refused.code()), (409, 109));
        let name = asset["$name"].as_str().unwrap();
        let message = format!("file {name} was uploaded; only the master key replaces it");
        assert_eq!(refused.json()["error"]["message"], message);
        assert_eq!(fetch(asset), b"first");
    }
    put(MASTER_KEY, "other").result();
    assert_eq!(fetch(asset), b"other");
    assert_eq!(put(API_KEY, "first").code(), 109);
}

/// Returns the peak memory of the server, in KiB.
fn peak_memory(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_large_file_is_never_in_memory() {
    const CHUNKS: usize = 300;
    let server = TestServer::start();
    upload(&server, "warm.txt", "text/plain", "up");
    let before = peak_memory(&server);
    let mut raw = Raw::connect(&server);
    raw.head("PUT", b"/files/large.bin", &put_head(CHUNKS * MIB));
    let chunk: Vec<u8> = (0..MIB).map(|place| (place % 251) as u8).collect();
    for _ in 0..CHUNKS {
        raw.send(&chunk);
    }
    let (status, text) = raw.text();
    assert_eq!(status, 200, "{text}");
    let answer: Json = serde_json::from_str(&text).unwrap();

    let mut raw = Raw::connect(&server);
    raw.head("GET", path_of(&answer["result"]).as_bytes(), &[]);
    let (status, length, mut body) = raw.answer();
    assert_eq!((status, length), (200, (CHUNKS * MIB) as u64));
    let mut found = vec![0; MIB];
    for _ in 0..CHUNKS {
        body.read_exact(&mut found).unwrap();
        assert!(found == chunk);
    }
    let grown = peak_memory(&server) - before;
    println!("{CHUNKS} MiB went in and out with {grown} KiB of memory");
    assert!(grown < 32 * 1024, "{grown} KiB more than before");
}

#[test]
fn a_file_that_finds_no_space_is_refused_as_a_record_is() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::memory(&folder.path().join("disk"), "2m") {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let path = mount.folder().join("files").to_string_lossy().into_owned();
    let mut server = TestServer::with(&[("ASSET_STORE_PATH", &path)]);
    let head = [("Content-Type", "text/plain")];
    let text = vec![b'x'; 4 << 20];
    let answer = request(&server, "PUT", "/files/large.txt", &head, Some(&text));
    assert_eq!(answer.status, 507);
    let message = answer.json()["error"]["message"].to_string();
    assert!(message.contains("disk is full"), "{message}");
    server.kill();
}
