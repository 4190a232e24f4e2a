//! Tasks with names: traced, counted, and joined at shutdown; and threads that let others go first.

use std::future::Future;
use std::sync::{LazyLock, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// All tasks of the process, so that shutdown can wait for them.
static TASKS: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// Where work goes that must come to its end: the threads that serve requests are gone before it at a
/// stop, and their tasks with them.
static LASTING: OnceLock<Handle> = OnceLock::new();

/// Has what must come to its end run on the caller's runtime from now on, which lasts until
/// [`join_all`] has returned.
pub fn last_here() {
    // A process serves on one.
    let _ = LASTING.set(Handle::current());
}

/// Runs a task beside the caller.
pub fn spawn_named<F>(name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let span = tracing::debug_span!("task", name);
    TASKS.spawn(future.instrument(span));
}

/// Does work that must come to its end once it has begun, also when whoever asked for it is dropped,
/// as requests are when their clients hang up. `None` when it panicked.
pub async fn to_its_end<T, F>(name: &'static str, work: F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, done) = oneshot::channel();
    let work = async move {
        // Nobody may be waiting any more.
        let _ = sender.send(work.await);
    };
    let span = tracing::debug_span!("task", name);
    let runtime = LASTING.get().cloned().unwrap_or_else(Handle::current);
    TASKS.spawn_on(work.instrument(span), &runtime);
    done.await.ok()
}

/// Waits until no task runs any more. New tasks may still start meanwhile.
pub async fn join_all() {
    TASKS.close();
    TASKS.wait().await;
    TASKS.reopen();
}

/// Returns how many tasks run.
pub fn count() -> usize {
    TASKS.len()
}

/// Lets others go before the calling thread and those that it starts; 19 is the nicest. Without effect
/// but on Linux, since elsewhere the niceness is the process's.
pub fn be_nice(who: &'static str, niceness: i32) {
    #[cfg(target_os = "linux")]
    let done = rustix::process::setpriority_process(None, niceness);
    #[cfg(not(target_os = "linux"))]
    let done = Err::<(), _>(std::io::ErrorKind::Unsupported);
    if let Err(error) = done {
        tracing::debug!(%error, who, niceness, "a thread has the priority of the others");
    }
}
