//! What queries cost, by their shapes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use parking_lot::Mutex;

use super::shape::Shape;
use crate::projection::sql::{Arg, SafeText};

/// How many shapes are watched; the cheapest are dropped for new ones.
const MAX_SHAPES: usize = 256;

/// The factor by which weights fade between two looks. With a look every five seconds, the last
/// minute or two count.
const KEPT: f64 = 0.95;

/// Queries with more bytes of values than this are not watched, since these are kept in memory.
const MAX_SAMPLE: usize = 64 << 10;

/// A statement and its values, to ask the database for its plan.
pub(crate) type Sample = (SafeText, Vec<Arg>);

/// What the queries of one shape have cost recently.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// The first query of that shape.
    pub(crate) sample: Sample,
    /// How many there were since the last look.
    pub(crate) num_new: u64,
    /// How many there were, fading over time.
    pub(crate) num_queries: f64,
    /// How long they took in microseconds, fading over time.
    pub(crate) micros: f64,
}

/// Counts queries.
#[derive(Default)]
pub(crate) struct Stats(Mutex<HashMap<Shape, Usage>>);

impl Stats {
    /// Counts a query with these shapes; `sample` is called when one of them is new.
    pub(crate) fn note(
        &self,
        shapes: Vec<Shape>,
        spent: Duration,
        sample: impl Fn() -> Option<Sample>,
    ) {
        let micros = spent.as_secs_f64() * 1e6;
        let mut usages = self.0.lock();
        for shape in shapes {
            if usages.len() >= MAX_SHAPES && !usages.contains_key(&shape) {
                forget_cheapest(&mut usages);
            }
            let usage = match usages.entry(shape) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(new) => {
                    let Some(sample) = sample() else {
                        continue;
                    };
                    if sample.1.iter().map(Arg::weight).sum::<usize>() > MAX_SAMPLE {
                        continue;
                    }
                    new.insert(Usage {
                        sample,
                        num_new: 0,
                        num_queries: 0.0,
                        micros: 0.0,
                    })
                }
            };
            usage.num_new += 1;
            usage.num_queries += 1.0;
            usage.micros += micros;
        }
    }

    /// Drops everything, since statements may name columns that have been renamed.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Returns everything, and fades the weights.
    pub(crate) fn take_look(&self) -> Vec<(Shape, Usage)> {
        let mut usages = self.0.lock();
        let look = usages.clone().into_iter().collect();
        for usage in usages.values_mut() {
            usage.num_new = 0;
            usage.num_queries *= KEPT;
            usage.micros *= KEPT;
        }
        usages.retain(|_, usage| usage.num_queries > 0.01);
        look
    }
}

fn forget_cheapest(usages: &mut HashMap<Shape, Usage>) {
    let cheapest = usages
        .iter()
        .min_by(|(_, left), (_, right)| left.micros.total_cmp(&right.micros));
    if let Some(shape) = cheapest.map(|(shape, _)| shape.clone()) {
        usages.remove(&shape);
    }
}
