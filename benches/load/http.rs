//! A minimal HTTP/1.1 client: one kept-alive connection, one request at a time, bodies with a
//! length.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A response, borrowed from the connection's buffer.
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: vec![0; 64 * 1024],
            filled: 0,
        })
    }

    pub(crate) async fn connect_many(addr: SocketAddr, number: usize) -> io::Result<Vec<Self>> {
        let mut clients = Vec::with_capacity(number);
        for _ in 0..number {
            clients.push(Self::connect(addr).await?);
        }
        Ok(clients)
    }

    /// Sends a whole request and waits for the whole response.
    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<Response<'_>> {
        self.stream.write_all(request).await?;
        self.filled = 0;
        let head = loop {
            self.fill().await?;
            if let Some(head) = Head::parse(&self.buffer[..self.filled])? {
                break head;
            }
        };
        let end = head.len + head.body_len;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        while self.filled < end {
            self.fill().await?;
        }
        Ok(Response {
            status: head.status,
            body: &self.buffer[head.len..end],
        })
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}

struct Head {
    status: u16,
    len: usize,
    body_len: usize,
}

impl Head {
    /// Returns `None` while the head is incomplete.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
            return Ok(None);
        };
        let mut lines = bytes[..end].split(|byte| *byte == b'\n');
        let status = lines
            .next()
            .and_then(|line| line.get(9..12))
            .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
            .ok_or_else(|| unreadable("no status"))?;
        let body_len = lines
            .find_map(content_length)
            .ok_or_else(|| unreadable("no content length"))?;
        Ok(Some(Self {
            status,
            len: end + 4,
            body_len,
        }))
    }
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let name = line.get(..NAME.len())?;
    let value = line.get(NAME.len()..)?;
    name.eq_ignore_ascii_case(NAME)
        .then(|| std::str::from_utf8(value).ok()?.trim().parse().ok())
        .flatten()
}

fn unreadable(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("unreadable response: {what}"),
    )
}
