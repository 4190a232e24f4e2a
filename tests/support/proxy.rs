//! A way to the server that can be cut.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// Passes connections on until they are cut.
pub struct Proxy {
    pub address: String,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (kept, server) = (Arc::clone(&streams), server.to_owned());
        // Ends with the test's process.
        spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                let Ok(to) = TcpStream::connect(&server) else {
                    continue;
                };
                let both = [from.try_clone().unwrap(), to.try_clone().unwrap()];
                kept.lock().unwrap().extend(both);
                pass(from.try_clone().unwrap(), to.try_clone().unwrap());
                pass(to, from);
            }
        });
        Self { address, streams }
    }

    /// Breaks all connections; returns how many there were. New ones may come.
    pub fn cut(&self) -> usize {
        let streams = std::mem::take(&mut *self.streams.lock().unwrap());
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        streams.len() / 2
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
