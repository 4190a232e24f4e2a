//! Sending entries to fluentd: its forward protocol's plain messages, `[tag, seconds, record]` in
//! `MessagePack` over TCP.
//!
//! The protocol's plain form has no acknowledgements: what fluentd had received and not stored when
//! it went down is lost. What it has not received is kept here, within a bound, until it is back.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// v1's tag.
const TAG: &str = "skygear.audit";
/// How long a connection, or one message, may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a fluentd that could not be reached is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How many messages wait for a fluentd that is away.
const MAX_WAITING: usize = 4096;

pub(super) struct Fluentd {
    host: String,
    port: u16,
    connection: Option<TcpStream>,
    waiting: VecDeque<Vec<u8>>,
    failed_at: Option<Instant>,
}

impl Fluentd {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            connection: None,
            waiting: VecDeque::new(),
            failed_at: None,
        }
    }

    /// Takes a message that [`Fluentd::flush`] sends; one too many pushes nobody out, but fails.
    pub(super) fn add(&mut self, seconds: i64, record: &Json) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(io::Error::new(ErrorKind::StorageFull, "fluentd is away"));
        }
        let message = rmp_serde::to_vec(&(TAG, seconds, record));
        self.waiting.push_back(message.map_err(io::Error::other)?);
        Ok(())
    }

    /// Sends what waits, as far as fluentd takes it.
    pub(super) fn flush(&mut self) {
        let is_pausing = self.failed_at.is_some_and(|at| at.elapsed() < PAUSE);
        if self.waiting.is_empty() || is_pausing {
            return;
        }
        match self.send() {
            Ok(()) => self.failed_at = None,
            Err(error) => {
                if self.failed_at.is_none() {
                    tracing::warn!(%error, host = self.host, "fluentd does not take the audit trail");
                }
                self.failed_at = Some(Instant::now());
                self.connection = None;
            }
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) if is_open(&connection)? => connection,
            _ => connect(&self.host, self.port)?,
        };
        while let Some(message) = self.waiting.front() {
            connection.write_all(message)?;
            self.waiting.pop_front();
        }
        self.connection = Some(connection);
        Ok(())
    }
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "no address of that name");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(connection) => {
                connection.set_write_timeout(Some(PATIENCE))?;
                return Ok(connection);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Whether the other end still reads: one that went away would swallow one more message.
fn is_open(connection: &TcpStream) -> io::Result<bool> {
    connection.set_nonblocking(true)?;
    let seen = connection.peek(&mut [0]);
    connection.set_nonblocking(false)?;
    Ok(match seen {
        Ok(num_bytes) => num_bytes > 0,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    fn receive(listener: &TcpListener, num_messages: usize) -> Vec<(String, i64, Json)> {
        let (mut connection, _) = listener.accept().unwrap();
        connection
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut from = rmp_serde::Deserializer::new(&mut connection);
        let message = |_| serde::Deserialize::deserialize(&mut from).unwrap();
        (0..num_messages).map(message).collect()
    }

    #[test]
    fn messages_are_sent_and_wait_while_fluentd_is_away() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut fluentd = Fluentd::new("127.0.0.1", port);
        let record = |number: i64| json!({"event": "signup", "data": {"n": number}});
        fluentd.add(1, &record(1)).unwrap();
        fluentd.flush();
        assert_eq!(receive(&listener, 1), [(TAG.to_owned(), 1, record(1))]);

        // The connection is closed now, and nobody listens on that port.
        fluentd.port = 1;
        fluentd.add(2, &record(2)).unwrap();
        fluentd.flush();
        assert_eq!(fluentd.waiting.len(), 1);
        fluentd.add(3, &record(3)).unwrap();
        fluentd.flush();
        assert_eq!(fluentd.waiting.len(), 2, "it is left alone for a while");

        fluentd.port = port;
        fluentd.failed_at = None;
        fluentd.flush();
        let expected = [
            (TAG.to_owned(), 2, record(2)),
            (TAG.to_owned(), 3, record(3)),
        ];
        assert_eq!(receive(&listener, 2), expected);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut fluentd = Fluentd::new("127.0.0.1", 1);
        for number in 0..MAX_WAITING {
            fluentd.add(number as i64, &json!({})).unwrap();
        }
        assert!(fluentd.add(0, &json!({})).is_err());
        assert_eq!(fluentd.waiting.len(), MAX_WAITING);
    }

    #[test]
    fn a_message_is_plain_messagepack() {
        let mut fluentd = Fluentd::new("127.0.0.1", 1);
        fluentd.add(7, &json!({"a": "b"})).unwrap();
        let mut expected = vec![0x93, 0xa0 | TAG.len() as u8];
        expected.extend_from_slice(TAG.as_bytes());
        expected.extend_from_slice(&[0x07, 0x81, 0xa1, b'a', 0xa1, b'b']);
        assert_eq!(fluentd.waiting[0], expected);
    }
}
