//! Turns: requests that have lost too many races run one at a time.
//!
//! They wait only for requests about the same records. A slow hook of a record holds back only
//! requests about it, and those about records that such a request waits with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use skytrail_schema::id::RecordId;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::context::RequestContext;

/// The records that requests have, or wait for, the turn of.
#[derive(Debug, Default)]
pub struct Turns {
    by_record: parking_lot::Mutex<HashMap<RecordId, Arc<Mutex<()>>>>,
}

/// The turn of a request. It ends when this is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    ids: Vec<RecordId>,
    guards: Vec<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a request's turn with some records. There is none inside a hook: the request that
    /// waits for the hook may have it.
    pub async fn take<'a>(
        &self,
        context: &RequestContext,
        ids: impl Iterator<Item = &'a RecordId>,
    ) -> Turn<'_> {
        let mut turn = Turn {
            turns: self,
            ids: Vec::new(),
            guards: Vec::new(),
        };
        if context.depth > 0 {
            return turn;
        }
        // In ascending order, so that no two requests wait for each other.
        for id in ids.collect::<BTreeSet<_>>() {
            let record = Arc::clone(self.by_record.lock().entry(id.clone()).or_default());
            turn.ids.push(id.clone());
            turn.guards.push(record.lock_owned().await);
        }
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guards.clear();
        let mut by_record = self.turns.by_record.lock();
        for id in &self.ids {
            // Whoever else has it or waits for it holds it, too.
            let is_idle = |record: &Arc<Mutex<()>>| Arc::strong_count(record) == 1;
            if by_record.get(id).is_some_and(is_idle) {
                by_record.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn ids(keys: &[&str]) -> Vec<RecordId> {
        keys.iter().map(|key| RecordId::new("note", *key)).collect()
    }

    #[tokio::test]
    async fn only_those_who_name_the_same_record_wait_for_each_other() {
        let turns = Turns::default();
        let mut context = RequestContext::system();
        let [ab, ba, c] = [ids(&["a", "b"]), ids(&["b", "a", "b"]), ids(&["c"])];
        let first = turns.take(&context, ab.iter()).await;
        let mut second = Box::pin(turns.take(&context, ba.iter()));
        assert!((&mut second).now_or_never().is_none());
        let other = turns.take(&context, c.iter()).now_or_never();
        assert!(other.is_some());
        let given_up = turns.take(&context, ab.iter()).now_or_never();
        assert!(given_up.is_none());
        drop(first);
        let second = second.now_or_never();
        assert!(second.is_some());
        context.depth = 1;
        let inside = turns.take(&context, ab.iter()).now_or_never();
        assert!(inside.is_some());
        drop((second, other, inside));
        assert!(turns.by_record.lock().is_empty());
    }
}
