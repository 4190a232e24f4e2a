//! Whatever happens in whatever order, everybody has the result.
//!
//! The parts that live queries work with are moved one step at a time, in any order that can occur.
//! The log grows, the store applies it later, the follower sees it before or after that. What SQL
//! changes is in the store first, and in the log later or never. Reads return in any order. Listeners read, lose their connections and come back. A schedule is derived
//! from a number, so that one that fails can be played again: `SKYTRAIL_LIVE_SCHEDULE` is the first
//! number, `SKYTRAIL_LIVE_SCHEDULES` how many there are.

mod ear;
mod orders;
mod outbox;
mod reads;
pub(crate) mod store;
mod world;

use serde_json::{Value as Json, json};
use skytrail_schema::types::FieldType;

use self::ear::Ear;
use self::world::{
    World, audience, changed, created, deleted, for_role, note, renamed, role, rules, signed_up,
    typed,
};

const SCHEDULES: u64 = 100;
const STEPS: usize = 220;

/// Numbers that look random, the same for every run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

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

fn queries() -> [Json; 4] {
    let path = |name: &str| json!({"$type": "keypath", "$val": name});
    [
        json!({"record_type": "note"}),
        json!({"record_type": "note", "predicate": ["lt", path("n"), 5],
            "desired_keys": ["n", "secret"]}),
        json!({"record_type": "note", "predicate": ["lt", path("n"), 7],
            "include": {"room": path("room")}}),
        json!({"record_type": "note", "predicate": ["lt", path("room.n"), 5]}),
    ]
}

/// Creates what exists before anybody listens.
fn begin(world: &World) {
    let fields = [
        ("n", FieldType::Number),
        ("secret", FieldType::Number),
        ("label", FieldType::Number),
        ("room", FieldType::Reference("room".into())),
    ];
    world.commit(vec![
        typed("note", &fields),
        typed("room", &[("n", FieldType::Number)]),
    ]);
    world.commit(vec![signed_up("u0"), signed_up("u1")]);
    world.apply(usize::MAX);
}

fn room() -> skytrail_schema::id::RecordId {
    skytrail_schema::id::RecordId::new("room", "r")
}

/// Something that happens to records, or to who may see them.
fn happen(world: &World, dice: &mut Dice, label: &mut &'static str) {
    let event = match dice.below(16) {
        0..=1 => {
            let user = dice.pick(&["u0", "u1"]);
            vec![role(user, dice.pick(&["red", "blue"]), dice.below(2) == 0)]
        }
        2 => vec![rules(dice.pick(&[None, Some("red"), Some("blue")]))],
        3 if dice.below(3) == 0 => {
            let new = if *label == "label" { "tag" } else { "label" };
            vec![renamed(std::mem::replace(label, new), new)]
        }
        4 => {
            let is_there = world.has(&room());
            let make = if is_there { changed } else { created };
            vec![make(&room(), json!({"n": dice.below(10)}), &Json::Null)]
        }
        _ => {
            let mut keys = vec!["a", "b", "c", "d"];
            let number = 1 + dice.below(2);
            let mut events = Vec::new();
            for _ in 0..number {
                let id = note(keys.remove(dice.below(keys.len())));
                let is_there = world.has(&id);
                let access = [Json::Null, for_role("red"), for_role("blue"), json!([])];
                let access = dice.pick(&access);
                let reference = json!({"$type": "ref", "$id": "room/r"});
                let fields = json!({"n": dice.below(10), "secret": dice.below(3),
                    *label: dice.below(3), "room": reference});
                events.push(match dice.below(5) {
                    0 if is_there => deleted(&id),
                    _ if is_there => changed(&id, fields, &access),
                    _ => created(&id, fields, &access),
                });
            }
            events
        }
    };
    world.commit(event);
}

/// SQL changes rows, without access rights or hooks.
fn happen_by_sql(world: &World, dice: &mut Dice) {
    let mut events = Vec::new();
    if dice.below(4) == 0 {
        let make = if world.has_row(&room()) {
            changed
        } else {
            created
        };
        events.push(make(&room(), json!({"n": dice.below(10)}), &Json::Null));
    } else {
        let mut keys = vec!["a", "b", "c", "d"];
        for _ in 0..=dice.below(2) {
            let id = note(keys.remove(dice.below(keys.len())));
            let is_there = world.has_row(&id);
            let access = [Json::Null, for_role("red"), for_role("blue"), json!([])];
            let access = dice.pick(&access);
            let reference = json!({"$type": "ref", "$id": "room/r"});
            let fields = json!({"n": dice.below(10), "room": reference});
            events.push(match dice.below(3) {
                0 if is_there => deleted(&id),
                _ if is_there => changed(&id, fields, &access),
                _ => created(&id, fields, &access),
            });
        }
    }
    world.by_sql(events);
}

/// What else happens than on a server with a database of its own that is always there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Others write by SQL.
    Sql,
    /// The database comes and goes.
    Outages,
}

async fn play(seed: u64, trouble: Trouble) {
    let mut dice = Dice::new(seed);
    let mut world = World::telling(dice.pick(&[0, 1 << 20]), dice.pick(&[2, 1000]));
    begin(&world);
    let mut label = "label";
    let users = [None, Some("u0"), Some("u0"), Some("u1")];
    let mut ears: Vec<Ear> = Vec::new();
    for number in 0..3 + dice.below(5) {
        let (user, query) = (dice.pick(&users), dice.pick(&queries()));
        let name = format!("seed {seed}: ear {number} of {user:?} asks {query}");
        ears.push(Ear::new(name, audience(user), query));
    }
    for _ in 0..STEPS {
        let place = dice.below(ears.len());
        let ear = &mut ears[place];
        match dice.below(if trouble == Trouble::None { 32 } else { 36 }) {
            0..=4 => happen(&world, &mut dice, &mut label),
            5..=8 => world.apply(1 + dice.below(3)),
            9..=13 => world.follow(1 + dice.below(2)),
            14..=21 => {
                if world.store.gate.num_waiting() > 0 {
                    let place = dice.below(world.store.gate.num_waiting());
                    world.store.gate.release(place);
                }
            }
            22..=25 => {
                for _ in 0..1 + dice.below(3) {
                    ear.hear();
                }
            }
            26 | 27 => ear.disconnect(&world.service),
            28..=30 => ear.connect(&world.service),
            32..=35 if trouble == Trouble::Outages => {
                world.store.gate.set_away(dice.below(3) == 0);
            }
            32..=33 => happen_by_sql(&world, &mut dice),
            34..=35 => drop(world.ingest(&mut dice)),
            _ if dice.below(2) == 0 => ear.ask_again(&world.service),
            _ => tokio::time::advance(std::time::Duration::from_millis(60)).await,
        }
        // Sometimes the next thing happens in the middle of what this has set off.
        if dice.below(4) == 0 {
            tokio::task::yield_now().await;
        } else {
            world.rest().await;
        }
    }
    if trouble == Trouble::Outages {
        world.store.gate.set_away(false);
        world.come_to_rest().await;
        // Whose query has failed learns it, and asks again.
        ears.iter_mut().for_each(|ear| while ear.hear() {});
    }
    for ear in &mut ears {
        ear.connect(&world.service);
    }
    world.apply(usize::MAX);
    while world.ingest(&mut dice) {
        world.apply(usize::MAX);
    }
    world.come_to_rest().await;
    for ear in &mut ears {
        while ear.hear() {}
        ear.check(&world.fresh(ear).await);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long this test runs is asked of whoever runs it"
)]
fn setting(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Plays on a thread of its own, whose time stands still.
fn run(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future);
}

#[test]
fn whatever_comes_first_everybody_has_the_result() {
    let first = setting("SKYTRAIL_LIVE_SCHEDULE", 1);
    for seed in first..first + setting("SKYTRAIL_LIVE_SCHEDULES", SCHEDULES) {
        run(play(seed, Trouble::None));
    }
}

#[test]
fn whatever_sql_does_everybody_has_what_the_log_says() {
    let first = setting("SKYTRAIL_LIVE_SCHEDULE", 1);
    for seed in first..first + setting("SKYTRAIL_LIVE_SCHEDULES", SCHEDULES) {
        run(play(seed, Trouble::Sql));
    }
}

#[test]
fn an_outage_of_the_store_ends_no_query_that_has_a_result() {
    let first = setting("SKYTRAIL_LIVE_SCHEDULE", 1);
    for seed in first..first + setting("SKYTRAIL_LIVE_SCHEDULES", SCHEDULES) {
        run(play(seed, Trouble::Outages));
    }
}
