//! A client of server-sent events that never waits for ever.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longer than anything here should take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An event as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub event: String,
    pub data: String,
}

/// What was received.
#[derive(Debug)]
pub enum Heard {
    Event(Event),
    Ended,
    Nothing,
}

pub struct EventSource {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub status: u16,
    /// The head of the answer.
    pub head: String,
}

impl EventSource {
    /// Sends the request; `None` if there is no answer.
    pub fn open(
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Option<Self> {
        let method = if body.is_some() { "POST" } else { "GET" };
        // HTTP/1.0, so that the answer is not chunked.
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = body.unwrap_or_default();
        head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let mut stream = TcpStream::connect(address).ok()?;
        stream.write_all(head.as_bytes()).ok()?;
        let mut source = Self {
            stream,
            buffer: Vec::new(),
            status: 0,
            head: String::new(),
        };
        source.head = source.piece("\r\n\r\n", Duration::from_secs(20)).ok()??;
        source.status = source.head.split(' ').nth(1)?.parse().ok()?;
        Some(source)
    }

    /// Waits for the next event; skips comments and events without data.
    pub fn next(&mut self, timeout: Duration) -> Heard {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let piece = match self.piece("\n\n", left) {
                Ok(Some(piece)) => piece,
                Ok(None) => return Heard::Nothing,
                Err(()) => return Heard::Ended,
            };
            let mut event = Event::default();
            for line in piece.lines() {
                let (field, value) = line.split_once(": ").unwrap_or((line, ""));
                match field {
                    "id" => event.id = value.to_owned(),
                    "event" => event.event = value.to_owned(),
                    "data" => event.data.push_str(value),
                    _ => {}
                }
            }
            if !event.data.is_empty() {
                return Heard::Event(event);
            }
        }
    }

    /// Reads the rest of an answer that ends.
    pub fn rest(&mut self) -> String {
        let rest = self.piece("\0", TIMEOUT);
        assert_eq!(rest, Err(()), "the answer goes on");
        String::from_utf8(self.buffer.split_off(0)).unwrap()
    }

    /// Reads up to `ending`; `None` if it does not arrive in time, an error at the end of the
    /// stream.
    fn piece(&mut self, ending: &str, timeout: Duration) -> Result<Option<String>, ()> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut windows = self.buffer.windows(ending.len());
            if let Some(at) = windows.position(|bytes| bytes == ending.as_bytes()) {
                let piece = self.buffer.drain(..at + ending.len());
                return Ok(Some(String::from_utf8(piece.collect()).unwrap()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut bytes = [0; 8192];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(()),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return Err(()),
            }
        }
    }
}
