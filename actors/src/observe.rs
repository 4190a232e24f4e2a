//! Metrics that parts of the server keep about themselves.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Counts values by size, without a lock. A reading can lack the latest values.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// How many values were at most each bound and above the previous one; the last counts those
    /// above all bounds.
    counts: Box<[AtomicU64]>,
    /// In millionths.
    sum: AtomicU64,
}

/// The content of a histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HistogramState {
    /// Each bound, and how many values were at most that, including smaller ones.
    pub buckets: Vec<(f64, u64)>,
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    /// Seconds from a tenth of a millisecond to half a minute.
    pub const SECONDS: &'static [f64] = &[
        0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
    ];
    /// Counts, in powers of four.
    pub const NUMBERS: &'static [f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];

    /// Builds a histogram with ascending bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts a value; a negative value or NaN counts as zero.
    pub fn observe(&self, value: f64) {
        let index = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let micros = std::time::Duration::try_from_secs_f64(value).unwrap_or_default();
        let micros = u64::try_from(micros.as_micros()).unwrap_or(u64::MAX);
        self.sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// Returns the histogram's content.
    pub fn state(&self) -> HistogramState {
        let mut so_far = 0;
        let mut counts = self.counts.iter().map(|count| {
            so_far += count.load(Ordering::Relaxed);
            so_far
        });
        let buckets: Vec<_> = self.bounds.iter().copied().zip(counts.by_ref()).collect();
        let count = counts.next().unwrap_or_default();
        let micros = self.sum.load(Ordering::Relaxed);
        HistogramState {
            buckets,
            count,
            sum: std::time::Duration::from_micros(micros).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_at_their_bounds() {
        let histogram = Histogram::new(&[1.0, 4.0]);
        for value in [0.5, 1.0, 1.5, 4.0, 100.0, -1.0, f64::NAN] {
            histogram.observe(value);
        }
        let state = histogram.state();
        assert_eq!(state.buckets, [(1.0, 4), (4.0, 6)]);
        assert_eq!((state.count, state.sum), (7, 107.0));
    }
}
