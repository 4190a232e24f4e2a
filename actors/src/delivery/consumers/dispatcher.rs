//! Gives events to the workers of a consumer of the log, and receives their answers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use serde_json::value::RawValue;
use skytrail_schema::code::{ApiError, Code};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::balancer::{Balancer, WorkerNumber};
use crate::plugin::{PluginCallError, Presence};

/// How long an event waits for a worker with room; which workers have room changes all the time.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// The largest window.
const MAX_WINDOW: usize = 1024;

/// See the module.
pub(super) struct Dispatcher {
    limit: Duration,
    workers: Mutex<Workers>,
    /// Fires when a worker has joined, left, or has room again after an overdue event.
    changes: watch::Sender<()>,
    freed: Notify,
}

#[derive(Default)]
struct Workers {
    balancer: Balancer,
    channels: HashMap<WorkerNumber, mpsc::Sender<Assignment>>,
    is_closed: bool,
}

/// An event for a worker.
pub(super) struct Assignment {
    event: WorkItem,
    answer: oneshot::Sender<WorkerAnswer>,
    extended: Arc<Notify>,
}

/// An event as sent to a worker.
#[derive(Clone, Debug)]
pub struct WorkItem {
    /// Its position in the log, which the worker answers with.
    pub position: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The visible part of the event.
    pub json: Arc<RawValue>,
}

/// The outcome of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerAnswer {
    /// It is done.
    Acknowledged,
    /// Retry it, after a pause, which grows by itself if none is given.
    Again {
        /// The pause.
        after: Option<Duration>,
        /// Why, for people.
        message: String,
    },
    /// Do not retry it: it becomes a dead letter.
    Parked {
        /// Why, for people.
        message: String,
    },
}

impl Dispatcher {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            workers: Mutex::default(),
            changes: watch::Sender::new(()),
            freed: Notify::new(),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn presence(&self) -> Presence {
        let workers = self.workers.lock();
        let num_workers = workers.balancer.num_workers();
        Presence {
            is_registered: true,
            num_workers,
            is_ready: num_workers > 0,
            window: workers.balancer.window(),
            limit: self.limit,
            ..Presence::default()
        }
    }

    /// Adds a worker; `None` when the consumer is being deleted.
    pub(super) fn add_worker(self: &Arc<Self>, window: usize) -> Option<LogWorker> {
        let window = window.clamp(1, MAX_WINDOW);
        let mut workers = self.workers.lock();
        if workers.is_closed {
            return None;
        }
        // As many as can be in flight, so there is always room.
        let (channel, assignments) = mpsc::channel(window);
        let number = workers.balancer.add(window);
        workers.channels.insert(number, channel);
        drop(workers);
        self.changes.send_replace(());
        Some(LogWorker {
            number,
            window,
            dispatcher: Arc::clone(self),
            assignments,
            in_flight: HashMap::new(),
        })
    }

    /// Disconnects all workers, and accepts no others.
    pub(super) fn close(&self) {
        let mut workers = self.workers.lock();
        workers.is_closed = true;
        workers.channels.clear();
    }

    fn remove_worker(&self, worker: WorkerNumber) {
        let mut workers = self.workers.lock();
        workers.balancer.remove(worker);
        workers.channels.remove(&worker);
        drop(workers);
        self.changes.send_replace(());
        self.freed.notify_waiters();
    }

    /// Gives an event to a worker, and waits for the outcome.
    pub(super) async fn deliver(&self, event: WorkItem) -> Result<(), PluginCallError> {
        let unready = || PluginCallError::Unready(unavailable("no worker is connected"));
        let given = timeout(ROOM_TIMEOUT, self.assign(event)).await;
        let (worker, mut answered, extended) = given.map_err(|_| unready())?.ok_or_else(unready)?;
        loop {
            let answer = tokio::select! {
                answer = timeout(self.limit, &mut answered) => answer,
                () = extended.notified() => continue,
            };
            return match answer {
                Ok(Ok(WorkerAnswer::Acknowledged)) => Ok(()),
                Ok(Ok(WorkerAnswer::Again { after, message })) => {
                    Err(PluginCallError::Refused(after.map_or_else(
                        || refusal(&message),
                        |after| {
                            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                            refusal(&message).with_info("retry_after_ms", json!(millis))
                        },
                    )))
                }
                Ok(Ok(WorkerAnswer::Parked { message })) => Err(PluginCallError::Refused(
                    refusal(&message).with_info("drop", json!(true)),
                )),
                Ok(Err(_)) => Err(PluginCallError::Lost(unavailable("the worker was lost"))),
                Err(_) => {
                    self.workers.lock().balancer.overdue(worker);
                    self.changes.send_replace(());
                    let message = "the worker did not answer in time";
                    Err(PluginCallError::Late(ApiError::new(
                        Code::PluginTimeout,
                        message,
                    )))
                }
            };
        }
    }

    /// Waits for a worker with room; `None` without any worker.
    async fn assign(
        &self,
        event: WorkItem,
    ) -> Option<(WorkerNumber, oneshot::Receiver<WorkerAnswer>, Arc<Notify>)> {
        loop {
            let freed = self.freed.notified();
            {
                let mut workers = self.workers.lock();
                if workers.balancer.num_workers() == 0 {
                    return None;
                }
                if let Some(worker) = workers.balancer.pick() {
                    let (answer, answered) = oneshot::channel();
                    let extended = Arc::new(Notify::new());
                    let assignment = Assignment {
                        event: event.clone(),
                        answer,
                        extended: Arc::clone(&extended),
                    };
                    let channel = workers.channels.get(&worker);
                    // The worker may be leaving: then its end is dropped, which is the answer.
                    let _ = channel.map(|channel| channel.try_send(assignment));
                    return Some((worker, answered, extended));
                }
            }
            freed.await;
        }
    }

    /// Records that an event is no longer in flight to a worker.
    fn release(&self, worker: WorkerNumber, is_overdue: bool) {
        self.workers.lock().balancer.release(worker, is_overdue);
        self.freed.notify_one();
        if is_overdue {
            self.changes.send_replace(());
        }
    }
}

/// A worker for a consumer of the log. When it is dropped, its events in flight go to other
/// workers.
pub struct LogWorker {
    number: WorkerNumber,
    window: usize,
    dispatcher: Arc<Dispatcher>,
    assignments: mpsc::Receiver<Assignment>,
    in_flight: HashMap<u64, (oneshot::Sender<WorkerAnswer>, Arc<Notify>)>,
}

impl LogWorker {
    /// Returns how many events it takes at once.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Returns how long an event may take.
    pub fn limit(&self) -> Duration {
        self.dispatcher.limit
    }

    /// Waits for the next event; `None` when the consumer was deleted, or the server is stopping.
    /// Can be cancelled and called again.
    pub async fn next(&mut self) -> Option<WorkItem> {
        let assignment = self.assignments.recv().await?;
        let position = assignment.event.position;
        let earlier = self
            .in_flight
            .insert(position, (assignment.answer, assignment.extended));
        if earlier.is_some() {
            // It was overdue and is given again: one slot is enough.
            self.dispatcher.release(self.number, true);
        }
        Some(assignment.event)
    }

    /// Reports the outcome of an event; returns whether the event was in flight.
    pub fn answer(&mut self, position: u64, answer: WorkerAnswer) -> bool {
        let Some((waiting, _)) = self.in_flight.remove(&position) else {
            return false;
        };
        let is_overdue = waiting.send(answer).is_err();
        self.dispatcher.release(self.number, is_overdue);
        true
    }

    /// Restarts an event's limit; returns whether the event was in flight.
    pub fn extend(&mut self, position: u64) -> bool {
        let in_flight = self.in_flight.get(&position);
        in_flight.inspect(|(_, extended)| extended.notify_one());
        in_flight.is_some()
    }
}

impl Drop for LogWorker {
    fn drop(&mut self) {
        self.in_flight.clear();
        self.dispatcher.remove_worker(self.number);
    }
}

fn unavailable(message: &str) -> ApiError {
    ApiError::new(Code::PluginUnavailable, message)
}

fn refusal(message: &str) -> ApiError {
    ApiError::unexpected(if message.is_empty() {
        "the worker gave no reason"
    } else {
        message
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(position: u64) -> WorkItem {
        WorkItem {
            position,
            attempt: 1,
            json: serde_json::value::to_raw_value(&position).unwrap().into(),
        }
    }

    fn dispatcher() -> Arc<Dispatcher> {
        Arc::new(Dispatcher::new(Duration::from_secs(60)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_a_delivery() {
        let dispatcher = dispatcher();
        let mut worker = dispatcher.add_worker(4).unwrap();
        let answers = [
            WorkerAnswer::Acknowledged,
            WorkerAnswer::Again {
                after: Some(Duration::from_secs(2)),
                message: "busy".to_owned(),
            },
            WorkerAnswer::Parked {
                message: String::new(),
            },
        ];
        let mut outcomes = Vec::new();
        for (position, answer) in (1..).zip(answers) {
            let work = async {
                let event = worker.next().await.unwrap();
                assert!(worker.answer(event.position, answer));
                assert!(!worker.answer(event.position, WorkerAnswer::Acknowledged));
            };
            outcomes.push(tokio::join!(dispatcher.deliver(event(position)), work).0);
        }
        assert_eq!(outcomes[0], Ok(()));
        let again = outcomes[1].as_ref().unwrap_err().error();
        assert_eq!(again.info["retry_after_ms"], 2000);
        assert_eq!(again.message, "busy");
        let parked = outcomes[2].as_ref().unwrap_err().error();
        assert_eq!(parked.info["drop"], true);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_loses_what_he_has_in_flight_and_nobody_there_is_no_attempt() {
        let dispatcher = dispatcher();
        let nobody = dispatcher.deliver(event(1)).await;
        assert!(matches!(nobody, Err(PluginCallError::Unready(_))));
        let mut worker = dispatcher.add_worker(1).unwrap();
        let gone = async {
            worker.next().await.unwrap();
            drop(worker);
        };
        let (lost, ()) = tokio::join!(dispatcher.deliver(event(1)), gone);
        assert!(matches!(lost, Err(PluginCallError::Lost(_))));
        // A worker that leaves before it has looked.
        let worker = dispatcher.add_worker(1).unwrap();
        let (lost, ()) = tokio::join!(dispatcher.deliver(event(1)), async { drop(worker) });
        assert!(matches!(lost, Err(PluginCallError::Lost(_))));
        dispatcher.close();
        assert!(dispatcher.add_worker(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_keeps_its_place_until_it_answers() {
        let dispatcher = dispatcher();
        let mut worker = dispatcher.add_worker(2).unwrap();
        let late = dispatcher.deliver(event(1)).await;
        assert!(matches!(late, Err(PluginCallError::Late(_))));
        assert_eq!(dispatcher.presence().window, 1);
        // The same event again takes no second slot.
        let again = async {
            worker.next().await.unwrap();
            worker.next().await.unwrap();
            assert_eq!(dispatcher.presence().window, 2);
            assert!(worker.answer(1, WorkerAnswer::Acknowledged));
        };
        let (done, ()) = tokio::join!(dispatcher.deliver(event(1)), again);
        assert_eq!(done, Ok(()));
        assert_eq!(dispatcher.presence().window, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn time_begins_anew_for_who_says_so() {
        let dispatcher = dispatcher();
        let mut worker = dispatcher.add_worker(1).unwrap();
        let work = async {
            worker.next().await.unwrap();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                assert!(worker.extend(1));
            }
            assert!(!worker.extend(2));
            tokio::time::sleep(Duration::from_secs(50)).await;
            worker.answer(1, WorkerAnswer::Acknowledged);
        };
        let (done, ()) = tokio::join!(dispatcher.deliver(event(1)), work);
        assert_eq!(done, Ok(()));
    }
}
