//! An erasure that waits: from its request on, nobody is shown what it names.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::CANARY;
use super::search::{await_copies, places_of};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Stands in the way of the journal's rewriting, so that erasures wait, until this is dropped.
pub(super) struct HeldUp(Vec<PathBuf>);

impl HeldUp {
    pub(super) fn begin(server: &TestServer) -> Self {
        let journal = std::fs::read_dir(server.data_dir().join("journal")).unwrap();
        let segments = journal.map(|entry| entry.unwrap().path());
        let is_segment = |path: &Path| path.extension().is_some_and(|it| it == "journal");
        let segments = segments.filter(|path| is_segment(path));
        let in_the_way = segments.map(|path| format!("{}.erasing", path.display()).into());
        let in_the_way: Vec<PathBuf> = in_the_way.collect();
        for path in &in_the_way {
            std::fs::create_dir(path).unwrap();
        }
        assert!(!in_the_way.is_empty());
        Self(in_the_way)
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        for path in &self.0 {
            std::fs::remove_dir(path).unwrap();
        }
    }
}

/// Waits until an erasure is asked for and held up.
pub(super) fn await_failing(master: &Client) {
    eventually("it is held up", || {
        (master.health()["erasures"]["is_failing"] == true).then_some(())
    });
}

/// Writes two versions of a record of a temporal type; returns the position of the first.
pub(super) fn write_temporal(server: &TestServer, master: &Client) -> Json {
    master.save("note/stays", json!({"text": "stays"}));
    let body = json!({"type": "note", "temporal": true});
    master.call("schema:temporal", body).result();
    master.save("note/gone", json!({"text": CANARY.repeat(40), "n": 1}));
    master.save("note/gone", json!({"n": 2}));
    await_copies(server, master, CANARY);
    let versions = super::versions(master, "note/gone");
    versions[1]["position"].clone()
}

/// Returns the ids of the notes that existed at a position.
pub(super) fn past_notes(client: &Client, position: &Json) -> Vec<Json> {
    let body = json!({"record_type": "note", "as_of": position});
    let found = client.call("record:query", body).result();
    let found = found.as_array().unwrap().iter();
    found.map(|record| record["_id"].clone()).collect()
}

#[test]
fn the_past_of_a_temporal_type_hides_it_at_once() {
    let server = TestServer::start();
    let master = Client::master(&server);
    let then = write_temporal(&server, &master);
    assert_eq!(past_notes(&master, &then), ["note/stays", "note/gone"]);
    std::thread::scope(|scope| {
        let held_up = HeldUp::begin(&server);
        let body = json!({"record": "note/gone", "why": "a test"});
        scope.spawn(|| master.call("erase:record", body).result());
        await_failing(&master);
        assert!(!places_of(&server, CANARY).is_empty());
        assert_eq!(past_notes(&master, &then), ["note/stays"]);
        drop(held_up);
    });
    eventually("what was erased is nowhere", || {
        places_of(&server, CANARY).is_empty().then_some(())
    });
    assert_eq!(past_notes(&master, &then), ["note/stays"]);
}
