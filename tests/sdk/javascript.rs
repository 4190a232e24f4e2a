//! npm `skygear` 1.7.2 in node, through every public function; the checks are in `tests/node/sdk`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::report::Report;
use super::{plugin, repository, set_up};
use crate::support::server::{API_KEY, MASTER_KEY, TestServer, lasting_address};

const CUSTOM_TOKEN_SECRET: &str = "custom-token-secret-of-the-tests";

/// A program that is ended with the test.
struct Program {
    child: Child,
    stdin: ChildStdin,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn every_public_function_of_the_published_client_works() {
    let server = TestServer::with(&[
        ("PLUGINS", "TEST"),
        ("CUSTOM_TOKEN_SECRET", CUSTOM_TOKEN_SECRET),
        // A push service for which no device is registered here.
        ("WEBPUSH_ENABLE", "YES"),
        ("WEBPUSH_SUBJECT", "mailto:ops@example.com"),
    ]);
    let _plugin = plugin::serve(&server);
    let mut restarting = TestServer::with(&[("HOST", &lasting_address())]);
    let mut suite = Program::start(
        Command::new("node")
            .arg(repository("tests/node/sdk/run.js"))
            .env("NODE_PATH", set_up("tests/node/node_modules"))
            .env("SKYGEAR_ENDPOINT", format!("{}/", server.base_url))
            .env("RESTARTING_ENDPOINT", format!("{}/", restarting.base_url))
            .env("API_KEY", API_KEY)
            .env("MASTER_KEY", MASTER_KEY)
            .env("CUSTOM_TOKEN_SECRET", CUSTOM_TOKEN_SECRET),
    );
    let lines = BufReader::new(suite.child.stdout.take().unwrap()).lines();
    let mut report = Report::default();
    for line in lines.map_while(Result::ok) {
        if line == "restart" {
            restarting.restart();
            suite.stdin.write_all(b"restarted\n").unwrap();
        } else {
            report.take(&line);
        }
    }
    report.sum_up("sdk");
}
