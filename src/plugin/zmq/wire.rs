//! The bytes on the connection: ZMTP 3.0, as far as a ROUTER without encryption needs it.
//!
//! Both sides send a greeting, and then READY with their type and identity; after that, messages
//! made of frames. Commands in between belong to future versions and are skipped. Whatever a peer
//! announces, memory is allocated only for bytes that have arrived, and up to a limit. If a message
//! exceeds it, the reader gets the frames before the oversized one at once; the rest is then
//! skipped.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};

use super::budget::Budget;

/// How much of a frame is read at once.
const STEP_BYTES: u64 = 16 * 1024;
/// The maximum number of frames in a message; ours have seven.
const MAX_FRAMES: usize = 16;
/// The maximum length of a command.
const MAX_COMMAND_BYTES: u64 = 4096;
/// The maximum length of an identity.
const MAX_IDENTITY_BYTES: usize = 255;

const GREETING_BYTES: usize = 64;
const MAJOR_VERSION: u8 = 3;
const MECHANISM: &[u8; 20] = b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The peer or the network closed the connection.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Something other than ZeroMQ, or an old version of it.
    #[error("not a ZeroMQ socket of version 3 or later")]
    NotZmtp,
    /// The peer wants encryption.
    #[error("the peer wants a security mechanism, but this side has none")]
    Mechanism,
    /// The first command is wrong.
    #[error("the handshake is wrong: {0}")]
    Handshake(&'static str),
    /// A frame begins with unknown flags.
    #[error("a frame with unknown flags {0:#04x}")]
    Flags(u8),
    /// A message is too large.
    #[error("a message of more than {0} bytes")]
    TooLarge(u64),
    /// Too many frames.
    #[error("a message of more than {MAX_FRAMES} frames")]
    TooManyFrames,
}

/// Performs the handshake; returns the peer's identity, which may be empty.
///
/// # Errors
/// See [`WireError`].
pub(super) async fn shake_hands<S>(stream: &mut S) -> Result<Vec<u8>, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // At once and complete: a peer waits for the version before it continues.
    stream.write_all(&greeting()).await?;
    stream.flush().await?;
    let mut theirs = [0; GREETING_BYTES];
    stream.read_exact(&mut theirs).await?;
    check_greeting(&theirs)?;
    stream.write_all(&ready(b"ROUTER")).await?;
    stream.flush().await?;
    let header = read_header(stream).await?;
    if !header.is_command {
        return Err(WireError::Handshake("no command"));
    }
    let mut body = Vec::new();
    read_exactly(stream, header.length, &mut body).await?;
    parse_ready(&body)
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    let parts = [
        (0, [0xff].as_slice()),
        (9, &[0x7f, MAJOR_VERSION, 0]),
        (12, MECHANISM),
    ];
    for (start, part) in parts {
        for (to, from) in greeting.iter_mut().skip(start).zip(part) {
            *to = *from;
        }
    }
    greeting
}

fn check_greeting(theirs: &[u8; GREETING_BYTES]) -> Result<(), WireError> {
    let [0xff, _, _, _, _, _, _, _, _, 0x7f, major, _, rest @ ..] = theirs else {
        return Err(WireError::NotZmtp);
    };
    if *major < MAJOR_VERSION {
        Err(WireError::NotZmtp)
    } else if rest.starts_with(MECHANISM) {
        Ok(())
    } else {
        Err(WireError::Mechanism)
    }
}

/// Serializes the command READY.
fn ready(socket_type: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend(be_u32(socket_type.len()));
    body.extend(socket_type);
    let mut bytes = vec![COMMAND, short(body.len())];
    bytes.append(&mut body);
    bytes
}

/// Parses the command READY; returns the identity.
fn parse_ready(body: &[u8]) -> Result<Vec<u8>, WireError> {
    let odd = WireError::Handshake("expected READY with its properties");
    let Some(mut rest) = body.strip_prefix(b"\x05READY") else {
        return Err(odd);
    };
    let (mut identity, mut socket_type) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let Some((name, value, after)) = parse_property(rest) else {
            return Err(odd);
        };
        rest = after;
        if name.eq_ignore_ascii_case(b"identity") {
            identity = value.to_vec();
        } else if name.eq_ignore_ascii_case(b"socket-type") {
            socket_type = value.to_vec();
        }
    }
    if !matches!(socket_type.as_slice(), b"DEALER" | b"REQ" | b"ROUTER") {
        return Err(WireError::Handshake("workers connect with a DEALER"));
    }
    if identity.len() > MAX_IDENTITY_BYTES {
        return Err(WireError::Handshake("the identity is too long"));
    }
    Ok(identity)
}

/// Splits off a property: its name, its value, and what follows.
fn parse_property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (value, rest) = rest.split_at_checked(length)?;
    Some((name, value, rest))
}

/// The beginning of a frame.
struct Header {
    has_more: bool,
    is_command: bool,
    length: u64,
}

/// A message, as far as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The complete message.
    Message(Vec<Vec<u8>>),
    /// The frames before the oversized one, and what must be skipped.
    TooLarge(Vec<Vec<u8>>, Rest),
    /// The same, when all messages together are too large.
    NoRoom(Vec<Vec<u8>>, Rest),
}

/// The rest of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rest {
    /// How much of the current frame is left.
    length: u64,
    /// Whether more frames follow.
    has_more: bool,
}

/// Reads the next message.
///
/// # Errors
/// See [`WireError`].
pub(super) async fn read_message<R>(
    reader: &mut R,
    max_bytes: u64,
    budget: &Budget,
) -> Result<Incoming, WireError>
where
    R: AsyncRead + Unpin,
{
    let mut share = budget.share();
    let mut frames = Vec::new();
    let mut remaining = max_bytes;
    loop {
        let header = read_header(reader).await?;
        if header.is_command {
            let mut body = Vec::new();
            read_exactly(reader, header.length, &mut body).await?;
            continue;
        }
        if frames.len() == MAX_FRAMES {
            return Err(WireError::TooManyFrames);
        }
        let Header {
            has_more, length, ..
        } = header;
        if length > remaining {
            return Ok(Incoming::TooLarge(frames, Rest { length, has_more }));
        }
        remaining -= length;
        let mut body = Vec::new();
        let mut missing = length;
        while missing > 0 {
            let step = missing.min(STEP_BYTES);
            if !share.take(step) {
                let length = missing;
                return Ok(Incoming::NoRoom(frames, Rest { length, has_more }));
            }
            read_exactly(reader, step, &mut body).await?;
            missing -= step;
        }
        frames.push(body);
        if !has_more {
            return Ok(Incoming::Message(frames));
        }
    }
}

/// Skips the rest of a message, unless it is too long even for that.
///
/// # Errors
/// See [`WireError`].
pub(super) async fn skip<R>(reader: &mut R, rest: Rest, max_bytes: u64) -> Result<(), WireError>
where
    R: AsyncRead + Unpin,
{
    let mut remaining = max_bytes;
    let Rest {
        mut length,
        mut has_more,
    } = rest;
    for _ in 0..=MAX_FRAMES {
        if length > remaining {
            return Err(WireError::TooLarge(max_bytes));
        }
        remaining -= length;
        let skipped = copy(&mut (&mut *reader).take(length), &mut sink()).await?;
        if skipped < length {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        if !has_more {
            return Ok(());
        }
        let header = read_header(reader).await?;
        length = header.length;
        has_more = header.has_more || header.is_command;
    }
    Err(WireError::TooManyFrames)
}

/// Reads the beginning of a frame; refuses a command that is too long.
async fn read_header<R>(reader: &mut R) -> Result<Header, WireError>
where
    R: AsyncRead + Unpin,
{
    let flags = reader.read_u8().await?;
    let is_command = flags & COMMAND != 0;
    if flags & !(MORE | LONG | COMMAND) != 0 || (is_command && flags & MORE != 0) {
        return Err(WireError::Flags(flags));
    }
    let length = if flags & LONG == 0 {
        u64::from(reader.read_u8().await?)
    } else {
        reader.read_u64().await?
    };
    if is_command && length > MAX_COMMAND_BYTES {
        return Err(WireError::TooLarge(MAX_COMMAND_BYTES));
    }
    Ok(Header {
        has_more: flags & MORE != 0,
        is_command,
        length,
    })
}

/// Reads this many bytes of a frame.
async fn read_exactly<R>(reader: &mut R, length: u64, body: &mut Vec<u8>) -> Result<(), WireError>
where
    R: AsyncRead + Unpin,
{
    let num_read = reader.take(length).read_to_end(body).await?;
    if long(num_read) < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(())
}

/// Serializes a message.
pub(super) fn write_message(frames: &[Vec<u8>]) -> Vec<u8> {
    const MAX_HEADER_BYTES: usize = 9;
    let size: usize = frames
        .iter()
        .map(|frame| frame.len() + MAX_HEADER_BYTES)
        .sum();
    let mut bytes = Vec::with_capacity(size);
    let num_before_last = frames.len().saturating_sub(1);
    for (index, frame) in frames.iter().enumerate() {
        let more = if index < num_before_last { MORE } else { 0 };
        match u8::try_from(frame.len()) {
            Ok(length) => bytes.extend([more, length]),
            Err(_) => {
                bytes.push(more | LONG);
                bytes.extend(long(frame.len()).to_be_bytes());
            }
        }
        bytes.extend(frame);
    }
    bytes
}

fn short(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn be_u32(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::io::join;

    use super::*;

    const LIMIT: u64 = 1000;

    /// Reads a message that is in memory and needs no waiting.
    fn read_incoming(bytes: &mut &[u8]) -> Result<Incoming, WireError> {
        let budget = Budget::new(LIMIT);
        read_message(bytes, LIMIT, &budget).now_or_never().unwrap()
    }

    /// Reads a message; if it is too large, the frames before.
    fn read(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
        match read_incoming(&mut bytes)? {
            Incoming::Message(frames)
            | Incoming::TooLarge(frames, _)
            | Incoming::NoRoom(frames, _) => Ok(frames),
        }
    }

    fn skip_now(bytes: &mut &[u8], rest: Rest) -> Result<(), WireError> {
        skip(bytes, rest, 5 * LIMIT).now_or_never().unwrap()
    }

    /// Shakes hands with a peer that sends this; also returns what was sent to it.
    fn shake(theirs: &[u8]) -> (Result<Vec<u8>, WireError>, Vec<u8>) {
        let mut ours = Vec::new();
        let shaken = shake_hands(&mut join(theirs, &mut ours)).now_or_never();
        (shaken.unwrap(), ours)
    }

    fn peer(socket_type: &[u8], identity: &[u8]) -> Vec<u8> {
        let mut body = ready(socket_type).split_off(2);
        body.extend(b"\x08Identity");
        body.extend(be_u32(identity.len()));
        body.extend(identity);
        let length = long(body.len()).to_be_bytes();
        [&greeting(), [COMMAND | LONG].as_slice(), &length, &body].concat()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            frames in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 1..=3)
        ) {
            let bytes = write_message(&frames);
            prop_assert_eq!(read(&bytes).unwrap(), frames);
            for length in 0..bytes.len() {
                prop_assert!(matches!(read(&bytes[..length]), Err(WireError::Io(_))));
            }
        }

        #[test]
        fn what_is_too_large_is_skipped_and_the_next_is_read(
            lengths in proptest::collection::vec(0..700_usize, 1..=MAX_FRAMES)
        ) {
            let sum: usize = lengths.iter().sum();
            prop_assume!((1001..5000).contains(&sum));
            let frames: Vec<_> = lengths.iter().map(|length| vec![7; *length]).collect();
            let next = vec![b"next".to_vec()];
            let bytes = [write_message(&frames), write_message(&next)].concat();
            let mut bytes = bytes.as_slice();
            let Incoming::TooLarge(before, rest) = read_incoming(&mut bytes).unwrap() else {
                return Err(TestCaseError::fail("it was taken"));
            };
            prop_assert!(frames.starts_with(&before));
            skip_now(&mut bytes, rest).unwrap();
            prop_assert_eq!(read_incoming(&mut bytes).unwrap(), Incoming::Message(next));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut remaining = bytes.as_slice();
            while let Ok(incoming) = read_incoming(&mut remaining) {
                if let Incoming::TooLarge(_, rest) = incoming
                    && skip_now(&mut remaining, rest).is_err()
                {
                    break;
                }
            }
            let _ = shake(&bytes);
            let _ = shake(&[greeting().as_slice(), &bytes].concat());
            let _ = parse_ready(&bytes);
        }

        #[test]
        fn a_bent_handshake_is_taken_or_refused(index in 0..100_usize, byte in any::<u8>()) {
            let mut bytes = peer(b"DEALER", b"0A0B-0C0D");
            let index = index % bytes.len();
            bytes[index] = byte;
            let _ = shake(&bytes);
        }
    }

    #[test]
    fn hands_are_shaken_with_a_dealer() {
        let (identity, ours) = shake(&peer(b"DEALER", b"0A0B-0C0D"));
        assert_eq!(identity.unwrap(), b"0A0B-0C0D");
        let mut expected = vec![0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0];
        expected.extend(b"NULL");
        expected.resize(64, 0);
        expected.extend(b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER");
        assert_eq!(ours, expected);
    }

    #[test]
    fn others_are_refused() {
        let with = |index: usize, byte: u8| {
            let mut bytes = peer(b"DEALER", b"x");
            bytes[index] = byte;
            shake(&bytes).0.unwrap_err()
        };
        assert!(matches!(with(0, b'G'), WireError::NotZmtp));
        assert!(matches!(with(10, 2), WireError::NotZmtp));
        assert!(matches!(with(12, b'C'), WireError::Mechanism));
        assert!(matches!(with(64, 0), WireError::Handshake(_)));
        for odd in [peer(b"SUB", b"x"), peer(b"DEALER", &[1; 300])] {
            assert!(shake(&odd).0.is_err());
        }
    }

    #[test]
    fn memory_is_not_taken_for_announcements() {
        for length in [LIMIT + 1, 1 << 50, u64::MAX] {
            let bytes = [[LONG].as_slice(), &length.to_be_bytes()].concat();
            let mut bytes = bytes.as_slice();
            let Ok(Incoming::TooLarge(frames, rest)) = read_incoming(&mut bytes) else {
                panic!("{length} bytes were taken");
            };
            assert!(frames.is_empty());
            // What is too long even for that is not skipped.
            let skipped = skip_now(&mut bytes, rest);
            match length > 5 * LIMIT {
                true => assert!(matches!(skipped, Err(WireError::TooLarge(_)))),
                false => assert!(matches!(skipped, Err(WireError::Io(_)))),
            }
        }
        // The same holds for many frames that are small by themselves.
        let frames = vec![vec![1; 600], vec![2; 600]];
        assert_eq!(read(&write_message(&frames)).unwrap(), [vec![1; 600]]);
        let frames = vec![Vec::new(); MAX_FRAMES + 1];
        assert!(matches!(
            read(&write_message(&frames)),
            Err(WireError::TooManyFrames)
        ));
    }

    #[tokio::test]
    async fn messages_that_never_end_take_no_more_than_there_is() {
        const LENGTH: u64 = 200 * 1024;
        let budget = Budget::new(LENGTH);
        let begun = |length: usize| {
            let mut bytes = write_message(&[b"a".to_vec(), vec![7; 200 * 1024]]);
            bytes.truncate(length);
            bytes
        };
        // One peer has sent most of its message, and then goes silent.
        let (mut peer, mut reader) = tokio::io::duplex(1 << 20);
        peer.write_all(&begun(200_000)).await.unwrap();
        let mut reading = Box::pin(read_message(&mut reader, LENGTH + 1, &budget));
        assert!(reading.as_mut().now_or_never().is_none());
        // The other peer is told at once, and can continue.
        let next = write_message(&[b"next".to_vec()]);
        let bytes = [begun(usize::MAX), next].concat();
        let mut bytes = bytes.as_slice();
        let read = read_message(&mut bytes, LENGTH + 1, &budget).await.unwrap();
        let Incoming::NoRoom(before, rest) = read else {
            panic!("{read:?}");
        };
        assert_eq!(before, [b"a"]);
        skip(&mut bytes, rest, LENGTH).await.unwrap();
        let read = read_message(&mut bytes, LENGTH + 1, &budget).await.unwrap();
        assert_eq!(read, Incoming::Message(vec![b"next".to_vec()]));
        // When the first is gone, there is room again.
        drop(reading);
        let bytes = begun(usize::MAX);
        let read = read_message(&mut bytes.as_slice(), LENGTH + 1, &budget).await;
        assert!(matches!(read, Ok(Incoming::Message(_))));
    }

    #[test]
    fn commands_are_skipped() {
        let ping = b"\x04\x07\x04PING\x00\x00".as_slice();
        let bytes = [ping, &write_message(&[b"a".to_vec()])].concat();
        assert_eq!(read(&bytes).unwrap(), [b"a"]);
        assert!(matches!(read(b"\x05\x00"), Err(WireError::Flags(5))));
        assert!(matches!(read(b"\x08\x00"), Err(WireError::Flags(8))));
    }
}
