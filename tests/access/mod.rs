//! Access control, compared with a model.
//!
//! Random histories of everything that callers can do run against a server and a model of v1's
//! rules, which shares no code with the server ([`model`], [`changes`], [`search`]). Every answer
//! must equal the model's: nobody reads, finds or changes what the rules deny, whatever they ask
//! for, and everything that the rules allow works.
//!
//! A failing history is shortened before it is shown. `SKYTRAIL_ACCESS_CASES` sets how many
//! histories are played, `SKYTRAIL_ACCESS_SEED` where they begin.

mod changes;
mod compare;
mod devices;
mod files;
mod found;
mod model;
mod ops;
mod play;
mod random;
mod search;
mod table;
mod users;
mod world;

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::ops::Op;
use self::random::op;
use self::world::World;

const CASES: u64 = 4;
const OPS_PER_CASE: usize = 400;
/// How many servers are started at most to shorten a history.
const MAX_TRIES: usize = 150;
const SEED: u64 = 20_160_908;

fn setting(name: &str, default: u64) -> u64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long this test runs is asked of whoever runs it"
    )]
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Plays a history; a failure gives the index of the operation, and how the answer differs.
fn play(history: &[Op]) -> Result<(), (usize, String)> {
    let mut world = World::with(&[("LOG_LEVEL", "warn")]);
    let failed = |place: usize| move |why: String| (place, why);
    world.furnish().map_err(failed(0))?;
    for (place, op) in history.iter().enumerate() {
        world.play(op).map_err(failed(place))?;
    }
    world.sweep().map_err(failed(history.len()))
}

/// Removes the operations without which a history still fails: first large parts, then smaller
/// ones.
fn shorten(mut history: Vec<Op>, mut why: String) -> (Vec<Op>, String) {
    let mut part = history.len() / 2;
    let mut num_tries = 0;
    while part > 0 {
        let mut from = 0;
        while from < history.len() && num_tries < MAX_TRIES {
            let mut shorter = history.clone();
            shorter.drain(from..(from + part).min(history.len()));
            num_tries += 1;
            match play(&shorter) {
                Ok(()) => from += part,
                Err((last, reason)) => {
                    shorter.truncate(last + 1);
                    (history, why) = (shorter, reason);
                }
            }
        }
        part = part.min(history.len()) / 2;
    }
    (history, why)
}

/// Plays one random history; one that fails is shortened and shown.
fn run(seed: u64) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut history = vec(op(), OPS_PER_CASE)
        .new_tree(&mut runner)
        .unwrap()
        .current();
    if let Err((last, why)) = play(&history) {
        println!("access: seed {seed} fails at {last}: {why}");
        history.truncate(last + 1);
        let (history, why) = shorten(history, why);
        let history: Vec<String> = history.iter().map(|op| format!("  {op:?}")).collect();
        panic!("seed {seed}: {why}\nafter:\n{}", history.join("\n"));
    }
}

#[test]
fn the_server_allows_what_the_rules_allow_and_nothing_else() {
    let seed = setting("SKYTRAIL_ACCESS_SEED", SEED);
    let cases = setting("SKYTRAIL_ACCESS_CASES", CASES);
    for seed in seed..seed + cases {
        println!("access: seed {seed}");
        run(seed);
    }
}
