//! A client of server-sent events that keeps the result up to date from the events it receives.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Map, Value as Json};

use super::listener::{Followed, TIMEOUT};
use crate::support::client::Client;
use crate::support::server::TestServer;

pub struct Stream {
    reader: BufReader<TcpStream>,
    /// Bytes of the body that are not yet a whole event.
    text: String,
    pub status: u16,
    pub followed: Followed,
    /// The id of the last event that had one.
    pub last_id: Option<String>,
    pub is_over: bool,
}

impl Stream {
    /// Requests as a browser's `EventSource` does: everything in the address, and `Last-Event-ID`.
    pub fn get(server: &TestServer, client: &Client, query: &Json, last_id: Option<&str>) -> Self {
        let mut pairs = vec![("api_key".to_owned(), client.key().to_owned())];
        if let Some(token) = &client.token {
            pairs.push(("access_token".to_owned(), token.clone()));
        }
        for (name, value) in query.as_object().unwrap() {
            let is_text = ["record_type", "database_id"].contains(&name.as_str());
            let text = value.as_str().filter(|_| is_text).map(str::to_owned);
            pairs.push((name.clone(), text.unwrap_or_else(|| value.to_string())));
        }
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)))
            .collect();
        let path = format!("/live/query?{}", pairs.join("&"));
        Self::send(server, &format!("GET {path}"), last_id, "")
    }

    /// Requests with a body.
    pub fn post(server: &TestServer, client: &Client, query: &Json) -> Self {
        let mut body: Map<String, Json> = query.as_object().unwrap().clone();
        body.insert("api_key".into(), client.key().into());
        if let Some(token) = &client.token {
            body.insert("access_token".into(), token.as_str().into());
        }
        let body = Json::Object(body).to_string();
        Self::send(server, "POST /live/query", None, &body)
    }

    fn send(server: &TestServer, line: &str, last_id: Option<&str>, body: &str) -> Self {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let last_id = last_id.map(|id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!(
            "{line} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{}\
             Content-Length: {}\r\n\r\n{body}",
            last_id.unwrap_or_default(),
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            status != 200 || head.contains("text/event-stream"),
            "{head}"
        );
        Self {
            reader,
            text: String::new(),
            status,
            followed: Followed::default(),
            last_id: None,
            is_over: false,
        }
    }

    /// Continues from what was known before a disconnect.
    pub fn after(self, before: &Followed) -> Self {
        Self {
            followed: before.resumed(),
            ..self
        }
    }

    /// Takes events until its state is as wanted, or the answer ends.
    pub fn until(&mut self, is_there: impl Fn(&Followed) -> bool) {
        let deadline = Instant::now() + TIMEOUT;
        while !is_there(&self.followed) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !self.is_over,
                "so far {:?}",
                self.followed
            );
            self.next(left);
        }
    }

    /// Takes events until the answer ends.
    pub fn until_over(&mut self) {
        let deadline = Instant::now() + TIMEOUT;
        while !self.is_over {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the answer goes on");
            self.next(left);
        }
    }

    /// Takes what arrives next, if something arrives in time.
    pub fn next(&mut self, timeout: Duration) {
        let timeout = timeout.max(Duration::from_millis(1));
        self.reader
            .get_ref()
            .set_read_timeout(Some(timeout))
            .unwrap();
        // A chunk arrives whole once it has begun.
        match self.reader.fill_buf() {
            Ok([]) => self.is_over = true,
            Ok(_) => self.read_chunk(),
            Err(_) => {}
        }
    }

    fn read_chunk(&mut self) {
        self.reader
            .get_ref()
            .set_read_timeout(Some(TIMEOUT))
            .unwrap();
        let mut size = String::new();
        self.reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        self.text
            .push_str(std::str::from_utf8(&chunk[..size]).unwrap());
        self.is_over = size == 0;
        while let Some((event, rest)) = self.text.split_once("\n\n") {
            let event = event.to_owned();
            self.text = rest.to_owned();
            self.take(&event);
        }
    }

    fn take(&mut self, event: &str) {
        let field = |name: &str| {
            let mut lines = event.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let Some(data) = field("data") else { return };
        let frame: Json = serde_json::from_str(data).unwrap();
        assert_eq!(field("event"), frame["event"].as_str());
        let id = field("id").map(str::to_owned);
        let position = id.as_deref().and_then(|id| id.split_once('-'));
        let position = position.map(|(position, _)| position.parse().unwrap());
        assert_eq!(position, frame["position"].as_u64());
        self.last_id = id.or(self.last_id.take());
        self.followed.take(&frame);
    }

    pub fn close(&self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
