//! The bytes on the connection: ZMTP 3.0, as far as a ROUTER without encryption needs it.
//!
//! Both sides send a greeting, then READY with what they are and how they are called; from then on
//! messages of frames. Commands in between are the future's and are skipped. Whatever a peer
//! announces, memory is taken only for bytes that have come, and up to a limit.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How many frames a message may have; ours have seven.
const MAX_FRAMES: usize = 16;
/// How long a command may be.
const MAX_COMMAND_BYTES: u64 = 4096;
/// How long an identity may be.
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
    /// The peer hung up, or the network did.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Something else than ZeroMQ, or an old version of it.
    #[error("not a ZeroMQ socket of version 3 or later")]
    NotZmtp,
    /// The peer wants encryption.
    #[error("the peer wants a security mechanism, this side has none")]
    Mechanism,
    /// The first command is wrong.
    #[error("the handshake is not as it should be: {0}")]
    Handshake(&'static str),
    /// No frame begins like this.
    #[error("a frame with unknown flags {0:#04x}")]
    Flags(u8),
    /// Too much at once.
    #[error("a message of more than {0} bytes")]
    TooLarge(u64),
    /// Too many frames.
    #[error("a message of more than {MAX_FRAMES} frames")]
    TooManyFrames,
}

/// Greets and is greeted; returns the peer's identity, which may be empty.
///
/// # Errors
/// See [`WireError`].
pub(super) async fn shake_hands<S>(stream: &mut S) -> Result<Vec<u8>, WireError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // At once and whole: a peer waits for the version before it goes on.
    stream.write_all(&greeting()).await?;
    stream.flush().await?;
    let mut theirs = [0; GREETING_BYTES];
    stream.read_exact(&mut theirs).await?;
    check_greeting(&theirs)?;
    stream.write_all(&ready(b"ROUTER")).await?;
    stream.flush().await?;
    match read_frame(stream, MAX_COMMAND_BYTES).await? {
        Frame {
            is_command: true,
            body,
            ..
        } => parse_ready(&body),
        _ => Err(WireError::Handshake("no command")),
    }
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

/// Writes the command READY.
fn ready(socket_type: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend(be_u32(socket_type.len()));
    body.extend(socket_type);
    let mut bytes = vec![COMMAND, short(body.len())];
    bytes.append(&mut body);
    bytes
}

/// Reads the command READY; returns the identity.
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

struct Frame {
    has_more: bool,
    is_command: bool,
    body: Vec<u8>,
}

/// Reads the next message.
///
/// # Errors
/// See [`WireError`].
pub(super) async fn read_message<R>(
    reader: &mut R,
    max_bytes: u64,
) -> Result<Vec<Vec<u8>>, WireError>
where
    R: AsyncRead + Unpin,
{
    let mut frames = Vec::new();
    let mut left = max_bytes;
    loop {
        let frame = match read_frame(reader, left).await {
            Err(WireError::TooLarge(_)) => return Err(WireError::TooLarge(max_bytes)),
            other => other?,
        };
        if frame.is_command {
            continue;
        }
        if frames.len() == MAX_FRAMES {
            return Err(WireError::TooManyFrames);
        }
        left = left.saturating_sub(long(frame.body.len()));
        frames.push(frame.body);
        if !frame.has_more {
            return Ok(frames);
        }
    }
}

async fn read_frame<R>(reader: &mut R, max_bytes: u64) -> Result<Frame, WireError>
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
    let limit = if is_command {
        MAX_COMMAND_BYTES
    } else {
        max_bytes
    };
    if length > limit {
        return Err(WireError::TooLarge(limit));
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).await?;
    if long(body.len()) < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Frame {
        has_more: flags & MORE != 0,
        is_command,
        body,
    })
}

/// Writes a message.
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

    fn read(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, WireError> {
        // What is in memory never has to be waited for.
        read_message(&mut bytes, LIMIT).now_or_never().unwrap()
    }

    /// Shakes hands with a peer that says this; returns what it was told as well.
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
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
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
            assert!(matches!(read(&bytes), Err(WireError::TooLarge(LIMIT))));
        }
        // Nor for many frames that are small by themselves.
        let frames = vec![vec![1; 600], vec![2; 600]];
        assert!(matches!(
            read(&write_message(&frames)),
            Err(WireError::TooLarge(LIMIT))
        ));
        let frames = vec![Vec::new(); MAX_FRAMES + 1];
        assert!(matches!(
            read(&write_message(&frames)),
            Err(WireError::TooManyFrames)
        ));
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
