//! How much those who watch, by subscriptions or live queries, may look at of one change.

use std::collections::HashMap;
use std::hash::Hash;

/// One of them may look at so many bytes of a change, see [`Condition::cost`].
///
/// [`Condition::cost`]: skytrail_schema::predicate::Condition::cost
pub(crate) const MAX_COST: u64 = 64 << 20;

/// All that have the same payer together may.
const MAX_COST_TOGETHER: u64 = 256 << 20;

/// What was looked at of a change, by who it counts for.
#[derive(Debug)]
pub(crate) struct Budget<K>(HashMap<K, u64>);

/// Which bound a look would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooCostly {
    /// That of one.
    Alone,
    /// That of all with the same payer.
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
    /// Takes so much for one of a payer's.
    ///
    /// # Errors
    /// That is too much; nothing is taken.
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
                let his = taken.iter().filter(|(it, _)| *it == payer);
                let left = (256 << 20) - his.map(|(_, cost)| cost).sum::<u64>();
                let is_taken = budget.take(payer, cost).is_ok();
                prop_assert_eq!(is_taken, cost <= left.min(64 << 20));
                taken.extend(is_taken.then_some((payer, cost)));
            }
        }
    }
}
