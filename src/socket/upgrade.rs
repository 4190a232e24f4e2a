//! Upgrades requests to sockets that receive messages of a limited size.
//!
//! The web framework compares a frame with the limit once the whole frame is in memory, and keeps
//! each frame of a message that is not complete on its own. So frames are measured and counted here,
//! before it sees them.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::dev;
use actix_web::error::PayloadError;
use actix_web::web::{self, Bytes};
use actix_web::{FromRequest, HttpRequest, HttpResponse};
use actix_ws::{AggregatedMessageStream, CloseCode, CloseReason, ProtocolError, Session};
use futures_util::Stream;

/// How much of a frame that is too large is read and dropped, so that its sender gets the close
/// frame. A sender that is cut off in the middle of a frame does not read it.
const MAX_DROPPED_BYTES: u64 = 16 << 20;

/// A message can have this many frames, and one more for each [`MAX_BYTES_PER_FRAME`] that it can
/// have. A frame costs the framework about 64 bytes, however short it is.
const MIN_FRAMES: usize = 4096;
const MAX_BYTES_PER_FRAME: usize = 256;

/// What the stream of bytes ends with after a message in too many frames.
const TOO_MANY_FRAMES: &str = "too many frames";

/// A head whose length no frame may have. The framework takes it for a frame beyond its limit.
const TOO_LARGE: &[u8] = &[0x82, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0];

/// Upgrades a request. Messages can have at most `max` bytes.
///
/// # Errors
/// Not a WebSocket upgrade.
pub(super) fn upgrade(
    request: &HttpRequest,
    body: web::Payload,
    protocols: &[&str],
    max: usize,
) -> actix_web::Result<(HttpResponse, Session, AggregatedMessageStream)> {
    let frames = MeasuredFrames::new(body, max);
    let mut body: dev::Payload = dev::Payload::Stream {
        payload: Box::pin(frames),
    };
    let body = web::Payload::from_request(request, &mut body).into_inner()?;
    let (response, session, stream) = actix_ws::handle_with_protocols(request, body, protocols)?;
    let stream = stream.max_frame_size(max).aggregate_continuations();
    Ok((response, session, stream.max_continuation_size(max)))
}

/// What a client has done wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The message is larger than allowed.
    TooLarge,
    /// The message comes in more frames than allowed.
    TooManyFrames,
    /// The text is not UTF-8.
    NotUtf8,
    /// Something else that the protocol does not allow.
    Protocol(String),
}

impl Fault {
    /// Returns what a client has done wrong; `None` for a lost connection.
    pub(super) fn of(error: &ProtocolError) -> Option<Self> {
        let ProtocolError::Io(error) = error else {
            return Some(match error {
                ProtocolError::Overflow => Self::TooLarge,
                other => Self::Protocol(other.to_string()),
            });
        };
        // The framework has no errors of its own for these.
        let text = error.to_string();
        match error.kind() {
            ErrorKind::InvalidData if text.contains("reserved bits") => Some(Self::Protocol(text)),
            ErrorKind::InvalidData => Some(Self::NotUtf8),
            ErrorKind::Other if text.contains("continuation size") => Some(Self::TooLarge),
            ErrorKind::Other if text == TOO_MANY_FRAMES => Some(Self::TooManyFrames),
            _ => None,
        }
    }

    /// Returns the reason for the close frame.
    pub(super) fn reason(self, max: usize) -> CloseReason {
        let (code, text) = match self {
            Self::TooLarge => {
                let text = format!("a message can have at most {max} bytes");
                (CloseCode::Size, text)
            }
            Self::TooManyFrames => {
                let text = format!("a message can have at most {} frames", max_frames(max));
                (CloseCode::Size, text)
            }
            Self::NotUtf8 => (CloseCode::Invalid, "not UTF-8".to_owned()),
            Self::Protocol(text) => (CloseCode::Protocol, text),
        };
        CloseReason {
            code,
            description: Some(text),
        }
    }
}

/// Returns how many frames a message can have.
fn max_frames(max_bytes: usize) -> usize {
    MIN_FRAMES + max_bytes / MAX_BYTES_PER_FRAME
}

/// The bytes of a connection up to the first frame that is too large or one too many.
struct MeasuredFrames {
    bytes: web::Payload,
    max: u64,
    max_frames: usize,
    /// The frames since a message began that is not complete yet. Those of others, such as pings,
    /// count, too: the part next to it keeps them in memory, as they were read together.
    num_frames: usize,
    state: State,
}

/// Where in a frame the next byte is.
enum State {
    /// In the head, of which this much has arrived.
    Head(Vec<u8>),
    /// In the mask and the payload, of which this many bytes follow.
    Payload(u64),
    /// In the payload of a frame that is too large, of which this many bytes are dropped.
    Dropped(u64),
    /// Before a frame that is one too many.
    TooManyFrames,
    /// After that.
    Over,
}

impl MeasuredFrames {
    fn new(bytes: web::Payload, max: usize) -> Self {
        Self {
            bytes,
            max: u64::try_from(max).unwrap_or(u64::MAX),
            max_frames: max_frames(max),
            num_frames: 0,
            state: State::Head(Vec::new()),
        }
    }

    /// Takes what has arrived, and returns what may be passed on; the rest of a head is held back
    /// until it is complete.
    fn measure(&mut self, chunk: Bytes) -> Bytes {
        let mut chunk = match &mut self.state {
            State::Head(begun) if !begun.is_empty() => {
                begun.extend_from_slice(&chunk);
                Bytes::from(std::mem::take(begun))
            }
            _ => chunk,
        };
        let whole = chunk.clone();
        let mut num_passed = 0;
        loop {
            match &mut self.state {
                State::Head(begun) => match Head::read(&chunk) {
                    None => {
                        *begun = chunk.to_vec();
                        return whole.slice(..num_passed);
                    }
                    Some(head) if head.length > self.max => {
                        self.state = State::Dropped(head.length.min(MAX_DROPPED_BYTES));
                    }
                    Some(head) if !self.count(head) => {
                        self.state = State::TooManyFrames;
                    }
                    Some(mut head) => {
                        num_passed += advance(&mut chunk, &mut head.size);
                        self.state = State::Payload(head.mask + head.length);
                    }
                },
                State::Payload(left) => {
                    num_passed += advance(&mut chunk, left);
                    if *left > 0 {
                        return whole;
                    }
                    self.state = State::Head(Vec::new());
                }
                State::Dropped(left) => {
                    advance(&mut chunk, left);
                    if *left > 0 {
                        return whole.slice(..num_passed);
                    }
                    self.state = State::Over;
                    return [&whole.slice(..num_passed), TOO_LARGE].concat().into();
                }
                State::TooManyFrames | State::Over => return whole.slice(..num_passed),
            }
        }
    }

    /// Counts a frame; returns whether there can be that many.
    fn count(&mut self, head: Head) -> bool {
        let is_begun = self.num_frames > 0 || !head.is_last;
        self.num_frames += usize::from(is_begun);
        let is_allowed = self.num_frames <= self.max_frames;
        if head.is_last && head.is_continuation {
            self.num_frames = 0;
        }
        is_allowed
    }
}

/// Takes up to `left` bytes from the front, and counts `left` down; returns how many those were.
fn advance(chunk: &mut Bytes, left: &mut u64) -> usize {
    let mut num_taken = chunk.len();
    match usize::try_from(*left) {
        Ok(fewer) if fewer <= num_taken => {
            num_taken = fewer;
            *left = 0;
        }
        _ => *left -= u64::try_from(num_taken).unwrap_or_default(),
    }
    chunk.split_to(num_taken).len()
}

/// What the head of a frame says about its sizes, in bytes, and about its message.
#[derive(Clone, Copy)]
struct Head {
    /// Its own, without the mask.
    size: u64,
    mask: u64,
    length: u64,
    is_continuation: bool,
    /// Whether its message has no more frames.
    is_last: bool,
}

impl Head {
    /// Reads a head; `None` if it is not complete.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (size, length) = match second & 0x7f {
            126 => (4, u64::from(u16::from_be_bytes(*rest.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*rest.first_chunk()?)),
            short => (2, u64::from(short)),
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        Some(Self {
            size,
            mask,
            length,
            is_continuation: first & 0x0f == 0,
            is_last: first & 0x80 != 0,
        })
    }
}

impl Stream for MeasuredFrames {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match self.state {
                State::TooManyFrames => {
                    self.state = State::Over;
                    let error = std::io::Error::other(TOO_MANY_FRAMES);
                    return Poll::Ready(Some(Err(PayloadError::Io(error))));
                }
                State::Over => return Poll::Ready(None),
                _ => {}
            }
            let chunk = match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(chunk)) => chunk,
                other => return Poll::Ready(other),
            };
            let passed = self.measure(chunk);
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(passed)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 10;

    fn measured() -> MeasuredFrames {
        let mut nothing = dev::Payload::None;
        let request = actix_web::test::TestRequest::get().to_http_request();
        let body = web::Payload::from_request(&request, &mut nothing).into_inner();
        MeasuredFrames::new(body.unwrap(), MAX)
    }

    /// Builds a frame with its length in the shortest form or a longer one.
    fn frame(payload: &[u8], num_longer: usize) -> Vec<u8> {
        let length = payload.len();
        let forms = [
            u8::try_from(length)
                .ok()
                .filter(|it| *it < 126)
                .map(|it| vec![0x80 | it]),
            u16::try_from(length)
                .ok()
                .map(|it| [&[0xfe][..], &it.to_be_bytes()].concat()),
            Some([&[0xff][..], &(length as u64).to_be_bytes()].concat()),
        ];
        let forms: Vec<_> = forms.into_iter().flatten().collect();
        let head = &forms[num_longer % forms.len()];
        [&[0x82][..], head, &[1, 2, 3, 4], payload].concat()
    }

    proptest! {
        #[test]
        fn what_is_small_enough_passes_however_it_is_cut(
            frames in prop::collection::vec((0..=MAX, 0..3_usize), 0..6),
            too_large in prop::option::of(MAX + 1..3 * MAX),
            cuts in prop::collection::vec(1..40_usize, 1..20),
        ) {
            let mut sent: Vec<u8> = Vec::new();
            for (length, longer) in frames {
                sent.extend(frame(&vec![7; length], longer));
            }
            let mut expected = sent.clone();
            if let Some(length) = too_large {
                sent.extend(frame(&vec![7; length], 0));
                sent.extend(frame(b"after it", 0));
                expected.extend(TOO_LARGE);
            }
            let mut frames = measured();
            let mut passed = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !sent.is_empty() {
                let rest = sent.split_off(cuts.next().unwrap().min(sent.len()));
                passed.extend(frames.measure(sent.into()));
                sent = rest;
            }
            prop_assert_eq!(passed, expected);
        }
    }

    #[test]
    fn the_frames_of_a_message_are_counted_with_what_is_between_them() {
        const PING: u8 = 0x89;
        const WHOLE: u8 = 0x82;
        let max_frames = max_frames(MAX);
        for (between, num_allowed) in [
            (None, max_frames),
            (Some(PING), max_frames / 2),
            (Some(WHOLE), max_frames / 2),
        ] {
            let mut frames = measured();
            let mut pass = |first: u8| frames.measure(vec![first, 0x81, 1, 2, 3, 4, 5].into());
            // Those of complete messages do not count, however many there are.
            for _ in 0..2 * max_frames {
                assert!(!pass(WHOLE).is_empty() && !pass(PING).is_empty());
            }
            for _ in 0..2 {
                for number in 1..num_allowed {
                    assert!(!pass(if number == 1 { 0x02 } else { 0x00 }).is_empty());
                    assert!(between.is_none_or(|it| !pass(it).is_empty()));
                }
                assert!(!pass(0x80).is_empty());
            }
            assert!(!pass(0x02).is_empty());
            let more = (0..max_frames).take_while(|_| !pass(0x00).is_empty());
            assert_eq!(more.count(), max_frames - 1);
            assert!(pass(0x80).is_empty() && pass(WHOLE).is_empty());
        }
    }

    #[test]
    fn of_an_endless_frame_only_some_is_read() {
        let mut frames = measured();
        let head = [&[0x82, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[0; 4]].concat();
        assert!(frames.measure(head.into()).is_empty());
        let chunk = Bytes::from(vec![0; 1 << 20]);
        let mut passed = (0..64).map(|_| frames.measure(chunk.clone()));
        assert_eq!(passed.position(|it| it == TOO_LARGE), Some(15));
        assert!(passed.all(|it| it.is_empty()));
    }
}
