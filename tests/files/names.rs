//! Names: none leads out of the store's folder, and a file can be read back whatever its name
//! contains.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::raw::Raw;
use super::{announce, ask, form, path_of, request};
use crate::support::client::Client;
use crate::support::server::TestServer;

fn files_below(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.insert(entry.path());
        }
    }
}

/// Returns everything below the data folder's parent that is not in the store.
fn files_outside(server: &TestServer) -> BTreeSet<PathBuf> {
    let data = server.data_dir();
    let (mut all, store) = (BTreeSet::new(), data.join("asset"));
    files_below(data.parent().unwrap(), &mut all);
    all.retain(|path| !path.starts_with(&store));
    all
}

const HOSTILE: [&str; 20] = [
    "../escaped.txt",
    "../../escaped.txt",
    "..%2f..%2fescaped.txt",
    "%2e%2e/%2e%2e/escaped.txt",
    "%2e%2e%2fescaped.txt",
    "%252e%252e/escaped.txt",
    "/etc/escaped.txt",
    "//etc/escaped.txt",
    "..\\..\\escaped.txt",
    "..%5c..%5cescaped.txt",
    "C:\\escaped.txt",
    "a/../../escaped.txt",
    ".../escaped.txt",
    "..+/..+/escaped.txt",
    ".+./escaped.txt",
    ".uploads/escaped.txt",
    "./.uploads/escaped.txt",
    "a/.uploads/../../escaped.txt",
    "~/escaped.txt",
    "escaped.txt/.",
];

#[test]
fn no_name_leads_out_of_the_folder() {
    let server = TestServer::with(&[("ASSET_STORE_PUBLIC", "YES")]);
    let client = Client::anonymous(&server);
    let before = files_outside(&server);
    let (content_type, body) = form("text/plain", b"bad");
    for name in HOSTILE {
        let mut raw = Raw::connect(&server);
        let head = [
            ("Content-Type", "text/plain".to_owned()),
            ("Content-Length", "3".to_owned()),
        ];
        raw.head("PUT", format!("/files/{name}").as_bytes(), &head);
        raw.send(b"bad");
        let (status, text) = raw.text();
        assert!(matches!(status, 200 | 400), "{name}: {status} {text}");

        let asked = json!({"filename": name, "content-type": "a/b", "content-size": 3});
        let answer = client.call("asset:put", asked);
        assert!(
            matches!(answer.status, 200 | 400),
            "{name}: {}",
            answer.json()
        );
        if answer.status == 200 {
            let action = answer.json()["result"]["post-request"]["action"].clone();
            let head = [("Content-Type", content_type.as_str())];
            let stored = request(
                &server,
                "POST",
                action.as_str().unwrap(),
                &head,
                Some(&body),
            );
            let asset = stored.result();
            assert_eq!(
                ask(&server, "GET", &path_of(&asset), &[]).bytes,
                b"bad",
                "{name}"
            );
        }
    }
    let outside = files_outside(&server);
    let new: Vec<_> = outside.difference(&before).collect();
    assert!(
        new.iter()
            .all(|path| !path.to_string_lossy().contains("escaped")),
        "{new:?}"
    );
}

#[test]
fn nothing_but_files_can_be_read() {
    let server = TestServer::with(&[("ASSET_STORE_PUBLIC", "YES"), ("API_KEY", "")]);
    assert!(server.data_dir().join("keys.json").exists());
    for name in [
        "../keys.json",
        "%2e%2e/keys.json",
        "..%2fkeys.json",
        "/../keys.json",
        "....//keys.json",
        "..+/keys.json",
        "%2e%2e%5ckeys.json",
        "keys.json%00.txt",
        "",
        ".uploads",
        "%ff",
    ] {
        let mut raw = Raw::connect(&server);
        raw.head("GET", format!("/files/{name}").as_bytes(), &[]);
        let (status, text) = raw.text();
        assert_eq!(status, 500, "{name}: {text}");
        assert!(text.contains("failed to fetch asset id"), "{name}: {text}");
    }
}

#[test]
fn names_that_no_store_takes_are_refused() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    let long = "x".repeat(256);
    let deep = "x/".repeat(1000) + "x";
    for name in ["", "/", "folder/", "..", "+", "a\0b", "a\nb", &long, &deep] {
        let asked = json!({"filename": name, "content-type": "a/b", "content-size": 3});
        let answer = client.call("asset:put", asked);
        assert_eq!((answer.status, answer.code()), (400, 108), "{name:?}");
        assert_eq!(
            answer.json()["error"]["info"]["arguments"],
            json!(["filename"])
        );
    }
    // The server puts an id in front of the last part.
    let longest = "folder/".to_owned() + &"x".repeat(218);
    announce(&client, &longest, "text/plain", 3);
    let asked = json!({"filename": longest + "x", "content-type": "a/b", "content-size": 3});
    let by_action = client.call("asset:put", asked);
    let path = format!("/files/{}", "x".repeat(219));
    let head = [("Content-Type", "text/plain")];
    for answer in [by_action, request(&server, "PUT", &path, &head, Some(b"x"))] {
        assert_eq!((answer.status, answer.code()), (400, 108));
        let message = "filename has 219 bytes, at most 218 are allowed";
        assert_eq!(answer.json()["error"]["message"], message);
    }
    for path in ["/files/", "/files/%00", "/files/a%0ab"] {
        let head = [("Content-Type", "text/plain")];
        let answer = request(&server, "PUT", path, &head, Some(b"x"));
        assert_eq!((answer.status, answer.code()), (400, 108), "{path}");
    }
}

/// A file is not a folder: a file below it could not be stored, or would be in its way.
#[test]
fn no_name_lies_below_a_file() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    let (asset, action) = announce(&client, "deep/a.txt", "text/plain", 1);
    let file = asset["$name"].as_str().unwrap();
    for below in ["x.txt", "y/z/x.txt"] {
        let name = format!("{file}/{below}");
        let message = format!("{file} is a file and cannot be a folder");
        let asked = json!({"filename": name, "content-type": "a/b", "content-size": 3});
        let (content_type, body) = form("text/plain", b"bad");
        let path = format!("/files/{name}");
        let plain = [("Content-Type", "text/plain")];
        for answer in [
            client.call("asset:put", asked),
            request(&server, "PUT", &path, &plain, Some(b"bad")),
            request(
                &server,
                "POST",
                &path,
                &[("Content-Type", &content_type)],
                Some(&body),
            ),
        ] {
            assert_eq!((answer.status, answer.code()), (400, 108), "{name}");
            let error = answer.json()["error"].clone();
            assert_eq!(error["message"], message);
            assert_eq!(error["info"]["arguments"], json!(["filename"]));
        }
    }
    // The file itself has its place, and others can be stored next to it.
    let plain = [("Content-Type", "text/plain")];
    request(&server, "PUT", &action, &plain, Some(b"x")).result();
    let (_, beside) = announce(&client, "deep/b.txt", "text/plain", 1);
    request(&server, "PUT", &beside, &plain, Some(b"x")).result();
}

#[test]
fn whatever_a_name_holds_it_is_read_back() {
    let server = TestServer::start();
    let client = Client::anonymous(&server);
    for name in [
        "a b.txt",
        "100%.txt",
        "a%20b.txt",
        "what?.txt",
        "#1.txt",
        "1+1.txt",
        "a&b=c;d,e.txt",
        "Grüße.txt",
        "图片/照片 1.png",
        "😀.gif",
        "(a) [b] {c} 'd' \"e\" <f> |g|.txt",
        "back\\slash.txt",
    ] {
        let (asset, action) = announce(&client, name, "text/plain", 4);
        assert!(action.is_ascii(), "{action}");
        let (content_type, body) = form("text/plain", name.as_bytes());
        let head = [("Content-Type", content_type.as_str())];
        let stored = request(&server, "POST", &action, &head, Some(&body)).result();
        assert_eq!(stored["$name"], asset["$name"], "{name}");
        let found = ask(&server, "GET", &path_of(&asset), &[]);
        assert_eq!(
            (found.status, found.bytes.as_slice()),
            (200, name.as_bytes())
        );
    }
}

/// Sends a file to a path of arbitrary bytes; returns the status and the name it got.
fn put_raw(server: &TestServer, path: &[u8]) -> (u16, String) {
    let mut raw = Raw::connect(server);
    let head = [
        ("Content-Type", "text/plain".to_owned()),
        ("Content-Length", "1".to_owned()),
    ];
    raw.head("PUT", path, &head);
    raw.send(b"x");
    let (status, text) = raw.text();
    (status, text)
}

#[test]
fn names_may_come_escaped_as_utf_8_or_latin_1() {
    let server = TestServer::start();
    let (asset, _) = announce(&Client::anonymous(&server), "Grüße.txt", "text/plain", 1);
    let name = asset["$name"].as_str().unwrap();
    let as_byte = |c| u8::try_from(u32::from(c)).unwrap();
    let latin: Vec<u8> = name.chars().map(as_byte).collect();
    for bytes in [name.as_bytes(), &latin] {
        let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
        let (status, text) = put_raw(&server, format!("/files/{escaped}").as_bytes());
        assert_eq!(status, 200, "{text}");
        assert!(text.contains(name), "{text}");
        // An invalid path is refused before anything looks at it.
        let path = [b"/files/".as_slice(), bytes].concat();
        assert_eq!(put_raw(&server, &path).0, 400);
    }
}
