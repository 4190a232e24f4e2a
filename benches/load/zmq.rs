//! The plugin over zmq: threads with a connection each, as in v1's runtime, with only the parts of
//! `ZeroMQ` that this needs.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::plugin;

/// How many requests it works on at once. v1's runtime has four threads by default.
const WORKERS: usize = 16;
/// How often an idle worker sends a heartbeat.
const BEAT: Duration = Duration::from_secs(1);

const READY: u8 = 1;
const HEARTBEAT: u8 = 2;
const REQUEST: u8 = 4;
const RESPONSE: u8 = 5;

/// Serves until the server disconnects.
pub(crate) fn serve(address: &str) -> Result<()> {
    let threads: Vec<_> = (0..WORKERS)
        .map(|number| {
            let address = address.to_owned();
            std::thread::spawn(move || Worker::connect(&address, &format!("{number:04}"))?.work())
        })
        .collect();
    for thread in threads {
        thread.join().expect("a worker")?;
    }
    Ok(())
}

struct Worker {
    stream: BufReader<TcpStream>,
    identity: String,
}

impl Worker {
    fn connect(address: &str, identity: &str) -> Result<Self> {
        let stream = loop {
            match TcpStream::connect(address) {
                Ok(stream) => break stream,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Err(error) => return Err(error),
            }
        };
        stream.set_nodelay(true)?;
        let mut worker = Self {
            stream: BufReader::new(stream),
            identity: identity.to_owned(),
        };
        let mut greeting = [0; 64];
        (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
        greeting[12..16].copy_from_slice(b"NULL");
        worker.stream.get_mut().write_all(&greeting)?;
        worker.stream.read_exact(&mut greeting)?;
        let mut command = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0".to_vec();
        command.push(u8::try_from(identity.len()).expect("a short name"));
        command.extend(identity.as_bytes());
        let length = u8::try_from(command.len()).expect("a short command");
        let command = [&[4, length], command.as_slice()].concat();
        worker.stream.get_mut().write_all(&command)?;
        // The server's READY.
        worker.read_frame()?;
        Ok(worker)
    }

    fn work(mut self) -> Result<()> {
        self.send(&[&[READY]])?;
        loop {
            self.await_bytes()?;
            let frames = self.read_message()?;
            let [_, _, kind, bounce, id, _, body] = frames.as_slice() else {
                continue;
            };
            if kind.as_slice() != [REQUEST] {
                continue;
            }
            let mut request: Value = serde_json::from_slice(body)?;
            let answer = json!({"result": plugin::result(&mut request)}).to_string();
            let identity = self.identity.clone().into_bytes();
            self.send(&[
                &identity,
                b"",
                &[RESPONSE],
                bounce,
                id,
                b"",
                answer.as_bytes(),
            ])?;
        }
    }

    /// Waits for something to read, and sends heartbeats meanwhile.
    fn await_bytes(&mut self) -> Result<()> {
        loop {
            self.stream.get_ref().set_read_timeout(Some(BEAT))?;
            let waited = self.stream.fill_buf().map(|_| ());
            self.stream.get_ref().set_read_timeout(None)?;
            match waited {
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    self.send(&[&[HEARTBEAT]])?;
                }
                done => return done,
            }
        }
    }

    fn send(&mut self, frames: &[&[u8]]) -> Result<()> {
        let mut bytes = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let has_more = u8::from(index + 1 < frames.len());
            bytes.push(has_more | 2);
            bytes.extend((frame.len() as u64).to_be_bytes());
            bytes.extend(*frame);
        }
        self.stream.get_mut().write_all(&bytes)
    }

    fn read_message(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        loop {
            let (flags, frame) = self.read_frame()?;
            frames.push(frame);
            if flags & 1 == 0 {
                return Ok(frames);
            }
        }
    }

    fn read_frame(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut flags = [0];
        self.stream.read_exact(&mut flags)?;
        let length = if flags[0] & 2 == 0 {
            let mut length = [0];
            self.stream.read_exact(&mut length)?;
            u64::from(length[0])
        } else {
            let mut length = [0; 8];
            self.stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        };
        let mut frame = vec![0; usize::try_from(length).expect("a length")];
        self.stream.read_exact(&mut frame)?;
        Ok((flags[0], frame))
    }
}
