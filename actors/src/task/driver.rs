//! What wakes tasks: tokio-cron-scheduler, behind a port.
//!
//! Every task has a job in the scheduler. The scheduler does not decide *when* a task is due: its
//! cron dialect is not v1's, its zones have their own rules, its clock ticks twice a second, and it
//! never gets back a job that it has lost sight of. So a job's pattern only names seconds of a
//! minute, such as `14,44 * * * * *`: those before the seconds in which the task may be due. They
//! mean the same in any dialect and any zone. The task itself knows what to do with its wake-up
//! calls: too many do no harm, and a lost one is made up for by the next, at most a minute later.

use std::fmt::Write as _;
use std::time::Duration;

use actix::Recipient;
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use uuid::Uuid;

use super::messages::Wake;

/// How many jobs there can be. The scheduler passes on the jobs of a second through a channel of
/// this length, and loses what does not fit.
pub const MAX_JOBS: usize = 1024;
/// How long the scheduler can take to add or remove a job.
const SCHEDULER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a task will not be woken.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The scheduler refused the job.
    #[error("the scheduler does not accept the job: {0}")]
    Scheduler(#[from] JobSchedulerError),
    /// The scheduler did not answer.
    #[error("the scheduler does not answer")]
    Silent,
}

/// Wakes tasks.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// Sends a [`Wake`] in each second of a minute whose bit is set in `seconds`, soon after it
    /// began. A few may be lost, and there may be extra ones. Returns the job's id.
    ///
    /// # Errors
    /// See [`DriverError`]; nothing will be sent then.
    async fn add(&self, seconds: u64, wake: Recipient<Wake>) -> Result<Uuid, DriverError>;

    /// Removes a job.
    async fn remove(&self, job: Uuid);

    /// Removes all jobs.
    async fn stop(&self);
}

/// The scheduler. It starts with the first job, on the thread that adds it.
#[derive(Default)]
pub struct CronDriver {
    /// Jobs are added and removed one at a time: the scheduler's own listeners give up if they fall
    /// behind.
    scheduler: Mutex<Option<JobScheduler>>,
}

#[async_trait]
impl Driver for CronDriver {
    async fn add(&self, seconds: u64, wake: Recipient<Wake>) -> Result<Uuid, DriverError> {
        let job = Job::new(pattern(seconds), move |_, _| {
            // A task with a full mailbox has been woken already.
            let _ = wake.try_send(Wake);
        })?;
        let added = async {
            let mut slot = self.scheduler.lock().await;
            let scheduler = match &mut *slot {
                Some(scheduler) => scheduler,
                none => {
                    let scheduler = JobScheduler::new_with_channel_size(MAX_JOBS).await?;
                    scheduler.start().await?;
                    none.insert(scheduler)
                }
            };
            scheduler.add(job).await
        };
        match tokio::time::timeout(SCHEDULER_TIMEOUT, added).await {
            Ok(added) => Ok(added?),
            Err(_) => Err(DriverError::Silent),
        }
    }

    async fn remove(&self, job: Uuid) {
        let removed = async {
            match &*self.scheduler.lock().await {
                Some(scheduler) => scheduler.remove(&job).await,
                None => Ok(()),
            }
        };
        // A job that is left over wakes nobody: its task is gone.
        match tokio::time::timeout(SCHEDULER_TIMEOUT, removed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the scheduler did not remove a job"),
            Err(_) => tracing::warn!("the scheduler did not remove a job: it does not answer"),
        }
    }

    async fn stop(&self) {
        if let Some(mut scheduler) = self.scheduler.lock().await.take()
            && let Err(error) = scheduler.shutdown().await
        {
            tracing::warn!(%error, "the scheduler does not stop");
        }
    }
}

/// Returns the seconds before those whose bits are set.
pub(super) fn seconds_before(seconds: u64) -> u64 {
    let first = seconds & 1;
    seconds >> 1 | first << 59
}

/// Writes seconds of a minute as a pattern for the scheduler.
fn pattern(seconds: u64) -> String {
    let mut pattern = String::new();
    for second in (0..60).filter(|second| seconds >> second & 1 == 1) {
        let comma = if pattern.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(pattern, "{comma}{second}");
    }
    pattern.push_str(" * * * * *");
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_the_seconds_before() {
        assert_eq!(pattern(seconds_before(1)), "59 * * * * *");
        assert_eq!(
            pattern(seconds_before(1 << 15 | 1 << 45)),
            "14,44 * * * * *"
        );
        let all = (1 << 60) - 1;
        assert_eq!(seconds_before(all), all);
        for seconds in [1, 1 << 59, all] {
            assert!(Job::new(pattern(seconds), |_, _| {}).is_ok(), "{seconds:b}");
        }
    }
}
