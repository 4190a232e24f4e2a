//! HTTP by hand: for requests that no proper client sends, and bodies that arrive slowly.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::server::{API_KEY, TestServer};

pub struct Raw(TcpStream);

impl Raw {
    /// Opens a connection.
    pub fn connect(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self(stream)
    }

    /// Sends the head of a request with the client key; the connection ends with its answer.
    pub fn head(&mut self, method: &str, path: &[u8], headers: &[(&str, String)]) {
        self.head_with(API_KEY, method, path, headers);
    }

    /// Does the same with another key.
    pub fn head_with(&mut self, key: &str, method: &str, path: &[u8], headers: &[(&str, String)]) {
        let mut head = method.as_bytes().to_vec();
        head.push(b' ');
        head.extend_from_slice(path);
        head.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        head.extend_from_slice(format!("X-Skygear-API-Key: {key}\r\n").as_bytes());
        for (name, value) in headers {
            head.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        self.0.write_all(&head).unwrap();
    }

    /// Sends a part of a body; the server may have hung up.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Sends a part of a body.
    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Reads the head of the answer; returns its status, the length of its body, and the body.
    pub fn answer(self) -> (u16, u64, impl std::io::Read) {
        let mut reader = BufReader::new(self.0);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?}"));
        let status = status.parse().unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        (status, length, reader.take(length))
    }

    /// Reads the whole answer; returns its status and its body.
    pub fn text(self) -> (u16, String) {
        let (status, _, mut body) = self.answer();
        let mut text = String::new();
        body.read_to_string(&mut text).unwrap();
        (status, text)
    }
}
