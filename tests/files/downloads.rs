//! Downloads: who may, what arrives, and how long an address is valid.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, Mac as _};
use serde_json::Value as Json;
use sha2::Sha256;

use super::{announce, ask, path_of, upload};
use crate::support::client::Client;
use crate::support::server::TestServer;

#[test]
fn a_part_of_a_file_can_be_asked_for() {
    let server = TestServer::start();
    let asset = upload(&server, "a.txt", "text/plain", "hello world");
    let part = |range| {
        let answer = ask(&server, "GET", &path_of(&asset), &[("Range", range)]);
        let text = String::from_utf8(answer.bytes.clone()).unwrap();
        let header = answer.header("Content-Range").map(str::to_owned);
        (answer.status, text, header)
    };
    let some = |text: &str| Some(text.to_owned());
    for (range, text, told) in [
        ("bytes=0-4", "hello", "bytes 0-4/11"),
        ("bytes=6-100", "world", "bytes 6-10/11"),
        // As in v1.
        ("bytes=4-2", "o", "bytes 4-4/11"),
        ("bytes=6-", "world", "bytes 6-10/11"),
        ("bytes=0-", "hello world", "bytes 0-10/11"),
        ("bytes=-5", "world", "bytes 6-10/11"),
        ("bytes=-100", "hello world", "bytes 0-10/11"),
    ] {
        assert_eq!(part(range), (206, text.into(), some(told)), "{range}");
    }
    for beyond in ["bytes=11-12", "bytes=11-", "bytes=-0"] {
        let expected = (416, String::new(), some("bytes */11"));
        assert_eq!(part(beyond), expected, "{beyond}");
    }
    for ignored in ["bytes=-", "bytes=0-1,3-4", "bites=0-4", ""] {
        assert_eq!(
            part(ignored),
            (200, "hello world".into(), None),
            "{ignored}"
        );
    }
    let beyond = [("Range", "bytes=11-12")];
    let beyond = ask(&server, "GET", &path_of(&asset), &beyond);
    assert_eq!(beyond.header("Content-Type"), Some("text/plain"));
    assert_eq!(beyond.header("Content-Length"), Some("0"));
}

#[test]
fn a_file_can_be_looked_at_without_its_bytes() {
    let server = TestServer::start();
    let asset = upload(&server, "a.txt", "text/plain", "hello world");
    let whole = ask(&server, "GET", &path_of(&asset), &[]);
    let head = ask(&server, "HEAD", &path_of(&asset), &[]);
    assert_eq!((head.status, head.bytes.as_slice()), (200, b"".as_slice()));
    for name in ["Content-Type", "Content-Length", "Accept-Ranges"] {
        assert!(head.header(name).is_some(), "{name}");
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
    let unsigned = path_of(&asset);
    let (unsigned, _) = unsigned.split_once('?').unwrap();
    assert_eq!(ask(&server, "HEAD", unsigned, &[]).status, 400);
    for method in ["DELETE", "PATCH"] {
        assert_eq!(ask(&server, method, &path_of(&asset), &[]).status, 404);
    }
}

#[test]
fn no_file_runs_as_a_page_of_the_server() {
    let server = TestServer::start();
    for (content_type, is_shown) in [
        ("image/png", true),
        ("video/mp4", true),
        ("audio/wav", true),
        ("text/plain; charset=utf-8", true),
        ("application/pdf", true),
        ("text/html", false),
        ("TEXT/HTML;charset=utf-8", false),
        ("text/plain, text/html", false),
        ("text/xml", false),
        ("text/xsl", false),
        ("application/xhtml+xml", false),
        ("image/svg+xml", false),
        ("multipart/x-mixed-replace", false),
        ("odd", false),
    ] {
        let asset = upload(&server, "a", content_type, "<script>alert(1)</script>");
        let answer = ask(&server, "GET", &path_of(&asset), &[]);
        assert_eq!(answer.header("Content-Type"), Some(content_type));
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"));
        let policy = answer.header("Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        // The browsers' own PDF viewers do not work in a sandbox.
        let is_sandboxed = policy.ends_with("; sandbox");
        assert_eq!(is_sandboxed, content_type != "application/pdf", "{policy}");
        let disposition = (!is_shown).then_some("attachment");
        let told = answer.header("Content-Disposition");
        assert_eq!(told, disposition, "{content_type}");
    }
}

#[test]
fn a_download_is_kept_no_longer_than_its_address_is_good() {
    let server = TestServer::start();
    let asset = upload(&server, "a.txt", "text/plain", "hello");
    let answer = ask(&server, "GET", &path_of(&asset), &[]);
    let kept = answer.header("Cache-Control").unwrap_or_default();
    let seconds = kept.strip_prefix("private, max-age=").unwrap_or(kept);
    let seconds: u64 = seconds.parse().unwrap();
    assert!(seconds > 0 && seconds <= 15 * 60, "{kept}");

    let public = TestServer::with(&[("ASSET_STORE_PUBLIC", "YES")]);
    let asset = upload(&public, "a.txt", "text/plain", "hello");
    let answer = ask(&public, "GET", &path_of(&asset), &[]);
    assert_eq!(answer.header("Cache-Control"), None);
}

#[test]
fn an_address_is_good_with_its_own_signature_alone() {
    let mut server = TestServer::start();
    let [one, two] = ["one", "two"].map(|text| upload(&server, "a.txt", "text/plain", text));
    let (path_one, path_two) = (path_of(&one), path_of(&two));
    let (name_one, _) = path_one.split_once('?').unwrap();
    let (_, query_two) = path_two.split_once('?').unwrap();
    let status = |path: &str| {
        let answer = ask(&server, "GET", path, &[]);
        (answer.status, answer.code())
    };
    assert_eq!(status(&path_one), (200, 0));
    assert_eq!(status(name_one), (400, 108));
    assert_eq!(status(&format!("{name_one}?{query_two}")), (401, 106));
    let forged = path_one.replace("expiredAt=1", "expiredAt=2");
    assert_eq!(status(&forged), (401, 106));
    let past = path_one.replace("expiredAt=1", "expiredAt=0");
    assert_eq!(status(&past), (403, 102));
    let (signed, _) = path_one.split_once("signature=").unwrap();
    assert_eq!(status(&format!("{signed}signature=!")), (403, 102));
    let (asset, _) = announce(&Client::anonymous(&server), "a.txt", "text/plain", 3);
    assert_eq!(status(&path_of(&asset)), (500, 10000));

    // The secret was created at the first start and is kept.
    let keys = server.data_dir().join("keys.json");
    let kept: Json = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    let secret = kept["asset_secret"].as_str().unwrap().to_owned();
    assert!(secret.len() >= 32);
    assert!(!server.output().contains(&secret));
    assert!(server.terminate().success());
    server.restart();
    assert_eq!(ask(&server, "GET", &path_one, &[]).bytes, b"one");
}

#[test]
fn keys_of_an_earlier_version_get_a_secret() {
    let mut server = TestServer::start();
    assert!(server.terminate().success());
    let keys = server.data_dir().join("keys.json");
    let old = r#"{"api_key": "old-client-key", "master_key": "old-master-key"}"#;
    std::fs::write(&keys, old).unwrap();
    server.restart();
    let kept: Json = serde_json::from_slice(&std::fs::read(&keys).unwrap()).unwrap();
    assert_eq!(kept["master_key"], "old-master-key");
    assert!(kept["asset_secret"].as_str().unwrap().len() >= 32);
}

#[test]
fn plugins_sign_with_the_same_secret() {
    let settings = [
        ("ASSET_STORE_SECRET", "asset_secret"),
        ("ASSET_STORE_PUBLIC", "NO"),
    ];
    let server = TestServer::with(&settings);
    // The vector of v1's own tests. It has expired, which is checked before the signature.
    let vector = "expiredAt=1481096834&signature=R5kMq2neUkCGBjQD6zSv99PajRvI0EqMesuRHQS4hNA=";
    let answer = ask(&server, "GET", &format!("/files/index.html?{vector}"), &[]);
    assert_eq!((answer.status, answer.code()), (403, 102));
    // No such file exists, but a signed request may ask.
    let expiry = "9999999999";
    let mut mac = Hmac::<Sha256>::new_from_slice(b"asset_secret").unwrap();
    mac.update(format!("index.html{expiry}").as_bytes());
    let signature = URL_SAFE.encode(mac.finalize().into_bytes());
    let path = format!("/files/index.html?expiredAt={expiry}&signature={signature}");
    let answer = ask(&server, "GET", &path, &[]);
    assert_eq!((answer.status, answer.code()), (500, 10000));
    assert!(!server.data_dir().join("keys.json").exists());
}

#[test]
fn the_hosted_service_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    for (store, expected) in [
        ("s3", "ASSET_STORE_BUCKET"),
        ("cloud", "the hosted service no longer exists"),
        ("tape", "ASSET_STORE"),
    ] {
        let ended = Command::new(env!("CARGO_BIN_EXE_skytrail"))
            .arg("serve")
            .env_clear()
            .env("DATA_DIR", folder.path())
            .env("ASSET_STORE", store)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}
