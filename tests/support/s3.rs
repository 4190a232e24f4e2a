//! A service that speaks the S3 protocol.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::client::{Answer, send};
use super::program::set_up;

/// The service on a port of its own; ends with the test.
pub struct Service {
    child: Child,
    bucket: String,
    pub endpoint: String,
}

impl Service {
    /// Starts the service with one bucket.
    pub fn start(bucket: &str) -> Self {
        let mut child = Command::new(set_up(".venv-s3/bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let says_where = |line: String| {
            let (_, address) = line.split_once("Running on ")?;
            Some(address.split_whitespace().next()?.to_owned())
        };
        let endpoint = lines.by_ref().map_while(Result::ok).find_map(says_where);
        // Its further output must be read, or the service would block.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let service = Self {
            child,
            bucket: bucket.to_owned(),
            endpoint: endpoint.unwrap(),
        };
        let made = format!("{}/{bucket}", service.endpoint);
        assert_eq!(fetch("PUT", &made, &[]).status, 200);
        service
    }

    /// Returns what the service answers about the bucket.
    pub fn look(&self, query: &str) -> String {
        let url = format!("{}/{}?{query}", self.endpoint, self.bucket);
        String::from_utf8(fetch("GET", &url, &[]).bytes).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn fetch(method: &str, url: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    send(method, url, &headers, None).unwrap()
}

/// Starts a service that answers every request with one status; returns its endpoint.
pub fn refusing(status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    // Ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    endpoint
}
