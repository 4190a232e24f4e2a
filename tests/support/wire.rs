//! A proxy to a PostgreSQL server that can delay, hold back or redirect connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{park_timeout, spawn};
use std::time::Duration;

/// How often a silent connection checks whether it may forward again.
const LOOK: Duration = Duration::from_millis(5);

/// Forwards connections; ends with the test's process.
pub struct Wire {
    port: u16,
    state: Arc<State>,
}

struct State {
    socket: Mutex<PathBuf>,
    delay_ms: AtomicU64,
    is_silent: AtomicBool,
    connections: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    ends: (TcpStream, UnixStream),
    /// Nothing is forwarded any more, and neither end is told.
    is_lost: AtomicBool,
}

impl Wire {
    /// Leads to the server whose socket is in a folder.
    pub fn to(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            socket: Mutex::new(socket_in(folder)),
            delay_ms: AtomicU64::new(0),
            is_silent: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        spawn(move || {
            for from in listener.incoming().map_while(Result::ok) {
                from.set_nodelay(true).unwrap();
                let socket = shared.socket.lock().unwrap().clone();
                // If the server is down, the connection is closed immediately.
                let Ok(to) = UnixStream::connect(socket) else {
                    continue;
                };
                connect(&shared, from, to);
            }
        });
        Self { port, state }
    }

    /// The address of a database behind this proxy.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Delays everything by `time`, in both directions.
    pub fn delay(&self, time: Duration) {
        let delay_ms = u64::try_from(time.as_millis()).unwrap();
        self.state.delay_ms.store(delay_ms, Ordering::SeqCst);
    }

    /// Accepts connections and forwards nothing; neither end is told.
    pub fn silence(&self) {
        self.state.is_silent.store(true, Ordering::SeqCst);
    }

    /// Forwards what was held back, and what follows.
    pub fn speak(&self) {
        self.state.is_silent.store(false, Ordering::SeqCst);
    }

    /// Loses the existing connections without telling either end; new ones work as before.
    pub fn lose(&self) {
        for connection in self.state.connections.lock().unwrap().iter() {
            connection.is_lost.store(true, Ordering::SeqCst);
        }
    }

    /// Leads to another server from now on; existing connections break.
    pub fn lead_to(&self, folder: &Path) {
        *self.state.socket.lock().unwrap() = socket_in(folder);
        for connection in self.state.connections.lock().unwrap().drain(..) {
            connection.shut();
        }
    }
}

impl Connection {
    fn shut(&self) {
        let _ = self.ends.0.shutdown(std::net::Shutdown::Both);
        let _ = self.ends.1.shutdown(std::net::Shutdown::Both);
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

fn connect(state: &Arc<State>, from: TcpStream, to: UnixStream) {
    let ends = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let is_lost = AtomicBool::new(false);
    let connection = Arc::new(Connection { ends, is_lost });
    let known = &state.connections;
    known.lock().unwrap().push(Arc::clone(&connection));
    let back = (to.try_clone().unwrap(), from.try_clone().unwrap());
    pass(Arc::clone(state), Arc::clone(&connection), from, to);
    pass(Arc::clone(state), connection, back.0, back.1);
}

fn pass(
    state: Arc<State>,
    connection: Arc<Connection>,
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) {
    spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count) = from.read(&mut bytes) {
            let is_held = || {
                let is_lost = connection.is_lost.load(Ordering::SeqCst);
                is_lost || state.is_silent.load(Ordering::SeqCst)
            };
            while is_held() {
                park_timeout(LOOK);
            }
            if count == 0 {
                break;
            }
            park_timeout(Duration::from_millis(state.delay_ms.load(Ordering::SeqCst)));
            if to.write_all(bytes.get(..count).unwrap()).is_err() {
                break;
            }
        }
        connection.shut();
    });
}
