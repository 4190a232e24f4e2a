//! A log and decisions for the benches.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use skytrail_actors::log::{ConflictKey, Decision, Now};
use skytrail_schema::event::NewCommit;
use skytrail_schema::time::Timestamp;

use crate::commit::commit;

/// Returns the decision to append such a commit: new records, which nothing else writes.
pub(crate) fn decision(num_records: usize, read_position: u64) -> Decision {
    deciding(commit(num_records), read_position)
}

/// Returns the decision to append a commit.
pub(crate) fn deciding(commit: NewCommit, read_position: u64) -> Decision {
    let writes = commit
        .events
        .iter()
        .map(|event| ConflictKey::stream(&event.stream))
        .collect();
    Decision {
        commit,
        read_position,
        reads: Vec::new(),
        writes,
        sequences: Vec::new(),
    }
}

/// Returns a clock that advances by itself.
pub(crate) fn clock() -> Now {
    let now = AtomicI64::new(1_500_000_000_000_000);
    Arc::new(move || Timestamp::from_micros(now.fetch_add(1, Ordering::Relaxed)))
}
