//! Sends entries to fluentd: its forward protocol's plain messages, `[tag, seconds, record]` in
//! `MessagePack` over TCP.
//!
//! The protocol's plain form has no acknowledgements: what fluentd had received but not stored when
//! it went down is lost. What it has not received is kept here, within a limit, until it is back or
//! the server stops.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

/// v1's tag.
const TAG: &str = "skygear.audit";
/// How long a connection, or one message, may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before the next attempt after fluentd could not be reached.
const PAUSE: Duration = Duration::from_secs(1);
/// The same during the last attempts before the end.
const PAUSE_AT_END: Duration = Duration::from_millis(100);
/// The shortest timeout that is used.
const SHORTEST: Duration = Duration::from_millis(10);
/// How many messages are kept while fluentd is away.
const MAX_WAITING: usize = 4096;

pub(super) struct Fluentd {
    host: String,
    port: u16,
    connection: Option<TcpStream>,
    waiting: VecDeque<Vec<u8>>,
    /// The time and the reason of the last failure, if the last attempt failed.
    failed: Option<(Instant, String)>,
}

impl Fluentd {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            connection: None,
            waiting: VecDeque::new(),
            failed: None,
        }
    }

    /// Queues a message for [`Fluentd::flush`]. Fails when the queue is full; no older message is
    /// dropped.
    pub(super) fn add(&mut self, seconds: i64, record: &Json) -> io::Result<()> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(io::Error::new(
                ErrorKind::StorageFull,
                "fluentd cannot be reached",
            ));
        }
        let message = rmp_serde::to_vec(&(TAG, seconds, record));
        self.waiting.push_back(message.map_err(io::Error::other)?);
        Ok(())
    }

    /// Sends what is queued, as far as fluentd accepts it. Returns the number of messages that it
    /// accepted.
    pub(super) fn flush(&mut self) -> u64 {
        let failed = self.failed.as_ref();
        let is_pausing = failed.is_some_and(|(at, _)| at.elapsed() < PAUSE);
        if self.waiting.is_empty() || is_pausing {
            return 0;
        }
        let mut num_sent = 0;
        match self.send(&mut num_sent, None) {
            Ok(()) => self.failed = None,
            Err(error) => {
                if self.failed.is_none() {
                    tracing::warn!(%error, host = self.host, "fluentd rejects the audit trail");
                }
                self.failed = Some((Instant::now(), error.to_string()));
            }
        }
        num_sent
    }

    /// Returns why the queued messages are not sent at present.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.failed.as_ref().map(|(_, error)| error.as_str())
    }

    /// Sends what is queued before the end, retrying until `until`, however recent the last failure
    /// is. Returns how many messages fluentd accepted, and, if some are left, why and how many.
    pub(super) fn finish(&mut self, until: Instant) -> (u64, Option<(io::Error, u64)>) {
        let mut num_sent = 0;
        loop {
            let Err(error) = self.send(&mut num_sent, Some(until)) else {
                return (num_sent, None);
            };
            if Instant::now() >= until {
                let unsent = std::mem::take(&mut self.waiting);
                return (num_sent, Some((error, unsent.len() as u64)));
            }
            std::thread::park_timeout(PAUSE_AT_END);
        }
    }

    /// Sends all that is queued, and counts it.
    fn send(&mut self, num_sent: &mut u64, until: Option<Instant>) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut connection = match self.connection.take() {
            Some(connection) if is_open(&connection)? => connection,
            _ => connect(&self.host, self.port, until)?,
        };
        while let Some(message) = self.waiting.front() {
            connection.set_write_timeout(Some(time_left(until)))?;
            connection.write_all(message)?;
            self.waiting.pop_front();
            *num_sent += 1;
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// Returns the timeout of the next step.
fn time_left(until: Option<Instant>) -> Duration {
    let remaining = until.map(|until| until.saturating_duration_since(Instant::now()));
    // A timeout of zero would mean none at all.
    remaining.map_or(TIMEOUT, |remaining| remaining.clamp(SHORTEST, TIMEOUT))
}

fn connect(host: &str, port: u16, until: Option<Instant>) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "no address for that name");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, time_left(until)) {
            Ok(connection) => return Ok(connection),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Returns whether the other end still reads: a closed one would swallow one more message.
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
        assert_eq!(fluentd.flush(), 1);
        assert_eq!(receive(&listener, 1), [(TAG.to_owned(), 1, record(1))]);

        // The connection is closed now, and nobody listens on that port.
        fluentd.port = 1;
        fluentd.add(2, &record(2)).unwrap();
        assert_eq!(fluentd.flush(), 0);
        assert_eq!(fluentd.waiting.len(), 1);
        fluentd.add(3, &record(3)).unwrap();
        fluentd.flush();
        assert_eq!(fluentd.waiting.len(), 2, "it is left alone for a while");

        // Before the end there is no pause between attempts.
        fluentd.port = port;
        let (num_sent, unsent) = fluentd.finish(Instant::now() + TIMEOUT);
        assert!(num_sent == 2 && unsent.is_none(), "{unsent:?}");
        let expected = [
            (TAG.to_owned(), 2, record(2)),
            (TAG.to_owned(), 3, record(3)),
        ];
        assert_eq!(receive(&listener, 2), expected);
    }

    #[test]
    fn what_nobody_takes_before_the_end_is_told() {
        let mut fluentd = Fluentd::new("127.0.0.1", 1);
        fluentd.add(1, &json!({})).unwrap();
        fluentd.add(2, &json!({})).unwrap();
        let (num_sent, unsent) = fluentd.finish(Instant::now());
        let (error, num_unsent) = unsent.unwrap();
        assert_eq!((num_sent, num_unsent), (0, 2), "{error}");
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
