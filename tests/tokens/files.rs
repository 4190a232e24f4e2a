//! `TOKEN_STORE=fs`

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::is_good;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

fn folder(server: &TestServer) -> PathBuf {
    server.data_dir().join("token")
}

#[test]
fn a_token_is_a_file_that_nobody_else_reads() {
    let server = TestServer::with(&[("TOKEN_STORE", "fs")]);
    let ada = Client::signed_up(&server, "ada");
    let token = ada.token.clone().unwrap();
    let file = folder(&server).join(&token);
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(&folder(&server))), (0o600, 0o700));
    let stored: Json = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(stored["accessToken"], json!(token));
    assert_eq!(stored["authInfoID"], json!(ada.user));
    assert_eq!(
        (&stored["appName"], &stored["expiredAt"]),
        (&json!("myapp"), &json!(0))
    );
    ada.call("auth:logout", json!({})).result();
    assert!(!file.exists());
    assert_eq!(ada.call("auth:logout", json!({})).code(), 104);
}

#[test]
fn a_folder_of_v1_keeps_its_sessions() {
    let server = TestServer::with(&[("TOKEN_STORE", "fs")]);
    let ada = Client::signed_up(&server, "ada");
    let write = |name: &str, expired_at: u64| {
        let stored = json!({
            "accessToken": name, "expiredAt": expired_at, "appName": "myapp",
            "authInfoID": ada.user,
        });
        std::fs::write(folder(&server).join(name), stored.to_string()).unwrap();
        ada.with_token(name)
    };
    let never = write("0f8fad5b-d9cb-469f-a165-70867728950e", 0);
    let future = write(
        "7c9e6679-7425-40de-944b-e07fc1f90ae7",
        4_102_444_800_000_000_000,
    );
    let past = write(
        "550e8400-e29b-41d4-a716-446655440000",
        1_500_000_000_000_000_000,
    );
    assert!(is_good(&never) && is_good(&future));
    assert!(!is_good(&past));
    assert!(!folder(&server).join(past.token.unwrap()).exists());
}

#[test]
fn tokens_expire() {
    let server = TestServer::with(&[("TOKEN_STORE", "fs"), ("TOKEN_STORE_EXPIRY", "1")]);
    let ada = Client::signed_up(&server, "ada");
    eventually("the token expires", || (!is_good(&ada)).then_some(()));
    assert!(!folder(&server).join(ada.token.unwrap()).exists());
}
