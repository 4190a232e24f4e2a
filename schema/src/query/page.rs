//! The matches that may be on a query's page.

use super::{BoundQuery, Query};
use crate::record::Head;

/// How many matches beyond the page are kept before they are sorted and cut off.
const SLACK: usize = 1024;

/// Collects matches, each with the place of its creation, and keeps only those that may be on the
/// page.
#[derive(Debug)]
pub struct Page<'a> {
    query: &'a Query,
    bound: &'a BoundQuery,
    /// Whether matches arrive in the requested order.
    is_sorted: bool,
    heads: Vec<(i64, Head)>,
    count: u64,
}

impl<'a> Page<'a> {
    /// Creates a page without any match.
    pub fn new(query: &'a Query, bound: &'a BoundQuery, is_sorted: bool) -> Self {
        Self {
            query,
            bound,
            is_sorted,
            heads: Vec::new(),
            count: 0,
        }
    }

    /// Returns how many matches the page and those before it need; `None` for all.
    fn num_needed(&self) -> Option<usize> {
        let num_needed = self.query.offset.saturating_add(self.query.limit?);
        usize::try_from(num_needed).ok()
    }

    /// Returns whether later matches make no difference.
    pub fn is_enough(&self) -> bool {
        let num_needed = self.num_needed();
        self.is_sorted
            && !self.query.count
            && num_needed.is_some_and(|num_needed| self.heads.len() >= num_needed)
    }

    /// Adds the next match, with the place of its creation; returns whether it may be on the page.
    pub fn add(&mut self, head: (i64, Head)) -> bool {
        self.count += 1;
        let Some(num_needed) = self.num_needed() else {
            self.heads.push(head);
            return true;
        };
        if self.is_sorted && self.heads.len() >= num_needed {
            return false;
        }
        self.heads.push(head);
        if self.heads.len() >= num_needed.saturating_add(SLACK) {
            self.prune();
        }
        true
    }

    /// Drops the matches that cannot be on the page.
    pub fn prune(&mut self) {
        if let Some(num_needed) = self.num_needed() {
            self.sort();
            self.heads.truncate(num_needed);
        }
    }

    /// Iterates over the matches that may be on the page so far.
    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.heads.iter().map(|(_, head)| head)
    }

    fn sort(&mut self) {
        if !self.is_sorted {
            let bound = self.bound;
            self.heads.sort_by(|(row, head), (other_row, other)| {
                let rows = row.cmp(other_row);
                let order = bound.compare(&head.record, &other.record);
                order.then(if bound.is_backwards() {
                    rows.reverse()
                } else {
                    rows
                })
            });
        }
    }

    /// Returns the page, and the total number of matches if requested.
    pub fn finish(mut self) -> (Vec<Head>, Option<u64>) {
        self.sort();
        let skip = usize::try_from(self.query.offset).unwrap_or(usize::MAX);
        let take = self.query.limit.unwrap_or(u64::MAX);
        let take = usize::try_from(take).unwrap_or(usize::MAX);
        let page = self.heads.into_iter().skip(skip).take(take);
        let page = page.map(|(_, head)| head);
        (page.collect(), self.query.count.then_some(self.count))
    }
}
