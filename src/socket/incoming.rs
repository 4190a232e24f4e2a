//! Reads everything that a socket's other side has sent, to the last message, and keeps the
//! connection alive.
//!
//! The web framework stops reading a connection when nobody consumes what was read, and when such a
//! connection ends, it loses what is still in transit. So messages are read immediately, up to a
//! limit, even while an earlier one is being handled. Beyond the limit a client must wait for the
//! answer to its close frame, as clients do, to be sure that everything was heard.
//!
//! Only messages are queued. A ping is answered at once, whatever else is being handled; of several
//! only the last, if the other side does not read (RFC 6455, 5.5.3). A pong only shows that the other
//! side is alive. A silent side is sent pings, and given up if it does not answer.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use actix_web::web::Bytes;
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseReason, ProtocolError, Session};
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::upgrade::Fault;

/// How many bytes are read ahead.
const MAX_AHEAD_BYTES: usize = 1 << 20;
/// What a message counts in addition to its own bytes; otherwise empty messages would cost nothing.
const MESSAGE_BYTES: usize = 128;
/// How many pings can go unanswered.
const MAX_SILENT_PINGS: u32 = 2;

/// What the other side has said. It is a copy: what is received are slices of a read buffer, and each
/// of them would keep the whole buffer in memory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Text(String),
    Binary(Vec<u8>),
}

impl Message {
    /// Returns it as a text, whichever way it was sent.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Binary(bytes) => String::from_utf8_lossy(bytes),
        }
    }
}

/// Why no more messages follow.
#[derive(Debug)]
pub(super) enum Ending {
    /// The other side closes the socket.
    Closed(Option<CloseReason>),
    /// It has done something wrong.
    Broken(Fault),
    /// It has disconnected, or does not answer pings.
    Gone,
}

impl Ending {
    /// Returns the reason for the close frame that answers it; `max` is the size limit of a message.
    pub(super) fn answer(self, max: usize) -> Option<CloseReason> {
        match self {
            Self::Closed(reason) => reason,
            Self::Broken(fault) => Some(fault.reason(max)),
            Self::Gone => None,
        }
    }
}

/// A way to ping in messages, for clients that cannot send pings.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextPings {
    /// Whether a message is a ping.
    pub(super) is_ping: fn(&str) -> bool,
    /// What is answered.
    pub(super) pong: &'static str,
}

/// What is to be sent to the other side. It can have left; the end is noticed by reading.
#[derive(Debug, Default)]
struct Owed {
    ping: bool,
    pong: Option<Bytes>,
    /// How many messages that are pings have not been answered.
    num_text_pongs: usize,
}

/// The messages in order; an error or the end follows everything that was read before it.
pub(super) struct Incoming {
    stream: AggregatedMessageStream,
    session: Session,
    /// When the other side is pinged.
    pings: Option<Interval>,
    text_pings: Option<TextPings>,
    owed: Owed,
    ahead: VecDeque<Message>,
    num_bytes: usize,
    /// Whether anything, even a pong, has arrived since the last ping.
    is_heard: bool,
    /// How many pings in a row were followed by nothing.
    num_silent_pings: u32,
    /// Set when the stream is over.
    end: Option<Ending>,
}

impl Incoming {
    pub(super) fn new(stream: AggregatedMessageStream, session: Session) -> Self {
        Self {
            stream,
            session,
            pings: None,
            text_pings: None,
            owed: Owed::default(),
            ahead: VecDeque::new(),
            num_bytes: 0,
            is_heard: false,
            num_silent_pings: 0,
            end: None,
        }
    }

    /// Pings the other side at this interval.
    ///
    /// The first ping is not sent at once, because some clients take the first frame after their
    /// close for its answer. Missed ones are not made up for, because the other side must have time to
    /// answer each ping.
    pub(super) fn pinging(mut self, every: Duration) -> Self {
        let mut pings = interval(every);
        pings.reset();
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.pings = Some(pings);
        self
    }

    /// Answers pings that are messages, like other pings.
    pub(super) fn answering(mut self, text_pings: TextPings) -> Self {
        self.text_pings = Some(text_pings);
        self
    }

    /// Waits for the next message. Can be cancelled and called again.
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn next(&mut self) -> Result<Message, Ending> {
        loop {
            if let Some(message) = self.ahead.pop_front() {
                self.num_bytes -= size(&message);
                return Ok(message);
            }
            if let Some(end) = &mut self.end {
                return Err(std::mem::replace(end, Ending::Gone));
            }
            self.attend().await;
        }
    }

    /// Runs some work; reads ahead and answers pings while it runs.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.attend() => {}
            }
        }
    }

    /// Waits until something has arrived or can be sent. Can be cancelled and called again.
    async fn attend(&mut self) {
        let has_room = self.has_room();
        tokio::select! {
            next = self.stream.next(), if has_room => self.read(next),
            () = tick(&mut self.pings) => self.ping(),
            () = self.owed.send(&mut self.session, self.text_pings), if self.owed.is_any() => {}
        }
    }

    fn ping(&mut self) {
        if self.is_silent() {
            self.end.get_or_insert(Ending::Gone);
        } else {
            self.owed.ping = true;
        }
    }

    /// Returns whether so many pings went unanswered that the other side is gone; called when a
    /// ping is due.
    fn is_silent(&mut self) -> bool {
        // While other work was done, an answer may have arrived that nobody has read.
        if self.has_room() {
            if let Some(next) = self.stream.next().now_or_never() {
                self.read(next);
            }
        } else {
            // It has said so much that nobody listens.
            self.is_heard = true;
        }
        if std::mem::take(&mut self.is_heard) {
            self.num_silent_pings = 0;
        }
        self.num_silent_pings += 1;
        self.num_silent_pings > MAX_SILENT_PINGS
    }

    /// Returns whether more can be read ahead.
    fn has_room(&self) -> bool {
        self.num_bytes < MAX_AHEAD_BYTES && self.end.is_none()
    }

    /// Takes what the stream has returned, and everything else that is available.
    fn read(&mut self, mut next: Option<Result<AggregatedMessage, ProtocolError>>) {
        loop {
            match next {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => return self.break_off(error),
                None => self.end = Some(Ending::Gone),
            }
            if !self.has_room() {
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
        while self.end.is_none()
            && let Some(Some(Ok(message))) = self.stream.next().now_or_never()
        {
            self.take(message);
        }
        let broken = || Fault::of(&error).map_or(Ending::Gone, Ending::Broken);
        self.end.get_or_insert_with(broken);
    }

    fn take(&mut self, message: AggregatedMessage) {
        self.is_heard = true;
        let message = match message {
            AggregatedMessage::Text(text) => Message::Text(text.to_string()),
            AggregatedMessage::Binary(bytes) => Message::Binary(bytes.to_vec()),
            AggregatedMessage::Ping(bytes) => {
                self.owed.pong = Some(Bytes::copy_from_slice(&bytes));
                return;
            }
            AggregatedMessage::Pong(_) => return,
            AggregatedMessage::Close(reason) => {
                self.end = Some(Ending::Closed(reason));
                return;
            }
        };
        let pings = self.text_pings;
        if pings.is_some_and(|pings| (pings.is_ping)(&message.text())) {
            self.owed.num_text_pongs += 1;
            return;
        }
        self.num_bytes += size(&message);
        self.ahead.push_back(message);
    }
}

impl Owed {
    fn is_any(&self) -> bool {
        self.ping || self.pong.is_some() || self.num_text_pongs > 0
    }

    /// Sends everything. Can be cancelled: what has been sent by then is owed no more.
    async fn send(&mut self, session: &mut Session, text_pings: Option<TextPings>) {
        if let Some(bytes) = &self.pong {
            let _ = session.pong(bytes).await;
            self.pong = None;
        }
        while self.num_text_pongs > 0 {
            let pong = text_pings.map_or("", |pings| pings.pong);
            let _ = session.text(pong).await;
            self.num_text_pongs -= 1;
        }
        if self.ping {
            let _ = session.ping(b"").await;
            self.ping = false;
        }
    }
}

/// Waits until a ping is due.
async fn tick(pings: &mut Option<Interval>) {
    match pings {
        Some(pings) => drop(pings.tick().await),
        None => std::future::pending().await,
    }
}

fn size(message: &Message) -> usize {
    let num_bytes = match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) => bytes.len(),
    };
    MESSAGE_BYTES + num_bytes
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use actix_web::body::{BoxBody, MessageBody as _};
    use actix_web::dev::Payload;
    use actix_web::test::TestRequest;
    use actix_web::{FromRequest, web};
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

    /// Builds a socket that receives these pieces and then nothing; the body keeps it open.
    fn incoming(pieces: Vec<Vec<u8>>) -> (Incoming, BoxBody) {
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
        let (response, session, stream) = actix_ws::handle(&request, body).unwrap();
        let stream = stream.aggregate_continuations();
        (Incoming::new(stream, session), response.into_parts().1)
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
        let most = MAX_AHEAD_BYTES / size_of::<Message>();
        assert!(incoming.ahead.len() <= most, "{}", incoming.ahead.len());
        // All are heard once there is time for them.
        let messages = std::iter::from_fn(|| incoming.next().now_or_never());
        let is_text = |it: &Result<_, _>| matches!(it, Ok(Message::Text(_)));
        assert_eq!(messages.filter(is_text).count(), 500_000);
    }

    /// Returns the frames that the other side is sent.
    fn sent(body: &mut BoxBody) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut body = Pin::new(body);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(some))) = body.as_mut().poll_next(&mut cx) {
            bytes.extend(some);
        }
        bytes
    }

    const ANSWERED: TextPings = TextPings {
        is_ping: |text| text == "ping",
        pong: "pong",
    };

    #[test]
    fn pings_are_answered_at_once_and_messages_wait() {
        let pieces = vec![
            frame(TEXT, b"x"),
            frame(PING, b"1"),
            frame(TEXT, b"ping"),
            frame(TEXT, b"y"),
        ];
        let (incoming, mut body) = incoming(pieces);
        let mut incoming = incoming.answering(ANSWERED);
        while_busy(&mut incoming);
        assert_eq!(sent(&mut body), b"\x8a\x011\x81\x04pong");
        let said = std::iter::from_fn(|| incoming.next().now_or_never());
        let said: Vec<_> = said.map(Result::unwrap).collect();
        let expected = ["x", "y"].map(|text| Message::Text(text.to_owned()));
        assert_eq!(said, expected);
        assert_eq!(incoming.num_bytes, 0);
    }

    /// What is sent has room for some frames only.
    #[test]
    fn who_pings_and_does_not_read_is_answered_the_last_ping() {
        let pings = [b"1", b"2", b"3"].map(|it| frame(PING, it)).concat();
        let (mut incoming, mut body) = incoming(vec![pings; 100_000]);
        let mut num_sent = 0;
        while incoming.session.ping(b"").now_or_never().is_some() {
            num_sent += 1;
        }
        while_busy(&mut incoming);
        let sent_before = sent(&mut body);
        assert_eq!(sent_before, b"\x89\x00".repeat(num_sent));
        while_busy(&mut incoming);
        assert_eq!(sent(&mut body), b"\x8a\x013");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_side_is_pinged_while_something_is_handled_and_then_given_up() {
        let (incoming, mut body) = incoming(vec![frame(TEXT, b"x")]);
        let mut incoming = incoming.pinging(Duration::from_secs(1));
        let busy = tokio::time::sleep(Duration::from_millis(2500));
        incoming.meanwhile(busy).await;
        assert_eq!(sent(&mut body), b"\x89\x00\x89\x00");
        let said = [incoming.next().await.ok(), incoming.next().await.ok()];
        assert_eq!(said, [Some(Message::Text("x".to_owned())), None]);
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
        // Nobody has read what is behind so many messages.
        let (mut ahead, _open) = incoming(vec![frame(TEXT, b"").repeat(10_000)]);
        while_busy(&mut ahead);
        assert_eq!([(); 3].map(|()| ahead.is_silent()), [false; 3]);
    }
}
