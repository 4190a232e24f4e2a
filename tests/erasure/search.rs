//! Looks for bytes in everything that a server keeps.

use serde_json::json;

use crate::support::client::Client;
use crate::support::eventually;
use crate::support::search::files_with;
use crate::support::server::TestServer;

/// Returns the files of a server that contain a text, in its data folder and next to it, such as
/// backups; and `output` if the server has printed it.
pub fn places_of(server: &TestServer, text: &str) -> Vec<String> {
    let (all, data) = (server.folder(), server.data_dir());
    let mut places = files_with(all, text);
    if !data.starts_with(all) {
        places.extend(files_with(&data, text));
    }
    let mut places: Vec<String> = places
        .iter()
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    if server.output().contains(text) {
        places.push("output".to_owned());
    }
    places
}

/// Waits until a text is in the journal, in sled and in the record store, so that its absence later
/// means something.
pub fn await_copies(server: &TestServer, client: &Client, text: &str) {
    for place in ["/journal/", "/sled/", "/records.sqlite"] {
        eventually(&format!("{text} is in {place}"), || {
            // A query makes the store catch up.
            client.call("record:query", json!({"record_type": "note", "limit": 1}));
            let places = places_of(server, text);
            places
                .iter()
                .any(|found| found.contains(place))
                .then_some(())
        });
    }
}
