//! Plugins that are run as a process for each request.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::call;
use super::http::ready;
use crate::support::eventually;
use crate::support::program::{repository, set_up};
use crate::support::server::TestServer;

fn server(settings: &[(&str, &str)]) -> TestServer {
    let python = set_up(".venv/bin/python");
    let arguments = repository("tests/python/exec_plugin.py");
    let arguments = format!("{},--more", arguments.to_str().unwrap());
    let mut all = vec![
        ("PLUGINS", "TEST"),
        ("TEST_TRANSPORT", "exec"),
        ("TEST_PATH", python.to_str().unwrap()),
        ("TEST_ARGS", &arguments),
    ];
    all.extend(settings);
    TestServer::with(&all)
}

/// Decodes a variable, which holds JSON in base64.
fn decoded(environment: &Json, name: &str) -> Json {
    let text = environment[name].as_str().unwrap();
    serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap()
}

#[test]
fn a_process_is_told_all_it_needs_and_nothing_else() {
    let server = server(&[("PLUGIN_DATABASE_URL", "postgresql://p@db/none")]);
    let client = ready(&server);
    let told = client.call("told", json!({"args": [1]})).result();
    let arguments = told["arguments"].as_array().unwrap();
    assert_eq!(arguments[..], ["--more", "--subprocess", "op", "told"]);
    let environment = &told["environment"];
    let mut names: Vec<_> = environment.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["DATABASE_URL", "SKYGEAR_CONFIG", "SKYGEAR_CONTEXT"]);
    assert_eq!(environment["DATABASE_URL"], "postgresql://p@db/none");
    let config = decoded(environment, "SKYGEAR_CONFIG");
    assert_eq!(config["app"]["name"], "myapp");
    let context = decoded(environment, "SKYGEAR_CONTEXT");
    assert_eq!(context["access_key_type"], "client");
    let input: Json = serde_json::from_str(told["input"].as_str().unwrap()).unwrap();
    assert_eq!(input["args"], json!([1]));
}

#[test]
fn what_goes_wrong_in_a_process_is_an_error() {
    let server = server(&[("PLUGIN_MAX_MESSAGE", "1000000"), ("DEV_MODE", "NO")]);
    let client = ready(&server);
    let error = |name: &str| {
        let error = client.call(name, json!({})).json()["error"].clone();
        assert_eq!(error["code"], 10000, "{error}");
        error["message"].as_str().unwrap().to_owned()
    };
    assert_eq!(error("fails"), "exit status 3");
    // A process's output arrives over a pipe of its own, possibly after the process has ended.
    eventually("what it said is in the log", || {
        server.output().contains("it went wrong").then_some(())
    });
    let not_json = "failed to parse plugin response: the plugin's answer is not JSON: ";
    let junk = error("junk");
    assert!(junk.starts_with(not_json), "{junk}");
    eventually("the log shows how it begins", || {
        let output = server.output();
        let mut lines = output.lines();
        lines.find(|line| line.contains("answer cannot be read") && line.contains("result"))?;
        Some(())
    });
    assert!(error("large").starts_with("failed to parse plugin response: "));
    // Both pipes at once, and more than either holds.
    let talked = client.call("talks", json!({})).result();
    assert_eq!(talked.as_str().unwrap().len(), 300_000);
    assert!(server.output().contains("exec is meant for development"));
}

#[test]
fn a_program_that_went_is_named_in_the_log_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("plugin");
    let python = set_up(".venv/bin/python");
    let script = format!("#!/bin/sh\nexec {} \"$@\"\n", python.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o700)).unwrap();
    let program = program.to_str().unwrap();
    let server = server(&[("TEST_PATH", program)]);
    let client = ready(&server);
    std::fs::remove_file(program).unwrap();
    let error = client.call("told", json!({"args": []})).json()["error"].clone();
    let message = error["message"].as_str().unwrap();
    assert!(!message.contains(program), "{message}");
    assert!(message.contains("the program cannot be run"), "{message}");
    eventually("the log names it", || {
        let output = server.output();
        let mut lines = output.lines();
        lines.find(|line| line.contains("cannot be run") && line.contains(program))?;
        Some(())
    });
}

#[test]
fn a_process_whose_time_is_over_is_killed_with_what_it_started() {
    let server = server(&[("TEST_TIMEOUT", "10")]);
    let client = ready(&server);
    let waiting = call(&client, "hangs", json!({}));
    let pids = hanging(&server);
    let error = waiting.join().unwrap().json()["error"].clone();
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(10000), &json!("Plugin time out"))
    );
    await_end(&pids);
}

#[test]
fn a_process_ends_with_a_server_that_is_killed_and_so_does_what_it_started() {
    let mut server = server(&[]);
    let client = ready(&server);
    let _waiting = call(&client, "hangs", json!({}));
    let pids = hanging(&server);
    server.kill();
    await_end(&pids);
}

/// Returns the process ids of a hanging process and of its child.
fn hanging(server: &TestServer) -> Vec<String> {
    let pids = eventually("it runs", || {
        let pids = std::fs::read_to_string(server.folder().join("pids")).ok()?;
        pids.ends_with('.').then_some(pids)
    });
    let pids = pids.split(' ').filter(|pid| *pid != ".");
    pids.map(str::to_owned).collect()
}

fn await_end(pids: &[String]) {
    for pid in pids {
        eventually("it is gone", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            // The process that adopts the orphan may take its time to reap it.
            stat.map_or(true, |stat| stat.contains(") Z "))
                .then_some(())
        });
    }
}

#[test]
fn a_process_may_leave_a_job_behind() {
    let server = server(&[("TEST_TIMEOUT", "10")]);
    let client = ready(&server);
    for name in ["leaves", "detaches"] {
        let answer = client.call(name, json!({})).json();
        let go = server.folder().join(format!("{name}.go"));
        std::fs::write(go, "").unwrap();
        assert_eq!(answer["result"], "left", "{name}: {answer}");
        let done = server.folder().join(format!("{name}.done"));
        eventually("its job comes to its end", || done.exists().then_some(()));
    }
}

#[test]
fn an_answer_without_an_end_is_given_up_when_it_is_too_large() {
    let server = server(&[("TEST_TIMEOUT", "10"), ("PLUGIN_MAX_MESSAGE", "1000000")]);
    let client = ready(&server);
    let error = client.call("floods", json!({})).json()["error"].clone();
    let too_large = "failed to parse plugin response: more than 1000000 bytes";
    assert_eq!(
        (&error["code"], &error["message"]),
        (&json!(10000), &json!(too_large))
    );
}
