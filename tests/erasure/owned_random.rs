//! Users whose records refer to each other at random, and in circles, are erased together.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, json};

use super::search::places_of;
use super::{assert_store_is_the_logs, verified};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::machine::number;
use crate::support::server::TestServer;

const NUM_USERS: usize = 16;
const NUM_RECORDS: usize = 120;
const NUM_CIRCLES: usize = 4;
/// Circles go from the first of the records to the last of them, so that many records refer to one.
const CIRCLE_END: usize = 60;

/// What each record refers to.
type References = BTreeMap<String, BTreeSet<String>>;

/// Returns a text that only one record contains.
fn text_of(record: &str) -> String {
    format!("canary-{}-of-it", record.replace('/', "-"))
}

/// A record of each number, each of a user, that refers to up to two earlier ones.
fn write(random: &mut StdRng, users: &[Client], round: u64) -> References {
    let mut ids: Vec<String> = Vec::new();
    let mut owners = Vec::new();
    let mut references = References::new();
    for number in 0..NUM_RECORDS {
        let record_type = ["note", "doc"][random.random_range(0..2)];
        let id = format!("{record_type}/{round}-{number}");
        let owner = &users[random.random_range(0..users.len())];
        let near = &ids[ids.len().saturating_sub(40)..];
        let mut referred = BTreeSet::new();
        for _ in 0..random.random_range(0..3) {
            let any = random.random_range(0..near.len().max(1));
            referred.extend(near.get(any).cloned());
        }
        save(owner, &id, &referred);
        references.insert(id.clone(), referred);
        owners.push(owner);
        ids.push(id);
    }
    for _ in 0..NUM_CIRCLES {
        let first = random.random_range(0..CIRCLE_END);
        let last = random.random_range(NUM_RECORDS - CIRCLE_END..NUM_RECORDS);
        let referred = references.get_mut(&ids[first]).unwrap();
        referred.insert(ids[last].clone());
        save(owners[first], &ids[first], referred);
    }
    references
}

fn save(owner: &Client, id: &str, referred: &BTreeSet<String>) {
    let mut fields = Map::from_iter([("text".to_owned(), json!(text_of(id)))]);
    for (number, id) in referred.iter().enumerate() {
        let (record_type, _) = id.split_once('/').unwrap();
        let field = format!("{record_type}_{number}");
        fields.insert(field, json!({"$type": "ref", "$id": id}));
    }
    owner.save(id, fields.into());
}

fn all_ids(master: &Client) -> BTreeSet<String> {
    let ids = ["note", "doc"].map(|record_type| {
        let body = json!({"record_type": record_type, "limit": 1000});
        let found = master.call("record:query", body).result();
        let ids = found.as_array().unwrap().iter().map(|it| it["_id"].clone());
        ids.map(|id| id.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    });
    ids.concat().into_iter().collect()
}

/// Only what others refer to that stay for the same reason stays: a circle, in the end.
#[test]
fn users_whose_records_refer_to_each_other_at_random_are_erased_together() {
    let seed = number("SKYTRAIL_SEED", 4711);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = TestServer::start();
    let mut left = BTreeSet::new();
    for round in 0..number("SKYTRAIL_ERASURE_ROUNDS", 2) {
        let users = (0..NUM_USERS).map(|it| Client::signed_up(&server, &format!("u{round}-{it}")));
        let users: Vec<Client> = users.collect();
        let references = write(&mut random, &users, round);
        let is_killed = random.random_range(0..2) == 0;
        let master = Client::master(&server);
        std::thread::scope(|scope| {
            for user in &users {
                let body = json!({"user": user.user, "records": true, "why": "a test"});
                scope.spawn(|| master.try_call("erase:user", body));
            }
            if is_killed {
                eventually("one is erased", || {
                    let num_records = all_ids(&master).len();
                    (num_records < left.len() + NUM_RECORDS).then_some(())
                });
                server.kill();
            }
        });
        if is_killed {
            server.restart();
            let master = master.at(&server);
            for user in &users {
                let body = json!({"user": user.user, "records": true, "why": "a test"});
                master.call("erase:user", body);
            }
        }
        let master = master.at(&server);
        eventually("all are erased", || {
            (master.health()["erasures"]["num_open"] == 0).then_some(())
        });
        left = all_ids(&master);
        println!("round {round}: {} records are left", left.len());
        for id in references.keys() {
            let is_referred =
                |(from, to): (&String, &BTreeSet<String>)| left.contains(from) && to.contains(id);
            if left.contains(id) {
                assert!(
                    references.iter().any(is_referred),
                    "{id} is left, round {round}"
                );
            } else {
                assert_eq!(places_of(&server, &text_of(id)), Vec::<String>::new());
            }
        }
    }
    verified(&server);
    assert_store_is_the_logs(&mut server);
}
