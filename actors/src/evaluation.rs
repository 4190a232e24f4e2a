//! Predicates that are evaluated record by record, on a thread that many share.

use skytrail_schema::code::ApiError;
use skytrail_schema::predicate::{Condition, Context};
use skytrail_schema::record::Record;

use crate::yield_budget::YieldBudget;

/// A predicate can examine this many bytes of one record, see [`Condition::cost`]; other tasks wait
/// meanwhile.
const MAX_COST: u64 = 256 << 20;

/// A predicate, and its work since other tasks had a turn.
pub struct Evaluation<'a> {
    condition: Option<&'a Condition>,
    yield_budget: YieldBudget,
}

impl<'a> Evaluation<'a> {
    /// Starts an evaluation; without a condition every record matches.
    pub fn new(condition: Option<&'a Condition>) -> Self {
        Self {
            condition,
            yield_budget: YieldBudget::default(),
        }
    }

    /// Returns whether a record matches.
    ///
    /// # Errors
    /// 108: the predicate would have to examine too much.
    pub async fn matches(
        &mut self,
        record: &Record,
        context: Context<'_>,
    ) -> Result<bool, ApiError> {
        let Some(condition) = self.condition else {
            return Ok(true);
        };
        let cost = condition.cost(record, context, MAX_COST);
        if cost > MAX_COST {
            let most = MAX_COST >> 20;
            let why = format!(
                "the predicate would have to read more than {most} MiB of a record; ask for less"
            );
            return Err(ApiError::invalid_argument(why, &["predicate"]));
        }
        self.yield_budget.after(cost).await;
        Ok(condition.evaluate(record, context) == Some(true))
    }
}
