//! The numbers of notices.

use skytrail_schema::time::Timestamp;

/// The bits below the second: so many changes a second have numbers of their own second.
const COUNTER_BITS: u32 = 28;

/// Numbers changes of records: the second, then a counter that starts at 0 in each. The numbers
/// always grow, whatever the clock does.
#[derive(Debug)]
pub struct SequenceNumbers {
    last: u64,
}

impl SequenceNumbers {
    /// Starts behind everything that an earlier process may have given until `now`.
    pub fn after(now: Timestamp) -> Self {
        Self {
            last: first_of(now) + (1 << COUNTER_BITS) - 1,
        }
    }

    /// Gives the number of a change that was committed at `time`.
    pub fn next(&mut self, time: Timestamp) -> u64 {
        self.last = first_of(time).max(self.last + 1);
        self.last
    }
}

/// Returns the first number of a moment's second.
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
    fn a_second_begins_with_counter_zero() {
        let mut numbers = SequenceNumbers::after(at(0x43b9_40e4));
        let time = at(0x43b9_40e5);
        let given = [(); 3].map(|()| numbers.next(time));
        let first = 0x043b_940e_5000_0000;
        assert_eq!(given, [first, first + 1, first + 2]);
    }

    proptest! {
        #[test]
        fn numbers_always_grow(
            times in prop::collection::vec((0_i64..5, any::<bool>()), 1..60),
        ) {
            let mut numbers = SequenceNumbers::after(at(1_000));
            let mut last = 0;
            for (second, starts_anew) in times {
                if starts_anew {
                    // A new process, which starts when the log has reached that second.
                    let reached = i64::try_from(last >> COUNTER_BITS).unwrap();
                    numbers = SequenceNumbers::after(at(reached.max(1_000)));
                }
                let next = numbers.next(at(1_000 + second));
                prop_assert!(next > last);
                last = next;
            }
        }
    }
}
