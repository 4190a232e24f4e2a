//! Files in a bucket, at a service that speaks the S3 protocol.

use std::process::Command;

use serde_json::{Value as Json, json};

use super::raw::Raw;
use super::uploads::stays_as_uploaded;
use super::{announce, ask, form, request, upload};
use crate::support::client::{Client, send};
use crate::support::eventually;
use crate::support::s3::{Service, fetch, refusing};
use crate::support::server::TestServer;

pub const BUCKET: &str = "files-of-the-tests";

/// A server whose files are in the service's bucket.
fn serve(service: &Service, settings: &[(&str, &str)]) -> TestServer {
    serve_from(&service.endpoint, settings)
}

fn serve_from(endpoint: &str, settings: &[(&str, &str)]) -> TestServer {
    let own = in_bucket(endpoint);
    let all: Vec<_> = own.iter().chain(settings).copied().collect();
    TestServer::with(&all)
}

/// Settings of a server whose files are in the bucket.
pub fn in_bucket(endpoint: &str) -> [(&str, &str); 5] {
    [
        ("ASSET_STORE", "s3"),
        ("ASSET_STORE_BUCKET", BUCKET),
        ("ASSET_STORE_ACCESS_KEY", "key-of-the-tests"),
        ("ASSET_STORE_SECRET_KEY", "hidden-key-of-the-tests"),
        ("ASSET_STORE_S3_ENDPOINT", endpoint),
    ]
}

#[test]
fn private_files_are_fetched_from_the_bucket_itself() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    let (asset, action) = announce(&ada, "my photos/Grüße 1.png", "image/png", 7);
    let (content_type, body) = form("text/html", b"picture");
    let head = [("Content-Type", content_type.as_str())];
    let stored = request(&server, "POST", &action, &head, Some(&body)).result();
    assert_eq!(stored["$name"], asset["$name"]);
    let named = json!({"$type": "asset", "$name": asset["$name"]});
    let saved = ada.save("note/1", json!({"pic": named}));
    for value in [&stored, &asset, &saved["pic"]] {
        let url = value["$url"].as_str().unwrap();
        assert!(url.starts_with(&service.endpoint), "{url}");
        assert!(
            url.contains("X-Amz-Signature=") && url.contains("X-Amz-Expires=900"),
            "{url}"
        );
        assert!(!url.contains("hidden-key"), "{url}");
        let found = fetch("GET", url, &[]);
        assert_eq!(
            (found.status, found.bytes.as_slice()),
            (200, &b"picture"[..])
        );
        assert_eq!(found.header("Content-Type"), Some("image/png"));
        let part = fetch("GET", url, &[("Range", "bytes=0-3")]);
        assert_eq!((part.status, part.bytes.as_slice()), (206, &b"pict"[..]));
    }
    // This server cannot check the bucket's signatures.
    let path = format!("{action}?expiredAt=9999999999&signature=YWJj");
    let refused = ask(&server, "GET", &path, &[]);
    assert_eq!((refused.status, refused.code()), (403, 102));
}

#[test]
fn what_would_run_as_a_page_is_saved_instead() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    for (content_type, disposition) in [
        ("text/html", Some("attachment")),
        ("Image/SVG+XML", Some("attachment")),
        ("application/x-unheard-of", Some("attachment")),
        ("image/png", None),
        ("text/plain; charset=utf-8", None),
    ] {
        let asset = upload(&server, "a.file", content_type, "<script>1</script>");
        let saved = ada.save("note/1", json!({"file": asset}));
        let found = fetch("GET", saved["file"]["$url"].as_str().unwrap(), &[]);
        assert_eq!(found.status, 200);
        assert_eq!(found.header("Content-Type"), Some(content_type));
        assert_eq!(
            found.header("Content-Disposition"),
            disposition,
            "{content_type}"
        );
    }
}

#[test]
fn what_else_is_in_the_bucket_is_nobodys() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[]);
    let ada = Client::signed_up(&server, "ada");
    for name in ["/", "backup/keys.json"] {
        let named = json!({"$type": "asset", "$name": name});
        let saved = ada.save("note/1", json!({"more": {"at": named}}));
        assert_eq!(saved["more"]["at"].get("$url"), None, "{saved}");
    }
}

#[test]
fn what_was_uploaded_stays_as_it_is() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[]);
    let (asset, path) = announce(&Client::anonymous(&server), "a.txt", "text/plain", 5);
    stays_as_uploaded(&server, &asset, &path, &|asset| {
        fetch("GET", asset["$url"].as_str().unwrap(), &[]).bytes
    });
}

#[test]
fn public_files_are_passed_on_and_have_plain_addresses() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[("ASSET_STORE_PUBLIC", "YES")]);
    let asset = upload(&server, "a.txt", "text/plain", "hello world");
    let name = asset["$name"].as_str().unwrap();
    let own = format!("{}/{BUCKET}/{name}", service.endpoint);
    assert_eq!(asset["$url"], own);
    let path = format!("/files/{name}");
    let whole = ask(&server, "GET", &path, &[]);
    assert_eq!(
        (whole.status, whole.bytes.as_slice()),
        (200, &b"hello world"[..])
    );
    assert_eq!(whole.header("Content-Length"), Some("11"));
    let part = ask(&server, "GET", &path, &[("Range", "bytes=6-100")]);
    assert_eq!((part.status, part.bytes.as_slice()), (206, &b"world"[..]));
    assert_eq!(part.header("Content-Range"), Some("bytes 6-10/11"));
    assert_eq!(
        ask(&server, "GET", &path, &[("Range", "bytes=11-12")]).status,
        416
    );

    let prefix = ("ASSET_STORE_S3_URL_PREFIX", "https://cdn.example.com/x/");
    let server = serve(&service, &[("ASSET_STORE_PUBLIC", "YES"), prefix]);
    let asset = upload(&server, "a.txt", "text/plain", "x");
    let name = asset["$name"].as_str().unwrap();
    assert_eq!(asset["$url"], format!("https://cdn.example.com/x/{name}"));
}

#[test]
fn a_large_file_goes_in_parts_and_a_broken_upload_leaves_none() {
    const CHUNKS: usize = 13;
    let service = Service::start(BUCKET);
    let server = serve(&service, &[("ASSET_STORE_PUBLIC", "YES")]);
    let chunk = vec![b'x'; 1 << 20];
    let put = |chunks: usize| {
        let mut raw = Raw::connect(&server);
        let head = [
            ("Content-Type", "text/plain".to_owned()),
            ("Content-Length", (CHUNKS << 20).to_string()),
        ];
        raw.head("PUT", b"/files/large.txt", &head);
        (0..chunks).for_each(|_| raw.send(&chunk));
        raw
    };
    let (status, text) = put(CHUNKS).text();
    assert_eq!(status, 200, "{text}");
    let answer: Json = serde_json::from_str(&text).unwrap();
    let path = format!("/files/{}", answer["result"]["$name"].as_str().unwrap());
    let (status, length, _) = {
        let mut raw = Raw::connect(&server);
        raw.head("GET", path.as_bytes(), &[]);
        raw.answer()
    };
    assert_eq!((status, length), (200, (CHUNKS << 20) as u64));

    let broken = put(CHUNKS - 1);
    let is_begun = || service.look("uploads").contains("<Upload>").then_some(());
    eventually("parts are there", is_begun);
    drop(broken);
    let is_gone = || (!service.look("uploads").contains("<Upload>")).then_some(());
    eventually("they are thrown away", is_gone);
    assert_eq!(service.look("list-type=2").matches("<Contents>").count(), 1);
}

#[test]
fn a_bucket_that_is_not_there_is_named_at_the_start() {
    let service = Service::start(BUCKET);
    let folder = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_skytrail"))
        .arg("serve")
        .env_clear()
        .current_dir(folder.path())
        .env("HOST", "127.0.0.1:0")
        .env("DATA_DIR", folder.path().join("data"))
        .env("ASSET_STORE", "s3")
        .env("ASSET_STORE_BUCKET", "nowhere")
        .env("ASSET_STORE_ACCESS_KEY", "key-of-the-tests")
        .env("ASSET_STORE_SECRET_KEY", "hidden-key-of-the-tests")
        .env("ASSET_STORE_S3_ENDPOINT", &service.endpoint)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success());
    assert!(
        said.contains("bucket nowhere") && said.contains("no such bucket"),
        "{said}"
    );
    assert!(!said.contains("hidden-key"), "{said}");
}

/// The bucket may be back soon: clients do right to try again, and the file is not lost.
#[test]
fn a_bucket_that_refuses_or_fails_is_said_to_be_away() {
    for status in [403, 500] {
        let server = serve_from(&refusing(status), &[("ASSET_STORE_PUBLIC", "YES")]);
        let ada = Client::signed_up(&server, "ada");
        let (_, path) = announce(&ada, "a.txt", "text/plain", 5);
        for (method, body) in [("PUT", Some(&b"hello"[..])), ("GET", None)] {
            let head = [("Content-Type", "text/plain")];
            let answer = request(&server, method, &path, &head, body);
            assert_eq!((answer.status, answer.code()), (503, 10_000), "{method}");
            assert!(answer.header("Retry-After").is_some(), "{method}");
            let text = String::from_utf8_lossy(&answer.bytes);
            assert!(text.contains("file store is not available"), "{text}");
        }
    }
}

#[test]
fn a_file_of_an_erased_record_is_gone_from_the_bucket() {
    let service = Service::start(BUCKET);
    let server = serve(&service, &[]);
    let master = Client::master(&server);
    let asset = upload(&server, "a.txt", "text/plain", "hello world");
    let url = asset["$url"].as_str().unwrap();
    assert_eq!(fetch("GET", url, &[]).status, 200);
    let named = json!({"$type": "asset", "$name": asset["$name"]});
    master.save("note/1", json!({ "file": named }));
    let body = json!({"record": "note/1", "why": "a test"});
    let erased = master.call("erase:record", body).result();
    assert_eq!(erased["files"], json!([asset["$name"]]), "{erased}");
    assert_eq!(erased["finished"], true);
    assert_eq!(fetch("GET", url, &[]).status, 404);
}

/// The bytes of an earlier upload may arrive after the file was erased, and the server may be
/// killed before it has checked.
#[test]
fn what_comes_late_of_an_erased_file_goes_at_the_next_start() {
    let service = Service::start(BUCKET);
    let mut server = serve(&service, &[]);
    let asset = upload(&server, "a.txt", "text/plain", "hello world");
    let named = json!({"$type": "asset", "$name": asset["$name"]});
    let master = Client::master(&server);
    master.save("note/1", json!({ "file": named }));
    let body = json!({"record": "note/1", "why": "a test"});
    let erased = master.call("erase:record", body).result();
    assert_eq!(erased["finished"], true, "{erased}");
    server.kill();
    let name = asset["$name"].as_str().unwrap();
    let url = format!("{}/{BUCKET}/{name}", service.endpoint);
    let bytes = Some(b"hello world".to_vec());
    assert_eq!(send("PUT", &url, &[], bytes).unwrap().status, 200);
    let is_there = || service.look("list-type=2").contains("<Contents>");
    assert!(is_there());
    server.restart();
    eventually("it goes", || (!is_there()).then_some(()));
}
