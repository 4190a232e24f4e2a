//! A minimal WebSocket client: short text frames out, text frames in.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TEXT: u8 = 0x81;
const TOP_BIT: u8 = 0x80;

pub(crate) struct WebSocket {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The part of the buffer that was received and not yet taken.
    unread: std::ops::Range<usize>,
}

impl WebSocket {
    pub(crate) async fn connect(addr: SocketAddr, target: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let mut socket = Self {
            stream,
            buffer: vec![0; 64 * 1024],
            unread: 0..0,
        };
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes()).await?;
        socket.read_upgrade().await?;
        Ok(socket)
    }

    async fn read_upgrade(&mut self) -> io::Result<()> {
        loop {
            self.fill().await?;
            let seen = &self.buffer[self.unread.clone()];
            if let Some(end) = memchr::memmem::find(seen, b"\r\n\r\n") {
                if !seen.starts_with(b"HTTP/1.1 101") {
                    let text = String::from_utf8_lossy(seen).into_owned();
                    return Err(io::Error::other(format!("not upgraded: {text}")));
                }
                self.unread.start += end + 4;
                return Ok(());
            }
        }
    }

    /// Sends the text as `times` frames, in one write. The mask that clients must use is zero.
    pub(crate) async fn send(&mut self, text: &str, times: usize) -> io::Result<()> {
        let len = text.len();
        let mut frame = vec![TEXT];
        match u8::try_from(len) {
            Ok(short @ 0..126) => frame.push(TOP_BIT | short),
            _ => {
                frame.push(TOP_BIT | 126);
                let len = u16::try_from(len).map_err(io::Error::other)?;
                frame.extend_from_slice(&len.to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(text.as_bytes());
        self.stream.write_all(&frame.repeat(times)).await
    }

    /// Waits for `number` text frames and returns the last one's payload. Skips pings and other
    /// frames.
    pub(crate) async fn receive(&mut self, number: usize) -> io::Result<Vec<u8>> {
        let mut left = number;
        let mut last = Vec::new();
        while left > 0 {
            match frame(&self.buffer[self.unread.clone()]) {
                Some((opcode, payload, end)) => {
                    if opcode == TEXT {
                        left -= 1;
                        if left == 0 {
                            last = self.buffer[self.unread.clone()][payload].to_vec();
                        }
                    }
                    self.unread.start += end;
                }
                None => self.fill().await?,
            }
        }
        Ok(last)
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.buffer.len() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        match self
            .stream
            .read(&mut self.buffer[self.unread.end..])
            .await?
        {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.end += read;
                Ok(())
            }
        }
    }
}

/// Returns first byte, payload and length of the first frame, if it is complete. Servers do not
/// mask.
fn frame(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>, usize)> {
    let [first, short, rest @ ..] = bytes else {
        return None;
    };
    let (head, len) = match (short, rest) {
        (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (126, _) => return None,
        (127, _) => panic!("a frame of more than 64 KiB"),
        (short, _) => (2, usize::from(*short)),
    };
    let end = head + len;
    (bytes.len() >= end).then_some((*first, head..end, end))
}
