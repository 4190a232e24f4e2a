//! The plugin's connection breaks.

use std::thread::JoinHandle;

use serde_json::{Value as Json, json};

use super::{await_ready, command, seen, server};
use crate::support::client::{Answer, Client};
use crate::support::eventually;
use crate::support::program::Program;
use crate::support::proxy::Proxy;
use crate::support::server::TestServer;

/// A server and a plugin, with a proxy between them that can be cut.
struct World {
    proxy: Proxy,
    server: TestServer,
    _plugin: Program,
}

impl World {
    fn start() -> Self {
        let server = server();
        let proxy = Proxy::to(server.address());
        let mut command = command(&server);
        command.env("SKYGEAR_ENDPOINT", proxy.base_url());
        command.env("PLACE", server.folder());
        let plugin = Program::start(&mut command);
        await_ready(&server);
        Self {
            proxy,
            server,
            _plugin: plugin,
        }
    }

    fn call(&self, action: &'static str, args: Json) -> JoinHandle<Answer> {
        let client = Client::anonymous(&self.server);
        std::thread::spawn(move || client.call(action, json!({"args": args})))
    }

    fn state(&self) -> Json {
        Client::master(&self.server).health()["plugins"].take()
    }

    /// Waits until the plugin works on `number` requests; a timer's may be one of them.
    fn await_in_flight(&self, number: u64) {
        eventually("the plugin works", || {
            (self.state()["in_flight"] == number).then_some(())
        });
    }

    /// Returns how often the session was resumed.
    fn num_resumed(&self) -> u64 {
        self.state()["plugins"][0]["resumed"].as_u64().unwrap()
    }
}

#[test]
fn what_runs_while_the_connection_breaks_is_answered_once() {
    let world = World::start();
    let before = seen(&world.server);
    let running: Vec<_> = (0..8)
        .map(|number| world.call("demo:write_away", json!([format!("note {number}")])))
        .collect();
    world.await_in_flight(8);
    // Disconnected while the functions continue: they save when there is no connection.
    world.proxy.block();
    let place = world.server.folder();
    std::fs::write(place.join("away"), "").unwrap();
    eventually("all of them save", || {
        let saving = std::fs::read_to_string(place.join("saving")).unwrap_or_default();
        (saving.lines().count() == 8).then_some(())
    });
    world.proxy.unblock();
    for answer in running {
        assert_eq!(answer.join().unwrap().result(), 1);
    }
    let notes = Client::master(&world.server).query("note", json!([]));
    let written = notes.iter().filter(|note| note["title"] != "first");
    assert_eq!(written.count(), 8, "each once");
    assert_eq!(world.num_resumed(), 1);
    let after = seen(&world.server);
    assert_eq!(after["events"], before["events"], "no new session");
}

#[test]
fn however_often_the_connection_breaks_nothing_is_lost_or_done_twice() {
    let world = World::start();
    let clients: Vec<_> = (0..4)
        .map(|number| {
            let client = Client::anonymous(&world.server);
            std::thread::spawn(move || {
                for turn in 0..8 {
                    let title = format!("{number}-{turn}");
                    let answer = client.call("demo:write", json!({"args": [title]}));
                    assert_eq!(answer.result()["revision"], 1);
                }
            })
        })
        .collect();
    let mut num_cuts = 0;
    while !clients.iter().all(JoinHandle::is_finished) {
        num_cuts += 1;
        world.proxy.cut();
        // Until the next cut finds a connection to cut.
        eventually("the session is resumed, or all is done", || {
            let is_over = clients.iter().all(JoinHandle::is_finished);
            (is_over || world.num_resumed() >= num_cuts).then_some(())
        });
    }
    for client in clients {
        client.join().unwrap();
    }
    let query = json!({"record_type": "note", "count": true, "limit": 1});
    let found = Client::master(&world.server).call("record:query", query);
    assert_eq!(
        found.json()["info"]["count"],
        33,
        "each once, and the first"
    );
    assert!(num_cuts > 2, "cut {num_cuts} times");
}

#[test]
fn a_session_that_was_away_too_long_is_over_and_a_new_one_begins() {
    let server = TestServer::with(&[("PLUGINS", "DEMO"), ("PLUGIN_RESUME", "1")]);
    let proxy = Proxy::to(server.address());
    let mut command = command(&server);
    let _plugin = Program::start(command.env("SKYGEAR_ENDPOINT", proxy.base_url()));
    await_ready(&server);
    let pid = seen(&server)["pid"].clone();
    let running = {
        let client = Client::anonymous(&server);
        std::thread::spawn(move || client.call("demo:sleep", json!({"args": [15]})))
    };
    eventually("the plugin sleeps", || {
        let events = seen(&server)["events"].clone();
        events
            .as_array()?
            .contains(&json!("sleeping"))
            .then_some(())
    });
    proxy.block();
    let lost = running.join().unwrap();
    assert_eq!((lost.status, lost.code()), (503, 118));
    proxy.unblock();
    await_ready(&server);
    let after = seen(&server);
    assert_eq!(after["pid"], pid);
    assert_eq!(after["cancelled"], 1, "what nobody waits for is stopped");
}
