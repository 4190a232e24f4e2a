//! All tasks as the log has them, in memory; and appending to them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use skytrail_schema::code::ApiError;
use skytrail_schema::event::{Commit, EventBody, Stream};
use skytrail_schema::id::TaskId;

use super::state::TaskState;
use crate::context::RequestContext;
use crate::log::{CommitObserver, EventLog};
use crate::record::attempt::{Outcome, commit, retry_on_conflict};
use crate::record::decide::Plan;

/// See the module's overview. An observer of the log: its tasks are always those at the log's
/// position.
#[derive(Debug, Default)]
pub struct TaskStates(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    position: u64,
    tasks: HashMap<TaskId, TaskState>,
}

impl TaskStates {
    /// Builds it from the tasks stored as of a position.
    pub fn new(position: u64, tasks: Vec<(TaskId, TaskState)>) -> Self {
        let tasks = tasks.into_iter().collect();
        Self(Mutex::new(Inner { position, tasks }))
    }

    /// Returns a task as it is now, and the position of that.
    pub fn read(&self, id: &TaskId) -> (u64, TaskState) {
        let inner = self.0.lock();
        let state = inner.tasks.get(id).cloned().unwrap_or_default();
        (inner.position, state)
    }

    /// Returns the tasks that have a schedule.
    pub(super) fn scheduled(&self) -> Vec<TaskId> {
        let inner = self.0.lock();
        let tasks = inner.tasks.iter();
        let scheduled = tasks.filter(|(_, state)| state.schedule.is_some());
        scheduled.map(|(id, _)| id.clone()).collect()
    }

    /// Appends what `decide` returns for the task as it is now.
    ///
    /// If somebody else was quicker, `decide` is called again for the task as it is then. Returns
    /// when the commit is durable, with `None` if there was nothing to append.
    ///
    /// # Errors
    /// Those of the log, except for a conflict.
    pub async fn append(
        &self,
        log: &Arc<dyn EventLog>,
        id: &TaskId,
        context: &RequestContext,
        decide: impl Fn(&TaskState) -> Vec<EventBody>,
    ) -> Result<Option<Arc<Commit>>, ApiError> {
        retry_on_conflict(None, |_| async {
            let (read_position, state) = self.read(id);
            let mut plan = Plan::default();
            for (body, version) in decide(&state).into_iter().zip(state.version + 1..) {
                plan.push(Stream::Task(id.clone()), version, body);
            }
            if plan.events.is_empty() {
                return Ok(Outcome::Done(None));
            }
            let outcome = commit(log, plan, read_position, context).await?;
            Ok(outcome.map(Some))
        })
        .await
    }
}

impl CommitObserver for TaskStates {
    fn committed(&self, commits: &[Arc<Commit>]) {
        let mut inner = self.0.lock();
        for commit in commits {
            for event in &commit.events {
                if let Stream::Task(id) = &event.stream
                    && event.position > inner.position
                {
                    let task = inner.tasks.entry(id.clone()).or_default();
                    task.apply(event, commit.time);
                }
            }
        }
        let last = commits.last().map_or(0, |commit| commit.last_position());
        inner.position = inner.position.max(last);
    }
}
