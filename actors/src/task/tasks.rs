//! All tasks: started, changed and stopped as plugins register.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture};
use futures_util::future::join_all;
use skytrail_schema::code::{ApiError, Code};
use skytrail_schema::event::{EventBody, NoDetails};
use skytrail_schema::id::TaskId;
use tokio::sync::watch;
use tokio::time::timeout;

use super::actor::{ScheduledTask, TaskParts, stopping};
use super::driver::MAX_JOBS;
use super::messages::{GetReport, ListTasks, PauseTask, RunTask, SetTimer, Stop, TaskReport, Wake};
use super::state::TaskState;
use super::zone::Zone;
use crate::context::RequestContext;
use crate::plugin::Timer;
use crate::spawn::spawn_named;

/// How often all tasks are checked and woken: the driver sleeps after a clock that was ahead is put
/// back.
const CARE_PERIOD: Duration = Duration::from_secs(10);
/// How long a task can take to report its state.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// How tasks are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSettings {
    /// The zone of timers that name none.
    pub zone: Zone,
    /// How old a missed run can be and still be made up for; zero if none is.
    pub catch_up: Duration,
    /// Whether another server runs the tasks.
    pub is_slave: bool,
}

/// See the module's overview.
pub struct Tasks {
    parts: Arc<TaskParts>,
    changes: watch::Receiver<()>,
    tasks: BTreeMap<TaskId, TaskHandle>,
    /// Tasks whose removal is being written to the log. If one is registered again meanwhile, it
    /// waits for that: what was due before is not made up for.
    dropping: BTreeSet<TaskId>,
    is_stopping: bool,
}

struct TaskHandle {
    address: Addr<ScheduledTask>,
    /// The timer that it was last told.
    timer: Timer,
    is_attended: bool,
}

impl Tasks {
    /// Builds the actor. `changes` signals that what is registered has changed.
    pub fn new(parts: TaskParts, changes: watch::Receiver<()>) -> Self {
        Self {
            parts: Arc::new(parts),
            changes,
            tasks: BTreeMap::new(),
            dropping: BTreeSet::new(),
            is_stopping: false,
        }
    }

    /// Brings the tasks in line with what is registered.
    fn reconcile(&mut self, ctx: &mut Context<Self>) {
        if self.is_stopping || self.parts.settings.is_slave {
            return;
        }
        let points = self.parts.plugins.points();
        let registered: BTreeSet<&TaskId> = points.timers.iter().map(|timer| &timer.id).collect();
        self.tasks.retain(|id, task| {
            let is_registered = registered.contains(id);
            if !is_registered {
                tracing::info!(task = %id, "task not registered any more");
                let address = task.address.clone();
                spawn_named("task ends", async move {
                    let _ = address.send(Stop).await;
                });
            }
            is_registered
        });
        // A task whose plugin is away may come back with it.
        for id in self.parts.states.scheduled() {
            if points.attended.contains(&id.plugin) && !registered.contains(&id) {
                self.write_dropped(id, ctx);
            }
        }
        for timer in &points.timers {
            let is_attended = points.attended.contains(&timer.id.plugin);
            self.keep(timer, is_attended);
        }
    }

    /// Writes to the log that a task is not registered any more; a failure is retried later.
    fn write_dropped(&mut self, id: TaskId, ctx: &mut Context<Self>) {
        if !self.dropping.insert(id.clone()) {
            return;
        }
        let parts = Arc::clone(&self.parts);
        let written = async move {
            let decide = |state: &TaskState| {
                let is_scheduled = state.schedule.is_some();
                let dropped = is_scheduled.then_some(EventBody::TaskDropped(NoDetails {}));
                dropped.into_iter().collect()
            };
            let context = RequestContext::system();
            let (states, log) = (&parts.states, &parts.log);
            let appended = states.append(log, &id, &context, decide).await;
            if let Err(error) = &appended {
                tracing::warn!(task = %id, %error, "the end of a task could not be recorded");
            }
            (appended.is_ok(), id)
        };
        ctx.spawn(
            wrap_future(written).map(|(is_written, id), this: &mut Self, ctx| {
                this.dropping.remove(&id);
                if is_written {
                    this.reconcile(ctx);
                }
            }),
        );
    }

    /// Starts a task's actor, or tells it what has changed.
    fn keep(&mut self, timer: &Timer, is_attended: bool) {
        if self.dropping.contains(&timer.id) {
            return;
        }
        let num_tasks = self.tasks.len();
        let task = self.tasks.get_mut(&timer.id);
        let alive = task.filter(|task| task.address.connected());
        if let Some(task) = alive {
            if task.timer == *timer && task.is_attended == is_attended {
                return;
            }
            let message = SetTimer {
                timer: timer.clone(),
                is_attended,
            };
            // A task with a full mailbox is told later.
            if task.address.try_send(message).is_ok() {
                task.timer = timer.clone();
                task.is_attended = is_attended;
            }
            return;
        }
        if num_tasks >= MAX_JOBS {
            tracing::error!(task = %timer.id, "too many tasks: this one does not run");
            return;
        }
        let task = ScheduledTask::new(Arc::clone(&self.parts), timer.clone(), is_attended);
        let task = TaskHandle {
            address: task.start(),
            timer: timer.clone(),
            is_attended,
        };
        self.tasks.insert(timer.id.clone(), task);
    }

    fn find(&self, id: &TaskId) -> Result<Addr<ScheduledTask>, ApiError> {
        let task = self.tasks.get(id).ok_or_else(|| {
            ApiError::new(
                Code::ResourceNotFound,
                format!("no task {:?} of plugin {:?}", &*id.name, &*id.plugin),
            )
        })?;
        Ok(task.address.clone())
    }
}

/// Passes a message on to a task.
fn pass_on<M>(
    task: Result<Addr<ScheduledTask>, ApiError>,
    message: M,
) -> ResponseFuture<Result<TaskReport, ApiError>>
where
    M: Message<Result = Result<TaskReport, ApiError>> + Send + 'static,
    ScheduledTask: Handler<M>,
{
    Box::pin(async move {
        let answer = task?.send(message).await;
        answer.unwrap_or_else(|_| Err(stopping()))
    })
}

/// What is registered may have changed.
#[derive(Clone, Copy, Debug)]
struct Reconcile;

impl Message for Reconcile {
    type Result = ();
}

impl Actor for Tasks {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let mut changes = self.changes.clone();
        let address = ctx.address();
        ctx.spawn(wrap_future(async move {
            while address.send(Reconcile).await.is_ok() && changes.changed().await.is_ok() {}
        }));
        ctx.run_interval(CARE_PERIOD, |this, ctx| {
            this.reconcile(ctx);
            for task in this.tasks.values() {
                // A task with a full mailbox is awake.
                let _ = task.address.try_send(Wake);
            }
        });
    }
}

impl Handler<Reconcile> for Tasks {
    type Result = ();

    fn handle(&mut self, _: Reconcile, ctx: &mut Context<Self>) {
        self.reconcile(ctx);
    }
}

impl Handler<Stop> for Tasks {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Stop, _: &mut Context<Self>) -> ResponseFuture<()> {
        self.is_stopping = true;
        let driver = Arc::clone(&self.parts.driver);
        let tasks = std::mem::take(&mut self.tasks).into_values();
        let stopped: Vec<_> = tasks.map(|task| task.address.send(Stop)).collect();
        Box::pin(async move {
            join_all(stopped).await;
            driver.stop().await;
        })
    }
}

impl Handler<ListTasks> for Tasks {
    type Result = ResponseFuture<Vec<TaskReport>>;

    fn handle(&mut self, _: ListTasks, _: &mut Context<Self>) -> Self::Result {
        let tasks = self.tasks.values();
        let requests: Vec<_> = tasks
            .map(|task| timeout(REPORT_TIMEOUT, task.address.send(GetReport)))
            .collect();
        Box::pin(async move {
            let answers = join_all(requests).await.into_iter();
            answers
                .filter_map(|answer| answer.ok()?.ok().flatten())
                .collect()
        })
    }
}

impl Handler<RunTask> for Tasks {
    type Result = ResponseFuture<Result<TaskReport, ApiError>>;

    fn handle(&mut self, message: RunTask, _: &mut Context<Self>) -> Self::Result {
        pass_on(self.find(&message.id), message)
    }
}

impl Handler<PauseTask> for Tasks {
    type Result = ResponseFuture<Result<TaskReport, ApiError>>;

    fn handle(&mut self, message: PauseTask, _: &mut Context<Self>) -> Self::Result {
        pass_on(self.find(&message.id), message)
    }
}
