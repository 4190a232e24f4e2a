//! Handing over work: an actor begins it, and once its decision is with the log, the caller
//! continues it.
//!
//! So the log's answer wakes only the task that waits for it: it does not wake the actor, and the
//! caller is not woken earlier. Work that nobody waits for any more is still finished.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::context::CommitGate;
use crate::spawn::spawn_named;

/// Creates the two sides.
pub(super) fn handover<T: Send + 'static>() -> (HandoverSender<T>, HandoverReceiver<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty(None)));
    (HandoverSender(Arc::clone(&slot)), HandoverReceiver(slot))
}

/// What lies between the two sides.
enum Slot<T> {
    /// Nothing yet; how to wake the receiver, if it has been polled.
    Empty(Option<Waker>),
    /// The rest of the work. It wakes the taker if the receiver has been polled.
    Unfinished(BoxFuture<'static, T>),
    /// The outcome.
    Done(T),
    /// One of the sides is gone, or has received everything.
    Over,
}

/// The side that begins the work.
pub(super) struct HandoverSender<T: Send + 'static>(Arc<Mutex<Slot<T>>>);

/// The side that asked for the work: returns `None` if nobody began it.
pub(super) struct HandoverReceiver<T: Send + 'static>(Arc<Mutex<Slot<T>>>);

impl<T: Send + 'static> HandoverSender<T> {
    /// Works until something is being stored, and leaves the rest to the receiver.
    pub(super) async fn begin(
        self,
        work: impl Future<Output = T> + Send + 'static,
        at: &CommitGate,
    ) {
        let mut work = work.boxed();
        let done = poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if at.is_in_progress() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match done.await {
            Some(done) => self.put(Slot::Done(done)),
            None => {
                if let Some(work) = self.leave(work) {
                    work.await;
                }
            }
        }
    }

    /// Leaves the work to the taker; returns it if there is no receiver.
    fn leave(&self, mut work: BoxFuture<'static, T>) -> Option<BoxFuture<'static, T>> {
        let mut slot = self.0.lock();
        let waker = match &*slot {
            Slot::Empty(waker) => waker.clone(),
            Slot::Unfinished(_) | Slot::Done(_) | Slot::Over => return Some(work),
        };
        if let Some(waker) = waker
            && let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(&waker))
        {
            *slot = Slot::Done(done);
            drop(slot);
            waker.wake();
            return None;
        }
        *slot = Slot::Unfinished(work);
        None
    }

    fn put(&self, outcome: Slot<T>) {
        let mut slot = self.0.lock();
        if let Slot::Empty(waker) = &mut *slot {
            let waker = waker.take();
            *slot = outcome;
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Has no effect once the slot is filled.
impl<T: Send + 'static> Drop for HandoverSender<T> {
    fn drop(&mut self) {
        self.put(Slot::Over);
    }
}

impl<T: Send + 'static> Future for HandoverReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.0.lock();
        match std::mem::replace(&mut *slot, Slot::Over) {
            Slot::Empty(_) => {
                *slot = Slot::Empty(Some(context.waker().clone()));
                Poll::Pending
            }
            Slot::Unfinished(mut work) => match work.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => {
                    *slot = Slot::Unfinished(work);
                    Poll::Pending
                }
            },
            Slot::Done(done) => Poll::Ready(Some(done)),
            Slot::Over => Poll::Ready(None),
        }
    }
}

impl<T: Send + 'static> Drop for HandoverReceiver<T> {
    fn drop(&mut self) {
        let previous = std::mem::replace(&mut *self.0.lock(), Slot::Over);
        if let Slot::Unfinished(work) = previous
            && Handle::try_current().is_ok()
        {
            spawn_named("work that nobody waits for", work.map(drop));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::*;

    /// A piece of work: asks for something, stores, and adds up the answers.
    async fn work(
        commit_gate: CommitGate,
        request: oneshot::Receiver<u32>,
        stored: oneshot::Receiver<u32>,
        done: Arc<Mutex<Option<u32>>>,
    ) -> u32 {
        let before = request.await.unwrap_or(0);
        let permit = commit_gate.begin().await;
        let sum = before + stored.await.unwrap_or(0);
        drop(permit);
        *done.lock() = Some(sum);
        sum
    }

    /// What happens, step by step: `Begin` lets the sender run as far as it can, `Poll` polls the
    /// receiver, `Leave` drops it.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin,
        Poll,
        Answer,
        Store,
        Leave,
    }

    proptest! {
        /// In any order of steps: the work is done once it can be, and a receiver that still waits
        /// gets the outcome.
        #[test]
        fn work_is_done_and_its_outcome_arrives(
            order in Just(vec![Step::Begin, Step::Answer, Step::Store]).prop_shuffle(),
            looks in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            leaves in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut order = order;
            for look in looks {
                order.insert(look.index(order.len() + 1), Step::Poll);
            }
            if let Some(leave) = leaves {
                order.insert(leave.index(order.len() + 1), Step::Leave);
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (sender, receiver) = handover();
                let mut receiver = Some(receiver);
                let (answer, request) = oneshot::channel();
                let (store, stored) = oneshot::channel();
                let done = Arc::new(Mutex::new(None));
                let commit_gate = CommitGate::default();
                let begun = work(commit_gate.clone(), request, stored, Arc::clone(&done));
                let mut sender = Some((sender, begun));
                let (mut answer, mut store) = (Some(answer), Some(store));
                let mut outcome = None;
                for step in order {
                    match step {
                        Step::Begin => {
                            let (sender, begun) = sender.take().unwrap();
                            let at = commit_gate.clone();
                            spawn_named("sender", async move { sender.begin(begun, &at).await });
                        }
                        Step::Answer => answer.take().unwrap().send(2).unwrap_or(()),
                        Step::Store => store.take().unwrap().send(3).unwrap_or(()),
                        Step::Poll if outcome.is_none() => {
                            outcome = receiver.as_mut().and_then(|receiver| receiver.now_or_never());
                        }
                        Step::Poll => {}
                        Step::Leave => drop(receiver.take()),
                    }
                    for _ in 0..4 {
                        tokio::task::yield_now().await;
                    }
                }
                if let (Some(receiver), None) = (receiver, &outcome) {
                    outcome = Some(receiver.await);
                }
                for _ in 0..8 {
                    tokio::task::yield_now().await;
                }
                prop_assert_eq!(*done.lock(), Some(5));
                if leaves.is_none() {
                    prop_assert_eq!(outcome, Some(Some(5)));
                }
                Ok(())
            })?;
        }
    }

    /// With each side on threads of its own, nobody sleeps for ever.
    #[test]
    fn the_log_wakes_whoever_asked() {
        let there = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .unwrap();
        let here = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for number in 0..2000 {
            let (sender, receiver) = handover();
            let (answer, request) = oneshot::channel();
            let (store, stored) = oneshot::channel();
            let commit_gate = CommitGate::default();
            let at = commit_gate.clone();
            let begun = work(commit_gate, request, stored, Arc::default());
            there.spawn(async move { sender.begin(begun, &at).await });
            there.spawn(async move { answer.send(number) });
            there.spawn(async move { store.send(1) });
            assert_eq!(here.block_on(receiver), Some(number + 1));
        }
    }

    #[test]
    fn whoever_asks_one_that_is_gone_is_told() {
        let (sender, mut receiver) = handover::<u32>();
        assert_eq!((&mut receiver).now_or_never(), None);
        drop(sender);
        assert_eq!(receiver.now_or_never(), Some(None));
    }
}
