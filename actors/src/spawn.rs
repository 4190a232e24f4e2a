//! Named tasks: traced, counted, and joined at shutdown; and threads with a lower priority.

use std::future::Future;
use std::sync::{LazyLock, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// All tasks of the process, so that shutdown can wait for them.
static TASKS: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// The runtime for work that has to be completed. At a stop, the threads that serve requests end
/// earlier, and their tasks with them.
static LASTING: OnceLock<Handle> = OnceLock::new();

/// Runs work that has to be completed on the caller's runtime from now on, which lasts until
/// [`join_all`] has returned.
pub fn last_here() {
    // A process serves on one runtime, so the first call counts.
    let _ = LASTING.set(Handle::current());
}

/// Runs a task concurrently with the caller.
pub fn spawn_named<F>(name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    TASKS.spawn(future.instrument(span));
}

/// Runs work that has to be completed once it has begun, even if its caller is dropped, as requests
/// are when their clients hang up. `None` if it panicked.
pub async fn run_to_completion<T, F>(name: &'static str, work: F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, done) = oneshot::channel();
    let work = async move {
        // The caller may be gone.
        let _ = sender.send(work.await);
    };
    let span = tracing::debug_span!("task", name);
    let runtime = LASTING.get().cloned().unwrap_or_else(Handle::current);
    TASKS.spawn_on(work.instrument(span), &runtime);
    done.await.ok()
}

/// Waits until no task is running. New tasks can still start meanwhile.
pub async fn join_all() {
    TASKS.close();
    TASKS.wait().await;
    TASKS.reopen();
}

/// Returns how many tasks are running.
pub fn count() -> usize {
    TASKS.len()
}

/// Lowers the priority of the calling thread and of those that it starts; 19 is the lowest. Only
/// has an effect on Linux, because elsewhere the nice value belongs to the process.
pub fn be_nice(who: &'static str, niceness: i32) {
    #[cfg(target_os = "linux")]
    let done = rustix::process::setpriority_process(None, niceness);
    #[cfg(not(target_os = "linux"))]
    let done = Err::<(), _>(std::io::ErrorKind::Unsupported);
    if let Err(error) = done {
        tracing::debug!(%error, who, niceness, "a thread's priority could not be lowered");
    }
}
