//! After a busy session no password and no token is anywhere on the disk or in the log.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{change_password, log_in, sign_up};
use crate::support::client::Client;
use crate::support::server::TestServer;

/// Returns which of the texts are in files below a folder, and in which files.
fn search(folder: &Path, texts: &[String]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(search(&path, texts));
            continue;
        }
        // A file that has been deleted meanwhile contains nothing.
        let bytes = std::fs::read(&path).unwrap_or_default();
        let is_there = |text: &&String| memchr::memmem::find(&bytes, text.as_bytes()).is_some();
        let here = texts.iter().filter(is_there);
        found.extend(here.map(|text| (text.clone(), path.clone())));
    }
    found
}

#[test]
fn no_secret_is_written_down() {
    let mut server = TestServer::with(&[
        ("LOG_LEVEL", "debug"),
        ("LOG_LEVEL_ROUTER", "debug"),
        ("USER_AUDIT_ENABLED", "YES"),
        ("USER_AUDIT_PW_HISTORY_SIZE", "3"),
        ("USER_AUDIT_PW_MIN_GUESSABLE_LEVEL", "1"),
        ("CUSTOM_TOKEN_SECRET", "pw-custom-token-secret"),
    ]);
    let (anyone, master) = (Client::anonymous(&server), Client::master(&server));
    let mut secrets: Vec<String> = vec!["pw-custom-token-secret".to_owned()];
    let mut password = |name: &str| {
        let password = format!("pw-{name}-Xy12!");
        secrets.push(password.clone());
        password
    };
    let names: Vec<String> = (0..5).map(|number| format!("user{number}")).collect();
    let mut tokens = Vec::new();
    for name in &names {
        let (first, second, third) = (
            password(name),
            password(&format!("{name}-2")),
            password(&format!("{name}-3")),
        );
        let wrong = password(&format!("{name}-wrong"));
        let mut client = anyone.clone();
        let session = sign_up(&client, name, &first).result();
        client.token = session["access_token"].as_str().map(str::to_owned);
        tokens.push(client.token.clone().unwrap());
        assert_eq!(sign_up(&anyone, name, &wrong).code(), 109);
        assert_eq!(log_in(&anyone, name, &wrong).code(), 105);
        assert_eq!(log_in(&anyone, &format!("{name}x"), &wrong).code(), 110);
        assert_eq!(change_password(&mut client, &wrong, &second).code(), 105);
        assert_eq!(change_password(&mut client, &first, &first).code(), 126);
        change_password(&mut client, &first, &second).result();
        tokens.push(client.token.clone().unwrap());
        let reset = json!({"auth_id": session["user_id"], "password": third});
        let reset = master.call("auth:reset_password", reset).result();
        tokens.push(reset["access_token"].as_str().unwrap().to_owned());
        let session = log_in(&anyone, name, &third).result();
        client.token = session["access_token"].as_str().map(str::to_owned);
        client.call("me", json!({})).result();
        client.save(&format!("note/{name}"), json!({"title": name}));
        client.call("auth:logout", json!({})).result();
    }
    let mut broken = tokens[0].clone();
    broken.push('x');
    let mut eve = anyone.clone();
    eve.token = Some(broken.clone());
    assert_eq!(eve.call("me", json!({})).code(), 104);
    tokens.push(broken);
    // Only the signature makes a token secret.
    let signatures = tokens.iter().filter_map(|token| token.rsplit('.').next());
    secrets.extend(signatures.map(str::to_owned));
    secrets.extend(tokens.iter().cloned());

    let said = server.output();
    assert!(said.contains("auth:login"), "the log tells of the session");
    for secret in &secrets {
        assert!(!said.contains(secret), "{secret} was printed");
    }
    assert_eq!(search(&server.data_dir(), &secrets), []);
    server.terminate();
    assert_eq!(search(&server.data_dir(), &secrets), []);
    // Proves that the search finds what is not secret, in the journal and in the record store.
    let names = search(&server.data_dir(), &names);
    let is_in = |part: &str| {
        names
            .iter()
            .any(|(_, path)| path.to_string_lossy().contains(part))
    };
    assert!(is_in("journal") && is_in("records.sqlite"), "{names:?}");
    for secret in &secrets {
        assert!(!server.output().contains(secret), "{secret} was printed");
    }
}
