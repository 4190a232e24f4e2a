//! Mutates valid input: bytes, and the tree of JSON.

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value as Json, json};

/// At most this many accepted inputs are mutated further.
const MAX_LEARNT: usize = 2000;
const MAX_BYTES: usize = 64 << 10;

const TOKENS: &[&str] = &[
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "0",
    "-0",
    "1e400",
    "1e-400",
    "9223372036854775808",
    "-1",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "]",
    "}",
    ",",
    ":",
    "\"",
    "\\",
    "\u{feff}",
    "\u{202e}",
    "$type",
    "$val",
    "keypath",
    "date",
    "$date",
    "func",
    "distance",
    "userRelation",
    "not",
    "or",
    "*/0",
    "99999999999999999999",
    "@every ",
    "ns",
];

pub struct Mutator {
    rng: StdRng,
    seeds: Vec<Vec<u8>>,
    /// All subtrees of the JSON seeds.
    parts: Vec<Json>,
    num_given: usize,
}

impl Mutator {
    pub fn new(rng: StdRng, seeds: Vec<Vec<u8>>) -> Self {
        let trees = seeds
            .iter()
            .filter_map(|seed| serde_json::from_slice(seed).ok());
        let mut parts = vec![
            json!(null),
            json!(1e308),
            json!(-1),
            json!("\u{0}"),
            json!([[]]),
        ];
        trees.for_each(|tree: Json| collect(&tree, &mut parts));
        let num_given = seeds.len();
        Self {
            rng,
            seeds,
            parts,
            num_given,
        }
    }

    /// Keeps an accepted input for further mutations.
    pub fn learn(&mut self, input: Vec<u8>) {
        if input.len() > MAX_BYTES {
            return;
        }
        if self.seeds.len() < MAX_LEARNT {
            self.seeds.push(input);
        } else if self.num_given < MAX_LEARNT {
            let place = self.rng.random_range(self.num_given..MAX_LEARNT);
            self.seeds[place] = input;
        }
    }

    /// Returns the next input.
    pub fn next(&mut self) -> Vec<u8> {
        let place = self.below(self.seeds.len());
        let mut input = self.seeds[place].clone();
        for _ in 0..=self.below(4) {
            match serde_json::from_slice::<Json>(&input) {
                Ok(mut tree) if self.rng.random_bool(0.7) => {
                    self.bend_tree(&mut tree);
                    input = tree.to_string().into_bytes();
                }
                _ => self.bend_bytes(&mut input),
            }
        }
        input
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end.max(1))
    }

    /// Puts a part of another input somewhere.
    fn bend_tree(&mut self, tree: &mut Json) {
        let place = self.below(self.parts.len());
        let part = self.parts[place].clone();
        let mut at = tree;
        while !is_leaf(at) && self.rng.random_bool(0.7) {
            let index = self.rng.random_range(0..length(at));
            at = match at {
                Json::Array(items) => &mut items[index],
                Json::Object(members) => members.values_mut().nth(index).unwrap(),
                leaf => leaf,
            };
        }
        match at {
            Json::Array(items) if self.rng.random_bool(0.5) => items.push(part),
            at => *at = part,
        }
    }

    fn bend_bytes(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.below(6) {
            0 if !input.is_empty() => input[at] = self.rng.random(),
            1 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            2 => {
                let end = (at + 1 + self.below(8)).min(input.len());
                input.drain(at.min(end)..end);
            }
            3 => input.truncate(at),
            4 => {
                let other = self.below(self.seeds.len());
                let other = &self.seeds[other];
                let from = self.rng.random_range(0..=other.len());
                let to = (from + self.rng.random_range(0..64)).min(other.len());
                let piece = other[from..to].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.bytes());
            }
        }
    }
}

fn collect(tree: &Json, parts: &mut Vec<Json>) {
    parts.push(tree.clone());
    match tree {
        Json::Array(items) => items.iter().for_each(|item| collect(item, parts)),
        Json::Object(members) => members.values().for_each(|item| collect(item, parts)),
        _ => {}
    }
}

fn length(value: &Json) -> usize {
    match value {
        Json::Array(items) => items.len(),
        Json::Object(members) => members.len(),
        _ => 0,
    }
}

fn is_leaf(value: &Json) -> bool {
    length(value) == 0
}
