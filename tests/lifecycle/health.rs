//! `skytrail health`: what is wrong with a running server, for a shell.

use super::MASTER_KEY;
use crate::support::eventually;
use crate::support::server::{API_KEY, TestServer};

/// Runs the command with a master key; returns its exit code and what it prints.
fn health(server: &TestServer, address: &str, key: &str) -> (Option<i32>, String, String) {
    let set = format!("MASTER_KEY={key}");
    let output = server.skytrail(&["health", "--server", address, "--set", &set]);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (shown, said) = (text(output.stdout), text(output.stderr));
    (output.status.code(), shown, said)
}

#[test]
fn a_shell_is_told_whether_a_server_is_well() {
    let mut server = TestServer::start();
    let address = server.base_url.clone();
    let ok = (Some(0), "OK\n".to_owned(), String::new());
    assert_eq!(health(&server, &address, MASTER_KEY), ok);
    // Whoever has another key is told nothing by the server, least of all that it is well.
    for key in ["another", API_KEY] {
        let (code, shown, said) = health(&server, &address, key);
        assert_eq!((code, shown.as_str()), (Some(1), ""));
        assert!(said.contains("has a different master key"), "{said}");
    }
    server.kill();
    let (code, shown, said) = health(&server, &address, MASTER_KEY);
    assert_eq!((code, shown.as_str()), (Some(1), ""));
    assert!(said.contains(&format!("no server at {address}")), "{said}");
}

#[test]
fn a_shell_is_told_what_is_wrong_with_a_server() {
    let server = TestServer::with(&[("PLUGINS", "TEST"), ("PLUGIN_REJOIN_WAIT", "1")]);
    let told = eventually("the plugin is missing", || {
        let (code, shown, said) = health(&server, &server.base_url, MASTER_KEY);
        assert_eq!(
            code.is_some_and(|code| code > 0),
            !said.is_empty(),
            "{said}"
        );
        let is_told = shown.lines().any(|line| line.contains("the plugin TEST"));
        is_told.then_some((code, said))
    });
    let expected = "skytrail: the server is degraded\n".to_owned();
    assert_eq!(told, (Some(1), expected));
}
