//! A client that uses HTTP in ways no library would.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::client::Answer;
use super::server::TestServer;

pub struct RawClient {
    stream: TcpStream,
}

impl RawClient {
    pub fn connect(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        Self { stream }
    }

    /// Connects with a small receive window, so that little of an unread answer is buffered.
    pub fn connect_narrow(server: &TestServer, window: usize) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(window).unwrap();
        let address: SocketAddr = server.address().parse().unwrap();
        socket.connect(&address.into()).unwrap();
        Self {
            stream: socket.into(),
        }
    }

    /// Sends bytes; returns whether the server took them.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Sends a head for `path` with further lines, and the empty line after it.
    pub fn send_head(&mut self, path: &str, lines: &[&str]) -> bool {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n").as_bytes())
    }

    /// Returns whether anything has arrived; hardly waits.
    pub fn has_answer(&mut self) -> bool {
        let timeout = Some(Duration::from_millis(1));
        self.stream.set_read_timeout(timeout).unwrap();
        matches!(self.stream.peek(&mut [0]), Ok(1))
    }

    /// Reads one answer; `None` at the end of the connection or after `timeout`.
    pub fn answer(&mut self, timeout: Duration) -> Option<Answer> {
        let mut bytes = Vec::new();
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(answer) = parse(&bytes) {
                return Some(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(length) => bytes.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads the head of an answer and nothing after it.
    pub fn head(&mut self, timeout: Duration) -> Option<String> {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).ok()?;
            bytes.extend(byte);
        }
        String::from_utf8(bytes).ok()
    }

    /// Reads one answer in small pieces; a large one takes at least `time`.
    pub fn answer_slowly(&mut self, time: Duration) -> Option<Answer> {
        const PIECE: usize = 64 << 10;
        let pause = time / 64;
        let mut bytes = Vec::new();
        let timeout = Some(Duration::from_secs(20));
        self.stream.set_read_timeout(timeout).unwrap();
        while parse(&bytes).is_none() {
            let mut piece = vec![0; PIECE];
            let mut filled = 0;
            match self.stream.read(&mut piece) {
                Ok(length @ 1..) => filled += length,
                _ => return None,
            }
            bytes.extend_from_slice(&piece[..filled]);
            std::thread::park_timeout(pause);
        }
        parse(&bytes)
    }

    /// Returns whether the server ends the connection within `timeout`; what arrives before is
    /// dropped.
    pub fn is_ended(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    let is_patience =
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    return !is_patience;
                }
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut answer = Answer {
        status,
        headers,
        bytes: Vec::new(),
    };
    let length = answer.header("content-length").map_or("0", |length| length);
    let length: usize = length.parse().unwrap();
    answer.bytes = bytes[end + 4..].get(..length)?.to_vec();
    Some(answer)
}
