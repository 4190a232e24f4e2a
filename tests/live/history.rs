//! Random histories: each listener's result is always what a new query of the same user finds.
//!
//! That holds whatever happens to records, access lists, roles, rules, fields and relations, and
//! whenever listeners lose their connections.
//!
//! `SKYTRAIL_LIVE_CASES` sets how many histories are played, `SKYTRAIL_LIVE_SEED` where they begin.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::listener::{Followed, Listener, TIMEOUT};
use super::path;
use super::stream::Stream;
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::server::TestServer;

const CASES: u64 = 3;
const SEED: u64 = 20_160_908;
const OPS: usize = 160;
const NUM_USERS: usize = 3;

#[expect(
    clippy::disallowed_methods,
    reason = "how long this test runs is asked of whoever runs it"
)]
fn setting(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())].clone()
    }
}

/// The queries of every listener. Some look beyond their own records, some use fields that rules
/// may take away.
fn queries() -> Vec<(&'static str, Json)> {
    let all = |predicate: Json| json!({"record_type": "note", "predicate": predicate});
    let relation = json!({"$type": "relation", "$name": "_follow", "$direction": "outward"});
    vec![
        ("all", all(json!([]))),
        (
            "some",
            all(json!(["or", ["gt", path("n"), 4], ["eq", path("s"), "a"]])),
        ),
        ("not", all(json!(["not", ["eq", path("s"), "b"]]))),
        ("secret", all(json!(["gte", path("secret"), 2]))),
        (
            "keys",
            json!({"record_type": "note", "predicate": ["lt", path("n"), 7],
            "desired_keys": ["n", "secret"]}),
        ),
        (
            "mine",
            json!({"record_type": "note", "database_id": "_private"}),
        ),
        ("open", all(json!(["eq", path("room.open"), true]))),
        (
            "rooms",
            json!({"record_type": "note", "predicate": ["gt", path("n"), 2],
            "include": {"room": path("room"), "owner": path("_owner")}}),
        ),
        (
            "followed",
            all(json!(["func", "userRelation", path("_owner"), relation])),
        ),
    ]
}

/// A listener, over one socket and one stream.
struct Ear {
    client: Client,
    socket: Option<Listener>,
    /// What was known when the connection was lost.
    known: BTreeMap<String, Followed>,
    stream: Option<Stream>,
    stream_known: (Followed, Option<String>),
}

impl Ear {
    fn new(client: Client) -> Self {
        Self {
            client,
            socket: None,
            known: BTreeMap::new(),
            stream: None,
            stream_known: (Followed::default(), None),
        }
    }

    fn asked(&self) -> Vec<(&'static str, Json)> {
        let is_somebody = self.client.token.is_some();
        let all = queries().into_iter();
        all.filter(|(name, _)| is_somebody || *name != "mine")
            .collect()
    }

    fn connect(&mut self, server: &TestServer) {
        if self.socket.is_none() {
            let mut socket = Listener::open(server, &self.client);
            for (name, mut query) in self.asked() {
                let known = self
                    .known
                    .remove(name)
                    .filter(|known| known.error.is_none());
                if let Some(known) = known
                    && let Some(position) = known.position
                {
                    query["from"] = position.into();
                    socket.followed.insert(name.to_owned(), known.resumed());
                }
                socket.ask(name, query);
            }
            self.socket = Some(socket);
        }
        if self.stream.is_none() {
            let (known, last_id) = std::mem::take(&mut self.stream_known);
            let query = &queries()[1].1;
            let stream = Stream::get(server, &self.client, query, last_id.as_deref());
            let known = if last_id.is_some() {
                known
            } else {
                Followed::default()
            };
            self.stream = Some(stream.after(&known));
        }
    }

    /// Drops its connections, possibly with unread frames.
    fn disconnect(&mut self, dice: &mut Dice) {
        if let Some(mut socket) = self.socket.take() {
            for _ in 0..dice.below(12) {
                socket.next(Duration::from_millis(1));
            }
            self.known = socket.followed;
        }
        if let Some(stream) = self.stream.take() {
            stream.close();
            self.stream_known = (stream.followed, stream.last_id);
        }
    }

    /// Takes frames until its results are what queries find.
    fn settle(&mut self) {
        let asked = self.asked();
        let Some(socket) = &mut self.socket else {
            return;
        };
        for (name, query) in asked {
            if socket.followed[name].error.is_some() {
                // Rules may allow it again.
                socket.followed.insert(name.to_owned(), Followed::default());
                socket.ask(name, query.clone());
            }
            let answer = self.client.call("record:query", query.clone());
            let found = (answer.status == 200).then(|| by_id(&answer.result()));
            let is_so = |followed: &Followed| match &found {
                Some(found) => followed.records == *found && followed.num_ready > 0,
                None => followed.error.is_some(),
            };
            await_state(name, &self.client, &found, || {
                let is_so = is_so(&socket.followed[name]);
                if !is_so {
                    socket.next(Duration::from_millis(200));
                }
                (is_so, socket.followed[name].clone())
            });
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        let found = by_id(
            &self
                .client
                .call("record:query", queries()[1].1.clone())
                .result(),
        );
        await_state("stream", &self.client, &Some(found.clone()), || {
            let is_so = stream.followed.records == found && stream.followed.num_ready > 0;
            if !is_so {
                stream.next(Duration::from_millis(200));
            }
            (is_so, stream.followed.clone())
        });
    }
}

fn by_id(result: &Json) -> BTreeMap<String, Json> {
    let records = result.as_array().unwrap().iter();
    records
        .map(|record| (record["_id"].as_str().unwrap().to_owned(), record.clone()))
        .collect()
}

fn await_state(
    name: &str,
    client: &Client,
    found: &Option<BTreeMap<String, Json>>,
    mut look: impl FnMut() -> (bool, Followed),
) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (is_so, followed) = look();
        if is_so {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{name} of {:?}:\n{:#?}\ninstead of\n{found:#?}\nerror {:?}, it was told\n{}",
            client.user,
            followed.records,
            followed.error,
            followed.heard.join("\n")
        );
    }
}

struct World {
    server: TestServer,
    users: Vec<Client>,
    master: Client,
    ears: Vec<Ear>,
    /// The field's latest name.
    label: &'static str,
}

impl World {
    fn new() -> Self {
        let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
        let users = (0..NUM_USERS).map(|n| Client::signed_up(&server, &format!("user{n}")));
        let users: Vec<_> = users.collect();
        let master = Client::master(&server);
        let all = users
            .iter()
            .cloned()
            .chain([Client::anonymous(&server), master.clone()]);
        // Two listeners of the same user share what is known of their results.
        let ears = all.chain([users[0].clone()]).map(Ear::new).collect();
        let room = json!({"$type": "ref", "$id": "room/0"});
        users[0].save("room/0", json!({"open": true, "name": "r"}));
        users[0].save(
            "note/0",
            json!({"n": 1, "s": "a", "secret": 1, "label": "x", "room": room}),
        );
        Self {
            server,
            users,
            master,
            ears,
            label: "label",
        }
    }

    fn access(&self, dice: &mut Dice) -> Json {
        match dice.below(7) {
            0 | 1 => Json::Null,
            2 => json!([]),
            3 => json!([{"public": true, "level": "read"}]),
            4 => json!([{"role": dice.pick(&["red", "blue"]), "level": "read"}]),
            5 => json!([{"role": "red", "level": "write"}, {"role": "blue", "level": "read"}]),
            _ => json!([{"user_id": dice.pick(&self.users).user, "level": "write"}]),
        }
    }

    /// Does something, whether it is allowed or not. In calm phases no rights change, so that a
    /// returning listener can be sent what it missed.
    fn act(&mut self, dice: &mut Dice, is_calm: bool) {
        let user = dice.pick(&self.users);
        let note = format!("note/{}", dice.below(14));
        let room = format!("room/{}", dice.below(3));
        let what = if is_calm {
            dice.pick(&[0, 0, 0, 0, 0, 0, 14, 15, 16, 17, 29, 30, 31, 31])
        } else {
            dice.below(32)
        };
        match what {
            0..=13 => {
                let mut record = json!({"_id": note});
                for (name, value) in [
                    ("n", json!(dice.below(10))),
                    ("s", json!(dice.pick(&["a", "b", "c"]))),
                    ("secret", json!(dice.below(5))),
                    ("room", json!({"$type": "ref", "$id": room})),
                    (self.label, json!(dice.pick(&["x", "y"]))),
                    ("s", Json::Null),
                ] {
                    if dice.below(2) == 0 {
                        record[name] = value;
                    }
                }
                if dice.below(3) == 0 {
                    record["_access"] = self.access(dice);
                }
                let mut body = json!({"records": [record]});
                if dice.below(6) == 0 {
                    record["_id"] =
                        format!("note/p{}-{}", user.user.as_ref().unwrap(), dice.below(3)).into();
                    body = json!({"records": [record], "database_id": "_private"});
                }
                user.call("record:save", body);
            }
            14 | 15 => {
                let records: Vec<_> = (0..8)
                    .map(
                        |_| json!({"_id": format!("note/{}", dice.below(14)), "n": dice.below(10)}),
                    )
                    .collect();
                user.call(
                    "record:save",
                    json!({"records": records, "atomic": dice.below(2) == 0}),
                );
            }
            16..=18 => {
                user.call("record:delete", json!({"ids": [note]}));
            }
            19 | 20 => {
                let access = self.access(dice);
                let record = json!({"_id": room, "open": dice.below(2) == 0, "_access": access});
                user.call("record:save", json!({"records": [record]}));
            }
            21..=24 => {
                let action = dice.pick(&["role:assign", "role:revoke"]);
                let role = dice.pick(&["red", "blue"]);
                let body = json!({"users": [user.user], "roles": [role]});
                self.master.call(action, body).result();
            }
            25 | 26 => {
                let entry = |field: &str, role: &str, may: bool| {
                    json!({"record_type": "note", "record_field": field, "user_role": role,
                        "writable": true, "readable": may, "comparable": may, "discoverable": may})
                };
                let sets = [
                    json!([]),
                    json!([
                        entry("secret", "_owner", true),
                        entry("secret", "_any_user", false)
                    ]),
                    json!([
                        entry("secret", "_role:red", false),
                        entry("secret", "_public", true)
                    ]),
                    json!([
                        entry("label", "_role:blue", true),
                        entry("label", "_public", false),
                        entry("tag", "_role:blue", true),
                        entry("tag", "_public", false)
                    ]),
                ];
                let body = json!({"access": dice.pick(&sets)});
                self.master
                    .call("schema:field_access:update", body)
                    .result();
            }
            27 => {
                let new = if self.label == "label" {
                    "tag"
                } else {
                    "label"
                };
                let body = json!({"record_type": "note", "item_name": self.label, "new_name": new});
                if self.master.call("schema:rename", body).status == 200 {
                    self.label = new;
                }
            }
            28 => {
                let action = dice.pick(&["relation:add", "relation:remove"]);
                let target = dice.pick(&self.users).user;
                user.call(action, json!({"name": "_follow", "targets": [target]}));
            }
            29 | 30 => {
                let place = dice.below(self.ears.len());
                self.ears[place].disconnect(dice);
            }
            _ => {
                let place = dice.below(self.ears.len());
                self.ears[place].connect(&self.server);
            }
        }
    }

    fn settle(&mut self) {
        for ear in &mut self.ears {
            ear.settle();
        }
    }
}

#[test]
fn what_listeners_put_together_is_what_queries_find() {
    let first = setting("SKYTRAIL_LIVE_SEED", SEED);
    let mut num_replays = 0;
    for seed in first..first + setting("SKYTRAIL_LIVE_CASES", CASES) {
        println!("seed {seed}");
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let mut world = World::new();
        for ear in &mut world.ears {
            ear.connect(&world.server);
        }
        for op in 1..=OPS {
            // Phases of 40, alternately calm and not.
            world.act(&mut dice, (op / 40 + usize::from(seed % 2 == 0)) % 2 == 0);
            if op % 40 == 0 {
                world.settle();
            }
        }
        for ear in &mut world.ears {
            ear.connect(&world.server);
        }
        world.settle();
        // A socket and a stream each; the end of earlier ones may be noticed later.
        let live = eventually("the others are gone", || {
            let live = world.master.health()["live"].take();
            (live["num_listeners"] == 2 * world.ears.len()).then_some(live)
        });
        println!("{live}");
        assert_eq!(live["num_failures"], 0);
        num_replays += live["num_replays"].as_u64().unwrap();
        assert_eq!(live["num_slow"], 0);
    }
    assert!(num_replays > 0, "nobody was told what he missed");
}
