//! The numbers of notices.

use skytrail_schema::time::Timestamp;

/// The bits below the second: this many bits count the changes within a second.
const COUNTER_BITS: u32 = 28;

/// Numbers changes of records: the second, then the change's place in the log. A change that is
/// told again after a crash has the same number as before, and later changes have larger numbers.
#[derive(Debug, Default)]
pub struct SequenceNumbers {
    last: u64,
}

impl SequenceNumbers {
    /// Returns the number of a change that was committed at `time` and is at `position`.
    pub fn next(&mut self, time: Timestamp, position: u64) -> u64 {
        let number = first_of(time) + position % (1 << COUNTER_BITS);
        // Once in 2^28 changes, the counter may wrap around within a second.
        self.last = number.max(self.last + 1);
        self.last
    }
}

/// Returns the first number of a second.
fn first_of(time: Timestamp) -> u64 {
    let seconds = u64::try_from(time.micros().div_euclid(1_000_000));
    seconds.unwrap_or_default() << COUNTER_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000 + 7)
    }

    #[test]
    fn a_number_is_the_second_and_the_place() {
        let mut numbers = SequenceNumbers::default();
        let number = numbers.next(at(0x43b9_40e5), 7);
        assert_eq!(number, 0x043b_940e_5000_0007);
        let wrap = 1 << COUNTER_BITS;
        let given = [wrap - 1, wrap, wrap + 1].map(|it| numbers.next(at(0x43b9_40e6), it));
        assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
    }

    proptest! {
        /// However often the server restarts, also within a second, and goes back to what it knows
        /// it has told: what was told gets the same number again, and what is new gets a larger
        /// one.
        #[test]
        fn numbers_always_grow(
            changes in prop::collection::vec((0_i64..2, 1_u64..4), 1..40),
            restarts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..5), 0..8),
        ) {
            let mut log = Vec::new();
            for (seconds, events) in changes {
                let (second, position) = log.last().copied().unwrap_or((1000, 0));
                log.push((second + seconds, position + events));
            }
            let mut ends: Vec<(usize, usize)> = restarts
                .into_iter()
                .map(|(end, back)| (end.index(log.len()), back))
                .collect();
            ends.sort_unstable();
            ends.push((log.len(), 0));
            let mut given: Vec<u64> = Vec::new();
            let mut start = 0;
            for (end, back) in ends {
                let mut numbers = SequenceNumbers::default();
                for (at_change, (second, position)) in log.iter().enumerate().take(end).skip(start) {
                    let number = numbers.next(at(*second), *position);
                    match given.get(at_change) {
                        Some(before) => prop_assert_eq!(number, *before),
                        None => {
                            prop_assert!(given.last().is_none_or(|last| number > *last));
                            given.push(number);
                        }
                    }
                }
                start = end.saturating_sub(back).min(given.len());
            }
        }
    }
}
