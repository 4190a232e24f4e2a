//! Reads everything that a socket's other side has sent, to the last message.
//!
//! The web framework stops reading a connection when nobody consumes what was read, and when such a
//! connection ends, it loses what is still in transit. So messages are read immediately, up to a
//! limit, even while an earlier one is being handled. Beyond the limit a client must wait for the
//! answer to its close frame, as clients do, to be sure that everything was heard.
//!
//! Not every message is queued: a ping is replaced by one that follows it directly (RFC 6455,
//! 5.5.3), and a pong only shows that the other side is alive. A silent side is sent pings, and
//! given up if it does not answer.

use std::collections::VecDeque;
use std::time::Duration;

use actix_web::web::Bytes;
use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::upgrade::Fault;

/// How many bytes are read ahead.
const MAX_AHEAD_BYTES: usize = 1 << 20;
/// What a message counts in addition to its own bytes; otherwise empty messages would cost nothing.
const MESSAGE_BYTES: usize = 128;
/// Messages up to this size are copied. Messages are slices of one read buffer, and each of them
/// would keep the whole buffer in memory, however large it is.
const MAX_COPIED_BYTES: usize = 4 << 10;
/// How many pings can go unanswered.
const MAX_SILENT_PINGS: u32 = 2;

/// Returns the interval at which to ping the other side.
///
/// It does not tick at once, because some clients take the first frame after their close for its
/// answer. Missed ticks are not made up for, because the other side must have time to answer each
/// ping.
pub(super) fn pings(every: Duration) -> Interval {
    let mut pings = interval(every);
    pings.reset();
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

/// The messages in order; an error or the end follows everything that was read before it.
pub(super) struct Incoming {
    stream: AggregatedMessageStream,
    ahead: VecDeque<AggregatedMessage>,
    num_bytes: usize,
    /// Whether anything, even a pong, has arrived since the last ping.
    is_heard: bool,
    /// How many pings in a row were followed by nothing.
    num_silent_pings: u32,
    /// Set when the stream is over; holds what the other side did wrong, until that is returned.
    end: Option<Option<Fault>>,
}

impl Incoming {
    pub(super) fn new(stream: AggregatedMessageStream) -> Self {
        Self {
            stream,
            ahead: VecDeque::new(),
            num_bytes: 0,
            is_heard: false,
            num_silent_pings: 0,
            end: None,
        }
    }

    /// Waits for the next message, which is never a pong. Can be cancelled and called again.
    ///
    /// # Errors
    /// There is none: the other side has done something wrong, or is gone (`None`).
    pub(super) async fn next(&mut self) -> Result<AggregatedMessage, Option<Fault>> {
        loop {
            if let Some(message) = self.ahead.pop_front() {
                self.num_bytes -= size(&message);
                return Ok(message);
            }
            if let Some(fault) = &mut self.end {
                return Err(fault.take());
            }
            self.read().await;
        }
    }

    /// Returns whether so many pings went unanswered that the other side is gone; called when a
    /// ping is due.
    pub(super) fn is_silent(&mut self) -> bool {
        // While other work was done, an answer may have arrived that nobody has read.
        if self.has_room() {
            let _ = self.read().now_or_never();
        }
        if std::mem::take(&mut self.is_heard) {
            self.num_silent_pings = 0;
        }
        self.num_silent_pings += 1;
        self.num_silent_pings > MAX_SILENT_PINGS
    }

    /// Runs some work, and reads ahead while it runs.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            let has_room = self.has_room();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.read(), if has_room => {}
            }
        }
    }

    /// Returns whether more can be read ahead.
    fn has_room(&self) -> bool {
        self.num_bytes < MAX_AHEAD_BYTES && self.end.is_none()
    }

    /// Waits for the stream, and reads everything that is available.
    async fn read(&mut self) {
        let mut next = self.stream.next().await;
        loop {
            match next {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => return self.break_off(error),
                None => {
                    self.end = Some(None);
                    return;
                }
            }
            if self.num_bytes >= MAX_AHEAD_BYTES {
                return;
            }
            match self.stream.next().now_or_never() {
                Some(more) => next = more,
                None => return,
            }
        }
    }

    /// Ends the queue with an error. The stream reports a broken connection before it returns the
    /// messages received just before; without this, a client that sends and hangs up at once would
    /// not be heard.
    fn break_off(&mut self, error: ProtocolError) {
        while let Some(Some(Ok(message))) = self.stream.next().now_or_never() {
            self.take(message);
        }
        self.end = Some(Fault::of(&error));
    }

    fn take(&mut self, message: AggregatedMessage) {
        self.is_heard = true;
        if matches!(message, AggregatedMessage::Pong(_)) {
            return;
        }
        // A ping with another message between it and the next one stays: it is answered once the
        // messages before it have been handled, and in time even if more keep arriving.
        let is_ping = matches!(message, AggregatedMessage::Ping(_));
        if let Some(AggregatedMessage::Ping(_)) = self.ahead.back().filter(|_| is_ping)
            && let Some(older) = self.ahead.pop_back()
        {
            self.num_bytes -= size(&older);
        }
        self.num_bytes += size(&message);
        self.ahead.push_back(alone(message));
    }
}

fn size(message: &AggregatedMessage) -> usize {
    MESSAGE_BYTES
        + match message {
            AggregatedMessage::Text(text) => text.len(),
            AggregatedMessage::Binary(bytes)
            | AggregatedMessage::Ping(bytes)
            | AggregatedMessage::Pong(bytes) => bytes.len(),
            AggregatedMessage::Close(_) => 0,
        }
}

/// Returns the message without the rest of the read buffer.
fn alone(message: AggregatedMessage) -> AggregatedMessage {
    match message {
        AggregatedMessage::Text(text) if text.len() <= MAX_COPIED_BYTES => {
            AggregatedMessage::Text((*text).into())
        }
        AggregatedMessage::Binary(bytes) if bytes.len() <= MAX_COPIED_BYTES => {
            AggregatedMessage::Binary(Bytes::copy_from_slice(&bytes))
        }
        AggregatedMessage::Ping(bytes) => AggregatedMessage::Ping(Bytes::copy_from_slice(&bytes)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::dev::Payload;
    use actix_web::test::TestRequest;
    use actix_web::{FromRequest, HttpResponse, web};
    use futures_util::stream;

    use super::*;

    const TEXT: u8 = 1;
    const PING: u8 = 9;
    const PONG: u8 = 10;

    /// Builds a frame as a client sends it, with a mask that changes nothing.
    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        let head = [0x80 | kind, 0x80 | length, 0, 0, 0, 0];
        [&head[..], payload].concat()
    }

    /// Builds a socket that receives these pieces and then nothing; the response keeps it open.
    fn incoming(pieces: Vec<Vec<u8>>) -> (Incoming, HttpResponse) {
        let upgrade = [
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let request = TestRequest::get();
        let request = upgrade
            .into_iter()
            .fold(request, TestRequest::insert_header);
        let pieces = pieces.into_iter().map(|piece| Ok(piece.into()));
        let pieces = stream::iter(pieces).chain(stream::pending());
        let mut payload: Payload = Payload::Stream {
            payload: Box::pin(pieces),
        };
        let request = request.to_http_request();
        let body = web::Payload::from_request(&request, &mut payload);
        let body = body.into_inner().unwrap();
        let (response, _, stream) = actix_ws::handle(&request, body).unwrap();
        let stream = stream.aggregate_continuations();
        (Incoming::new(stream), response)
    }

    /// Reads ahead as during work that takes long.
    fn while_busy(incoming: &mut Incoming) {
        let busy = incoming.meanwhile(std::future::pending::<()>());
        assert_eq!(busy.now_or_never(), None);
    }

    #[test]
    fn messages_without_bytes_are_not_taken_without_end() {
        let piece = frame(TEXT, b"").repeat(1000);
        let (mut incoming, _open) = incoming(vec![piece; 500]);
        while_busy(&mut incoming);
        let most = MAX_AHEAD_BYTES / size_of::<AggregatedMessage>();
        assert!(incoming.ahead.len() <= most, "{}", incoming.ahead.len());
        // All are heard once there is time for them.
        let messages = std::iter::from_fn(|| incoming.next().now_or_never());
        let is_text = |it: &Result<_, _>| matches!(it, Ok(AggregatedMessage::Text(_)));
        assert_eq!(messages.filter(is_text).count(), 500_000);
    }

    #[test]
    fn of_pings_in_a_row_the_newest_waits() {
        let pings = [b"1", b"2", b"3"].map(|it| frame(PING, it)).concat();
        let pieces = vec![pings.clone(), pings, frame(TEXT, b"x"), frame(PING, b"4")];
        let (mut incoming, _open) = incoming(pieces);
        while_busy(&mut incoming);
        let expected = [
            AggregatedMessage::Ping("3".into()),
            AggregatedMessage::Text("x".into()),
            AggregatedMessage::Ping("4".into()),
        ];
        assert_eq!(incoming.ahead, expected);
        for _ in expected {
            assert!(incoming.next().now_or_never().is_some());
        }
        assert_eq!(incoming.num_bytes, 0);
    }

    #[test]
    fn pongs_do_not_wait() {
        let (mut incoming, _open) = incoming(vec![frame(PONG, b"").repeat(1000); 500]);
        while_busy(&mut incoming);
        assert!(incoming.ahead.is_empty(), "{}", incoming.ahead.len());
    }

    #[test]
    fn who_answers_no_ping_is_given_up() {
        let (mut silent, _open) = incoming(vec![]);
        assert_eq!([(); 3].map(|()| silent.is_silent()), [false, false, true]);
        // A pong is enough, even one that has not been read yet.
        let (mut heard, _open) = incoming(vec![]);
        assert_eq!([(); 2].map(|()| heard.is_silent()), [false, false]);
        heard.is_heard = true;
        assert_eq!([(); 3].map(|()| heard.is_silent()), [false, false, true]);
        let (mut unread, _open) = incoming(vec![frame(PONG, b"")]);
        unread.num_silent_pings = MAX_SILENT_PINGS;
        assert_eq!([(); 3].map(|()| unread.is_silent()), [false, false, true]);
    }

    #[test]
    fn what_waits_does_not_keep_what_came_beside_it() {
        let piece = [frame(TEXT, b"x"), frame(PONG, &[0; 100])].concat();
        let (mut incoming, _open) = incoming(vec![piece; 100]);
        while_busy(&mut incoming);
        assert_eq!(incoming.ahead.len(), 100);
        for message in incoming.ahead {
            let AggregatedMessage::Text(text) = message else {
                panic!("{message:?}");
            };
            let bytes = text.into_bytes();
            let is_alone = bytes.try_into_mut().is_ok_and(|it| it.capacity() < 100);
            assert!(is_alone);
        }
    }
}
