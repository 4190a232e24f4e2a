//! What a socket sends: the frames that it subscribed to, and those of its own session.
//!
//! Frames from a hub or a live query go straight from the queue to the connection, bypassing the
//! session: all listeners share the same bytes.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use skytrail_actors::hub::Frames;
use skytrail_actors::live::Inbox;

use super::text_frame;

/// After this many frames the session gets its turn, so that a busy channel does not delay pings.
const MAX_RUN: u32 = 64;

/// A queue of whole WebSocket frames.
pub(super) trait FrameSource {
    /// Returns the next frame once there is one; `None` after the last.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl FrameSource for Frames {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        Self::poll_next(self, cx)
    }
}

impl FrameSource for Inbox {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let frame = Self::poll_next(self, cx);
        frame.map(|frame| Some(frame?.packed(text_frame::of_text)))
    }
}

/// The body of a socket's response.
pub(super) struct Outgoing<H> {
    frames: H,
    session: BoxBody,
    run: u32,
}

impl<H: FrameSource> Outgoing<H> {
    pub(super) fn new(frames: H, session: BoxBody) -> Self {
        let run = 0;
        Self {
            frames,
            session,
            run,
        }
    }
}

impl<H: FrameSource + Unpin> MessageBody for Outgoing<H> {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        if this.run < MAX_RUN
            && let Poll::Ready(Some(frame)) = this.frames.poll_next(cx)
        {
            this.run += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        this.run = 0;
        if let Poll::Ready(said) = Pin::new(&mut this.session).poll_next(cx) {
            return Poll::Ready(said);
        }
        // After a full run there may be more frames; otherwise this only registers the waker.
        match this.frames.poll_next(cx) {
            Poll::Ready(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            // The session ends the connection, with a reason.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}
