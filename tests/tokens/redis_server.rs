//! A redis server for one test, on a loopback port.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::eventually;
use crate::support::machine::run;

pub struct Redis {
    child: Child,
    port: u32,
    folder: tempfile::TempDir,
}

impl Redis {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        /// Ports below the system's range of automatic ports, so that no other process gets one
        /// meanwhile.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let first = std::process::id() * 8 + NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = tempfile::tempdir().unwrap();
        for port in (0..1000).map(|step| 12_000 + (first + step * 7) % 8_000) {
            let mut child = launch(port, &folder);
            let is_up = eventually("redis starts", || match child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => ping(port).then_some(true),
            });
            if is_up {
                return Self {
                    child,
                    port,
                    folder,
                };
            }
        }
        panic!("no port for redis");
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    pub fn connect(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    /// From now on, it is silent: it answers nothing, and closes no connection.
    pub fn silence(&self) {
        run("kill", &["-STOP", &self.child.id().to_string()]).unwrap();
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again, empty, at the same address.
    pub fn start_again(&mut self) {
        self.stop();
        self.child = launch(self.port, &self.folder);
        eventually("redis starts again", || ping(self.port).then_some(()));
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

fn launch(port: u32, folder: &tempfile::TempDir) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--port", &port.to_string()]).arg("--dir");
    command.arg(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let child = command.stderr(Stdio::null()).spawn();
    child.unwrap_or_else(|error| panic!("redis-server (see tests/run.sh): {error}"))
}

fn ping(port: u32) -> bool {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0")).unwrap();
    let connection = client.get_connection();
    connection.is_ok_and(|mut it| redis::cmd("PING").query::<String>(&mut it).is_ok())
}
