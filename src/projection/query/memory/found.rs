//! The matches that may be on the page.

use std::sync::Arc;

use skytrail_actors::store::QueryAnswer;
use skytrail_schema::query::{BoundQuery, Query};
use skytrail_schema::record::Head;

use super::super::run::Run;

/// How many matches behind the page are kept before they are sorted and cut off.
const SLACK: usize = 1024;

/// Collects matches, in the order in which they come.
pub(super) struct Found<'a> {
    query: &'a Query,
    bound: &'a BoundQuery,
    /// Whether they come in the order that is asked for.
    is_sorted: bool,
    heads: Vec<Head>,
    count: u64,
}

impl<'a> Found<'a> {
    pub(super) fn new(run: &Run<'a>, is_sorted: bool) -> Self {
        Self {
            query: run.query,
            bound: run.bound,
            is_sorted,
            heads: Vec::new(),
            count: 0,
        }
    }

    /// Returns how many matches the page and what lies before it take; `None` for all.
    fn num_wanted(&self) -> Option<usize> {
        let wanted = self.query.offset.saturating_add(self.query.limit?);
        usize::try_from(wanted).ok()
    }

    /// Whether later matches make no difference.
    pub(super) fn is_enough(&self) -> bool {
        let wanted = self.num_wanted();
        self.is_sorted
            && !self.query.count
            && wanted.is_some_and(|wanted| self.heads.len() >= wanted)
    }

    pub(super) fn add(&mut self, head: Head) {
        self.count += 1;
        let Some(wanted) = self.num_wanted() else {
            self.heads.push(head);
            return;
        };
        if self.is_sorted && self.heads.len() >= wanted {
            return;
        }
        self.heads.push(head);
        if self.heads.len() >= wanted.saturating_add(SLACK) {
            self.sort();
            self.heads.truncate(wanted);
        }
    }

    fn sort(&mut self) {
        if !self.is_sorted {
            let bound = self.bound;
            self.heads
                .sort_by(|left, right| bound.compare(&left.record, &right.record));
        }
    }

    /// Returns the page, and the count if it is asked for.
    pub(super) fn finish(mut self) -> QueryAnswer {
        self.sort();
        let skip = usize::try_from(self.query.offset).unwrap_or(usize::MAX);
        let take = self.query.limit.unwrap_or(u64::MAX);
        let take = usize::try_from(take).unwrap_or(usize::MAX);
        let page = self.heads.into_iter().skip(skip).take(take);
        QueryAnswer {
            records: page.map(Arc::new).collect(),
            count: self.query.count.then_some(self.count),
        }
    }
}
