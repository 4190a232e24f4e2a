//! Files move from one store to another.

use serde_json::json;

use super::s3::{BUCKET, in_bucket};
use super::{announce, path_of, upload};
use crate::support::client::Client;
use crate::support::s3::{Service, fetch};
use crate::support::server::TestServer;

/// Runs `skytrail import files` with further settings. Returns whether it succeeded, and what it
/// printed.
fn import(server: &TestServer, arguments: &[&str], settings: &[(&str, &str)]) -> (bool, String) {
    let set = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let set: Vec<_> = set.flat_map(|it| ["--set".to_owned(), it]).collect();
    let mut all = vec!["import", "files"];
    all.extend(arguments);
    all.extend(set.iter().map(String::as_str));
    let done = server.skytrail(&all);
    let printed = [done.stdout, done.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    (done.status.success(), printed)
}

/// The numbers of the report's line: found, added, updated, present, kept, refused.
fn counts(printed: &str) -> Vec<&str> {
    let mut lines = printed.lines().filter_map(|it| it.strip_prefix("files"));
    lines
        .next_back()
        .unwrap_or(printed)
        .split_whitespace()
        .collect()
}

#[test]
fn files_move_to_a_bucket_and_back_with_their_media_types() {
    let service = Service::start(BUCKET);
    let mut server = TestServer::start();
    let picture = upload(&server, "pictures/one%20%C3%BC.png", "image/png", "picture");
    let page = upload(&server, "page", "text/html", "<p>page");
    let ada = Client::signed_up(&server, "ada");
    announce(&ada, "never-sent.txt", "text/plain", 7);
    ada.save("note/1", json!({"picture": picture, "page": page}));
    let folder = server.data_dir().join("asset");
    let folder = folder.to_str().unwrap();
    let settings = in_bucket(&service.endpoint);

    let (ok, printed) = import(&server, &["--assets-from", folder], &settings);
    assert!(!ok && printed.contains("another process"), "{printed}");
    assert!(server.terminate().success());
    let (ok, printed) = import(&server, &[], &settings);
    assert!(!ok && printed.contains("--assets-from"), "{printed}");
    let (ok, printed) = import(&server, &["--assets-from", folder], &settings);
    assert!(ok, "{printed}");
    assert_eq!(
        counts(&printed),
        ["3", "2", "0", "0", "1", "0"],
        "{printed}"
    );
    assert!(
        printed.contains("never-sent.txt: there is no such file"),
        "{printed}"
    );
    let (ok, printed) = import(&server, &["--assets-from", folder], &settings);
    assert!(ok, "{printed}");
    assert_eq!(
        counts(&printed),
        ["3", "0", "0", "2", "1", "0"],
        "{printed}"
    );

    server.restart_with(&settings);
    let note = ada.at(&server).query("note", json!([])).remove(0);
    for (field, content_type, disposition, text) in [
        ("picture", "image/png", None, "picture"),
        ("page", "text/html", Some("attachment"), "<p>page"),
    ] {
        let url = note[field]["$url"].as_str().unwrap();
        assert!(url.starts_with(&service.endpoint), "{url}");
        let found = fetch("GET", url, &[]);
        assert_eq!(
            (found.status, found.bytes.as_slice()),
            (200, text.as_bytes())
        );
        assert_eq!(found.header("Content-Type"), Some(content_type));
        assert_eq!(found.header("Content-Disposition"), disposition);
    }

    // A file that was uploaded must be there.
    let lost = upload(&server, "lost.txt", "text/plain", "lost");
    let lost = lost["$name"].as_str().unwrap();
    let object = format!("{}/{BUCKET}/{lost}", service.endpoint);
    assert_eq!(fetch("DELETE", &object, &[]).status, 204);
    assert!(server.terminate().success());
    let back = server.folder().join("back");
    let back = back.to_str().unwrap();
    let there = [("ASSET_STORE", "fs"), ("ASSET_STORE_PATH", back)];
    let from = [
        "--assets-bucket",
        BUCKET,
        "--assets-endpoint",
        &service.endpoint,
        "--assets-access-key",
        "key-of-the-tests",
        "--assets-secret-key",
        "hidden-key-of-the-tests",
    ];
    let (ok, printed) = import(&server, &from, &there);
    assert!(!ok && printed.contains("1 refused"), "{printed}");
    assert_eq!(
        counts(&printed),
        ["4", "2", "0", "0", "1", "1"],
        "{printed}"
    );
    assert!(
        printed.contains(&format!("refused files {lost}: no such file")),
        "{printed}"
    );
    server.restart_with(&there);
    let note = ada.at(&server).query("note", json!([])).remove(0);
    let path = path_of(&note["picture"]);
    let found = fetch("GET", &format!("{}{path}", server.base_url), &[]);
    assert_eq!(
        (found.status, found.bytes.as_slice()),
        (200, &b"picture"[..])
    );
    assert_eq!(found.header("Content-Type"), Some("image/png"));
}
