//! What waits for one listener: shared bytes, bounded by number and by size.
//!
//! The hub's thread and the listener's share one lock, which is held for a push or a pop. The
//! listener is woken if its queue was empty before; until it has looked, more frames wake nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

/// A queue that was once longer than this frees its memory when it is empty.
const KEPT_CAPACITY: usize = 16;

/// The hub's end.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: Arc<Mutex<Queue>>,
    max_frames: usize,
    max_bytes: usize,
}

/// The listener's end. Frames arrive in order; they end when the listener was dropped.
#[derive(Debug)]
pub struct Frames(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    num_bytes: usize,
    is_over: bool,
    waker: Option<Waker>,
}

/// Why a frame was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushError {
    /// Too much is waiting.
    Full,
    /// The listener has gone by itself. What it sent may still be on its way.
    Gone,
}

/// Creates a queue for at most this many frames and bytes.
pub(super) fn outbox(max_frames: usize, max_bytes: usize) -> (Outbox, Frames) {
    let queue = Arc::<Mutex<Queue>>::default();
    let outbox = Outbox {
        queue: Arc::clone(&queue),
        max_frames,
        max_bytes,
    };
    (outbox, Frames(queue))
}

impl Outbox {
    /// Adds a frame. A listener that has too much waiting loses all of it at once: what it would
    /// get has a gap anyway, and its memory is needed.
    pub(super) fn push(&self, frame: &Bytes) -> Result<(), PushError> {
        let mut queue = self.queue.lock();
        if queue.is_over {
            return Err(PushError::Gone);
        }
        let num_bytes = queue.num_bytes + frame.len();
        let is_full = queue.frames.len() >= self.max_frames
            || (num_bytes > self.max_bytes && !queue.frames.is_empty());
        if is_full {
            queue.end();
        } else {
            queue.frames.push_back(frame.clone());
            queue.num_bytes = num_bytes;
        }
        let waker = queue.waker.take();
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
        if is_full {
            Err(PushError::Full)
        } else {
            Ok(())
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut queue = self.queue.lock();
        queue.is_over = true;
        let waker = queue.waker.take();
        drop(queue);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Frames {
    /// Returns the next frame once there is one; `None` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = self.0.lock();
        if let Some(frame) = queue.frames.pop_front() {
            queue.num_bytes -= frame.len();
            if queue.frames.is_empty() && queue.frames.capacity() > KEPT_CAPACITY {
                queue.frames = VecDeque::new();
            }
            return Poll::Ready(Some(frame));
        }
        if queue.is_over {
            return Poll::Ready(None);
        }
        if !queue
            .waker
            .as_ref()
            .is_some_and(|known| known.will_wake(cx.waker()))
        {
            queue.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the next frame; `None` after the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.0.lock().end();
    }
}

impl Queue {
    fn end(&mut self) {
        self.is_over = true;
        self.frames = VecDeque::new();
        self.num_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    fn take(frames: &mut Frames) -> Poll<Option<Bytes>> {
        frames.poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0_usize..40).prop_map(Step::Push), Just(Step::Take)]
    }

    proptest! {
        /// Whatever is pushed and taken, frames arrive in order, none is missing, the bounds hold,
        /// and a lost listener has nothing.
        #[test]
        fn a_queue_keeps_order_and_bounds(steps in prop::collection::vec(step(), 0..200)) {
            let (max_frames, max_bytes) = (8, 100);
            let (outbox, mut frames) = outbox(max_frames, max_bytes);
            let mut expected = VecDeque::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Take => {
                        let first = expected.pop_front().map_or(Poll::Pending, |it| Poll::Ready(Some(it)));
                        prop_assert_eq!(take(&mut frames), first);
                    }
                    Step::Push(len) => {
                        let frame = Bytes::from(vec![u8::try_from(number).unwrap(); len]);
                        let waiting: usize = expected.iter().map(Bytes::len).sum();
                        let fits = expected.len() < max_frames
                            && (expected.is_empty() || waiting + len <= max_bytes);
                        let expected_of_push = if fits { Ok(()) } else { Err(PushError::Full) };
                        prop_assert_eq!(outbox.push(&frame), expected_of_push);
                        if !fits {
                            prop_assert_eq!(take(&mut frames), Poll::Ready(None));
                            prop_assert_eq!(outbox.push(&frame), Err(PushError::Gone));
                            return Ok(());
                        }
                        expected.push_back(frame);
                    }
                }
            }
            drop(outbox);
            for frame in expected {
                prop_assert_eq!(take(&mut frames), Poll::Ready(Some(frame)));
            }
            prop_assert_eq!(take(&mut frames), Poll::Ready(None));
        }
    }

    #[test]
    fn nothing_is_kept_for_one_that_has_gone() {
        let (outbox, frames) = outbox(8, 100);
        drop(frames);
        assert_eq!(outbox.push(&Bytes::from_static(b"x")), Err(PushError::Gone));
    }
}
