//! Looking for bytes in everything that a server keeps.

use std::path::Path;

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

/// Returns the files of the data folder that have some text in them, and `output` if the server has
/// said it.
pub fn places_of(server: &TestServer, text: &str) -> Vec<String> {
    let mut places = Vec::new();
    search(&server.data_dir(), text.as_bytes(), &mut places);
    if server.output().contains(text) {
        places.push("output".to_owned());
    }
    places.sort();
    places
}

fn search(folder: &Path, text: &[u8], places: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            search(&path, text, places);
            continue;
        }
        // One that has gone meanwhile has nothing any more.
        let bytes = std::fs::read(&path).unwrap_or_default();
        if bytes.windows(text.len()).any(|part| part == text) {
            places.push(path.to_string_lossy().into_owned());
        }
    }
}

/// Waits until a text is in the journal, in sled and in the record store, so that not finding it
/// later means something.
pub fn await_copies(server: &TestServer, client: &Client, text: &str) {
    for place in ["/journal/", "/sled/", "/records.sqlite"] {
        eventually(&format!("{text} is in {place}"), || {
            // Whoever asks makes the store catch up.
            client.call("record:query", json!({"record_type": "note", "limit": 1}));
            let places = places_of(server, text);
            places
                .iter()
                .any(|found| found.contains(place))
                .then_some(())
        });
    }
}
