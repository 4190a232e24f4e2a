//! A listener's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use skytrail_schema::code::ApiError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::frame::Frame;

/// A listener's number.
pub type ListenerId = u64;

/// Why a listener is told nothing more.
#[derive(Clone, Debug)]
pub enum Ending {
    /// He does not take what is waiting for him.
    TooSlow,
    /// He may not listen any more.
    Refused(ApiError),
    /// The server stops.
    Stopping,
}

/// The end into which frames are put.
#[derive(Debug)]
pub(super) struct Outlet {
    parcels: mpsc::Sender<Vec<Frame>>,
    waiting: Arc<AtomicUsize>,
    ended: oneshot::Sender<Ending>,
    max_waiting: usize,
}

/// The end where they come out.
#[derive(Debug)]
pub struct Inbox {
    parcels: mpsc::Receiver<Vec<Frame>>,
    waiting: Arc<AtomicUsize>,
    ended: oneshot::Receiver<Ending>,
}

/// Makes both ends, for so many frames.
pub(super) fn outlet(max_waiting: usize) -> (Outlet, Inbox) {
    let (sender, parcels) = mpsc::channel(max_waiting.max(1));
    let (end, ended) = oneshot::channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let outlet = Outlet {
        parcels: sender,
        waiting: Arc::clone(&waiting),
        ended: end,
        max_waiting,
    };
    let inbox = Inbox {
        parcels,
        waiting,
        ended,
    };
    (outlet, inbox)
}

impl Outlet {
    /// Puts frames into the queue. Whoever has taken everything may get more at once than fits.
    ///
    /// # Errors
    /// They do not fit. Nothing is said when nobody takes them any more: he is about to be let go.
    pub(super) fn put(&self, frames: Vec<Frame>) -> Result<(), Ending> {
        let number = frames.len();
        let before = self.waiting.fetch_add(number, Ordering::Relaxed);
        if before > 0 && before + number > self.max_waiting {
            return Err(Ending::TooSlow);
        }
        match self.parcels.try_send(frames) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Ending::TooSlow),
        }
    }

    /// Ends it; the reason overtakes what is in the queue.
    pub(super) fn end(self, ending: Ending) {
        let _ = self.ended.send(ending);
    }
}

impl Inbox {
    /// Waits for the next frames. May be given up and called again.
    ///
    /// # Errors
    /// It has ended.
    pub async fn next(&mut self) -> Result<Vec<Frame>, Ending> {
        tokio::select! {
            biased;
            ending = &mut self.ended => Err(ending.unwrap_or(Ending::Stopping)),
            frames = self.parcels.recv() => {
                let frames = frames.ok_or(Ending::Stopping)?;
                self.waiting.fetch_sub(frames.len(), Ordering::Relaxed);
                Ok(frames)
            }
        }
    }

    /// Waits for the end alone.
    pub async fn ended(&mut self) -> Ending {
        (&mut self.ended).await.unwrap_or(Ending::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::Label;
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_not_taken_unless_nothing_waits() {
        let frames = |number| vec![Label::default().end(); number];
        let (outlet, mut inbox) = outlet(3);
        assert!(outlet.put(frames(5)).is_ok());
        assert!(matches!(outlet.put(frames(1)), Err(Ending::TooSlow)));
        let (outlet, mut quick) = super::outlet(3);
        assert!(outlet.put(frames(2)).is_ok() && outlet.put(frames(1)).is_ok());
        assert_eq!(quick.next().await.map(|it| it.len()).ok(), Some(2));
        assert!(outlet.put(frames(2)).is_ok());
        outlet.end(Ending::TooSlow);
        assert!(matches!(quick.next().await, Err(Ending::TooSlow)));
        assert_eq!(inbox.next().await.map(|it| it.len()).ok(), Some(5));
    }
}
