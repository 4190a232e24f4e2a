//! Our two packages side by side, as programs with the real server: deployments, and what
//! after-hooks may answer to deliveries. `plugin.py` and `plugin.mjs` are the same plugin.

use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::program::{Program, python_plugin, repository, set_up};
use crate::support::server::{MASTER_KEY, TestServer};

/// The language that a plugin is written in.
#[derive(Clone, Copy, Debug)]
enum Language {
    Python,
    JavaScript,
}

/// A server and the plugin in one language.
struct World {
    server: TestServer,
    language: Language,
}

impl World {
    fn new(language: Language) -> Self {
        // Longer than a new generation may take to start, while a call waits for its old one.
        let server = TestServer::with(&[
            ("PLUGINS", "BOTH"),
            ("BOTH_TIMEOUT", "200"),
            ("RESPONSE_TIMEOUT", "200"),
        ]);
        Self { server, language }
    }

    fn command(&self, environment: &[(&str, &str)]) -> Command {
        let mut command = match self.language {
            Language::Python => python_plugin(&self.server, "tests/both_sdks/plugin.py"),
            Language::JavaScript => {
                set_up("sdks/js/node_modules/ws");
                let mut node = Command::new("node");
                node.arg(repository("tests/both_sdks/plugin.mjs"))
                    .env("SKYGEAR_ENDPOINT", &self.server.base_url)
                    .env("MASTER_KEY", MASTER_KEY)
                    .stdin(Stdio::null());
                node
            }
        };
        command.envs(environment.iter().copied());
        command
    }

    /// Starts the plugin with more environment variables, and waits until it is the one that
    /// answers.
    fn start(&self, environment: &[(&str, &str)]) -> Program {
        let program = Program::start(&mut self.command(environment));
        eventually("the plugin answers", || {
            let state = self.client().call("both:state", json!({}));
            let is_it = state.status == 200 && state.result()["pid"] == program.pid();
            is_it.then_some(())
        });
        program
    }

    fn client(&self) -> Client {
        Client::anonymous(&self.server)
    }

    fn master(&self) -> Client {
        Client::master(&self.server)
    }

    /// Waits until the plugin has seen something.
    fn await_seen(&self, what: &str, is_so: impl Fn(&[Json]) -> bool) -> Vec<Json> {
        eventually(what, || {
            let state = self.client().call("both:state", json!({})).result();
            let seen = state["seen"].as_array().unwrap().clone();
            is_so(&seen).then_some(seen)
        })
    }

    /// Waits until the state of the plugin's consumer is as wanted.
    fn await_consumer(&self, what: &str, is_so: impl Fn(&Json) -> bool) -> Json {
        eventually(what, || {
            let listed = self.master().call("delivery:list", json!({})).result();
            Some(listed[0].clone()).filter(&is_so)
        })
    }

    /// Stops the plugin, and waits until the server has noticed.
    fn end(&self, plugin: Program) {
        plugin.terminate();
        self.await_consumer("the plugin is away", |it| it["state"] == "away");
    }
}

fn of_mode<'a>(seen: &'a [Json], mode: &str) -> Vec<&'a Json> {
    seen.iter().filter(|it| it["mode"] == mode).collect()
}

/// A new generation takes over while the old one works; the old one finishes its work and ends by
/// itself.
fn deploy(language: Language) {
    let world = World::new(language);
    let mut old = world.start(&[("PLUGIN_GENERATION", "1")]);
    let client = world.client();
    assert_eq!(client.call("both:old", json!({})).result(), "old");
    assert_eq!(client.call("both:new", json!({})).status, 404);
    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    let until_done = json!({"args": [done]});
    let running = {
        let (client, until_done) = (client.clone(), until_done.clone());
        std::thread::spawn(move || client.call("both:slow", until_done))
    };
    eventually("the old one works", || {
        let plugins = world.master().health()["plugins"].take();
        (plugins["in_flight"] == 1).then_some(())
    });
    let new = world.start(&[("PLUGIN_GENERATION", "2")]);
    // In one step: lambdas that only the old one had are gone.
    assert_eq!(client.call("both:new", json!({})).result(), "new");
    assert_eq!(client.call("both:old", json!({})).status, 404);
    std::fs::write(&done, "").unwrap();
    assert_eq!(client.call("both:slow", until_done).result(), 2);
    assert_eq!(running.join().unwrap().result(), 1, "of the old one");
    assert!(old.wait().success(), "the old one ends");
    // An older generation that connects too late is refused and ends.
    let mut late = Program::start(&mut world.command(&[("PLUGIN_GENERATION", "1")]));
    assert!(!late.wait().success(), "an older one ends");
    new.terminate();
}

/// After-hooks give up, ask for a retry at another time, and report progress.
fn answer_deliveries(language: Language) {
    let world = World::new(language);
    let _plugin = world.start(&[]);
    let master = world.master();
    for (n, mode) in ["drop", "retry", "long"].into_iter().enumerate() {
        master.save(&format!("note/{mode}"), json!({"n": n, "mode": mode}));
    }
    let state = world.await_consumer("all are over", |it| {
        it["open"] == 0 && it["delivered"].as_u64() >= Some(2)
    });
    assert_eq!(state["dead_letters"], 1, "{state}");
    let letters = master.call("delivery:dead_letters", json!({"consumer": "BOTH"}));
    let letters = letters.result();
    let letter = &letters[0];
    assert_eq!(
        (&letter["record"], &letter["attempts"]),
        (&json!("note/drop"), &json!(1)),
        "{letters}"
    );
    assert_eq!(letter["error"]["message"], "not for me");
    let seen = world.await_seen("all were told", |seen| seen.len() >= 4);
    let attempts = |mode: &str| -> Vec<i64> {
        let told = of_mode(&seen, mode);
        told.iter()
            .map(|it| it["attempt"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(attempts("drop"), [1]);
    assert_eq!(attempts("retry"), [1, 2]);
    assert_eq!(attempts("long"), [1], "its limit began anew each time");
}

/// What is delivered after an absence, and from which position.
fn catch_up(language: Language) {
    let world = World::new(language);
    let plugin = world.start(&[]);
    let master = world.master();
    master.save("note/1", json!({"n": 1}));
    let first = world.await_seen("it was told", |seen| !seen.is_empty());
    let position = first[0]["position"].as_i64().unwrap();
    world.end(plugin);
    for n in 2..5 {
        master.save("note/1", json!({"n": n}));
        master.save("sign/1", json!({"n": n}));
    }
    let plugin = world.start(&[]);
    let told = |seen: &[Json], name: &str, value: Json| -> Vec<i64> {
        let told = seen.iter().filter(|it| it[name] == value);
        told.map(|it| it["n"].as_i64().unwrap()).collect()
    };
    world.await_consumer("nothing is left", |it| it["lag"] == 0 && it["open"] == 0);
    let seen = world.await_seen("it has caught up", |seen| seen.len() >= 4);
    assert_eq!(told(&seen, "catching_up", json!(true)), [2, 3, 4]);
    assert_eq!(told(&seen, "sign", json!("latest")), [4]);
    assert!(told(&seen, "sign", json!("none")).is_empty());
    world.end(plugin);
    // A plugin that gives its own position hears everything after it again.
    let _plugin = world.start(&[("FROM", &position.to_string())]);
    let seen = world.await_seen("it hears it again", |seen| seen.len() >= 4);
    assert_eq!(told(&seen, "catching_up", json!(true)), [2, 3, 4]);
}

/// Every version of a record, past states, and restoring them.
fn look_back(language: Language) {
    let world = World::new(language);
    let _plugin = world.start(&[]);
    let ada = Client::signed_up(&world.server, "ada");
    ada.save("page/1", json!({"n": 1}));
    // So that a clock in milliseconds tells the two apart.
    std::thread::park_timeout(std::time::Duration::from_millis(20));
    for n in 2..5 {
        ada.save("page/1", json!({"n": n}));
    }
    ada.call("record:delete", json!({"ids": ["page/1"]}))
        .result();
    let asked = json!({"args": ["page/1"]});
    let found = world.client().call("both:history", asked).result();
    let changed = "record.changed";
    let kinds = json!([
        "record.deleted",
        changed,
        changed,
        changed,
        "record.created"
    ]);
    assert_eq!(found["kinds"], kinds, "{found}");
    let changes = json!([[4, null], [3, 4], [2, 3], [1, 2], [null, 1]]);
    assert_eq!(found["changes"], changes);
    assert_eq!(found["records"], json!([null, 4, 3, 2, 1]));
    assert_eq!(found["users"], json!(vec![ada.user; 5]));
    assert_eq!(
        (&found["old"], &found["then"]),
        (&json!(1), &json!([1])),
        "{found}"
    );
    assert_eq!(found["restored"], 1);
    assert_eq!(found["latest"], json!(["BOTH"]));
    let now = world
        .master()
        .call("record:fetch", json!({"ids": ["page/1"]}));
    assert_eq!(now.result()[0]["n"], 1);
}

#[test]
fn looking_back_in_python() {
    look_back(Language::Python);
}

#[test]
fn looking_back_in_javascript() {
    look_back(Language::JavaScript);
}

#[test]
fn a_deployment_in_python() {
    deploy(Language::Python);
}

#[test]
fn a_deployment_in_javascript() {
    deploy(Language::JavaScript);
}

#[test]
fn answers_to_deliveries_in_python() {
    answer_deliveries(Language::Python);
}

#[test]
fn answers_to_deliveries_in_javascript() {
    answer_deliveries(Language::JavaScript);
}

#[test]
fn absences_in_python() {
    catch_up(Language::Python);
}

#[test]
fn absences_in_javascript() {
    catch_up(Language::JavaScript);
}
