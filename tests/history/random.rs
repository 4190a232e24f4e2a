//! Random histories, compared with a list of every past state.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::support::machine::number as setting;

const KEYS: [&str; 3] = ["a", "b", "c"];
const FIELDS: [&str; 3] = ["x", "y", "z"];

/// The fields of each existing record.
type State = BTreeMap<&'static str, BTreeMap<String, i64>>;

struct World {
    server: TestServer,
    master: Client,
    rng: StdRng,
    /// The current names of the type's fields: `x` may be `x2`, `x3` …
    names: Vec<String>,
    now: State,
    /// Positions, and the state right after each.
    past: Vec<(u64, State)>,
    /// Queries, and what they returned when the log was at a position.
    asked: Vec<(u64, Json, Json)>,
}

impl World {
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.rng.random_range(0..from.len())]
    }

    fn head(&self) -> u64 {
        self.master.health()["log"]["head"].as_u64().unwrap()
    }

    fn save(&mut self, key: &'static str) {
        let names = self.names.clone();
        let mut fields = BTreeMap::new();
        for name in names {
            match self.rng.random_range(0..6) {
                0..3 => {}
                3 => drop(fields.insert(name, None)),
                _ => drop(fields.insert(name, Some(self.rng.random_range(0..4)))),
            }
        }
        self.master.save(&format!("note/{key}"), json!(fields));
        let record = self.now.entry(key).or_default();
        for (name, value) in fields {
            match value {
                Some(value) => record.insert(name, value),
                None => record.remove(&name),
            };
        }
    }

    fn rename(&mut self) {
        let place = self.rng.random_range(0..self.names.len());
        let from = self.names[place].clone();
        let to = format!("{}{}", FIELDS[place], self.past.len());
        let body = json!({"record_type": "note", "item_name": from, "new_name": to});
        if self.master.call("schema:rename", body).code() != 0 {
            // No record has had this field yet.
            return;
        }
        for record in self.now.values_mut() {
            if let Some(value) = record.remove(&from) {
                record.insert(to.clone(), value);
            }
        }
        self.names[place] = to;
    }

    fn restore(&mut self, key: &'static str) {
        if self.past.is_empty() {
            return;
        }
        let place = self.rng.random_range(0..self.past.len());
        let (position, then) = self.past[place].clone();
        let body = json!({"record": format!("note/{key}"), "as_of": position});
        let answer = self.master.call("history:restore", body);
        let Some(was) = then.get(key) else {
            assert_eq!(answer.code(), 110);
            return;
        };
        answer.result();
        // Names begin with the field's first name, which is one letter.
        let named = |(name, value): (&String, &i64)| {
            let now = self.names.iter().find(|now| now[..1] == name[..1]);
            (now.unwrap().clone(), *value)
        };
        let back = was.iter().map(named).collect();
        self.now.insert(key, back);
    }

    /// Whether the store keeps past states makes no difference except in speed.
    fn set_temporal(&mut self) {
        let is_temporal = self.rng.random_range(0..3) > 0;
        let body = json!({"type": "note", "temporal": is_temporal});
        self.master.call("schema:temporal", body).result();
    }

    fn step(&mut self) {
        let key = self.pick(&KEYS);
        match self.rng.random_range(0..21) {
            20 => self.set_temporal(),
            0..13 => self.save(key),
            13..16 if self.now.remove(key).is_some() => {
                delete(&self.master, &format!("note/{key}"));
            }
            16 => self.rename(),
            _ => self.restore(key),
        }
        self.past.push((self.head(), self.now.clone()));
        self.ask();
    }

    /// Runs a query on the present.
    fn ask(&mut self) {
        let names = self.names.clone();
        let path = |name: &str| json!({"$type": "keypath", "$val": name});
        let (by, of) = (self.pick(&names).clone(), self.pick(&names).clone());
        let op = *self.pick(&["eq", "neq", "gt", "lte"]);
        let value = self.rng.random_range(0..4);
        let predicate = match self.rng.random_range(0..4) {
            0 => Json::Null,
            1 => json!([op, path(&of), value]),
            2 => json!(["not", [op, path(&of), value]]),
            _ => json!(["or", [op, path(&of), value], ["eq", path(&by), Json::Null]]),
        };
        let order = *self.pick(&["asc", "desc"]);
        // Equal records are ordered by their creation.
        let sort = match self.rng.random_range(0..3) {
            0 => json!([]),
            1 => json!([[path(&by), order]]),
            _ => json!([[path(&by), order], [path("_id"), "asc"]]),
        };
        let mut query = json!({
            "record_type": "note", "predicate": predicate, "count": true, "sort": &sort,
        });
        let is_paged = self.rng.random_range(0..2) == 0;
        if is_paged || sort.as_array().unwrap().is_empty() {
            query["limit"] = json!(self.rng.random_range(0..3));
            query["offset"] = json!(self.rng.random_range(0..2));
        }
        let answer = self.master.call("record:query", query.clone()).json();
        self.asked.push((self.head(), query, answer));
    }

    /// Compares everything that the server returns with the recorded past.
    fn check(&mut self) {
        for (position, then) in &self.past {
            let ids = KEYS.map(|key| format!("note/{key}"));
            let body = json!({"ids": ids, "as_of": position});
            let fetched = self.master.call("record:fetch", body).result();
            for (key, record) in KEYS.iter().zip(fetched.as_array().unwrap()) {
                let got = (record["_type"] == "record").then(|| own(record));
                assert_eq!(got.as_ref(), then.get(key), "note/{key} at {position}");
            }
        }
        for (position, query, answer) in &self.asked {
            let mut query = query.clone();
            query["as_of"] = json!(position);
            let again = self.master.call("record:query", query.clone()).json();
            assert_eq!(again, *answer, "{query}");
        }
        for key in KEYS {
            self.check_versions(key);
        }
    }

    /// Every version is the record right after it, and the sum of all changes up to it.
    fn check_versions(&self, key: &'static str) {
        let answer = self
            .master
            .call("history:list", json!({"record": format!("note/{key}")}));
        let was_ever = self.past.iter().any(|(_, then)| then.contains_key(key));
        if !was_ever {
            assert_eq!(answer.code(), 110);
            return;
        }
        let mut versions = versions(&self.master, &format!("note/{key}"));
        versions.reverse();
        let mut last: Option<Json> = None;
        for version in &versions {
            let position = version["position"].as_u64().unwrap();
            let at = self
                .past
                .iter()
                .find(|(head, _)| *head >= position)
                .unwrap();
            let got = (!version["record"].is_null()).then(|| own(&version["record"]));
            assert_eq!(got.as_ref(), at.1.get(key), "note/{key} at {position}");
            let is_in_order = |last: Json| time(&last["time"]) <= time(&version["time"]);
            assert!(last.is_none_or(is_in_order));
            for (name, change) in version["changes"].as_object().unwrap() {
                let after = version["record"].get(name);
                assert_eq!(change.get("after"), after, "{version}");
                assert_ne!(change.get("after"), change.get("before"), "{version}");
            }
            last = Some(version.clone());
        }
    }
}

fn own(record: &Json) -> BTreeMap<String, i64> {
    let members = record.as_object().unwrap().iter();
    let own = members.filter(|(name, _)| !name.starts_with('_'));
    own.map(|(name, value)| (name.clone(), value.as_i64().unwrap()))
        .collect()
}

#[test]
fn the_past_is_what_it_was_over_random_histories_and_a_store_made_anew() {
    let seed = setting("SKYTRAIL_HISTORY_SEED", 7);
    println!("SKYTRAIL_HISTORY_SEED={seed}");
    let server = TestServer::with(&[("LOG_LEVEL", "warn")]);
    let mut world = World {
        master: Client::master(&server),
        server,
        rng: StdRng::seed_from_u64(seed),
        names: FIELDS.map(str::to_owned).to_vec(),
        now: State::new(),
        past: Vec::new(),
        asked: Vec::new(),
    };
    let steps = setting("SKYTRAIL_HISTORY_STEPS", 150);
    for _ in 0..steps {
        world.step();
    }
    world.check();
    assert!(world.server.terminate().success());
    let rebuilt = world.server.skytrail(&["rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    world.server.restart();
    world.master = world.master.at(&world.server);
    for _ in 0..steps / 5 {
        world.step();
    }
    world.check();
}
