//! The messages between server and workers: v1's form of the Paranoid Pirate Protocol.
//!
//! A signal is one frame of one byte. A message has seven frames, the same in both directions: the
//! worker's identity, an empty one, the kind, the bounce count, the request's id, an empty one, the
//! body. [`parse`] never panics, whatever frames arrive.

use std::fmt;
use std::sync::Arc;

/// The maximum length of a request's id.
const MAX_ID_BYTES: usize = 255;
/// The maximum number of digits of a bounce count.
const MAX_BOUNCE_DIGITS: usize = 6;

const READY: u8 = 1;
const HEARTBEAT: u8 = 2;
const SHUTDOWN: u8 = 3;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;

/// A worker's identity, chosen by its socket.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Identity(pub(super) Arc<[u8]>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Identifies a request and everything that is nested in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestId(Arc<str>);

impl RequestId {
    /// Creates an id in the server's form: two random parts.
    pub(super) fn random() -> Self {
        let (first, second) = (rand::random::<u16>(), rand::random::<u16>());
        Self(format!("{first:04X}-{second:04X}").into())
    }
}

/// The meaning of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ZmqMessage {
    /// The worker accepts requests.
    Ready,
    /// The sender is alive and has nothing to do.
    Heartbeat,
    /// The worker leaves.
    Shutdown,
    /// A request.
    Request(Envelope),
    /// The answer to a request.
    Response(Envelope),
}

/// A request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    /// How deeply the request is nested in others.
    pub(super) bounce: u32,
    /// The outermost request.
    pub(super) id: RequestId,
    /// JSON.
    pub(super) body: Vec<u8>,
}

/// Why frames are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// Neither a signal nor a message.
    #[error("{0} frames, expected 1 or 7")]
    FrameCount(usize),
    /// An unknown first byte.
    #[error("an unknown kind of message")]
    UnknownKind,
    /// The bounce count is not a number.
    #[error("the bounce count is not a number of at most {MAX_BOUNCE_DIGITS} digits")]
    BadBounce,
    /// The request's id is invalid.
    #[error("the request's id is not a string of 1 to {MAX_ID_BYTES} bytes")]
    BadId,
}

/// Parses what a worker sent. The identity in a message is ignored: only the socket that it came
/// from counts.
///
/// # Errors
/// See [`MessageError`].
pub(super) fn parse(frames: Vec<Vec<u8>>) -> Result<ZmqMessage, MessageError> {
    let count = frames.len();
    if let [signal] = frames.as_slice() {
        return match signal.as_slice() {
            [READY] => Ok(ZmqMessage::Ready),
            [HEARTBEAT] => Ok(ZmqMessage::Heartbeat),
            [SHUTDOWN] => Ok(ZmqMessage::Shutdown),
            _ => Err(MessageError::UnknownKind),
        };
    }
    let Ok([_, _, kind, bounce, id, _, body]) = <[Vec<u8>; 7]>::try_from(frames) else {
        return Err(MessageError::FrameCount(count));
    };
    let envelope = Envelope {
        bounce: parse_bounce(&bounce).ok_or(MessageError::BadBounce)?,
        id: parse_id(id).ok_or(MessageError::BadId)?,
        body,
    };
    match kind.as_slice() {
        [REQUEST] => Ok(ZmqMessage::Request(envelope)),
        [RESPONSE] => Ok(ZmqMessage::Response(envelope)),
        _ => Err(MessageError::UnknownKind),
    }
}

/// Parses the beginning of a message with an oversized body: the message without its body.
///
/// # Errors
/// See [`MessageError`].
pub(super) fn parse_head(mut frames: Vec<Vec<u8>>) -> Result<ZmqMessage, MessageError> {
    if frames.is_empty() {
        return Err(MessageError::UnknownKind);
    }
    frames.push(Vec::new());
    parse(frames)
}

fn parse_bounce(digits: &[u8]) -> Option<u32> {
    if digits.len() > MAX_BOUNCE_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn parse_id(id: Vec<u8>) -> Option<RequestId> {
    let id = String::from_utf8(id).ok()?;
    (1..=MAX_ID_BYTES)
        .contains(&id.len())
        .then(|| RequestId(id.into()))
}

/// Serializes a message to a worker, as its socket gets it.
pub(super) fn write(worker: &Identity, message: ZmqMessage) -> Vec<Vec<u8>> {
    let (kind, envelope) = match message {
        ZmqMessage::Ready => return vec![vec![READY]],
        ZmqMessage::Heartbeat => return vec![vec![HEARTBEAT]],
        ZmqMessage::Shutdown => return vec![vec![SHUTDOWN]],
        ZmqMessage::Request(envelope) => (REQUEST, envelope),
        ZmqMessage::Response(envelope) => (RESPONSE, envelope),
    };
    vec![
        worker.0.to_vec(),
        Vec::new(),
        vec![kind],
        envelope.bounce.to_string().into_bytes(),
        envelope.id.0.as_bytes().to_vec(),
        Vec::new(),
        envelope.body,
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope() -> impl Strategy<Value = Envelope> {
        let body = proptest::collection::vec(any::<u8>(), 0..100);
        (0..999_999_u32, "\\PC{1,60}", body).prop_map(|(bounce, id, body)| Envelope {
            bounce,
            id: RequestId(id.into()),
            body,
        })
    }

    fn message() -> impl Strategy<Value = ZmqMessage> {
        prop_oneof![
            Just(ZmqMessage::Ready),
            Just(ZmqMessage::Heartbeat),
            Just(ZmqMessage::Shutdown),
            envelope().prop_map(ZmqMessage::Request),
            envelope().prop_map(ZmqMessage::Response),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(message in message(), identity in any::<[u8; 5]>()) {
            let identity = Identity(Arc::new(identity));
            prop_assert_eq!(parse(write(&identity, message.clone())), Ok(message));
        }

        #[test]
        fn any_frames_are_read_or_refused(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..12)
        ) {
            let count = frames.len();
            let _ = parse_head(frames.clone());
            let read = parse(frames);
            if count != 1 && count != 7 {
                prop_assert_eq!(read, Err(MessageError::FrameCount(count)));
            }
        }

        #[test]
        fn a_bent_message_is_read_or_refused(
            message in envelope(), index in 0..7_usize, bent in proptest::collection::vec(any::<u8>(), 0..9)
        ) {
            let mut frames = write(&Identity(Arc::new([1])), ZmqMessage::Request(message));
            frames[index] = bent;
            let _ = parse(frames);
        }
    }

    #[test]
    fn frames_are_those_of_v1() {
        let identity = Identity(b"0A0B-0C0D".as_slice().into());
        let request = ZmqMessage::Request(Envelope {
            bounce: 1,
            id: RequestId("A1B2-C3D4".into()),
            body: b"{}".to_vec(),
        });
        let expected: [&[u8]; 7] = [b"0A0B-0C0D", b"", b"\x04", b"1", b"A1B2-C3D4", b"", b"{}"];
        assert_eq!(write(&identity, request), expected);
        assert_eq!(write(&identity, ZmqMessage::Heartbeat), [[2]]);
    }

    #[test]
    fn a_message_is_known_by_its_head() {
        let frames = [b"w".as_slice(), b"", b"\x05", b"3", b"A1B2-C3D4", b""];
        let head: Vec<_> = frames.iter().map(|frame| frame.to_vec()).collect();
        let expected = ZmqMessage::Response(Envelope {
            bounce: 3,
            id: RequestId("A1B2-C3D4".into()),
            body: Vec::new(),
        });
        assert_eq!(parse_head(head.clone()), Ok(expected));
        // No frame but the body has any reason to be large.
        for length in 0..head.len() {
            assert!(parse_head(head[..length].to_vec()).is_err());
        }
    }

    #[test]
    fn ids_have_the_servers_form() {
        let RequestId(id) = RequestId::random();
        let parts: Vec<_> = id.split('-').collect();
        assert!(matches!(parts.as_slice(), [a, b] if a.len() == 4 && b.len() == 4));
        assert!(
            id.chars()
                .all(|c| c == '-' || c.is_ascii_digit() || ('A'..='F').contains(&c))
        );
    }

    #[test]
    fn odd_numbers_and_ids_are_refused() {
        let with = |index: usize, frame: &[u8]| {
            let mut frames: Vec<Vec<u8>> = [b"w".as_slice(), b"", b"\x05", b"0", b"id", b"", b"{}"]
                .map(<[u8]>::to_vec)
                .into();
            frames[index] = frame.to_vec();
            parse(frames)
        };
        for bounce in [b"".as_slice(), b"-1", b"+1", b"1.0", b"1234567", b"\xff"] {
            assert_eq!(with(3, bounce), Err(MessageError::BadBounce));
        }
        for id in [b"".as_slice(), b"\xff\xfe", &[b'a'; 256]] {
            assert_eq!(with(4, id), Err(MessageError::BadId));
        }
        for kind in [b"".as_slice(), b"\x00", b"\x01", b"\x06", b"\x04\x04"] {
            assert_eq!(with(2, kind), Err(MessageError::UnknownKind));
        }
    }
}
