//! How much subscriptions may look at of one change.

use std::collections::HashMap;

/// A subscription may look at so many bytes of a change, see [`Condition::cost`].
///
/// [`Condition::cost`]: skytrail_schema::predicate::Condition::cost
pub(super) const MAX_COST: u64 = 64 << 20;

/// All subscriptions of a user together may; of a device that has none, its own.
const MAX_COST_TOGETHER: u64 = 256 << 20;

/// What was looked at of a change, by user or device.
#[derive(Debug, Default)]
pub(super) struct Budget(HashMap<String, u64>);

impl Budget {
    /// Takes so much for one subscription; `false` if that is too much.
    pub(super) fn take(&mut self, whose: &str, cost: u64) -> bool {
        let spent = self.0.get(whose).copied().unwrap_or_default();
        let sum = spent.saturating_add(cost);
        let fits = cost <= MAX_COST && sum <= MAX_COST_TOGETHER;
        if fits {
            self.0.insert(whose.to_owned(), sum);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_all_of_one_user_are_bounded_and_others_are_not_touched() {
        let mut budget = Budget::default();
        assert!(!budget.take("ada", MAX_COST + 1));
        assert!((0..4).all(|_| budget.take("ada", MAX_COST)));
        assert!(!budget.take("ada", 1));
        assert!(budget.take("ben", MAX_COST));
    }
}
