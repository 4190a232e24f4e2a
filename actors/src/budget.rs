//! How much of one change can be examined for subscriptions or live queries.

use std::collections::HashMap;
use std::hash::Hash;

/// One subscription or live query can examine this many bytes of a change, see [`Condition::cost`].
///
/// [`Condition::cost`]: skytrail_schema::predicate::Condition::cost
pub(crate) const MAX_COST: u64 = 64 << 20;

/// All that have the same payer can together examine this many.
const MAX_COST_TOGETHER: u64 = 256 << 20;

/// The cost of examining a change so far, by payer.
#[derive(Debug)]
pub(crate) struct Budget<K>(HashMap<K, u64>);

/// The bound that would be exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooCostly {
    /// The bound for one.
    Alone,
    /// The bound for all with the same payer.
    Together,
}

impl TooCostly {
    /// Returns the bound, in MiB.
    pub(crate) fn most_mib(self) -> u64 {
        match self {
            Self::Alone => MAX_COST >> 20,
            Self::Together => MAX_COST_TOGETHER >> 20,
        }
    }
}

impl<K> Default for Budget<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Budget<K> {
    /// Spends some of a payer's budget.
    ///
    /// # Errors
    /// The cost exceeds a bound; nothing is spent.
    pub(crate) fn take(&mut self, payer: K, cost: u64) -> Result<(), TooCostly> {
        if cost > MAX_COST {
            return Err(TooCostly::Alone);
        }
        let spent = self.0.entry(payer).or_default();
        let sum = spent.saturating_add(cost);
        if sum > MAX_COST_TOGETHER {
            return Err(TooCostly::Together);
        }
        *spent = sum;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_and_all_of_one_payer_are_bounded_and_others_are_not_touched() {
        let mut budget = Budget::default();
        assert_eq!(budget.take("ada", MAX_COST + 1), Err(TooCostly::Alone));
        assert!((0..4).all(|_| budget.take("ada", MAX_COST).is_ok()));
        assert_eq!(budget.take("ada", 1), Err(TooCostly::Together));
        assert_eq!(budget.take("ben", MAX_COST), Ok(()));
    }

    proptest! {
        #[test]
        fn what_fits_is_taken_and_nothing_else(
            looks in prop::collection::vec((0_u8..3, 0..MAX_COST * 5 / 4), 0..60),
        ) {
            let mut budget = Budget::default();
            let mut taken: Vec<(u8, u64)> = Vec::new();
            for (payer, cost) in looks {
                let own = taken.iter().filter(|(it, _)| *it == payer);
                let remaining = (256 << 20) - own.map(|(_, cost)| cost).sum::<u64>();
                let is_taken = budget.take(payer, cost).is_ok();
                prop_assert_eq!(is_taken, cost <= remaining.min(64 << 20));
                taken.extend(is_taken.then_some((payer, cost)));
            }
        }
    }
}
