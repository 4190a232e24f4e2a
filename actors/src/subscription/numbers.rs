//! The numbers of notices.

use skytrail_schema::time::Timestamp;

/// The bits below the second: so many changes a second have numbers of their own second.
const COUNTER_BITS: u32 = 28;

/// Numbers changes of records: the second, then a counter that starts at 0 in each. The numbers
/// always grow.
///
/// A process begins with its first change's position as the counter: whatever earlier processes
/// gave in the same second lies below, since each change that they counted has a position.
#[derive(Debug, Default)]
pub struct SequenceNumbers {
    last: Option<u64>,
}

impl SequenceNumbers {
    /// Gives the number of a change that was committed at `time` and stands at `position`.
    pub fn next(&mut self, time: Timestamp, position: u64) -> u64 {
        let first = first_of(time);
        let next = match self.last {
            Some(last) => first.max(last + 1),
            None => first + position % (1 << COUNTER_BITS),
        };
        self.last = Some(next);
        next
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
        let mut numbers = SequenceNumbers::default();
        numbers.next(at(0x43b9_40e4), 5);
        let given = [6, 7, 8].map(|position| numbers.next(at(0x43b9_40e5), position));
        let first = 0x043b_940e_5000_0000;
        assert_eq!(given, [first, first + 1, first + 2]);
    }

    proptest! {
        /// However often the server starts anew, also within a second.
        #[test]
        fn numbers_always_grow(
            changes in prop::collection::vec((0_i64..2, 1_u64..4, any::<bool>()), 1..60),
        ) {
            let mut numbers = SequenceNumbers::default();
            let (mut last, mut second, mut position) = (0, 1_000, 0);
            for (seconds, events, starts_anew) in changes {
                second += seconds;
                position += events;
                if starts_anew {
                    numbers = SequenceNumbers::default();
                }
                let next = numbers.next(at(second), position);
                prop_assert!(next > last);
                last = next;
            }
        }
    }
}
