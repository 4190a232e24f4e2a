//! Consumers of the log when workers and the server are killed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::read_all;
use super::worker::{Worker, create, position, stream};
use crate::support::client::Client;
use crate::support::server::{TestServer, lasting_address};

/// Workers and the server are killed while others write. Every event is finally acknowledged, and
/// the first deliveries of each stream are in order.
#[test]
fn nothing_is_missed_when_server_and_workers_are_killed() {
    const ROUNDS: usize = 4;
    let address = lasting_address();
    let mut server = TestServer::with(&[("HOST", &address)]);
    let master = Client::master(&server);
    create(&master, "steady", &json!({}));
    let mut heard: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut number = 0;
    for round in 0..ROUNDS {
        for _ in 0..40 {
            number += 1;
            master.save(&format!("note/{}", number % 7), json!({"number": number}));
        }
        let mut workers: Vec<Worker> = (0..2)
            .map(|_| Worker::connect(&address, "steady", 4))
            .collect();
        for _ in 0..10 {
            for worker in &mut workers {
                let event = worker.event();
                heard
                    .entry(stream(&event))
                    .or_default()
                    .push(position(&event));
                worker.ack(&event);
            }
        }
        // The workers hold some events.
        if round % 2 == 0 {
            drop(workers);
            server.restart();
        }
    }
    let mut worker = Worker::connect(&address, "steady", 8);
    for event in worker.take_all(&master, "steady") {
        heard
            .entry(stream(&event))
            .or_default()
            .push(position(&event));
    }
    let written = read_all(
        &master,
        &json!({"record_types": ["note"], "kinds": ["record"]}),
    );
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in &written {
        let stream = event["stream"].as_str().unwrap().to_owned();
        expected
            .entry(stream)
            .or_default()
            .push(event["position"].as_u64().unwrap());
    }
    let firsts = |positions: &Vec<u64>| {
        let mut seen = BTreeSet::new();
        let firsts = positions.iter().filter(|it| seen.insert(**it));
        firsts.copied().collect::<Vec<_>>()
    };
    let heard: BTreeMap<String, Vec<u64>> = heard
        .iter()
        .map(|(stream, all)| (stream.clone(), firsts(all)))
        .collect();
    assert_eq!(heard, expected);
}
