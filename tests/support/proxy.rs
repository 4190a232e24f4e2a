//! A proxy to the server whose connections can be cut.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

/// Forwards connections until they are cut.
pub struct Proxy {
    pub address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    streams: Vec<TcpStream>,
    is_blocked: bool,
}

impl Proxy {
    pub fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, server) = (Arc::clone(&state), server.to_owned());
        // Ends with the test's process.
        spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                // Held until both ends are recorded, so that no connection escapes a cut.
                let mut state = shared.lock().unwrap();
                if state.is_blocked {
                    continue;
                }
                let Ok(to) = TcpStream::connect(&server) else {
                    continue;
                };
                let both = [from.try_clone().unwrap(), to.try_clone().unwrap()];
                state.streams.extend(both);
                pass(from.try_clone().unwrap(), to.try_clone().unwrap());
                pass(to, from);
            }
        });
        Self { address, state }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks all connections and returns how many there were. New ones are accepted.
    pub fn cut(&self) -> usize {
        let streams = std::mem::take(&mut self.state.lock().unwrap().streams);
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        streams.len() / 2
    }

    /// Breaks all connections, and accepts no new ones until [`Proxy::unblock`].
    pub fn block(&self) {
        self.state.lock().unwrap().is_blocked = true;
        self.cut();
    }

    pub fn unblock(&self) {
        self.state.lock().unwrap().is_blocked = false;
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    spawn(move || {
        let _ = copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
