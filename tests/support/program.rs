//! Programs next to the server: plugins, examples, stand-ins for external services.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::eventually;
use super::server::{MASTER_KEY, TestServer};

/// How long a program may take until it reports that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Returns the path of a file in the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the path of something that the set-up creates, or says how to create it.
pub fn set_up(path: &str) -> PathBuf {
    let path = repository(path);
    assert!(path.exists(), "no {path:?}: run tests/run.sh --setup once");
    path
}

/// Returns a command that runs a program, and ends it if it hangs: for tests that wait for its end.
pub fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", "600"]).arg(program);
    command
}

/// Returns a command that runs Python with the tests' packages.
pub fn python() -> Command {
    // A shell that runs the tests in the background makes them ignore interrupts, and children
    // inherit that.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT");
    command.arg(set_up(".venv/bin/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null());
    command
}

/// Returns a command that runs a Python plugin for a server.
pub fn python_plugin(server: &TestServer, path: &str) -> Command {
    let mut command = python();
    command
        .arg(repository(path))
        .env("SKYGEAR_ENDPOINT", &server.base_url)
        .env("MASTER_KEY", MASTER_KEY);
    command
}

/// A program that is ended with the test.
pub struct Program(Child);

impl Program {
    /// Starts a program.
    pub fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// Starts a program and waits for its first line of output, which reports that it is ready.
    pub fn start_and_wait(command: &mut Command) -> (Self, String) {
        let mut program = Self::start(command.stdout(Stdio::piped()));
        let output = program.0.stdout.take().unwrap();
        let (sender, first) = channel();
        std::thread::spawn(move || {
            // The rest is read as well, or the program would block when the pipe is full.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = first.recv_timeout(READY_DEADLINE).unwrap();
        (program, line)
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asks the program to end.
    pub fn ask_to_end(&self) {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    }

    /// Waits until the program has ended.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the program ends", || self.0.try_wait().unwrap())
    }

    /// Asks the program to end and waits until it has ended successfully.
    pub fn terminate(mut self) {
        self.ask_to_end();
        let status = self.wait();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
