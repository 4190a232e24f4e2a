//! Where workers of a consumer of the log get their events, and bring back what became of them.

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
use crate::plugin::{Presence, Undelivered};

/// How long an event waits for free hands; who has room changes all the time.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// The largest window.
const MAX_WINDOW: usize = 1024;

/// See the module.
pub(super) struct Dispatcher {
    limit: Duration,
    workers: Mutex<Workers>,
    /// Somebody has come, gone, or has his hands free again after he had been given up.
    changes: watch::Sender<()>,
    freed: Notify,
}

#[derive(Default)]
struct Workers {
    balancer: Balancer,
    lines: HashMap<WorkerNumber, mpsc::Sender<Assignment>>,
    is_closed: bool,
}

/// An event for a worker.
pub(super) struct Assignment {
    event: WorkItem,
    answer: oneshot::Sender<Answer>,
    extended: Arc<Notify>,
}

/// An event as a worker gets it.
#[derive(Clone, Debug)]
pub struct WorkItem {
    /// Its place in the log: what the worker answers with.
    pub position: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// What is shown of it.
    pub json: Arc<RawValue>,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Acknowledged,
    /// Again, after a pause, which grows by itself if none is named.
    Again {
        /// How long.
        after: Option<Duration>,
        /// Why, for people.
        message: String,
    },
    /// Not again: it is a dead letter.
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

    /// Takes a worker on; `None` when the consumer is being deleted.
    pub(super) fn join(self: &Arc<Self>, window: usize) -> Option<LogWorker> {
        let window = window.clamp(1, MAX_WINDOW);
        let mut workers = self.workers.lock();
        if workers.is_closed {
            return None;
        }
        // As many as it may have in hand: there is always room.
        let (line, assignments) = mpsc::channel(window);
        let number = workers.balancer.join(window);
        workers.lines.insert(number, line);
        drop(workers);
        self.changes.send_replace(());
        Some(LogWorker {
            number,
            window,
            dispatcher: Arc::clone(self),
            assignments,
            in_hand: HashMap::new(),
        })
    }

    /// Sends all workers away; no other is taken on.
    pub(super) fn close(&self) {
        let mut workers = self.workers.lock();
        workers.is_closed = true;
        workers.lines.clear();
    }

    fn leave(&self, worker: WorkerNumber) {
        let mut workers = self.workers.lock();
        workers.balancer.leave(worker);
        workers.lines.remove(&worker);
        drop(workers);
        self.changes.send_replace(());
        self.freed.notify_waiters();
    }

    /// Gives an event to a worker, and waits for what becomes of it.
    pub(super) async fn deliver(&self, event: WorkItem) -> Result<(), Undelivered> {
        let unready = || Undelivered::Unready(unavailable("no worker is connected"));
        let given = timeout(ROOM_PATIENCE, self.give(event)).await;
        let (worker, mut answered, extended) = given.map_err(|_| unready())?.ok_or_else(unready)?;
        loop {
            let answer = tokio::select! {
                answer = timeout(self.limit, &mut answered) => answer,
                () = extended.notified() => continue,
            };
            return match answer {
                Ok(Ok(Answer::Acknowledged)) => Ok(()),
                Ok(Ok(Answer::Again { after, message })) => {
                    Err(Undelivered::Refused(after.map_or_else(
                        || refusal(&message),
                        |after| {
                            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                            refusal(&message).with_info("retry_after_ms", json!(millis))
                        },
                    )))
                }
                Ok(Ok(Answer::Parked { message })) => Err(Undelivered::Refused(
                    refusal(&message).with_info("drop", json!(true)),
                )),
                Ok(Err(_)) => Err(Undelivered::Lost(unavailable("the worker was lost"))),
                Err(_) => {
                    self.workers.lock().balancer.overdue(worker);
                    self.changes.send_replace(());
                    let message = "the worker did not answer in time";
                    Err(Undelivered::Late(ApiError::new(
                        Code::PluginTimeout,
                        message,
                    )))
                }
            };
        }
    }

    /// Waits for free hands; `None` without any worker.
    async fn give(
        &self,
        event: WorkItem,
    ) -> Option<(WorkerNumber, oneshot::Receiver<Answer>, Arc<Notify>)> {
        loop {
            let freed = self.freed.notified();
            {
                let mut workers = self.workers.lock();
                if workers.balancer.num_workers() == 0 {
                    return None;
                }
                if let Some(worker) = workers.balancer.give() {
                    let (answer, answered) = oneshot::channel();
                    let extended = Arc::new(Notify::new());
                    let assignment = Assignment {
                        event: event.clone(),
                        answer,
                        extended: Arc::clone(&extended),
                    };
                    let line = workers.lines.get(&worker);
                    // One that is leaving just now: its end is dropped, and that is the answer.
                    let _ = line.map(|line| line.try_send(assignment));
                    return Some((worker, answered, extended));
                }
            }
            freed.await;
        }
    }

    /// Takes an event out of a worker's hands.
    fn take_back(&self, worker: WorkerNumber, is_overdue: bool) {
        self.workers.lock().balancer.take_back(worker, is_overdue);
        self.freed.notify_one();
        if is_overdue {
            self.changes.send_replace(());
        }
    }
}

/// A worker for a consumer of the log. When it is dropped, what it has in hand goes to others.
pub struct LogWorker {
    number: WorkerNumber,
    window: usize,
    dispatcher: Arc<Dispatcher>,
    assignments: mpsc::Receiver<Assignment>,
    in_hand: HashMap<u64, (oneshot::Sender<Answer>, Arc<Notify>)>,
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

    /// Waits for the next event; `None` when the consumer was deleted, or the server stops. May be
    /// given up and called again.
    pub async fn next(&mut self) -> Option<WorkItem> {
        let assignment = self.assignments.recv().await?;
        let position = assignment.event.position;
        let earlier = self
            .in_hand
            .insert(position, (assignment.answer, assignment.extended));
        if earlier.is_some() {
            // Its time was over, and here it is again: one place is enough.
            self.dispatcher.take_back(self.number, true);
        }
        Some(assignment.event)
    }

    /// Says what became of an event; says whether it was in hand.
    pub fn answer(&mut self, position: u64, answer: Answer) -> bool {
        let Some((waiting, _)) = self.in_hand.remove(&position) else {
            return false;
        };
        let is_overdue = waiting.send(answer).is_err();
        self.dispatcher.take_back(self.number, is_overdue);
        true
    }

    /// Begins an event's time anew; says whether it was in hand.
    pub fn extend(&mut self, position: u64) -> bool {
        let in_hand = self.in_hand.get(&position);
        in_hand.inspect(|(_, extended)| extended.notify_one());
        in_hand.is_some()
    }
}

impl Drop for LogWorker {
    fn drop(&mut self) {
        self.in_hand.clear();
        self.dispatcher.leave(self.number);
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
        let mut worker = dispatcher.join(4).unwrap();
        let answers = [
            Answer::Acknowledged,
            Answer::Again {
                after: Some(Duration::from_secs(2)),
                message: "busy".to_owned(),
            },
            Answer::Parked {
                message: String::new(),
            },
        ];
        let mut outcomes = Vec::new();
        for (position, answer) in (1..).zip(answers) {
            let work = async {
                let event = worker.next().await.unwrap();
                assert!(worker.answer(event.position, answer));
                assert!(!worker.answer(event.position, Answer::Acknowledged));
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
    async fn who_goes_loses_what_he_has_in_hand_and_nobody_there_is_no_attempt() {
        let dispatcher = dispatcher();
        let nobody = dispatcher.deliver(event(1)).await;
        assert!(matches!(nobody, Err(Undelivered::Unready(_))));
        let mut worker = dispatcher.join(1).unwrap();
        let gone = async {
            worker.next().await.unwrap();
            drop(worker);
        };
        let (lost, ()) = tokio::join!(dispatcher.deliver(event(1)), gone);
        assert!(matches!(lost, Err(Undelivered::Lost(_))));
        // One that goes before it has looked.
        let worker = dispatcher.join(1).unwrap();
        let (lost, ()) = tokio::join!(dispatcher.deliver(event(1)), async { drop(worker) });
        assert!(matches!(lost, Err(Undelivered::Lost(_))));
        dispatcher.close();
        assert!(dispatcher.join(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_keeps_its_place_until_it_answers() {
        let dispatcher = dispatcher();
        let mut worker = dispatcher.join(2).unwrap();
        let late = dispatcher.deliver(event(1)).await;
        assert!(matches!(late, Err(Undelivered::Late(_))));
        assert_eq!(dispatcher.presence().window, 1);
        // The same once more: it takes no second place.
        let again = async {
            worker.next().await.unwrap();
            worker.next().await.unwrap();
            assert_eq!(dispatcher.presence().window, 2);
            assert!(worker.answer(1, Answer::Acknowledged));
        };
        let (done, ()) = tokio::join!(dispatcher.deliver(event(1)), again);
        assert_eq!(done, Ok(()));
        assert_eq!(dispatcher.presence().window, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn time_begins_anew_for_who_says_so() {
        let dispatcher = dispatcher();
        let mut worker = dispatcher.join(1).unwrap();
        let work = async {
            worker.next().await.unwrap();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                assert!(worker.extend(1));
            }
            assert!(!worker.extend(2));
            tokio::time::sleep(Duration::from_secs(50)).await;
            worker.answer(1, Answer::Acknowledged);
        };
        let (done, ()) = tokio::join!(dispatcher.deliver(event(1)), work);
        assert_eq!(done, Ok(()));
    }
}
