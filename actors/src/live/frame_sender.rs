//! A listener's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use skytrail_schema::code::ApiError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::frame::Frame;

/// A listener's number.
pub type ListenerId = u64;

/// Why a listener is told nothing more.
#[derive(Clone, Debug)]
pub enum EndReason {
    /// The listener does not take what is waiting for it.
    TooSlow,
    /// The listener may not listen any more.
    Refused(ApiError),
    /// The server stops.
    Stopping,
}

/// The sending end of the queue.
#[derive(Debug)]
pub(super) struct FrameSender {
    batches: mpsc::Sender<Vec<Frame>>,
    shared: Arc<Shared>,
    ended: Option<oneshot::Sender<EndReason>>,
    max_waiting: usize,
    max_bytes: usize,
}

/// The receiving end of the queue.
#[derive(Debug)]
pub struct Inbox {
    batches: mpsc::Receiver<Vec<Frame>>,
    /// What is left of the batch that arrived last.
    opened: std::vec::IntoIter<Frame>,
    shared: Arc<Shared>,
}

/// Tells a listener why it is told nothing more.
#[derive(Debug)]
pub struct Ended(oneshot::Receiver<EndReason>);

#[derive(Debug, Default)]
struct Shared {
    num_waiting: AtomicUsize,
    /// The bytes of the frames that wait.
    num_bytes: AtomicUsize,
    /// Frames that still wait are not delivered any more.
    is_over: AtomicBool,
}

/// Creates both ends of a queue for at most this many frames and bytes.
pub(super) fn frame_queue(max_waiting: usize, max_bytes: usize) -> (FrameSender, Inbox, Ended) {
    let (sender, batches) = mpsc::channel(max_waiting.max(1));
    let (end, ended) = oneshot::channel();
    let shared = Arc::<Shared>::default();
    let frame_sender = FrameSender {
        batches: sender,
        shared: Arc::clone(&shared),
        ended: Some(end),
        max_waiting,
        max_bytes,
    };
    let inbox = Inbox {
        batches,
        opened: Vec::new().into_iter(),
        shared,
    };
    (frame_sender, inbox, Ended(ended))
}

impl FrameSender {
    /// Puts frames into the queue.
    ///
    /// A listener that has taken everything can get more frames at once than fit. It can get more
    /// bytes only as one frame, or as frames that complete a state: those are bounded elsewhere,
    /// and a listener that came back for them would be sent as much.
    ///
    /// # Errors
    /// The frames do not fit. It is no error if nobody takes them any more: that listener is about
    /// to be removed.
    pub(super) fn put(&self, frames: Vec<Frame>) -> Result<(), EndReason> {
        let (number, bytes) = (frames.len(), frames.iter().map(Frame::num_bytes).sum());
        let before = self.shared.num_waiting.fetch_add(number, Ordering::Relaxed);
        let bytes_before = self.shared.num_bytes.fetch_add(bytes, Ordering::Relaxed);
        let may_be_large = number == 1 || frames.iter().any(|frame| frame.event == "ready");
        let fits = if before > 0 {
            before + number <= self.max_waiting && bytes_before + bytes <= self.max_bytes
        } else {
            bytes <= self.max_bytes || may_be_large
        };
        if !fits {
            return Err(EndReason::TooSlow);
        }
        match self.batches.try_send(frames) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(EndReason::TooSlow),
        }
    }

    /// Ends the queue; the reason overtakes what is still in it.
    pub(super) fn end(mut self, ending: EndReason) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(ending);
        }
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
    }
}

impl Inbox {
    /// Returns the next frame once there is one; `None` if no more will follow.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        loop {
            if self.shared.is_over.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            if let Some(frame) = self.opened.next() {
                let bytes = frame.num_bytes();
                self.shared.num_waiting.fetch_sub(1, Ordering::Relaxed);
                self.shared.num_bytes.fetch_sub(bytes, Ordering::Relaxed);
                return Poll::Ready(Some(frame));
            }
            match ready!(self.batches.poll_recv(cx)) {
                Some(batch) => self.opened = batch.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }

    /// Waits for the next frame; `None` if no more will follow. The call can be cancelled and
    /// repeated.
    pub async fn next(&mut self) -> Option<Frame> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl Ended {
    /// Waits for the end.
    pub async fn wait(&mut self) -> EndReason {
        (&mut self.0).await.unwrap_or(EndReason::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::frame::Label;
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_not_taken_unless_nothing_waits() {
        let frames = |number| vec![Label::default().end(); number];
        let (frame_sender, mut inbox, _ended) = frame_queue(3, 1000);
        assert!(frame_sender.put(frames(5)).is_ok());
        assert!(matches!(
            frame_sender.put(frames(1)),
            Err(EndReason::TooSlow)
        ));
        for _ in 0..5 {
            assert!(inbox.next().await.is_some());
        }
        drop(frame_sender);
        assert!(inbox.next().await.is_none());
    }

    #[tokio::test]
    async fn bytes_that_do_not_fit_are_taken_only_as_one_frame_or_to_complete_a_state() {
        let label = Label::default();
        let large = || label.result(&"x".repeat(200));
        let (frame_sender, mut inbox, _ended) = frame_queue(100, 300);
        assert!(
            frame_sender
                .put(vec![large(), large(), label.ready(7)])
                .is_ok()
        );
        assert!(matches!(
            frame_sender.put(vec![large()]),
            Err(EndReason::TooSlow)
        ));
        let take = |inbox: &mut Inbox| inbox.next().now_or_never().flatten();
        while take(&mut inbox).is_some() {}

        let (frame_sender, mut inbox, _ended) = frame_queue(100, 300);
        assert!(
            frame_sender
                .put(vec![label.result(&"x".repeat(900))])
                .is_ok()
        );
        assert!(take(&mut inbox).is_some());
        assert!(frame_sender.put(vec![large()]).is_ok());
        assert!(frame_sender.put(vec![label.end()]).is_ok());
        while take(&mut inbox).is_some() {}
        assert!(matches!(
            frame_sender.put(vec![large(), large()]),
            Err(EndReason::TooSlow)
        ));
    }

    #[tokio::test]
    async fn the_end_overtakes_what_waits() {
        let frames = |number| vec![Label::default().end(); number];
        let (frame_sender, mut inbox, mut ended) = frame_queue(3, 1000);
        assert!(frame_sender.put(frames(2)).is_ok() && frame_sender.put(frames(1)).is_ok());
        assert!(inbox.next().await.is_some());
        assert!(frame_sender.put(frames(1)).is_ok());
        frame_sender.end(EndReason::TooSlow);
        assert!(matches!(ended.wait().await, EndReason::TooSlow));
        assert!(inbox.next().await.is_none());
    }
}
