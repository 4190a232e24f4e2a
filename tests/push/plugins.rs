//! Plugins push with our two packages.

use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use super::apns::with_token;
use super::apple::apple;
use super::certificates::APP;
use super::register;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python_plugin, repository, set_up};
use crate::support::server::{MASTER_KEY, TestServer};

fn in_javascript(server: &TestServer) -> Command {
    set_up("sdks/js/node_modules/ws");
    let mut node = Command::new("node");
    node.arg(repository("tests/push/plugin.mjs"))
        .env("SKYGEAR_ENDPOINT", &server.base_url)
        .env("MASTER_KEY", MASTER_KEY)
        .stdin(Stdio::null());
    node
}

fn in_python(server: &TestServer) -> Command {
    python_plugin(server, "tests/push/plugin.py")
}

fn pushes_with(command: fn(&TestServer) -> Command) {
    let (_, service) = apple();
    let server = with_token(&service, &[("PLUGINS", "PUSHER")]);
    let _plugin = Program::start(&mut command(&server));
    let anonymous = Client::anonymous(&server);
    eventually("the plugin is there", || {
        let ready = anonymous.call("_status:healthz", json!({}));
        (ready.status == 200).then_some(())
    });
    let ada = Client::signed_up(&server, "ada");
    let device = register(&ada, "ios", "a1", APP);
    let call = |op: &str, args: Json| ada.call(op, json!({"args": args})).result();
    call("push:to_user", json!([ada.user]));
    let received = service.await_answers(200, 1);
    assert_eq!(received[0].json(), json!({"aps": {"alert": "hello"}}));
    assert_eq!(received[0].header("apns-collapse-id"), Some("one"));
    assert_eq!(
        call("push:to_devices", json!([device, "nowhere"])),
        json!([device])
    );
    assert_eq!(call("push:blocking", json!([device])), json!([device]));
    service.await_answers(200, 3);
}

#[test]
fn a_plugin_in_python_pushes() {
    pushes_with(in_python);
}

#[test]
fn a_plugin_in_javascript_pushes() {
    pushes_with(in_javascript);
}
